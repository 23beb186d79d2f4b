"""
A faithful node of every era keeps every requirement that applies to it, and nothing is left open.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.simulated.cluster import SimulatedCluster, parse_nodes
from infra.simulated.model.eras import ERAS
from tests.conftest import control_plane, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Finished, Matrix

pytestmark = pytest.mark.cluster

# Without the bind filter the runtime falls back to links: containerd 1.7 promises more than that machine can keep.
WITHOUT_BIND_FILTER = {
    "storage/service-account-token/at-mount-path",
    "storage/volumes/at-mount-path-with-drive",
    "storage/volumes/at-mount-path-with-slashes",
    # The default working directory becomes C:\hpc\<id>\hpc there. Read in the shim's source, never seen on Windows.
    "storage/service-account-token/older-paths",
    "storage/volumes/relative-path",
}


@pytest.mark.parametrize("era", ERAS)
def test_a_faithful_node_is_green(matrix: Matrix, era: str) -> None:
    node = matrix.faithful[era]
    assert matrix.run.red(node) == (WITHOUT_BIND_FILTER if era == "1.7-no-bind-filter" else set())


@pytest.mark.parametrize("era", ERAS)
def test_nothing_is_left_open_on_a_faithful_node(matrix: Matrix, era: str) -> None:
    results = [one for one in matrix.run.verdict["results"] if one["node"] == matrix.faithful[era]]
    assert [(one["requirement"], one["reason"]) for one in results if one["verdict"] == "not-proven"] == []
    assert sum(one["verdict"] == "conformant" for one in results) > 15


def test_a_tainted_node_that_does_not_reach_the_service_is_green(tmp_path: Path) -> None:
    """
    Many clusters keep ordinary pods away from Windows nodes by this taint. And from the host itself the service's
    address is not reached everywhere: then the API server is asked where the suite itself asks it.
    """
    taint = {"key": "os", "value": "windows", "effect": "NoSchedule"}
    nodes = parse_nodes("2.3=1")
    with SimulatedCluster(nodes, print, control_plane(), taints=[taint], service_unreachable=True) as target:
        given = ("--target", "existing", "--kubeconfig", str(target.kubeconfig), "--listener-port", "20250")
        run = run_program(tmp_path / "out", *given)
    assert run.code == 0, run.output
    assert run.verdict["nodes"][0]["facts"]["taints"] == [{"key": "os", "effect": "NoSchedule"}]
    review = _first_step(run, "volumes")["probe"]["reader"]["review"]
    assert review["code"] == 201
    assert [text.partition(" port ")[2].partition(":")[0] for text in review["failed"]] == ["443"]
    step = _first_step(run, "host-network")
    assert step["probe"]["listener"]["listener"]["port"] == 20250
    assert [(answer["code"], ":20250/proxy/" in answer["request"]) for answer in step["api"]] == [
        (201, False),
        (200, True),
    ]


def _first_step(run: Finished, workload: str) -> dict[str, Any]:
    (path,) = run.out.glob(f"nodes/*/{workload}/evidence.json")
    step: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["steps"][0]
    return step


def test_the_api_server_is_green(matrix: Matrix) -> None:
    found = {key: one for key, one in matrix.run.verdicts().items() if key[1] is None}
    assert set(found.values()) == {"conformant"}


def test_a_run_with_wrong_nodes_is_a_failure_and_says_that_it_is_simulated(matrix: Matrix) -> None:
    assert matrix.run.code == 1, matrix.run.output[-3000:]
    assert (matrix.run.verdict["claim"], matrix.run.verdict["exitCode"]) == ("failure", 1)
    assert matrix.run.verdict["simulated"] is True
