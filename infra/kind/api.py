"""
What is asked of the API server: a bootstrap token, the manifests, and whether the Windows node is Ready.
"""

from __future__ import annotations

import re
import secrets
import string
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from conformance._suite.cluster import Cluster, RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.waiting import TryAgainError, persistently
from conformance._suite.workload import BASE_IMAGE, bootstrap_command, pack
from infra.kind.control_plane import POD_NETWORK, SERVICE_NETWORK, node_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from conformance._suite.say import Say
    from infra.kind.settings import Settings, Versions

MANIFESTS = Path(__file__).parent / "manifests"
TOKEN_LIFE = timedelta(minutes=30)
JOIN_SECONDS = 180.0
"""From the end of `kubeadm join` to the Node object."""
READY_SECONDS = 900.0
"""Images and the network's binaries are fetched on the way."""
LEAVE_SECONDS = 120.0
_PATIENCE = 10.0  # for a control plane that may be gone
_OURS = {"hostprocess-conformance/target": "kind"}
_SYSTEM = "/api/v1/namespaces/kube-system"
_DAEMON_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
_WINDOWS = ("flannel-windows", "kube-proxy-windows")
_PLACEHOLDER = re.compile(r"\$\{([a-zA-Z.-]+)\}")
_COLLECTIONS = {
    "ServiceAccount": _SYSTEM + "/serviceaccounts",
    "ConfigMap": _SYSTEM + "/configmaps",
    "DaemonSet": _DAEMON_SETS,
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
}


@asynccontextmanager
async def opened(kubeconfig: Path) -> AsyncIterator[Cluster]:
    """
    The cluster while the block runs; a refusal becomes TargetError.
    """
    async with await Cluster.connect(kubeconfig) as cluster:
        try:
            yield cluster
        except RefusedError as error:
            raise TargetError(f"the API server refuses: {error}") from error


async def answers(cluster: Cluster) -> None:
    """
    Raise TargetError unless the API server answers.
    """
    await cluster.must("GET", "/version", seconds=_PATIENCE)


# -- the bootstrap token


async def make_token(cluster: Cluster) -> str:
    """
    A token with which one machine may join; it expires by itself. Those of earlier tries are removed.
    """
    await remove_tokens(cluster)
    letters = string.ascii_lowercase + string.digits
    public, secret = ("".join(secrets.choice(letters) for _ in range(length)) for length in (6, 16))
    await cluster.must(
        "POST",
        f"{_SYSTEM}/secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"bootstrap-token-{public}", "labels": _OURS},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": public,
                "token-secret": secret,
                "expiration": f"{datetime.now(UTC) + TOKEN_LIFE:%Y-%m-%dT%H:%M:%SZ}",
                "usage-bootstrap-authentication": "true",
                # kubeadm's own rules let this group ask for a node's certificate, and approve that by themselves.
                "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
            },
        },
    )
    return f"{public}.{secret}"


async def remove_tokens(cluster: Cluster) -> None:
    """
    Remove every token that ``make_token`` made.
    """
    selector = ",".join(f"{key}={value}" for key, value in _OURS.items())
    await cluster.must("DELETE", f"{_SYSTEM}/secrets", query={"labelSelector": selector}, seconds=_PATIENCE)


# -- manifests


def documents(
    settings: Settings, versions: Versions, digests: Mapping[str, str], resolve: Callable[[str], str]
) -> Iterator[dict[str, Any]]:
    """
    The objects of ``manifests/*.yaml``. ``digests`` are the SHA-256 of ``versions.files``.
    """
    values: dict[str, Any] = {
        "apiAddress": settings.api_address,
        "apiPort": settings.api_port,
        "apiServer": settings.api_url,
        "podNetwork": POD_NETWORK,
        "serviceNetwork": SERVICE_NETWORK,
        "command": list(bootstrap_command()),
        "image.windows": resolve(BASE_IMAGE),
    }
    values.update({f"image.{name}": resolve(image) for name, image in versions.images.items()})
    values.update({f"file.{name}": f"{digests[name]} {versions.files[name].url}" for name in digests})
    values.update({f"script.{path.stem}": pack(path.read_bytes()) for path in MANIFESTS.glob("*.ps1")})
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield _filled(document, values)


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if not isinstance(value, str):
        return value
    if (whole := _PLACEHOLDER.fullmatch(value)) is not None:
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), value)


async def put_network(cluster: Cluster, settings: Settings, objects: Iterator[dict[str, Any]]) -> None:
    """
    Apply the manifests, whatever is there already.
    """
    # Windows nodes send the overlay's packets for the Linux node to this host, which publishes the port.
    annotation = {"flannel.alpha.coreos.com/public-ip-overwrite": settings.api_address}
    await cluster.must(
        "PATCH", f"/api/v1/nodes/{node_name(settings)}", {"metadata": {"annotations": annotation}},
        content_type="application/merge-patch+json", repeatable=True,
    )  # fmt: skip
    for one in objects:
        await cluster.must(
            "PATCH", f"{_COLLECTIONS[one['kind']]}/{one['metadata']['name']}", one,
            query={"fieldManager": "hostprocess-conformance", "force": "true"},
            content_type="application/apply-patch+yaml", repeatable=True,
        )  # fmt: skip


