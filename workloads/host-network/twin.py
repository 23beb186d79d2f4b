"""
What network a container is in, from the interfaces that the model gave it, and a listener in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from infra.simulated.model.view import View


async def addresses(view: View) -> list[str]:
    """
    The addresses of all interfaces.
    """
    return sorted(view.interfaces)


async def host_name(view: View) -> str:
    """
    The machine's name, uncut.
    """
    return view.host_name


async def computer_name(view: View) -> str | None:
    """
    The name that Windows cuts at 15 characters.
    """
    return view.env.get("COMPUTERNAME")


async def listener(view: View) -> dict[str, Any]:
    """
    Bind the node's address and answer the nonce there.
    """
    address, nonce = view.env["HOST_IP"], view.env["NONCE"]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(nonce)}\r\nConnection: close\r\n\r\n"
    try:
        port = view.listen(address, 0, lambda _request: f"{head}{nonce}".encode())
    except WindowsError as error:
        if error.type != "System.Net.Sockets.SocketException":
            raise
        return {"address": address, "port": None, "socketError": error.code}
    return {"address": address, "port": port, "socketError": None}


FACTS = {"addresses": addresses, "hostName": host_name, "computerName": computer_name, "listener": listener}


async def after(view: View) -> None:
    """
    Stay, so that the listener can be asked.
    """
    await view.until_stopped()
