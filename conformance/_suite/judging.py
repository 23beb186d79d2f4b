"""
What judging needs to know about a run, as data: who is judged, and which evidence counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance._suite.facts import ClusterFacts, NodeFacts

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Judging:
    """
    ``started`` is the run's beginning (UTC, ISO 8601): older evidence is not its. ``same_digest`` asks for evidence of
    just today's workloads. ``digests`` are the SHA-256 sums that an earlier report gave of its evidence, by path; None
    where there is no earlier report. ``run_digest`` is the sum of ``run.json``.
    """

    out: Path
    run_id: str
    started: str
    cluster: ClusterFacts
    nodes: tuple[NodeFacts, ...]
    same_digest: bool = True
    digests: Mapping[str, str] | None = field(default_factory=dict)
    run_digest: str = ""

    @cached_property
    def by_name(self) -> dict[str, NodeFacts]:
        """
        The nodes by their names.
        """
        return {node.name: node for node in self.nodes}

    def to_data(self) -> dict[str, Any]:
        """
        For a worker, and for ``run.json``.
        """
        return {**asdict(self), "out": str(self.out)}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Judging:
        """
        The inverse of ``to_data``. Raises KeyError, TypeError and the like for anything else.
        """
        nodes = tuple(NodeFacts(**{**node, "taints": tuple(node["taints"])}) for node in data["nodes"])
        for node in nodes:
            texts = (node.name, node.uid, node.container_runtime, node.kubelet)
            if not all(isinstance(text, str) for text in texts) or not isinstance(node.capacity_cpu, int):
                raise TypeError(node)
        cluster = ClusterFacts(**{**data["cluster"], "left_out": tuple(data["cluster"].get("left_out", ()))})
        return cls(**{**data, "out": Path(data["out"]), "cluster": cluster, "nodes": nodes})
