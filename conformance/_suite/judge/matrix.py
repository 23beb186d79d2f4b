"""
The matrix of a run, one cell for each requirement on each node, and which of its cells are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from conformance._suite import catalogue
from conformance._suite.errors import Unknown, UsageError
from conformance._suite.facts import Scope
from conformance._suite.requirement import excluded_by
from conformance._suite.result import CLUSTER

if TYPE_CHECKING:
    from conformance._suite.facts import ClusterFacts, NodeFacts
    from conformance._suite.judging import Judging
    from conformance._suite.requirement import Check

Cell = tuple[str, str | None]
"""A requirement's id, and the node's name or None for the cluster."""


@dataclass(frozen=True, slots=True)
class Selected:
    """
    What is judged: the cells, all of them or those that pytest's ``expression`` (``-k``) matches.
    """

    cells: frozenset[Cell]
    expression: str | None = None

    def require_any(self) -> None:
        """
        Raise UsageError when nothing is selected.
        """
        if not self.cells:
            raise UsageError(f"-k {self.expression!r} matches no check", "names are listed in conformance/catalogue.md")

    def workloads(self, judging: Judging) -> list[str]:
        """
        The names of the workloads that have to be observed for it, sorted.
        """
        checks = pages().checks
        return sorted(
            {name for one, node in self.cells if applies(checks[one], judging, node) for name in checks[one].reads}
        )


@cache
def pages() -> catalogue.Catalogue:
    """
    The catalogue, loaded once a process.
    """
    return catalogue.load()


def rows(check: Check, judging: Judging) -> list[str | None]:
    """
    The rows of a check: the nodes under test, or the cluster.
    """
    return [None] if check.requirement.scope is Scope.CLUSTER else [node.name for node in judging.nodes]


def whole(judging: Judging) -> Selected:
    """
    The whole matrix.
    """
    checks = pages().checks
    return Selected(frozenset((one, node) for one, check in checks.items() for node in rows(check, judging)))


def facts_of(judging: Judging, node: str | None) -> NodeFacts | ClusterFacts:
    """
    The facts that gate a row: the node's, or the cluster's.
    """
    return judging.cluster if node is None else judging.by_name[node]


def applies(check: Check, judging: Judging, node: str | None) -> bool:
    """
    Whether the requirement's versions are known to include this node: what is not known to apply is not proven whatever
    is observed.
    """
    try:
        return excluded_by(check.requirement, facts_of(judging, node)) is None
    except Unknown:
        return False


def cell_of(nodeid: str) -> tuple[Check, str | None]:
    """
    The check and the node (None: the cluster) that a pytest node id names.
    """
    path, _, name = nodeid.partition("::")
    function, _, node = name.removesuffix("]").partition("[")
    page = ".".join(Path(path).with_suffix("").parts[-2:])
    return _named()[f"conformance.{page}", function], None if node == CLUSTER else node


@cache
def _named() -> dict[tuple[str, str], Check]:
    return {(one.function.__module__, one.name): one for one in pages().checks.values()}
