"""
What one run observes, how far it is, and what the pieces of its work share.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import TargetError
from conformance._suite.images import Images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from conformance._suite.cluster import Cluster
    from conformance._suite.facts import ClusterFacts, NodeFacts
    from conformance._suite.observe.seen import Seen
    from conformance._suite.workload import Workload


VANISHED = "node-vanished", "the node was removed from the cluster while it was looked at"
NO_SANDBOX = "no-sandbox"
"""The code of what is given up because the node makes no sandbox for a pod."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What one run observes. ``time_scale`` multiplies every deadline.
    """

    run_id: str
    out: Path
    cluster: ClusterFacts
    nodes: tuple[NodeFacts, ...]
    workloads: tuple[Workload, ...]
    images: Images = field(default_factory=Images)
    time_scale: float = 1.0
    namespace: str | None = None
    """Use this namespace, and those with -baseline and -restricted behind its name, which exist already."""
    reap_all: bool = False
    """Take away what runs left on the hosts even where it has not expired."""
    listener_port: int = 0
    """The port of each node that is asked from outside; 0 is any free one."""
    api_server: str = ""
    """The URL by which the suite itself reaches the API server."""


@dataclass(slots=True)
class Progress:
    """
    How far the observation is: steps met or given up, of how many, and what is still awaited.
    """

    total: int = 0
    done: int = 0
    awaited: dict[str, str] = field(default_factory=dict)
    """What is awaited, by the name of the piece of work."""


@dataclass(frozen=True, slots=True)
class Stage:
    """
    Where a run puts its objects: the namespaces by their key (``main``, ``baseline``, ``restricted``), the labels that
    all of them carry, and the name of the pull secret where there is one.
    """

    namespaces: Mapping[str, str]
    labels: Mapping[str, str]
    pull_secret: str | None = None


class Trouble(Exception):  # noqa: N818 - an outcome, not a mistake
    """
    A step cannot be completed. ``code`` and the text go into the evidence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BusyError(TargetError):
    """
    Another run is at work in the given namespace.
    """


@dataclass(slots=True)
class Work:
    """
    One workload on one node (or, ``node`` None, on the cluster), and its evidence as it grows.
    """

    workload: Workload
    node: NodeFacts | None
    nonce: str
    record: dict[str, Any] = field(default_factory=dict)
    trouble: Trouble | None = None

    @property
    def label(self) -> str:
        """
        What a person calls it.
        """
        return f"{self.workload.name} on {self.node.name if self.node else 'the API server'}"


Creating = asyncio.Task[list[dict[str, Any]]]
"""The creation of a step's objects; it ends with the API's answers."""


@dataclass(slots=True)
class Shared:
    """
    What all pieces of work of one observation share. ``report`` is called whenever the progress changes; ``lost`` says
    whether the whole cluster is gone.
    """

    cluster: Cluster
    plan: Plan
    stage: Stage
    seen: Seen
    report: Callable[[Progress], None]
    lost: Callable[[], bool]
    progress: Progress = field(default_factory=Progress)
    untidy: list[str] = field(default_factory=list)
    """What could not be put back, in words."""
    given_up: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The nodes on which nothing more is begun, by their names, each with the code and the words of why."""
    timers: dict[str, set[asyncio.Timeout]] = field(default_factory=dict)
    """The deadlines that run, by the node's name."""
    once: dict[tuple[object, ...], tuple[list[dict[str, Any]], Creating, str | None]] = field(default_factory=dict)
    """
    What is sent once for all nodes that take the same images, by workload, step and these: the documents, their
    creation, the file's digest.
    """
    creating: set[Creating] = field(default_factory=set)
    """All that is being created."""
    interrupted: bool = False
    ended_by: tuple[str, str] = ("interrupted", "the run was interrupted")
    """The code and the words of what an end before the time is called."""

    def vanished(self, node: str | None) -> bool:
        """
        Whether the node is no longer in the cluster.
        """
        return self.given_up.get(node or "") == VANISHED
