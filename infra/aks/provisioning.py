"""
Making the cluster and removing it. Whatever happens, what was begun is removed; what cannot be is named.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from conformance._suite.cluster import Cluster, RefusedError
from conformance._suite.errors import SuiteError, TargetError, UsageError
from conformance._suite.files import cache_directory
from conformance._suite.preflight import selection
from conformance._suite.redact import redact
from conformance._suite.versions import Version
from conformance._suite.waiting import TryAgainError, persistently
from infra.aks import arm as connection
from infra.aks.plan import CLUSTER, EXPIRES, MARK, OWNER, USUAL_MINUTES, expiry, pool_name, snapshot_names, unknown
from infra.target import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from pathlib import Path

    from conformance._suite.say import Say
    from infra.aks.arm import Arm
    from infra.aks.plan import Plan

PROGRESS_SECONDS = 60.0
DELETION_LIMIT = timedelta(minutes=30)
READY_LIMIT = timedelta(minutes=5)
"""For the nodes of a pool that Azure calls made to be Ready: their network comes up in HostProcess containers."""
TAKING_ON_LIMIT = timedelta(minutes=5)
"""For Azure to take a removal on, where nobody waits for its end."""
BUSY_LIMIT = timedelta(minutes=10)
BUSY_SECONDS = 30.0
"""Azure lets a cluster have 20 requests for a pool, and one more every minute."""
_NOT_TAKEN_ON = "interrupted before Azure said that it takes the removal on"
_UNDER_WAY = "Azure is removing it"


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
    tags = plan.tags(datetime.now(UTC))
    try:
        _prepare(plan)
        kubeconfig = asyncio.run(_up(plan, tags, say, begun))
        if leave:
            for line in _remove_all(plan, begun[:-1], say, wait=True):
                say(line)
            say(f"{begun[-1]} runs, and costs money, until {plan.down} or, from {tags[EXPIRES]} on, anyone's `down`")
        yield Target("aks", kubeconfig, None, simulated=False)
    except BaseException as error:
        for line in _remove_all(plan, begun, say, wait=not isinstance(error, KeyboardInterrupt)):
            say(line)
        raise
    if not leave and (left := _remove_all(plan, begun, say, wait=True)):
        raise TargetError("; ".join(left))


async def _up(plan: Plan, tags: dict[str, str], say: Say, begun: list[str]) -> Path:
    """
    Make everything, and return the kubeconfig's path. The name of each group is in ``begun`` before it is asked for.
    """
    minutes = int(plan.cap / timedelta(minutes=1))
    try:
        async with asyncio.timeout(plan.cap.total_seconds()), connection.connected(plan) as arm:
            plan, snapshots = await _checked(arm, plan)
            say(f"bringing it up usually takes {plan.needed_minutes} min; it is given up after {minutes} min")
            for region, after in itertools.zip_longest(plan.regions, plan.regions[1:]):
                group = plan.group(region)
                await _group(arm, plan, region, say, tags=tags, begun=begun)
                try:
                    made = await _in_region(arm, plan, region, snapshots, say, tags=tags)
                    return await _joined(_written(plan, group, made), plan.pools * plan.node_count, say)
                except _NoRoomError as error:
                    if after is None:
                        raise TargetError(
                            f"Azure has no room in {', '.join(plan.regions)}: {error}",
                            "name another --aks-region or VM size, or ask Azure for quota; how sizes are spelled shows "
                            f"`az vm list-skus --location {region}`",
                        ) from error
                    say(f"Azure has no room in {region}: {error}")
                    left = {group: _NOT_TAKEN_ON}
                    await _removed(arm, group, left, say, wait=False)
                    say(f"{group}: {left.get(group, 'it is gone')}; trying {after}")
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
            supported = version.capabilities.support_plan if version.capabilities else None
            # What has long-term support alone needs the premium tier.
            if not supported or "KubernetesOfficial" in supported:
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
    newest = max((str(one["kubernetesVersion"]) for one in snapshots), key=Version.parse)
    given = Version.parse(plan.kubernetes).numbers if plan.kubernetes else ()
    if given < Version.parse(newest).numbers[: len(given)]:
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


async def _group(arm: Arm, plan: Plan, region: str, say: Say, *, tags: dict[str, str], begun: list[str]) -> None:
    """
    The resource group, which is in ``begun`` unless Azure answered that it does not make it.
    """
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415 - an optional extra

    group = plan.group(region)
    say(f"creating the resource group {group}; from {tags[EXPIRES]} on anyone's `down` removes it")
    begun.append(group)
    try:
        await arm.resources.resource_groups.create_or_update(group, cast("Any", {"location": region, "tags": tags}))
    except HttpResponseError as error:
        if 400 <= (error.status_code or 0) < 500:
            begun.remove(group)
        raise connection.explained(error, f"creating the resource group {group}") from error


async def _in_region(
    arm: Arm, plan: Plan, region: str, snapshots: Sequence[dict[str, Any]], say: Say, *, tags: dict[str, str]
) -> bytes:
    """
    The cluster in its group, and its Windows pools; returns the kubeconfig. Raises _NoRoomError where another region
    may help.
    """
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415 - an optional extra

    group, clusters = plan.group(region), arm.containers.managed_clusters
    in_all = f"; {plan.needed_minutes} in all"
    bodies = [plan.pool_body(sku, None) for sku in plan.os_skus]
    bodies += [plan.pool_body(one["properties"]["osSku"], one) for one in snapshots]
    pools = []
    try:
        async with _progress(say, f"creating the cluster {CLUSTER} in {region}", USUAL_MINUTES["cluster"], in_all):
            body = cast("Any", plan.cluster_body(region, tags))
            await (await clusters.begin_create_or_update(group, CLUSTER, body)).result()
        for body in bodies:
            name = pool_name(body["properties"]["osSKU"])
            async with _progress(say, f"creating the Windows pool {name}", USUAL_MINUTES["pool"], in_all):
                pools.append(await _pool(arm, group, name, body))
    except HttpResponseError as error:
        if connection.no_room(error):
            raise _NoRoomError(str(connection.explained(error)).partition(" — ")[0]) from error
        raise connection.explained(error, f"creating the cluster in {region}") from error
    _check_images(plan, pools, say)
    answer = await clusters.list_cluster_user_credentials(group, CLUSTER)
    if not answer.kubeconfigs or not answer.kubeconfigs[0].value:
        raise TargetError(f"Azure gives no kubeconfig for the cluster in {group}", "are local accounts forbidden?")
    return bytes(answer.kubeconfigs[0].value)


async def _pool(arm: Arm, group: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """
    One Windows pool, as Azure shows it when it is there. Azure takes one operation for a cluster at a time; one of its
    own may be under way.
    """
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415 - an optional extra

    async def attempt() -> Any:
        try:
            return await arm.containers.agent_pools.begin_create_or_update(group, CLUSTER, name, cast("Any", body))
        except HttpResponseError as error:
            if not connection.busy(error):
                raise
            await asyncio.sleep(BUSY_SECONDS)
            raise TryAgainError(str(connection.explained(error))) from error

    try:
        poller = await persistently(attempt, BUSY_LIMIT.total_seconds())
    except TryAgainError as error:
        raise TargetError(f"creating the Windows pool {name}: the cluster stays busy: {error}", "try again") from error
    return cast("dict[str, Any]", (await poller.result()).as_dict())


async def _joined(kubeconfig: Path, made: int, say: Say) -> Path:
    """
    Wait until the Windows nodes that were made are there and Ready. One that does not become so is named, and the run
    that follows is partial for it. Returns the kubeconfig. Raises TargetError when fewer came than were made.
    """
    found: list[dict[str, Any]] = []
    minutes = f"within {READY_LIMIT / timedelta(minutes=1):g} min"

    async def look() -> None:
        nonlocal found
        windows = {"labelSelector": f"{selection.OS_LABEL}=windows"}
        found = (await cluster.must("GET", "/api/v1/nodes", query=windows))["items"]
        if len(found) < made or any(map(selection.not_ready, found)):
            raise TryAgainError("not yet")

    async with await Cluster.connect(kubeconfig) as cluster, _progress(say, "waiting for the Windows nodes", 2):
        try:
            await persistently(look, READY_LIMIT.total_seconds())
        except TryAgainError:
            for node in found:
                if why := selection.not_ready(node):
                    say(f"{node['metadata']['name']} is not Ready {minutes}: {why}")
        except RefusedError as error:
            raise TargetError(f"the nodes cannot be listed: {error}") from error
    if len(found) < made:
        raise TargetError(
            f"Azure made {made} Windows nodes, and {len(found)} came to the cluster {minutes}",
            "the scale sets in the group MC_… say what became of the others",
        )
    return kubeconfig


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


def _remove_all(plan: Plan, groups: Sequence[str], say: Say, *, wait: bool) -> list[str]:
    """
    Remove these groups and their kubeconfigs. Returns a line for each that is left behind. Raises only
    KeyboardInterrupt, when it has said those lines.
    """
    left = dict.fromkeys(groups, _NOT_TAKEN_ON)
    if not left:
        _forget(plan, [])
        return []
    interrupted = None
    try:
        asyncio.run(_remove(plan, left, say, wait=wait))
    except KeyboardInterrupt as error:
        interrupted = error
    except Exception as error:  # noqa: BLE001 - whatever it is, what costs money is named
        why = str(error) if isinstance(error, SuiteError) else redact(f"{type(error).__name__}: {error}")
        left = {group: why if before == _NOT_TAKEN_ON else before for group, before in left.items()}
    going = [group for group, why in left.items() if why == _UNDER_WAY]
    _forget(plan, [group for group in groups if group in going or group not in left])
    if going:
        say(f"Azure is removing {', '.join(going)}; {plan.down} shows whether that is through, and finishes it")
    lines = [
        f"LEFT BEHIND, and costs money: resource group {group} in subscription {plan.subscription}: {why}; remove it "
        f"with {plan.down} or `az group delete --subscription {plan.subscription} --name {group}`"
        for group, why in left.items()
        if why != _UNDER_WAY
    ]
    if interrupted is None:
        return lines
    for line in lines:
        say(line)
    raise interrupted


async def _remove(plan: Plan, left: dict[str, str], say: Say, *, wait: bool) -> None:
    """
    Remove all groups in ``left`` at the same time.
    """
    what = f"{'removing' if wait else 'having Azure remove'} {', '.join(left)}"
    async with _progress(say, what, USUAL_MINUTES["removal"] if wait else 1), connection.connected(plan) as arm:
        await asyncio.gather(*(_removed(arm, group, left, say, wait=wait) for group in list(left)))


async def _removed(arm: Arm, group: str, left: dict[str, str], say: Say, *, wait: bool) -> None:
    """
    Have Azure remove a group, again where it gives up because something was under way in the group, until the group is
    gone or, without ``wait``, the removal is under way. ``left`` says why the group is there; not any more: it is gone.
    """
    from azure.core.exceptions import AzureError, ResourceNotFoundError  # noqa: PLC0415 - an optional extra

    groups, limit = arm.resources.resource_groups, DELETION_LIMIT if wait else TAKING_ON_LIMIT
    given_up, state = "", None

    async def gone() -> bool:
        nonlocal state
        try:
            found = await groups.get(group)
        except ResourceNotFoundError:
            if left.pop(group) == _UNDER_WAY:
                say(f"removed {group}, with all that was in it")
            return True
        state = found.properties.provisioning_state if found.properties else None
        return False

    async def attempt() -> None:
        nonlocal given_up
        if await gone():
            return
        try:
            if state != "Deleting":
                poller = await groups.begin_delete(group)
                left[group] = _UNDER_WAY
                if wait:
                    await poller.result()
        except AzureError as error:
            if not connection.passing(error):
                raise
            given_up = left[group] = str(connection.explained(error))
            raise TryAgainError(given_up) from error
        left[group] = _UNDER_WAY
        if wait and not await gone():
            raise TryAgainError(_UNDER_WAY)

    try:
        async with asyncio.timeout(limit.total_seconds()):
            await persistently(attempt, limit.total_seconds())
    except (TimeoutError, TryAgainError):
        after = f"after {int(limit / timedelta(minutes=1))} min"
        late = {_UNDER_WAY: f"Azure is still at it {after}", _NOT_TAKEN_ON: f"Azure does not take it on {after}"}
        left[group] = given_up or late[left[group]]
    except AzureError as error:
        left[group] = str(connection.explained(error))


def down(plan: Plan, say: Say) -> None:
    """
    Find, by their tags alone, the groups of this owner and all that are expired, and remove them. Raises TargetError
    when one could not be removed.
    """
    mine, others = asyncio.run(_found(plan))
    for group, why in others.items():
        say(f"leaving {group} alone: {why}")
    for group, why in mine.items():
        say(f"removing {group}: {why}")
    if not mine:
        say(f"nothing of {plan.owner} and nothing expired in subscription {plan.subscription}")
    left = _remove_all(plan, list(mine), say, wait=True)
    # A kubeconfig whose cluster is gone is of no use, and still a credential.
    with contextlib.suppress(OSError, SuiteError):
        kept = [path.stem for path in _kubeconfigs(plan).glob("*.kubeconfig")]
        _forget(plan, [group for group in kept if group not in others and group not in mine])
    if left:
        raise TargetError("; ".join(left))


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
    Say what is going on, now and every minute.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            say(f"{what}: {int((loop.time() - began) / 60)} min of usually {usual}{whole}")

    say(f"{what}: usually {usual} min")
    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()


def _kubeconfigs(plan: Plan) -> Path:
    return cache_directory() / "aks" / plan.subscription


def _kubeconfig(plan: Plan, group: str) -> Path:
    return _kubeconfigs(plan) / f"{group}.kubeconfig"


@contextlib.contextmanager
def _told_when_not_written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"the kubeconfig cannot be written to {folder}: {error.strerror}", "set XDG_CACHE_HOME to another folder"
        ) from error


def _prepare(plan: Plan) -> None:
    """
    See that the kubeconfig can be written, before there is anything that costs. Raises TargetError.
    """
    folder = _kubeconfigs(plan)
    with _told_when_not_written(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"kubeconfig")


def _written(plan: Plan, group: str, kubeconfig: bytes) -> Path:
    """
    Write the kubeconfig, which is a credential, for its owner alone. Raises TargetError.
    """
    path = _kubeconfig(plan, group)
    with _told_when_not_written(path.parent):
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(kubeconfig)
    return path


def _forget(plan: Plan, groups: Iterable[str]) -> None:
    """
    Remove the kubeconfigs of these groups, and the folder when it is empty. What cannot be is not worth a word.
    """
    with contextlib.suppress(OSError, SuiteError):
        for group in groups:
            _kubeconfig(plan, group).unlink(missing_ok=True)
        _kubeconfigs(plan).rmdir()


def _region(location: str) -> str:
    return location.lower().replace(" ", "")
