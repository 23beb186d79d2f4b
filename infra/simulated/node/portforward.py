"""
Port forwarding: SPDY/3.1 frames inside a WebSocket, as ``kubectl port-forward`` opens it.

Each forwarded connection is two streams, ``error`` and ``data``. What arrives on the data stream goes to what listens
on the node's loopback address: containerd dials ``localhost``, because the pod has the host's network.

Source: the SPDY/3.1 protocol draft (frames 2.2 and 2.6, header dictionary 2.6.10.1).
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from aiohttp import WSMsgType, web

from infra.simulated.model.network import LOOPBACK
from infra.simulated.node.egress import complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.simulated.model.eras import Era
    from infra.simulated.model.host import Host

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
_CONTROL = 0x8003
_FIN = 1
_IDLE = 1.0

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_NAMES = [*_WORDS.split(" "), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
    "iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack("!I", len(name)) + name.encode() for name in _NAMES) + _REST.encode()


@dataclass(frozen=True, slots=True)
class Frame:
    """
    One frame: ``kind`` is the control type, 0 for data; ``stream`` is set for data frames.
    """

    kind: int
    stream: int
    flags: int
    body: bytes


class Frames:
    """
    Cuts a stream of bytes into frames.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """
        The frames that are complete now.
        """
        self._rest += data
        while len(self._rest) >= 8:
            first, second = struct.unpack("!II", self._rest[:8])
            flags, length = second >> 24, second & 0xFFFFFF
            if len(self._rest) < 8 + length:
                return
            body, self._rest = self._rest[8 : 8 + length], self._rest[8 + length :]
            if first >> 31:
                yield Frame(first & 0xFFFF, 0, flags, body)
            else:
                yield Frame(0, first, flags, body)


def control(kind: int, body: bytes, flags: int = 0) -> bytes:
    """
    A control frame's bytes.
    """
    return struct.pack("!HHI", _CONTROL, kind, flags << 24 | len(body)) + body


def data_frame(stream: int, body: bytes, *, last: bool) -> bytes:
    """
    A data frame's bytes.
    """
    return struct.pack("!II", stream, (_FIN if last else 0) << 24 | len(body)) + body


def headers(block: bytes) -> dict[str, str]:
    """
    The names and values of a decompressed header block.
    """
    (count,), at, made = struct.unpack("!I", block[:4]), 4, {}
    for _ in range(count):
        pair = []
        for _ in range(2):
            (length,) = struct.unpack("!I", block[at : at + 4])
            pair.append(block[at + 4 : at + 4 + length].decode())
            at += 4 + length
        made[pair[0].lower()] = pair[1]
    return made


@dataclass(slots=True)
class _Connection:
    """
    One forwarded connection.
    """

    port: int = 0
    error: int = 0
    data: int = 0
    received: bytes = b""
    timer: asyncio.TimerHandle | None = None
    answered: bool = False


class Forwarder:
    """
    The node's end of one ``port-forward``, without its socket: bytes in by ``feed``, bytes out by ``send``.
    """

    def __init__(self, host: Host, sandbox: str, send: asyncio.Queue[bytes]) -> None:
        self._host = host
        self._sandbox = sandbox
        self._send = send
        self._frames = Frames()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._streams: dict[int, _Connection] = {}
        self._connections: dict[str, _Connection] = {}

    def feed(self, data: bytes) -> None:
        """
        Take what the client sent.
        """
        for frame in self._frames.feed(data):
            if frame.kind == SYN_STREAM:
                self._open(frame)
            elif frame.kind == PING:
                self._send.put_nowait(control(PING, frame.body))
            elif frame.kind == RST_STREAM:
                self._streams.pop(struct.unpack("!I", frame.body[:4])[0] & 0x7FFFFFFF, None)
            elif frame.kind == 0 and (connection := self._streams.get(frame.stream)):
                self._received(connection, frame)

    def _open(self, frame: Frame) -> None:
        stream = struct.unpack("!I", frame.body[:4])[0] & 0x7FFFFFFF
        said = headers(self._inflate.decompress(frame.body[10:]))
        connection = self._connections.setdefault(said.get("requestid", ""), _Connection())
        connection.port = int(said.get("port", "0"))
        if said.get("streamtype") == "error":
            connection.error = stream
        else:
            connection.data = stream
        self._streams[stream] = connection
        none = self._deflate.compress(struct.pack("!I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._send.put_nowait(control(SYN_REPLY, struct.pack("!I", stream) + none))

    def _received(self, connection: _Connection, frame: Frame) -> None:
        if frame.stream != connection.data:
            return
        connection.received += frame.body
        if connection.timer is not None:
            connection.timer.cancel()
        if frame.flags & _FIN or complete(connection.received):
            self._answer(connection)
        else:
            connection.timer = asyncio.get_running_loop().call_later(_IDLE, self._answer, connection)

    def _answer(self, connection: _Connection) -> None:
        if connection.answered:
            return
        connection.answered = True
        answer, trouble = b"", refusal(self._host.era, self._sandbox)
        if not trouble:
            respond = self._host.network.connect(LOOPBACK, connection.port)
            if respond is None:
                trouble = not_listening(self._sandbox, connection.port)
            else:
                answer = respond(connection.received)
        if trouble:
            trouble = f"error forwarding port {connection.port} to pod {self._sandbox}, uid : {trouble}"
        self._send.put_nowait(data_frame(connection.data, answer, last=True))
        self._send.put_nowait(data_frame(connection.error, trouble.encode(), last=True))


def refusal(era: Era, sandbox: str) -> str:
    """
    What containerd says before it dials at all, empty when it does: until 1.7.16 it ran a program in the sandbox, and
    that of a HostProcess pod is no process.

    Source: containerd@1.7.15 and @1.7.28 pkg/cri/server/sandbox_portforward_windows.go; hcsshim
    cmd/containerd-shim-runhcs-v1/task_wcow_podsandbox.go.
    """
    if era.containerd_since("1.7.16"):
        return ""
    return (
        f'failed to execute port forward in sandbox: : failed to exec in sandbox: failed to create exec "{sandbox}": '
        "WCOW Pod task should never issue exec: not implemented"
    )


def not_listening(sandbox: str, port: int) -> str:
    """
    What containerd says when nothing listens on the port.

    Source: containerd@1.7.28 pkg/cri/server/sandbox_portforward_windows.go (hpcPortForwarding).
    """
    refused = "No connection could be made because the target machine actively refused it."
    return (
        f"failed to execute portforward for HPC podId {sandbox}, podIp localhost, err: failed to connect to "
        f'localhost:{port} for pod "{sandbox}": dial tcp 127.0.0.1:{port}: connectex: {refused}'
    )


async def serve(request: web.BaseRequest, host: Host) -> web.StreamResponse:
    """
    Serve ``/portForward``.
    """
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=0)
    await socket.prepare(request)
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    # No sandbox of the model has an id.
    forwarder = Forwarder(host, uuid4().hex * 2, queue)

    async def send() -> None:
        while True:
            await socket.send_bytes(await queue.get())

    sender = asyncio.create_task(send())
    try:
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                forwarder.feed(message.data)
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
    return socket
