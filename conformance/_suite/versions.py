"""
Version bounds over Kubernetes and containerd, and whether a requirement's range includes a node or a cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


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
        found = _VERSION.fullmatch(text.strip())
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
