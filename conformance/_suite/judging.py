"""
What judging needs to know about a run, as data: who is judged, and which evidence counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from conformance._suite.facts import ClusterFacts, NodeFacts  # noqa: TC001 - `of_kind` looks the fields' kinds up


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
        The inverse of ``to_data``. Raises TypeError or ValueError for anything else.
        """
        judging: Judging = of_kind(cls, data)
        if len(judging.by_name) != len(judging.nodes):
            raise ValueError("a node is there twice")
        return judging


def of_kind(kind: Any, value: Any) -> Any:
    """
    What stands in JSON, as the kind of thing that it is to be: a dataclass from an object, a tuple from an array.
    Raises TypeError for any other.
    """
    parts = get_args(kind)
    if NoneType in parts:
        return None if value is None else of_kind(parts[0], value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        return kind(**{name: of_kind(kinds.get(name), one) for name, one in value.items()})
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(of_kind(parts[0], one) for one in value)
    if get_origin(kind) in {dict, Mapping} and isinstance(value, dict):
        return {of_kind(parts[0], key): of_kind(parts[1], one) for key, one in value.items()}
    if kind is Path:
        return Path(of_kind(str, value))
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind}")
    return value
