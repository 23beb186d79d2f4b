"""
Readiness, liveness and startup probes of running containers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from infra.simulated.model.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from infra.simulated.model.container import Container
    from infra.simulated.model.host import Host


class ProbeError(Exception):
    """
    The probe could not be made: the attempt counts neither way.
    """


def _port(container: dict[str, Any], port: int | str) -> int:
    if isinstance(port, int):
        return port
    found = next((int(p["containerPort"]) for p in container.get("ports") or () if p.get("name") == port), None)
    if found is None:
        raise ProbeError(f"couldn't find port: {port}")
    return found


def _refused(where: str) -> str:
    return f"dial tcp {where}: connectex: No connection could be made because the target machine actively refused it."


async def _exec(instance: Container, command: list[str], seconds: float) -> str | None:
    said = bytearray()
    try:
        async with asyncio.timeout(seconds):
            code = await instance.exec(command, None, lambda _, data: said.extend(data))
    except TimeoutError:
        return f"command timed out: {' '.join(command)}"
    except StartError as error:
        raise ProbeError(str(error)) from None
    if code == 0:
        return None
    return said.decode(errors="replace").strip() or f"the command exited with {code} and said nothing"


def _http(host: Host, address: str, port: int, wanted: dict[str, Any]) -> str | None:
    path = wanted.get("path") or "/"
    where = f"{address}:{port}"
    respond = host.network.connect(wanted.get("host") or address, port)
    if respond is None:
        return f'Get "http://{where}{path}": {_refused(where)}'
    headers = "".join(f"{h['name']}: {h['value']}\r\n" for h in wanted.get("httpHeaders") or ())
    answer = respond(f"GET {path} HTTP/1.1\r\nHost: {where}\r\n{headers}Connection: close\r\n\r\n".encode())
    words = answer.split(b"\r\n", 1)[0].split()
    code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return None if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"


async def attempt(
    probe: dict[str, Any], container: dict[str, Any], instance: Container, host: Host, address: str
) -> str | None:
    """
    Try once; None when it went well, else what went wrong, never empty. Raises ProbeError.
    """
    if "exec" in probe:
        return await _exec(instance, probe["exec"]["command"], probe.get("timeoutSeconds") or 1)
    if "httpGet" in probe:
        return _http(host, address, _port(container, probe["httpGet"]["port"]), probe["httpGet"])
    if "tcpSocket" in probe:
        port = _port(container, probe["tcpSocket"]["port"])
        if host.network.connect(probe["tcpSocket"].get("host") or address, port) is None:
            return _refused(f"{address}:{port}")
        return None
    kind = next((key for key in ("grpc", *probe) if key in probe), "such")
    return f"the simulation does not have {kind} probes; a real kubelet does"


async def watch(
    probe: dict[str, Any],
    once: Callable[[], Awaitable[str | None]],
    alive: Callable[[], bool],
    on_change: Callable[[bool], None],
    on_failure: Callable[[str], None],
) -> None:
    """
    Probe for as long as the container is ``alive``: ``on_change`` hears each passing of a threshold, ``on_failure``
    each single failure.

    Source: kubernetes pkg/kubelet/prober/worker.go (doProbe), prober.go (probe).
    """
    await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
    state: bool | None = None
    run = 0
    last: bool | None = None
    while alive():
        try:
            trouble = await once()
        except ProbeError as error:
            if alive():
                on_failure(f"errored and resulted in unknown state: {error}")
        else:
            if not alive():
                return
            good = trouble is None
            run, last = (run + 1 if good == last else 1), good
            if not good:
                on_failure(f"failed: {trouble}")
            needed = (probe.get("successThreshold") or 1) if good else (probe.get("failureThreshold") or 3)
            if run >= needed and good != state:
                state = good
                on_change(good)
        await asyncio.sleep(probe.get("periodSeconds") or 10)
