"""
Requests and the watch survive what real API servers do: against a loopback server that does all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from conformance._suite import cluster as of_cluster
from conformance._suite import watch as module
from conformance._suite.cluster import Cluster, RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.kubeconfig import find_kubeconfig
from conformance._suite.watch import Watched, keep_watching

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.sockets
PODS = "/api/v1/namespaces/x/pods"


def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path) -> None:
    path = _kubeconfig(tmp_path, "https://api.example")
    config = json.loads(path.read_text())
    config["clusters"][0]["cluster"]["proxy-url"] = "socks5://me:secret-word@proxy.example:1080"
    path.write_text(json.dumps(config))
    with pytest.raises(TargetError, match="the kubeconfig's proxy-url is a socks5 proxy") as refused:
        asyncio.run(Cluster.connect(path))
    assert "secret-word" not in str(refused.value)


def _pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


def _kubeconfig(folder: Path, url: str, user: dict[str, Any] | None = None) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "clusters": [{"name": "x", "cluster": {"server": url}}],
                "users": [{"name": "x", "user": user or {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            }
        )
    )
    return path


async def _serve(
    folder: Path,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    use: Callable[[Cluster], Awaitable[None]],
    user: dict[str, Any] | None = None,
) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with await Cluster.connect(_kubeconfig(folder, f"http://127.0.0.1:{port}", user)) as cluster:
            await asyncio.wait_for(use(cluster), 30)
    finally:
        await runner.cleanup()


PLUG_IN = """
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
with file.open("a") as calls:
    calls.write(".")
status = {"token": f"token-{len(file.read_text())}"}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


@pytest.mark.parametrize("kept_in", ["plug-in", "file"])
def test_a_refused_token_is_fetched_anew_once_for_all_who_wait(tmp_path: Path, kept_in: str) -> None:
    """
    For requests and for streams; who is refused again is told so. A file with a token is read before each request.
    """
    calls, token = tmp_path / "calls", tmp_path / "token"
    token.write_text("token-1")
    plug_in = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", PLUG_IN, str(calls)],
    }  # fmt: skip
    valid = "token-1"

    async def handle(request: web.Request) -> web.StreamResponse:
        status = 200 if request.headers["Authorization"] == f"Bearer {valid}" else 401
        return web.json_response({"kind": "Status", "message": "who"}, status=status)

    async def ask(cluster: Cluster) -> list[int]:
        return [answer.code for answer in await asyncio.gather(*(cluster.request("GET", "/x") for _ in range(9)))]

    async def use(cluster: Cluster) -> None:
        nonlocal valid
        assert await ask(cluster) == [200] * 9
        valid = "token-2"
        token.write_text(valid)
        assert await ask(cluster) == [200] * 9
        valid = "token-3"
        token.write_text(valid)
        assert [chunk async for chunk in cluster.stream("/x", {}, silence=5)]
        valid = "nobody's"
        assert await ask(cluster) == [401] * 9
        with pytest.raises(RefusedError):
            [chunk async for chunk in cluster.stream("/x", {}, silence=5)]

    user = {"exec": plug_in} if kept_in == "plug-in" else {"tokenFile": str(token)}
    asyncio.run(_serve(tmp_path, handle, use, user))
    if kept_in == "plug-in":
        assert 3 < len(calls.read_text()) <= 3 + 9 + 1


