"""
Probes and hooks of containers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infra.simulated.model.container import Container, ContainerSpec
from infra.simulated.model.eras import ERAS
from infra.simulated.model.host import Host
from infra.simulated.node import hooks, probes

PING = ("ping", "-t", "127.0.0.1")


async def started(host: Host, *command: str) -> Container:
    image = host.image("windows-host-process-containers-base-image:v1.0.0")
    user = "NT AUTHORITY\\SYSTEM"
    made = host.create(ContainerSpec("a" * 64, "c", "p", "n", "u", image, command=command, user=user))
    await made.start()
    return made


def attempted(probe: dict[str, Any], era: str = "1.7") -> str | None:
    async def run() -> str | None:
        host = Host(ERAS[era], "win", "10.240.0.4")
        host.network.listen("10.240.0.4", 80, lambda asked: b"HTTP/1.1 " + asked.split()[1][1:] + b" x\r\n\r\n")
        container = await started(host, *PING)
        try:
            ports = {"ports": [{"name": "http", "containerPort": 80}]}
            return await probes.attempt(probe, ports, container, host, "10.240.0.4")
        finally:
            await container.stop(1)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"exec": {"command": ["hostname"]}}, None),
        ({"exec": {"command": ["cmd", "/c", "echo no& exit 3"]}}, "no"),
        ({"exec": {"command": ["cmd", "/c", "exit 3"]}}, "the command exited with 3 and said nothing"),
        ({"exec": {"command": ["powershell", "Start-Sleep 9"]}, "timeoutSeconds": 1}, "command timed out"),
        ({"httpGet": {"port": "http", "path": "/200"}}, None),
        ({"httpGet": {"port": 80, "path": "/500"}}, "HTTP probe failed with statuscode: 500"),
        ({"httpGet": {"port": 81}}, "actively refused"),
        ({"tcpSocket": {"port": 80}}, None),
        ({"tcpSocket": {"port": 81}}, "actively refused"),
        ({"grpc": {"port": 80}}, "the simulation does not have grpc probes"),
    ],
)
def test_an_attempt(probe: dict[str, Any], said: str | None) -> None:
    told = attempted(probe)
    assert told is None if said is None else said in (told or "")


@pytest.mark.parametrize("probe", [{"exec": {"command": ["none"]}}, {"tcpSocket": {"port": "none"}}])
def test_an_attempt_that_cannot_be_made(probe: dict[str, Any]) -> None:
    with pytest.raises(probes.ProbeError):
        attempted(probe, "1.6")


def watched(results: list[str | Exception | None], **probe: int) -> list[str | bool]:
    """
    What a watch says of attempts with these results, after which the container is gone.
    """
    heard: list[str | bool] = []

    async def once() -> str | None:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def run() -> None:
        # Nothing is waited for: the period is none.
        await probes.watch({"periodSeconds": 1e-9, **probe}, once, lambda: bool(results), heard.append, heard.append)

    asyncio.run(asyncio.wait_for(run(), 5))
    return heard


def test_a_watch_tells_failures_and_changes_while_the_container_is_there() -> None:
    assert watched([None, "a", "b", None, "c"], failureThreshold=2) == [True, "failed: a", "failed: b", False, True]
    assert watched(["a", probes.ProbeError("x"), "b", ""], failureThreshold=2) == [
        "failed: a",
        "errored and resulted in unknown state: x",
        "failed: b",
        False,
    ]


def test_nothing_is_probed_that_does_not_run() -> None:
    assert watched([]) == []


def test_hooks() -> None:
    async def run() -> None:
        container = await started(Host(ERAS["1.7"], "win", "10.240.0.4"), *PING)
        await hooks.run({"exec": {"command": ["hostname"]}}, container)
        await hooks.run({"sleep": {"seconds": 0}}, container)
        with pytest.raises(hooks.HookError, match="command 'cmd /c echo no& exit 3' exited with 3: no"):
            await hooks.run({"exec": {"command": ["cmd", "/c", "echo no& exit 3"]}}, container)
        with pytest.raises(hooks.HookLackingError, match="does not have httpGet hooks"):
            await hooks.run({"httpGet": {"port": 80}}, container)
        asleep = asyncio.create_task(hooks.run({"sleep": {"seconds": 99}}, container))
        await asyncio.sleep(0)
        await container.stop(1)
        await asyncio.wait_for(asleep, 5)
        with pytest.raises(hooks.HookError, match="CONTAINER_EXITED"):
            await hooks.run({"exec": {"command": ["hostname"]}}, container)

    asyncio.run(run())
