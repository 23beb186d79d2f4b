"""
What network a container is in, from the interfaces that the model gave it, and a listener in it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from infra.simulated.model.view import View

    Fact = Callable[[View], Awaitable[Any]]

FIREWALL = ("netsh.exe", "advfirewall", "firewall")


def _in_role(role: str, collect: Fact) -> Fact:
    async def fact(view: View) -> Any:
        return await collect(view) if view.env.get("ROLE") == role else None

    return fact


def _rule(view: View) -> str:
    return f"name=hpc-conformance-{view.env['NONCE']}"


async def addresses(view: View) -> list[str]:
    """
    The addresses of all interfaces.
    """
    return sorted(view.interfaces)


async def host_name(view: View) -> str:
    """
    What the network stack in sight calls the machine, uncut.
    """
    return view.host_name


async def computer_name(view: View) -> str | None:
    """
    The name that Windows cuts at 15 characters.
    """
    return view.env.get("COMPUTERNAME")


def _listen(view: View, port: int) -> int | None:
    nonce = view.env["NONCE"]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(nonce)}\r\nConnection: close\r\n\r\n"
    try:
        view.listen(view.env["HOST_IP"], port, lambda _request: f"{head}{nonce}".encode())
    except WindowsError as error:
        if error.type != "System.Net.Sockets.SocketException":
            raise
        return error.code
    return None


async def listener(view: View) -> dict[str, Any]:
    """
    Bind the node's address, at the wanted port or else at any free one, and answer the nonce there.
    """
    wanted = int(view.env.get("LISTENER_PORT", "0"))
    taken = _listen(view, wanted) if wanted else None
    error = None if view.listening else _listen(view, 0)
    port = view.listening[0][1] if view.listening else None
    return {"address": view.env["HOST_IP"], "port": port, "socketError": error, "wantedPortError": taken}


async def firewall_rule(view: View) -> dict[str, int] | None:
    """
    Let what comes from outside reach the listener.
    """
    ports = [port for _, port in view.listening]
    if not ports:
        return None
    what = ("dir=in", "action=allow", "protocol=TCP", f"localip={view.env['HOST_IP']}", f"localport={ports[0]}")
    code, _ = await view.run([*FIREWALL, "add", "rule", _rule(view), *what])
    return {"addExitCode": code}


async def removed(view: View) -> dict[str, int]:
    """
    Take the firewall's rule away, and look for it.
    """
    deleted, _ = await view.run([*FIREWALL, "delete", "rule", _rule(view)])
    shown, _ = await view.run([*FIREWALL, "show", "rule", _rule(view)])
    return {"deleteExitCode": deleted, "showExitCode": shown}


FACTS = {
    "addresses": _in_role("listen", addresses),
    "hostName": _in_role("listen", host_name),
    "computerName": _in_role("listen", computer_name),
    "listener": _in_role("listen", listener),
    "firewallRule": _in_role("listen", firewall_rule),
    "removed": _in_role("tidy", removed),
}


async def after(view: View) -> None:
    """
    Stay, so that the listener can be asked.
    """
    if view.listening:
        with suppress(TimeoutError):
            async with asyncio.timeout(int(view.env.get("LISTEN_SECONDS", "0"))):
                await view.until_stopped()
