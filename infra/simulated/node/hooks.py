"""
Lifecycle hooks of containers: ``exec`` and ``sleep``. What else a pod may ask for fails, and says that it is the
simulation which lacks it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from infra.simulated.model.errors import StartError

if TYPE_CHECKING:
    from infra.simulated.model.container import Container


class HookError(Exception):
    """
    A hook failed; the text is the kubelet's reason.
    """


class HookLackingError(HookError):
    """
    A hook is of a kind that the simulation does not have.
    """


async def run(handler: dict[str, Any], instance: Container) -> None:
    """
    Run a hook to its end; one that sleeps is over when the container is. Raises HookError.

    Source: kubernetes pkg/kubelet/lifecycle/handlers.go.
    """
    if "exec" in handler:
        await _exec(handler["exec"]["command"], instance)
    elif "sleep" in handler:
        await _sleep(handler["sleep"]["seconds"], instance)
    else:
        kind = next(iter(handler), "empty")
        raise HookLackingError(f"the simulation does not have {kind} hooks; a real kubelet does")


async def _exec(command: list[str], instance: Container) -> None:
    said = bytearray()
    try:
        code = await instance.exec(command, None, lambda _, data: said.extend(data))
    except StartError as error:
        raise HookError(str(error)) from None
    if code:
        text = said.decode(errors="replace").strip()
        raise HookError(f"command '{' '.join(command)}' exited with {code}: {text}")


async def _sleep(seconds: float, instance: Container) -> None:
    ending = asyncio.create_task(instance.wait())
    try:
        await asyncio.wait({ending}, timeout=seconds)
    finally:
        ending.cancel()
