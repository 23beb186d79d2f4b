"""
One watch that survives everything: resets, silence, 410, 429, an early end.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.waiting import TryAgainError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conformance._suite.cluster import Cluster

WATCH_SECONDS = 60
"""The server ends each watch after this long; one that is silent for longer is broken."""


@dataclass(slots=True)
class Watched:
    """
    The objects of one collection as last seen, by uid, kept up to date by ``keep_watching``.
    """

    path: str
    changed: Callable[[str, dict[str, Any]], None]
    """Called with ADDED, MODIFIED or DELETED and the object, for every change."""
    kept: Callable[[dict[str, Any]], dict[str, Any]] = lambda item: item
    """What is kept of an object; it has at least ``metadata.uid``."""
    query: Mapping[str, str] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    listed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, kind: str, item: dict[str, Any]) -> None:
        """
        Take in one change.
        """
        kept = self.kept(item)
        uid = kept["metadata"]["uid"]
        if kind == "DELETED":
            self.objects.pop(uid, None)
        else:
            self.objects[uid] = kept
        self.changed(kind, kept)

    def gone(self, uid: str) -> None:
        """
        Take in that an object was not there any more when the collection was listed again.
        """
        self.changed("DELETED", self.objects.pop(uid))


async def keep_watching(cluster: Cluster, watched: Watched) -> None:
    """
    Watch one collection for ever: list, watch from there, resume after a clean end or a reset, list again after 410,
    wait after 429 and 5xx. Ends only when cancelled, or with RefusedError when the right to watch is missing.
    """
    version = ""
    while True:
        try:
            if not version:
                version = await _list(cluster, watched)
                watched.listed.set()
            version = await _watch(cluster, watched, version)
        except TryAgainError as error:
            await asyncio.sleep(min(error.after or 0.2, 5))
        except TargetError:
            await asyncio.sleep(1)
        except RefusedError as error:
            if error.answer.code != 410:
                raise
            version = ""


async def _list(cluster: Cluster, watched: Watched) -> str:
    listing = await cluster.must("GET", watched.path, query=watched.query)
    present = {item["metadata"]["uid"]: item for item in listing["items"]}
    for uid in [uid for uid in watched.objects if uid not in present]:
        watched.gone(uid)
    for item in present.values():
        watched.see("ADDED" if item["metadata"]["uid"] not in watched.objects else "MODIFIED", item)
    return str(listing["metadata"]["resourceVersion"])


async def _watch(cluster: Cluster, watched: Watched, version: str) -> str:
    query = {
        **watched.query,
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    rest = b""
    try:
        async for chunk in cluster.stream(watched.path, query, silence=WATCH_SECONDS + 15):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                item = event["object"]
                if event["type"] == "ERROR":
                    # 410: too old, list again. Anything else: go on from what was seen.
                    return "" if item.get("code") == 410 else version
                version = item["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    watched.see(event["type"], item)
    except (TryAgainError, ValueError):
        # A reset in mid-stream: what was seen so far counts, the rest comes again.
        await asyncio.sleep(0.2)
    return version
