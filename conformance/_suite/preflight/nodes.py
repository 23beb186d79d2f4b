"""
What the API says of the nodes: which are under test, what they are, and how many pods they still take.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.facts import NodeFacts
from conformance._suite.preflight import selection
from conformance._suite.preflight.needs import LOOK_SECONDS, words
from conformance._suite.preflight.selection import problem
from conformance._suite.versions import unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conformance._suite.cluster import Cluster
    from conformance._suite.preflight.needs import Needs
    from conformance._suite.preflight.selection import Choice
    from conformance._suite.say import Say


async def choose(cluster: Cluster, choice: Choice) -> selection.Chosen:
    """
    List the nodes and choose among them; that they cannot be listed is a problem like others.
    """
    list_nodes = partial(cluster.must, "GET", "/api/v1/nodes", seconds=LOOK_SECONDS)
    try:
        items = (await list_nodes())["items"]
        selected = None
        if choice.selector:
            matching = await list_nodes(query={"labelSelector": choice.selector})
            selected = {item["metadata"]["name"] for item in matching["items"]}
    except RefusedError as error:
        if error.answer.code == 400 and choice.selector:
            raise UsageError(f"--node-selector {choice.selector!r}: {error.answer.message}") from error
        refused = problem(f"the nodes cannot be listed: {words(error.answer)}", "check the user in the kubeconfig")
        return selection.Chosen((), (), (refused,))
    except (TypeError, KeyError) as error:
        raise TargetError(f"{cluster.url} does not answer like a Kubernetes API server") from error
    return selection.choose(items, choice, selected)


def node_facts(node: dict[str, Any]) -> NodeFacts:
    """
    The facts of a node, from what the API gives of it.
    """
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
        machine_id=info.get("machineID") or "",
    )


def with_versions(nodes: Sequence[NodeFacts], say: Say) -> tuple[NodeFacts, ...]:
    """
    The nodes of which it can be told which requirements hold for them; ``say`` gets a line about the others. Raises
    TargetError when no node is left.
    """
    untold = {node.name: str(unknown) for node in nodes if (unknown := unreadable(node))}
    lines = [f"the containerd version cannot be told, {line}" for line in selection.by_reason(untold)]
    remedy = "`--containerd-version NODE=VERSION` states it"
    if len(untold) == len(nodes):
        raise TargetError("; ".join(lines), remedy)
    for line in lines:
        say(problem(f"{line}; nothing is put there, and nothing is proven of it", remedy))
    return tuple(node for node in nodes if node.name not in untold)


async def full(cluster: Cluster, items: Sequence[dict[str, Any]], needs: Needs, say: Say) -> list[str]:
    """
    A problem when nodes have not enough free pod slots, naming each.
    """
    if not items:
        return []
    # A kubelet counts what is bound to its node and has not ended.
    running = "status.phase!=Succeeded,status.phase!=Failed"

    async def free(item: Mapping[str, Any]) -> int:
        query = {"fieldSelector": f"spec.nodeName={item['metadata']['name']},{running}", "resourceVersion": "0"}
        listing = await cluster.must("GET", "/api/v1/pods", query=query)
        return int(item["status"].get("allocatable", {}).get("pods", needs.pods)) - len(listing["items"])

    try:
        slots = await asyncio.gather(*(free(item) for item in items))
    except RefusedError as error:
        if error.answer.code != 403:
            return [problem(f"the pods on the nodes cannot be counted: {words(error.answer)}", "try again")]
        # Where the suite creates its namespaces the right is missed already.
        if needs.namespace is not None:
            say("free pod slots were not counted: that needs the right to list pods in all namespaces")
        return []
    short = [f"{item['metadata']['name']} has {left}" for item, left in zip(items, slots, strict=True)
             if left < needs.pods]  # fmt: skip
    if not short:
        return []
    return [
        problem(
            f"the run needs {needs.pods} free pod slots on each node: {', '.join(short)}",
            "take pods from there, raise the kubelet's maxPods, or choose nodes with --node",
        )
    ]
