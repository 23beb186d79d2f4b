"""
The requests that put a workload's objects on the cluster, and the answers as evidence keeps them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance._suite import expiry
from conformance._suite.preflight.changes import changes, kind_changes
from conformance._suite.transient import NOT_A_WEBHOOKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance._suite.cluster import Cluster
    from conformance._suite.observe.plan import Plan, Stage
    from conformance._suite.workload import Step

_COLLECTIONS = {
    "Pod": "pods", "ConfigMap": "configmaps", "Secret": "secrets", "ServiceAccount": "serviceaccounts",
    "DaemonSet": "daemonsets",
}  # fmt: skip


def collection_path(kind: str, namespace: str) -> str:
    """
    The API path of a namespace's objects of a kind.
    """
    group = "/apis/apps/v1" if kind == "DaemonSet" else "/api/v1"
    return f"{group}/namespaces/{namespace}/{_COLLECTIONS[kind]}"


async def create(cluster: Cluster, plan: Plan, documents: list[dict[str, Any]], step: Step) -> list[dict[str, Any]]:
    """
    Create a step's objects, in their order; the answers. One that is there already counts as created when it is this
    run's.
    """
    answers = []
    for document in documents:
        path = collection_path(document["kind"], document["metadata"]["namespace"])
        answer = await send(cluster, f"{step.name}/{document['kind']}", "POST", path, document, repeatable=True)
        answers.append(await _made(cluster, plan, path, document, answer))
    return answers


async def _made(
    cluster: Cluster, plan: Plan, collection: str, item: Mapping[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    """
    The answer to a creation; one that is there already was made by an earlier try whose answer did not get through,
    when it is this run's.
    """
    if answer["reason"] != "AlreadyExists":
        return answer
    if plan.namespace:  # else it is a name that is random, in a namespace whose name is
        query = {
            "fieldSelector": f"metadata.name={item['metadata']['name']}",
            "labelSelector": f"{expiry.RUN_LABEL}={plan.run_id}",
        }
        if not (await cluster.must("GET", collection, query=query))["items"]:
            return answer
    return {**answer, "code": 201}


async def send_request(cluster: Cluster, plan: Plan, stage: Stage, request: Mapping[str, Any]) -> dict[str, Any]:
    """
    Send one request of an API workload, as its ``requests.yaml`` describes it: a dry run unless it says otherwise. Both
    may be sent twice: what is made has a name of its own, and is ours when it is there already.
    """
    item = request["object"]
    namespace = stage.namespaces[request.get("namespace", "main")]
    path = request.get("path") or collection_path(item.get("kind", "Pod"), namespace)
    path = path.replace("{namespace}", namespace)
    query = {"dryRun": "All"} if request.get("dryRun", True) else {}
    if request.get("method", "POST") == "POST":
        item.setdefault("metadata", {}).setdefault("labels", {}).update(stage.labels)
    answer = await send(
        cluster,
        request["name"],
        request.get("method", "POST"),
        path,
        item,
        compared=True,
        query=query,
        content_type=request.get("contentType", "application/json"),
        passing=NOT_A_WEBHOOKS,
        repeatable=True,
    )
    return answer if query else await _made(cluster, plan, path, item, answer)


async def send(
    cluster: Cluster, name: str, method: str, path: str, body: Any, *, compared: bool = False, **options: Any
) -> dict[str, Any]:
    """
    Send a request; the answer as evidence keeps it, under a name. With ``compared`` it holds, as ``changed``, what
    admission did to what was sent that makes another kind of pod of it. ``options`` are those of ``Cluster.request``.
    """
    query = options.get("query") or {}
    shown = f"{method} {path}" + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else "")
    answer = await cluster.request(method, path, body, **options)
    status = answer.status
    changed = kind_changes(changes(body, answer.body)[0]) if compared and 200 <= answer.code < 300 else []
    return {
        "name": name,
        "request": shown,
        "code": answer.code,
        "reason": status.get("reason"),
        "message": answer.message,
        "causes": list((status.get("details") or {}).get("causes") or ()),
        "warnings": list(answer.warnings),
        "body": None if isinstance(answer.body, dict) else answer.body,
        **({"changed": changed} if changed else {}),
    }
