"""
Takes away what runs created on a cluster: this run's own, and what an earlier one left when it was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.expiry import RUN_LABEL, expires
from conformance._suite.namespaces import maker_of, namespaces_of
from conformance._suite.waiting import TryAgainError, persistently

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from conformance._suite.cluster import Cluster
    from conformance._suite.say import Say

CLEAN_UP_SECONDS = 120
"""How long pods and namespaces may take to go; not normative, a node that hangs must not hang the run."""


@dataclass(frozen=True, slots=True)
class Going:
    """
    What is taken away: a whole namespace, or, where a run is named, what that run created in it.
    """

    namespace: str
    run_id: str | None = None

    def __str__(self) -> str:
        what = f"namespace {self.namespace}"
        return what if self.run_id is None else f"what is labelled {RUN_LABEL}={self.run_id} in {what}"

    @property
    def query(self) -> dict[str, str]:
        """
        The selector of what goes.
        """
        return {} if self.run_id is None else {"labelSelector": f"{RUN_LABEL}={self.run_id}"}

    @property
    def collections(self) -> list[str]:
        """
        The paths of what a run creates in a namespace, those with pods first.
        """
        core = f"/api/v1/namespaces/{self.namespace}"
        return [
            f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets",
            # ConfigMaps last: one of them is the lock.
            *(f"{core}/{kind}" for kind in ("pods", "secrets", "configmaps")),
        ]


async def remove(cluster: Cluster, going: Going) -> None:
    """
    Take away pods, wait until they are gone, at most a minute, and ask for the rest to go. Raises RefusedError.
    """
    daemon_sets, pods, *others = going.collections
    own: set[str] = set()
    if going.run_id is not None:
        listing = await cluster.must("GET", daemon_sets, query=going.query)
        own = {item["metadata"]["uid"] for item in listing["items"]}
    # Pods first: a namespace with pods that take their time is looked at again only much later.
    for path in (daemon_sets, pods):
        await delete(cluster, path, going.query)

    async def pods_gone() -> None:
        # A DaemonSet's pods carry its own labels, which a sample's are as documented; they go with it.
        # Where all must go, one says enough.
        query = {"limit": "1"} if going.run_id is None else {}
        for item in (await cluster.must("GET", pods, query=query))["items"]:
            metadata = item["metadata"]
            owners = {one["uid"] for one in metadata.get("ownerReferences", ())}
            if going.run_id in {None, metadata.get("labels", {}).get(RUN_LABEL)} or owners & own:
                raise TryAgainError("pods are still there")

    with contextlib.suppress(TryAgainError, RefusedError):
        await persistently(pods_gone, CLEAN_UP_SECONDS / 2)
    if going.run_id is None:
        await delete(cluster, f"/api/v1/namespaces/{going.namespace}")
    else:
        for path in others:
            await delete(cluster, path, going.query)


async def delete(cluster: Cluster, path: str, query: Mapping[str, str] | None = None) -> None:
    """
    Delete an object or a collection. Raises RefusedError unless it is gone or on its way.
    """
    answer = await cluster.request("DELETE", path, query=query)
    # 404: it is gone already. 409: it is on its way.
    if answer.code not in {200, 202, 404, 409}:
        raise RefusedError(f"DELETE {path}", answer)


async def left_behind(cluster: Cluster, going: Iterable[Going]) -> list[str]:
    """
    Wait until it is all gone; say for each that does not go what keeps it.
    """

    async def gone(one: Going) -> None:
        if one.run_id is None:
            answer = await cluster.request("GET", f"/api/v1/namespaces/{one.namespace}")
            if answer.code != 404:
                phase = answer.body.get("status", {}).get("phase") if isinstance(answer.body, dict) else answer.code
                raise TryAgainError(f"{one} is still {phase}; `nox -s cleanup -- --all` tries again")
            return
        for path in one.collections:
            for item in (await cluster.must("GET", path, query=one.query))["items"]:
                raise TryAgainError(
                    f"{path}/{item['metadata']['name']} is still there; `nox -s cleanup -- --all` tries again"
                )

    waits = (persistently(partial(gone, one), CLEAN_UP_SECONDS) for one in going)
    return [str(left) for left in await asyncio.gather(*waits, return_exceptions=True) if left is not None]


async def reap(cluster: Cluster, namespace: str | None, say: Say, *, everything: bool) -> list[str]:
    """
    Take away what earlier runs left on the cluster and what has expired, or ``everything`` of theirs; say what that
    was, and what is kept. With ``namespace`` look into it and its two companions only. Returns what could not be taken
    away, in words. Raises TargetError when this user may not look.
    """
    try:
        found = await _of_earlier_runs(cluster, namespace)
    except RefusedError as error:
        raise TargetError(f"what runs left cannot be looked for: {error}", "`nox -s rbac` prints the rights") from error
    going = [one for one, ends in found.items() if everything or ends <= cluster.now()]
    for one, ends in found.items():
        say(f"{'reaping' if one in going else 'kept'}: {one}, which expires {ends:%Y-%m-%d %H:%M} UTC")
    results = await asyncio.gather(*(remove(cluster, one) for one in going), return_exceptions=True)
    return [str(result) for result in results if result is not None] + await left_behind(cluster, going)


async def _of_earlier_runs(cluster: Cluster, namespace: str | None) -> dict[Going, datetime]:
    """
    What there is of runs, and when it expires. A namespace is a run's only when its name, its label and its expiry say
    so: a label alone may be anybody's.
    """
    found: dict[Going, datetime] = {}
    if namespace is None:
        listing = await cluster.must("GET", "/api/v1/namespaces", query={"labelSelector": RUN_LABEL})
        for item in listing["items"]:
            name, carried = item["metadata"]["name"], item["metadata"]["labels"]
            maker = maker_of(name)
            ends = expires(carried)
            if maker and maker == carried[RUN_LABEL] and ends:
                found[Going(name)] = ends
        return found
    for name in namespaces_of(namespace).values():
        for path in Going(name).collections:
            for item in (await cluster.must("GET", path, query={"labelSelector": RUN_LABEL}))["items"]:
                carried = item["metadata"]["labels"]
                if ends := expires(carried):
                    found[Going(name, carried[RUN_LABEL])] = ends
    return found
