"""
Which cluster, and as whom: the kubeconfig with its contexts and exec plug-ins, or a pod's service account. The only
importer of the ``kubernetes`` package, which reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from conformance._suite.errors import TargetError, UsageError
from conformance._suite.waiting import TryAgainError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration  # noqa: TID251 - this is the one module


PLUG_IN_SECONDS = 60
"""How long an exec plug-in may take; one that asks its user something must not hang the run."""


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


class PlugIn:
    """
    The credential of an exec plug-in (EKS, GKE, kubelogin), in a configuration: the plug-in is asked again before what
    it gave expires, and when it is refused. As the configuration's ``refresh_api_key_hook`` it is called before each
    request.
    """

    def __init__(self, settings: Any, fetched_until: datetime | None) -> None:
        self._settings = settings
        self._asking = asyncio.Lock()
        self._keep_until(fetched_until)

    async def __call__(self, configuration: Configuration) -> None:
        """
        See to it that the credential in the configuration holds. Raises TryAgainError when the plug-in fails.
        """
        if self._is_due():
            async with self._asking:
                if self._is_due():
                    await self._ask(configuration)

    async def renew(self, configuration: Configuration, refused: str | None) -> None:
        """
        Replace a credential that was refused, a token with ``Bearer`` before it or a certificate's file, unless that is
        done. Raises TryAgainError when the plug-in fails.
        """
        async with self._asking:
            if refused == (configuration.api_key.get("BearerToken") or configuration.cert_file):
                await self._ask(configuration)

    async def _ask(self, configuration: Configuration) -> None:
        from kubernetes.aio.config import kube_config  # noqa: PLC0415, TID251
        from kubernetes.aio.config.exec_provider import ExecProvider  # noqa: PLC0415, TID251

        try:
            async with asyncio.timeout(PLUG_IN_SECONDS):
                status: Any = await ExecProvider(self._settings).run()  # type: ignore[no-untyped-call]
            until = status.get("expirationTimestamp")
            self._keep_until(datetime.fromisoformat(until) if until else None)
        except Exception as error:  # whatever the plug-in, or its output, is raised for
            reason = str(error) or type(error).__name__
            raise TryAgainError(f"the kubeconfig's exec plug-in {self._settings['command']} fails: {reason}") from error
        if "token" in status:
            configuration.api_key["BearerToken"] = f"Bearer {status['token']}"
        if "clientCertificateData" in status:
            keep: Any = kube_config._create_temp_file_with_content  # noqa: SLF001 - they are removed at the end
            configuration.key_file = keep(status["clientKeyData"])
            configuration.cert_file = keep(status["clientCertificateData"])

    def _is_due(self) -> bool:
        return self._due is not None and datetime.now(UTC) >= self._due

    def _keep_until(self, expiry: datetime | None) -> None:
        """
        Note when to ask again: a minute before it expires, or, of a short life, its last fifth; None: when refused.
        """
        now = datetime.now(UTC)
        # By a clock that is ahead everything has expired: not for each request.
        self._due = (
            max(expiry - min(timedelta(minutes=1), (expiry - now) / 5), now + timedelta(seconds=1)) if expiry else None
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
            loader = await kubeconfig_loader.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=file, context=context, client_configuration=configuration, persist_config=False
            )
            configuration.refresh_api_key_hook = await _refreshing(loader, configuration)
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


async def _refreshing(loader: Any, configuration: Configuration) -> Any:
    """
    What keeps the credential in a configuration valid: an exec plug-in, or what reads anew what is kept elsewhere (a
    token's file, an OIDC provider's token). None for one that stays.
    """
    user = loader._user or {}  # noqa: SLF001 - there is no other way to it
    if loader.provider or "tokenFile" in user:

        async def read_anew(configuration: Configuration) -> None:
            await loader._load_authentication()  # noqa: SLF001
            loader._set_config(configuration)  # noqa: SLF001

        return read_anew
    if "exec" not in user:
        return None
    plug_in = PlugIn(user["exec"], getattr(loader, "exec_plugin_expiry", None))
    if not hasattr(loader, "token"):
        # It failed, of which the loader only writes to a log, or gave a certificate, whose end the loader forgets.
        await plug_in.renew(configuration, configuration.cert_file)
    return plug_in