# -- the Windows node


async def joined(cluster: Cluster, name: str) -> None:
    """
    Wait for the Node object. Raises TargetError when it does not come.
    """

    async def look() -> None:
        if await _node(cluster, name) is None:
            raise TryAgainError(name)

    try:
        await persistently(look, JOIN_SECONDS)
    except TryAgainError:
        raise TargetError(
            f"kubeadm joined the machine, and no node {name} came within {JOIN_SECONDS:.0f} s",
            "the kubelet's last errors, if it had any, are in this message",
        ) from None


async def ready(cluster: Cluster, name: str, say: Say) -> None:
    """
    Wait until the node and its network are Ready, and tell what keeps them from that. Raises TargetError with their own
    words.
    """
    said = ""

    async def look() -> None:
        nonlocal said
        why = await _unready(cluster, name)
        if not why:
            return
        if why != said:
            say(f"{name} is not ready yet: {why}")
            said = why
        raise TryAgainError(why)

    try:
        await persistently(look, READY_SECONDS)
    except TryAgainError as error:
        raise TargetError(
            f"the Windows node {name} was not Ready within {READY_SECONDS:.0f} s: {error}",
            "docs/kind.md lists what it needs from the network",
        ) from None


async def is_ready(cluster: Cluster, name: str) -> bool:
    """
    Whether it is Ready now.
    """
    return not await _unready(cluster, name)


async def leave(cluster: Cluster, name: str) -> bool:
    """
    Take what runs on the node away from it, and then the node. Returns whether all of it ended in time.
    """
    for daemon_set in _WINDOWS:
        await cluster.request("DELETE", f"{_DAEMON_SETS}/{daemon_set}", seconds=_PATIENCE)
    if not name or await _node(cluster, name) is None:
        return True
    here = {"fieldSelector": f"spec.nodeName={name}"}
    cordon = {"spec": {"unschedulable": True}}
    await cluster.request(
        "PATCH", f"/api/v1/nodes/{name}", cordon, content_type="application/merge-patch+json", repeatable=True
    )

    async def empty() -> None:
        pods = await cluster.must("GET", "/api/v1/pods", query=here)
        for pod in pods["items"]:
            metadata = pod["metadata"]
            if "deletionTimestamp" not in metadata:
                await cluster.request("DELETE", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}")
        if pods["items"]:
            raise TryAgainError(name)

    try:
        await persistently(empty, LEAVE_SECONDS)
        ended = True
    except TryAgainError:
        ended = False
    await cluster.request("DELETE", f"/api/v1/nodes/{name}")
    return ended


async def _node(cluster: Cluster, name: str) -> dict[str, Any] | None:
    answer = await cluster.request("GET", f"/api/v1/nodes/{name}", seconds=_PATIENCE)
    if answer.code == 404:
        return None
    if answer.code != 200:
        raise RefusedError(f"GET /api/v1/nodes/{name}", answer)
    node: dict[str, Any] = answer.body
    return node


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


async def _unready(cluster: Cluster, name: str) -> str:
    """
    Why the node, or a pod that makes its network, is not Ready, in its own words and those of the containers; empty
    when all are.
    """
    node = await _node(cluster, name)
    if node is None:
        return "it has not registered"
    conditions = {one["type"]: one for one in node["status"].get("conditions", ())}
    state = conditions.get("Ready", {"status": "Unknown", "reason": "none", "message": "it has reported nothing"})
    reasons = [] if state["status"] == "True" else [f"{state.get('reason')}: {state.get('message')}"]
    here = {"fieldSelector": f"spec.nodeName={name}", "labelSelector": f"app in ({','.join(_WINDOWS)})"}
    pods = await cluster.must("GET", f"{_SYSTEM}/pods", query=here)
    for pod in pods["items"]:
        for container in pod.get("status", {}).get("containerStatuses", ()):
            waiting = container["state"].get("waiting") or container["state"].get("terminated") or {}
            if waiting.get("reason") not in {None, "ContainerCreating", "Completed"}:
                reasons.append(f"{container['name']}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": "))
    if not reasons:
        # Before its network runs a node may be Ready all the same: by a configuration that was there before.
        running = {pod["metadata"]["labels"]["app"] for pod in pods["items"] if _is_ready(pod)}
        reasons = [f"{name}: its pod is not Ready" for name in _WINDOWS if name not in running]
    return "; ".join(reason.replace("\n", " ")[:300] for reason in reasons)
