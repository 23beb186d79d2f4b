"""
Pods and events as the watches saw them, found by whose they are, and a bell for whoever waits for a change.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Place = tuple[str, str]
"""An owner's name (a pod's own where it has none), and a node's name, or empty for wherever."""


class Seen:
    """
    Takes in what the watches see. A question costs as much as the objects that it is about, however many others there
    are.
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        """By uid."""
        self.count = 0
        """How many pods were ever seen."""
        self._at: defaultdict[Place, dict[str, dict[str, Any]]] = defaultdict(dict)
        """Pods by uid, by their place: on their node, and wherever."""
        self._named: defaultdict[str, dict[str, Place]] = defaultdict(dict)
        """The places of the pods of a name, by uid."""
        self._events: defaultdict[str, dict[str, tuple[int, dict[str, Any]]]] = defaultdict(dict)
        """Events by uid, each with the number of its arrival, by the name of the object that they are about."""
        self._arrivals = itertools.count()
        self._bells: defaultdict[str, dict[str, asyncio.Event]] = defaultdict(dict)
        """By owner and node."""

    def bell(self, owner: str, node: str) -> asyncio.Event:
        """
        The bell that rings for changes of the pods of one owner (or the pod of that name) on one node.
        """
        return self._bells[owner].setdefault(node, asyncio.Event())

    def pod_changed(self, kind: str, pod: dict[str, Any]) -> None:
        """
        Take in a change of a pod: ADDED, MODIFIED or DELETED.
        """
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        place = owner_of(pod), pod["spec"].get("nodeName", "")
        self.count += kind != "DELETED" and uid not in self.pods
        # A pod that was not bound yet moves to its node.
        before = self._named[name].pop(uid, place)
        for one in _both(before):
            self._at[one].pop(uid, None)
        self.pods.pop(uid, None)
        if kind != "DELETED":
            self.pods[uid] = pod
            self._named[name][uid] = place
            for one in _both(place):
                self._at[one][uid] = pod
        self._ring(place)

    def event_changed(self, kind: str, event: dict[str, Any]) -> None:
        """
        Take in a change of an event. It concerns the object that it names, and, where that is a pod, the pod's owner on
        the pod's node.
        """
        name = event["involvedObject"].get("name", "")
        if kind != "DELETED":
            uid, about = event["metadata"]["uid"], self._events[name]
            about[uid] = about[uid][0] if uid in about else next(self._arrivals), event
        for place in self._named.get(name, {}).values():
            self._ring(place)
        for bell in self._bells.get(name, {}).values():
            bell.set()

    def _ring(self, place: Place) -> None:
        for owner, node in _both(place):
            if bell := self._bells.get(owner, {}).get(node):
                bell.set()

    def pods_of(self, owner: str, node: str) -> list[dict[str, Any]]:
        """
        The pods of an owner on a node, those that are not on their way out first.
        """
        found = self._at.get((owner, node), {}).values()
        return sorted(found, key=lambda pod: ("deletionTimestamp" in pod["metadata"], pod["metadata"]["name"]))

    def pod_of(self, owner: str, node: str) -> dict[str, Any] | None:
        """
        The first of them.
        """
        return next(iter(self.pods_of(owner, node)), None)

    def events_of(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """
        The events about objects of these names, oldest first, reduced to what evidence needs.
        """
        found = [one for name in names for one in self._events.get(name, {}).values()]
        found.sort(key=lambda one: (one[1]["metadata"]["creationTimestamp"], one[0]))
        return [
            {
                "type": event.get("type"),
                "reason": event.get("reason"),
                "message": event.get("message"),
                "object": f"{event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}",
                "count": event.get("count") or 1,
            }
            for _, event in found
        ]


def kept_of_pod(pod: dict[str, Any]) -> dict[str, Any]:
    """
    A pod without ``managedFields``, half of its text, which say nothing about it.
    """
    return {**pod, "metadata": {key: value for key, value in pod["metadata"].items() if key != "managedFields"}}


def kept_of_event(event: dict[str, Any]) -> dict[str, Any]:
    """
    Of an event what ``events_of`` tells, and what finds it.
    """
    metadata, about = event["metadata"], event["involvedObject"]
    return {
        "metadata": {key: metadata[key] for key in ("uid", "creationTimestamp")},
        "involvedObject": {key: about.get(key) for key in ("kind", "name") if key in about},
        **{key: event.get(key) for key in ("type", "reason", "message", "count")},
    }


def kept_of_node(node: dict[str, Any]) -> dict[str, Any]:
    """
    Of a node who it is.
    """
    return {"metadata": {key: node["metadata"][key] for key in ("uid", "name")}}


def owner_of(pod: Mapping[str, Any]) -> str:
    """
    The name of a pod's owner, or its own.
    """
    owners = pod["metadata"].get("ownerReferences") or ()
    return str(owners[0]["name"] if owners else pod["metadata"]["name"])


def _both(place: Place) -> set[Place]:
    return {place, (place[0], "")}
