"""
What a manifest may become before it is sent: this is the list of all that a documented sample may differ in.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conformance._suite import expiry, workload
from conformance._suite.facts import ClusterFacts, NodeFacts, Scope
from conformance._suite.images import Images
from conformance._suite.namespaces import namespaces_of
from conformance._suite.observe import manifests
from conformance._suite.observe.plan import Plan, Stage, Work
from conformance._suite.workload import RESIDUE, bootstrap_command

NONCE = "0123456789a"
TAINT = {"key": "os", "effect": "NoSchedule"}
NODES = (
    NodeFacts(
        "win-1", "uid-1", "10.0.0.1", "win-1", "containerd://2.3.4", "v1.37.2", "W", "10.0.1", 2, taints=(TAINT,)
    ),
    NodeFacts("win-2", "uid-2", "10.0.0.2", "win-2", "containerd://2.3.4", "v1.37.2", "W", "10.0.1", 2),
)
SAMPLES = [
    (name, step) for name in workload.names() for step in workload.load(name).steps if step.sample and step.manifest
]


def _plan(*workloads: str, **more: Any) -> Plan:
    loaded = tuple(workload.load(name) for name in workloads)
    return Plan("run", Path(), ClusterFacts("existing", "v1.37.2", simulated=False), NODES, loaded, **more)


def _stage(pull_secret: str | None = None) -> Stage:
    return Stage(namespaces_of("hpc-run"), {"a-label": "of-the-run"}, pull_secret)


def _work(name: str, node: NodeFacts | None = NODES[0]) -> Work:
    loaded = workload.load(name)
    markers = {marker: f"text of {marker}" for marker in loaded.markers}
    return Work(loaded, node if loaded.scope is Scope.NODE else None, NONCE, {"parameters": {"markers": markers}})


def _prepared(work: Work, step: workload.Step, plan: Plan, stage: Stage) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """
    Each document as it is in the file and as it is sent.
    """
    filled = manifests.placeholders(work, plan, stage, datetime(2026, 1, 1, tzinfo=UTC))
    pairs = []
    for document in work.workload.manifests(step, filled):
        sent = copy.deepcopy(document)
        manifests.prepare(sent, work, step, plan, stage)
        pairs.append((document, sent))
    return pairs


def _pod_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec if document["kind"] == "Pod" else spec["template"]["spec"]


def _differences(path: str, before: Any, after: Any) -> set[str]:
    if isinstance(after, dict):
        before = before or {}
        return {
            one
            for key in before.keys() | after.keys()
            for one in _differences(f"{path}.{key}".lstrip("."), before.get(key), after.get(key))
        }
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return {
            one
            for number, both in enumerate(zip(before, after, strict=True))
            for one in _differences(f"{path}[{number}]", *both)
        }
    return set() if before == after else {path}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("name", "step"), SAMPLES, ids=[f"{name}-{step.name}" for name, step in SAMPLES])
def test_a_sample_differs_only_in_what_is_listed(name: str, step: workload.Step, mirrored: bool) -> None:
    images, stage = (Images(prefix="mirror.example"), _stage("secret")) if mirrored else (Images(), _stage())
    for documented, sent in _prepared(_work(name), step, _plan(name, images=images), stage):
        place = "spec.template.spec" if documented["kind"] == "DaemonSet" else "spec"
        anywhere = ("metadata.namespace", "metadata.name", "metadata.labels.a-label")
        allowed = [*anywhere, f"{place}.tolerations", f"{place}.affinity", f"{place}.nodeName"]
        if mirrored:
            allowed += [f"{place}.imagePullSecrets", f"{place}.containers[0].image"]
        changed = {path for path in _differences("", documented, sent) if not path.startswith(tuple(allowed))}
        assert changed == set()
        before, after = _pod_spec(documented), _pod_spec(sent)
        # What the sample says itself about its place stays.
        assert [one for one in before.get("tolerations", []) if one not in after["tolerations"]] == []
        assert "affinity" not in before
        assert sent["metadata"]["namespace"] == "hpc-run"
        assert sent["metadata"]["labels"]["a-label"] == "of-the-run"


def test_a_mirror_moves_a_samples_image() -> None:
    name, step = SAMPLES[0]
    moved = Images(prefix="mirror.example")
    ((documented, sent),) = _prepared(_work(name), step, _plan(name, images=moved), _stage("secret"))
    spec, before = _pod_spec(sent), _pod_spec(documented)
    assert [one["image"] for one in spec["containers"]] == [moved.resolve(one["image"]) for one in before["containers"]]
    assert spec["containers"][0]["image"].startswith("mirror.example/")
    assert spec["imagePullSecrets"] == [{"name": "secret"}]


def test_a_probe_is_put_into_its_containers_alone() -> None:
    loaded = workload.load("volumes")
    step = next(step for step in loaded.steps if step.probes)
    documented, sent = _prepared(_work("volumes"), step, _plan("volumes"), _stage())[-1]
    containers = {one["name"]: one for one in [*sent["spec"].get("initContainers", ()), *sent["spec"]["containers"]]}
    assert set(step.probes) <= containers.keys()
    for one_name, container in containers.items():
        probed = one_name in step.probes
        assert (container.get("command") == list(bootstrap_command())) is probed
        assert ({"name": "PROBE", "value": loaded.probe_environment()} in container.get("env", ())) is probed
    assert sent["spec"]["os"] == {"name": "windows"}
    assert sent["spec"]["nodeName"] == "win-1"
    assert {"key": "os", "operator": "Exists", "effect": "NoSchedule"} in sent["spec"]["tolerations"]
    assert NONCE in sent["metadata"]["name"]
    assert "nodeName" not in documented["spec"]


def test_a_node_without_taints_gets_no_tolerations() -> None:
    step = workload.load("node-facts").steps[0]
    _, sent = _prepared(_work("node-facts", NODES[1]), step, _plan("node-facts"), _stage())[-1]
    assert "tolerations" not in sent["spec"]


def test_a_shared_daemonset_chooses_the_nodes_under_test_by_name_and_tolerates_their_taints() -> None:
    name, step = next((name, step) for name, step in SAMPLES if step.shared)
    _, sent = _prepared(_work(name), step, _plan(name), _stage())[-1]
    spec = sent["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node.name]}]} for node in NODES
    ]
    assert {"key": "os", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    # One name for one object: no node's nonce is in it.
    assert NONCE not in sent["metadata"]["name"]


def test_the_first_workload_names_every_image_that_will_be_needed() -> None:
    step = workload.load(RESIDUE).steps[0]
    plan = _plan(*workload.names())
    _, sent = _prepared(_work(RESIDUE), step, plan, _stage())[-1]
    needed = {image for one in plan.workloads if one.scope is Scope.NODE for image in one.images}
    assert {container["image"] for container in sent["spec"]["containers"]} == needed - {NANO.format(2022)}


NANO = "mcr.microsoft.com/windows/nanoserver:ltsc{}"


@pytest.mark.parametrize(
    ("kernel", "tag"),
    [("10.0.17763.7792", 2019), ("10.0.20348.4297", 2022), ("10.0.26100.6899", 2022), ("unreadable", 2019)],
)
def test_a_node_takes_the_image_that_fits_its_build(kernel: str, tag: int) -> None:
    node = dataclasses.replace(NODES[0], kernel=kernel)
    for name in ("aks-daemonset", "aks-daemonset-rights"):
        (step,) = workload.load(name).steps
        (pair,) = _prepared(_work(name, node), step, dataclasses.replace(_plan(name), nodes=(node,)), _stage())
        (container,) = _pod_spec(pair[1])["containers"]
        # As documented: one of the two that the manifest itself names, the other in a comment.
        assert container["image"] == NANO.format(tag)
        assert pair[0]["metadata"]["name"] == pair[1]["metadata"]["name"]


def test_nodes_that_take_different_images_have_a_daemonset_each() -> None:
    kernels = ("10.0.20348.1", "10.0.17763.1", "10.0.26100.1")
    nodes = tuple(
        dataclasses.replace(NODES[0], name=f"win-{number}", kernel=kernel) for number, kernel in enumerate(kernels)
    )
    plan = dataclasses.replace(_plan("aks-daemonset"), nodes=nodes)
    (step,) = workload.load("aks-daemonset").steps
    sent = [_prepared(_work("aks-daemonset", node), step, plan, _stage())[0][1] for node in nodes]
    assert sent[0] == sent[2] != sent[1]
    assert [one["metadata"]["name"] for one in sent[:2]] == ["privileged-daemonset", "privileged-daemonset-ltsc2019"]
    for one, names in zip(sent, (["win-0", "win-2"], ["win-1"]), strict=False):
        assert _pod_spec(one)["affinity"] == manifests._affinity(names)


@pytest.mark.parametrize(("reap_all", "hour"), [(False, "490896"), (True, str(expiry.ALL_HOURS))])
def test_what_the_placeholders_are(reap_all: bool, hour: str) -> None:
    work = _work("volumes")
    filled = manifests.placeholders(
        work, _plan("volumes", reap_all=reap_all), _stage(), datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert filled["reap-before"] == hour
    assert filled["namespace"] == "hpc-run"
    assert (filled["node"], filled["nonce"], filled["run"]) == ("win-1", NONCE, "run")
    assert {name: text for name, text in filled.items() if name.startswith("marker.")} == {
        f"marker.{name}": f"text of {name}" for name in work.workload.markers
    }


def test_of_a_shared_daemonset_a_nodes_evidence_keeps_its_own_part() -> None:
    name, step = next((name, step) for name, step in SAMPLES if step.shared)
    _, sent = _prepared(_work(name), step, _plan(name), _stage())[-1]
    whole = copy.deepcopy(sent)
    part = manifests.part_of(sent, NODES[1])
    changed = set(_differences("", sent, part))
    assert changed == {
        "spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    }
    assert part["spec"]["template"]["spec"]["affinity"] == manifests._affinity(["win-2"])
    assert sent == whole


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 100.0])
def test_a_listener_stays_longer_than_its_step_may_take(scale: float) -> None:
    loaded = workload.load("host-network")
    ((_, sent),) = _prepared(_work("host-network"), loaded.steps[0], _plan("host-network", time_scale=scale), _stage())
    given = {one["name"]: one.get("value") for one in sent["spec"]["containers"][0]["env"]}
    assert int(given["LISTEN_SECONDS"]) > loaded.steps[0].deadline * scale
    assert int(given["LISTEN_SECONDS"]) >= 600
    assert given["LISTENER_PORT"] == "0"


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://api.example:6443", "api.example", "6443"),
        ("https://api.example", "api.example", "443"),
        ("https://[fd00::1]:6443/", "fd00::1", "6443"),
        # Who stands before the API server takes no token of a pod.
        ("https://rancher.example/k8s/clusters/c-m-1234", "", ""),
        ("", "", ""),
    ],
)
def test_the_reader_is_told_where_the_suite_itself_reaches_the_api_server(url: str, host: str, port: str) -> None:
    step = workload.load("volumes").steps[0]
    (*_, (_, sent)) = _prepared(_work("volumes"), step, _plan("volumes", api_server=url), _stage())
    given = {one["name"]: one.get("value") for one in sent["spec"]["containers"][0]["env"]}
    assert (given["API_HOST"], given["API_PORT"]) == (host, port)


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ("bootstrap.ps1", {name for name in workload.names() if workload.load(name).probe}),
        ("identity/probe.ps1", {name for name in workload.names() if workload.load(name).probe == "identity"}),
        ("volumes/workload.toml", {"volumes"}),
    ],
)
def test_a_digest_is_of_all_that_a_workload_runs(
    changed: str, others: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workloads"
    shutil.copytree(workload.FOLDER, folder)
    before = {name: workload.load(name).digest for name in workload.names()}
    monkeypatch.setattr(workload, "FOLDER", folder)
    (folder / changed).write_bytes((folder / changed).read_bytes() + b"\n# changed\n")
    after = {name: workload.load.__wrapped__(name).digest for name in workload.names()}
    assert {name for name in before if before[name] != after[name]} == others
    assert others
