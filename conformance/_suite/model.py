"""
The words of the suite as frozen values: no I/O, no pytest, no Kubernetes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conformance._suite.observation import Observation
    from conformance._suite.versions import Bound


class Level(StrEnum):
    """
    How binding a requirement is: ``must`` decides the claim, ``should`` is judged and reported apart, ``observed`` is
    recorded and shown but never judged.
    """

    MUST = "must"
    SHOULD = "should"
    OBSERVED = "observed"


class Scope(StrEnum):
    """
    What one row of the matrix is about: each selected node, or the cluster's API server once.
    """

    NODE = "node"
    CLUSTER = "cluster"


class Verdict(StrEnum):
    """
    What is known about one requirement on one node, worst first: merging takes the first one present.
    """

    NON_CONFORMANT = "non-conformant"
    NOT_PROVEN = "not-proven"
    CONFORMANT = "conformant"
    NOT_APPLICABLE = "not-applicable"


class Claim(StrEnum):
    """
    What a whole run claims.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    PARTIAL = "partial"


class SuiteError(Exception):
    """
    Trouble that is nobody's non-conformance. ``hint`` says what the user can do about it.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} — {self.hint}" if self.hint else message


class UsageError(SuiteError):
    """
    The command line or the configuration is wrong: exit 2.
    """

    exit_code = 2


class TargetError(SuiteError):
    """
    The target cannot be tested: exit 3.
    """


class Unknown(SuiteError):  # noqa: N818 - the word of the design: a fact that could not be found out
    """
    A check asked for a fact that could not be found out: not-proven. ``code`` becomes the result's ``reasonCode``.
    """

    def __init__(self, message: str, code: str = "unknown") -> None:
        super().__init__(message)
        self.code = code


_ID = re.compile(r"[a-z][a-z0-9-]*/[a-z][a-z0-9-]*/[a-z][a-z0-9-]*")
_NAME = re.compile(r"[a-z][a-z0-9.-]*")


@dataclass(frozen=True, slots=True)
class Requirement:
    """
    One documented behaviour.

    ``id`` is ``area/topic/behaviour``, where area and topic are the page's folder and name; ``source`` links to the
    paragraph that documents it. ``since`` and ``until`` (exclusive) are the versions it holds for.
    """

    id: str
    sentence: str
    source: str
    level: Level = Level.MUST
    scope: Scope = Scope.NODE
    since: Sequence[Bound] = ()
    until: Sequence[Bound] = ()

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"requirement id {self.id!r} is not of the form area/topic/behaviour")
        if not self.source.startswith("https://"):
            raise ValueError(f"requirement {self.id}: the source must be an https link to the documenting paragraph")

    @property
    def area(self) -> str:
        """
        The folder of its page.
        """
        return self.id.split("/")[0]


@dataclass(frozen=True, slots=True)
class Defect:
    """
    One named way in which a node (or, ``on=Scope.CLUSTER``, the API server) is wrong.

    The simulation knows it by the same name. ``breaks`` lists exactly the requirements it turns red; ``story`` links
    to the incident that inspired it, when there is one.
    """

    name: str
    wrong: str
    breaks: Sequence[Requirement]
    on: Scope = Scope.NODE
    story: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"defect name {self.name!r} is not lower case with dashes")
        if not self.breaks:
            raise ValueError(f"defect {self.name}: it must break at least one requirement")


@dataclass(frozen=True, slots=True)
class Check:
    """
    The function that decides one requirement from what its workloads observed.
    """

    requirement: Requirement
    reads: tuple[str, ...]
    function: Callable[[Observation], str | None]

    @property
    def name(self) -> str:
        """
        The function's name, as pytest shows it.
        """
        return str(getattr(self.function, "__name__", self.function))


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """
    What the API says of one node under test. Versions are the texts of ``status.nodeInfo``; ``capacity_cpu`` is whole
    processors.
    """

    name: str
    uid: str
    internal_ip: str
    host_name: str
    container_runtime: str
    kubelet: str
    os_image: str
    kernel: str
    capacity_cpu: int
    taints: tuple[dict[str, str], ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """
    What is known of the whole target: its kind, the API server's version, and whether it is a simulation.
    """

    target: str
    server_version: str
    simulated: bool
    left_out: tuple[str, ...] = ()
    """Which nodes are not tested, and why, in a line for each reason."""


@dataclass(frozen=True, slots=True)
class EvidenceReference:
    """
    A piece of evidence that a result rests on: its path below the output folder, and the SHA-256 of the file.
    """

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Result:
    """
    One cell of the matrix. ``node`` is None for scope ``cluster``. ``expected`` and ``seen`` are the two sides of the
    comparison that failed, where there was one; ``duration`` is the check's own time in seconds.
    """

    requirement: str
    node: str | None
    level: Level
    verdict: Verdict
    reason_code: str
    reason: str
    expected: str | None = None
    seen: str | None = None
    evidence: tuple[EvidenceReference, ...] = ()
    duration: float = 0.0
