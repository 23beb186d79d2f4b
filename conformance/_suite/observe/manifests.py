"""
What a manifest becomes before it is sent: its placeholders, its namespace, its place, the probe. It asks nobody.

A documented sample keeps every field but those that ``prepare`` names: this is the rule of what it may differ in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conformance._suite import expiry
from conformance._suite.facts import Scope
from conformance._suite.versions import windows_build
from conformance._suite.workload import BASE_IMAGE, RESIDUE, bootstrap_command

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from conformance._suite.facts import NodeFacts
    from conformance._suite.observe.plan import Plan, Stage, Work
    from conformance._suite.workload import Step


LISTEN_SECONDS = 600
"""How long a probe that listens stays, unless it is stopped: longer than a step's deadline."""


def placeholders(work: Work, plan: Plan, stage: Stage, now: datetime) -> dict[str, str]:
    """
    The values of the placeholders of a manifest; ``now`` is the time by the server's clock.
    """
    host, port = _own_address(plan.api_server)
    return {
        "run": plan.run_id,
        "nonce": work.nonce,
        "namespace": stage.namespaces["main"],
        "node": work.node.name if work.node else "",
        "image": BASE_IMAGE,
        "reap-before": str(expiry.ALL_HOURS if plan.reap_all else expiry.hour_of(now)),
        "listener-port": str(plan.listener_port),
        "listen-seconds": str(math.ceil(LISTEN_SECONDS * max(1, plan.time_scale))),
        "api-host": host,
        "api-port": port,
        **{f"marker.{name}": text for name, text in work.record["parameters"]["markers"].items()},
    }


def _own_address(url: str) -> tuple[str, str]:
    """
    Host and port of the API server at a URL; empty where something before it takes a path of its own.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.path.strip("/"):
        return "", ""
    return parts.hostname, str(parts.port or 443)


def prepare(document: dict[str, Any], work: Work, step: Step, plan: Plan, stage: Stage) -> None:
    """
    Give a document its namespace, its name and the run's labels, and a pod (or a DaemonSet's template) its place, its
    images and the probe. All of it:

    - ``metadata``: ``namespace``; ``name``, with the nonce unless it is shared; the run's ``labels`` besides its own;
    - place: a pod's ``nodeName`` and that node's taints tolerated; a shared DaemonSet's affinity to all chosen nodes;
    - where the document has one image for some Windows builds and another for others (``by_build``): the one for the
      node; nodes that take different ones have a DaemonSet each, the second with the image's tag behind its name;
    - ``spec.os`` where it is no sample and names none; the pull secret; every image by its place or digest;
    - in the containers that run the probe: ``command`` and the environment variables ``PROBE`` and
      ``PSModuleAnalysisCachePath``;
    - in ``residue`` alone: a container ``image-N`` for every other image that the run needs.
    """
    metadata = document.setdefault("metadata", {})
    metadata["namespace"] = stage.namespaces[step.namespace]
    name = metadata.get("name") or f"{work.workload.name}-{step.name}"
    # One name for one object: what is not shared carries the nonce of its node.
    metadata["name"] = name if step.shared or work.nonce in name else f"{name}-{work.nonce}"
    alike = _alike(step, work.node, plan)
    if alike and plan.nodes[0] not in alike:
        metadata["name"] += "-" + "-".join(sorted(one.rpartition(":")[2] for one in images_on(step, alike[0])))
    metadata.setdefault("labels", {}).update(stage.labels)
    if document["kind"] not in {"Pod", "DaemonSet"}:
        return
    spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
    if document["kind"] == "Pod" and work.node:
        spec["nodeName"] = work.node.name
        taints = list(work.node.taints)
    else:
        if step.shared:
            spec["affinity"] = _affinity(node.name for node in alike)
        taints = [taint for node in alike or plan.nodes for taint in node.taints]
    tolerations = spec.setdefault("tolerations", [])
    for taint in taints:
        toleration = {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]}
        if toleration not in tolerations:
            tolerations.append(toleration)
    if not tolerations:
        del spec["tolerations"]
    if not step.sample:
        spec.setdefault("os", {"name": "windows"})
    if work.workload.name == RESIDUE and work.node:
        # Nothing else is put on a node before its images are there.
        steps = [step for one in plan.workloads if one.scope is Scope.NODE for step in one.steps]
        needed = {image for step in steps for image in images_on(step, work.node)}
        spec["containers"] += [
            {"name": f"image-{number}", "image": image, "command": ["cmd.exe", "/c", "exit 0"]}
            for number, image in enumerate(sorted(needed - {BASE_IMAGE}), 1)
        ]
    if stage.pull_secret:
        spec.setdefault("imagePullSecrets", []).append({"name": stage.pull_secret})
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        documented = step.image_on(container["image"], _build(work.node)) if work.node else container["image"]
        container["image"] = plan.images.resolve(documented)
        if container["name"] in step.probes:
            container["command"] = list(bootstrap_command())
            environment = container.setdefault("env", [])
            environment.append({"name": "PROBE", "value": work.workload.probe_environment()})
            # The device: PowerShell keeps no cache of modules on the node (Microsoft: about_Modules).
            environment.append({"name": "PSModuleAnalysisCachePath", "value": "NUL"})


def images_on(step: Step, node: NodeFacts) -> frozenset[str]:
    """
    The images that the step needs on this node, as documented.
    """
    return step.images_on(_build(node))


def _alike(step: Step, node: NodeFacts | None, plan: Plan) -> list[NodeFacts]:
    """
    Of a shared step the nodes that take the same images as this one.
    """
    if node is None or not step.shared:
        return []
    return [one for one in plan.nodes if images_on(step, one) == images_on(step, node)]


def _build(node: NodeFacts) -> int:
    return int(windows_build(node.kernel).partition(".")[0] or 0)


def part_of(document: dict[str, Any], node: NodeFacts) -> dict[str, Any]:
    """
    Of a DaemonSet that all chosen nodes share what concerns one of them: the other nodes' terms of its affinity are
    left out. Evidence would otherwise grow with the square of the nodes. Any other document concerns all of them.
    """
    if document["kind"] != "DaemonSet":
        return document
    spec, template = document["spec"], document["spec"]["template"]
    pod = {**template["spec"], "affinity": _affinity([node.name])}
    return {**document, "spec": {**spec, "template": {**template, "spec": pod}}}


def _affinity(names: Iterable[str]) -> dict[str, Any]:
    field_match = {"key": "metadata.name", "operator": "In"}
    terms = {"nodeSelectorTerms": [{"matchFields": [{**field_match, "values": [name]}]} for name in names]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
