"""
Looks at a target before anything is put on it: its version, its Windows nodes, and whether the rights are there.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from conformance._suite.cluster import RefusedError
from conformance._suite.model import ClusterFacts, NodeFacts, TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance._suite.cluster import Cluster

LOOK_SECONDS = 8
"""How long an API server may take to answer the first questions."""
SIMULATED_LABEL = "hostprocess-conformance/simulated"

# (group, resource, subresource, verbs): exactly what the engine does.
RIGHTS = (
    ("", "nodes", "", ("list",)),
    ("", "namespaces", "", ("create", "delete", "get")),
    ("", "pods", "", ("create", "delete", "deletecollection", "list", "watch")),
    ("", "pods", "log", ("get",)),
    ("", "pods", "proxy", ("get",)),
    ("", "pods", "ephemeralcontainers", ("patch",)),
    ("", "events", "", ("list", "watch")),
    ("", "serviceaccounts", "", ("get",)),
    ("", "configmaps", "", ("create",)),
    ("", "secrets", "", ("create",)),
    ("apps", "daemonsets", "", ("create", "deletecollection")),
)


async def look(
    cluster: Cluster, target: str, *, simulated: bool, names: Sequence[str] = (), selector: str = ""
) -> tuple[ClusterFacts, tuple[NodeFacts, ...]]:
    """
    Read the server's version and the Windows nodes under test, sorted by name. Raises TargetError when there are
    none, when a named one is missing, or when rights are.
    """
    try:
        version = await cluster.must("GET", "/version", seconds=LOOK_SECONDS)
        server = str(version["gitVersion"])
        query = {"labelSelector": ",".join(part for part in ("kubernetes.io/os=windows", selector) if part)}
        listing = await cluster.must("GET", "/api/v1/nodes", query=query, seconds=LOOK_SECONDS)
    except RefusedError as error:
        if error.answer.code == 400 and selector:
            raise UsageError(f"--node-selector {selector!r}: {error.answer.message}") from error
        raise TargetError(
            f"{cluster.url} refuses: {error.answer.code} {error.answer.message or 'no reason given'}",
            "the suite needs to read /version and to list nodes; check the user in the kubeconfig",
        ) from error
    except (TypeError, KeyError) as error:
        raise TargetError(f"{cluster.url} does not answer like a Kubernetes API server") from error
    items = listing["items"]
    found = [item for item in items if not names or item["metadata"]["name"] in names]
    if missing := sorted(set(names) - {item["metadata"]["name"] for item in found}):
        there = ", ".join(sorted(item["metadata"]["name"] for item in items)) or "none"
        raise TargetError(f"no Windows node is called {', '.join(missing)}", f"there are: {there}")
    ready = [item for item in found if _ready(item)]
    if names and (down := sorted(item["metadata"]["name"] for item in found if not _ready(item))):
        raise TargetError(f"not ready: {', '.join(down)}", "`kubectl describe node` says why")
    if not ready:
        unready = ", ".join(item["metadata"]["name"] for item in found)
        raise TargetError(
            f"{cluster.url} has no Windows node that is ready"
            + (f" and matches --node-selector {selector}" if selector else "")
            + (f" (not ready: {unready})" if unready else ""),
            "a node counts by its label kubernetes.io/os=windows and its condition Ready",
        )
    await _require_rights(cluster)
    nodes = tuple(sorted((_facts(item) for item in ready), key=lambda node: node.name))
    played = any(item["metadata"].get("labels", {}).get(SIMULATED_LABEL) == "true" for item in ready)
    return ClusterFacts(target, server, simulated or played), nodes


async def _require_rights(cluster: Cluster) -> None:
    questions = [
        (group, resource, subresource, verb)
        for group, resource, subresource, verbs in RIGHTS
        for verb in verbs
    ]  # fmt: skip
    answers = await asyncio.gather(*(_allowed(cluster, *question) for question in questions))
    missing: dict[str, list[str]] = {}
    for (_, resource, subresource, verb), allowed in zip(questions, answers, strict=True):
        if not allowed:
            missing.setdefault(f"{resource}/{subresource}".rstrip("/"), []).append(verb)
    if missing:
        listed = "; ".join(f"{'/'.join(verbs)} {resource}" for resource, verbs in missing.items())
        raise TargetError(f"rights are missing: {listed}", "bind a role that grants them to the user in the kubeconfig")


async def _allowed(cluster: Cluster, group: str, resource: str, subresource: str, verb: str) -> bool:
    attributes = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    try:
        answer = await cluster.must("POST", path, body, repeatable=True)
    except RefusedError as error:
        raise TargetError(f"rights cannot be asked for: {error.answer.message}") from error
    return bool(answer["status"]["allowed"])


def _ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _facts(node: dict[str, Any]) -> NodeFacts:
    metadata, status = node["metadata"], node["status"]
    addresses = {kind: [one["address"] for one in group] for kind, group in itertools.groupby(
        sorted(status.get("addresses", ()), key=lambda one: one["type"]), key=lambda one: one["type"])}  # fmt: skip
    info = status["nodeInfo"]
    return NodeFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        internal_ip=(addresses.get("InternalIP") or [""])[0],
        host_name=(addresses.get("Hostname") or [metadata["name"]])[0],
        container_runtime=info["containerRuntimeVersion"],
        kubelet=info["kubeletVersion"],
        os_image=info["osImage"],
        kernel=info["kernelVersion"],
        capacity_cpu=int(status["capacity"]["cpu"]),
        taints=tuple({"key": taint["key"], "effect": taint["effect"]} for taint in node["spec"].get("taints", ())),
        labels=dict(metadata.get("labels", {})),
    )
