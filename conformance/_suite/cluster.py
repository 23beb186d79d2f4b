"""
The only module that talks to an API server: requests that survive what passes, as plain JSON, because evidence is what
the server really answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp

from conformance._suite.addresses import is_loopback
from conformance._suite.errors import TargetError
from conformance._suite.kubeconfig import PlugIn, load_configuration
from conformance._suite.transient import TRANSIENT, UNDONE
from conformance._suite.waiting import TryAgainError, persistently

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from kubernetes.aio.client import Configuration  # noqa: TID251 - this is the one module

JSON = "application/json"
REQUESTS_AT_ONCE, STREAMS_AT_ONCE = 100, 500
"""Connections; together they stay below the 1024 open files that a process is usually allowed."""
REST_SECONDS = 3
"""For how long a stream is read on that nobody needs any more."""
REQUEST_SECONDS = 60
"""How long one request may take, and how long what passes (429, 5xx, resets) is tried again."""


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


class Cluster:
    """
    A connection to one API server. Use as an async context manager.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.url = str(configuration.host).rstrip("/")
        self._ahead = timedelta()
        # Not one limit for both: streams that wait for their end would keep the requests from being sent.
        self._request_slots = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._stream_slots = asyncio.Semaphore(STREAMS_AT_ONCE)
        self._rests: set[asyncio.Task[None]] = set()
        self.requests = 0
        """How many were sent, each try of one counted."""
        try:
            self._ssl = ssl.create_default_context(
                cafile=configuration.ssl_ca_cert, cadata=getattr(configuration, "ca_cert_data", None)
            )
            self._show_certificate()
        except (OSError, ssl.SSLError) as error:
            raise TargetError(f"the certificates in the kubeconfig are not usable: {error}") from error
        if not configuration.verify_ssl:
            self._ssl.check_hostname = False
            self._ssl.verify_mode = ssl.CERT_NONE
        # Proxies in the environment are for what is outside, never for a server on this machine.
        self._trust_env = not is_loopback(urlsplit(self.url).hostname)
        self._proxy = configuration.proxy
        scheme = urlsplit(self._proxy or "http:").scheme
        if scheme not in {"http", "https"}:  # and no more of it: there may be a password in it
            raise TargetError(f"the kubeconfig's proxy-url is a {scheme} proxy", "it has to be http:// or https://")
        self._session = self._new_session()
        self._sessions = [self._session]

    @classmethod
    async def connect(cls, kubeconfig: Path | None, context: str | None = None) -> Cluster:
        """
        Open the cluster that a kubeconfig names. Raises TargetError when it cannot be used.
        """
        return cls(await load_configuration(kubeconfig, context))

    def now(self) -> datetime:
        """
        The time by the server's clock, as its last answer told it; by this machine's as long as none did.
        """
        return datetime.now(UTC) + self._ahead

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for rest in self._rests:
            rest.cancel()
        await asyncio.gather(*self._rests, return_exceptions=True)
        for session in self._sessions:
            await session.close()
        await asyncio.sleep(0)  # a turn of the event loop, in which what was aborted is closed

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0), trust_env=self._trust_env, read_bufsize=2**21
        )

    def _show_certificate(self) -> None:
        self._certificate = self._configuration.cert_file
        if self._certificate:
            self._ssl.load_cert_chain(self._certificate, keyfile=self._configuration.key_file)

    async def _headers(self) -> dict[str, str]:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token is None and self._configuration.username:
            token = self._configuration.get_basic_auth_token()
        if self._configuration.cert_file != self._certificate:
            # Connections that are open go by the one before.
            self._show_certificate()
            self._session = self._new_session()
            self._sessions.append(self._session)
        return {"Authorization": token} if token else {}

    async def _renewed(self, refused: Mapping[str, str]) -> bool:
        """
        Whether there is another credential than the one in these headers, which the server did not take.
        """
        plug_in: Any = self._configuration.refresh_api_key_hook
        if not isinstance(plug_in, PlugIn):
            return False
        await plug_in.renew(self._configuration, refused.get("Authorization") or self._certificate)
        return True

    def _open(
        self, method: str, path: str, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout, **options: Any
    ) -> Any:
        self.requests += 1
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
        passing: frozenset[int] = TRANSIENT,
        repeatable: bool | None = None,
    ) -> Answer:
        """
        Send one request and return whatever the server answered. What passes (``passing`` codes, resets, time-outs of
        requests that may be sent twice) is tried again for ``seconds``. ``repeatable`` says that sending it twice is
        harmless, as a creation under a fixed name is. Raises TargetError when no answer comes.
        """
        if repeatable is None:
            repeatable = method in {"GET", "PUT", "DELETE"}

        async def attempt(*, renewed: bool = False) -> Answer:
            headers = {**await self._headers(), "Accept": JSON, "Content-Type": content_type}
            data = None if body is None else json.dumps(body)
            limit = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            try:
                async with (
                    self._request_slots,
                    self._open(method, path, headers, limit, params=query, data=data) as response,
                ):
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
            if code == 401 and not renewed and await self._renewed(headers):
                return await attempt(renewed=True)
            answer = Answer(code, _decoded(text, kind), warnings, date)
            if date is not None:
                self._ahead = date - datetime.now(UTC)
            # Of what is not said to be undone only what may be done twice is done again.
            if code in passing and (repeatable or code in UNDONE):
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

    async def stream(
        self, path: str, query: Mapping[str, str], *, silence: float, ends_soon: bool = False
    ) -> AsyncIterator[bytes]:
        """
        Yield an answer's bytes as they come. Raises TryAgainError when the stream breaks or is silent for ``silence``
        seconds, RefusedError for a refusal. One that ``ends_soon`` after whoever reads it has left is read on aside, so
        that its connection, and the API server's to the kubelet, can be used again.
        """
        async with self._stream_slots:
            limit = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=silence)
            response: aiohttp.ClientResponse | None = None
            try:
                headers = await self._headers()
                response = await self._open("GET", path, headers, limit, params=query)
                if response.status == 401 and await self._renewed(headers):
                    response.release()
                    response = await self._open("GET", path, await self._headers(), limit, params=query)
                if response.status != 200:
                    text = await response.text(errors="replace")
                    answer = Answer(response.status, _decoded(text, response.content_type))
                    if response.status in TRANSIENT:
                        after = response.headers.get("Retry-After", "")
                        raise TryAgainError(
                            f"GET {path}: {answer.code} {answer.message}", float(after) if after.isdigit() else None
                        )
                    raise RefusedError(f"GET {path}", answer)
                async for chunk in response.content.iter_any():
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise TryAgainError(f"GET {path}: {error!r}") from error
            finally:
                if response is not None and ends_soon and not response.content.at_eof():
                    rest = asyncio.create_task(_read_on(response))
                    self._rests.add(rest)
                    rest.add_done_callback(self._rests.discard)
                elif response is not None:
                    _abort(response)


async def _read_on(response: aiohttp.ClientResponse) -> None:
    try:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with asyncio.timeout(REST_SECONDS):
                async for _ in response.content.iter_any():
                    pass
    finally:
        _abort(response)


def _abort(response: aiohttp.ClientResponse) -> None:
    """
    Leave an answer and its connection at once; one whose answer was read to its end stays open for the next request.
    """
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


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
