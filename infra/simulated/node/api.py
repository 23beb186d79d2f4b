"""
The API server as one node's identity sees it: requests with retries, and a watch that goes on where it was cut.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp

from infra.simulated.node.report import complain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

_PATCHES = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
}

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0
# Bookmarks come about once a minute: a watch that is silent for longer than this is a dead connection.
_SILENCE = 180


class ApiError(Exception):
    """
    The API server refused: ``code`` is the HTTP status, the text the server's own message.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


def refusal(code: int, text: str) -> ApiError:
    """
    Make an error of an answer's body, a ``v1.Status`` or (for a 429) plain text.
    """
    try:
        status = json.loads(text)
        return ApiError(code, str(status.get("reason", "")), str(status.get("message", text)))
    except (ValueError, AttributeError):
        return ApiError(code, "", text.strip())


def retry_after(header: str | None) -> float | None:
    """
    The seconds in a Retry-After header, None when it is absent or no number.
    """
    try:
        return min(float(header), _LONGEST_DELAY * 2) if header is not None else None
    except ValueError:
        return None


def client_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """
    A TLS context for one identity.
    """
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(certificate, key)
    return context


class Api:
    """
    One identity's connections to the API server.
    """

    def __init__(self, url: str, context: ssl.SSLContext, name: str) -> None:
        self._url = url
        self._name = name
        # One connection stays with the watch; four others were measured to be enough for a busy node.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=6),
            headers={"User-Agent": f"kubelet/simulated ({name})", "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=60),
        )

    async def close(self) -> None:
        """
        End all connections.
        """
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        patch: str | None = None,
        query: dict[str, str] | None = None,
        attempts: int = 8,
    ) -> dict[str, Any]:
        """
        Send one request and give its JSON answer. Connections that break, 429 and 5xx are tried again, up to
        ``attempts`` times; any other refusal raises ApiError at once.
        """
        delay = _FIRST_DELAY
        for attempt in range(1, attempts + 1):
            try:
                code, text, wait = await self._ask(method, path, body, patch, query)
                if code < 400:
                    parsed: dict[str, Any] = json.loads(text) if text else {}
                    return parsed
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                code, text, wait = 0, f"{method} {path}: {error!r}", None
            if attempt == attempts or (400 <= code < 500 and code != 429):
                raise refusal(code, text)
            await asyncio.sleep(delay if wait is None else wait)
            delay = min(delay * 2, _LONGEST_DELAY)
        raise AssertionError("unreachable")

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, patch: str | None, query: dict[str, str] | None
    ) -> tuple[int, str, float | None]:
        async with self._session.request(
            method,
            self._url + path,
            data=None if body is None else json.dumps(body),
            params=query,
            headers={} if body is None else {"Content-Type": _PATCHES.get(patch or "", "application/json")},
        ) as answer:
            return answer.status, await answer.text(), retry_after(answer.headers.get("Retry-After"))

    async def watch(
        self,
        path: str,
        query: dict[str, str],
        on_list: Callable[[list[dict[str, Any]]], Awaitable[None]],
        on_event: Callable[[str, dict[str, Any]], Awaitable[None]],
    ) -> None:
        """
        List, then watch, for ever: after a clean end from the last resourceVersion, after 410 from a new list.
        """
        delay = _FIRST_DELAY
        version = ""
        while True:
            try:
                if not version:
                    listed = await self.request("GET", path, query=query)
                    await on_list(listed.get("items") or [])
                    version = listed["metadata"]["resourceVersion"]
                async for kind, item in self._events(path, {**query, "resourceVersion": version}):
                    version = item["metadata"]["resourceVersion"]
                    delay = _FIRST_DELAY
                    if kind != "BOOKMARK":
                        await on_event(kind, item)
                # The server ends watches that are slow or old without a word; going on from here loses nothing.
                await asyncio.sleep(_FIRST_DELAY)
            except ApiError as error:
                if error.code in {400, 410, 500}:
                    version = ""
                elif error.code:
                    complain(self._name, f"watch {path}: {error.code} {error}")
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)

    async def _events(self, path: str, query: dict[str, str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        async with self._session.get(
            self._url + path,
            params={**query, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "500"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE),
        ) as answer:
            if answer.status >= 400:
                await asyncio.sleep(retry_after(answer.headers.get("Retry-After")) or 0)
                raise refusal(answer.status, await answer.text())
            rest = b""
            async for chunk in answer.content.iter_any():
                # Lines may be longer than what a stream reader's readline accepts.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise refusal(int(event["object"].get("code", 500)), json.dumps(event["object"]))
                        yield event["type"], event["object"]


class Anonymous:
    """
    The API server as a container reaches it: no client certificate, only the headers that the container sends.
    """

    def __init__(self, url: str, ca: Path) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca))),
            timeout=aiohttp.ClientTimeout(total=60),
        )

    async def close(self) -> None:
        """
        End all connections.
        """
        await self._session.close()

    async def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """
        Send one request; status and body of the answer. Raises OSError when there is no answer.
        """
        try:
            async with self._session.request(method, self._url + path, headers=headers, data=body or None) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
