"""
Versions: bounds over Kubernetes and containerd (``Version``), what a user expects of one (``meets``), Windows builds.

``Version`` and ``meets`` read suffixes differently, each for what it decides: a bound takes ``1.7.28-gke.100`` for a
pre-release, an expectation does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts

_SEMANTIC = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")

_EXPECTED = re.compile(r"v?(\d{1,9}(?:\.\d{1,9})*)(?:-([0-9A-Za-z.-]+))?(?:\+.*)?")
_PRE_RELEASE = re.compile(r"(alpha|beta|rc)\b.*")
_BUILD = re.compile(r"\d{1,9}(\.\d{1,9})*")
_WINDOWS_10 = "10.0."


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """
    A semantic version, ordered; a pre-release comes before its release. Build metadata (``+azure``) does not count.
    """

    major: int
    minor: int
    patch: int
    release: bool
    """False for a pre-release, so that it sorts before the release."""
    pre: tuple[tuple[int, int, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """
        Read ``1.7``, ``v1.37.2`` or ``2.3.0-beta.0+azure``. Raises Unknown for anything else.
        """
        found = _SEMANTIC.fullmatch(text.strip())
        if found is None:
            raise Unknown(f"{text!r} is not a version", "version-unreadable")
        pre = tuple(
            (0, int(part), "") if part.isdigit() else (1, 0, part) for part in (found[4] or "").split(".") if part
        )
        return cls(int(found[1]), int(found[2]), int(found[3] or 0), not pre, pre)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" + ("" if self.release else "-pre")


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
    Read the node's containerd version. Raises Unknown for another runtime or an unreadable version.
    """
    runtime, _, version = node.container_runtime.partition("://")
    if runtime != "containerd":
        raise Unknown(f"the container runtime of {node.name} is {node.container_runtime!r}", "runtime-unknown")
    return Version.parse(version)


def is_version(text: str) -> bool:
    """
    Whether ``meets`` can read it: ``1.7``, ``v1.33.2-gke.100``, ``20348.2700``.
    """
    return _EXPECTED.fullmatch(text) is not None


def meets(found: str, expected: str) -> bool:
    """
    Whether a version begins with the expected components. ``+azure`` does not count; a pre-release (``-rc.1``) meets
    only an expectation that names it, another suffix (``-gke.100``) any that does not name another.
    """
    has, wants = _EXPECTED.fullmatch(found), _EXPECTED.fullmatch(expected.removeprefix(_WINDOWS_10))
    if has is None or wants is None:
        return False
    numbers, wanted = (text.split(".") for text in (has[1], wants[1]))
    if [int(part) for part in numbers[: len(wanted)]] != [int(part) for part in wanted]:
        return False
    return wants[2] == has[2] if wants[2] else not _PRE_RELEASE.fullmatch(has[2] or "")


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


def leading_numbers(text: str) -> tuple[int, ...]:
    """
    The parts between dots that are whole numbers, in their order: of ``1.34.1-preview`` 1 and 34.
    """
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def numbers_in(text: str) -> tuple[int, ...]:
    """
    All whole numbers in what a program says of its version, in their order; empty where there is none.
    """
    return tuple(int(number) for number in re.findall(r"\d+", text))
