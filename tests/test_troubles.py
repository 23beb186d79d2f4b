"""
Trouble of the world turns nothing red, and nothing green that was not seen; what passes is tried once more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.simulated.model.deviations import TROUBLES
from tests.conftest import run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Finished, Matrix

pytestmark = pytest.mark.cluster

PAUSE = "mcr.microsoft.com/oss/kubernetes/pause:3.10.2"
# What is made on the host cannot be made twice.
MADE_ONCE = {
    "accounts/local-group/account-removed",
    "accounts/local-group/ephemeral-account",
    "accounts/local-group/made-in-a-container",
    "accounts/local-user/with-password",
}


def left_open(run: Finished, node: str) -> dict[str, str]:
    """
    Why a node's rows that were selected are not proven, by requirement.
    """
    found = [one for one in run.verdict["results"] if (one["node"], one["verdict"]) == (node, "not-proven")]
    return {one["requirement"]: one["reason"] for one in found if one["reasonCode"] != "not-selected"}


def step(run: Finished, node: str, workload: str, name: str) -> dict[str, Any]:
    evidence = json.loads((run.out / "nodes" / node / workload / "evidence.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(one for one in evidence["steps"] if one["name"] == name)
    return found


@pytest.mark.parametrize("name", sorted(TROUBLES))
def test_trouble_turns_nothing_red(matrix: Matrix, name: str) -> None:
    assert matrix.run.red(matrix.troubled[name]) == set()


def test_a_start_that_the_next_one_repairs_costs_nothing(matrix: Matrix) -> None:
    """
    Samples are started again by the kubelet, pods that are never restarted by the suite, once.
    """
    node = matrix.troubled["first-start-fails"]
    assert left_open(matrix.run, node) == {}
    sample = step(matrix.run, node, "aks-daemonset", "run")["kubernetes"]["pod"]["status"]["containerStatuses"][0]
    assert "PrepareLayer" in sample["lastState"]["terminated"]["message"]
    read = step(matrix.run, node, "volumes", "read")
    assert read["firstTry"]["probeTrouble"]["writer"]["code"] == "runtime-trouble"
    assert read["firstTry"]["kubernetes"]["pod"]["metadata"]["uid"] != read["kubernetes"]["pod"]["metadata"]["uid"]


def test_a_container_that_ends_again_and_again_shows_what_it_wrote(matrix: Matrix) -> None:
    node = matrix.wrong["arguments-escaped-twice"]
    row = ("operation/aks-daemonset/running-on-each-node", node)
    (found,) = (one for one in matrix.run.verdict["results"] if (one["requirement"], one["node"]) == row)
    assert "ended: Completed, exit code 0; it wrote: Start-Sleep -Seconds 2147483" in found["seen"]


def test_output_that_was_lost_is_asked_for_once_more(matrix: Matrix) -> None:
    node = matrix.troubled["output-lost-once"]
    assert set(left_open(matrix.run, node)) == MADE_ONCE
    limits = step(matrix.run, node, "job-limits", "limits")
    assert {one["code"] for one in limits["firstTry"]["probeTrouble"].values()} == {"output-missing"}
    assert all(limits["probe"].values())


def test_output_that_is_lost_twice_is_explained(matrix: Matrix) -> None:
    left = left_open(matrix.run, matrix.troubled["output-lost"])
    assert len(left) > 10
    told = left["resources/memory/limit-is-the-jobs"]
    assert "printed no observation" in told
    assert "the second time too. A shim before 0.12" in told


def test_a_node_that_makes_no_sandbox_is_given_up_and_the_others_go_on(matrix: Matrix, tmp_path: Path) -> None:
    bad, good = matrix.troubled["sandbox-image-missing"], matrix.faithful["2.3"]
    existing = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--time-scale", "0.06", "--no-allure")
    both = run_program(tmp_path / "both", *existing, "--node", bad, "--node", good, "-k", "volumes or accounts")
    assert both.code == 4, both.output
    assert set(both.verdicts().values()) == {"conformant", "not-proven", "not-applicable"}
    assert left_open(both, good) == {}
    left = left_open(both, bad)
    assert all(PAUSE in reason for reason in left.values())
    assert len(left) > 8
    assert f"{bad}: no pod can be started: no sandbox was made" in both.output
    assert "left behind" not in both.output
    assert "1970" not in both.output


def test_where_no_node_makes_a_sandbox_the_target_cannot_be_tested(matrix: Matrix, tmp_path: Path) -> None:
    bad = matrix.troubled["sandbox-image-missing"]
    existing = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--time-scale", "0.02", "--no-allure")
    alone = run_program(tmp_path / "alone", *existing, "--node", bad)
    assert alone.code == 3, alone.output
    assert f'failed to pull and unpack image "{PAUSE}"' in alone.output
    assert "left behind" not in alone.output


ACCOUNTS: dict[str, dict[str, str]] = {
    "powershell-constrained": {},
    "log-on-locally-denied": {
        "accounts/local-group/account-removed": "account-policy",
        "accounts/local-group/ephemeral-account": "logon-right-missing",
    },
    "password-policy-refuses": {
        "accounts/local-group/account-removed": "account-policy",
        "accounts/local-group/ephemeral-account": "account-policy",
    },
    "log-on-out-of-resources": {"accounts/system-accounts/network-service": "runtime-trouble"},
    "accounts-not-listed": {
        "accounts/local-group/account-removed": "fact-unknown",
        "accounts/local-group/ephemeral-account": "fact-unknown",
        "accounts/local-user/with-password": "fact-unknown",
    },
}
"""What each trouble of accounts and log-ons leaves open, and the code of the reason."""


@pytest.mark.parametrize("name", ACCOUNTS)
def test_trouble_of_a_log_on_leaves_open_what_it_hides_and_says_why(matrix: Matrix, name: str) -> None:
    node = matrix.troubled[name]
    found = [one for one in matrix.run.verdict["results"] if (one["node"], one["verdict"]) == (node, "not-proven")]
    assert {one["requirement"]: one["reasonCode"] for one in found} == ACCOUNTS[name]
