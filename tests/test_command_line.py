"""
What users type and mistype: one clear line with the remedy, the documented exit code, nothing left behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import yaml

from conformance._suite import evidence, workload
from conformance._suite.cli import program
from tests.conftest import ROOT, kubectl, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Matrix


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--target", "gke"], "unknown target 'gke' — one of simulated, existing, aks, kind"),
        (["--dry-run"], "--dry-run means nothing with --target simulated"),
        (["up", "--target", "existing"], "an existing cluster is up already"),
        (["down", "--target", "existing"], "`nox -s cleanup` takes away what runs left on it"),
        (["cleanup", "--target", "simulated"], "leaves no cluster to clean"),
        (["--namespace", "x"], "--namespace means nothing with --target simulated"),
        (["rbac", "--account", "x"], "--account"),
        (["down", "--target", "aks", "--dry-run"], "unrecognized arguments: --dry-run"),
        (["--out", "x" * 5000], "cannot be looked at"),
        (["-n", "1000"], "nor more than 64"),
        (["--expect-nodes", "0"], "is no number of nodes"),
        (["--expect-containerd", ""], "is not a version"),
        (["--expect-build", "10.0"], "is not a version"),
        (["--expect-kubernetes", "9" * 5000], "is not a version"),
        (["--windows-build", "x"], "x"),
        (["--containerd-version", "latest"], "--containerd-version 'latest' is not a version — write 1.7.28, or NODE="),
        (["--containerd-version", "a=1.7", "--containerd-version", "a=1.6"], "states two versions of a"),
        (["--expect-containerd", "new"], "new"),
        (["-n", "many"], "invalid int value"),
        (["-n", "-1"], "must not be negative"),
        (["--time-scale", "0"], "must be more than 0"),
        (["--time-scale", "nan"], "must be more than 0"),
        (["--listener-port", "-1"], "--listener-port must be a port"),
        (["--listener-port", "65536"], "1 to 65535"),
        (["--listener-port", "http"], "--listener-port"),
        (["--listener-port", "10250"], "is the kubelet's own"),
        (["--time-scale", "inf"], "must be more than 0"),
        (["--deadline", "0"], "must be a number of minutes, more than 0"),
        (["--deadline", "inf"], "must be a number of minutes, more than 0"),
        (["--deadline", "1h"], "invalid float value"),
        (["--image", ""], "is not an image reference"),
        (["--image", "a b"], "is not an image reference"),
        (["--registry-prefix", "https://x"], "is not a registry"),
        (["--images-file", "/nowhere"], "cannot be read"),
        (["--pull-secret", "/nowhere"], "cannot be read"),
        (["--sim-nodes", "2.3=5000"], "at most 1000"),
        (["--sim-nodes", "1.5=1"], "unknown era"),
        (["--sim-nodes", "garbage=="], "cannot read"),
        (["--sim-defect", "no-such-defect"], "unknown defect"),
        (["--sim-defect", "cpu-limit-missing@nobody"], "there is no simulated node"),
        (["--sim-nodes", "1.6=1", "--sim-defect", "volumes-not-bound"], "no simulated node can have"),
        (["--kubeconfig", "x"], "means nothing with --target simulated"),
        (["--target", "existing", "--sim-defect", "x"], "means nothing with --target existing"),
        (["judge", "/nowhere"], "is not the output folder of a run"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert program.main(arguments) == 2
    line = _said(capsys)
    assert said in line
    assert line.count("\n") == 1


def test_the_manual_names_every_option_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--help"])
    manual = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("--target", "--sim-defect", "--kubeconfig", "-k", "-n", "judge", "130", "exit codes"):
        assert word in manual


def test_a_kubeconfig_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--target", "existing", "--kubeconfig", str(tmp_path / "absent")]) == 3
    assert "there is no kubeconfig" in _said(capsys)


@pytest.mark.sockets
def test_a_kubeconfig_that_is_garbage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "garbage").write_text("garbage: [")
    assert program.main(["--target", "existing", "--kubeconfig", str(tmp_path / "garbage")]) == 3
    assert "is not a usable kubeconfig" in _said(capsys)


@pytest.mark.cluster
def test_a_cluster_without_the_wanted_nodes(matrix: Matrix, tmp_path: Path) -> None:
    existing = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig))
    none = run_program(tmp_path / "none", *existing, "--node-selector", "no=such")
    assert (none.code, "has no Windows node that is ready" in none.output) == (3, True)
    named = run_program(tmp_path / "named", *existing, "--node", "nobody")
    assert (named.code, "no node is called nobody" in named.output) == (3, True)


@pytest.mark.cluster
def test_missing_rights(matrix: Matrix, tmp_path: Path) -> None:
    """
    A service account that may read nodes and nothing else: all that is missing is named at once.
    """
    kubectl(matrix.kubeconfig, "create", "serviceaccount", "reader", "-n", "default")
    kubectl(matrix.kubeconfig, "create", "clusterrole", "reader", "--verb=list", "--resource=nodes")
    kubectl(
        matrix.kubeconfig,
        "create",
        "clusterrolebinding",
        "reader",
        "--clusterrole=reader",
        "--serviceaccount=default:reader",
    )
    config = yaml.safe_load(matrix.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": kubectl(matrix.kubeconfig, "create", "token", "reader", "-n", "default").strip()}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    run = run_program(tmp_path / "out", "--target", "existing", "--kubeconfig", str(tmp_path / "kubeconfig"))
    assert run.code == 3
    for right in ("watch nodes", "create/delete/get/list namespaces", "get pods/log"):
        assert right in run.output


@pytest.mark.cluster
def test_a_selection_observes_only_what_it_needs_and_is_partial(matrix: Matrix, tmp_path: Path) -> None:
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig),
        "--node", matrix.faithful["2.3"], "-k", "cpu_limit",
    )  # fmt: skip
    assert run.code == 4, run.output
    observed = sorted(path.parent.name for path in (tmp_path / "out" / "nodes").glob("*/*/evidence.json"))
    assert observed == ["job-limits", "residue"]
    assert run.verdict["selection"] == {"full": False, "expression": "cpu_limit"}
    results = run.verdict["results"]
    assert [one["requirement"] for one in results if one["verdict"] == "conformant"] == [
        "resources/cpu/limit-is-the-jobs"
    ]
    assert {one["reasonCode"] for one in results if one["verdict"] == "not-proven"} == {"not-selected"}


@pytest.mark.cluster
def test_settings_of_pytest_in_the_environment_change_nothing(matrix: Matrix, tmp_path: Path) -> None:
    node = matrix.wrong["cpu-limit-missing"]
    options = {"PYTEST_ADDOPTS": "--assert=plain -k nothing -p no:python", "PYTEST_PLUGINS": "no_such_plugin"}
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node,
        "-k", "cpu_limit", environment=options,
    )  # fmt: skip
    assert run.red(node) == {"resources/cpu/limit-is-the-jobs"}, run.output
    optimised = run_program(tmp_path / "optimised", environment={"PYTHONOPTIMIZE": "1"})
    assert (optimised.code, "takes the assertions out" in optimised.output) == (2, True)


@pytest.mark.cluster
def test_a_selection_that_matches_nothing(matrix: Matrix, tmp_path: Path) -> None:
    existing = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig))
    nothing = run_program(tmp_path / "nothing", *existing, "-k", "no_such_check")
    assert (nothing.code, "matches no check" in nothing.output) == (2, True)
    broken = run_program(tmp_path / "broken", *existing, "-k", "a and (")
    assert (broken.code, "Wrong expression" in broken.output) == (2, True), broken.output


@pytest.mark.cluster
def test_workers_come_to_the_same_verdict(matrix: Matrix, tmp_path: Path) -> None:
    node = matrix.wrong["cpu-limit-missing"]
    existing = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node)
    shared = run_program(tmp_path / "shared", *existing, "-n", "2")
    assert shared.code == 1, shared.output
    alone = matrix.run.verdicts()
    assert shared.verdicts() == {key: alone[key] for key in alone if key[1] in {node, None}}
    assert shared.red(node) == {"resources/cpu/limit-is-the-jobs"}


@pytest.mark.cluster
def test_an_image_that_cannot_be_pulled_is_said_of_all_nodes_before_anything_is_put_on_them(
    matrix: Matrix, tmp_path: Path
) -> None:
    nodes = (matrix.faithful["2.3"], matrix.faithful["1.6"])
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig),
        "--node", nodes[0], "--node", nodes[1], "-k", "cpu_limit",
        "--image", "registry.example/absent:1", "--time-scale", "0.03",
    )  # fmt: skip
    assert run.code == 3, run.output
    for node in nodes:
        # The kubelet's own words, and containerd's in them.
        assert f"{node}: the image cannot be pulled: " in run.output
    assert 'failed to resolve reference "registry.example/absent:1"' in run.output
    assert "`nox -s images` lists what is needed" in run.output
    assert "likely cause: The registry does not have the image, or not under this name" in run.output
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("nodes/*/*/evidence.json")) == ["residue"] * 2


@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_evidence_and_leaves_nothing(
    matrix: Matrix, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    running = subprocess.Popen(
        [
            sys.executable, "-m", "conformance", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig),
            "--node", matrix.faithful["2.3"], "--node", matrix.faithful["1.6"], "--out", str(out),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("observing"):
                break
        threading.Event().wait(1.5)
        running.send_signal(number)
        output = running.stdout.read()
        assert running.wait(120) == 130, output
    document = json.loads((out / "verdict.json").read_text())
    assert (document["exitCode"], document["claim"]) == (130, "partial")
    run_id = document["runId"]
    assert run_id not in kubectl(matrix.kubeconfig, "get", "namespaces", "-o", "name")
    groups = kubectl(matrix.kubeconfig, "get", "pods", "-A", "-o", "name")
    assert run_id not in groups


@pytest.mark.cluster
def test_a_run_ends_when_whoever_started_it_is_killed(matrix: Matrix, tmp_path: Path) -> None:
    """
    A stand-in for nox, started as a background job of a shell is (SIGINT ignored), is killed with SIGKILL.
    """
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "conformance", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig),
        "--node", matrix.faithful["2.3"], "--out", str(out),
    ]  # fmt: skip
    starter = (
        "import os, signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.environ['HOSTPROCESS_CONFORMANCE_PARENT'] = str(os.getpid()); "
        "running = subprocess.Popen(sys.argv[1:]); running.wait()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", starter, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=tmp_path, env=environment,
    ) as nox:  # fmt: skip
        assert nox.stdout is not None
        for line in nox.stdout:
            if line.startswith("observing"):
                break
        nox.kill()
        # The pipe ends only when the program, too, has ended.
        output = nox.stdout.read()
    assert json.loads((out / "verdict.json").read_text())["exitCode"] == 130, output


@pytest.mark.cluster
def test_nothing_is_left_in_the_cluster(matrix: Matrix) -> None:
    assert matrix.run.code == 1
    assert "left behind" not in matrix.run.output
    assert "hpc-" not in kubectl(matrix.kubeconfig, "get", "namespaces", "-o", "name")


@pytest.mark.cluster
@pytest.mark.parametrize("name", [name for name in workload.names() if workload.load(name).shared])
def test_what_was_sent_once_is_kept_whole_and_each_nodes_part_of_it(matrix: Matrix, name: str) -> None:
    out = matrix.run.out
    for node in (*matrix.faithful.values(), *matrix.wrong.values()):
        (step,) = json.loads((out / evidence.relative_path(name, node)).read_text())["steps"]
        (part,) = step["sent"]
        path = out / evidence.whole_path(name, part["metadata"]["name"])
        assert step["sentWhole"] == evidence.digest(path)
        (whole,) = json.loads(path.read_text())
        affinity = whole["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (terms,) = (required["nodeSelectorTerms"] for required in affinity.values())
        assert node in {value for term in terms for field in term["matchFields"] for value in field["values"]}
        own = part["spec"]["template"]["spec"].pop("affinity")["nodeAffinity"]
        assert [one["nodeSelectorTerms"] for one in own.values()] == [
            [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
        ]
        rest = json.loads(json.dumps(whole))
        del rest["spec"]["template"]["spec"]["affinity"]
        assert part == rest


@pytest.mark.cluster
def test_judging_again_needs_no_cluster_and_comes_to_the_same_verdict(matrix: Matrix, tmp_path: Path) -> None:
    again = run_program(tmp_path / "again", "judge", str(matrix.run.out), environment={"KUBECONFIG": "/nowhere"})
    assert again.code == 1, again.output
    assert again.verdicts() == matrix.run.verdicts()


def test_the_bootstrap_fits_into_a_command_line() -> None:
    assert len("cmd /c " + " ".join(workload.bootstrap_command())) < workload.COMMAND_LINE_LIMIT / 2
