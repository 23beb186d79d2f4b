"""
What one process in a container sees of its machine: all that a probe's twin may know.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.simulated.model import files as paths
from infra.simulated.model.accounts import Accounts, Token, User
from infra.simulated.model.errors import ACCESS_DENIED, WindowsError
from infra.simulated.model.job import JobView, Process

if TYPE_CHECKING:
    from pathlib import Path

    from infra.simulated.model.eras import Era
    from infra.simulated.model.files import FileSystem
    from infra.simulated.model.network import Network, Respond

__all__ = ["Environment", "JobView", "Process", "Token", "View", "WindowsError"]

ApiServer = Callable[[str, str, Mapping[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""Method, path, headers, body → status, body."""
Names = list[str]
Sids = list[tuple[str, str]]
"""Names with their SIDs."""
Write = Callable[[int, bytes], None]
"""Stream (1: output, 2: errors) and bytes."""


class Environment(MutableMapping[str, str]):
    """
    Variables whose names are compared without case and kept as they were first set.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values: dict[str, tuple[str, str]] = {}
        self.update(values or {})

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][1]

    def __setitem__(self, name: str, value: str) -> None:
        self._values[name.lower()] = (self._values.get(name.lower(), (name, ""))[0], value)

    def __delitem__(self, name: str) -> None:
        del self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._values.values()])

    def __len__(self) -> int:
        return len(self._values)


@dataclass(slots=True)
class Machine:
    """
    What all processes of a container share: its network, its accounts, and what the simulation keeps about it.
    ``unmodelled`` lists the programs and statements that the container asked for and the simulation lacks.
    """

    era: Era
    accounts: Accounts
    network: Network
    host_name: str
    answers_echo: Callable[[Network, str], bool]
    api_server: Callable[[tuple[str, int], tuple[str, int]], ApiServer]
    """What answers at an address, given the service's."""
    language_mode: Callable[[Token], str]
    may_change_accounts: Callable[[Token], bool]
    list_users: Callable[[Accounts], list[User]]
    run: Callable[[View, str], Awaitable[int]]
    workloads: Path
    processes: Mapping[str, str]
    """The paths of the host's own processes, by their names without extension."""
    unmodelled: list[str] = field(default_factory=list)


