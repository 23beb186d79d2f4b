"""
Stands in for kind, which needs a container engine: a program that reads the configuration as strictly as kind does, and
hands out a real control plane, whose certificate and address are those that the configuration asks for.

``Engine`` is that control plane, one for many clusters one after another, and the node that a joined machine becomes:
it starts when a machine proves that it holds a bootstrap token that this API server takes.

Run as a program it is either ``kind`` (``FAKE_KIND`` names the engine's folder) or, with ``--engine FOLDER ADDRESS``,
the process behind ``Engine``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import yaml

ROOT = Path(__file__).parent.parent

# What kind prints, word by word.
NO_ENGINE = """\
ERROR: failed to list clusters: command "docker ps -a --filter label=io.x-k8s.kind.cluster" failed with error: exit \
status 1
Command Output: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?
"""
HALF_WAY = """\
Creating cluster ...
 ✗ Starting control-plane
ERROR: failed to create cluster: failed to init node with kubeadm: command "docker exec --privileged \
hostprocess-conformance-control-plane kubeadm init" failed with error: exit status 1
"""
_FIELDS = {
    "": {"kind", "apiVersion", "name", "nodes", "networking", "featureGates", "runtimeConfig", "kubeadmConfigPatches",
         "kubeadmConfigPatchesJSON6902", "containerdConfigPatches", "containerdConfigPatchesJSON6902"},
    "networking": {"ipFamily", "apiServerAddress", "apiServerPort", "podSubnet", "serviceSubnet", "disableDefaultCNI",
                   "kubeProxyMode", "dnsSearch"},
    "node": {"role", "image", "labels", "extraMounts", "extraPortMappings", "kubeadmConfigPatches",
             "kubeadmConfigPatchesJSON6902"},
    "port": {"containerPort", "hostPort", "listenAddress", "protocol"},
}  # fmt: skip


# -- kind


class Complaint(Exception):  # noqa: N818 - kind's word on standard error
    pass


def kind(arguments: list[str]) -> int:
    folder = Path(os.environ["FAKE_KIND"])
    with (folder / "calls").open("a") as file:
        file.write(" ".join(arguments) + "\n")
    fault = (folder / "fault").read_text() if (folder / "fault").exists() else ""
    options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    try:
        if "WINDOWS_PASSWORD" in os.environ:
            raise Complaint("ERROR: this is none of kind's business")  # noqa: TRY301 - told like all others
        match arguments[:2]:
            case ["version"]:
                print("kind v0.20.0 go1.20 linux/amd64" if fault == "old" else "kind v0.33.0 go1.26.1 linux/amd64")
            case _ if fault == "engine":
                raise Complaint(NO_ENGINE)  # noqa: TRY301 - told like all others
            case ["get", "clusters"]:
                print("\n".join(_clusters(folder)) or "No kind clusters found.")
            case ["create", "cluster"]:
                _create(folder, options, fault)
            case ["delete", "cluster"]:
                (folder / "left").write_text(json.dumps(_left(json.loads((folder / "engine.json").read_text()))))
                (folder / "clusters" / options["--name"]).unlink(missing_ok=True)
                print(f'Deleting cluster "{options["--name"]}" ...')
            case _:
                raise Complaint(f'ERROR: unknown command "{arguments}" for "kind"\n')  # noqa: TRY301
    except Complaint as error:
        sys.stderr.write(str(error))
        return 1
    return 0


def _clusters(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "clusters").iterdir())


def _create(folder: Path, options: dict[str, str], fault: str) -> None:
    name, engine = options["--name"], json.loads((folder / "engine.json").read_text())
    if name in _clusters(folder):
        raise Complaint(
            f'ERROR: failed to create cluster: node(s) already exist for a cluster with the name "{name}"\n'
        )
    _check(yaml.safe_load(Path(options["--config"]).read_text()), name, engine)
    lock = Path(options["--kubeconfig"] + ".lock")
    if lock.exists():
        raise Complaint(f"ERROR: failed to create cluster: failed to lock config file: open {lock}: file exists\n")
    if fault == "late":
        lock.touch()
        (folder / "working.new").write_text(str(os.getpid()))
        (folder / "working.new").replace(folder / "working")
        threading.Event().wait(2)  # whoever listens, or does not: then the node's container is there
    (folder / "clusters" / name).touch()  # the node's container is there from now on
    if fault == "half-way":
        raise Complaint(HALF_WAY)
    if fault == "hang":
        while True:  # like kind, it ends when nobody listens any more
            print(" • Starting control-plane", flush=True)
            threading.Event().wait(0.2)
    node = {"metadata": {"name": f"{name}-control-plane", "labels": {"kubernetes.io/os": "linux"}}}
    _ask(engine, "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})
    shutil.copyfile(engine["kubeconfig"], options["--kubeconfig"])
    print(f'Set kubectl context to "kind-{name}"')


def _left(engine: dict[str, Any]) -> list[str]:
    """
    What of the Windows machine the cluster still knows as it is deleted, as GROUP/NAME.
    """
    found = []
    for path in ("/api/v1/nodes", "/api/v1/pods", "/apis/apps/v1/daemonsets", "/api/v1/namespaces/kube-system/secrets"):
        for one in _ask(engine, "GET", path)["items"]:
            metadata, spec = one["metadata"], one.get("spec", {})
            windows = {
                "nodes": metadata.get("labels", {}).get("kubernetes.io/os") != "linux",
                "pods": "-control-plane" not in spec.get("nodeName", "-control-plane"),
                "daemonsets": metadata["name"].endswith("-windows"),
                "secrets": one.get("type") == "bootstrap.kubernetes.io/token",
            }
            group = path.rpartition("/")[2]
            if windows[group]:
                found.append(f"{group}/{metadata['name']}")
    return found


def _check(config: Any, name: str, engine: dict[str, Any]) -> None:
    def known(value: Any, where: str) -> None:
        for field in sorted(set(value) - _FIELDS[where]):
            raise Complaint(f"ERROR: failed to create cluster: unable to decode config: field {field} not found\n")

    known(config, "")
    known(config["networking"], "networking")
    (node,) = config["nodes"]
    known(node, "node")
    (port,) = node["extraPortMappings"]
    known(port, "port")
    network = config["networking"]
    patches = [yaml.safe_load(patch) for patch in config["kubeadmConfigPatches"]]
    (patch,) = (one for one in patches if one["kind"] == "ClusterConfiguration")
    wanted = {
        "apiVersion": config["apiVersion"] == "kind.x-k8s.io/v1alpha4" and config["kind"] == "Cluster",
        "name": config["name"] == name,
        "address": network["apiServerAddress"] == engine["address"],
        "port": network["apiServerPort"] == engine["port"],
        "certificate": engine["address"] in patch["apiServer"]["certSANs"],
        "endpoints": {"name": "endpoint-reconciler-type", "value": "none"} in patch["apiServer"]["extraArgs"],
        "CNI": network["disableDefaultCNI"] is True and network["podSubnet"] == "10.244.0.0/16",
        "node": node["role"] == "control-plane" and "@sha256:" in node["image"],
        "overlay": port
        == {"containerPort": 4789, "hostPort": 4789, "listenAddress": engine["address"], "protocol": "UDP"},
    }
    for what, right in wanted.items():
        if not right:
            raise Complaint(f"ERROR: failed to create cluster: this configuration is wrong: {what}\n")


def _ask(engine: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    context = ssl.create_default_context(cafile=engine["ca"])
    context.load_cert_chain(engine["certificate"], engine["key"])
    request = urllib.request.Request(
        engine["url"] + path,
        json.dumps(body).encode() if body else None,
        {"Content-Type": "application/json"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return None


# -- the engine


class Engine:
    """
    A control plane on ``address``; ``program`` is the folder with the ``kind`` to put on PATH.
    """

    def __init__(self, address: str, binaries: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fake-kind-"))
        (self.folder / "clusters").mkdir()
        self.program = self.folder / "bin"
        self.program.mkdir()
        script = self.program / "kind"
        script.write_text(f'#!/bin/sh\nFAKE_KIND={self.folder} exec {sys.executable} {Path(__file__)} "$@"\n')
        script.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--engine", str(self.folder), address, str(binaries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self.facts: dict[str, Any] = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the engine ended"}')
        assert "error" not in answer, answer
        return answer

    def _tell(self, **command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        self._answer()

    @property
    def left(self) -> list[str]:
        """
        What of the Windows machine was still in the cluster that was deleted last.
        """
        path = self.folder / "left"
        found: list[str] = json.loads(path.read_text()) if path.exists() else []
        return found

    @property
    def clusters(self) -> list[str]:
        return _clusters(self.folder)

    def fault(self, name: str) -> None:
        (self.folder / "fault").write_text(name)

    def _faulty(self, name: str) -> bool:
        path = self.folder / "fault"
        return path.exists() and path.read_text() == name

    def kubelet(self, discovery: str, node: str) -> None:
        """
        What a kubelet does that was given this discovery file: it shows its token to the API server, and becomes a node
        if that lets it. Raises PermissionError when it does not.
        """
        config = yaml.safe_load(discovery)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        with tempfile.NamedTemporaryFile(suffix=".crt") as authority:
            authority.write(base64.b64decode(cluster["certificate-authority-data"]))
            authority.flush()
            context = ssl.create_default_context(cafile=authority.name)
        request = urllib.request.Request(
            f"{cluster['server']}/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode(),
            {"Authorization": f"Bearer {user['token']}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=30) as answer:
                groups = json.load(answer)["status"]["userInfo"]["groups"]
        except urllib.error.HTTPError as error:
            raise PermissionError(f"the API server answers {error.code}") from error
        if "system:bootstrappers:kubeadm:default-node-token" not in groups:
            raise PermissionError(f"this token is only in {groups}")
        if self._faulty("unready"):
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
            _ask(self.facts, "POST", "/api/v1/nodes", body)
        else:
            self._tell(start=node)

    def kubelet_stopped(self) -> None:
        self._tell(stop="")


async def _engine(folder: Path, address: str, binaries: Path) -> None:
    from infra.simulated import control_plane as module
    from infra.simulated.supervisor import Family, _node_config

    module._LOOPBACK = address
    data = folder / "data"
    data.mkdir()
    control_plane = module.ControlPlane(binaries, data)
    family = Family(data)
    node: asyncio.subprocess.Process | None = None
    try:
        await family.start("etcd", control_plane.etcd())
        await family.start("kube-apiserver", [*control_plane.api_server(), "--enable-bootstrap-token-auth=true"])
        async with module.Readiness(control_plane) as readiness:
            await readiness.answers()
            await family.start("kube-controller-manager", control_plane.controller_manager())
            await family.start("kube-scheduler", control_plane.scheduler())
            await readiness.populated()
        facts = {
            "address": address,
            "port": int(control_plane.url.rpartition(":")[2]),
            "url": control_plane.url,
            "kubeconfig": str(control_plane.kubeconfig(data / "kubeconfig")),
            "ca": str(control_plane.authority.certificate),
            "certificate": str(control_plane.admin.certificate),
            "key": str(control_plane.admin.key),
        }
        (folder / "engine.json").write_text(json.dumps(facts))
        print(json.dumps(facts), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            if node is not None:
                node.terminate()
                await node.wait()
                node = None
            if name := command.get("start"):
                taints: list[dict[str, str]] = []
                one = {"name": name, "era": "2.3", "address": "10.240.0.4", "deviations": [], "taints": taints}
                config = data / "node.json"
                config.write_text(json.dumps(_node_config({"nodes": [one]}, control_plane)))
                node = await asyncio.create_subprocess_exec(
                    sys.executable, __file__, "--node", str(config), stdout=asyncio.subprocess.PIPE
                )
                assert node.stdout is not None
                await node.stdout.readline()
            print("{}", flush=True)
    finally:
        if node is not None:
            node.terminate()
            await node.wait()
        await family.stop()
        family.release()


# -- the node


class _Network:
    """
    In place of flannel.ps1 and kube-proxy.ps1 on the simulated node: they run until their pod ends.
    """

    FACTS: ClassVar[dict[str, Any]] = {}

    @staticmethod
    async def after(_: Any) -> None:
        await asyncio.Event().wait()


def _node(config: str) -> int:
    from infra.kind.api import MANIFESTS
    from infra.simulated.model import twins
    from infra.simulated.node.__main__ import main

    ours = {hashlib.sha256(path.read_bytes()).hexdigest() for path in MANIFESTS.glob("*.ps1")}
    find, network = twins.find, cast("twins.Twin", _Network)
    twins.find = lambda workloads, digest: network if digest in ours else find(workloads, digest)
    return main([config])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node"]:
        sys.exit(_node(sys.argv[2]))
    if sys.argv[1:2] == ["--engine"]:
        asyncio.run(_engine(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
    else:
        sys.exit(kind(sys.argv[1:]))
