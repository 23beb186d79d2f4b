"""
What a run will send, to be tried by dry runs before anything of it is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance._suite import expiry
from conformance._suite.facts import Scope
from conformance._suite.observe import manifests
from conformance._suite.observe.plan import Work
from conformance._suite.observe.requests import collection_path
from conformance._suite.preflight.admission import Trial
from conformance._suite.workload import BASE_IMAGE, RESIDUE, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from conformance._suite.facts import NodeFacts
    from conformance._suite.observe.plan import Plan, Stage
    from conformance._suite.workload import Step

_ADMISSION = "admission"


def trials(plan: Plan, stage: Stage, now: datetime) -> Iterator[Trial]:
    """
    Every manifest of the plan's workloads, and of the one that runs before them: once for nodes of the same taints that
    take the same images, for nothing else of a node makes a difference to admission. Of a DaemonSet also the pod that
    its controller makes of it.
    """
    tried = set()
    for workload in (load(RESIDUE), *(one for one in plan.workloads if one.name != RESIDUE)):
        for node in plan.nodes if workload.scope is Scope.NODE else (None,):
            work = Work(workload, node, expiry.nonce(now))
            work.record = {"parameters": {"markers": dict.fromkeys(workload.markers, "none")}}
            filled_in = manifests.placeholders(work, plan, stage, now)
            for step in workload.steps:
                key = workload.name, step.name, _kind_of_node(step, node)
                if key in tried:
                    continue
                tried.add(key)
                for document in workload.manifests(step, filled_in):
                    manifests.prepare(document, work, step, plan, stage)
                    yield _trial(workload.name, document)
                    # In the others Pod Security is to refuse them.
                    if document["kind"] == "DaemonSet" and node is not None:
                        yield _trial(workload.name, _pod_of(manifests.part_of(document, node)))
        if workload.name == _ADMISSION:
            yield _ephemeral(plan, stage, expiry.nonce(now))


def _kind_of_node(step: Step, node: NodeFacts | None) -> frozenset[object]:
    if node is None:
        return frozenset()
    taints = () if step.shared else ((taint["key"], taint["effect"]) for taint in node.taints)
    return frozenset((*taints, manifests.images_on(step, node)))


def _trial(whose: str, document: dict[str, Any]) -> Trial:
    namespace = document["metadata"]["namespace"]
    return Trial(whose, namespace, collection_path(document["kind"], namespace), document)


def _pod_of(daemon_set: dict[str, Any]) -> dict[str, Any]:
    template = daemon_set["spec"]["template"]
    metadata = {**template["metadata"], **{key: daemon_set["metadata"][key] for key in ("name", "namespace")}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _ephemeral(plan: Plan, stage: Stage, nonce: str) -> Trial:
    """
    An ephemeral container, in a pod that never runs, as those of the workload are.
    """
    namespace, on = stage.namespaces["main"], {"windowsOptions": {"hostProcess": True}}
    pods = collection_path("Pod", namespace)
    container = {"image": plan.images.resolve(BASE_IMAGE), "securityContext": on}
    name = f"{_ADMISSION}-preflight-{nonce}"
    spec = {
        "hostNetwork": True,
        "schedulingGates": [{"name": "hostprocess-conformance/never"}],
        "nodeSelector": {"hostprocess-conformance/never": "true"},
        "containers": [{"name": "main", **container}],
    }
    metadata = {"name": name, "labels": dict(stage.labels)}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    patch = {"spec": {"ephemeralContainers": [{"name": "debug", **container}]}}
    return Trial(_ADMISSION, namespace, f"{pods}/{name}/ephemeralcontainers", patch, (pods, pod))
