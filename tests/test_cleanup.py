"""
What a killed run leaves is found by whoever comes next, on the cluster and on the hosts, and taken away once it has
expired.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from conformance._suite import expiry, workload
from infra.simulated.cluster import SimulatedCluster, name_nodes
from tests.conftest import ROOT, Finished, control_plane, kubectl, run_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Matrix

NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
# Killed by itself while a local group, a local user and a host path are on the node.
KILLED = """
import os, signal, sys
from conformance._suite.cli import program
from conformance._suite.observe.workload_run import WorkloadRun
async def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
WorkloadRun._delete_pod = killed
program.main(sys.argv[1:])
"""


def test_a_run_expires_after_a_day() -> None:
    labels = expiry.labels("0123abcd", NOW)
    assert labels == {expiry.RUN_LABEL: "0123abcd", expiry.EXPIRES_LABEL: "20261124T010000Z"}
    assert expiry.expires(labels) == datetime(2026, 11, 24, 1, tzinfo=UTC)
    assert expiry.expires({expiry.EXPIRES_LABEL: "soon"}) is expiry.expires({}) is None


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


def run_command(*arguments: str) -> Finished:
    done = subprocess.run(
        [sys.executable, "-m", "conformance", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout + done.stderr, ROOT)


def cleanup(matrix: Matrix, *arguments: str) -> Finished:
    return run_command("cleanup", "--kubeconfig", str(matrix.kubeconfig), *arguments)


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
    assert "nothing that has expired is left" in patient.output
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
    for name in ("hpc-0123abcd", "hpc-mine", "hpc-4567abcd"):
        kubectl(matrix.kubeconfig, "create", "namespace", name)
        # A label may be anybody's: name and run have to agree.
        kubectl(matrix.kubeconfig, "label", "namespace", name, *labels)
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig),
        "--node", matrix.faithful["2.3"], "-k", "cpu_limit",
    )  # fmt: skip
    assert run.code == 4, run.output
    assert "reaping: namespace hpc-0123abcd, which expires 2020-01-01 00:00 UTC" in run.output
    there = kubectl(matrix.kubeconfig, "get", "namespaces", "-o", "name")
    assert "hpc-0123abcd" not in there
    assert "hpc-mine" in there
    assert "hpc-4567abcd" in there
    kubectl(matrix.kubeconfig, "delete", "namespace", "hpc-mine", "hpc-4567abcd", "--wait=false")


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
    assert "another run uses namespace given" in barred.output
    assert "--namespace given --all" in barred.output

    patient = cleanup(matrix, "--node", node, "--namespace", "given")
    assert (patient.code, "the hosts were not looked at" in patient.output) == (0, True), patient.output
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
@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.2])
def test_an_interrupted_run_puts_the_hosts_back(matrix: Matrix, tmp_path: Path, seconds: float) -> None:
    """
    Whenever it is interrupted: every step that puts the host back is completed, and nothing of the run is found there.
    """
    nodes = (matrix.faithful["2.3"], matrix.faithful["1.6"])
    chosen = [part for node in nodes for part in ("--node", node)]
    out = tmp_path / "out"
    with started(matrix.kubeconfig, out, *chosen) as running:
        for _ in range(2400):
            # Written when the first workload, residue, is done on both: the others begin.
            if len(list(out.glob("nodes/*/residue/evidence.json"))) == 2:
                break
            threading.Event().wait(0.05)
        threading.Event().wait(seconds)
        running.send_signal(signal.SIGTERM)
        assert running.stdout is not None
        output = running.stdout.read()
        assert running.wait(240) == 130, output
    assert "left behind" not in output
    for path in out.glob("nodes/*/*/evidence.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        always = {step.name for step in workload.load(record["workload"]).steps if step.always}
        begun = {step["name"]: step["met"] for step in record["steps"]}
        assert {name: begun.get(name) for name in always if begun} == dict.fromkeys(always, True) or not begun, path
    looked = cleanup(matrix, *chosen, "--all")
    assert (looked.code, "of an earlier run" in looked.output) == (0, False), looked.output


def started(kubeconfig: Path | None, out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "conformance", "--target", "existing", "--kubeconfig", str(kubeconfig),
            "--out", str(out), *arguments,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Path | None, str, str]]:
    """
    A cluster of its own, with two nodes: its kubeconfig and their names.
    """
    nodes = name_nodes([("2.3", ()), ("1.7", ())])
    with SimulatedCluster(nodes, print, control_plane()) as target:
        yield target.kubeconfig, nodes[0].name, nodes[1].name


@pytest.mark.cluster
def test_a_kubelet_out_of_reach_is_said_before_anything_is_put_on_the_node(
    pair: tuple[Path | None, str, str], tmp_path: Path
) -> None:
    kubeconfig, node, _ = pair
    address = kubectl(kubeconfig, "get", "node", node, "-o", "jsonpath={.status.addresses[0].address}")
    wrong = json.dumps({"status": {"addresses": [
        {"type": "InternalIP", "address": "10.99.99.99"}, {"type": "Hostname", "address": node},
    ]}})  # fmt: skip
    kubectl(kubeconfig, "patch", "node", node, "--subresource=status", "--type=merge", "-p", wrong)
    run = run_program(tmp_path / "out", "--target", "existing", "--kubeconfig", str(kubeconfig), "--node", node)
    kubectl(
        kubeconfig,
        "patch",
        "node",
        node,
        "--subresource=status",
        "--type=merge",
        "-p",
        wrong.replace("10.99.99.99", address),
    )
    assert run.code == 3, run.output
    assert f"{node}: the API server does not reach its kubelet" in run.output
    assert "open port 10250 of the node to it" in run.output
    assert [path.parent.name for path in (tmp_path / "out").glob("nodes/*/*/evidence.json")] == ["residue"]


@pytest.mark.cluster
def test_a_node_that_loses_its_label_is_not_taken_for_one_that_is_gone(
    pair: tuple[Path | None, str, str], tmp_path: Path
) -> None:
    kubeconfig, node, _ = pair
    # No DaemonSet among these workloads: those choose their nodes by the label.
    with started(kubeconfig, tmp_path / "out", "--node", node, "-k", "local_group or local_user") as running:
        for _ in range(600):
            if f"{node} " in kubectl(kubeconfig, "get", "pods", "-A", "-o", "wide"):
                break
            threading.Event().wait(0.05)
        kubectl(kubeconfig, "label", "node", node, "kubernetes.io/os-")
        assert running.stdout is not None
        output = running.stdout.read()
        code = running.wait(240)
    kubectl(kubeconfig, "label", "--overwrite", "node", node, "kubernetes.io/os=windows")
    assert "no longer in the cluster" not in output
    seen = Finished(code, output, tmp_path / "out").verdicts()
    assert {verdict for (one, _), verdict in seen.items() if one.startswith("accounts/local-")} <= {
        "conformant", "not-applicable",
    }, output  # fmt: skip


@pytest.mark.cluster
def test_a_node_that_vanishes_in_mid_run_costs_only_its_own_results(
    pair: tuple[Path | None, str, str], tmp_path: Path
) -> None:
    kubeconfig, staying, leaving = pair
    with started(kubeconfig, tmp_path / "out") as running:
        # The samples run for as long as they are looked at.
        for _ in range(600):
            if f"{leaving} " in kubectl(kubeconfig, "get", "pods", "-A", "-o", "wide"):
                break
            threading.Event().wait(0.05)
        kubectl(kubeconfig, "delete", "node", leaving)
        assert running.stdout is not None
        output = running.stdout.read()
        code = running.wait(240)
    assert "hpc-" not in kubectl(kubeconfig, "get", "namespaces", "-o", "name")
    assert code == 4, output
    assert f"{leaving} is no longer in the cluster" in output
    run = Finished(code, output, tmp_path / "out")
    assert run.red(staying) == run.red(leaving) == run.red(None) == set()
    found = run.verdicts()
    assert "not-proven" not in {verdict for (_, node), verdict in found.items() if node != leaving}
    assert "not-proven" in {verdict for (_, node), verdict in found.items() if node == leaving}
    # With no node left to look at, the cluster is cleaned, and that the hosts were not is said.
    kubectl(kubeconfig, "cordon", staying)
    labels = (f"{expiry.RUN_LABEL}=0123abcd", f"{expiry.EXPIRES_LABEL}=20200101T000000Z")
    kubectl(kubeconfig, "create", "namespace", "hpc-0123abcd")
    kubectl(kubeconfig, "label", "namespace", "hpc-0123abcd", *labels)
    alone = run_command("cleanup", "--kubeconfig", str(kubeconfig))
    assert (alone.code, "no Windows node that is ready" in alone.output) == (3, True), alone.output
    assert "hpc-0123abcd" not in kubectl(kubeconfig, "get", "namespaces", "-o", "name")


@pytest.mark.cluster
def test_two_runs_do_not_meet_in_a_given_namespace(matrix: Matrix, tmp_path: Path) -> None:
    for name, level in (("met", "privileged"), ("met-baseline", "baseline"), ("met-restricted", "restricted")):
        kubectl(matrix.kubeconfig, "create", "namespace", name)
        kubectl(matrix.kubeconfig, "label", "namespace", name, f"pod-security.kubernetes.io/enforce={level}")
    arguments = ("--namespace", "met", "--node", matrix.faithful["2.3"], "-k", "cpu_limit or rights")
    with started(matrix.kubeconfig, tmp_path / "first", *arguments) as first:
        for _ in range(2400):
            if "hpc-lock" in kubectl(matrix.kubeconfig, "get", "configmaps", "-n", "met", "-o", "name"):
                break
            threading.Event().wait(0.05)
        # It stays at work while the other one comes.
        first.send_signal(signal.SIGSTOP)
        here = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig))
        second = run_program(tmp_path / "second", *here, *arguments)
        first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=240)
    assert (second.code, "another run uses namespace met" in second.output) == (3, True), second.output
    assert first.returncode == 4, output
    for name in ("met", "met-baseline", "met-restricted"):
        kubectl(matrix.kubeconfig, "delete", "namespace", name, "--wait=false")


@pytest.mark.cluster
def test_a_reader_that_goes_away_changes_no_verdict(matrix: Matrix, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(matrix.kubeconfig, out, "--node", matrix.faithful["2.3"], "-k", "cpu_limit") as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(240) == 4
    assert json.loads((out / "verdict.json").read_text(encoding="utf-8"))["exitCode"] == 4
