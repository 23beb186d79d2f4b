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
import shlex
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conformance._suite.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

MARK = "hostprocess-conformance"
"""The tag that says: this resource group was made by this suite. Its value is ``aks``; four more begin with it."""
OWNER, RUN, CREATED, EXPIRES = (f"{MARK}-{what}" for what in ("owner", "run", "created", "expires"))
CLUSTER = "hpc"
"""The cluster's name; with the group's and the region's it makes AKS's own group, which may have 80 characters."""
USUAL_MINUTES = {"cluster": 10, "pool": 15, "removal": 10}
# AKS retires a Windows version with Kubernetes minors; 2025 is the one that all of today's and the next ones have.
_DEFAULT_OS_SKU = "Windows2025"
_DEFAULT_REGIONS = ("westeurope", "northeurope")
_DEFAULT_LINUX_VM_SIZE = "Standard_D2s_v5"
_DEFAULT_WINDOWS_VM_SIZE = "Standard_D4s_v5"
_DEFAULT_ENDPOINT = "https://management.azure.com"
_DEFAULT_NODE_COUNT = 1
# Much longer than a run, for `down` cannot know that what is expired is still in use.
_DEFAULT_TTL_HOURS = 8.0
_DEFAULT_CAP_MINUTES = 60
_LONGEST_TAG = 256
_LONGEST_TAG_NAME = 512
_MOST_TAGS = 45
"""Azure takes 50, five are this suite's."""
_LONGEST_WINDOWS_POOL_NAME = 6
_MOST_NODES = 100
_TIME = "%Y-%m-%dT%H:%M:%SZ"
# Where many people's jobs run under one user name, which so says nothing about who owns a cluster.
CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "PROW_JOB_ID", "JENKINS_URL", "TEAMCITY_VERSION")
CI_USERS = {"root", "runner", "vsts", "vsts_azpcontainer", "azdevops", "jenkins", "gitlab-runner", "nobody"}
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
    extra_tags: dict[str, str]
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
        plan = cls(
            run_id=run_id or secrets.token_hex(4),
            subscription=_subscription(options),
            regions=tuple(dict.fromkeys(_region(name) for name in options.aks_region))
            or (() if options.aks_snapshot else _DEFAULT_REGIONS),
            os_skus=_os_skus(options.aks_os_sku) or (() if options.aks_snapshot else (_DEFAULT_OS_SKU,)),
            kubernetes=_optional(r"\d+\.\d+(\.\d+)?", options.aks_kubernetes, "--aks-kubernetes", "as 1.34 or 1.34.2"),
            linux_vm_size=_matching(_VM_SIZE, options.aks_linux_vm_size, "--aks-linux-vm-size", _VM_SIZE_REMEDY),
            windows_vm_size=_optional(
                _VM_SIZE, options.aks_windows_vm_size, "--aks-windows-vm-size", _VM_SIZE_REMEDY
            ),
            node_count=_between(1, options.aks_node_count, _MOST_NODES, "--aks-node-count"),
            snapshots=_snapshots(options),
            node_image_versions=tuple(
                _matching(r"AKSWindows-\w+-[\w.-]+", version, "--aks-node-image-version",
                          "as in the pool's nodeImageVersion: AKSWindows-2022-containerd-20348.2700.240911")
                for version in dict.fromkeys(options.aks_node_image_version)
            ),
            owner=_owner(options.aks_owner),
            extra_tags=_tags(options.aks_tag),
            ttl=ttl,
            cap=cap,
            endpoint=endpoint,
            ca_file=ca_file,
        )  # fmt: skip
        plan._require_fitting_images()
        return plan

    @property
    def pools(self) -> int:
        """
        How many Windows pools there will be.
        """
        return len(self.os_skus) + len(self.snapshots)

    @property
    def needed_minutes(self) -> str:
        """
        How long it usually takes until all is up: the pools are made one after another.
        """
        usual = USUAL_MINUTES["cluster"] + USUAL_MINUTES["pool"] * self.pools
        return f"{usual} to {usual + 5}"

    @property
    def down(self) -> str:
        """
        The command that removes what this plan makes: without its options it would look for another owner's groups.
        """
        words = ["--aks-subscription", self.subscription, "--aks-owner", self.owner]
        if self.endpoint != _DEFAULT_ENDPOINT:
            words += ["--aks-endpoint", self.endpoint]
        if self.ca_file is not None:
            words += ["--aks-ca-file", str(self.ca_file)]
        return f"`nox -s down -- --target aks {shlex.join(words)}`"

    def require_tested(self, options: argparse.Namespace) -> None:
        """
        Raise UsageError when no pool of this plan can be what the options of the run say that is to be tested.
        """
        wanted = {sku.lower() for sku in getattr(options, "os_sku", None) or ()}
        if wanted and not self.snapshots and not wanted & {sku.lower() for sku in self.os_skus}:
            raise UsageError(
                f"--os-sku {', '.join(options.os_sku)} leaves nothing to test: the pools are {', '.join(self.os_skus)}",
                "--aks-os-sku says which pools are made",
            )
        expected = str(getattr(options, "expect_kubernetes", None) or "").removeprefix("v").split(".")
        given = self.kubernetes.split(".")
        if all(expected) and all(given) and any(one != other for one, other in zip(expected, given, strict=False)):
            raise UsageError(
                f"--expect-kubernetes {options.expect_kubernetes} cannot be met by --aks-kubernetes {self.kubernetes}",
                "change one of them",
            )

    def _require_fitting_images(self) -> None:
        """
        Each pool has its own OS SKU, so its own node image, whose second part is the OS.
        """
        named = sorted(f"Windows{version.split('-')[1]}" for version in self.node_image_versions)
        known = not self.snapshots and all(sku[-4:].isdecimal() for sku in self.os_skus)
        if named and (len(named) != self.pools or (known and named != sorted(self.os_skus))):
            pools = [*self.os_skus, *(snapshot_names(snapshot)[1] for snapshot in self.snapshots)]
            raise UsageError(
                f"--aks-node-image-version {', '.join(self.node_image_versions)} does not fit the Windows pools "
                f"{', '.join(pools)}",
                "name one for each pool, of its OS",
            )

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
            **self.extra_tags,
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
    group.add_argument("--aks-subscription", metavar="ID", help="default: AZURE_SUBSCRIPTION_ID")
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
    group.add_argument("--aks-kubernetes", metavar="VERSION", help="1.34 or 1.34.2 (default: the region's)")
    group.add_argument(
        "--aks-linux-vm-size",
        metavar="SIZE",
        default=_DEFAULT_LINUX_VM_SIZE,
        help=f"of the system pool's one node (default: {_DEFAULT_LINUX_VM_SIZE})",
    )
    group.add_argument(
        "--aks-windows-vm-size",
        metavar="SIZE",
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
    group.add_argument("--aks-owner", metavar="NAME", help="tag: whose it is (default: your user name; not in CI)")
    group.add_argument(
        "--aks-tag",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one more tag for the resource group and the cluster, where a policy demands it; repeatable",
    )
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
        default=_DEFAULT_ENDPOINT,
        help=f"the Resource Manager of another cloud, https only (default: {_DEFAULT_ENDPOINT})",
    )
    group.add_argument("--aks-ca-file", metavar="FILE", type=Path, help="certificates to trust at --aks-endpoint")


