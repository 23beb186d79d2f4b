"""
Pods and events as the watches saw them, and a bell for whoever waits for a change.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Seen:
    """
    Pods and events as the watches saw them, and a bell for whoever waits for a change.
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.count = 0
        """How many pods were ever seen."""
        self._bells: dict[tuple[str, str], asyncio.Event] = {}

    def bell(self, owner: str, node: str) -> asyncio.Event:
        """
        The bell that rings for changes of the pods of one owner (or the pod of that name) on one node.
        """
        return self._bells.setdefault((owner, node), asyncio.Event())

    def pod_changed(self, kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self.pods.pop(uid, None)
        else:
            self.count += uid not in self.pods
            self.pods[uid] = pod
        self._ring(_owner(pod), pod["spec"].get("nodeName", ""))

    def event_changed(self, kind: str, event: dict[str, Any]) -> None:
        if kind != "DELETED":
            self.events[event["metadata"]["uid"]] = event
        name = event["involvedObject"].get("name", "")
        owners = {name} | {_owner(pod) for pod in self.pods.values() if pod["metadata"]["name"] == name}
        for owner, node in self._bells:
            if owner in owners:
                self._ring(owner, node)

    def _ring(self, owner: str, node: str) -> None:
        for key in ((owner, node), (owner, "")):
            if key in self._bells:
                self._bells[key].set()

    def pods_of(self, owner: str, node: str) -> list[dict[str, Any]]:
        """
        The pods of an owner on a node that are not on their way out, newest first.
        """
        found = [
            pod
            for pod in self.pods.values()
            if _owner(pod) == owner and (not node or pod["spec"].get("nodeName") == node)
        ]
        found.sort(key=lambda pod: ("deletionTimestamp" in pod["metadata"], pod["metadata"]["name"]))
        return found

    def pod_of(self, owner: str, node: str) -> dict[str, Any] | None:
        """
        The newest of them.
        """
        pods = self.pods_of(owner, node)
        return pods[0] if pods else None

    def events_of(self, names: set[str]) -> list[dict[str, Any]]:
        """
        The events about objects of these names, oldest first, reduced to what evidence needs.
        """
        found = [event for event in self.events.values() if event["involvedObject"].get("name") in names]
        found.sort(key=lambda event: event["metadata"]["creationTimestamp"])
        return [
            {
                "type": event.get("type"),
                "reason": event.get("reason"),
                "message": event.get("message"),
                "object": f"{event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}",
                "count": event.get("count") or 1,
            }
            for event in found
        ]


def _owner(pod: Mapping[str, Any]) -> str:
    owners = pod["metadata"].get("ownerReferences") or ()
    return str(owners[0]["name"] if owners else pod["metadata"]["name"])
