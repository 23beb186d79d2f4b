"""
A loopback Azure Resource Manager over https: keeps state, runs long operations, and refuses what the real one refuses.
Long operations go forward with each look at them, not with time: a test waits for nothing.

Written from the REST reference and the SDK's models; nothing here was compared with the real service.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import itertools
import json
import re
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

from azure.mgmt.containerservice import models, types
from azure.mgmt.containerservice._configuration import ContainerServiceClientConfiguration
from azure.mgmt.resource.resources._configuration import ResourceManagementClientConfiguration

from infra.simulated.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
REGIONS = {"westeurope": "West Europe", "northeurope": "North Europe", "eastus2": "East US 2"}
KUBERNETES = {"1.31": ["1.31.9"], "1.34": ["1.34.1", "1.34.2"], "1.35": ["1.35.0"], "1.36": ["1.36.1"]}
DEFAULT_KUBERNETES = "1.35"
IMAGES = {
    "Windows2019": "AKSWindows-2019-containerd-17763.7792.261110",
    "Windows2022": "AKSWindows-2022-containerd-20348.4405.261110",
    "Windows2025": "AKSWindows-2025-containerd-26100.6899.261110",
}
WINDOWS_2022_ENDS = (1, 36)
LONG_TERM = "1.31"
"""Only for clusters of the premium tier."""
API_VERSIONS = {
    one: kind(cast("Any", object()), SUBSCRIPTION).api_version
    for one, kind in (
        ("containerservice", ContainerServiceClientConfiguration),
        ("resources", ResourceManagementClientConfiguration),
    )
}
ROUTES = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)"
    r"(?P<rest>/resourcegroups(?:/(?P<group>[^/]+)(?:/providers/microsoft\.containerservice"
    r"/(?P<kind>managedclusters|snapshots)/(?P<name>[^/]+)(?:/(?P<sub>agentpools|listclusterusercredential)"
    r"(?:/(?P<pool>[^/]+))?)?)?)?"
    r"|/providers/microsoft\.containerservice(?:/locations/(?P<location>[^/]+)"
    r"/(?P<what>kubernetesversions|operations)(?:/(?P<operation>[^/]+))?)?"
    r"|/operationresults/(?P<result>[^/]+))$",
    re.IGNORECASE,
)


class Refusal(Exception):  # noqa: N818 - an answer, not an error of this program
    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}
        self.details: list[dict[str, Any]] = []

    def shown(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, **({"details": self.details} if self.details else {})}


@dataclass
class Fault:
    """
    Refuses the next ``times`` requests whose ``METHOD path`` matches; if ``late``, begins them well and ends them so.
    """

    pattern: str
    refusal: Refusal
    times: float
    late: bool = False

    def hits(self, request: str, *, late: bool) -> bool:
        if self.late is not late or self.times < 1 or not re.search(self.pattern, request, re.IGNORECASE):
            return False
        self.times -= 1
        return True


@dataclass
class Operation:
    """
    Something under way: after ``polls`` looks it has ended, well or with ``failure``.
    """

    polls: float
    done: Callable[[], None]
    failure: Refusal | None = None
    state: str = "InProgress"

    def look(self) -> str:
        self.polls -= 1
        if self.state == "InProgress" and self.polls <= 0:
            self.state = "Failed" if self.failure else "Succeeded"
            self.done()
        return self.state


@dataclass
class Group:
    location: str
    tags: dict[str, str]
    managed_by: str | None = None
    clusters: dict[str, dict[str, Any]] = field(default_factory=dict)
    deletion: Operation | None = None


def _kubeconfig(url: str, authority: bytes) -> bytes:
    """
    For the API server of every cluster that is made: it is played here, too, and only lists nodes.
    """
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(authority).decode()}
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "hpc",
        "clusters": [{"name": "hpc", "cluster": cluster}], "users": [{"name": "hpc", "user": {}}],
        "contexts": [{"name": "hpc", "context": {"cluster": "hpc", "user": "hpc"}}],
    }).encode()  # fmt: skip


class LoopbackArm:
    """
    Use as a context manager; ``url`` and ``ca_file`` lead to it. Attributes below are what a test changes.
    """

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.ca_file = authority.certificate
        identity = authority.issue("arm", "arm", addresses=["127.0.0.1"])
        self.polls = 2
        self.tokens = {"token-0"}
        """The tokens that are good; a request with another one is 401."""
        self.faults: list[Fault] = []
        self.never_ending = ""
        """Pattern of METHOD path whose operations never end."""
        self.retry_after: dict[str, str] = {}
        self.registered = "Registered"
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.arrived: Callable[[str], None] = lambda _request: None
        """Called with METHOD path when a request has come, and has had no effect so far."""
        self.seen: Callable[[str, int], None] = lambda _request, _status: None
        """Called with METHOD path and the status when a request has had its effect and before it is answered."""
        self.requests: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        """What was put, with METHOD path."""
        self.refused: list[str] = []
        self.groups: dict[str, Group] = {}
        self._operations: dict[str, Operation] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        self.connections = Connections()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self.kubeconfig = _kubeconfig(self.url, self.ca_file.read_bytes())
        self.nodes: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda nodes: nodes
        """What becomes of the nodes of all pools, in the answers of the clusters' API server."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def refuse(self, pattern: str, status: int, code: str, message: str, times: int = 1, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, Refusal(status, code, message, named), times))

    def fail_late(self, pattern: str, code: str, message: str, *inner: dict[str, Any], times: float = 1) -> None:
        refusal = Refusal(409, code, message)
        refusal.details = list(inner)
        self.faults.append(Fault(pattern, refusal, times, late=True))

    def add_snapshot(self, name: str, location: str, os_sku: str, kubernetes: str, image: str) -> str:
        ident = (
            f"/subscriptions/{SUBSCRIPTION}/resourceGroups/images/providers/Microsoft.ContainerService/snapshots/{name}"
        )
        self.snapshots[ident.lower()] = {
            "id": ident, "name": name, "location": location, "type": "Microsoft.ContainerService/snapshots",
            "properties": {"osType": "Windows" if os_sku.startswith("Windows") else "Linux", "osSku": os_sku,
                           "kubernetesVersion": kubernetes, "nodeImageVersion": image, "vmSize": "Standard_D8s_v5",
                           "snapshotType": "NodePool", "enableFIPS": False},
        }  # fmt: skip
        return ident

    def changes(self) -> list[str]:
        """
        The requests that change something.
        """
        return [one for one in self.requests if one.startswith(("PUT", "DELETE"))]

    # -- answering

    def answer(self, method: str, target: str, token: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        parts = urlsplit(target)
        path, query = unquote(parts.path), {name: values[0] for name, values in parse_qs(parts.query).items()}
        request = f"{method} {path}"
        if path == "/api/v1/nodes":
            return 200, {"kind": "NodeList", "items": self.nodes(self._nodes())}, {}
        self.arrived(request)
        with self._lock:
            if body is not None:
                self.bodies.append((request, body))
            try:
                self._admit(request, token, query)
                status, answer, headers = self._route(method, path, query, body)
            except Refusal as refusal:
                self.refused.append(f"{request}: {refusal.code}")
                status, answer, headers = refusal.status, {"error": refusal.shown()}, refusal.headers
        self.seen(request, status)
        return status, answer, headers

    def _nodes(self) -> list[dict[str, Any]]:
        with self._lock:
            pools = [
                pool for group in self.groups.values() for one in group.clusters.values()
                for pool in one["properties"]["pools"].values()
            ]  # fmt: skip
        return [
            {"metadata": {"name": f"aks{pool['name']}{number:06}", "labels": {"kubernetes.io/os": "windows"}},
             "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
            for pool in pools for number in range(pool["properties"]["count"])
        ]  # fmt: skip

    def _admit(self, request: str, token: str, query: dict[str, str]) -> None:
        if token not in self.tokens:
            challenge = {"WWW-Authenticate": 'Bearer error="invalid_token", error_description="It is expired."'}
            raise Refusal(401, "ExpiredAuthenticationToken", "The token's expiry is in the past.", challenge)
        self.requests.append(request)
        for fault in self.faults:
            if fault.hits(request, late=False):
                raise fault.refusal
        version = API_VERSIONS["containerservice" if "/providers/microsoft.containerservice/" in request.lower()
                               else "resources"]  # fmt: skip
        if query.get("api-version") != version:
            raise Refusal(400, "InvalidApiVersionParameter", f"The api-version is not {version}.")

    def _route(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        found = ROUTES.match(path)
        if found is None:
            raise Refusal(404, "InvalidResourceType", f"The resource type could not be found: {path}")
        part = found.groupdict()
        if part["subscription"] != SUBSCRIPTION:
            raise Refusal(404, "SubscriptionNotFound", f"The subscription '{part['subscription']}' could not be found.")
        if part["result"]:
            operation = self._operations[part["result"]]
            state = operation.look()
            if operation.failure and state == "Failed":
                raise operation.failure
            again = {"Location": self._link(path)}
            return (200, None, {}) if state == "Succeeded" else (202, None, {**again, **self._pace("GET", path)})
        if part["operation"]:
            return self._operation(part["operation"])
        if part["what"]:
            return 200, _kubernetes_versions(), {}
        if "/resourcegroups" not in path.lower():
            return 200, self._provider(), {}
        if not part["group"]:
            return 200, self._listing(query), {}
        if part["kind"] == "snapshots":
            if path.lower() not in self.snapshots:
                raise Refusal(404, "ResourceNotFound", f"The Resource '{part['name']}' was not found.")
            return 200, self.snapshots[path.lower()], {}
        if part["kind"]:
            return self._cluster(method, path, part, body)
        return self._group(method, path, part["group"], body)

    def _provider(self) -> dict[str, Any]:
        kinds = [{"resourceType": "managedClusters", "locations": list(REGIONS.values())}]
        return {"namespace": "Microsoft.ContainerService", "registrationState": self.registered, "resourceTypes": kinds}

    def _operation(self, number: str) -> tuple[int, Any, dict[str, str]]:
        operation = self._operations[number]
        state = operation.look()
        answer: dict[str, Any] = {"name": number, "status": state}
        if operation.failure and state == "Failed":
            answer["error"] = operation.failure.shown()
        return 200, answer, {} if state != "InProgress" else self._pace("GET", "operations")

    def _group(self, method: str, path: str, name: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        name = next((known for known in self.groups if known.lower() == name.lower()), name)
        group = self.groups.get(name)
        if method == "PUT":
            if body["location"] not in REGIONS:
                raise Refusal(400, "LocationNotAvailableForResourceGroup",
                              f"The provided location '{body['location']}' is not available.")  # fmt: skip
            if len(name) > 90 or any(len(value) > 256 for value in body.get("tags", {}).values()):
                raise Refusal(400, "InvalidParameter", "a name or a tag is too long")
            if group is None:
                self.groups[name] = Group(body["location"], body.get("tags", {}))
                return 201, self._shown(name), {}
            if group.deletion:
                raise Refusal(409, "ResourceGroupBeingDeleted", f"The resource group '{name}' is being deleted.")
            if group.location != body["location"]:
                raise Refusal(409, "InvalidResourceGroupLocation", f"The resource group is in '{group.location}'.")
            group.tags = body.get("tags", {})
            return 200, self._shown(name), {}
        if group and group.deletion and method == "GET":
            group.deletion.look()
        if name not in self.groups or group is None:
            raise Refusal(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        if method == "DELETE":
            if group.deletion:
                raise Refusal(409, "ResourceGroupBeingDeleted", f"The resource group '{name}' is being deleted.")

            def done() -> None:
                if operation.failure:
                    self.groups[name].deletion = None
                else:
                    self._remove(name)

            number, operation = self._begin(f"{method} {path}", done)
            group.deletion = operation
            headers = {"Location": self._link(f"/subscriptions/{SUBSCRIPTION}/operationresults/{number}")}
            return 202, None, {**headers, **self._pace(method, path)}
        return 200, self._shown(name), {}

    def _remove(self, name: str) -> None:
        for cluster in self.groups.pop(name).clusters.values():
            self.groups.pop(cluster["properties"]["nodeResourceGroup"], None)

    def _listing(self, query: dict[str, str]) -> dict[str, Any]:
        names = sorted(self.groups)
        if wanted := query.get("$filter"):
            found = re.fullmatch(r"tagName eq '([^']+)' and tagValue eq '([^']+)'", wanted)
            if found is None:
                raise Refusal(400, "InvalidFilterInQueryString", f"Invalid $filter '{wanted}'.")
            names = [name for name in names if self.groups[name].tags.get(found[1]) == found[2]]
        # Two to a page, so that whoever lists has to turn pages.
        begin = int(query.get("$skiptoken", "0"))
        page: dict[str, Any] = {"value": [self._shown(name) for name in names[begin : begin + 2]]}
        if names[begin + 2 :]:
            path = f"/subscriptions/{SUBSCRIPTION}/resourcegroups?$filter={wanted}&$skiptoken={begin + 2}"
            page["nextLink"] = self._link(path).replace(" ", "%20")
        return page

    def _shown(self, name: str) -> dict[str, Any]:
        group = self.groups[name]
        return {
            "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}", "name": name, "location": group.location,
            "tags": group.tags, "managedBy": group.managed_by,
            "properties": {"provisioningState": "Deleting" if group.deletion else "Succeeded"},
        }  # fmt: skip

    def _cluster(self, method: str, path: str, part: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        if part["group"] not in self.groups:
            raise Refusal(404, "ResourceGroupNotFound", f"Resource group '{part['group']}' could not be found.")
        group = self.groups[part["group"]]
        if method == "PUT" and group.deletion:
            raise Refusal(409, "ResourceGroupBeingDeleted", f"The resource group '{part['group']}' is being deleted.")
        if method == "PUT" and not part["sub"]:
            return self._put_cluster(path, part, group, body)
        if part["name"] not in group.clusters:
            raise Refusal(404, "ResourceNotFound", f"The Resource '{part['name']}' was not found.")
        cluster = group.clusters[part["name"]]
        if (part["sub"] or "").lower() == "listclusterusercredential":
            if method != "POST" or cluster["properties"]["provisioningState"] != "Succeeded":
                raise Refusal(400, "BadRequest", "the cluster is not ready")
            value = base64.b64encode(self.kubeconfig).decode()
            return 200, {"kubeconfigs": [{"name": "clusterUser", "value": value}]}, {}
        if part["pool"]:
            return self._pool(method, path, part, cluster, body)
        if method != "GET":
            raise Refusal(405, "MethodNotAllowed", f"{method} of a cluster is not played here.")
        return 200, cluster, {}

    def _put_cluster(self, path: str, part: dict[str, str], group: Group, body: Any) -> tuple[int, Any, dict[str, str]]:
        require_known(body, types.ManagedCluster)
        wanted = body["properties"]
        there = group.clusters.get(part["name"])
        if there and there["properties"]["provisioningState"] == "Creating":
            raise Refusal(409, "OperationNotAllowed", "There is an in progress create managed cluster operation.")
        if body["location"] not in REGIONS:
            raise Refusal(400, "InvalidLocation", f"The location '{body['location']}' is not known.")
        if (
            not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,52}[A-Za-z0-9])?", wanted.get("dnsPrefix", ""))
            or body.get("identity", {}).get("type") != "SystemAssigned"
        ):
            raise Refusal(400, "InvalidParameter", "a fitting dnsPrefix and an identity are required.")
        version = wanted.get("kubernetesVersion", DEFAULT_KUBERNETES)
        if version not in KUBERNETES and not any(version in patches for patches in KUBERNETES.values()):
            raise Refusal(400, "K8sVersionNotSupported", f"Version {version} is not supported in this region.")
        if version.startswith(LONG_TERM):
            raise Refusal(400, "K8sVersionNotSupported", f"Version {version} needs the premium tier.")
        pools = wanted.get("agentPoolProfiles", [])
        if not any(pool.get("mode") == "System" and pool.get("osType") == "Linux" for pool in pools):
            raise Refusal(400, "InvalidParameter", "There has to be at least one system agent pool, and it is Linux.")
        shown = {
            **body, "id": path, "name": part["name"],
            "properties": {**wanted, "kubernetesVersion": version, "provisioningState": "Creating", "pools": {}},
        }  # fmt: skip
        for pool in pools:
            self._check_pool(shown, pool["name"], pool)
        nodes = f"MC_{part['group']}_{part['name']}_{body['location']}"
        if len(nodes) > 80:
            raise Refusal(400, "InvalidParameter", "The length of the node resource group name is too long.")
        shown["properties"]["nodeResourceGroup"] = nodes
        group.clusters[part["name"]] = shown
        self.groups[nodes] = Group(body["location"], dict(body.get("tags", {})), managed_by=path)
        return self._begun("PUT", path, shown, shown["properties"])

    def _pool(
        self, method: str, path: str, part: dict[str, str], cluster: dict[str, Any], body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        pools, name = cluster["properties"]["pools"], part["pool"]
        if method != "PUT":
            return 200, pools[name], {}
        if cluster["properties"]["provisioningState"] != "Succeeded" or any(
            pool["properties"]["provisioningState"] == "Creating" for pool in pools.values()
        ):
            raise Refusal(409, "OperationNotAllowed", "Operation is not allowed: Another agentpool operation is in "
                          "progress, please wait for it to finish before starting a new operation.")  # fmt: skip
        require_known(body, types.AgentPool)
        wanted = body["properties"]
        self._check_pool(cluster, name, wanted)
        snapshot = self.snapshots.get(wanted.get("creationData", {}).get("sourceResourceId", "").lower())
        image = snapshot["properties"]["nodeImageVersion"] if snapshot else IMAGES[wanted["osSKU"]]
        version = wanted.get("orchestratorVersion", cluster["properties"]["kubernetesVersion"])
        pools[name] = {
            "id": path, "name": name,
            "properties": {**wanted, "provisioningState": "Creating", "nodeImageVersion": image,
                           "currentOrchestratorVersion": version},
        }  # fmt: skip
        return self._begun("PUT", path, pools[name], pools[name]["properties"])

    def _check_pool(self, cluster: dict[str, Any], name: str, wanted: dict[str, Any]) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", name):
            raise Refusal(400, "InvalidParameter", f"The pool name {name!r} is not valid.")
        if not isinstance(wanted.get("count"), int) or not wanted.get("vmSize"):
            raise Refusal(400, "InvalidParameter", "count and vmSize are required.")
        if wanted.get("osType") == "Windows":
            if len(name) > 6:
                raise Refusal(400, "InvalidParameter", f"Windows agent pool name can not be longer than 6: {name!r}.")
            if wanted.get("mode") != "User":
                raise Refusal(400, "InvalidParameter", "System node pools must be Linux.")
            network = cluster["properties"].get("networkProfile", {})
            if network.get("networkPlugin") != "azure":
                raise Refusal(400, "AzureCNIOnlyForWindows", "Windows agent pools need Azure CNI.")
            if wanted.get("type") != "VirtualMachineScaleSets" or network.get("loadBalancerSku") != "standard":
                raise Refusal(400, "InvalidParameter", "Windows agent pools need scale sets and a standard balancer.")
            if wanted.get("osSKU") not in IMAGES:
                raise Refusal(400, "InvalidOSSKU", f"OSSKU {wanted.get('osSKU')!r} is invalid.")
            version = tuple(int(number) for number in cluster["properties"]["kubernetesVersion"].split(".")[:2])
            if wanted["osSKU"] == "Windows2022" and version >= WINDOWS_2022_ENDS:
                raise Refusal(400, "InvalidOSSKU", "Windows2022 is not supported with this Kubernetes version.")
        if source := wanted.get("creationData", {}).get("sourceResourceId"):
            snapshot = self.snapshots.get(source.lower())
            if snapshot is None or snapshot["location"] != cluster["location"]:
                raise Refusal(400, "InvalidParameter", "The snapshot is not in this region.")

    def _begun(
        self, method: str, path: str, shown: dict[str, Any], properties: dict[str, Any]
    ) -> tuple[int, Any, dict[str, str]]:
        def done() -> None:
            properties["provisioningState"] = "Failed" if operation.failure else "Succeeded"

        number, operation = self._begin(f"{method} {path}", done)
        link = self._link(
            f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.ContainerService/locations/any/operations/{number}"
        )
        return 201, json.loads(json.dumps(shown)), {"Azure-AsyncOperation": link, **self._pace(method, path)}

    def _begin(self, request: str, done: Callable[[], None]) -> tuple[str, Operation]:
        number = f"op-{next(self._numbers)}"
        endless = self.never_ending and re.search(self.never_ending, request)
        failure = next((fault.refusal for fault in self.faults if fault.hits(request, late=True)), None)
        self._operations[number] = Operation(float("inf") if endless else self.polls, done, failure)
        return number, self._operations[number]

    def _pace(self, method: str, path: str) -> dict[str, str]:
        found = [pause for pattern, pause in self.retry_after.items() if re.search(pattern, f"{method} {path}")]
        return {"Retry-After": found[0]} if found else {}

    def _link(self, path: str) -> str:
        kind = "containerservice" if "ContainerService" in path else "resources"
        return f"{self.url}{path}{'&' if '?' in path else '?'}api-version={API_VERSIONS[kind]}"


def require_known(body: Mapping[str, Any], kind: Any) -> None:
    """
    Every name in the body is one that the SDK's own type for it has, and every value of an enumeration one of its.
    """
    for name, value in body.items():
        if name not in kind.__annotations__:
            raise Refusal(400, "UnmarshalError", f"unknown field {name} of {kind.__name__}")
        words = re.findall(r"\w+", str(kind.__annotations__[name]))
        inner = [getattr(types, word) for word in words if hasattr(getattr(types, word, None), "__required_keys__")]
        sets = [getattr(models, word) for word in words if isinstance(getattr(models, word, None), enum.EnumMeta)]
        if sets and value not in {one.value for one in sets[0]}:
            raise Refusal(400, "InvalidParameter", f"{name} cannot be {value!r}")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and inner:
                require_known(item, inner[0])


def _kubernetes_versions() -> dict[str, Any]:
    return {
        "values": [
            {"version": minor, "isDefault": minor == DEFAULT_KUBERNETES,
             "capabilities": {"supportPlan": ["AKSLongTermSupport"] if minor == LONG_TERM
                              else ["KubernetesOfficial", "AKSLongTermSupport"]},
             "patchVersions": {patch: {"upgrades": []} for patch in patches}}
            for minor, patches in KUBERNETES.items()
        ]
    }  # fmt: skip


class Connections:
    """
    How many there are: a request of a killed program that is on its way is still answered.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        with self._changed:
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def wait_until_closed(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, 30)


def _handler(arm: LoopbackArm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: else each waits for the other side's acknowledgement
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with arm.connections.begun():
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # the other side was killed, which is what a test is about

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer, headers = arm.answer(self.command, self.path, token, body)
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = respond  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    return Handler
