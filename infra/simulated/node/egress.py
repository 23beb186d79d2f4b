"""
How the API server reaches nodes and pods: an HTTP CONNECT on a unix socket.

The address in the CONNECT line says which node or pod is meant, so any number of them can have true-to-life addresses
that exist nowhere else. Two races were seen and are closed here: reading is paused before the 200 is written, or the
client's first TLS record is swallowed; and what is decrypted before the HTTP protocol is in place is kept for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from infra.simulated.model.errors import TIMED_OUT, WindowsError
from infra.simulated.node.report import complain

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    Respond = Callable[[bytes], bytes]

KUBELET_PORT = 10250
_ESTABLISHED = b"HTTP/1.1 200 OK\r\n\r\n"
_REFUSED = "502 connection refused"
_NO_ROUTE = "502 no route to host"
_TIMED_OUT = "504 i/o timeout"
# A real one takes half a minute.
_TIME_OUT = 1.0
_LONGEST_HEAD = 16384
# A client that is silent for this long has said all that it wants answered.
_IDLE = 1.0


def target(head: bytes) -> tuple[str, int] | None:
    """
    Address and port of a CONNECT request, None when it is none.
    """
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or words[0] != b"CONNECT":
        return None
    address, _, port = words[1].decode("ascii", "replace").rpartition(":")
    return (address.strip("[]"), int(port)) if port.isdigit() else None


def complete(data: bytes) -> bool:
    """
    Whether an HTTP request has arrived with all its body; False for anything else, which ends by silence.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
        if name.strip().lower() == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return True


class Kubelet:
    """
    Where a node's own port leads: its TLS context and what makes an HTTP protocol.
    """

    def __init__(self, context: ssl.SSLContext, protocol: Callable[[], asyncio.Protocol]) -> None:
        self.context = context
        self.protocol = protocol


class Egress:
    """
    The unix socket. ``kubelet`` gives the node at an address, None where there is none; ``connect`` gives what listens
    on a node in the model, or raises WindowsError.
    """

    def __init__(self, kubelet: Callable[[str], Kubelet | None], connect: Callable[[str, int], Respond]) -> None:
        self.kubelet = kubelet
        self.connect = connect
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path) -> None:
        """
        Begin to serve; a socket file that an earlier process left is replaced.
        """
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Tunnel(self), str(path), backlog=512)

    def close(self) -> None:
        """
        Take no more connections.
        """
        if self._server is not None:
            self._server.close()


class _Collected(asyncio.Protocol):
    """
    Holds what arrives between the handshake and the real protocol.
    """

    def __init__(self) -> None:
        self.data = b""
        self.over = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.over = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.over = True


class _Tunnel(asyncio.Protocol):
    """
    One connection, from its CONNECT on.
    """

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._data = b""
        self._respond: Respond | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> None:
        if self._started:
            self._answer()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._started:
            self._await_rest()
            return
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            if len(self._data) > _LONGEST_HEAD:
                self._transport.close()
            return
        self._data = rest
        self._open(target(head))

    def _open(self, where: tuple[str, int] | None) -> None:
        if where is None:
            self._refuse(_REFUSED)
            return
        address, port = where
        kubelet = self._egress.kubelet(address)
        if kubelet is None:
            self._refuse(_NO_ROUTE)
            return
        if port == KUBELET_PORT:
            self._transport.pause_reading()
            self._transport.write(_ESTABLISHED)
            self._task = asyncio.create_task(self._secure(kubelet))
            return
        try:
            self._respond = self._egress.connect(address, port)
        except WindowsError as error:
            if error.code == TIMED_OUT:
                self._timer = asyncio.get_running_loop().call_later(_TIME_OUT, self._refuse, _TIMED_OUT)
            else:
                self._refuse(_REFUSED)
            return
        self._started = True
        self._transport.write(_ESTABLISHED)
        if self._data:
            self._await_rest()

    def _refuse(self, status: str) -> None:
        self._transport.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        self._transport.close()

    async def _secure(self, kubelet: Kubelet) -> None:
        loop = asyncio.get_running_loop()
        collected = _Collected()
        try:
            secure = await loop.start_tls(self._transport, collected, kubelet.context, server_side=True)
        except (OSError, EOFError):
            self._transport.abort()
            return
        if secure is None or collected.over:
            self._transport.abort()
            return
        protocol = kubelet.protocol()
        secure.set_protocol(protocol)
        protocol.connection_made(secure)
        if collected.data:
            protocol.data_received(collected.data)

    def _await_rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if complete(self._data):
            self._answer()
        else:
            self._timer = asyncio.get_running_loop().call_later(_IDLE, self._answer)

    def _answer(self) -> None:
        respond, self._respond = self._respond, None
        if respond is None:
            return
        answer = b""
        try:
            answer = respond(self._data)
        except Exception as error:  # noqa: BLE001 - a program's trouble is a connection that closes without an answer
            complain("egress", f"a listener failed: {error!r}", error)
        with contextlib.suppress(OSError):
            self._transport.write(answer)
            self._transport.close()
