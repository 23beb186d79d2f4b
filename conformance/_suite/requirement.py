"""
What a page says: a requirement, the check that decides it, and the defects that break it. No I/O, no pytest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from conformance._suite.facts import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conformance._suite.facts import ClusterFacts, NodeFacts
    from conformance._suite.observation import Observation
    from conformance._suite.versions import Bound

_ID = re.compile(r"[a-z][a-z0-9-]*/[a-z][a-z0-9-]*/[a-z][a-z0-9-]*")
_NAME = re.compile(r"[a-z][a-z0-9.-]*")


class Level(StrEnum):
    """
    How binding a requirement is: ``must`` decides the claim, ``should`` is judged and reported apart, ``observed`` is
    recorded and shown but never judged.
    """

    MUST = "must"
    SHOULD = "should"
    OBSERVED = "observed"


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


def excluded_by(requirement: Requirement, facts: NodeFacts | ClusterFacts) -> str | None:
    """
    Say why the requirement's range leaves out this node or cluster, or None when it holds for it.
    """
    for bound in requirement.since:
        if not bound.reached_by(facts):
            return f"holds since {bound}"
    for bound in requirement.until:
        if bound.reached_by(facts):
            return f"holds until {bound}"
    return None
