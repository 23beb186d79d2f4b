"""
``python -m infra.simulated.supervisor CONFIG.json``: starts everything the simulated cluster consists of, and ends it.

Its standard input is a pipe whose other end the program holds: when that closes, because the program closed it or is
dead, the supervisor stops everything in order, removes the data directory and exits. Only a cluster that is to outlive
its starter is let go once it is ready: by a line. When the supervisor itself is killed, the reaper (a shell on the
other end of another such pipe) does so by force. ``PR_SET_PDEATHSIG`` would depend on the thread that starts a process,
exists on Linux only, and could not remove the data.

It talks in JSON lines on standard output: ``{"say": text}``, ``{"ready": true, "kubeconfig": path, "defects": {name:
kubeconfig}}``, ``{"released": true}`` when it was let go, ``{"error": text}`` before it stops for that reason.

The configuration: ``binaries`` and ``data`` (folders), ``limit`` (seconds until all must be ready), ``nodes`` (as the
node process takes them, without certificates), ``defects`` (names of the API server's defects), ``state`` (null, or for
a cluster that outlives its starter: the state file, and the kubeconfig's stable path in ``kubeconfig``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from infra.simulated.control_plane import SERVICE_NETWORK, ControlPlane, Readiness

if TYPE_CHECKING:
    from collections.abc import Sequence

_STANDARD_INPUT, _STANDARD_OUTPUT = 0, 1
_PATIENCE = 10.0  # seconds a child of ours has to end after SIGTERM
_LITTLE_PATIENCE = 0.3  # the control plane's, that could only save what is thrown away: kube-apiserver takes a second
_LINE_LIMIT = 16 * 1024 * 1024  # bytes
_LOG_LINES = 8  # of a child that ended, in the error

# Its own session, so that what ends this process group does not end it. A line means that all is done.
_REAPER = 'read -r over && exit; kill -s KILL -- "-$1"; rm -rf -- "$2" || { sleep 1; rm -rf -- "$2"; }'


class ChildError(Exception):
    """
    A child ended, or said that it cannot go on.
    """


def process_start(pid: int) -> str | None:
    """
    When the process started, in a notation of the system's own that tells it from a later one with the same number;
    None when there is no such process, or only its zombie.
    """
    try:
        # The name in parentheses may hold anything, so count from behind it: state is field 3, starttime field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        asked = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        state, _, started = asked.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else started.strip()
    return None if fields[0] in "ZX" else fields[19]


def tell(**message: object) -> None:
    """
    One JSON line to whoever started this process, if it still listens.
    """
    with contextlib.suppress(OSError):
        os.write(_STANDARD_OUTPUT, json.dumps(message).encode() + b"\n")


@dataclass
class _Child:
    name: str
    process: asyncio.subprocess.Process
    log: Path
    end: asyncio.Task[int]
    patience: float

    def last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "(its log is empty)"


class Family:
    """
    The children, in the order in which they were started, and the reaper that outlives this process.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._children: list[_Child] = []
        self._changed = asyncio.Event()
        self._drains: list[asyncio.Task[None]] = []
        self._reaper = subprocess.Popen(
            ["/bin/sh", "-c", _REAPER, "reaper", str(os.getpgrp()), str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    async def start(self, name: str, command: Sequence[str], *, talks: bool = False) -> _Child:
        """
        Start a child whose output goes to ``<name>.log``, but for the standard output of one that ``talks``.
        """
        log = self._data / f"{name}.log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                env=_environment(),
                limit=_LINE_LIMIT,
            )
        child = _Child(
            name, process, log, asyncio.create_task(process.wait()), _PATIENCE if talks else _LITTLE_PATIENCE
        )
        self._children.append(child)
        self._changed.set()
        return child

    async def start_and_await(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """
        Start a child that says ``{"ready": true, …}`` on its standard output, and return that message.

        Raises ChildError when it says ``{"error": text}``, or ends, instead. What it prints afterwards goes to its log.
        """
        child = await self.start(name, command, talks=True)
        output = cast("asyncio.StreamReader", child.process.stdout)
        async for line in output:
            message = _message(line)
            if "error" in message:
                raise ChildError(f"{name}: {message['error']}")
            if message.get("ready"):
                self._drains.append(asyncio.create_task(_drain(output, child.log)))
                return message
        await child.end
        raise ChildError(f"{name} ended with code {child.end.result()}:\n{child.last_words()}")

    async def lost(self) -> str:
        """
        Wait for the first child that ends, and tell which one, and its last words.
        """
        while True:
            self._changed.clear()
            change = asyncio.create_task(self._changed.wait())
            await asyncio.wait([change, *(child.end for child in self._children)], return_when="FIRST_COMPLETED")
            change.cancel()
            for child in self._children:
                if child.end.done():
                    return f"{child.name} ended with code {child.end.result()}:\n{child.last_words()}"

    def last_words(self) -> str:
        """
        What each child printed last.
        """
        return "\n".join(f"{child.name}: {child.last_words().splitlines()[-1]}" for child in self._children)

    async def stop(self) -> None:
        """
        End every child, the last one started first, each awaited: kube-apiserver does not end when etcd went first.
        """
        for child in reversed(self._children):
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
            done, _ = await asyncio.wait([child.end], timeout=child.patience)
            if not done:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
                await child.end

    def release(self) -> None:
        """
        Send the reaper away: nothing is left for it.
        """
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._reaper.communicate(b"over\n", timeout=5)


def _message(line: bytes) -> dict[str, Any]:
    """
    The JSON object on a line; empty when there is none.
    """
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


async def _drain(output: asyncio.StreamReader, log: Path) -> None:
    """
    Read on for as long as the child lives: a full pipe would stop it.
    """
    with log.open("ab", buffering=0) as file:
        while read := await output.read(65536):
            file.write(read)


def _environment() -> dict[str, str]:
    """
    The environment for the children: everything they talk to is on this machine, so no proxies, and etcd takes any
    variable with its prefix for an option. Collecting garbage less often saves the API server a seventh of its time and
    costs 100 MB.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith("ETCD_")
    }
    return {"GOGC": "400", **environment}


async def _bring_up(config: dict[str, Any], family: Family) -> dict[str, Any]:
    """
    Start everything, in an order in which most of it overlaps. Returns what to tell when it is ready.
    """
    data = Path(config["data"])
    control_plane = ControlPlane(Path(config["binaries"]), data)
    await family.start("etcd", control_plane.etcd())
    await family.start("kube-apiserver", control_plane.api_server())
    async with Readiness(control_plane) as readiness:
        await readiness.answers()
        await family.start("kube-controller-manager", control_plane.controller_manager())
        await family.start("kube-scheduler", control_plane.scheduler())
        tell(say="the API server answers; waiting for the controllers and the nodes")
        _, _, defects = await asyncio.gather(
            readiness.populated(),
            _nodes(config, family, control_plane),
            _defects(config, family, control_plane),
        )
    kubeconfig = control_plane.kubeconfig(Path(config["kubeconfig"] or data / "kubeconfig"))
    return {"ready": True, "kubeconfig": str(kubeconfig), "defects": defects}


async def _nodes(config: dict[str, Any], family: Family, control_plane: ControlPlane) -> None:
    """
    Start the process that is the kubelet of every node, if there is any, and wait until all nodes are ready.
    """
    if config["nodes"]:
        command = _module("node", _node_config(config, control_plane), Path(config["data"]))
        await family.start_and_await("node", command)


async def _defects(config: dict[str, Any], family: Family, control_plane: ControlPlane) -> dict[str, str]:
    """
    Start the proxy that plays the API server's defects, if any is wanted; returns the kubeconfig that leads to each.
    """
    data = Path(config["data"])
    if not config["defects"]:
        return {}
    command = _module("api_defects", _defects_config(config, control_plane), data)
    ready = await family.start_and_await("api-defects", command)
    return {
        name: str(control_plane.kubeconfig(data / f"kubeconfig-{name}", port)) for name, port in ready["ports"].items()
    }


def _module(name: str, config: dict[str, Any], data: Path) -> list[str]:
    path = data / f"{name}.json"
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", f"infra.simulated.{name}", str(path)]


def _node_config(config: dict[str, Any], control_plane: ControlPlane) -> dict[str, Any]:
    nodes = []
    for node in config["nodes"]:
        name = node["name"]
        identity = control_plane.authority.issue(
            f"node-{name}", f"system:node:{name}", "system:nodes", names=(name,), addresses=(node["address"],)
        )
        nodes.append({**node, "certificate": str(identity.certificate), "key": str(identity.key)})
    return {
        "api": control_plane.url,
        "ca": str(control_plane.authority.certificate),
        "egressSocket": str(control_plane.egress_socket),
        "kubeletClientCa": str(control_plane.authority.certificate),
        "serviceNetwork": SERVICE_NETWORK,
        "identity": "certificates",
        "nodes": nodes,
    }


def _defects_config(config: dict[str, Any], control_plane: ControlPlane) -> dict[str, Any]:
    return {
        "api": control_plane.url,
        "ca": str(control_plane.authority.certificate),
        "adminCertificate": str(control_plane.admin.certificate),
        "adminKey": str(control_plane.admin.key),
        "serverCertificate": str(control_plane.server.certificate),
        "serverKey": str(control_plane.server.key),
        "defects": config["defects"],
    }


class _State:
    """
    The state file of a cluster that outlives its starter: who it is, and what there is to remove.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._path = Path(config["state"])
        self._kubeconfig = Path(config["kubeconfig"])
        self._content = {
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "data": config["data"],
            "kubeconfig": config["kubeconfig"],
            "eras": [node["era"] for node in config["nodes"]],
        }
        self.write(ready=False)

    def write(self, *, ready: bool) -> None:
        aside = self._path.with_name(f".{self._path.name}.new")
        aside.write_text(json.dumps({**self._content, "ready": ready}))
        aside.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._kubeconfig.unlink(missing_ok=True)


async def _live(config: dict[str, Any]) -> int:
    """
    Bring up, stay until told to end or until a child is lost, then stop everything. Returns the exit code.
    """
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, over.set)
    state = _State(config) if config["state"] else None
    let_go = asyncio.Event()
    loop.add_reader(_STANDARD_INPUT, _heed_the_starter, loop, over, let_go if state else None)
    data = Path(config["data"])
    family = Family(data)
    told = asyncio.create_task(over.wait())
    lost = asyncio.create_task(family.lost())
    alone = asyncio.create_task(let_go.wait())
    work = asyncio.create_task(_bring_up(config, family))
    trouble = ""
    try:
        await asyncio.wait([told, lost, work], timeout=config["limit"], return_when="FIRST_COMPLETED")
        if work.done() and not told.done():
            tell(**work.result())
            await asyncio.wait([told, lost, alone], return_when="FIRST_COMPLETED")
            if state is not None and alone.done():
                state.write(ready=True)
                tell(released=True)
                _let_go_of_the_starter()
                await asyncio.wait([told, lost], return_when="FIRST_COMPLETED")
        elif not told.done() and not lost.done():
            trouble = f"not ready after {config['limit']:.0f} s:\n{family.last_words()}"
        if lost.done() and not told.done():
            trouble = lost.result()
    except ChildError as error:
        trouble = str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the starter must hear of it
        trouble = f"{type(error).__name__}: {error}"
    finally:
        if trouble:
            tell(error=trouble)
        # A second signal must not cut this short; the first one has all it needs.
        for task in (told, lost, alone, work):
            task.cancel()
        await asyncio.gather(told, lost, alone, work, return_exceptions=True)
        await family.stop()
        shutil.rmtree(data, ignore_errors=True)
        if state is not None:
            state.remove()
        family.release()
    return 1 if trouble else 0


def _heed_the_starter(loop: asyncio.AbstractEventLoop, over: asyncio.Event, let_go: asyncio.Event | None) -> None:
    """
    Its end of the pipe closed: all is over. It wrote, and this cluster can be let go: then its end is of no interest.
    """
    said = os.read(_STANDARD_INPUT, 4096)
    if not said:
        over.set()
    elif let_go is not None:
        let_go.set()
    if not said or let_go is not None:
        loop.remove_reader(_STANDARD_INPUT)


def _let_go_of_the_starter() -> None:
    with Path(os.devnull).open("r+b", buffering=0) as nowhere:
        for standard in (_STANDARD_INPUT, _STANDARD_OUTPUT):
            os.dup2(nowhere.fileno(), standard)


def main() -> int:
    """
    Run as a program of its own; see the module.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # the reaper kills this group
    os.umask(0o077)
    with Path(sys.argv[1]).open() as file:
        config = json.load(file)
    return asyncio.run(_live(config))


if __name__ == "__main__":
    sys.exit(main())