def describe_plan(plan: Plan) -> str:
    """
    All that would be created, and what drives its cost, as lines of text.
    """
    region = plan.regions[0] if plan.regions else "<the snapshot's region>"
    size, snapshots_size = (
        plan.windows_vm_size or other for other in (_DEFAULT_WINDOWS_VM_SIZE, "the snapshot's own VM size")
    )
    windows = [(f"{pool_name(sku)} ({sku})", size) for sku in plan.os_skus]
    windows += [(f"one from {snapshot}", snapshots_size) for snapshot in plan.snapshots]
    vms = plan.pools * plan.node_count
    sizes = dict.fromkeys(size for _, size in windows)
    hours = f"{plan.ttl / timedelta(hours=1):g}"
    cap = int(plan.cap / timedelta(minutes=1))
    return "\n".join(
        [
            f"Would create in subscription {plan.subscription}:",
            f"  resource group   {plan.group(region)}, in {region}"
            + "".join(f"; when Azure has no room there: in {other}" for other in plan.regions[1:]),
            f"    tags           {MARK}=aks, {OWNER}={plan.owner}, {RUN}={plan.run_id},",
            *(f"                   {name}={value}," for name, value in plan.extra_tags.items()),
            f"                   {CREATED}=<now>, {EXPIRES}=<now + {hours} h> (UTC)",
            f"  AKS cluster      {CLUSTER}, free tier, Azure CNI, system-assigned identity, the same tags,",
            f"                   Kubernetes {plan.kubernetes or _kubernetes_default(plan)}, no automatic upgrades",
            f"    system pool    system: Linux, 1 × {plan.linux_vm_size}",
            *(f"    Windows pool   {pool}: {plan.node_count} × {size}" for pool, size in windows),
            *(f"    read back      node image must be {version}" for version in plan.node_image_versions),
            f"  by AKS itself    resource group MC_{plan.group(region)}_{CLUSTER}_{region}: scale sets, disks, virtual",
            "                   network, load balancer, public IP; it goes with the cluster",
            f"It usually takes {plan.needed_minutes} minutes; after {cap}, all regions together, it is given up and",
            "removed (--aks-cap-minutes).",
            "What costs, for as long as it is there:",
            f"  {vms} × Windows VM {' and '.join(sizes)}, with its licence, and 1 × Linux VM {plan.linux_vm_size};",
            f"  {vms + 1} OS disks, of the size and kind that AKS chooses for the VM size; 1 standard load balancer;",
            "  1 public IP; outgoing traffic. A run and removing take about half an hour more.",
            f"  {hours} h (--aks-ttl-hours) end nothing by themselves: from then on anyone's `down` removes it, even",
            "  if it is still in use.",
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
            "`pip install -e '.[aks]'` in the checkout (nox does it by itself)",
        ) from error


def unknown(what: str, given: str, known: Iterable[str]) -> UsageError:
    """
    The error for a name that Azure does not have; the remedy names those that look like it, or all.
    """
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.6) or known
    return UsageError(f"unknown {what} {given!r}", f"known are {', '.join(near) or 'none'}")


