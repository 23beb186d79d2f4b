"""
A pod's volumes, written into the model's file system where a Windows kubelet keeps them.

What the simulation leaves out: files are written in place, without the ``..data`` links, and once, when the pod starts;
later changes of a ConfigMap or Secret do not reach a running pod.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.simulated.node import spec
from infra.simulated.node.api import Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.simulated.model.host import Host

PODS = "C:\\var\\lib\\kubelet\\pods"
# The node authorizer learns of a pod a moment after the node does: refusals are asked again from 10 ms, doubling.
_FIRST_RETRY = 0.01
_RETRIES = 8


class MountError(Exception):
    """
    A volume cannot be set up (yet); the text is what the FailedMount event says.
    """


async def patient(api: Api, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    A request that the node may make as soon as the API server's authorizer knows of the pod. Raises ApiError.
    """
    delay = _FIRST_RETRY
    for _ in range(_RETRIES):
        try:
            return await api.request(method, path, body)
        except ApiError as error:
            if error.code != 403 and not (error.code == 404 and method == "POST"):
                raise
        await asyncio.sleep(delay)
        delay *= 2
    return await api.request(method, path, body)


def pod_directory(uid: str) -> str:
    """
    Where the kubelet keeps what belongs to a pod.
    """
    return f"{PODS}\\{uid}"


def volume_directory(uid: str, plugin: str, name: str) -> str:
    """
    Where a volume of the pod is.
    """
    return f"{pod_directory(uid)}\\volumes\\kubernetes.io~{plugin}\\{name}"


def payload(item: dict[str, Any], items: list[dict[str, str]] | None, what: str) -> dict[str, bytes]:
    """
    A ConfigMap's or Secret's files: all keys, or those that ``items`` maps to paths. Raises MountError.
    """
    if what == "secret":
        data = {key: base64.b64decode(value) for key, value in (item.get("data") or {}).items()}
    else:
        data = {key: value.encode() for key, value in (item.get("data") or {}).items()}
        data |= {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()}
    if not items:
        return data
    missing = next((entry["key"] for entry in items if entry["key"] not in data), None)
    if missing is not None:
        raise MountError(f"references non-existent {what} key: {missing}")
    return {entry["path"]: data[entry["key"]] for entry in items}


@dataclass(frozen=True, slots=True)
class Source:
    """
    What a volume's content may come from: the pod, its node, and the API server as that node sees it.
    """

    api: Api
    host: Host
    pod: dict[str, Any]
    addresses: Mapping[str, str]
    allocatable: Mapping[str, str]

    @property
    def namespace(self) -> str:
        """
        The pod's namespace.
        """
        return str(self.pod["metadata"]["namespace"])

    async def object(self, what: str, name: str, *, optional: bool = False) -> dict[str, Any]:
        """
        A ``configmap`` or ``secret`` of the pod's namespace; empty when it is absent and optional. Raises MountError.
        """
        try:
            return await patient(self.api, "GET", f"/api/v1/namespaces/{self.namespace}/{what}s/{name}")
        except ApiError as error:
            if error.code != 404:
                raise MountError(str(error)) from error
            if optional:
                return {}
            raise MountError(f'{what} "{name}" not found') from error

    async def token(self, audience: str | None, seconds: int | None) -> bytes:
        """
        A token of the pod's service account, bound to the pod. Raises MountError.
        """
        metadata = self.pod["metadata"]
        account = self.pod["spec"].get("serviceAccountName") or "default"
        asked: dict[str, Any] = {
            "expirationSeconds": seconds or 3600,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]},
        }
        if audience:
            asked["audiences"] = [audience]
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": asked}
        try:
            made = await patient(self.api, "POST", path, body)
        except ApiError as error:
            raise MountError(f"failed to fetch token: {error}") from error
        token = str(made["status"]["token"])
        if self.host.deviates("token-garbled"):
            # Another character in the middle of the signature: the last one may only carry padding bits.
            at = token.rindex(".") + 10
            token = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        return token.encode()

    def downward(self, items: list[dict[str, Any]]) -> dict[str, bytes]:
        """
        The files of a downwardAPI volume. Raises MountError.
        """
        files = {}
        containers = {c["name"]: c for _, c in spec.all_containers(self.pod["spec"])}
        for item in items:
            try:
                if "fieldRef" in item:
                    text = spec.field(self.pod, item["fieldRef"]["fieldPath"], self.addresses)
                else:
                    selector = item["resourceFieldRef"]
                    text = spec.resource(containers[selector["containerName"]], selector, self.allocatable)
            except (KeyError, ValueError) as error:
                raise MountError(str(error)) from error
            files[item["path"]] = text.encode()
        return files

    async def projected(self, sources: list[dict[str, Any]]) -> dict[str, bytes]:
        """
        The files of a projected volume. Raises MountError.
        """
        files: dict[str, bytes] = {}
        for source in sources:
            if token := source.get("serviceAccountToken"):
                if not self.host.deviates("token-not-mounted"):
                    files[token["path"]] = await self.token(token.get("audience"), token.get("expirationSeconds"))
            elif (wanted := source.get("configMap")) or (wanted := source.get("secret")):
                what = "configmap" if "configMap" in source else "secret"
                found = await self.object(what, wanted["name"], optional=bool(wanted.get("optional")))
                if found or wanted.get("items") is None:
                    files |= payload(found, wanted.get("items"), what)
            elif wanted := source.get("downwardAPI"):
                files |= self.downward(wanted.get("items") or [])
            else:
                raise MountError(f"the simulation does not know the projected source {next(iter(source), '')!r}")
        return files


