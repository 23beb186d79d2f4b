"""
Network compartments: the addresses that a process sees, the listeners bound to them, and the firewall before them. No
real socket is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from infra.simulated.model.errors import (
    ADDRESS_IN_USE,
    ADDRESS_NOT_AVAILABLE,
    CONNECTION_REFUSED,
    TIMED_OUT,
    WindowsError,
)

Respond = Callable[[bytes], bytes]
LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"
_DYNAMIC = range(49152, 65536)


@dataclass(frozen=True, slots=True)
class Allowed:
    """
    A rule of Windows Firewall that lets TCP in: its name (names need not be unique), address (empty: any) and port.
    """

    name: str
    address: str
    port: int


@dataclass(slots=True)
class Network:
    """
    One network compartment. ``listeners`` maps (address, port) to what answers there: bytes in, bytes out. What comes
    from outside is dropped but for what ``firewall`` allows; the kubelet's own port is not modelled as a listener.
    """

    interfaces: tuple[str, ...]
    find: Callable[[Network, str, int], Respond | None]
    listeners: dict[tuple[str, int], Respond] = field(default_factory=dict)
    firewall: list[Allowed] = field(default_factory=list)

    def listen(self, address: str, port: int, respond: Respond) -> int:
        """
        Bind a listener; port 0 takes a free one. Returns the port. Raises WindowsError 10049 for an address that no
        interface has, 10048 for one that is taken.
        """
        if address not in {ANY, *self.interfaces}:
            raise WindowsError(ADDRESS_NOT_AVAILABLE)
        taken = {used for at, used in self.listeners if ANY in {at, address} or at == address}
        if port == 0:
            port = next(free for free in _DYNAMIC if free not in taken)
        elif port in taken:
            raise WindowsError(ADDRESS_IN_USE)
        self.listeners[address, port] = respond
        return port

    def connect(self, address: str, port: int) -> Respond | None:
        """
        What answers the machine itself at an address and port, None when the connection is refused.
        """
        return self.find(self, address, port)

    def connect_from_outside(self, address: str, port: int) -> Respond:
        """
        What answers another machine. Raises WindowsError 10060 where the firewall drops the packets, 10061 where the
        connection is refused (Windows' stealth mode, which drops those too, is not modelled).
        """
        if not any(rule.port == port and rule.address in {"", address} for rule in self.firewall):
            raise WindowsError(TIMED_OUT)
        respond = self.find(self, address, port)
        if respond is None:
            raise WindowsError(CONNECTION_REFUSED)
        return respond

    def close(self, address: str, port: int) -> None:
        """
        Take a listener away.
        """
        self.listeners.pop((address, port), None)


def find_listener(network: Network, address: str, port: int) -> Respond | None:
    """
    A listener on the very address, or on all of them.
    """
    if address not in network.interfaces:
        return None
    return network.listeners.get((address, port)) or network.listeners.get((ANY, port))


def answers_echo(network: Network, address: str) -> bool:
    """
    Whether a ping to an address is answered: those of the compartment itself are.
    """
    return address in network.interfaces
