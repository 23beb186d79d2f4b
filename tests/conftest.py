"""
Unit tests open no socket unless they say so (marker ``sockets`` or ``cluster``).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.simulated.api_defects import API_DEFECTS
from infra.simulated.cluster import SimulatedCluster, name_nodes
from infra.simulated.model import programs
from infra.simulated.model.deviations import DEVIATIONS, KNOWN, TROUBLES
from infra.simulated.model.eras import ERAS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Under pytest-xdist, what shares a cluster stays in one process.
    """
    for item in items:
        shared = "matrix" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("matrix" if shared else item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def _no_sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not {"sockets", "cluster"} & {mark.name for mark in request.node.iter_markers()}:

        def refuse(*_: Any) -> None:
            pytest.fail("this test opens a connection; mark it `sockets` if it has to")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket.socket, "bind", refuse)


@pytest.fixture(autouse=True)
def _probes_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LINGERS", 0.0)


@dataclass(frozen=True)
class Finished:
    """
    One run of the program: its exit code, what it printed, its output folder, and its verdict.json, if it wrote one.
    """

    code: int
    output: str
    out: Path

    @property
    def verdict(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "verdict.json").read_text(encoding="utf-8"))
        return document

    def verdicts(self) -> dict[tuple[str, str | None], str]:
        return {(one["requirement"], one["node"]): one["verdict"] for one in self.verdict["results"]}

    def red(self, node: str | None) -> set[str]:
        return {
            requirement
            for (requirement, where), found in self.verdicts().items()
            if where == node and found == "non-conformant"
        }


def run_program(
    out: Path, *arguments: str, seconds: float = 300, environment: dict[str, str] | None = None
) -> Finished:
    """
    Run ``python -m conformance`` as a user would, in a folder of its own.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [sys.executable, "-m", "conformance", *arguments, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **(environment or {})},
    )
    return Finished(ended.returncode, ended.stdout + ended.stderr, out)


@dataclass(frozen=True)
class Matrix:
    """
    One cluster for the whole test run: a faithful node of every era, and one node for every defect and every trouble.
    """

    cluster: SimulatedCluster
    kubeconfig: Path
    faithful: dict[str, str]
    """Node name by era."""
    wrong: dict[str, str]
    """Node name by defect."""
    troubled: dict[str, str]
    """Node name by trouble; the run leaves out those of ``UNTRIED``."""
    run: Finished


UNTRIED = {"sandbox-image-missing"}
"""The troubles that cost a run its whole deadline."""


def _era_to_try(name: str) -> str:
    """
    The newest era that can have the defect.
    """
    return next(era for era in ("2.3", "2.2", "1.7", "1.6") if era in KNOWN[name].eras)


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """
    Bring the cluster up once, and judge all of its nodes in one run.
    """
    wanted = [*sorted(DEVIATIONS), *sorted(TROUBLES)]
    nodes = name_nodes([*((era, ()) for era in ERAS), *((_era_to_try(name), (name,)) for name in wanted)])
    cluster = SimulatedCluster(nodes, print, control_plane(), sorted(API_DEFECTS))
    names = [node.name for node in nodes]
    faithful = dict(zip(ERAS, names, strict=False))
    wrong = dict(zip(wanted, names[len(ERAS) :], strict=True))
    troubled = {name: wrong.pop(name) for name in TROUBLES}
    tried = set(names) - {troubled[name] for name in UNTRIED}
    with cluster as target:
        out = tmp_path_factory.mktemp("matrix") / "out"
        chosen = [argument for name in names if name in tried for argument in ("--node", name)]
        run = run_program(out, "--target", "existing", "--kubeconfig", str(target.kubeconfig), *chosen)
        yield Matrix(cluster, Path(str(target.kubeconfig)), faithful, wrong, troubled, run)


def kubectl(kubeconfig: Path | None, *arguments: str) -> str:
    """
    What kubectl prints; it has to succeed.
    """
    done = subprocess.run(
        ["kubectl", "--kubeconfig", str(kubeconfig), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])},
    )
    return done.stdout


def control_plane() -> Path | None:
    given = os.environ.get("CONFORMANCE_CONTROL_PLANE_BIN")
    return Path(given) if given else None
