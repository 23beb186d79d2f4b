"""
The only module that talks to Kubernetes: requests that survive what passes, and one watch that survives everything.

The ``kubernetes`` package reads the kubeconfig (contexts, exec plug-ins, in-cluster service accounts); the requests
themselves are plain JSON, because evidence is what the API server really answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp
import yaml

from conformance._suite.addresses import is_loopback
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.waiting import TryAgainError, persistently

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from kubernetes.aio.client import Configuration  # noqa: TID251 - this is the one module

JSON = "application/json"
REQUEST_SECONDS = 60
"""How long one request may take, and how long what passes (429, 5xx, resets) is tried again."""
_PASSING = {429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One answer of the API server. ``body`` is the decoded JSON, or the text where it is none.
    """

    code: int
    body: Any
    warnings: tuple[str, ...] = ()
    date: datetime | None = None
    """The server's clock when it answered, in UTC, to the second."""

    @property
    def status(self) -> Mapping[str, Any]:
        """
        The ``Status`` object of a refusal; an empty mapping for anything else.
        """
        return self.body if isinstance(self.body, dict) and self.body.get("kind") == "Status" else {}

    @property
    def message(self) -> str:
        """
        What a refusal says.
        """
        return str(self.status.get("message") or (self.body if isinstance(self.body, str) else ""))


class RefusedError(Exception):
    """
    The API server refused a request that was expected to pass.
    """

    def __init__(self, request: str, answer: Answer) -> None:
        super().__init__(f"{request}: {answer.code} {answer.message}")
        self.answer = answer


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


async def _configuration(path: Path | None, context: str | None) -> Configuration:
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


class Cluster:
    """
    A connection to one API server. Use as an async context manager.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.url = str(configuration.host).rstrip("/")
        self._ahead = timedelta()
        try:
            self._ssl = ssl.create_default_context(
                cafile=configuration.ssl_ca_cert, cadata=getattr(configuration, "ca_cert_data", None)
            )
            if configuration.cert_file:
                self._ssl.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
        except (OSError, ssl.SSLError) as error:
            raise TargetError(f"the certificates in the kubeconfig are not usable: {error}") from error
        if not configuration.verify_ssl:
            self._ssl.check_hostname = False
            self._ssl.verify_mode = ssl.CERT_NONE
        # Proxies in the environment are for what is outside, never for a server on this machine.
        outside = not is_loopback(urlsplit(self.url).hostname)
        self._proxy = configuration.proxy if outside else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0, limit_per_host=100),
            trust_env=outside,
            read_bufsize=2**21,
        )

    @classmethod
    async def connect(cls, kubeconfig: Path | None, context: str | None = None) -> Cluster:
        """
        Open the cluster that a kubeconfig names. Raises TargetError when it cannot be used.
        """
        return cls(await _configuration(kubeconfig, context))

    def now(self) -> datetime:
        """
        The time by the server's clock, as its last answer told it; by this machine's as long as none did.
        """
        return datetime.now(UTC) + self._ahead

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def _headers(self) -> dict[str, str]:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token is None and self._configuration.username:
            token = self._configuration.get_basic_auth_token()
        return {"Authorization": token} if token else {}

    def _open(
        self, method: str, path: str, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout, **options: Any
    ) -> Any:
        return self._session.request(
            method,
            self.url + path,
            headers=headers,
            timeout=timeout,
            proxy=self._proxy,
            server_hostname=self._configuration.tls_server_name or None,
            **options,
        )

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        seconds: float = REQUEST_SECONDS,
        passing: frozenset[int] = frozenset(_PASSING),
        repeatable: bool | None = None,
    ) -> Answer:
        """
        Send one request and return whatever the server answered. What passes (``passing`` codes, resets, time-outs of
        requests that may be sent twice) is tried again for ``seconds``. ``repeatable`` says that sending it twice is
        harmless, as a creation under a fixed name is. Raises TargetError when no answer comes.
        """
        if repeatable is None:
            repeatable = method in {"GET", "PUT", "DELETE"}

        async def attempt() -> Answer:
            headers = {**await self._headers(), "Accept": JSON, "Content-Type": content_type}
            data = None if body is None else json.dumps(body)
            limit = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            try:
                async with self._open(method, path, headers, limit, params=query, data=data) as response:
                    text = await response.text(errors="replace")
                    code = response.status
                    after = response.headers.get("Retry-After", "")
                    warnings = tuple(response.headers.getall("Warning", ()))
                    kind = response.content_type
                    date = _date(response.headers.get("Date"))
            except aiohttp.ClientConnectorError as error:
                raise TryAgainError(f"{self.url} cannot be reached: {error.strerror or error}") from error
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if not repeatable:
                    raise TargetError(f"{method} {path}: no answer: {error!r}") from error
                raise TryAgainError(f"{method} {path}: no answer: {error!r}") from error
            answer = Answer(code, _decoded(text, kind), warnings, date)
            if date is not None:
                self._ahead = date - datetime.now(UTC)
            # 429 and 503 say that nothing was done; of the others only what may be done twice is done again.
            if code in passing and (repeatable or code in {429, 503}):
                raise TryAgainError(
                    f"{method} {path}: {code} {answer.message}", float(after) if after.isdigit() else None
                )
            return answer

        try:
            return await persistently(attempt, seconds)
        except TryAgainError as error:
            raise TargetError(str(error), "is the API server up, and is this the right kubeconfig?") from error

    async def must(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """
        Like ``request``, but raises RefusedError for anything but a 2xx answer, and returns its body.
        """
        answer = await self.request(method, path, body, **options)
        if not 200 <= answer.code < 300:
            raise RefusedError(f"{method} {path}", answer)
        return answer.body

    async def stream(self, path: str, query: Mapping[str, str], *, silence: float) -> AsyncIterator[bytes]:
        """
        Yield an answer's bytes as they come. Raises TryAgainError when the stream breaks or is silent for ``silence``
        seconds, RefusedError for a refusal.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=silence)
        try:
            async with self._open("GET", path, await self._headers(), limit, params=query) as response:
                if response.status != 200:
                    text = await response.text(errors="replace")
                    answer = Answer(response.status, _decoded(text, response.content_type))
                    if response.status in _PASSING:
                        after = response.headers.get("Retry-After", "")
                        raise TryAgainError(
                            f"GET {path}: {answer.code} {answer.message}", float(after) if after.isdigit() else None
                        )
                    raise RefusedError(f"GET {path}", answer)
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise TryAgainError(f"GET {path}: {error!r}") from error


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header or "").astimezone(UTC)
    except ValueError:
        return None


