"""
What policies of a cluster do to a run, against the real API server: whatever they refuse or change, nothing turns red.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite.waiting import TryAgainError, persistently
from tests.conftest import kubectl, run_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Finished, Matrix

ENFORCE = "pod-security.kubernetes.io/enforce"
PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
DAEMON_SETS = {**PODS, "apiGroups": ["apps"], "resources": ["daemonsets"]}
EPHEMERAL = {**PODS, "operations": ["UPDATE"], "resources": ["pods/ephemeralcontainers"]}
ONLY_HERE = "request.namespace.startsWith('hpc-') || request.namespace == 'default'"
LIMITED = "object.spec.containers.exists(c, has(c.resources.limits) && 'memory' in c.resources.limits)"
LIMIT = "[JSONPatch{op: 'replace', path: '/spec/containers/0/resources/limits/memory', value: '1Gi'}]"
PATH = "[JSONPatch{op: 'add', path: '/spec/containers/0/env', value: [{'name': 'PATH', 'value': 'C:\\\\x'}]}]"
SIDECAR = "[JSONPatch{op: 'add', path: '/spec/initContainers', value: [{'name': 'istio-init', 'image': 'istio:1'}]}]"


def refusing(name: str, rule: dict[str, Any], condition: str, message: str) -> list[dict[str, Any]]:
    """
    A policy, with the reason that policies have where they name none, that refuses what does not meet the condition.
    """
    spec = {"validations": [{"expression": condition, "message": message}]}
    objects = _policy("ValidatingAdmissionPolicy", name, rule, spec)
    objects[1]["spec"]["validationActions"] = ["Deny"]
    return objects


def changing(name: str, condition: str, patch: str) -> list[dict[str, Any]]:
    """
    A policy that changes the pods that meet the condition.
    """
    spec = {
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
        "reinvocationPolicy": "Never",
    }
    objects = _policy("MutatingAdmissionPolicy", name, PODS, spec)
    objects[0]["spec"]["matchConditions"].append({"name": "such", "expression": condition})
    return objects


def _policy(kind: str, name: str, rule: dict[str, Any], spec: dict[str, Any]) -> list[dict[str, Any]]:
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    matching = {
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "here", "expression": ONLY_HERE}],
    }
    return [
        {**head, "kind": kind, "spec": {"failurePolicy": "Fail", **matching, **spec}},
        {**head, "kind": f"{kind}Binding", "spec": {"policyName": name}},
    ]


@contextlib.contextmanager
def in_force(matrix: Matrix, folder: Path, *policies: list[dict[str, Any]]) -> Iterator[None]:
    """
    Have the policies in force. They reach the API server's admission a moment later: a last one is waited for.
    """
    marker = refusing("last", {**PODS, "resources": ["configmaps"]}, "request.namespace != 'default'", "in force")
    items = [one for policy in (*policies, marker) for one in policy]
    file = folder / "policies.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), encoding="utf-8")
    kubectl(matrix.kubeconfig, "create", "-f", str(file))
    try:
        asyncio.run(persistently(partial(_last_refuses, matrix), 20))
        yield
    finally:
        kubectl(matrix.kubeconfig, "delete", "-f", str(file))


async def _last_refuses(matrix: Matrix) -> None:
    try:
        kubectl(matrix.kubeconfig, "create", "configmap", "x", "--dry-run=server")
    except subprocess.CalledProcessError:
        await asyncio.sleep(1)  # those that change are read by another watch
        return
    raise TryAgainError("the last policy is not in force yet")


def run(matrix: Matrix, folder: Path, *arguments: str) -> Finished:
    node = matrix.faithful["2.3"]
    existing = ("--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node, "--no-allure")
    return run_program(folder / "out", *existing, *arguments)


@pytest.mark.cluster
def test_what_is_in_the_way_of_any_workload_is_said_before_it_runs(matrix: Matrix, tmp_path: Path) -> None:
    long = "every DaemonSet has the label owner, as " + "the handbook of this company says at length, " * 12 + "please"
    windows = (
        "!(has(object.spec.nodeSelector) && object.spec.nodeSelector[?'kubernetes.io/os'] == optional.of('windows'))"
    )
    policies = (
        refusing("owners", DAEMON_SETS, "has(object.metadata.labels) && 'owner' in object.metadata.labels", long),
        refusing("no-debugging", EPHEMERAL, "false", "nobody debugs here"),
        refusing("no-windows-pools", PODS, windows, "no pod for the Windows pools"),
        changing("bigger-limits", LIMITED, LIMIT),
        # As a service mesh does: it leaves pods with the host's network alone.
        changing("mesh", "!has(object.spec.hostNetwork)", SIDECAR),
    )
    with in_force(matrix, tmp_path, *policies):
        seen = run(matrix, tmp_path)
    assert seen.code == 3, seen.output
    (said,) = [part for part in seen.output.split("conformance: ") if "things are in the way" in part]
    said = said.replace(seen.out.name, "")
    for expected in (
        "would be refused: 422 daemonsets.apps ",
        f"'owners' with binding 'owners' denied request: {long} — exempt the namespace",
        "objects of admission in namespace hpc-",
        "would be refused: 422 pods ",
        "denied request: nobody debugs here — ",
        "objects of aks-daemonset, aks-daemonset-older, aks-daemonset-rights, ping-sample in namespace hpc-",
        "denied request: no pod for the Windows pools — ",
        "changes spec.containers[alone].resources.limits.memory (objects of job-limits)",
        "adds spec.initContainers[istio-init] (an ordinary pod) — ",
    ):
        assert expected in said, f"{expected}\n{said}"
    assert not (seen.out / "verdict.json").exists()


@pytest.mark.cluster
def test_a_pod_that_admission_changes_later_is_not_judged(matrix: Matrix, tmp_path: Path) -> None:
    """
    One that leaves dry runs alone is seen by what the pods have become.
    """
    policies = (
        changing("later", f"!request.dryRun && {LIMITED}", LIMIT),
        # Only what a controller creates has an owner.
        changing("owned", "has(object.metadata.ownerReferences)", PATH),
    )
    with in_force(matrix, tmp_path, *policies):
        seen = run(matrix, tmp_path, "-k", "resources or operation")
    node = matrix.faithful["2.3"]
    reasons = {one["requirement"]: one["reasonCode"] for one in seen.verdict["results"] if one["node"] == node}
    assert reasons["operation/ping-sample/answered"] == "as-documented"
    assert reasons["resources/memory/limit-is-the-jobs"] == reasons["resources/memory/one-process"] == "pod-changed"
    assert reasons["operation/aks-daemonset/running-on-each-node"] == "pod-changed"
    assert (seen.code, seen.red(node)) == (4, set()), seen.output
    assert (
        "step limits of job-limits: admission made another pod of it: "
        "changes spec.containers[alone].resources.limits.memory\n" in seen.output
    )
    assert (
        "of aks-daemonset: admission made another pod of it: adds spec.containers[powershell].env[PATH]" in seen.output
    )


@pytest.mark.cluster
def test_a_policys_refusal_is_not_taken_for_validations(matrix: Matrix, tmp_path: Path) -> None:
    """
    Of what only the requests of the workload are, and no manifest. What is not selected is not tried.
    """
    label = (
        "!('app' in object.spec.template.metadata.labels && object.spec.template.metadata.labels.app == 'admission')"
    )
    policies = (
        refusing("owners", DAEMON_SETS, label, "no such app"),
        refusing("no-probes", PODS, "!object.metadata.name.startsWith('job-limits')", "no such pod"),
    )
    with in_force(matrix, tmp_path, *policies):
        seen = run(matrix, tmp_path, "-k", "mixed_pods or host_network_has")
    assert seen.red(None) == set()
    refused = {one["requirement"] for one in seen.verdict["results"] if one["reasonCode"] == "other-refusal"}
    validation = {"host-network/required", "mixed-pods/refused", "mixed-pods/values-agree"}
    assert (seen.code, refused) == (4, {f"admission/{one}" for one in validation}), seen.output
    assert "template: neither validated nor admitted: 422 Invalid: daemonsets.apps" in seen.output


@pytest.mark.cluster
def test_an_older_version_of_the_standards_is_judged_as_well(matrix: Matrix, tmp_path: Path) -> None:
    """
    Before 1.25 ``restricted`` asks of pods for Windows what they may not have.
    """
    levels = {"old": "privileged", "old-baseline": "baseline", "old-restricted": "restricted"}
    for name, level in levels.items():
        kubectl(matrix.kubeconfig, "create", "namespace", name)
        labels = (f"{ENFORCE}={level}", f"{ENFORCE}-version=v1.24")
        kubectl(matrix.kubeconfig, "label", "namespace", name, *labels)
        kubectl(matrix.kubeconfig, "wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
    try:
        seen = run(matrix, tmp_path, "--namespace", "old", "-k", "pod_security")
    finally:
        kubectl(matrix.kubeconfig, "delete", "namespace", *levels, "--wait=false")
    assert "namespace old-restricted enforces restricted as of v1.24\n" in seen.output
    assert seen.verdicts()["admission/pod-security/restricted-refuses", None] == "conformant", seen.output