def test_a_watch_survives_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    429 on the list, a clean end, a reset in mid-line, an ERROR 410 that needs a new list in which a pod is gone, and a
    silent stream: every change arrives, and the pod that vanished unseen is reported as deleted.
    """
    monkeypatch.setattr(module, "WATCH_SECONDS", -14.5)  # with the 15 s of grace: silent after half a second
    requests: list[str] = []
    done = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        version = request.query.get("resourceVersion", "list")
        requests.append(version)
        if not request.query.get("watch"):
            if requests.count("list") == 1:
                return web.Response(status=429, text="Too many requests, please try again later.")
            if requests.count("list") == 2:
                return web.json_response({"metadata": {"resourceVersion": "10"}, "items": [_pod("a", 9), _pod("b", 8)]})
            return web.json_response({"metadata": {"resourceVersion": "30"}, "items": [_pod("a", 22)]})
        response = web.StreamResponse()
        await response.prepare(request)

        async def send(kind: str, item: dict[str, Any]) -> None:
            await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

        if version == "10":
            await send("ADDED", _pod("c", 11))
            await send("BOOKMARK", {"metadata": {"resourceVersion": "12"}})
        elif version == "12":
            await send("MODIFIED", _pod("c", 13))
            await response.write(b'{"type": "MODIFIED", "obj')
            assert request.transport is not None
            request.transport.abort()
        elif version == "13":
            await send("ERROR", {"code": 410, "message": "too old"})
        elif version == "30" and requests.count("30") == 1:
            await asyncio.sleep(5)
        else:
            await send("ADDED", _pod("d", 31))
            await done.wait()
        return response

    seen: list[tuple[str, str]] = []

    async def use(cluster: Cluster) -> None:
        watched = Watched(PODS, lambda kind, item: seen.append((kind, item["metadata"]["name"])))
        task = asyncio.create_task(keep_watching(cluster, watched))
        while ("ADDED", "d") not in seen:
            await asyncio.sleep(0.05)
        task.cancel()
        done.set()
        assert sorted(item["metadata"]["name"] for item in watched.objects.values()) == ["a", "d"]

    asyncio.run(_serve(tmp_path, handler, use))

    assert [one for one in seen if one[0] != "MODIFIED" or one[1] == "c"] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("ADDED", "c"),
        ("MODIFIED", "c"),
        ("DELETED", "b"),
        ("DELETED", "c"),
        ("ADDED", "d"),
    ]


@pytest.mark.parametrize(("ends_soon", "connections"), [(True, 1), (False, 2)])
def test_a_stream_that_ends_soon_leaves_its_connection_to_the_next(
    tmp_path: Path, ends_soon: bool, connections: int
) -> None:
    """
    Whoever reads leaves after the first chunk, and comes again when the server has sent the rest.
    """
    peers: list[object] = []
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"all that is needed")
        await left.wait()
        with contextlib.suppress(ConnectionError):
            await response.write(b" and more")
        return response

    async def use(cluster: Cluster) -> None:
        for _ in range(2):
            async for chunk in cluster.stream(PODS, {}, silence=5, ends_soon=ends_soon):
                assert chunk == b"all that is needed"
                break
            left.set()
            await asyncio.sleep(0.2)
            left.clear()

    asyncio.run(_serve(tmp_path, handler, use))
    assert len(set(peers)) == connections


def test_a_stream_that_goes_on_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_cluster, "REST_SECONDS", 0.2)
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"and on")
                await asyncio.sleep(0.05)
        gone.set()
        return response

    async def use(cluster: Cluster) -> None:
        async for _ in cluster.stream(PODS, {}, silence=5, ends_soon=True):
            break
        await gone.wait()

    asyncio.run(_serve(tmp_path, handler, use))


def test_what_passes_is_tried_again_and_what_is_said_is_returned(tmp_path: Path) -> None:
    codes = iter([429, 503, 500, 200])

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"n": 1}, status=next(codes))

    async def use(cluster: Cluster) -> None:
        assert (await cluster.request("GET", PODS)).body == {"n": 1}

    asyncio.run(_serve(tmp_path, handler, use))


def test_a_refused_creation_is_an_answer_and_is_sent_once(tmp_path: Path) -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        calls.append(request.method)
        cause = {"field": "spec", "reason": "FieldValueInvalid", "message": "no"}
        status = {"kind": "Status", "reason": "Invalid", "message": "bad", "details": {"causes": [cause]}}
        return web.json_response(status, status=422)

    async def use(cluster: Cluster) -> None:
        answer = await cluster.request("POST", PODS, {})
        assert (answer.code, answer.message, answer.status["reason"]) == (422, "bad", "Invalid")

    asyncio.run(_serve(tmp_path, handler, use))
    assert calls == ["POST"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    async def go() -> None:
        async with await Cluster.connect(_kubeconfig(tmp_path, "http://127.0.0.1:9")) as cluster:
            await cluster.request("GET", "/version", seconds=0.5)

    with pytest.raises(TargetError, match="cannot be reached"):
        asyncio.run(go())


def test_proxies_in_the_environment_are_not_for_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async def use(cluster: Cluster) -> None:
        assert (await cluster.request("GET", "/version")).code == 200

    asyncio.run(_serve(tmp_path, handler, use))


@pytest.mark.parametrize("content", ["", "garbage: [", "\x00\x01", "{}", "apiVersion: v1\nkind: Config\n", "just text"])
def test_a_kubeconfig_that_is_garbage(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(TargetError):
        asyncio.run(Cluster.connect(path))


def test_a_kubeconfig_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match="there is no kubeconfig"):
        find_kubeconfig(tmp_path / "absent")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(TargetError, match="KUBECONFIG names"):
        find_kubeconfig(None)
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TargetError, match="no cluster is named"):
        find_kubeconfig(None)


def test_a_user_without_a_home_has_no_kubeconfig_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As in a pod whose user no image knows.
    """

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TargetError, match="no cluster is named"):
        find_kubeconfig(None)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert find_kubeconfig(None) is None
