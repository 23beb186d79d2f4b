"""
Making the cluster and removing it. Whatever happens, what was begun is removed; what cannot be is named.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from conformance._suite.files import cache_directory
from conformance._suite.model import SuiteError, TargetError, UsageError
from conformance._suite.waiting import TryAgainError, persistently
from infra.aks import arm as connection
from infra.aks.plan import CLUSTER, EXPIRES, MARK, NEEDED_MINUTES, OWNER, expiry, pool_name, snapshot_names, unknown
from infra.target import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from infra.aks.arm import Arm
    from infra.aks.plan import Plan

    Say = Callable[[str], None]

PROGRESS_SECONDS = 60.0
DELETION_LIMIT = timedelta(minutes=30)
_USUAL_MINUTES = {"cluster": 10, "pool": 15, "removal": 10}
_IN_ALL = f"; {NEEDED_MINUTES} in all"
_DOWN = "`nox -s down -- --target aks`"


class _NoRoomError(Exception):
    """
    A region has no capacity or no quota for what is asked.
    """


@contextlib.contextmanager
def brought_up(plan: Plan, say: Say, *, leave: bool = False) -> Iterator[Target]:
    """
    A cluster while the block runs; with ``leave`` also after it, unless the block fails. Interrupted, it returns as
    soon as Azure has taken the removal on.
    """
    begun: list[str] = []
    try:
        yield Target("aks", asyncio.run(_up(plan, say, begun)), None, simulated=False)
    except BaseException as error:
        _remove_all(plan, begun, say, wait=not isinstance(error, KeyboardInterrupt))
        raise
    if not leave:
        _remove_all(plan, begun, say, wait=True)


async def _up(plan: Plan, say: Say, begun: list[str]) -> Path:
    """
    Make everything, and return the kubeconfig's path. The name of each group is in ``begun`` before it is asked for.
    """
    minutes = int(plan.cap / timedelta(minutes=1))
    try:
        async with asyncio.timeout(plan.cap.total_seconds()), connection.connected(plan) as arm:
            plan, snapshots = await _checked(arm, plan)
            say(f"bringing an AKS cluster up takes {NEEDED_MINUTES} min; it is given up after {minutes} min")
            for region, after in itertools.zip_longest(plan.regions, plan.regions[1:]):
                begun.append(plan.group(region))
                try:
                    return _written(plan, begun[-1], await _in_region(arm, plan, region, snapshots, say))
                except _NoRoomError as error:
                    if after is None:
                        raise TargetError(
                            f"Azure has no room in {', '.join(plan.regions)}: {error}",
                            "name another --aks-region or VM size, or ask Azure for quota",
                        ) from error
                    say(f"Azure has no room in {region}: {error}")
                    await _begin_removal(arm, begun[-1])
                    say(f"Azure is removing {begun[-1]}; trying {after}")
    except TimeoutError as error:
        raise TargetError(
            f"the AKS cluster is not up after {minutes} minutes", "try again, or give it more with --aks-cap-minutes"
        ) from error
    raise AssertionError("a plan has at least one region")


async def _checked(arm: Arm, plan: Plan) -> tuple[Plan, list[dict[str, Any]]]:
    """
    Ask Azure about all that can be known beforehand, so that a mistake leaves nothing behind. Returns the plan, with
    what only the snapshots tell, and the snapshots.
    """
    provider = await arm.resources.providers.get("Microsoft.ContainerService", **connection.first_contact())
    if provider.registration_state != "Registered":
        raise TargetError(
            "the subscription does not use AKS yet",
            "`az provider register --wait --namespace Microsoft.ContainerService`",
        )
    types = {kind.resource_type: kind.locations or [] for kind in provider.resource_types or []}
    known = {_region(location) for location in types.get("managedClusters", [])}
    for region in plan.regions:
        if region not in known:
            raise unknown("--aks-region", region, known)
    snapshots = [await _snapshot(arm, snapshot) for snapshot in plan.snapshots]
    plan = _suiting(plan, [one["properties"] for one in snapshots], {_region(one["location"]) for one in snapshots})
    for region in plan.regions:
        listing = await arm.containers.managed_clusters.list_kubernetes_versions(region)
        versions: set[str] = set()
        for version in listing.values_property or []:
            versions |= {str(version.version), *(version.patch_versions or {})}
        if plan.kubernetes and plan.kubernetes not in versions:
            raise unknown(f"Kubernetes version in {region}", plan.kubernetes, versions)
    return plan, snapshots


async def _snapshot(arm: Arm, snapshot: str) -> dict[str, Any]:
    from azure.core.exceptions import ResourceNotFoundError  # noqa: PLC0415 - an optional extra

    try:
        found = (await arm.containers.snapshots.get(*snapshot_names(snapshot))).as_dict()
    except ResourceNotFoundError as error:
        raise UsageError(f"there is no snapshot {snapshot}", "`az aks nodepool snapshot list` shows yours") from error
    if found["properties"].get("osType") != "Windows":
        raise UsageError(f"the snapshot {snapshot} is not one of a Windows pool", "name another with --aks-snapshot")
    return found


def _suiting(plan: Plan, snapshots: Sequence[dict[str, Any]], homes: set[str]) -> Plan:
    """
    The plan, completed from the properties of its snapshots and checked against them: a pool can only be made from one
    in the region where that is, in a cluster that is not older, and its node image is known before anything is made.
    """
    if not snapshots:
        return plan
    if len(homes) > 1 or not set(plan.regions) <= homes:
        raise UsageError(
            f"snapshots serve only the region where they are: {', '.join(sorted(homes))}",
            "name that one, and no other, with --aks-region",
        )
    skus = [*plan.os_skus, *(str(one["osSku"]) for one in snapshots)]
    if len(set(skus)) < len(skus):
        raise UsageError(f"two Windows pools with one OS SKU: {', '.join(skus)}", "ask for each OS SKU once")
    newest = max((str(one["kubernetesVersion"]) for one in snapshots), key=_numbers)
    given = _numbers(plan.kubernetes)
    if given and given < _numbers(newest)[: len(given)]:
        raise UsageError(
            f"the snapshot is of Kubernetes {newest}, newer than --aks-kubernetes {plan.kubernetes}",
            "a cluster must not be older than its nodes",
        )
    images = {str(one["nodeImageVersion"]) for one in snapshots}
    if plan.node_image_versions and not images <= set(plan.node_image_versions):
        raise TargetError(
            f"the snapshots hold the node images {', '.join(sorted(images))}, expected "
            f"{', '.join(plan.node_image_versions)}",
            "change --aks-snapshot or --aks-node-image-version",
        )
    return replace(plan, regions=tuple(homes), kubernetes=plan.kubernetes or newest)


async def _in_region(arm: Arm, plan: Plan, region: str, snapshots: Sequence[dict[str, Any]], say: Say) -> bytes:
    """
    The group, the cluster in it, and its Windows pools; returns the kubeconfig. Raises _NoRoomError where another
    region may help.
    """
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415 - an optional extra

    group, tags = plan.group(region), plan.tags(datetime.now(UTC))
    groups, clusters = arm.resources.resource_groups, arm.containers.managed_clusters
    say(f"creating the resource group {group}; from {tags[EXPIRES]} on anyone's {_DOWN} removes it")
    await groups.create_or_update(group, cast("Any", {"location": region, "tags": tags}))
    try:
        async with _progress(say, f"creating the cluster {CLUSTER} in {region}", _USUAL_MINUTES["cluster"], _IN_ALL):
            body = cast("Any", plan.cluster_body(region, tags))
            await (await clusters.begin_create_or_update(group, CLUSTER, body)).result()
        bodies = [plan.pool_body(sku, None) for sku in plan.os_skus]
        bodies += [plan.pool_body(one["properties"]["osSku"], one) for one in snapshots]
        names = ", ".join(pool_name(body["properties"]["osSKU"]) for body in bodies)
        async with _progress(say, f"creating the Windows pool {names}", _USUAL_MINUTES["pool"] * len(bodies), _IN_ALL):
            try:
                async with asyncio.TaskGroup() as tasks:
                    made = [tasks.create_task(_pool(arm, plan, group, body)) for body in bodies]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
    except HttpResponseError as error:
        if connection.no_room(error):
            raise _NoRoomError(str(connection.explained(error)).partition(" — ")[0]) from error
        raise connection.explained(error, f"creating the cluster in {region}") from error
    _check_images(plan, [task.result() for task in made], say)
    answer = await clusters.list_cluster_user_credentials(group, CLUSTER)
    if not answer.kubeconfigs or not answer.kubeconfigs[0].value:
        raise TargetError(f"Azure gives no kubeconfig for the cluster in {group}", "are local accounts forbidden?")
    return bytes(answer.kubeconfigs[0].value)


async def _pool(arm: Arm, plan: Plan, group: str, body: dict[str, Any]) -> dict[str, Any]:
    """
    One Windows pool, as Azure shows it when it is there. All are asked for at once; where Azure takes one operation
    for a cluster at a time it says so (409), and the others come when that one is through.
    """
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415 - an optional extra

    name = pool_name(body["properties"]["osSKU"])

    async def attempt() -> Any:
        try:
            return await arm.containers.agent_pools.begin_create_or_update(group, CLUSTER, name, cast("Any", body))
        except HttpResponseError as error:
            if connection.busy(error):
                raise TryAgainError(str(connection.explained(error))) from error
            raise

    poller = await persistently(attempt, plan.cap.total_seconds())
    return cast("dict[str, Any]", (await poller.result()).as_dict())


def _check_images(plan: Plan, pools: Sequence[dict[str, Any]], say: Say) -> None:
    """
    Say what the pools turned out to be. Raises TargetError when a node image is not the expected one.
    """
    for pool in pools:
        seen = pool["properties"]
        say(f"pool {pool['name']}: {seen.get('count')} × {seen.get('vmSize')}, {seen.get('osSKU')}, node image "
            f"{seen.get('nodeImageVersion')}, Kubernetes {seen.get('currentOrchestratorVersion')}")  # fmt: skip
    images = {str(pool["properties"].get("nodeImageVersion")) for pool in pools}
    if plan.node_image_versions and images != set(plan.node_image_versions):
        raise TargetError(
            f"the Windows pools have the node image {', '.join(sorted(images))}, expected "
            f"{', '.join(plan.node_image_versions)}",
            "AKS gives new pools its newest image; an older one comes from a snapshot alone: --aks-snapshot",
        )


# -- removing


def _remove_all(plan: Plan, groups: Sequence[str], say: Say, *, wait: bool) -> None:
    """
    Remove these groups and their kubeconfigs, and name what could not be removed. Raises only KeyboardInterrupt.
    """
    for group in groups:
        _kubeconfig(plan, group).unlink(missing_ok=True)
    left = dict.fromkeys(groups, "interrupted before Azure took the removal on")
    if not left:
        return
    try:
        asyncio.run(_remove(plan, left, say, wait=wait))
    except SuiteError as error:
        left = {group: why and str(error) for group, why in left.items()}
    except KeyboardInterrupt:
        if going := [group for group, why in left.items() if not why]:
            say(_under_way(going))
        raise
    finally:
        for group, why in left.items():
            if why:
                say(
                    f"LEFT BEHIND, and costs money: resource group {group} in subscription {plan.subscription}: {why}; "
                    f"remove it with {_DOWN} or `az group delete --name {group}`"
                )


def _under_way(groups: Sequence[str]) -> str:
    return f"Azure is removing {', '.join(groups)}; {_DOWN} shows whether that is through, and finishes it"


async def _remove(plan: Plan, left: dict[str, str], say: Say, *, wait: bool) -> None:
    """
    Remove each group in ``left``, whose values say why it is still there; empty once Azure has taken it on.
    """
    async with connection.connected(plan) as arm:
        pollers: dict[str, Any] = {}
        for group in left:
            try:
                pollers[group] = await _begin_removal(arm, group)
            except SuiteError as error:
                left[group] = str(error)
            else:
                left[group] = ""
        going = [group for group, poller in pollers.items() if poller is not None]
        if not going:
            return
        if not wait:
            say(_under_way(going))
            return
        async with _progress(say, f"removing {', '.join(going)}", _USUAL_MINUTES["removal"]):
            ends = await asyncio.gather(*(_removed(pollers[group]) for group in going))
        for group, why in zip(going, ends, strict=True):
            left[group] = why
            if not why:
                say(f"removed {group}, with all that was in it")


async def _begin_removal(arm: Arm, group: str) -> Any:
    """
    Have Azure remove a group. Returns the poller; None when there is no such group. Raises SuiteError.
    """
    from azure.core.exceptions import AzureError  # noqa: PLC0415 - an optional extra

    try:
        return await arm.resources.resource_groups.begin_delete(group)
    except AzureError as error:
        if connection.gone(error):
            return None
        raise connection.explained(error) from error


async def _removed(poller: Any) -> str:
    """
    Wait until Azure has removed a group. Returns why it is still there, or nothing.
    """
    from azure.core.exceptions import AzureError  # noqa: PLC0415 - an optional extra

    try:
        async with asyncio.timeout(DELETION_LIMIT.total_seconds()):
            await poller.result()
    except TimeoutError:
        return f"Azure is still at it after {int(DELETION_LIMIT / timedelta(minutes=1))} min"
    except AzureError as error:
        return "" if connection.gone(error) else str(connection.explained(error))
    return ""


def down(plan: Plan, say: Say) -> None:
    """
    Find, by their tags alone, the groups of this owner and all that are expired, and remove them. Raises TargetError
    when one could not be removed.
    """
    mine, others = asyncio.run(_found(plan))
    for group, why in others.items():
        say(f"leaving {group} alone: {why}")
    left = dict.fromkeys(mine, "interrupted before Azure took the removal on")
    if mine:
        for group, why in mine.items():
            say(f"removing {group}: {why}")
        asyncio.run(_remove(plan, left, say, wait=True))
    else:
        say(f"nothing of {plan.owner} and nothing expired in subscription {plan.subscription}")
    still = {group: why for group, why in left.items() if why}
    # A kubeconfig whose cluster is gone is of no use, and still a credential.
    for kept in _kubeconfigs(plan).glob("*.kubeconfig"):
        if kept.stem not in others and kept.stem not in still:
            kept.unlink(missing_ok=True)
    if still:
        raise TargetError("; ".join(f"{group} is still there: {why}" for group, why in still.items()),
                          "look at it in the Azure portal, then call this again")  # fmt: skip


async def _found(plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """
    The groups to remove and those to leave alone, each with the reason.
    """
    mine: dict[str, str] = {}
    others: dict[str, str] = {}
    now = datetime.now(UTC)
    async with connection.connected(plan) as arm:
        marked = arm.resources.resource_groups.list(
            filter=f"tagName eq '{MARK}' and tagValue eq 'aks'", **connection.first_contact()
        )
        async for group in marked:
            # AKS copies the cluster's tags to the group that it makes itself, and removes that with the cluster.
            if group.managed_by:
                continue
            tags, name = group.tags or {}, str(group.name)
            ends = expiry(tags)
            if tags.get(OWNER) == plan.owner:
                mine[name] = f"it is {plan.owner}'s"
            elif ends is not None and ends <= now:
                mine[name] = f"it is {tags.get(OWNER)}'s, and expired at {ends:%Y-%m-%d %H:%M} UTC"
            else:
                until = f"and expires at {ends:%Y-%m-%d %H:%M} UTC" if ends else "and its expiry cannot be read"
                others[name] = f"it is {tags.get(OWNER)}'s, {until}"
    return mine, others


# -- small things


@contextlib.asynccontextmanager
async def _progress(say: Say, what: str, usual: int, whole: str = "") -> AsyncIterator[None]:
    """
    Say what is going on, now and every minute, and how long it took.
    """
    began = time.monotonic()

    def minutes() -> int:
        return int((time.monotonic() - began) / 60)

    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            say(f"{what}: {minutes()} min of usually {usual}{whole}")

    say(f"{what}: usually {usual} min")
    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
    say(f"{what}: done after {minutes()} min")


def _kubeconfigs(plan: Plan) -> Path:
    return cache_directory() / "aks" / plan.subscription


def _kubeconfig(plan: Plan, group: str) -> Path:
    return _kubeconfigs(plan) / f"{group}.kubeconfig"


def _written(plan: Plan, group: str, kubeconfig: bytes) -> Path:
    """
    Write the kubeconfig, which is a credential, for its owner alone.
    """
    path = _kubeconfig(plan, group)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(kubeconfig)
    return path


def _region(location: str) -> str:
    return location.lower().replace(" ", "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