def _decoded(text: str, kind: str) -> Any:
    if kind == JSON:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


WATCH_SECONDS = 60
"""The server ends each watch after this long; one that is silent for longer is broken."""


@dataclass(slots=True)
class Watched:
    """
    The objects of one collection as last seen, by uid, kept up to date by ``keep_watching``.
    """

    path: str
    changed: Callable[[str, dict[str, Any]], None]
    """Called with ADDED, MODIFIED or DELETED and the object, for every change."""
    query: Mapping[str, str] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    listed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, kind: str, item: dict[str, Any]) -> None:
        """
        Take in one change.
        """
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            self.objects.pop(uid, None)
        else:
            self.objects[uid] = item
        self.changed(kind, item)


async def keep_watching(cluster: Cluster, watched: Watched) -> None:
    """
    Watch one collection for ever: list, watch from there, resume after a clean end or a reset, list again after 410,
    wait after 429 and 5xx. Ends only when cancelled, or with RefusedError when the right to watch is missing.
    """
    version = ""
    while True:
        try:
            if not version:
                version = await _list(cluster, watched)
                watched.listed.set()
            version = await _watch(cluster, watched, version)
        except TryAgainError as error:
            await asyncio.sleep(min(error.after or 0.2, 5))
        except TargetError:
            await asyncio.sleep(1)
        except RefusedError as error:
            if error.answer.code != 410:
                raise
            version = ""


async def _list(cluster: Cluster, watched: Watched) -> str:
    listing = await cluster.must("GET", watched.path, query=watched.query)
    present = {item["metadata"]["uid"]: item for item in listing["items"]}
    for uid in [uid for uid in watched.objects if uid not in present]:
        watched.see("DELETED", watched.objects[uid])
    for item in present.values():
        watched.see("ADDED" if item["metadata"]["uid"] not in watched.objects else "MODIFIED", item)
    return str(listing["metadata"]["resourceVersion"])


async def _watch(cluster: Cluster, watched: Watched, version: str) -> str:
    query = {
        **watched.query,
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    rest = b""
    try:
        async for chunk in cluster.stream(watched.path, query, silence=WATCH_SECONDS + 15):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                item = event["object"]
                if event["type"] == "ERROR":
                    # 410: too old, list again. Anything else: go on from what was seen.
                    return "" if item.get("code") == 410 else version
                version = item["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    watched.see(event["type"], item)
    except (TryAgainError, ValueError):
        # A reset in mid-stream: what was seen so far counts, the rest comes again.
        await asyncio.sleep(0.2)
    return version