_VM_SIZE, _VM_SIZE_REMEDY = r"(Standard|Basic)_[A-Za-z0-9_-]+", "as Standard_D4s_v5"
_SNAPSHOT_REMEDY = (
    "take it from `az aks nodepool snapshot show --query id`: "
    "/subscriptions/…/resourceGroups/…/providers/Microsoft.ContainerService/snapshots/…"
)


def _subscription(options: argparse.Namespace) -> str:
    given = options.aks_subscription
    if given is None and not (given := os.environ.get("AZURE_SUBSCRIPTION_ID")):
        raise UsageError(
            "--target aks needs an Azure subscription",
            "name it with --aks-subscription or AZURE_SUBSCRIPTION_ID; `az account show --query id` tells yours",
        )
    return _matching(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(given).lower(), "--aks-subscription",
                     "as `az account show --query id` tells it")  # fmt: skip


def _region(given: str) -> str:
    return _matching(r"[a-z0-9]{1,40}", given.lower().replace(" ", ""), "--aks-region", "as westeurope")


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


def _owner(given: str | None) -> str:
    try:
        owner = getpass.getuser() if given is None else given
    except (KeyError, OSError, ImportError) as error:
        raise UsageError("this machine does not tell your user name", "name an owner with --aks-owner") from error
    if given is None and (owner in CI_USERS or any(os.environ.get(name) for name in CI)):
        raise UsageError(
            f"the user name {owner} may be that of other jobs too, and `down` removes all that its owner has",
            "name an owner of this job alone with --aks-owner",
        )
    if not owner or not owner.isprintable():
        raise UsageError(f"--aks-owner {owner!r} is not a name", "one line of text: it is a tag")
    if len(owner) > _LONGEST_TAG:
        raise UsageError(f"--aks-owner is too long: {len(owner)} characters", f"at most {_LONGEST_TAG}: it is a tag")
    return owner


def _tags(given: list[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in given:
        name, equals, value = tag.partition("=")
        name, value = name.strip(), value.strip()
        if (
            not (name and equals and tag.isprintable())
            or set(name) & set("<>%&\\?/")
            or name.lower().startswith((MARK, "azure", "microsoft", "windows"))
            or len(name) > _LONGEST_TAG_NAME
            or len(value) > _LONGEST_TAG
        ):
            raise UsageError(
                f"--aks-tag {tag!r} cannot be a tag",
                f"as costcentre=1234; the name without <>%&\\?/ and not one of Azure's or of {MARK}",
            )
        tags[name] = value
    if len(tags) > _MOST_TAGS:
        raise UsageError(f"{len(tags)} times --aks-tag", f"at most {_MOST_TAGS}")
    return tags


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
    endpoint = options.aks_endpoint.rstrip("/")
    try:
        parts = urlsplit(endpoint)
        readable = bool(parts.hostname) and parts.port != 0 and endpoint == f"https://{parts.netloc}"
    except ValueError:  # half an IPv6 address, a port that is none
        readable = False
    if not readable or "@" in endpoint or not re.fullmatch(r"[!-~]+", endpoint):
        raise UsageError("--aks-endpoint is not an https address", "as https://management.chinacloudapi.cn")
    if options.aks_ca_file is not None:
        try:
            ssl.create_default_context(cafile=options.aks_ca_file)
        except OSError as error:
            raise UsageError(
                f"--aks-ca-file {options.aks_ca_file} is not there, or holds no certificate: {error.strerror}",
                "name a file of PEM certificates",
            ) from error
    return endpoint, options.aks_ca_file


def _matching(pattern: str, given: str, flag: str, remedy: str) -> str:
    if not re.fullmatch(pattern, given):
        raise UsageError(f"{flag} {given!r} cannot be read", remedy)
    return given


def _optional(pattern: str, given: str | None, flag: str, remedy: str) -> str:
    """
    Nothing for what was not given; an empty value, of a variable that is not set, cannot be read.
    """
    return "" if given is None else _matching(pattern, given, flag, remedy)


def _between(least: float, given: Any, most: float, flag: str) -> Any:
    if not least <= given <= most:
        raise UsageError(f"{flag} {given:g} is out of range", f"{least:g} to {most:g}")
    return given
