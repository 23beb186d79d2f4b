"""
The simulated cluster as the program sees it: up while a ``with`` block runs, or detached until it is taken down.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from filelock import FileLock

from conformance._suite.errors import TargetError, UsageError
from conformance._suite.files import cache_directory
from infra.simulated import binaries
from infra.simulated.model.eras import ERAS
from infra.simulated.supervisor import process_start
from infra.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from conformance._suite.say import Say

_FIRST_ADDRESS = ipaddress.IPv4Address("10.240.0.4")  # where AKS, too, begins
_START_LIMIT = 120.0  # seconds
_START_LIMIT_PER_NODE = 1.0
_STOP_LIMIT = 75.0  # longer than the supervisor gives its children
_RELEASE_LIMIT = 10.0
_SOCKET_PATH_LIMIT = 100  # a unix socket's path holds 104 bytes on macOS, 108 on Linux
_PAUSE = 0.05
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """
    One simulated node: its runtime's era, its address, and the names of the deviations that make it wrong.
    """

    name: str
    era: str
    address: str
    deviations: tuple[str, ...] = ()


def name_nodes(wanted: Iterable[tuple[str, Sequence[str]]]) -> list[NodeSpec]:
    """
    Nodes of the wanted (era, deviations), with names (counted within their era, from 1) and addresses.

    Raises UsageError for an era that there is not.
    """
    counts: collections.Counter[str] = collections.Counter()
    nodes: list[NodeSpec] = []
    for era, deviations in wanted:
        if era not in ERAS:
            raise UsageError(f"unknown era {era!r} of a simulated node", f"known are {', '.join(ERAS)}")
        counts[era] += 1
        name = f"win-containerd-{era.replace('.', '-')}-{counts[era]}"
        nodes.append(NodeSpec(name, era, str(_FIRST_ADDRESS + len(nodes)), tuple(deviations)))
    return nodes


def parse_nodes(text: str) -> list[NodeSpec]:
    """
    The nodes that ``era=count,era=count`` asks for; an era alone means one.

    Raises UsageError for what cannot be read, an unknown era, and no node at all.
    """
    wanted: list[tuple[str, Sequence[str]]] = []
    for part in text.split(","):
        era, _, number = (piece.strip() for piece in part.partition("="))
        count = number or ("1" if "=" not in part else "")
        if not era or not count.isascii() or not count.isdecimal():
            raise UsageError(f"cannot read {part.strip()!r} in the simulated nodes {text!r}", "write era=count,…")
        wanted += [(era, ())] * int(count)
    nodes = name_nodes(wanted)
    if not nodes:
        raise UsageError(f"the simulated nodes {text!r} are none", "write era=count,…")
    return nodes


class SimulatedCluster:
    """
    A real control plane with simulated Windows nodes, there while the ``with`` block runs.

    ``taints`` (key, effect, and value if any) go onto every node; with ``service_unreachable`` none of them reaches the
    ``kubernetes`` service; ``api_defects`` are names of the API server's
    defects, each of which gets a kubeconfig of its own. No root and no container engine is needed; nothing is left
    afterwards, even if this process is killed. Raises TargetError when it does not come up, and at the block's end when
    it died in it: then the block is interrupted as by Ctrl-C.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        say: Say,
        control_plane_bin: Path | None = None,
        api_defects: Sequence[str] = (),
        taints: Sequence[Mapping[str, str]] = (),
        *,
        service_unreachable: bool = False,
    ) -> None:
        self.nodes = tuple(nodes)
        self._say = say
        self._control_plane_bin = control_plane_bin
        self._api_defects = api_defects
        self._taints = taints
        self._service_unreachable = service_unreachable
        self._supervisor: _Supervisor | None = None
        self._defects: dict[str, str] = {}

    def __enter__(self) -> Target:
        programs = binaries.find(self._say, self._control_plane_bin)
        began = time.monotonic()
        self._say("starting the simulated cluster: about 6 s")
        supervisor = _Supervisor(self._config(programs), self._say)
        self._supervisor = supervisor
        try:
            ready = supervisor.until_ready()
            supervisor.interrupt_when_it_dies()
        except BaseException:
            supervisor.stop()
            raise
        self._defects = ready["defects"]
        self._say(f"the simulated cluster is ready after {time.monotonic() - began:.1f} s")
        return Target("simulated", Path(ready["kubeconfig"]), "simulated", simulated=True)

    def _config(self, programs: Path) -> dict[str, Any]:
        config = _config(programs, self.nodes, self._api_defects, self._taints)
        for node in config["nodes"]:
            node["serviceUnreachable"] = self._service_unreachable
        return config

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        supervisor = self._supervisor
        if supervisor is None:
            return
        try:
            supervisor.stop()
        except KeyboardInterrupt:
            if supervisor.died is None:
                raise
            supervisor.stop()  # it died just now: the interrupt was about that
        if supervisor.died is not None:
            raise TargetError(
                f"the simulated cluster died: {supervisor.died}",
                "try again, with fewer --sim-nodes where memory is short",
            ) from error

    @property
    def died(self) -> str | None:
        """
        Of what the cluster died while it should have been there; None for as long as it has not, and when it was ended.
        """
        return self._supervisor.died if self._supervisor is not None else None

    def kubeconfig_for(self, defect: str) -> Path:
        """
        The kubeconfig that leads to the API server with this defect. Raises KeyError when it was not asked for.
        """
        return Path(self._defects[defect])


