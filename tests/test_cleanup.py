"""
What a killed run leaves is found by whoever comes next, on the cluster and on the hosts, and taken away once it has
expired.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from conformance._suite import expiry
from infra.simulated.cluster import SimulatedCluster, name_nodes
from tests.conftest import ROOT, Finished, control_plane, kubectl, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Matrix

NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
# Killed by itself while a local group, a local user and a host path are on the node.
KILLED = """
import os, signal, sys
from conformance import __main__ as program
from conformance._suite.observe import Engine
async def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
Engine._delete_pod = killed
program.main(sys.argv[1:])
"""


def test_a_run_expires_after_a_day() -> None:
    labels = expiry.labels("0123abcd", NOW)
    assert labels == {expiry.RUN_LABEL: "0123abcd", expiry.EXPIRES_LABEL: "20261124T010000Z"}
    assert not expiry.expired(labels, NOW + timedelta(hours=23))
    assert expiry.expired(labels, NOW + timedelta(hours=24))


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {expiry.EXPIRES_LABEL: "20200101T000000Z"},
        {expiry.RUN_LABEL: "x"},
        {expiry.RUN_LABEL: "x", expiry.EXPIRES_LABEL: "soon"},
    ],
)
def test_what_is_not_surely_a_run_s_is_kept(labels: dict[str, str]) -> None:
    assert not expiry.expired(labels, NOW)


def test_a_nonce_says_its_hour_of_expiry_and_fits_into_a_user_name() -> None:
    nonce = expiry.nonce(NOW)
    assert re.fullmatch("[0-9a-f]{11}", nonce)
    assert int(nonce[:5], 16) == expiry.hour_of(NOW + timedelta(days=1)) < expiry.ALL_HOURS
    assert len(f"hpc-user-{nonce}") <= 20


def killed_run(out: Path, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=out.parent, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr


def cleanup(matrix: Matrix, *arguments: str) -> Finished:
    done = subprocess.run(
        [sys.executable, "-m", "conformance", "cleanup", "--kubeconfig", str(matrix.kubeconfig), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout + done.stderr, matrix.run.out)


def runs_on(matrix: Matrix) -> set[str]:
    listed = kubectl(matrix.kubeconfig, "get", "namespaces", "-l", expiry.RUN_LABEL, "-o", "name")
    return {line.partition("/")[2] for line in listed.splitlines()}


@pytest.mark.cluster
def test_a_killed_run_is_reaped_on_the_cluster_and_on_the_host(matrix: Matrix, tmp_path: Path) -> None:
    node = matrix.faithful["2.3"]
    here = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node)
    killed_run(tmp_path / "killed", *here)
    left = runs_on(matrix)
    assert len(left) == 3

    patient = cleanup(matrix, "--node", node)
    assert patient.code == 0, patient.output
    for namespace in left:
        assert f"kept: namespace {namespace}, which expires 2" in patient.output
    assert "reaped" not in patient.output
    assert runs_on(matrix) == left

    thorough = cleanup(matrix, "--node", node, "--all")
    assert thorough.code == 0, thorough.output
    assert runs_on(matrix) == set()
    for kind, name in (("groups", "hpc-"), ("users", "hpc-user-")):
        assert re.search(rf"{node}: reaped of an earlier run: {name}[0-9a-f]{{11}} \({kind}\)", thorough.output)
    again = cleanup(matrix, "--node", node, "--all")
    assert (again.code, "of an earlier run" in again.output) == (0, False), again.output


@pytest.mark.cluster
def test_the_next_run_reaps_what_has_expired(matrix: Matrix, tmp_path: Path) -> None:
    labels = (f"{expiry.RUN_LABEL}=0123abcd", f"{expiry.EXPIRES_LABEL}=20200101T000000Z")
    for name in ("hpc-0123abcd", "hpc-mine"):
        kubectl(matrix.kubeconfig, "create", "namespace", name)
    kubectl(matrix.kubeconfig, "label", "namespace", "hpc-0123abcd", *labels)
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig),
        "--node", matrix.faithful["2.3"], "-k", "cpu_limit",
    )  # fmt: skip
    assert run.code == 4, run.output
    assert "reaping: namespace hpc-0123abcd, which expires 20200101T000000Z" in run.output
    there = kubectl(matrix.kubeconfig, "get", "namespaces", "-o", "name")
    assert "hpc-0123abcd" not in there
    assert "hpc-mine" in there
    kubectl(matrix.kubeconfig, "delete", "namespace", "hpc-mine", "--wait=false")


@pytest.mark.cluster
def test_in_a_given_namespace_a_killed_run_bars_the_next_until_it_is_reaped(matrix: Matrix, tmp_path: Path) -> None:
    for name, level in (("given", "privileged"), ("given-baseline", "baseline"), ("given-restricted", "restricted")):
        kubectl(matrix.kubeconfig, "create", "namespace", name)
        kubectl(matrix.kubeconfig, "label", "namespace", name, f"pod-security.kubernetes.io/enforce={level}")
    node = matrix.faithful["2.3"]
    here = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node, "--namespace", "given")
    killed_run(tmp_path / "killed", *here)
    barred = run_program(tmp_path / "barred", *here)
    assert barred.code == 3, barred.output
    assert "another run uses the namespace" in barred.output
    assert "--namespace given --all" in barred.output

    done = cleanup(matrix, "--node", node, "--namespace", "given", "--all")
    assert done.code == 0, done.output
    assert "reaping: what is labelled hostprocess-conformance/run=" in done.output

    run = run_program(tmp_path / "run", *here)
    assert run.code == 0, run.output
    assert "left behind" not in run.output
    for kind in ("pods", "daemonsets", "secrets"):
        assert kubectl(matrix.kubeconfig, "get", kind, "-n", "given", "-o", "name") == ""
    assert "volumes" not in kubectl(matrix.kubeconfig, "get", "configmaps", "-n", "given", "-o", "name")
    assert runs_on(matrix) == set()
    for name in ("given", "given-baseline", "given-restricted"):
        kubectl(matrix.kubeconfig, "delete", "namespace", name, "--wait=false")


@pytest.mark.cluster
def test_a_node_that_vanishes_in_mid_run_costs_only_its_own_results(tmp_path: Path) -> None:
    nodes = name_nodes([("2.3", ()), ("1.7", ())])
    staying, leaving = (node.name for node in nodes)
    with SimulatedCluster(nodes, print, control_plane()) as target:
        vanishing = subprocess.Popen(
            [
                sys.executable, "-m", "conformance", "--target", "existing", "--kubeconfig", str(target.kubeconfig),
                "--out", str(tmp_path / "out"),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        )  # fmt: skip
        with vanishing:
            # The samples run for as long as they are looked at.
            for _ in range(600):
                if f"{leaving} " in kubectl(target.kubeconfig, "get", "pods", "-A", "-o", "wide"):
                    break
                threading.Event().wait(0.05)
            kubectl(target.kubeconfig, "delete", "node", leaving)
            assert vanishing.stdout is not None
            output = vanishing.stdout.read()
            code = vanishing.wait(240)
        assert "hpc-" not in kubectl(target.kubeconfig, "get", "namespaces", "-o", "name")
    assert code == 4, output
    assert f"{leaving} is no longer in the cluster" in output
    run = Finished(code, output, tmp_path / "out")
    assert run.red(staying) == run.red(leaving) == run.red(None) == set()
    found = run.verdicts()
    assert "not-proven" not in {verdict for (_, node), verdict in found.items() if node != leaving}
    assert "not-proven" in {verdict for (_, node), verdict in found.items() if node == leaving}
