"""
Events as a kubelet writes them: one object for what repeats itself, counted up by patches.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from infra.simulated.node import clock
from infra.simulated.node.api import ApiError
from infra.simulated.node.report import complain

if TYPE_CHECKING:
    from infra.simulated.node.api import Api

NORMAL = "Normal"
WARNING = "Warning"
# client-go's defaults: so many messages of one kind within so many seconds become one event.
SIMILAR = 10
_SIMILAR_WITHIN = 600.0
_COMBINED = "(combined from similar events): "
_LONGEST_NAME = 253
_LONGEST_MESSAGE = 1024


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
    nanoseconds: int

    @property
    def kind(self) -> tuple[str, ...]:
        about = dict(self.about)
        return about.get("uid", ""), about.get("fieldPath", ""), self.type, self.reason

    @property
    def name(self) -> str:
        """
        Names are what ties in time are listed by, so they rise.
        """
        end = f".{self.nanoseconds:x}"
        return dict(self.about)["name"][: _LONGEST_NAME - len(end)] + end


@dataclass(slots=True)
class _Similar:
    """
    The messages of one kind, and when (in monotonic seconds) the last one came.
    """

    messages: set[str]
    last: float


class Combiner:
    """
    Tells when there are so many messages of one kind that they become one event.

    Source: client-go tools/record/events_cache.go (EventAggregator), which leaves the container out of the kind.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], _Similar] = {}

    def combines(self, kind: tuple[str, ...], message: str, now: float) -> bool:
        """
        Whether this message goes into the combined event.
        """
        similar = self._seen.get(kind)
        if similar is None or now - similar.last > _SIMILAR_WITHIN:
            similar = self._seen[kind] = _Similar(set(), now)
        similar.last = now
        if len(similar.messages) >= SIMILAR and message not in similar.messages:
            return True
        similar.messages.add(message)
        return False

    def forget(self, uid: str) -> None:
        """
        Drop what is remembered about an object that is gone.
        """
        self._seen = {kind: similar for kind, similar in self._seen.items() if kind[0] != uid}


class Recorder:
    """
    Writes one node's events in the order they happened, without anyone waiting for it.
    """

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node
        self._queue: asyncio.Queue[_Event] = asyncio.Queue()
        self._written: dict[tuple[str, ...], tuple[str, int]] = {}
        self._combiner = Combiner()
        self._last = 0

    def record(self, about: dict[str, str], type_: str, reason: str, message: str) -> None:
        """
        Take an event to be written. A message longer than the API accepts is cut.
        """
        fixed = tuple((key, value) for key, value in about.items() if value)
        self._last = max(time.time_ns(), self._last + 1)
        self._queue.put_nowait(_Event(fixed, type_, reason, message[:_LONGEST_MESSAGE], self._last))

    def forget(self, uid: str) -> None:
        """
        Drop what is remembered about an object that is gone.
        """
        self._written = {key: value for key, value in self._written.items() if key[0] != uid}
        self._combiner.forget(uid)

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
        key = *event.kind, event.message
        if self._combiner.combines(event.kind, event.message, time.monotonic()):
            event = replace(event, message=(_COMBINED + event.message)[:_LONGEST_MESSAGE])
            key = *event.kind, _COMBINED
        at = clock.seconds(event.nanoseconds)
        if key in self._written:
            name, count = self._written[key]
            with contextlib.suppress(ApiError):
                body = {"count": count + 1, "lastTimestamp": at, "message": event.message}
                await self._api.request("PATCH", f"{path}/{name}", body, patch="merge")
                self._written[key] = name, count + 1
                return
        await self._api.request(
            "POST",
            path,
            {
                "kind": "Event",
                "apiVersion": "v1",
                "metadata": {"name": event.name, "namespace": namespace},
                "involvedObject": about,
                "type": event.type,
                "reason": event.reason,
                "message": event.message,
                "count": 1,
                "firstTimestamp": at,
                "lastTimestamp": at,
                "source": {"component": "kubelet", "host": self._node},
                "reportingComponent": "kubelet",
                "reportingInstance": self._node,
            },
        )
        self._written[key] = event.name, 1
