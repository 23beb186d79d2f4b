"""
Versions: one way to read them, bounds over Kubernetes and containerd, what a user expects of one, Windows builds.

Vendors put suffixes of their own behind a release: ``-azure.1``, ``-gke.1000``, ``-k3s1``, ``-eks-94953ac``,
``+rke2r1``, ``~ds1``, ``m1``. Only alpha, beta and rc are pre-releases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts

_VERSION = re.compile(
    r"v?(?P<numbers>\d{1,9}(?:\.\d{1,9})*)(?P<suffix>"
    # Also where RPM writes it, `-0.1.rc1.el9`, and whatever a vendor puts behind it, `-rc.1.gke.2`.
    r"(?:(?:[-~._]|-(?:\d{1,9}\.)+)?(?P<stage>(?i:alpha|beta|rc))"
    r"(?:[-._]?(?P<pre>\d{1,99}(?:\.\d{1,99})*)|(?![0-9a-z])))?"
    # `git describe`: so many commits after that tag, and `.m` for a tree that was changed.
    r"(?:-(?P<commits>\d{1,9})-g[0-9a-f]{3,40})?"
    r"(?:\.m|(?(stage)[-~._A-Za-z]|[-~A-Za-z])[0-9A-Za-z.~_-]*)?)"
    r"(?:\+(?P<metadata>[0-9A-Za-z.+~_-]*))?"
)
_STAGES = ("alpha", "beta", "rc")
_SAID = re.compile(r"(?:\bversion:?[ \t]+v?|[ \t]v)(\d+\.\d+\S*)", re.IGNORECASE)
_BOUND = re.compile(r"(>=|<)(\S+)")
_BUILD = re.compile(r"\d{1,9}(\.\d{1,9})*")
_WINDOWS_10 = "10.0."


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """
    A version, ordered: a pre-release comes before its release, ``1.7.0-12-gabcdef0`` (12 commits later) after it. A
    vendor's suffix makes no difference.
    """

    place: tuple[tuple[int, ...], int, tuple[int, ...], int]
    """Where it stands: its numbers without zeros at the end, its stage, the stage's numbers, the commits since."""
    numbers: tuple[int, ...] = field(compare=False)
    """As many as were written: two for ``1.7``, four for the file version ``1.7.28.0``."""
    suffix: str = field(compare=False)
    """What follows the numbers, without build metadata (``+azure``)."""

    @classmethod
    def parse(cls, text: str | None) -> Version:
        """
        Read ``1.7``, ``v1.37.2-gke.100`` or ``2.3.0-beta.0+azure``. Raises Unknown for anything else, such as a bare
        commit, ``main``, or what a source says of itself that is built without a tag: ``2.0.0+unknown``,
        ``v0.0.0-master``.
        """
        version = _read(text)
        if version is None or len(version.numbers) < 2:
            raise Unknown(f"{text!r} is not a version", "version-unreadable")
        return version

    @property
    def pre_release(self) -> bool:
        """
        Whether it is an alpha, a beta or a release candidate.
        """
        return self.place[1] < len(_STAGES)

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers)) + self.suffix


def _read(text: str | None) -> Version | None:
    """
    A version of any number of parts; None for what is none.
    """
    found = _VERSION.fullmatch((text or "").strip())
    if found is None or found["metadata"] == "unknown":
        return None
    numbers, pre = (tuple(int(part) for part in (found[name] or "").split(".") if part) for name in ("numbers", "pre"))
    if len(numbers) < 2 and found["suffix"]:
        return None  # the beginning of a commit
    if not any(numbers):
        return None  # no release, but a source that is built without a tag
    significant = numbers
    while significant[-1] == 0:
        significant = significant[:-1]
    stage = _STAGES.index(found["stage"].lower()) if found["stage"] else len(_STAGES)
    return Version((significant, stage, pre, int(found["commits"] or 0)), numbers, found["suffix"])


