"""
A container: created, started, stopped, removed; its log, and what runs in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from infra.simulated.model import console, programs, runtime
from infra.simulated.model.eras import MountMode
from infra.simulated.model.errors import ShimError, StartError, WindowsError
from infra.simulated.model.job import Job, JobView, Process
from infra.simulated.model.spec import ContainerSpec, ImageConfig, Mount
from infra.simulated.model.view import Machine, View, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from infra.simulated.model.accounts import Token
    from infra.simulated.model.host import Host

__all__ = ["Container", "ContainerLog", "ContainerSpec", "ImageConfig", "LogLine", "Mount"]

KILLED = 1
"""The exit code of a container that was terminated (hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go)."""

LOG_LIMIT = 10 * 1024 * 1024


def now() -> str:
    """
    The time as a CRI log has it: RFC 3339 in UTC with nanoseconds.
    """
    nanoseconds = time.time_ns()
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z"


@dataclass(frozen=True, slots=True)
class LogLine:
    """
    One line of a log: when it was written, ``stdout`` or ``stderr``, and its text without the line's end.
    """

    time: str
    stream: str
    text: str


class ContainerLog:
    """
    What a container wrote, line by line: ``lines`` are those that are kept, ``dropped`` says how many older ones are
    not, ``size`` is the bytes that a CRI log file has of them. Of more than 10 MiB, the kubelet's default for one file,
    the oldest go, a tenth at once.

    Source for the line's end (carriage return included): containerd@1.7.28 pkg/cri/io/logger.go.
    """

    def __init__(self, limit: int = LOG_LIMIT) -> None:
        self.lines: list[LogLine] = []
        self.dropped = 0
        self.size = 0
        self.closed = False
        self._limit = limit
        self._partial = {1: b"", 2: b""}
        self._changed = asyncio.Event()

    def write(self, stream: int, data: bytes) -> None:
        """
        Add what the container wrote to its output (1) or its errors (2).
        """
        *whole, rest = (self._partial[stream] + data).split(b"\n")
        if len(rest) > self._limit:
            whole, rest = [*whole, rest], b""
        self._partial[stream] = rest
        for line in whole:
            self._add(stream, line.removesuffix(b"\r"))
        if whole:
            self._wake()

    def close(self) -> None:
        """
        The container has ended: what stands there without a line's end becomes a line too.
        """
        for stream, rest in self._partial.items():
            if rest:
                self._add(stream, rest)
        self._partial = {1: b"", 2: b""}
        self.closed = True
        self._wake()

    async def follow(self, index: int = 0) -> AsyncIterator[LogLine]:
        """
        The lines from ``index`` on (counted from the very first one), as they come, until the container has ended. Who
        reads too slowly misses what is dropped in the meantime.
        """
        while True:
            changed = self._changed
            while (index := max(index, self.dropped)) < self.dropped + len(self.lines):
                yield self.lines[index - self.dropped]
                index += 1
            if self.closed:
                return
            await changed.wait()

    def _add(self, stream: int, line: bytes) -> None:
        made = LogLine(now(), "stdout" if stream == 1 else "stderr", line.decode(errors="replace"))
        self.lines.append(made)
        self.size += _size(made)
        if self.size > self._limit:
            old = 0
            while self.size > self._limit * 9 // 10 and old < len(self.lines) - 1:
                self.size -= _size(self.lines[old])
                old += 1
            del self.lines[:old]
            self.dropped += old

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _size(line: LogLine) -> int:
    """
    A line in a CRI log file: time, stream, a tag, text and the spaces between them.
    """
    return len(line.time) + len(line.stream) + len(line.text) + 5


class Container:
    """
    One HostProcess container. Made by ``Host.create``; ``mounts`` are those of the CRI request with their destinations.

    ``stdin`` is where attach feeds a container that asked for it; ``unmodelled`` lists what the container wanted to
    run and the simulation lacks; ``started_at`` and ``finished_at`` are empty before.
    """

    def __init__(self, host: Host, spec: ContainerSpec, mounts: list[tuple[Mount, str]], line: str) -> None:
        self.host = host
        self.spec = spec
        self.log = ContainerLog()
        self.unmodelled: list[str] = []
        self.stdin = asyncio.StreamReader() if spec.stdin else None
        self.exit_code: int | None = None
        self.started_at = ""
        self.finished_at = ""
        self.job = Job(JobView(), host.rules.may_commit, host.rules.job_of_child)
        self._mounts = mounts
        self._line = line
        self._storage: runtime.Storage | None = None
        self._view: View | None = None
        self._init: asyncio.Task[int] | None = None
        self._execs: set[asyncio.Task[int]] = set()
        self._consoles: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._killed = False
        self._attached: list[Write] = []
        self._lag = 0.0
        self._unread: deque[tuple[int, bytes]] = deque()
        """What the shim has not read yet, oldest first: the stream and the bytes."""

    @property
    def running(self) -> bool:
        """
        Whether its first process is running.
        """
        return self._init is not None and self.exit_code is None

    async def start(self) -> None:
        """
        Make the task and start it. Raises StartError with containerd's text; nothing but residue is left then.

        Source of the wraps: containerd@1.7.28 pkg/cri/server/container_start.go.
        """
        kind = (self.spec.name, *self.spec.command, *self.spec.args)
        starts = self.host.starts[kind]
        self.host.starts[kind] += 1
        self._lag = self.host.rules.output_lag(starts)
        try:
            self.host.rules.mount_layers(starts)
            self._storage = runtime.create_storage(
                self.host.rules, self.host.era, self.host.files, self.spec, self._mounts
            )
            self.job.limits = self._limits()
        except ShimError as error:
            self._release()
            raise StartError(
                f"failed to create containerd task: failed to create shim task: {error}: unknown"
            ) from None
        try:
            view, path, line = self._prepare(self._storage)
        except ShimError as error:
            self._release()
            raise StartError(f'failed to start containerd task "{self.spec.id}": {error}: unknown') from None
        self._view = view
        self.started_at = now()
        stdin = self._console(self.stdin, self._write) if self.spec.tty else self.stdin
        self.job.process("conhost.exe").begin()  # Windows' own, for the first program's console
        self._init = asyncio.create_task(programs.start(view, path, line, self._process(path), stdin))
        self._init.add_done_callback(self._finish)

    async def wait(self) -> int:
        """
        The exit code, once the container has ended.
        """
        await self._ended.wait()
        return self.exit_code if self.exit_code is not None else KILLED

    async def stop(self, grace: float) -> None:
        """
        CTRL_SHUTDOWN to the first process, which ends the modelled programs at once; without a grace period (seconds)
        the job is terminated. A container that has ended is left alone.

        Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go and internal/signals.
        """
        if self._init is None or self.exit_code is not None:
            return
        self._killed = grace <= 0
        self._init.cancel()
        await self._ended.wait()

    async def exec(
        self, command: list[str], stdin: asyncio.StreamReader | None, write: Write, *, tty: bool = False
    ) -> int:
        """
        Run a command in the container's job, by the same rules as its first process; shims before 0.10 log on anew.
        ``write`` gets the stream and the bytes (all on stream 1 with a terminal). Raises StartError.

        Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go; containerd@1.7.28
        pkg/cri/server/container_execsync.go.
        """
        if self._view is None or self._storage is None or not self.running:
            state = "CONTAINER_EXITED" if self._init is not None else "CONTAINER_CREATED"
            raise StartError(f"failed to exec in container: container is in {state} state")
        era = self.host.era
        try:
            path, line = self._resolve(
                runtime.expand(self.host.rules.join_arguments(command), self._storage.location),
                dict(self._view.env),
                self._view.working_directory,
            )
            token = self._view.token if era.shim_since("0.10.0-rc.0") else self._log_on()
        except ShimError as error:
            raise StartError(
                f'failed to exec in container: failed to start exec "{uuid4().hex * 2}": {error}: unknown'
            ) from None
        view = self._view.of_child(self._view.process, (lambda _, data: write(1, data)) if tty else write)
        view.token = token
        lines = self._console(stdin, write) if tty else stdin
        task = asyncio.create_task(programs.start(view, path, line, self._process(path), lines))
        self._execs.add(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                task.cancel()
                raise
            return programs.CONTROL_C_EXIT
        finally:
            self._execs.discard(task)

    def attach(self, write: Write) -> Callable[[], None]:
        """
        Give ``write`` all that the container writes from now on; the returned function ends that.
        """
        self._attached.append(write)

        def detach() -> None:
            with suppress(ValueError):
                self._attached.remove(write)

        return detach

    def remove(self) -> None:
        """
        Delete the container: the volume of its root file system goes with all that was written there. What was made on
        the host stays: sources of mounts, folders above bound ones, working directories, whatever the program did.
        """
        if self._storage is not None:
            self.host.files.drop_volume(self._storage.volume)
        self.host.containers.pop(self.spec.id, None)

    def _limits(self) -> JobView:
        """
        Kill on close always; memory and CPU as asked.

        Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go (SetTerminateOnLastHandleClose), oci.go.
        """
        memory = self.host.rules.memory_limit(self.spec.memory_limit)
        flags, rate = self.host.rules.cpu_limit(self.spec.cpu_maximum)
        return replace(memory, cpu_flags=flags, cpu_rate=rate)

    def _prepare(self, storage: runtime.Storage) -> tuple[View, str, str]:
        """
        Working directory, user, environment, program, in this order from shim 0.10 on; before, the program came first,
        so that of two mistakes another one is told.

        Source: hcsshim@0.9.12 and @0.11.7 internal/jobcontainers/jobcontainer.go (CreateProcess).
        """
        host, era, rules = self.host, self.host.era, self.host.rules
        line = runtime.expand(self._line, storage.location)
        directory = rules.start_directory(era, storage.location, runtime.requested_directory(self.spec))
        runtime.make_start_directory(era, host.files, directory)
        program_first = era.mount_mode is MountMode.LINKS
        path, found = self._resolve(line, {}, directory) if program_first else ("", "")
        token = self._log_on()
        name = rules.host_name(host.host_name, self.spec.id)
        of_user = runtime.user_environment(host.accounts, token, name, host.processors)
        env = runtime.environment(rules, era, self.spec, storage.location, of_user)
        if not program_first:
            path, found = self._resolve(line, env, directory)
        runtime.refuse_missing_directory(host.files, directory)
        machine = Machine(
            era=era,
            accounts=host.accounts,
            network=rules.network_of(host.network, self.spec.id),
            host_name=name,
            answers_echo=rules.answers_echo,
            api_server=host.api_server_at,
            language_mode=rules.language_mode,
            may_change_accounts=rules.may_change_accounts,
            list_users=rules.list_users,
            run=programs.run_line,
            workloads=host.workloads,
            processes=runtime.host_processes(host.files),
            unmodelled=self.unmodelled,
        )
        files = host.files.view(storage.bindings, administrator=token.trusted)
        return (
            View(
                machine,
                files,
                env=env,
                working_directory=directory,
                token=token,
                process=self.job.process(""),
                write=self._write,
            ),
            path,
            found,
        )

    def _resolve(self, line: str, env: dict[str, str], directory: str) -> tuple[str, str]:
        """
        The program's path and its command line. Raises ShimError. A program that is there but not modelled fails as a
        missing one does, and is recorded.
        """
        era = self.host.era
        if era.mount_mode is MountMode.BIND:
            line = runtime.silo_line(line)
        try:
            path, found = runtime.find_executable(
                self.host.files, line, runtime.search_path(era, env or {"PATH": ""}, directory)
            )
        except ShimError:
            self.unmodelled.append(line)
            raise
        if not programs.modelled(path):
            self.unmodelled.append(path)
            raise ShimError(
                f"failed to get application name from commandline {runtime.quoted(line)}: "
                f"failed to find executable {runtime.quoted(line)}"
            )
        return path, found

    def _log_on(self) -> Token:
        return runtime.create_token(
            self.host.rules, self.host.era, self.host.accounts, self.host.rules.user_string(self.spec), self.spec.id
        )

    def _console(self, typed: asyncio.StreamReader | None, write: Write) -> asyncio.StreamReader | None:
        """
        The input of a program behind a terminal, None when nobody types.
        """
        if typed is None:
            return None
        lines = asyncio.StreamReader()
        feeding = asyncio.create_task(console.feed(typed, lines, write))
        self._consoles.add(feeding)
        feeding.add_done_callback(self._consoles.discard)
        return lines

    def _process(self, path: str) -> Process:
        return self.job.process(path.rpartition("\\")[2].lower())

    def _write(self, stream: int, data: bytes) -> None:
        if self.spec.tty:
            stream = 1
        if self._lag:
            self._unread.append((stream, data))
            asyncio.get_running_loop().call_later(self._lag, self._read)
        else:
            self._relay(stream, data)

    def _read(self) -> None:
        """
        The shim reads the oldest of what it has not read; nothing is left once the process has ended.
        """
        if self._unread:
            self._relay(*self._unread.popleft())

    def _relay(self, stream: int, data: bytes) -> None:
        self.log.write(stream, data)
        for write in list(self._attached):
            write(stream, data)

    def _finish(self, task: asyncio.Task[int]) -> None:
        """
        The first process has ended: the others are told, the job is terminated, the task is deleted.

        Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go (waitBackground, Close).
        """
        if task.cancelled():
            self.exit_code = KILLED if self._killed else programs.CONTROL_C_EXIT
        elif (error := task.exception()) is not None:
            self.unmodelled.append(f"the simulation failed: {error!r}")
            self.exit_code = 255
        else:
            self.exit_code = signed(task.result())
        for running in [*self._execs, *self._consoles]:
            running.cancel()
        for process in list(self.job.processes):
            process.end()
        self.finished_at = now()
        if not self.host.era.shim_since("0.12.0"):
            self._unread.clear()
        while self._unread:
            self._read()
        self._release()
        self.log.close()
        self._ended.set()

    def _release(self) -> None:
        """
        What goes when the task is deleted: the root file system's mount and the ephemeral account.
        """
        if self._storage is not None:
            with suppress(WindowsError):
                runtime.release_storage(self.host.files, self._storage)
        self.host.rules.remove_account(self.host.accounts, runtime.ephemeral_name(self.spec.id))


def signed(code: int) -> int:
    """
    An exit code as CRI carries it: Windows' unsigned 32 bits read as a signed number.
    """
    code &= 0xFFFFFFFF
    return code - (1 << 32) if code >= 1 << 31 else code