def _write(host: Host, directory: str, files: Mapping[str, bytes]) -> str:
    host.files.make_directory(directory)
    for path, content in files.items():
        host.files.write(directory + "\\" + path.replace("/", "\\"), content)
    return directory


def _host_path(host: Host, wanted: dict[str, Any]) -> str:
    path = spec.absolute_path(wanted["path"]).replace("/", "\\")
    kind = wanted.get("type") or ""
    there = host.files.exists(path)
    directory = there and host.files.is_directory(path)
    if kind == "DirectoryOrCreate" and not there:
        host.files.make_directory(path)
        directory = there = True
    elif kind == "FileOrCreate" and not there:
        host.files.write(path, b"")
        there = True
    if kind in {"Directory", "DirectoryOrCreate"} and not directory:
        raise MountError(f"hostPath type check failed: {wanted['path']} is not a directory")
    if kind in {"File", "FileOrCreate"} and (not there or directory):
        raise MountError(f"hostPath type check failed: {wanted['path']} is not a file")
    return path


async def set_up(source: Source, volume: dict[str, Any]) -> str | None:
    """
    Make one volume; its path on the host, None when a deviation leaves it out. Raises MountError.
    """
    host, uid, name = source.host, source.pod["metadata"]["uid"], volume["name"]
    if "emptyDir" in volume:
        return _write(host, volume_directory(uid, "empty-dir", name), {})
    if wanted := volume.get("hostPath"):
        return _host_path(host, wanted)
    if wanted := volume.get("configMap"):
        if host.deviates("config-map-not-mounted"):
            return None
        found = await source.object("configmap", wanted["name"], optional=bool(wanted.get("optional")))
        files = payload(found, wanted.get("items") if found else None, "configmap")
        return _write(host, volume_directory(uid, "configmap", name), files)
    if wanted := volume.get("secret"):
        found = await source.object("secret", wanted["secretName"], optional=bool(wanted.get("optional")))
        files = payload(found, wanted.get("items") if found else None, "secret")
        return _write(host, volume_directory(uid, "secret", name), files)
    if "downwardAPI" in volume:
        files = source.downward(volume["downwardAPI"].get("items") or [])
        return _write(host, volume_directory(uid, "downward-api", name), files)
    if "projected" in volume:
        files = await source.projected(volume["projected"].get("sources") or [])
        return _write(host, volume_directory(uid, "projected", name), files)
    kind = next((key for key in volume if key != "name"), "nothing")
    raise MountError(f"the simulation does not know volumes of kind {kind}")
