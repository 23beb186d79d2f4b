"""
One simulated Windows node towards the API server: its Node object, its Lease, and the pods that are bound to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from conformance._suite.namespaces import SIMULATED_LABEL
from infra.simulated.model.eras import ERAS
from infra.simulated.model.host import Host
from infra.simulated.node import clock, spec
from infra.simulated.node.api import Api, ApiError
from infra.simulated.node.egress import KUBELET_PORT
from infra.simulated.node.events import NORMAL, Recorder
from infra.simulated.node.metrics import Metrics
from infra.simulated.node.pod import Pod
from infra.simulated.node.report import complain
from infra.simulated.release import KUBERNETES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.simulated.node.config import NodeConfig

KUBELET_VERSION = f"v{KUBERNETES}"
LEASE_SECONDS = 40
RENEW_EVERY = 10.0
REPORT_EVERY = 300.0
MAX_PODS = 110
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_SKUS = {17763: "Windows2019", 20348: "Windows2022", 26100: "Windows2025"}


def node_object(config: NodeConfig, host: Host) -> dict[str, Any]:
    """
    The Node as it is registered, without status.
    """
    build = host.era.windows_build
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": config.name,
            "labels": {
                "kubernetes.io/os": "windows",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": config.name,
                "beta.kubernetes.io/os": "windows",
                "beta.kubernetes.io/arch": "amd64",
                "node.kubernetes.io/windows-build": f"10.0.{build}",
                "kubernetes.azure.com/os-sku": _SKUS.get(build, "Windows"),
                SIMULATED_LABEL: "true",
            },
            "annotations": {
                SIMULATED_LABEL: "No Windows runs here: a model of it does",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {"taints": [dict(taint) for taint in config.taints]} if config.taints else {},
    }


def capacity(host: Host) -> dict[str, str]:
    """
    The node's resources, as quantities.
    """
    return {
        "cpu": str(host.processors),
        "memory": f"{host.memory // 1024}Ki",
        "pods": str(MAX_PODS),
        "ephemeral-storage": "133703676Ki",
    }


def allocatable(host: Host) -> dict[str, str]:
    """
    What is left of the capacity for pods.
    """
    return {
        **capacity(host),
        "memory": f"{max(0, host.memory // 1024 - 2 * 1024 * 1024)}Ki",
        "ephemeral-storage": "123221307598",
    }


def _condition(kind: str, reason: str, message: str, *, true: bool, now: str, since: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True" if true else "False",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
    }


def node_status(config: NodeConfig, host: Host, now: str, since: str) -> dict[str, Any]:
    """
    The Node's status.
    """
    bad = partial(_condition, true=False, now=now, since=since)
    return {
        "capacity": capacity(host),
        "allocatable": allocatable(host),
        "conditions": [
            bad("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            bad("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            bad("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            _condition("Ready", "KubeletReady", "kubelet is posting ready status", true=True, now=now, since=since),
        ],
        "addresses": [
            {"type": "InternalIP", "address": config.address},
            {"type": "Hostname", "address": config.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "nodeInfo": {
            "machineID": host.host_name,
            "systemUUID": str(uuid.uuid5(uuid.NAMESPACE_DNS, config.name)).upper(),
            "bootID": "1",
            "kernelVersion": host.era.kernel_version,
            "osImage": host.era.os_image,
            "containerRuntimeVersion": f"containerd://{host.era.containerd}",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "windows",
            "architecture": "amd64",
        },
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],
    }


class Services:
    """
    All services of the cluster, watched once for all nodes: any node may read them.
    """

    def __init__(self) -> None:
        self._items: dict[str, dict[str, Any]] = {}

    def all(self) -> list[dict[str, Any]]:
        """
        The services known now.
        """
        return list(self._items.values())

    async def watch(self, api: Api) -> None:
        """
        Follow them for ever.
        """
        await api.watch("/api/v1/services", {}, self.replace, self._event)

    async def replace(self, items: list[dict[str, Any]]) -> None:
        """
        Take a whole list.
        """
        self._items = {item["metadata"]["uid"]: item for item in items}

    async def _event(self, kind: str, item: dict[str, Any]) -> None:
        if kind == "DELETED":
            self._items.pop(item["metadata"]["uid"], None)
        else:
            self._items[item["metadata"]["uid"]] = item


class SimulatedNode:
    """
    A node. ``index`` is its place among the process' nodes.
    """

    def __init__(self, config: NodeConfig, index: int, api: Api, services: Services) -> None:
        self.config = config
        self.name = config.name
        self.address = config.address
        self.host = Host(ERAS[config.era], config.name, config.address, config.deviations)
        self.api = api
        self.services = services
        self.metrics = Metrics()
        self.events = Recorder(api, config.name)
        self.images: set[str] = set()
        self.allocatable = allocatable(self.host)
        self.started = clock.seconds()
        self._index = index
        self._pods: dict[str, Pod] = {}
        self._next_pod_address = 1
        self._tasks: list[asyncio.Task[None]] = []
        self._alive = time.time()

    # -- for pods

    def pod_addresses(self, manifest: dict[str, Any]) -> dict[str, str]:
        """
        A pod's ``hostIP`` and ``podIP``: the node's own for host network.
        """
        own = self.address
        if not manifest["spec"].get("hostNetwork") or self.host.deviates("pod-ip-from-cni"):
            self._next_pod_address = self._next_pod_address % 250 + 1
            own = f"10.244.{self._index % 250}.{self._next_pod_address}"
        return {"hostIP": self.address, "podIP": own}

    def resource_refusal(self, pod: Pod) -> tuple[str, str] | None:
        """
        Reason and message when there is no room for a pod beside those that are here.
        """
        others = [other.manifest["spec"] for other in self._pods.values() if other is not pod and other.takes_room]
        return spec.resource_refusal(pod.manifest["spec"], others, self.allocatable)

    async def affinity_refusal(self, pod_spec: dict[str, Any]) -> tuple[str, str] | None:
        """
        Reason and message when a pod does not want this node, whose labels anyone may have changed.
        """
        node = node_object(self.config, self.host)
        if spec.asks_for_labels(pod_spec):
            try:
                node = await self.api.request("GET", f"/api/v1/nodes/{self.name}")
            except ApiError:
                return "InvalidNodeInfo", "Kubelet cannot get node info."
        return spec.affinity_refusal(pod_spec, node)

    def forget(self, pod: Pod) -> None:
        """
        The pod is over and gone.
        """
        self._pods.pop(pod.uid, None)
        self.events.forget(pod.uid)

    # -- for the server

    def pods(self) -> Iterator[Pod]:
        """
        All pods known now.
        """
        return iter(list(self._pods.values()))

    def pod(self, namespace: str, name: str) -> Pod | None:
        """
        The newest pod of that name.
        """
        wanted = (namespace, name)
        found = [
            pod
            for pod in self._pods.values()
            if (pod.manifest["metadata"]["namespace"], pod.manifest["metadata"]["name"]) == wanted
        ]
        return found[-1] if found else None

    def metrics_text(self) -> str:
        """
        The answer to ``/metrics``.
        """
        running = sum(state.running_since is not None for pod in self._pods.values() for state in pod.states)
        return self.metrics.text(
            {"kubelet_running_pods": len(self._pods), 'kubelet_running_containers{container_state="running"}': running}
        )

    # -- life

    async def register(self) -> None:
        """
        Make the Node object and its Lease, then begin to watch. Raises ApiError.
        """
        now = clock.seconds()
        self.started = now
        body = node_object(self.config, self.host)
        status = node_status(self.config, self.host, now, now)
        try:
            await self.api.request("POST", "/api/v1/nodes", {**body, "status": status})
        except ApiError as error:
            if error.code != 409:
                raise
            patch = {"status": status}
            await self.api.request("PATCH", f"/api/v1/nodes/{self.name}/status", patch, patch="strategic")
        await self._renew()
        # A kubelet refers to its Node by name where a uid is expected.
        about = {"kind": "Node", "name": self.name, "uid": self.name}
        self.events.record(about, NORMAL, "Starting", "Starting kubelet.")
        self._tasks = [
            asyncio.create_task(self._every(RENEW_EVERY, self._stay_alive)),
            asyncio.create_task(self._every(REPORT_EVERY, self._report)),
            asyncio.create_task(self.events.run()),
            asyncio.create_task(
                self.api.watch(
                    "/api/v1/pods", {"fieldSelector": f"spec.nodeName={self.name}"}, self._listed, self._event
                )
            ),
        ]

    async def schedulable(self) -> bool:
        """
        Whether the controllers have seen that the node is ready, and let pods come.
        """
        node = await self.api.request("GET", f"/api/v1/nodes/{self.name}")
        taints = node["spec"].get("taints") or ()
        return not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in taints)

    async def close(self) -> None:
        """
        Stop working, as a node whose kubelet is stopped: nothing is taken back.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(pod.close() for pod in self.pods()), return_exceptions=True)
        await self.api.close()

    async def _every(self, seconds: float, work: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except ApiError as error:
                complain(self.name, f"{error.code} {error}")

    async def _stay_alive(self) -> None:
        """
        Renew the Lease; after a pause in which the controllers may have given the node up, say that it is ready.
        """
        await self._renew()
        now = time.time()
        if now - self._alive > LEASE_SECONDS / 2:
            await self._report()
        self._alive = now

    async def _renew(self) -> None:
        fresh = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": clock.micros(),
        }
        with contextlib.suppress(ApiError):
            await self.api.request("PATCH", f"{_LEASES}/{self.name}", {"spec": fresh}, patch="merge")
            return
        lease = {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": fresh,
        }
        await self.api.request("POST", _LEASES, lease)

    async def _report(self) -> None:
        status = node_status(self.config, self.host, clock.seconds(), self.started)
        await self.api.request("PATCH", f"/api/v1/nodes/{self.name}/status", {"status": status}, patch="strategic")

    async def _listed(self, items: list[dict[str, Any]]) -> None:
        for item in sorted(items, key=lambda item: str(item["metadata"].get("creationTimestamp", ""))):
            self._seen(item)
        present = {item["metadata"]["uid"] for item in items}
        for pod in self.pods():
            if pod.uid not in present:
                pod.gone()

    async def _event(self, kind: str, item: dict[str, Any]) -> None:
        if kind != "DELETED":
            self._seen(item)
        elif pod := self._pods.get(item["metadata"]["uid"]):
            pod.gone()

    def _seen(self, manifest: dict[str, Any]) -> None:
        uid = manifest["metadata"]["uid"]
        manifest["metadata"].pop("managedFields", None)
        if uid in self._pods:
            self._pods[uid].updated(manifest)
            return
        pod = self._pods[uid] = Pod(self, manifest)
        pod.start()
