"""
What the API says of the target and of the nodes under test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Scope(StrEnum):
    """
    What one row of the matrix is about: each selected node, or the cluster's API server once.
    """

    NODE = "node"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """
    What the API says of one node under test. Versions are the texts of ``status.nodeInfo``; ``capacity_cpu`` is whole
    processors; ``machine_id`` is empty where the node does not tell it.
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
    stated_containerd: str | None = None
    """Its containerd version as the user states it, where the node reports none that can be read."""
    machine_id: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """
    What is known of the whole target: its kind, the API server's version, and whether it is a simulation.
    """

    target: str
    server_version: str
    simulated: bool
    left_out: tuple[str, ...] = ()
    """Which nodes the user left out, or are no Windows nodes, and why, in a line for each reason."""
    untested: dict[str, str] = field(default_factory=dict)
    """The other nodes that are not tested, by name, and why: not ready, cordoned, mute, or without the OS label."""
