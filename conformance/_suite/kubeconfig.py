"""
Which cluster, and as whom: the kubeconfig with its contexts and exec plug-ins, or a pod's service account. The only
importer of the ``kubernetes`` package, which reads them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from conformance._suite.errors import TargetError, UsageError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration  # noqa: TID251 - this is the one module


def find_kubeconfig(given: Path | None) -> Path | None:
    """
    ``--kubeconfig``, else KUBECONFIG, else ``~/.kube/config``, else None: the service account of the pod we run in.
    """
    if given is not None:
        try:
            there = given.is_file()
        except OSError as error:
            raise UsageError(f"--kubeconfig cannot be looked at: {error}", "name an existing file") from error
        if not there:
            raise TargetError(f"there is no kubeconfig {given}", "name an existing file with --kubeconfig")
        return given
    listed = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if listed:
        if not any(path.is_file() for path in listed):
            raise TargetError(f"KUBECONFIG names {listed[0]}, which is not there", "name an existing file")
        return None if len(listed) > 1 else listed[0]
    with contextlib.suppress(RuntimeError):  # no home
        default = Path.home() / ".kube" / "config"
        if default.is_file():
            return default
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    raise TargetError(
        "no cluster is named: no --kubeconfig, no KUBECONFIG, no ~/.kube/config, and not inside a pod",
        "point --kubeconfig at one, or leave --target away for the embedded cluster",
    )


async def load_configuration(path: Path | None, context: str | None) -> Configuration:
    """
    The server and the credentials that a kubeconfig names; without one, those of KUBECONFIG's list or of this pod.
    Raises TargetError when it cannot be used.
    """
    # A pod may run as a user who has no home, and this package asks for it when it is imported.
    os.environ.setdefault("HOME", "/")
    from kubernetes.aio import config as kubeconfig_loader  # noqa: PLC0415, TID251
    from kubernetes.aio.client import Configuration  # noqa: PLC0415, TID251

    configuration = Configuration()
    listed = os.environ.get("KUBECONFIG", "")
    try:
        if path is not None and not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
            raise TypeError("it holds no YAML mapping")  # noqa: TRY301 - told like all the loader's own complaints
        if file := str(path or listed):
            await kubeconfig_loader.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=file, context=context, client_configuration=configuration, persist_config=False
            )
        else:
            kubeconfig_loader.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    except Exception as error:  # the loader raises whatever YAML, base64 or a plug-in raises
        shown = path or listed or "the service account of this pod"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TargetError(f"{shown} is not a usable kubeconfig: {reason}", "try it with `kubectl version`") from error
    if not configuration.host.startswith(("https://", "http://")):
        raise TargetError(f"{path} names no server", "try it with `kubectl version`")
    return configuration
