"""
exec and attach over WebSocket: channels in binary messages, a ``v1.Status`` at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from infra.simulated.model.errors import StartError
from infra.simulated.node.report import complain

if TYPE_CHECKING:
    from infra.simulated.model.container import Container

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
_CLOSE = 255
_LAST_WORDS = 0.2


def frame(channel: int, data: bytes) -> bytes:
    """
    A message for a channel.
    """
    return bytes([channel]) + data


def split(message: bytes) -> tuple[int, bytes, int | None]:
    """
    Channel and data of a message; the last value is the channel that the client has closed (v5), or None.
    """
    if not message:
        return -1, b"", None
    if message[0] == _CLOSE and len(message) > 1:
        return -1, b"", message[1]
    return message[0], message[1:], None


def success() -> dict[str, Any]:
    """
    The command ended with 0.
    """
    return {"metadata": {}, "status": "Success"}


def exit_status(code: int) -> dict[str, Any]:
    """
    The command ended with this code.
    """
    if code == 0:
        return success()
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failure(text: str) -> dict[str, Any]:
    """
    The command could not be started.
    """
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: error executing command in container: {text}",
        "reason": "InternalError",
        "details": {"causes": [{"message": f"error executing command in container: {text}"}]},
        "code": 500,
    }


class _Outgoing:
    """
    Sends what is written without waiting, in order.
    """

    def __init__(self, socket: web.WebSocketResponse, wanted: set[int]) -> None:
        self._socket = socket
        self._wanted = wanted
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def write(self, channel: int, data: bytes) -> None:
        if data and channel in self._wanted:
            self._queue.put_nowait(frame(channel, data))

    def finish(self, status: dict[str, Any]) -> None:
        self._queue.put_nowait(frame(ERROR, json.dumps(status).encode()))
        self._queue.put_nowait(None)

    async def run(self) -> None:
        with contextlib.suppress(ConnectionError):
            while (message := await self._queue.get()) is not None:
                await self._socket.send_bytes(message)
        await self._socket.close()


Work = Callable[[_Outgoing, asyncio.StreamReader | None, bool], Coroutine[Any, Any, dict[str, Any]]]


async def _receive(socket: web.WebSocketResponse, stdin: asyncio.StreamReader | None) -> None:
    """
    Feed stdin until the client is gone; sizes are ignored.
    """
    async for message in socket:
        if message.type != WSMsgType.BINARY or stdin is None:
            continue
        channel, data, closed = split(message.data)
        if closed == STDIN:
            stdin.feed_eof()
            stdin = None
        elif channel == STDIN and data:
            stdin.feed_data(data)
    if stdin is not None:
        stdin.feed_eof()


async def _stream(request: web.BaseRequest, work: Work) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=None, max_msg_size=0)
    await socket.prepare(request)
    query = request.query
    tty = query.get("tty") in {"1", "true"}
    wanted = {STDOUT} if query.get("output") in {"1", "true"} else set()
    if query.get("error") in {"1", "true"} and not tty:
        wanted.add(STDERR)
    stdin = asyncio.StreamReader() if query.get("input") in {"1", "true"} else None
    out = _Outgoing(socket, wanted)
    sender = asyncio.create_task(out.run())
    receiver = asyncio.create_task(_receive(socket, stdin))
    worker = asyncio.create_task(work(out, stdin, tty))
    try:
        # A client that goes away ends its command.
        await asyncio.wait({worker, receiver}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            try:
                out.finish(worker.result())
            except Exception as error:  # noqa: BLE001 - whatever the model did, the client is told
                complain("exec", repr(error), error)
                out.finish(failure(repr(error)))
            await sender
    finally:
        for task in (worker, receiver, sender):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await task
        await socket.close()
    return socket


async def execute(request: web.BaseRequest, container: Container, command: list[str]) -> web.WebSocketResponse:
    """
    Serve ``/exec``.
    """

    async def work(out: _Outgoing, stdin: asyncio.StreamReader | None, tty: bool) -> dict[str, Any]:
        def write(channel: int, data: bytes) -> None:
            out.write(STDOUT if tty else channel, data)

        try:
            return exit_status(await container.exec(command, stdin, write, tty=tty))
        except StartError as error:
            return failure(str(error))

    return await _stream(request, work)


async def type_in(stdin: asyncio.StreamReader, container: Container, *, once: bool) -> None:
    """
    Hand a client's input to the container. At its end the container's input ends too with ``once`` (stdinOnce) and no
    terminal, and the client stays for the output; otherwise this returns, and the client's attach is over.

    Source: containerd@1.7.28 pkg/cri/io/container_io.go (Attach).
    """
    while (data := await stdin.read(4096)) and container.stdin is not None:
        container.stdin.feed_data(data)
    if once and not container.spec.tty:
        if container.stdin is not None:
            container.stdin.feed_eof()
        # The program keeps its reader; there is nothing more to attach to.
        container.stdin = None
        await container.wait()
    # What the program answers at once still comes through.
    await asyncio.sleep(_LAST_WORDS)


async def attach(request: web.BaseRequest, container: Container, *, once: bool) -> web.WebSocketResponse:
    """
    Serve ``/attach``: what the container writes from now on, until it ends; what is typed goes to its stdin.
    """

    async def work(out: _Outgoing, stdin: asyncio.StreamReader | None, _: bool) -> dict[str, Any]:
        detach = container.attach(out.write)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(container.wait())]
        if stdin is not None and container.stdin is not None:
            tasks.append(asyncio.create_task(type_in(stdin, container, once=once)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            detach()
            for task in tasks:
                task.cancel()
        return success()

    return await _stream(request, work)
