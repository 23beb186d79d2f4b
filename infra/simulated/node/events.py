"""
Events as a kubelet writes them: one object for what repeats itself, counted up by patches.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.simulated.node import clock
from infra.simulated.node.api import ApiError
from infra.simulated.node.report import complain

if TYPE_CHECKING:
    from infra.simulated.node.api import Api

NORMAL = "Normal"
WARNING = "Warning"


def reference(pod: dict[str, Any], field_path: str | None = None) -> dict[str, str]:
    """
    The ``involvedObject`` for a pod, or for one of its containers.
    """
    metadata = pod["metadata"]
    made = {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata.get("resourceVersion", ""),
    }
    if field_path:
        made["fieldPath"] = field_path
    return made


def container_path(kind: str, name: str) -> str:
    """
    The ``fieldPath`` of a container; ``kind`` is the list in the pod's spec.
    """
    return f"spec.{kind}{{{name}}}"


@dataclass(frozen=True, slots=True)
class _Event:
    about: tuple[tuple[str, str], ...]
    type: str
    reason: str
    message: str
    time: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        about = dict(self.about)
        return about.get("uid", ""), about.get("fieldPath", ""), self.type, self.reason, self.message


class Recorder:
    """
    Writes one node's events in the order they happened, without anyone waiting for it.
    """

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node
        self._queue: asyncio.Queue[_Event] = asyncio.Queue()
        self._written: dict[tuple[str, ...], tuple[str, int]] = {}

    def record(self, about: dict[str, str], type_: str, reason: str, message: str) -> None:
        """
        Take an event to be written. A message longer than the API accepts is cut.
        """
        fixed = tuple((key, value) for key, value in about.items() if value)
        self._queue.put_nowait(_Event(fixed, type_, reason, message[:1024], clock.seconds()))

    def forget(self, uid: str) -> None:
        """
        Drop what is remembered about an object that is gone.
        """
        self._written = {key: value for key, value in self._written.items() if key[0] != uid}

    async def run(self) -> None:
        """
        Write for ever. An event that is refused (its namespace ends, say) is lost, as a kubelet loses it.
        """
        while True:
            event = await self._queue.get()
            try:
                await self._write(event)
            except ApiError as error:
                if error.code not in {403, 404}:
                    complain(self._node, f"event {event.reason} is lost: {error.code} {error}")

    async def settle(self, timeout: float) -> None:
        """
        Wait until everything taken so far is on its way, at most ``timeout`` seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self._queue.empty():
                    await asyncio.sleep(0.02)

    async def _write(self, event: _Event) -> None:
        about = dict(event.about)
        namespace = about.get("namespace", "default")
        path = f"/api/v1/namespaces/{namespace}/events"
        if event.key in self._written:
            name, count = self._written[event.key]
            with contextlib.suppress(ApiError):
                body = {"count": count + 1, "lastTimestamp": event.time}
                await self._api.request("PATCH", f"{path}/{name}", body, patch="merge")
                self._written[event.key] = name, count + 1
                return
        name = f"{about['name']}.{uuid.uuid4().hex[:16]}"
        await self._api.request(
            "POST",
            path,
            {
                "kind": "Event",
                "apiVersion": "v1",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": about,
                "type": event.type,
                "reason": event.reason,
                "message": event.message,
                "count": 1,
                "firstTimestamp": event.time,
                "lastTimestamp": event.time,
                "source": {"component": "kubelet", "host": self._node},
                "reportingComponent": "kubelet",
                "reportingInstance": self._node,
            },
        )
        self._written[event.key] = name, 1
