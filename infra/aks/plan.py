"""
What is asked for on the command line, and what that means in Azure: names, tags, request bodies. No connection.
"""

from __future__ import annotations

import difflib
import getpass
import importlib
import os
import re
import secrets
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conformance._suite.model import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

MARK = "hostprocess-conformance"
"""The tag that says: this resource group was made by this suite. Its value is ``aks``; four more begin with it."""
OWNER, RUN, CREATED, EXPIRES = (f"{MARK}-{what}" for what in ("owner", "run", "created", "expires"))
CLUSTER = "hpc"
"""The cluster's name; with the group's and the region's it makes AKS's own group, which may have 80 characters."""
NEEDED_MINUTES = "25 to 30"
# AKS retires a Windows version with Kubernetes minors; 2025 is the one that all of today's and the next ones have.
_DEFAULT_OS_SKU = "Windows2025"
_DEFAULT_REGIONS = ("westeurope", "northeurope")
_DEFAULT_LINUX_VM_SIZE = "Standard_D2s_v5"
_DEFAULT_WINDOWS_VM_SIZE = "Standard_D4s_v5"
_DEFAULT_NODE_COUNT = 1
_DEFAULT_TTL_HOURS = 4.0
_DEFAULT_CAP_MINUTES = 60
_LONGEST_TAG = 256
_LONGEST_WINDOWS_POOL_NAME = 6
_MOST_NODES = 100
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SNAPSHOT = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.ContainerService/snapshots/(?P<name>[^/]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One run's wishes, checked as far as that can be done without Azure. ``windows_vm_size`` is empty for the default,
    which is a snapshot's own size where there is one; ``regions`` is empty for the snapshots' own.
    """

    run_id: str
    subscription: str
    regions: tuple[str, ...]
    os_skus: tuple[str, ...]
    kubernetes: str
    linux_vm_size: str
    windows_vm_size: str
    node_count: int
    snapshots: tuple[str, ...]
    node_image_versions: tuple[str, ...]
    owner: str
    ttl: timedelta
    cap: timedelta
    endpoint: str
    ca_file: Path | None

    @classmethod
    def of(cls, options: argparse.Namespace, run_id: str = "") -> Plan:
        """
        Read the options. Raises UsageError for what cannot be, or when the Azure SDK is not installed.
        """
        require_sdk()
        ttl, cap = _times(options)
        endpoint, ca_file = _endpoint(options)
        return cls(
            run_id=run_id or secrets.token_hex(4),
            subscription=_subscription(options),
            regions=tuple(dict.fromkeys(_region(name) for name in options.aks_region))
            or (() if options.aks_snapshot else _DEFAULT_REGIONS),
            os_skus=_os_skus(options.aks_os_sku) or (() if options.aks_snapshot else (_DEFAULT_OS_SKU,)),
            kubernetes=_matching(r"\d+\.\d+(\.\d+)?", options.aks_kubernetes, "--aks-kubernetes", "as 1.34 or 1.34.2"),
            linux_vm_size=_vm_size(options.aks_linux_vm_size, "--aks-linux-vm-size"),
            windows_vm_size=_vm_size(options.aks_windows_vm_size, "--aks-windows-vm-size"),
            node_count=_between(1, options.aks_node_count, _MOST_NODES, "--aks-node-count"),
            snapshots=_snapshots(options),
            node_image_versions=tuple(
                _matching(r"AKSWindows-[\w.-]+", version, "--aks-node-image-version",
                          "as in the pool's nodeImageVersion: AKSWindows-2022-containerd-20348.2700.240911")
                for version in dict.fromkeys(options.aks_node_image_version)
            ),
            owner=_owner(options.aks_owner),
            ttl=ttl,
            cap=cap,
            endpoint=endpoint,
            ca_file=ca_file,
        )  # fmt: skip

    def group(self, region: str) -> str:
        """
        The name of the resource group that holds everything that is made in this region.
        """
        return f"hostprocess-{self.run_id}-{region}"

    def tags(self, now: datetime) -> dict[str, str]:
        """
        What the group and the cluster are tagged with: `down` finds and judges groups by these alone.
        """
        return {
            MARK: "aks",
            OWNER: self.owner,
            RUN: self.run_id,
            CREATED: now.strftime(_TIME),
            EXPIRES: (now + self.ttl).strftime(_TIME),
        }

    def cluster_body(self, region: str, tags: dict[str, str]) -> dict[str, Any]:
        """
        The cluster with its Linux system pool, which AKS insists on. Nothing upgrades a node while it is under test.

        The Windows pools follow one by one: only for a cluster that is there without them AKS is documented to have
        made a Windows administrator and a random password by itself, so that none passes through here.
        """
        properties: dict[str, Any] = {
            "dnsPrefix": f"{CLUSTER}-{self.run_id}",
            "enableRBAC": True,
            "networkProfile": {"networkPlugin": "azure", "loadBalancerSku": "standard"},
            "autoUpgradeProfile": {"upgradeChannel": "none", "nodeOSUpgradeChannel": "None"},
            "agentPoolProfiles": [
                {
                    "name": "system",
                    "mode": "System",
                    "type": "VirtualMachineScaleSets",
                    "osType": "Linux",
                    "count": 1,
                    "vmSize": self.linux_vm_size,
                }
            ],
        }
        if self.kubernetes:
            properties["kubernetesVersion"] = self.kubernetes
        return {
            "location": region,
            "tags": tags,
            "identity": {"type": "SystemAssigned"},
            "sku": {"name": "Base", "tier": "Free"},
            "properties": properties,
        }

    def pool_body(self, os_sku: str, snapshot: dict[str, Any] | None) -> dict[str, Any]:
        """
        A Windows pool. From a snapshot it gets that one's node image, and with it its Kubernetes and VM family.
        """
        properties: dict[str, Any] = {
            "mode": "User",
            "type": "VirtualMachineScaleSets",
            "osType": "Windows",
            "osSKU": os_sku,
            "count": self.node_count,
            "vmSize": self.windows_vm_size or _DEFAULT_WINDOWS_VM_SIZE,
        }
        if snapshot is not None:
            known = snapshot["properties"]
            properties["creationData"] = {"sourceResourceId": snapshot["id"]}
            properties["orchestratorVersion"] = known["kubernetesVersion"]
            properties["vmSize"] = self.windows_vm_size or known.get("vmSize") or _DEFAULT_WINDOWS_VM_SIZE
            properties["enableFIPS"] = bool(known.get("enableFIPS"))
        return {"properties": properties}


def pool_name(os_sku: str) -> str:
    """
    ``Windows2025`` → ``w2025``: a Windows pool's name has at most six characters, the nodes' names begin with it.
    """
    return f"w{os_sku.removeprefix('Windows').lower()}"[:_LONGEST_WINDOWS_POOL_NAME]


def snapshot_names(snapshot: str) -> tuple[str, str]:
    """
    The resource group and the name of a snapshot, out of its id.
    """
    found = _SNAPSHOT.fullmatch(snapshot)
    if found is None:
        raise UsageError(f"--aks-snapshot {snapshot!r} is not the id of a snapshot", _SNAPSHOT_REMEDY)
    return found["group"], found["name"]


def expiry(tags: dict[str, str]) -> datetime | None:
    """
    When a group with these tags may be removed by anyone; None where that cannot be read.
    """
    try:
        return datetime.strptime(tags.get(EXPIRES, ""), _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def add_options(group: argparse._ArgumentGroup) -> None:
    """
    Add this target's flags.
    """
    group.add_argument("--aks-subscription", metavar="ID", default="", help="default: AZURE_SUBSCRIPTION_ID")
    group.add_argument(
        "--aks-region",
        metavar="NAME",
        action="append",
        default=[],
        help="where; repeatable: the next "
        f"one is tried when Azure has no room (default: {', then '.join(_DEFAULT_REGIONS)})",
    )
    group.add_argument(
        "--aks-os-sku",
        metavar="SKU",
        action="append",
        default=[],
        help=f"a Windows pool with this OS; repeatable: Windows2022, Windows2025, … (default: {_DEFAULT_OS_SKU})",
    )
    group.add_argument("--aks-kubernetes", metavar="VERSION", default="", help="1.34 or 1.34.2 (default: the region's)")
    group.add_argument(
        "--aks-linux-vm-size",
        metavar="SIZE",
        default=_DEFAULT_LINUX_VM_SIZE,
        help=f"of the system pool's one node (default: {_DEFAULT_LINUX_VM_SIZE})",
    )
    group.add_argument(
        "--aks-windows-vm-size",
        metavar="SIZE",
        default="",
        help=f"default: {_DEFAULT_WINDOWS_VM_SIZE}, or the snapshot's own size",
    )
    group.add_argument(
        "--aks-node-count",
        metavar="N",
        type=int,
        default=_DEFAULT_NODE_COUNT,
        help=f"nodes in each Windows pool (default: {_DEFAULT_NODE_COUNT})",
    )
    group.add_argument(
        "--aks-snapshot",
        metavar="ID",
        action="append",
        default=[],
        help="make the Windows pool from "
        "this node pool snapshot, the only way to an older node image; repeatable, one for each OS SKU",
    )
    group.add_argument(
        "--aks-node-image-version",
        metavar="VERSION",
        action="append",
        default=[],
        help="the node image that a Windows pool must turn out to have, or exit 3; repeatable, one for each pool",
    )
    group.add_argument("--aks-owner", metavar="NAME", default="", help="tag: whose it is (default: your user name)")
    group.add_argument(
        "--aks-ttl-hours",
        metavar="HOURS",
        type=float,
        default=_DEFAULT_TTL_HOURS,
        help=f"tag: after this anyone's `down` may remove it (default: {_DEFAULT_TTL_HOURS:g})",
    )
    group.add_argument(
        "--aks-cap-minutes",
        metavar="MINUTES",
        type=int,
        default=_DEFAULT_CAP_MINUTES,
        help=f"give up and tear down when it is not up by then (default: {_DEFAULT_CAP_MINUTES})",
    )
    group.add_argument(
        "--aks-endpoint",
        metavar="URL",
        default="",
        help="the Resource Manager of another cloud, https only (default: https://management.azure.com)",
    )
    group.add_argument("--aks-ca-file", metavar="FILE", type=Path, help="certificates to trust at --aks-endpoint")


def describe_plan(plan: Plan) -> str:
    """
    All that would be created, and what drives its cost, as lines of text.
    """
    region = plan.regions[0] if plan.regions else "<the snapshot's region>"
    windows = [f"{pool_name(sku)} ({sku})" for sku in plan.os_skus]
    windows += [f"one from {snapshot}" for snapshot in plan.snapshots]
    vms = len(windows) * plan.node_count
    size = plan.windows_vm_size or (
        "the snapshot's own VM size" if plan.snapshots and not plan.os_skus else _DEFAULT_WINDOWS_VM_SIZE
    )
    hours = f"{plan.ttl / timedelta(hours=1):g}"
    cap = int(plan.cap / timedelta(minutes=1))
    return "\n".join(
        [
            f"Would create in subscription {plan.subscription}:",
            f"  resource group   {plan.group(region)}, in {region}"
            + "".join(f"; when Azure has no room there: in {other}" for other in plan.regions[1:]),
            f"    tags           {MARK}=aks, {OWNER}={plan.owner}, {RUN}={plan.run_id},",
            f"                   {CREATED}=<now>, {EXPIRES}=<now + {hours} h> (UTC)",
            f"  AKS cluster      {CLUSTER}, free tier, Azure CNI, system-assigned identity, the same tags,",
            f"                   Kubernetes {plan.kubernetes or _kubernetes_default(plan)}, no automatic upgrades",
            f"    system pool    system: Linux, 1 × {plan.linux_vm_size}",
            *(f"    Windows pool   {pool}: {plan.node_count} × {size}" for pool in windows),
            *(f"    read back      node image must be {version}" for version in plan.node_image_versions),
            f"  by AKS itself    resource group MC_{plan.group(region)}_{CLUSTER}_{region}: scale sets, disks, virtual",
            "                   network, load balancer, public IP; it goes with the cluster",
            f"It takes {NEEDED_MINUTES} minutes; after {cap} it is given up and removed (--aks-cap-minutes).",
            "What costs, for as long as it is there:",
            f"  {vms} × Windows VM {size}, with its licence, and 1 × Linux VM {plan.linux_vm_size};",
            f"  {vms + 1} OS disks, of the size and kind that AKS chooses for the VM size; 1 standard load balancer;",
            "  1 public IP; outgoing traffic. Making, a run and removing take about an hour.",
            f"  {hours} h (--aks-ttl-hours) end nothing by themselves: from then on anyone's `down` removes it.",
        ]
    )  # fmt: skip


def _kubernetes_default(plan: Plan) -> str:
    return "of the snapshot" if plan.snapshots else "of the region's default version"


def require_sdk() -> None:
    """
    Raise UsageError when the optional Azure SDK is not there.
    """
    try:
        for name in ("azure.identity.aio", "azure.mgmt.resource.resources.aio", "azure.mgmt.containerservice.aio"):
            importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"--target aks needs the Azure SDK: {error}",
            "pip install 'hostprocess-conformance[aks]' (nox installs it by itself)",
        ) from error


def unknown(what: str, given: str, known: Iterable[str]) -> UsageError:
    """
    The error for a name that Azure does not have; the remedy names those that look like it, or all.
    """
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.6) or known
    return UsageError(f"unknown {what} {given!r}", f"known are {', '.join(near) or 'none'}")


_SNAPSHOT_REMEDY = (
    "take it from `az aks nodepool snapshot show --query id`: "
    "/subscriptions/…/resourceGroups/…/providers/Microsoft.ContainerService/snapshots/…"
)


def _subscription(options: argparse.Namespace) -> str:
    given = options.aks_subscription or os.environ.get("AZURE_SUBSCRIPTION_ID", "")
    if not given:
        raise UsageError(
            "--target aks needs an Azure subscription",
            "name it with --aks-subscription or AZURE_SUBSCRIPTION_ID; `az account show --query id` tells yours",
        )
    return _matching(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(given).lower(), "--aks-subscription",
                     "as `az account show --query id` tells it")  # fmt: skip


def _region(given: str) -> str:
    return _matching(r"[a-z0-9]{1,40}", given.lower().replace(" ", ""), "--aks-region", "as westeurope")


def _vm_size(given: str, flag: str) -> str:
    return _matching(r"(Standard|Basic)_[A-Za-z0-9_-]+", given, flag, "as Standard_D4s_v5")


def _os_skus(given: list[str]) -> tuple[str, ...]:
    from azure.mgmt.containerservice.models import OSSKU  # noqa: PLC0415 - an optional extra

    known = {sku.value.lower(): sku.value for sku in OSSKU if sku.value.startswith("Windows")}
    for sku in given:
        if sku.lower() not in known:
            raise unknown("--aks-os-sku", sku, known.values())
    return tuple(dict.fromkeys(known[sku.lower()] for sku in given))


def _snapshots(options: argparse.Namespace) -> tuple[str, ...]:
    for snapshot in options.aks_snapshot:
        found = _SNAPSHOT.fullmatch(snapshot)
        if found is None:
            raise UsageError(f"--aks-snapshot {snapshot!r} is not the id of a snapshot", _SNAPSHOT_REMEDY)
        if found["subscription"].lower() != _subscription(options):
            raise UsageError(
                f"--aks-snapshot {snapshot!r} is in another subscription", "name that one with --aks-subscription"
            )
    return tuple(dict.fromkeys(options.aks_snapshot))


def _owner(given: str) -> str:
    try:
        owner = given or getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise UsageError("this machine does not tell your user name", "name an owner with --aks-owner") from error
    if len(owner) > _LONGEST_TAG:
        raise UsageError(f"--aks-owner is too long: {len(owner)} characters", f"at most {_LONGEST_TAG}: it is a tag")
    return owner


def _times(options: argparse.Namespace) -> tuple[timedelta, timedelta]:
    minutes = _between(5, options.aks_cap_minutes, 24 * 60, "--aks-cap-minutes")
    hours = _between(0.1, options.aks_ttl_hours, 24 * 365, "--aks-ttl-hours")
    if hours * 60 <= minutes:
        raise UsageError(
            f"--aks-ttl-hours {hours:g} is not more than the {minutes} minutes that bringing it up may take",
            "or it could be removed before it is up: give it more, or lower --aks-cap-minutes",
        )
    return timedelta(hours=hours), timedelta(minutes=minutes)


def _endpoint(options: argparse.Namespace) -> tuple[str, Path | None]:
    endpoint = options.aks_endpoint or "https://management.azure.com"
    parts = urlsplit(endpoint)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise UsageError("--aks-endpoint is not an https address", "as https://management.chinacloudapi.cn")
    if options.aks_ca_file is not None:
        try:
            ssl.create_default_context(cafile=options.aks_ca_file)
        except OSError as error:
            raise UsageError(
                f"--aks-ca-file {options.aks_ca_file} is not there, or holds no certificate: {error.strerror}",
                "name a file of PEM certificates",
            ) from error
    return endpoint.rstrip("/"), options.aks_ca_file


def _matching(pattern: str, given: str, flag: str, remedy: str) -> str:
    if given and not re.fullmatch(pattern, given):
        raise UsageError(f"{flag} {given!r} cannot be read", remedy)
    return given


def _between(least: float, given: Any, most: float, flag: str) -> Any:
    if not least <= given <= most:
        raise UsageError(f"{flag} {given:g} is out of range", f"{least:g} to {most:g}")
    return given