class _Supervisor:
    """
    The supervisor process, the pipe by which it knows that this process lives, and the thread that reads what it says.
    """

    def __init__(self, config: dict[str, Any], say: Say) -> None:
        self.died: str | None = None
        self._config = config
        self._data = Path(config["data"])
        self._say = say
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ending = False
        self._interrupts = False
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PROJECT), environment.get("PYTHONPATH")]))
        path = self._data / "supervisor.json"
        try:
            path.write_text(json.dumps(config))
            with (self._data / "supervisor.log").open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "infra.simulated.supervisor", str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._data,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the program, which then stops the cluster in order
                )
        except OSError as error:
            shutil.rmtree(self._data, ignore_errors=True)
            raise TargetError(f"cannot start the simulated cluster: {error}") from error
        self._input = cast("IO[bytes]", self._process.stdin)
        self._reader = threading.Thread(target=self._read, name="supervisor", daemon=True)
        self._reader.start()

    def until_ready(self) -> dict[str, Any]:
        """
        Wait for the ``ready`` message and return it. Raises TargetError for trouble, and for silence.
        """
        return self._until("ready", self._config["limit"] + _STOP_LIMIT)

    def interrupt_when_it_dies(self) -> None:
        """
        From now on, interrupt the main thread when the cluster dies. Raises TargetError when it has died already.
        """
        with self._lock:
            if self.died is not None:
                raise TargetError(f"the simulated cluster died: {self.died}")
            self._interrupts = True

    def stop(self) -> None:
        """
        Stop everything. May be called again, after it was interrupted and when all is over.
        """
        with self._lock:
            self._ending = True
        self._input.close()
        self._process.terminate()  # one that was let go just now does not heed the pipe any more
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        shutil.rmtree(self._data, ignore_errors=True)

    def release(self) -> None:
        """
        Leave the supervisor to itself. Raises TargetError when it does not confirm that.
        """
        try:
            os.write(self._input.fileno(), b"go on\n")
        except OSError as error:
            raise TargetError(f"the simulated cluster died: {self.died or error}") from error
        self._until("released", _RELEASE_LIMIT)
        self._input.close()
        self._reader.join()
        self._process.returncode = 0  # nobody here will wait for it

    def _until(self, wanted: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while message := self._messages.get(timeout=max(0.0, deadline - time.monotonic())):
                if "error" in message:
                    raise TargetError(f"the simulated cluster did not come up: {message['error']}")
                if message.get(wanted):
                    return message
                self._say(str(message.get("say", message)))
        with contextlib.suppress(OSError):
            self._say((self._data / "supervisor.log").read_text(errors="replace"))
        raise TargetError("the simulated cluster did not come up: its supervisor ended, or says nothing")

    def _read(self) -> None:
        """
        Read what the supervisor says until it ends; an empty message is its end. The only reader, in its own thread.
        """
        with cast("IO[bytes]", self._process.stdout) as output:
            for line in output:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # cut off in the middle: it was killed
                self._messages.put(message)
                if "error" in message:
                    self._lose(message["error"])
        self._messages.put({})
        self._lose("its supervisor ended without a word")

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._ending or self.died is not None:
                return
            self.died = why
            if self._interrupts:
                os.kill(os.getpid(), signal.SIGINT)


def _config(
    programs: Path,
    nodes: Sequence[NodeSpec],
    api_defects: Sequence[str],
    taints: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    return {
        "binaries": str(programs.resolve()),
        "data": str(_data_directory()),
        "limit": _START_LIMIT + _START_LIMIT_PER_NODE * len(nodes),
        "nodes": [
            {
                "name": node.name,
                "era": node.era,
                "address": node.address,
                "deviations": list(node.deviations),
                "taints": [dict(taint) for taint in taints],
            }
            for node in nodes
        ],
        "defects": list(api_defects),
        "state": None,
        "kubeconfig": None,
    }


def _data_directory() -> Path:
    """
    A new directory that only its owner may enter, with a path short enough for unix sockets.
    """
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes it safe
        try:
            path = Path(tempfile.mkdtemp(prefix="hostprocess-", dir=parent)).resolve()
        except OSError as error:
            raise TargetError(f"no temporary directory can be made: {error}", "set TMPDIR to a writable one") from error
        if len(os.fsencode(path / "egress.sock")) < _SOCKET_PATH_LIMIT:
            return path
        path.rmdir()
    raise TargetError("every temporary directory's path is too long for unix sockets", "set TMPDIR to a short path")


def up(
    nodes: Sequence[NodeSpec],
    say: Say,
    control_plane_bin: Path | None = None,
    taints: Sequence[Mapping[str, str]] = (),
) -> Path:
    """
    A simulated cluster that outlives this process, until ``down``. Returns the kubeconfig's path, always the same one.

    When one is up already it stays as it is, which is said. Raises TargetError when it does not come up. When this
    process is killed before it is up, nothing is left.
    """
    programs = binaries.find(say, control_plane_bin)
    directory = _up_directory()
    with FileLock(directory / "lock"):
        state = _read_state(directory)
        if state is not None and state["ready"] and process_start(state["pid"]) == state["started"]:
            eras = collections.Counter(state.get("eras", ()))
            has = ",".join(f"{era}={count}" for era, count in eras.items()) or "none"
            say(f"a simulated cluster is up already and stays as it is (nodes: {has}); `nox -s down` takes it away")
            return Path(state["kubeconfig"])
        _take_down(directory, say)
        config = _config(programs, nodes, (), taints)
        config["state"], config["kubeconfig"] = str(directory / "state.json"), str(directory / "kubeconfig")
        say("starting the simulated cluster: about 6 s")
        supervisor = _Supervisor(config, say)
        try:
            ready = supervisor.until_ready()
            supervisor.release()
        except BaseException:
            supervisor.stop()
            raise
        return Path(ready["kubeconfig"])


def down(say: Say) -> bool:
    """
    Stop what ``up`` left running, or clean up after it when it was killed. Returns whether there was anything.
    """
    directory = _up_directory()
    with FileLock(directory / "lock"):
        return _take_down(directory, say)


def _take_down(directory: Path, say: Say) -> bool:
    state = _read_state(directory)
    if state is not None:
        pid, started = state["pid"], state["started"]
        if process_start(pid) == started:
            say("stopping the simulated cluster that is up")
            _end(pid, started)
        else:
            say("the simulated cluster that was up is gone; cleaning up after it")
        shutil.rmtree(state["data"], ignore_errors=True)
    for name in ("state.json", "kubeconfig"):
        (directory / name).unlink(missing_ok=True)
    return state is not None


def _end(pid: int, started: str) -> None:
    """
    End the supervisor, by force when it takes too long: then its reaper ends the rest.
    """
    for number, limit in ((signal.SIGTERM, _STOP_LIMIT), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if process_start(pid) != started:
                return
            threading.Event().wait(_PAUSE)  # it is not this process' child: there is nothing to wait on
    raise TargetError(f"the simulated cluster's supervisor, process {pid}, does not end")


def _read_state(directory: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((directory / "state.json").read_text())
    except (OSError, ValueError):
        return None
    return (
        state if isinstance(state, dict) and {"pid", "started", "data", "kubeconfig", "ready"} <= set(state) else None
    )


def _up_directory() -> Path:
    directory = cache_directory() / "up"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


__all__ = ["NodeSpec", "SimulatedCluster", "down", "name_nodes", "parse_nodes", "up"]