def said_version(text: str | None) -> Version:
    """
    The version in what a program prints for ``--version``. Raises Unknown when it says none.
    """
    found = _SAID.search(text or "")
    return Version.parse(found[1] if found else None)


class Bound(Protocol):
    """
    One end of a range: what it is called, and whether given facts reach it.
    """

    def reached_by(self, facts: NodeFacts | ClusterFacts) -> bool: ...


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """
    A Kubernetes version: the kubelet's on a node, the API server's for the cluster.
    """

    version: str

    def reached_by(self, facts: NodeFacts | ClusterFacts) -> bool:
        """
        Whether the component that the row is about is at least this version.
        """
        text = facts.kubelet if isinstance(facts, NodeFacts) else facts.server_version
        return Version.parse(text) >= Version.parse(self.version)

    def __str__(self) -> str:
        return f"Kubernetes {self.version}"


@dataclass(frozen=True, slots=True)
class Containerd:
    """
    A containerd version, from the node's ``containerRuntimeVersion``.
    """

    version: str

    def reached_by(self, facts: NodeFacts | ClusterFacts) -> bool:
        """
        Whether the node's containerd is at least this version. Raises Unknown for another runtime.
        """
        if not isinstance(facts, NodeFacts):
            raise TypeError("a containerd version says nothing about an API server")
        return containerd_version(facts) >= Version.parse(self.version)

    def __str__(self) -> str:
        return f"containerd {self.version}"


def containerd_version(node: NodeFacts) -> Version:
    """
    The node's containerd version: as it is read from the node, or as the user states it. Raises Unknown for another
    runtime, and for a version that cannot be read and is not stated.
    """
    runtime, _, version = node.container_runtime.partition("://")
    if runtime != "containerd":
        raise Unknown(f"the container runtime of {node.name} is {node.container_runtime!r}", "runtime-unknown")
    return Version.parse(node.stated_containerd or version)


def unreadable(node: NodeFacts) -> Unknown | None:
    """
    Why it cannot be told which requirements hold for a node; None where it can.
    """
    try:
        containerd_version(node)
    except Unknown as unknown:
        return unknown
    return None


def in_range(version: Version, bounds: str) -> bool:
    """
    Whether a version keeps to all bounds, such as ``>=1.7.0-alpha <1.7.16``. Raises ValueError for what are none.
    """
    found = [_BOUND.fullmatch(bound) for bound in bounds.split()]
    if not found or None in found:
        raise ValueError(f"{bounds!r} is not of the form `>=1.7.0-alpha <1.7.16`")
    return all((version >= Version.parse(one[2])) == (one[1] == ">=") for one in found if one)


def comes_before(text: str, other: str) -> bool:
    """
    Whether a version can be read and comes before the other.
    """
    version = _read(text)
    return version is not None and version < Version.parse(other)


def is_version(text: str) -> bool:
    """
    Whether ``meets`` can read it: ``1.7``, ``v1.33.2-gke.100``, ``20348.2700``.
    """
    return _read(text) is not None


def meets(found: str, expected: str) -> bool:
    """
    Whether a version begins with the expected components. A pre-release (``-rc.1``) meets only an expectation that
    names it, another suffix (``-gke.100``) any that does not name another; ``+azure`` does not count.
    """
    has, wants = _read(found), _read(expected.removeprefix(_WINDOWS_10))
    if has is None or wants is None or has.numbers[: len(wants.numbers)] != wants.numbers:
        return False
    return wants.suffix == has.suffix if wants.suffix else not has.pre_release


def is_build(text: str) -> bool:
    """
    Whether it is a Windows build: ``20348`` or ``20348.2700``.
    """
    return _BUILD.fullmatch(text) is not None


def windows_build(text: str) -> str:
    """
    ``10.0.20348.2700`` without what all Windows versions begin with; empty for what is none.
    """
    text = text.partition(" ")[0]
    return text.removeprefix(_WINDOWS_10) if is_build(text) else ""
