"""
Runs on a real API server whose nodes are not as they should be: what was not seen is never a success, and is named.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.observe.duration import worst_case
from conformance._suite.observe.plan import Plan
from conformance._suite.workload import load
from tests.conftest import Finished, Matrix, kubectl, run_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POOL = "conformance-test/pool"


@contextlib.contextmanager
def nodes_without_kubelet(matrix: Matrix, folder: Path, *nodes: dict[str, Any]) -> Iterator[None]:
    """
    Node objects that nobody is behind, in the pool of the same label as the node that is tested.
    """
    for node in nodes:
        path = folder / f"{node['metadata']['name']}.json"
        path.write_text(json.dumps(node), encoding="utf-8")
        kubectl(matrix.kubeconfig, "create", "-f", str(path))
    try:
        yield
    finally:
        kubectl(matrix.kubeconfig, "delete", "node", *(node["metadata"]["name"] for node in nodes))


def node(name: str, runtime: str = "", *, cordoned: bool = False) -> dict[str, Any]:
    """
    A Windows node: one that has never reported or, with a container runtime, one that says it is ready.
    """
    info = {
        "containerRuntimeVersion": runtime, "kubeletVersion": "v1.37.2", "osImage": "Windows Server 2022 Datacenter",
        "kernelVersion": "10.0.20348.4297", "operatingSystem": "windows", "architecture": "amd64", "machineID": "",
        "systemUUID": "", "bootID": "", "kubeProxyVersion": "",
    }  # fmt: skip
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    resources = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    status = {"capacity": resources, "allocatable": resources, "conditions": [ready], "nodeInfo": info}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "windows", POOL: "claims"}},
        "spec": {"unschedulable": cordoned},
        **({"status": status} if runtime else {}),
    }


@contextlib.contextmanager
def reporting(matrix: Matrix, name: str, runtime: str) -> Iterator[None]:
    """
    A simulated node that reports another container runtime; its kubelet reports anew every five minutes.
    """

    def report(text: str) -> None:
        patch = json.dumps({"status": {"nodeInfo": {"containerRuntimeVersion": text}}})
        kubectl(matrix.kubeconfig, "patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)

    (before,) = kubectl(
        matrix.kubeconfig, "get", "node", name, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"
    ).split()
    report(runtime)
    try:
        yield
    finally:
        report(before)


def run_on(matrix: Matrix, out: Path, *arguments: str) -> Finished:
    return run_program(
        out, "--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--no-allure", *arguments
    )  # fmt: skip


@pytest.mark.cluster
def test_nodes_that_nobody_left_out_keep_a_run_from_being_a_success(matrix: Matrix, tmp_path: Path) -> None:
    """
    One good node; one that has never reported, one that is cordoned, and one whose version nobody can read.
    """
    good = matrix.faithful["2.3"]
    kubectl(matrix.kubeconfig, "label", "node", good, f"{POOL}=claims")
    bad = (
        node("claims-never"),
        node("claims-cordoned", "containerd://2.3.4", cordoned=True),
        node("claims-commit", "containerd://abcdef0.m"),
    )
    try:
        with nodes_without_kubelet(matrix, tmp_path, *bad):
            run = run_on(matrix, tmp_path / "out", "--node-selector", f"{POOL}=claims")
    finally:
        kubectl(matrix.kubeconfig, "label", "node", good, f"{POOL}-")
    assert run.code == 4, run.output
    assert "NOT LOOKED AT, cordoned: claims-cordoned — `--leave-out NODE` leaves a node out on purpose" in run.output
    assert (
        "the containerd version cannot be told, 'abcdef0.m' is not a version: claims-commit; nothing is put there, and "
        "nothing is proven of it — `--containerd-version NODE=VERSION` states it"
    ) in run.output
    told = run.output.index("the containerd version cannot be told")
    assert told < run.output.index("evidence and reports:")
    last = run.output.splitlines()[-2]
    assert "2 Windows nodes were not tested: claims-cordoned, claims-never." in last

    assert {one["name"] for one in run.verdict["untested"]} == {"claims-never", "claims-cordoned"}
    assert sorted(path.name for path in (run.out / "nodes").iterdir()) == [good]
    found = run.verdicts()
    assert {found["run/nodes/tested", name] for name in ("claims-never", "claims-cordoned")} == {"not-proven"}
    of_commit = {one["reasonCode"] for one in run.verdict["results"] if one["node"] == "claims-commit"}
    assert of_commit == {"version-unreadable"}
    others = {one: verdict for one, verdict in found.items() if one[1] in {good, None}}
    assert set(others.values()) == {"conformant", "not-applicable"}

    junit = {suite.attrib["name"]: suite for suite in ET.parse(run.out / "junit.xml").getroot()}
    for name in ("claims-never", "claims-cordoned"):
        assert junit[name].attrib["errors"] == junit[name].attrib["tests"] == "1"
    assert junit[good].attrib["errors"] == "0"
    summary = (run.out / "summary.md").read_text(encoding="utf-8")
    assert "| **Nodes not tested** | claims-cordoned (cordoned); claims-never (not ready: " in summary

    again = run_program(tmp_path / "again", "judge", str(run.out), "--no-allure")
    assert (again.code, again.verdicts()) == (4, found), again.output


@pytest.mark.cluster
def test_a_version_with_a_vendors_suffix_is_gated_as_its_release(matrix: Matrix, tmp_path: Path) -> None:
    """
    Nothing is bound to its mount path on this node; as a pre-release of 1.7 it would be excused.
    """
    name = matrix.wrong["volumes-not-bound"]
    with reporting(matrix, name, "containerd://1.7.0-azure.1"):
        run = run_on(matrix, tmp_path / "out", "--node", name, "-k", "mount_path", "--expect-containerd", "1.7")
    assert run.code == 1, run.output
    assert run.red(name) == {
        "storage/volumes/at-mount-path-with-drive",
        "storage/volumes/at-mount-path-with-slashes",
        "storage/service-account-token/at-mount-path",
    }


@pytest.mark.cluster
def test_a_version_that_cannot_be_read_is_stated(matrix: Matrix, tmp_path: Path) -> None:
    name = matrix.faithful["2.2"]
    only = ("--node", name, "-k", "cpu_limit")
    with reporting(matrix, name, "containerd://v2.0.0+unknown"):
        refused = run_on(matrix, tmp_path / "refused", *only)
        stated = run_on(matrix, tmp_path / "stated", *only, "--containerd-version", f"{name}=2.2.7")
    assert refused.code == 3, refused.output
    assert refused.output.splitlines()[-1] == (
        f"conformance: the containerd version cannot be told, 'v2.0.0+unknown' is not a version: {name} — "
        "`--containerd-version NODE=VERSION` states it"
    )
    assert stated.verdicts()["resources/cpu/limit-is-the-jobs", name] == "conformant", stated.output
    assert f"{name}: containerd v2.0.0+unknown (2.2.7 as stated by the user), " in stated.output
    assert [one["facts"]["statedContainerd"] for one in stated.verdict["nodes"]] == ["2.2.7"]
    contradicted = run_on(matrix, tmp_path / "contradicted", *only, "--containerd-version", "1.7.28")
    assert contradicted.code == 2, contradicted.output
    assert f"contradicts node {name}, which reports containerd://2.2.7 — " in contradicted.output
    unknown = run_on(matrix, tmp_path / "unknown", *only, "--leave-out", "nobody")
    assert (unknown.code, "no node is called nobody" in unknown.output) == (3, True), unknown.output


@pytest.mark.cluster
def test_a_run_that_is_out_of_time_ends_cleanly_and_is_partial(matrix: Matrix, tmp_path: Path) -> None:
    """
    Its image cannot be pulled, which is tried for a minute; the time is over long before.
    """
    run = run_on(
        matrix, tmp_path / "out", "--node", matrix.faithful["2.3"], "--image", "registry.example/absent:1",
        "--deadline", "0.1",
    )  # fmt: skip
    assert run.code == 4, run.output
    assert "observing, clean-up included, takes " in run.output
    assert "--deadline ends it after 0.1 minutes" in run.output
    (note,) = run.verdict["notes"]
    assert note == "ended by --deadline after 0.1 minutes; what had not been seen by then is not proven"
    assert f"Note: {note}" in run.output
    assert "left behind" not in run.output
    assert {one["reasonCode"] for one in run.verdict["results"] if one["verdict"] == "not-proven"} == {"not-observed"}
    (path,) = run.out.glob("nodes/*/*/evidence.json")
    (step,) = json.loads(path.read_text(encoding="utf-8"))["steps"]
    assert step["trouble"] == {
        "code": "run-deadline",
        "message": "the time of --deadline was over before that was seen",
    }
    assert run.verdict["runId"] not in kubectl(matrix.kubeconfig, "get", "pods,namespaces", "-A", "-o", "name")


def test_the_longest_that_a_run_can_take(tmp_path: Path) -> None:
    nodes = tuple(
        NodeFacts(f"n{number}", f"u{number}", "", "", "containerd://2.3.4", "v1.37.2", "Windows", "10.0.1", 2)
        for number in range(1201)
    )
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    one = Plan("run", tmp_path, facts, nodes[:1], (load("job-limits"), load("local-accounts")))
    assert worst_case(one) == (2 * 240 + 3 * 2 * 240 + 300, 600)
    slow = Plan("run", tmp_path, facts, nodes, (load("job-limits"),), time_scale=2)
    assert worst_case(slow) == (2 * (2 * 240 + 2 * 2 * 240) + 300, 1200)
