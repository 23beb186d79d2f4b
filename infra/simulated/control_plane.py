"""
The real control plane of the simulated cluster: etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

This module knows their command lines and how to tell that they are ready; ``supervisor`` starts and stops them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from typing import TYPE_CHECKING, Self

import aiohttp

from infra.simulated.certificates import Authority, service_account_keys, write_kubeconfig

if TYPE_CHECKING:
    from pathlib import Path

SERVICE_NETWORK = "10.0.0.0/24"
_FIRST_SERVICE = "10.0.0.1"  # the service `kubernetes`
_LOOPBACK = "127.0.0.1"

# One after another they take their time to start, so only those that something here depends on.
_CONTROLLERS = (
    "daemonset-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "replicaset-controller",
    "deployment-controller",
    "job-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "ttl-after-finished-controller",
    "clusterrole-aggregation-controller",
)


class ControlPlane:
    """
    One control plane with its own certificates, all of whose files lie in ``data`` (only the owner may enter it).

    The API server's port is held from the beginning, for as long as this process lives, and shared with the server, so
    that no other program can take it in between. Nothing else listens on TCP: etcd listens on a unix socket, the others
    not at all.
    """

    def __init__(self, binaries: Path, data: Path) -> None:
        self._binaries = binaries
        self._data = data
        self._port_holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port_holder.bind((_LOOPBACK, 0))
        self._port: int = self._port_holder.getsockname()[1]
        self.url = f"https://{_LOOPBACK}:{self._port}"
        self.egress_socket = data / "egress.sock"

        self.authority = Authority(data)
        self.server = self.authority.issue(
            "server",
            "kube-apiserver",
            names=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
            addresses=(_LOOPBACK, _FIRST_SERVICE),
        )
        self.admin = self.authority.issue("admin", "admin", "system:masters")
        self._kubelet_client = self.authority.issue("kubelet-client", "kube-apiserver", "system:masters")
        self._service_account_public, self._service_account_private = service_account_keys(data)
        self._controller_manager_config = self._client("kube-controller-manager")
        self._scheduler_config = self._client("kube-scheduler")

    def _client(self, name: str) -> Path:
        identity = self.authority.issue(name, f"system:{name}")
        return write_kubeconfig(self._data / f"{name}.kubeconfig", self.url, self.authority.certificate, identity)

    def etcd(self) -> list[str]:
        """
        The command line of etcd. What is lost when the machine fails is of no interest, so it never waits for the disk.
        """
        client, peer = f"unix://{self._data}/etcd.sock", f"unix://{self._data}/peer.sock"
        return [
            str(self._binaries / "etcd"),
            "--name=simulated",
            f"--data-dir={self._data}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=simulated={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def api_server(self) -> list[str]:
        """
        The command line of kube-apiserver. It reaches the nodes, whose addresses exist nowhere, through the node
        process' socket.
        """
        selector = self._data / "egress.json"
        transport = {"uds": {"udsName": str(self.egress_socket)}}
        selector.write_text(
            json.dumps(
                {
                    "apiVersion": "apiserver.k8s.io/v1beta1",
                    "kind": "EgressSelectorConfiguration",
                    "egressSelections": [
                        {"name": "cluster", "connection": {"proxyProtocol": "HTTPConnect", "transport": transport}}
                    ],
                }
            )
        )
        return [
            str(self._binaries / "kube-apiserver"),
            f"--etcd-servers=unix://{self._data}/etcd.sock",
            f"--bind-address={_LOOPBACK}",
            f"--advertise-address={_LOOPBACK}",
            f"--secure-port={self._port}",
            "--permit-port-sharing=true",
            f"--tls-cert-file={self.server.certificate}",
            f"--tls-private-key-file={self.server.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={self._kubelet_client.certificate}",
            f"--kubelet-client-key={self._kubelet_client.key}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--egress-selector-config-file={selector}",
            f"--service-account-key-file={self._service_account_public}",
            f"--service-account-signing-key-file={self._service_account_private}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ]

    def controller_manager(self) -> list[str]:
        """
        The command line of kube-controller-manager.
        """
        config = self._controller_manager_config
        return [
            str(self._binaries / "kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--service-account-private-key-file={self._service_account_private}",
            f"--root-ca-file={self.authority.certificate}",
            # Without it the controller manager may not publish kube-root-ca.crt.
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            f"--controllers={','.join(_CONTROLLERS)}",
        ]

    def scheduler(self) -> list[str]:
        """
        The command line of kube-scheduler.
        """
        config = self._scheduler_config
        return [
            str(self._binaries / "kube-scheduler"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def kubeconfig(self, path: Path, port: int | None = None) -> Path:
        """
        Write the administrator's kubeconfig to ``path``; ``port`` leads through a proxy on that loopback port.
        """
        url = self.url if port is None else f"https://{_LOOPBACK}:{port}"
        return write_kubeconfig(path, url, self.authority.certificate, self.admin)


class Readiness:
    """
    Asks the API server, as its administrator, whether things are there yet. An asynchronous context manager.
    """

    _PAUSE = 0.05  # seconds between two questions, only while starting

    def __init__(self, control_plane: ControlPlane) -> None:
        trust = ssl.create_default_context(cafile=str(control_plane.authority.certificate))
        trust.load_cert_chain(control_plane.admin.certificate, control_plane.admin.key)
        # aiohttp takes no proxy from the environment unless told to.
        self._session = aiohttp.ClientSession(
            control_plane.url,
            connector=aiohttp.TCPConnector(ssl=trust),
            timeout=aiohttp.ClientTimeout(total=5),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def answers(self) -> None:
        """
        Wait until the API server is ready.
        """
        await self._until("/readyz")

    async def populated(self) -> None:
        """
        Wait until pods can be created: the default ServiceAccount and the published root certificate are there.
        """
        await self._until("/api/v1/namespaces/default/serviceaccounts/default")
        await self._until("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")

    async def _until(self, path: str) -> None:
        while True:
            try:
                async with self._session.get(path) as answer:
                    if answer.ok:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass  # not listening yet
            await asyncio.sleep(self._PAUSE)