class View:
    """
    One process' view. Paths are Windows paths, relative ones count from ``working_directory``; errors are WindowsError
    with Windows' numbers.
    """

    def __init__(
        self,
        machine: Machine,
        files: FileSystem,
        *,
        env: Mapping[str, str],
        working_directory: str,
        token: Token,
        process: Process,
        write: Write,
    ) -> None:
        self.machine = machine
        self.env = Environment(env)
        self.working_directory = working_directory
        self.token = token
        self.process = process
        self.write_bytes = write
        self._files = files
        self._listening: set[tuple[str, int]] = set()

    def of_child(self, process: Process, write: Write | None = None) -> View:
        """
        The view of a child process: its own copy of the variables, the same everything else.
        """
        child = copy.copy(self)
        child.env = Environment(self.env)
        child.process = process
        child.write_bytes = write or self.write_bytes
        child._listening = set()  # noqa: SLF001 - the same class
        return child

    # Files.

    def full_path(self, path: str) -> str:
        """
        The absolute path, links not followed.
        """
        return paths.full_path(path, self.working_directory)

    def exists(self, path: str) -> bool:
        """
        Whether a file or a folder is there.
        """
        return self._files.exists(self.full_path(path))

    def is_directory(self, path: str) -> bool:
        """
        Whether a folder is there.
        """
        return self._files.is_directory(self.full_path(path))

    def is_link(self, path: str) -> bool:
        """
        Whether the path itself is a link (a reparse point).
        """
        return self._files.is_link(self.full_path(path))

    def read(self, path: str) -> bytes:
        """
        A file's bytes. Raises WindowsError 2, 3 or 5.
        """
        return self._files.read(self.full_path(path))

    def write(self, path: str, data: bytes) -> None:
        """
        Make or replace a file in a folder that is there. Raises WindowsError 3, 5 or 19 (a read-only mount).
        """
        self._files.write(self.full_path(path), data, parents=False)

    def make_directory(self, path: str) -> None:
        """
        Make a folder and those above it.
        """
        self._files.make_directory(self.full_path(path))

    def delete(self, path: str) -> None:
        """
        Delete a file, a link (not what it points to) or a folder with all below it. Raises WindowsError 2 when it is
        not there.
        """
        self._files.delete(self.full_path(path))

    def list(self, path: str) -> Names:
        """
        The names in a folder, sorted.
        """
        return self._files.list(self.full_path(path))

    def file_version(self, path: str) -> str:
        """
        The file's version resource; empty when it has none.
        """
        return self._files.file_version(self.full_path(path))

    # The machine.

    @property
    def windows_build(self) -> int:
        """
        The third part of Windows' version.
        """
        return self.machine.era.windows_build

    @property
    def ubr(self) -> int:
        """
        The fourth part of Windows' version.
        """
        return self.machine.era.ubr

    @property
    def host_name(self) -> str:
        """
        The DNS host name (not cut to 15 characters as COMPUTERNAME is). It is the registry's, of which an isolated
        container has one of its own.
        """
        return self.machine.host_name

    # The network.

    @property
    def interfaces(self) -> tuple[str, ...]:
        """
        The addresses of the network interfaces in sight.
        """
        return self.machine.network.interfaces

    def listen(self, address: str, port: int, respond: Respond) -> int:
        """
        Bind a listener until this process ends; port 0 takes a free one. ``respond`` is given what a client sends and
        returns what it gets. Returns the port. Raises WindowsError 10048 or 10049.
        """
        port = self.machine.network.listen(address, port, respond)
        self._listening.add((address, port))
        return port

    @property
    def listening(self) -> tuple[tuple[str, int], ...]:
        """
        Addresses and ports of this process' listeners.
        """
        return tuple(sorted(self._listening))

    def firewall_rules(self) -> Names:
        """
        The name of each rule of the firewall, as the machine's registry has them.
        """
        return [rule.name for rule in self.machine.network.firewall]

    def process_path(self, name: str) -> str | None:
        """
        The program of a process that runs on the host, by its name without extension; None where none runs.
        """
        return self.machine.processes.get(name)

    def answers_echo(self, address: str) -> bool:
        """
        Whether an ICMP echo request to the address is answered.
        """
        return self.machine.answers_echo(self.machine.network, address)

    async def https(  # noqa: PLR0917 - a request's line, in its order
        self, method: str, host: str, port: int, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, bytes]:
        """
        A request to the API server, by the address of the ``kubernetes`` service or by its own: status and body. Raises
        WindowsError 10061 for any other address, 10060 where nothing comes through.
        """
        service = (self.env.get("KUBERNETES_SERVICE_HOST", ""), int(self.env.get("KUBERNETES_SERVICE_PORT", "443")))
        server = self.machine.api_server((host, port), service)
        return await server(method, path, headers, body)

    # Accounts.

    def lookup_name(self, name: str) -> str:
        """
        The SID of an account or group. Raises WindowsError 1332 (IdentityNotMappedException).
        """
        return self.machine.accounts.lookup(name)

    def local_users(self) -> Sids:
        """
        Name and SID of each local user that Windows lists.
        """
        return sorted((user.name, user.sid) for user in self.machine.list_users(self.machine.accounts))

    def local_groups(self) -> Sids:
        """
        Name and SID of each local group.
        """
        return sorted((group.name, group.sid) for group in self.machine.accounts.groups.values())

    def group_members(self, name: str) -> Names:
        """
        The SIDs of a local group's members. Raises WindowsError 1376 when there is no such group.
        """
        return self.machine.accounts.members(name)

    def account_database(self) -> Accounts:
        """
        The accounts, to change them. Raises WindowsError 5 for who may not.
        """
        if not self.machine.may_change_accounts(self.token):
            raise WindowsError(ACCESS_DENIED)
        return self.machine.accounts

    # The process.

    @property
    def job(self) -> JobView:
        """
        What the process' job object says of its limits.
        """
        return self.process.job.limits

    async def run(self, arguments: Names) -> tuple[int, str]:
        """
        Run a program of the machine, found as cmd finds it: exit code, and output with errors.
        """
        written = bytearray()
        child = copy.copy(self)
        child.write_bytes = lambda _, data: written.extend(data)
        line = " ".join(f'"{word}"' if " " in word or not word else word for word in arguments)
        code = await self.machine.run(child, line)
        return code, written.decode().replace("\r\n", "\n")

    def write_line(self, text: str, stream: int = 1) -> None:
        """
        Print a line, to the output (1) or the errors (2).
        """
        self.write_bytes(stream, f"{text}\r\n".encode())

    async def until_stopped(self) -> None:
        """
        Wait until the container is stopped.
        """
        await asyncio.Event().wait()

    def end(self) -> None:
        """
        The process ends: its memory is free and its listeners are closed.
        """
        self.process.end()
        for address, port in self._listening:
            self.machine.network.close(address, port)
