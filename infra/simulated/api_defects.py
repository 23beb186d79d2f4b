"""
Defects of the API server's side: reverse proxies in front of a faithful API server, each on a port of its own, each
wrong in exactly one way.

    python -m infra.simulated.api_defects CONFIG.json

CONFIG.json: ``api`` (https URL), ``ca``, ``adminCertificate``, ``adminKey``, ``serverCertificate``, ``serverKey`` (PEM
files), ``defects`` (names out of ``API_DEFECTS``). Prints ``{"ready": true, "ports": {name: port}}`` in one line once
all of them listen on 127.0.0.1, and serves until SIGINT or SIGTERM. Whoever asks is taken for the administrator.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from conformance._suite.namespaces import ENFORCE_LABEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

Json = dict[str, Any]

_JSON = "application/json"
_LINE_LIMIT = 2**22  # bytes in one line of a watch: an object of the API server is at most half of that

# What belongs to one connection (RFC 9110, 7.6.1), who asks, and what this proxy decides anew.
_NOT_FORWARDED = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "authorization", "accept-encoding", "host", "content-length", "content-encoding",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """
    One request: ``path`` without its query, ``body`` as JSON, None when it has none.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: Json | None

    @property
    def creates_pod(self) -> bool:
        """
        Whether it is about making a pod.
        """
        return self.method == "POST" and self.path.startswith("/api/v1/namespaces/") and self.path.endswith("/pods")

    @property
    def watches(self) -> bool:
        """
        Whether the answer is a stream of changes.
        """
        return self.query.get("watch") in {"1", "true"}

    @property
    def is_about_events(self) -> bool:
        """
        Whether it lists or watches events.
        """
        return self.method == "GET" and self.path.endswith("/events")


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the API server said. ``ADMITTED`` instead stands for what it says when it has nothing against the request.
    """

    code: int
    body: Json


ADMITTED = Answer(0, {})


def _asked_as_it_is(asked: Asked) -> Json | None:
    return asked.body


def _answered_as_it_is(_: Asked, answer: Answer) -> Answer:
    return answer


def _told_as_it_is(event: Json) -> Json:
    return event


@dataclass(frozen=True, slots=True)
class ApiDefect:
    """
    One way in which the API server is wrong: what it takes a request's body for, what it answers to a request that
    changes something, and how it tells of an event (core/v1 or events.k8s.io/v1).
    """

    sentence: str
    request: Callable[[Asked], Json | None] = _asked_as_it_is
    answer: Callable[[Asked, Answer], Answer] = _answered_as_it_is
    event: Callable[[Json], Json] = _told_as_it_is


def forgetting(rule: str) -> Callable[[Asked, Answer], Answer]:
    """
    An API server whose validation does not know the rule that has these words in its text.
    """

    def answer(_: Asked, answer: Answer) -> Answer:
        details = answer.body.get("details") or {}
        causes = details.get("causes") or []
        left = [cause for cause in causes if rule not in cause["message"]]
        if answer.code != HTTPStatus.UNPROCESSABLE_ENTITY or left == causes:
            return answer
        if not left:
            return ADMITTED
        texts = [f"{cause['field']}: {cause['message']}" for cause in left]
        listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        invalid = answer.body["message"].partition(" is invalid: ")[0]
        body = {**answer.body, "details": {**details, "causes": left}, "message": f"{invalid} is invalid: {listed}"}
        return Answer(answer.code, body)

    return answer


def admitting(level: str) -> Callable[[Asked, Answer], Answer]:
    """
    An API server that has nothing against HostProcess pods where this Pod Security Standard is enforced.
    """
    refusal = f'violates PodSecurity "{level}:'

    def answer(asked: Asked, answer: Answer) -> Answer:
        refused = answer.code == HTTPStatus.FORBIDDEN and refusal in answer.body.get("message", "")
        return ADMITTED if asked.creates_pod and refused and is_host_process(asked.body) else answer

    return answer


def refuse_privileged(asked: Asked, answer: Answer) -> Answer:
    """
    Refuse HostProcess pods that every standard in force lets pass. Only dry runs are refused: the nodes of the same
    run are to get their pods.
    """
    dry = asked.query.get("dryRun") == "All"
    if not (asked.creates_pod and dry and answer.code == HTTPStatus.CREATED and is_host_process(asked.body)):
        return answer
    name = answer.body["metadata"]["name"]
    message = f'pods "{name}" is forbidden: violates PodSecurity "privileged:latest": hostProcess (pod must not set it)'
    return Answer(
        HTTPStatus.FORBIDDEN,
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "Forbidden",
            "details": {"name": name, "kind": "pods"},
            "code": int(HTTPStatus.FORBIDDEN),
        },
    )


def is_host_process(pod: Json | None) -> bool:
    """
    Whether a pod says anywhere that it is a HostProcess pod.
    """
    spec = (pod or {}).get("spec") or {}
    parts = [spec, *spec.get("initContainers", ()), *spec.get("containers", ())]
    options = [((part.get("securityContext") or {}).get("windowsOptions") or {}) for part in parts]
    return any(option.get("hostProcess") is True for option in options)


def without_baseline_label(asked: Asked) -> Json | None:
    """
    A namespace as if nobody had asked for baseline to be enforced in it.
    """
    if asked.body is None or not asked.path.startswith("/api/v1/namespaces") or asked.path.count("/") > 4:
        return asked.body
    metadata = asked.body.get("metadata") or {}
    labels = metadata.get("labels") or {}
    if labels.get(ENFORCE_LABEL) != "baseline":
        return asked.body
    kept = {name: value for name, value in labels.items() if name != ENFORCE_LABEL}
    return {**asked.body, "metadata": {**metadata, "labels": kept}}


def as_if_created(event: Json) -> Json:
    """
    The event of a refused pod, told as that of a pod which was created.
    """
    if event.get("reason") != "FailedCreate":
        return event
    text = "note" if "note" in event else "message"  # in events.k8s.io/v1 and in core/v1
    return {**event, "type": "Normal", "reason": "SuccessfulCreate", text: "Created pod"}


API_DEFECTS: dict[str, ApiDefect] = {
    "mixed-pod-admitted": ApiDefect(
        "Validation does not know that all containers of a pod must be HostProcess containers, or none.",
        answer=forgetting("then all containers must be HostProcess containers"),
    ),
    "disagreeing-values-admitted": ApiDefect(
        "Validation does not compare a container's hostProcess with its pod's.",
        answer=forgetting("pod hostProcess value must be identical"),
    ),
    "host-network-not-required": ApiDefect(
        "Validation does not ask for hostNetwork.",
        answer=forgetting("hostNetwork must be true if pod contains any hostProcess containers"),
    ),
    "baseline-admits": ApiDefect(
        "Pod Security lets HostProcess pods pass under the baseline standard.", answer=admitting("baseline")
    ),
    "restricted-admits": ApiDefect(
        "Pod Security lets HostProcess pods pass under the restricted standard.", answer=admitting("restricted")
    ),
    "privileged-refuses": ApiDefect(
        "Pod Security refuses HostProcess pods under the privileged standard.", answer=refuse_privileged
    ),
    "failed-create-not-reported": ApiDefect(
        "Events say of pods that were refused that they were created.", event=as_if_created
    ),
    "enforce-label-dropped": ApiDefect(
        "Namespaces lose the label that has the baseline standard enforced.", request=without_baseline_label
    ),
}


class DefectProxy:
    """
    One proxy: everything goes to the API server as the administrator's request, and one thing goes wrong on the way.
    """

    def __init__(self, api: str, session: aiohttp.ClientSession, defect: ApiDefect) -> None:
        self._api = api.rstrip("/")
        self._session = session
        self._defect = defect

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """
        Answer one request. 501 for WebSockets and SPDY, 502 when the API server cannot be reached.
        """
        if "upgrade" in request.headers.get("Connection", "").lower():
            return web.Response(status=HTTPStatus.NOT_IMPLEMENTED, text="this proxy does not pass connections through")
        sent = await request.read()
        asked = Asked(request.method, request.path, request.query, _parsed(sent))
        told = self._defect.request(asked)
        if told is not asked.body:
            sent = json.dumps(told).encode()
        try:
            async with self._session.request(
                request.method, self._url(request.raw_path), headers=_passed_on(request.headers), data=sent or None
            ) as upstream:
                if asked.watches:
                    told_otherwise = asked.is_about_events and self._defect.event is not _told_as_it_is
                    chunks = self._watched(upstream.content) if told_otherwise else upstream.content.iter_any()
                    return await self._stream(request, upstream, chunks)
                if upstream.content_type == _JSON and (request.method in {"POST", "PATCH"} or asked.is_about_events):
                    return await self._rewritten(asked, upstream)
                return await self._stream(request, upstream, upstream.content.iter_any())
        except aiohttp.ClientError as error:
            return web.Response(status=HTTPStatus.BAD_GATEWAY, text=f"the API server does not answer: {error!r}")

    def _url(self, raw_path: str) -> URL:
        return URL(self._api + raw_path, encoded=True)

    async def _rewritten(self, asked: Asked, upstream: aiohttp.ClientResponse) -> web.Response:
        body = _parsed(await upstream.read()) or {}
        if asked.is_about_events:
            # A table, as kubectl asks for it, has no items.
            told = {"items": [self._defect.event(item) for item in body["items"]]} if body.get("items") else {}
            return _respond(upstream, upstream.status, {**body, **told})
        answer = self._defect.answer(asked, Answer(upstream.status, body))
        if answer is ADMITTED:
            answer = await self._admitted(asked)
        return _respond(upstream, answer.code, answer.body)

    async def _admitted(self, asked: Asked) -> Answer:
        """
        What an API server answers that has taken the request: the object as sent, or, to a patch, as it then is.
        """
        if asked.method == "POST":
            return Answer(HTTPStatus.CREATED, asked.body or {})
        path = asked.path.removesuffix("/ephemeralcontainers")
        async with self._session.get(self._url(path)) as current:
            pod = await current.json()
        return Answer(HTTPStatus.OK, {**pod, "spec": {**pod.get("spec", {}), **(asked.body or {}).get("spec", {})}})

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse, chunks: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=upstream.status, reason=upstream.reason, headers=_passed_on(upstream.headers)
        )
        await response.prepare(request)
        # Whoever watches may leave at any time.
        with contextlib.suppress(ConnectionError):
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
        return response

    async def _watched(self, content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        async for line in content:
            change = _parsed(line)
            if change and "object" in change:
                yield json.dumps({**change, "object": self._defect.event(change["object"])}).encode() + b"\n"
            else:
                yield line


def _parsed(text: bytes) -> Json | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _NOT_FORWARDED)


def _respond(upstream: aiohttp.ClientResponse, code: int, body: Json) -> web.Response:
    headers = _passed_on(upstream.headers)
    headers.popall("Content-Type", None)
    return web.json_response(body, status=code, headers=headers)


@contextlib.asynccontextmanager
async def proxies(config: Mapping[str, Any]) -> AsyncIterator[dict[str, int]]:
    """
    Serve the proxies of the configured defects; yields their ports by name. Raises KeyError for an unknown defect.
    """
    outwards = ssl.create_default_context(cafile=config["ca"])
    outwards.load_cert_chain(config["adminCertificate"], config["adminKey"])
    inwards = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    inwards.load_cert_chain(config["serverCertificate"], config["serverKey"])
    names: Sequence[str] = config["defects"]
    runners: list[web.AppRunner] = []
    ports: dict[str, int] = {}
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=outwards, limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        headers={"Accept-Encoding": "identity"},
        read_bufsize=_LINE_LIMIT,
    )
    async with session:
        try:
            for name in names:
                application = web.Application(client_max_size=2**26)
                application.router.add_route(
                    "*", "/{path:.*}", DefectProxy(config["api"], session, API_DEFECTS[name]).handle
                )
                runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
                await runner.setup()
                runners.append(runner)
                site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=inwards)
                await site.start()
                ports[name] = runner.addresses[0][1]
            yield ports
        finally:
            for runner in runners:
                await runner.cleanup()


async def _serve(config: Mapping[str, Any]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with proxies(config) as ports:
        print(json.dumps({"ready": True, "ports": ports}), flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
