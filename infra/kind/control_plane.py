"""
The control plane: a cluster of one Linux node, made by the ``kind`` on PATH.
"""

from __future__ import annotations

import base64
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import yaml

from conformance._suite.errors import TargetError
from conformance._suite.redact import redact
from conformance._suite.versions import comes_before
from infra.kind.settings import PASSWORD
from infra.kind.state import write_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.kind.settings import Settings, Versions

POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
VXLAN_PORT = 4789
CREATE_SECONDS = 900.0
"""With the node image to pull; 1 to 3 minutes when it is there."""
_SECONDS = 120.0
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_GET_KIND = "install it (https://kind.sigs.k8s.io/docs/user/quick-start/#installation), and put it on PATH"
_ENGINE_SIGNS = ("docker daemon", "docker info", "podman info", "nerdctl info", "docker ps", "podman ps", "nerdctl ps")


def configuration(settings: Settings, versions: Versions, resolve: Callable[[str], str]) -> str:
    """
    The kind configuration, as YAML.

    The API server answers at an address that the Windows machine can reach, with that in its certificate. It must not
    tell its own idea of its address, one on Docker's network, to pods: ``manifests/api-server.yaml`` tells them. UDP
    4789 is published because the overlay's packets come from the Windows machine, which has no way to Docker's network.
    """
    patch = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "apiServer": {
            "certSANs": ["localhost", "127.0.0.1", settings.api_address, *settings.certificate_names],
            "extraArgs": [{"name": "endpoint-reconciler-type", "value": "none"}],
        },
    }
    published = {
        "containerPort": VXLAN_PORT,
        "hostPort": VXLAN_PORT,
        "listenAddress": settings.api_address,
        "protocol": "UDP",
    }
    document = {
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kind": "Cluster",
        "name": settings.name,
        "networking": {
            "ipFamily": "ipv4",
            "apiServerAddress": settings.api_address,
            "apiServerPort": settings.api_port,
            "disableDefaultCNI": True,
            "podSubnet": POD_NETWORK,
            "serviceSubnet": SERVICE_NETWORK,
        },
        "nodes": [
            {"role": "control-plane", "image": resolve(versions.images["node"]), "extraPortMappings": [published]}
        ],
        "kubeadmConfigPatches": [yaml.safe_dump(patch, sort_keys=False)],
    }
    return yaml.safe_dump(document, sort_keys=False)


def node_name(settings: Settings) -> str:
    """
    What kind calls the Linux node.
    """
    return f"{settings.name}-control-plane"


def require(versions: Versions) -> None:
    """
    Raise TargetError that says how to get it when kind, one that is new enough, or a container engine is missing.
    """
    said = _kind("version", seconds=_SECONDS)
    found = re.search(r"v\d+\.\d+\.\d+", said)
    if found is None:
        raise TargetError(f"`kind version` says {said.strip()[:80]!r}: that is not kind", _GET_KIND)
    if comes_before(found[0], versions.oldest_kind):
        raise TargetError(f"kind {found[0]} is too old", f"install {versions.oldest_kind} or newer")
    _clusters()


def require_own_address(settings: Settings) -> None:
    """
    Raise TargetError when the API address is not one of this host.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((settings.api_address, 0))
    except OSError as error:
        raise TargetError(
            f"--kind-api-address {settings.api_address} is no address of this host: {error.strerror}",
            "`ip -4 address` lists them",
        ) from error


def exists(name: str) -> bool:
    """
    Whether kind has a cluster of this name. Raises TargetError when no container engine answers.
    """
    return name in _clusters()


def _clusters() -> list[str]:
    return _kind("get", "clusters", seconds=_SECONDS).splitlines()


def create(settings: Settings, config: str, kubeconfig: Path) -> None:
    """
    Make the cluster and write its administrator's kubeconfig. Raises TargetError with kind's own words.
    """
    file = kubeconfig.with_name("config.yaml")
    write_secret(file, config)
    _kind(
        "create", "cluster", "--name", settings.name, "--config", str(file), "--kubeconfig", str(kubeconfig),
        seconds=CREATE_SECONDS,
    )  # fmt: skip
    try:
        written = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        written["clusters"][0]["cluster"]["server"] = settings.api_url
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise TargetError(f"kind wrote no usable kubeconfig: {error}") from error
    write_secret(kubeconfig, yaml.safe_dump(written))


def delete(settings: Settings, kubeconfig: Path) -> None:
    """
    Remove the cluster, whole or half-made, and its files.
    """
    if exists(settings.name):
        aside = kubeconfig.with_name("deleted")  # kind takes the cluster out of a kubeconfig: never out of the user's
        _kind("delete", "cluster", "--name", settings.name, "--kubeconfig", str(aside), seconds=_SECONDS)
    # A kind that was killed leaves its locks, and would stumble over them.
    for name in ("kubeconfig", "kubeconfig.lock", "config.yaml", "deleted", "deleted.lock"):
        kubeconfig.with_name(name).unlink(missing_ok=True)


def discovery(settings: Settings, kubeconfig: Path) -> str:
    """
    The file by which a machine finds and trusts the API server: a kubeconfig without any user. kubeadm goes on with
    this address, and not with the one in ``cluster-info``, a name that only Docker knows.
    """
    written: dict[str, Any] = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    authority = written["clusters"][0]["cluster"]["certificate-authority-data"]
    base64.b64decode(authority, validate=True)
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "", "cluster": {"server": settings.api_url, "certificate-authority-data": authority}}
            ],
        }
    )


def _kind(*arguments: str, seconds: float) -> str:
    """
    Run kind to its end and return what it printed. It is ended when time is up, and when this program is interrupted.
    """
    program = shutil.which("kind")
    if program is None:
        raise TargetError("there is no `kind` on PATH", _GET_KIND)
    spoken = f"`kind {' '.join(arguments[:2])}`"
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={name: value for name, value in os.environ.items() if name != PASSWORD},
            preexec_fn=_end_with_this_program,  # noqa: PLW1509 - it calls one function of the C library
            start_new_session=True,  # Ctrl-C is for this program, which then ends kind and removes what it made
        )
    except OSError as error:
        raise TargetError(f"{program} cannot be started: {error.strerror}", _GET_KIND) from error
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        raise TargetError(
            f"{spoken} did not end within {seconds:.0f} s", "is the container engine busy, or is the network?"
        ) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode == 0:
        return output
    said = redact(" ".join(_complaint(output)))
    if any(sign in said.lower() for sign in _ENGINE_SIGNS):
        raise TargetError(
            f"kind finds no container engine that runs: {said}",
            "install and start Docker (https://docs.docker.com/engine/install/); `docker ps` must work for you",
        )
    raise TargetError(f"{spoken} failed: {said}", "what it prints when run by hand may tell more")


def _end_with_this_program() -> None:
    """
    Runs in the child, on Linux: when this program is killed, kind is too, so that no cluster comes after `down` has
    found none.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _complaint(output: str) -> list[str]:
    """
    The words of kind itself about what went wrong: from its line ERROR on, without the log that may follow.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if line.startswith("ERROR")), max(0, len(lines) - 2))
    return [line[:400] for line in lines[start : start + 2]] or ["it said nothing"]


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.communicate(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return
