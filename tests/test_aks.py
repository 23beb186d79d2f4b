"""
--target aks against a loopback Resource Manager: up, use, down, and every way in which that goes wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import AioHttpTransport

from conformance._suite.model import TargetError, UsageError
from infra import aks
from infra.aks import arm as connection
from infra.aks import provisioning
from infra.aks.plan import Plan
from infra.simulated.cluster import SimulatedCluster, parse_nodes
from tests.arm import IMAGES, SUBSCRIPTION, Group, LoopbackArm
from tests.conftest import ROOT, control_plane
from tests.test_aks_options import options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.sockets

CLUSTER = r"PUT .*/managedClusters/hpc$"
POOL = r"PUT .*/agentPools/"


class Credential:
    """
    Hands out what ``tokens`` holds, one after the other, and then fails as Azure's own does.
    """

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        if not self._tokens:
            raise ClientAuthenticationError(
                "DefaultAzureCredential failed to retrieve a token from the included credentials.\n"
                "Attempted credentials:\n\tEnvironmentCredential: EnvironmentCredential authentication unavailable.\n"
                "\tAzureCliCredential: Please run 'az login' to set up an account\nTo mitigate this issue, …"
            )
        token = self._tokens[0] if len(self._tokens) == 1 else self._tokens.pop(0)
        return AccessToken(token, int(time.time()) + 3600)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class Story:
    """
    A user in front of the loopback Azure: what they asked for, and all that they were told.
    """

    def __init__(self, arm: LoopbackArm, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arm, self.kubeconfigs, self.said = arm, cache / "hostprocess-conformance" / "aks", list[str]()
        self.tokens = ["token-0"]
        self.slept: list[float] = []
        self.hurried = True
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        # What a machine in a company has set must not come between the suite and a server on this machine.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        monkeypatch.setattr(connection, "credential", lambda: Credential(self.tokens))
        monkeypatch.setattr(connection, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(AioHttpTransport, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0.005 if self.hurried else seconds)

    def options(self, *arguments: str) -> argparse.Namespace:
        return options("--aks-endpoint", self.arm.url, "--aks-ca-file", str(self.arm.ca_file), *arguments)

    def run(self, *arguments: str, seconds: float | None = None) -> None:
        """
        The cluster up, and down again.
        """
        plan = Plan.of(self.options(*arguments))
        if seconds is not None:
            plan = replace(plan, cap=timedelta(seconds=seconds))
        with provisioning.brought_up(plan, self.said.append) as target:
            assert target.kubeconfig is not None
            assert target.kubeconfig.read_bytes() == self.arm.kubeconfig

    def refused(self, *arguments: str, kind: type[Exception] = TargetError, seconds: float | None = None) -> str:
        """
        The one line that a run ends with; nothing is left in Azure or here.
        """
        with pytest.raises(kind) as raised:
            self.run(*arguments, seconds=seconds)
        line = str(raised.value)
        assert "\n" not in line
        assert self.left() == []
        return line

    def left(self) -> list[str]:
        return [*self.arm.groups, *(path.name for path in self.kubeconfigs.rglob("*.kubeconfig"))]

    def told(self, part: str) -> bool:
        return any(part in line for line in self.said)


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    folder = tmp_path / "arm"
    folder.mkdir()
    with LoopbackArm(folder) as arm:
        yield Story(arm, tmp_path / "cache", monkeypatch)


def add_group(arm: LoopbackArm, name: str, owner: str, hours: float, **tags: str) -> None:
    ends = (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    prefix = "hostprocess-conformance"
    arm.groups[name] = Group("westeurope", {prefix: "aks", f"{prefix}-owner": owner, f"{prefix}-expires": ends} | tags)


# -- the way it should go


def test_up_use_down(story: Story) -> None:
    target = aks.up(story.options("--aks-os-sku", "Windows2022", "--aks-os-sku", "Windows2025"), story.said.append)
    assert (target.name, target.context, target.simulated) == ("aks", None, False)
    assert target.kubeconfig is not None
    assert stat.S_IMODE(target.kubeconfig.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.kubeconfig.parent.stat().st_mode) == 0o700
    # Everything is in one tagged group, but for the one that AKS makes for the nodes.
    (name, group), (nodes, _) = story.arm.groups.items()
    assert nodes == f"MC_{name}_hpc_westeurope"
    assert group.tags["hostprocess-conformance-owner"] == "ada"
    assert set(group.tags) == {
        f"hostprocess-conformance{what}" for what in ("", "-owner", "-run", "-created", "-expires")
    }
    assert sorted(group.clusters["hpc"]["properties"]["pools"]) == ["w2022", "w2025"]
    assert story.told("Windows2025, node image " + IMAGES["Windows2025"])
    assert story.arm.changes()[0].endswith(f"/{name}")

    aks.down(story.options(), story.said.append)
    assert story.left() == []
    aks.down(story.options(), story.said.append)
    assert story.said[-1] == f"nothing of ada and nothing expired in subscription {SUBSCRIPTION}"


def test_a_run_leaves_nothing_and_tells_no_token(story: Story) -> None:
    story.run()
    assert story.left() == []
    assert story.said[-1].startswith("removed hostprocess-")
    assert not story.told("token-0")


def test_whoever_waits_is_told_for_how_long(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "PROGRESS_SECONDS", 0.02)
    story.arm.polls = 20
    story.run()
    assert story.told("takes 25 to 30 min; it is given up after 60 min")
    assert story.told("creating the cluster hpc in westeurope: 0 min of usually 10; 25 to 30 in all")
    assert story.told("creating the Windows pool w2025: 0 min of usually 15")
    assert story.told("removing hostprocess-")


def test_a_failing_run_is_torn_down_too(story: Story) -> None:
    with pytest.raises(ZeroDivisionError), aks.brought_up(story.options(), story.said.append):
        raise ZeroDivisionError
    assert story.left() == []


# -- what is refused before anything is made


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["--aks-region", "westeurop"], UsageError, "unknown --aks-region 'westeurop' — known are westeurope"),
        (["--aks-region", "westeurope", "--aks-region", "moon"], UsageError, "unknown --aks-region 'moon'"),
        (["--aks-kubernetes", "1.19"], UsageError, "unknown Kubernetes version in westeurope '1.19' — known are 1."),
        (["--aks-subscription", SUBSCRIPTION.replace("1", "7")], UsageError, "SubscriptionNotFound"),
    ],
)
def test_what_azure_does_not_have_is_refused_before_anything_is_made(
    story: Story, arguments: list[str], kind: type[Exception], said: str
) -> None:
    assert said in story.refused(*arguments, kind=kind)
    assert story.arm.changes() == []


def test_a_subscription_that_does_not_use_aks_yet(story: Story) -> None:
    story.arm.registered = "NotRegistered"
    assert "az provider register" in story.refused()
    assert story.arm.changes() == []


def test_no_credential(story: Story) -> None:
    story.tokens.clear()
    line = story.refused()
    assert "none from EnvironmentCredential, AzureCliCredential — `az login`, or set AZURE_TENANT_ID" in line
    assert story.arm.requests == []


def test_a_missing_right(story: Story) -> None:
    story.arm.refuse("PUT", 403, "AuthorizationFailed", "The client does not have authorization to perform action")
    assert "AuthorizationFailed: The client does not have" in story.refused()


def test_azure_that_cannot_be_reached(story: Story) -> None:
    story.arm.stop()
    assert "Azure cannot be reached" in story.refused()


def test_a_server_that_is_not_trusted(story: Story) -> None:
    story.arm.ca_file = ROOT / "pyproject.toml"
    with pytest.raises(UsageError, match="holds no certificate"):
        aks.validate(story.options())


# -- node images


def test_a_snapshot_makes_the_pool_with_its_own_image(story: Story) -> None:
    image = "AKSWindows-2022-containerd-20348.2700.240911"
    snapshot = story.arm.add_snapshot("older", "northeurope", "Windows2022", "1.34.1", image)
    target = aks.up(story.options("--aks-snapshot", snapshot, "--aks-node-image-version", image), story.said.append)
    cluster = next(iter(story.arm.groups.values())).clusters["hpc"]
    assert cluster["location"] == "northeurope"
    assert cluster["properties"]["kubernetesVersion"] == "1.34.1"
    assert cluster["properties"]["pools"]["w2022"]["properties"]["vmSize"] == "Standard_D8s_v5"
    assert story.told(f"node image {image}, Kubernetes 1.34.1")
    assert target.kubeconfig


@pytest.mark.parametrize(
    ("changed", "arguments", "kind", "said"),
    [
        ({}, ["--aks-region", "westeurope"], UsageError, "serve only the region where they are: northeurope"),
        ({}, ["--aks-os-sku", "Windows2022"], UsageError, "two Windows pools with one OS SKU"),
        ({}, ["--aks-kubernetes", "1.33"], UsageError, "of Kubernetes 1.34.1, newer than --aks-kubernetes 1.33"),
        ({}, ["--aks-node-image-version", "AKSWindows-x"], TargetError, "hold the node images AKSWindows-2022-old"),
        ({"os_sku": "Ubuntu"}, [], UsageError, "is not one of a Windows pool"),
        ({"kubernetes": "1.30.4"}, [], UsageError, "unknown Kubernetes version in northeurope '1.30.4'"),
        ({"name": None}, [], UsageError, "there is no snapshot /subscriptions/"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_before_anything_is_made(
    story: Story, changed: dict[str, Any], arguments: list[str], kind: type[Exception], said: str
) -> None:
    of = {"name": "s", "location": "northeurope", "os_sku": "Windows2022", "kubernetes": "1.34.1",
          "image": "AKSWindows-2022-old"} | changed  # fmt: skip
    snapshot = story.arm.add_snapshot(**of)
    if of["name"] is None:
        story.arm.snapshots.clear()
    assert said in story.refused("--aks-snapshot", snapshot, *arguments, kind=kind)
    assert story.arm.changes() == []


def test_a_node_image_that_is_not_the_expected_one_is_exit_3_and_torn_down(story: Story) -> None:
    line = story.refused("--aks-node-image-version", "AKSWindows-2025-containerd-26100.1.1")
    assert f"have the node image {IMAGES['Windows2025']}, expected AKSWindows-2025-containerd-26100.1.1" in line
    assert "--aks-snapshot" in line


def test_the_expected_node_images_of_two_pools(story: Story) -> None:
    expected = [f"--aks-node-image-version={IMAGES[sku]}" for sku in ("Windows2022", "Windows2025")]
    story.run("--aks-os-sku", "Windows2022", "--aks-os-sku", "Windows2025", *expected)


def test_an_os_that_this_kubernetes_has_no_more(story: Story) -> None:
    line = story.refused("--aks-os-sku", "Windows2022", "--aks-kubernetes", "1.36", kind=UsageError)
    assert "InvalidOSSKU: Windows2022 is not supported with this Kubernetes version." in line


# -- trouble


def test_azure_asks_for_patience(story: Story) -> None:
    story.arm.refuse(
        r"PUT /subscriptions/[^/]+/resourcegroups/[^/]+$", 429, "TooManyRequests", "…", 2, Retry_After="37"
    )
    story.arm.refuse("GET .*/operations/", 429, "TooManyRequests", "…", 4, Retry_After="41")
    story.arm.retry_after["operations"] = "23"
    story.run()
    assert story.left() == []
    assert story.slept.count(37) == 2
    assert story.slept.count(41) == 4
    assert 23 in story.slept


def test_one_operation_at_a_time(story: Story) -> None:
    story.run("--aks-os-sku", "Windows2022", "--aks-os-sku", "Windows2025")
    assert any(one.endswith("OperationNotAllowed") for one in story.arm.refused)
    assert story.left() == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "SkuNotAvailable", "The requested VM size is not available in location 'westeurope'."),
        (400, "BadRequest", "The VM size of Standard_D4s_v5 is not allowed in your subscription in location 'x'."),
        (409, "OperationNotAllowed", "results in exceeding approved standardDSv5Family Cores quota."),
        (409, "AksCapacityHeavyUsage", "AKS is experiencing heavy usage in region westeurope."),
        (400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 4, remaining 0."),
    ],
)
def test_another_region_where_the_first_has_no_room(story: Story, status: int, code: str, message: str) -> None:
    story.arm.refuse(CLUSTER, status, code, message)
    target = aks.up(story.options(), story.said.append)
    assert target.kubeconfig
    assert story.told(f"Azure has no room in westeurope: {code}: {message}")
    assert [group.location for name, group in story.arm.groups.items() if not name.startswith("MC_")
            and group.deletion is None] == ["northeurope"]  # fmt: skip
    aks.down(story.options(), story.said.append)
    assert story.left() == []


@pytest.mark.parametrize("where", [CLUSTER, POOL])
def test_no_room_is_found_out_late_and_nowhere_is_any(story: Story, where: str) -> None:
    inner = {"code": "OverconstrainedAllocationRequest", "message": "Allocation failed."}
    story.arm.operation_errors.append(
        (where, {"code": "ReconcileVMSSAgentPoolFailed", "message": "VMSS failed", "details": [inner]})
    )
    line = story.refused()
    assert "Azure has no room in westeurope, northeurope: ReconcileVMSSAgentPoolFailed" in line
    assert "name another --aks-region or VM size" in line


def test_an_operation_that_fails_late(story: Story) -> None:
    story.arm.operation_errors.append((POOL, {"code": "VMExtensionProvisioningError", "message": "exit code 50"}))
    assert "VMExtensionProvisioningError: exit code 50" in story.refused()
    assert sum(1 for one in story.arm.changes() if "/agentPools/" in one) == 1  # that is no reason for another region


@pytest.mark.parametrize("where", [CLUSTER, POOL])
def test_an_operation_that_never_ends(story: Story, where: str) -> None:
    story.arm.never_ending = where
    assert "is not up after 0 minutes — try again, or give it more" in story.refused(seconds=1.5)


def test_a_pause_that_is_longer_than_the_cap(story: Story) -> None:
    story.hurried = False
    story.arm.refuse(CLUSTER, 429, "TooManyRequests", "…", 1, Retry_After="7200")
    assert "is not up after" in story.refused(seconds=1)


def test_a_token_that_ends_in_the_middle_is_renewed(story: Story) -> None:
    def revoke(request: str, _: int) -> None:
        if request.startswith("PUT") and "managedClusters" in request:
            story.arm.tokens = {"token-1"}

    # Each of the two clients gets the first token once, and the second one when it asks again.
    story.tokens[:] = ["token-0", "token-0", "token-1"]
    story.arm.seen = revoke
    story.run()
    assert any(one.endswith("ExpiredAuthenticationToken") for one in story.arm.refused)
    assert story.left() == []


def test_a_credential_that_ends_in_the_middle_is_told_and_what_is_left_is_named(story: Story) -> None:
    def revoke(request: str, _: int) -> None:
        if request.startswith("PUT") and "managedClusters" in request:
            story.arm.tokens = {"token-1"}
            story.tokens.clear()

    story.arm.seen = revoke
    with pytest.raises(TargetError, match="no Azure credential is accepted: none from Env") as raised:
        story.run()
    assert "\n" not in str(raised.value)
    (group,) = (name for name in story.arm.groups if not name.startswith("MC_"))
    assert story.told(f"LEFT BEHIND, and costs money: resource group {group} in subscription {SUBSCRIPTION}: no Azure")
    story.tokens.append("token-1")
    story.arm.seen = lambda _request, _status: None
    aks.down(story.options(), story.said.append)
    assert story.left() == []


def test_a_group_that_is_locked_is_named(story: Story) -> None:
    target = aks.up(story.options(), story.said.append)
    assert target.kubeconfig
    story.arm.refuse("DELETE", 409, "ScopeLocked", "The scope is locked.")
    with pytest.raises(TargetError, match=r"hostprocess-\w+-westeurope is still there: .*ScopeLocked: The scope is l"):
        aks.down(story.options(), story.said.append)
    assert target.kubeconfig.exists()


# -- what `down` takes and what it leaves


def test_down_goes_by_the_tags_alone(story: Story) -> None:
    arm = story.arm
    add_group(arm, "mine", "ada", 3)
    add_group(arm, "mine-expired", "ada", -3)
    add_group(arm, "expired", "bob", -1)
    add_group(arm, "bobs", "bob", 2)
    add_group(arm, "odd", "bob", 0, **{"hostprocess-conformance-expires": "tomorrow"})
    arm.groups["hostprocess-12345678-westeurope"] = Group("westeurope", {"team": "x"})
    add_group(arm, "MC_bobs", "ada", -3)
    arm.groups["MC_bobs"].managed_by = "/subscriptions/…/managedClusters/hpc"
    stale = story.kubeconfigs / SUBSCRIPTION / "gone.kubeconfig"
    other = story.kubeconfigs / SUBSCRIPTION.replace("1", "7") / "elsewhere.kubeconfig"
    for path in (stale, other):
        path.parent.mkdir(parents=True)
        path.touch()

    aks.down(story.options(), story.said.append)

    assert set(arm.groups) == {"bobs", "odd", "hostprocess-12345678-westeurope", "MC_bobs"}
    assert story.told("leaving bobs alone: it is bob's, and expires at 20")
    assert story.told("leaving odd alone: it is bob's, and its expiry cannot be read")
    assert story.told("removing expired: it is bob's, and expired at 20")
    assert not stale.exists()
    assert other.exists()


# -- interruptions


@pytest.mark.parametrize("at", [r"PUT .*/resourcegroups/[^/]+$", CLUSTER, POOL, "GET .*operations"])
def test_ctrl_c_waits_only_until_azure_took_the_removal_on(story: Story, at: str) -> None:
    once = threading.Event()

    def interrupt(request: str, _: int) -> None:
        if re.search(at, request, re.IGNORECASE) and not once.is_set():
            once.set()
            story.arm.polls = 10**6  # the removal takes long
            os.kill(os.getpid(), signal.SIGINT)

    story.arm.seen = interrupt
    with pytest.raises(KeyboardInterrupt):
        story.run()
    (group,) = (name for name in story.arm.groups if not name.startswith("MC_"))
    assert story.arm.groups[group].deletion is not None
    assert story.said[-1].startswith(f"Azure is removing {group}; `nox -s down -- --target aks` shows whether")
    next(iter(story.arm.groups.values())).deletion.polls = 1  # type: ignore[union-attr]
    aks.down(story.options(), story.said.append)
    assert story.left() == []


RUNNER = """
import sys, time
from azure.core.credentials import AccessToken
from infra.aks import arm

class Credential:
    async def get_token(self, *_, **__):
        return AccessToken("token-0", int(time.time()) + 3600)
    async def __aenter__(self):
        return self
    async def __aexit__(self, *_):
        pass

arm.credential = Credential
arm.POLL_SECONDS = 0.01
from conformance.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def start(story: Story, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """
    The program in a process of its own, with a credential that this Azure takes.
    """
    given = ["--aks-subscription", SUBSCRIPTION, "--aks-owner", "ada", "--aks-endpoint", story.arm.url,
             "--aks-ca-file", str(story.arm.ca_file)]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments, "--target", "aks", *given],
        env={**(environment or os.environ), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def up_killed_after(story: Story, change: int) -> subprocess.Popen[str]:
    """
    The ended program, killed before it had Azure's answer to this change, or through, when there are not so many.
    """
    started = threading.Event()
    changes = itertools.count(1)

    def kill(request: str, status: int) -> None:
        if request.startswith("PUT") and status < 300 and next(changes) == change:
            started.wait()
            process.kill()

    story.arm.seen = kill
    process = start(story, "up", "--aks-os-sku", "Windows2022", "--aks-os-sku", "Windows2025")
    started.set()
    process.communicate(timeout=60)
    story.arm.seen = lambda _request, _status: None
    return process


def test_killed_after_any_step_down_finds_and_removes_everything(story: Story) -> None:
    """
    SIGKILL after the first, the second, … change that Azure made, until a run is through without having been killed;
    each time `down` in a fresh process, without a file of the dead one, leaves nothing.
    """
    kills = 0
    while (process := up_killed_after(story, kills + 1)).returncode:
        assert process.returncode == -signal.SIGKILL
        assert story.arm.groups
        kills += 1
        taken = start(story, "down")
        output, _ = taken.communicate(timeout=60)
        assert taken.returncode == 0, output
        assert story.left() == []
    assert kills == 4  # the group, the cluster, two pools
    assert len(story.left()) == 3  # that one is up: its group, AKS's own and the kubeconfig


def test_killed_while_removing(story: Story) -> None:
    process = start(story, "up")
    process.communicate(timeout=60)
    assert process.returncode == 0

    def kill(request: str, _: int) -> None:
        if request.startswith("DELETE"):
            removing.kill()

    story.arm.seen = kill
    removing = start(story, "down")
    removing.communicate(timeout=60)
    assert removing.returncode == -signal.SIGKILL
    assert story.left()
    story.arm.seen = lambda _request, _status: None
    aks.down(story.options(), story.said.append)
    assert story.left() == []


@pytest.fixture
def embedded() -> Iterator[tuple[bytes, dict[str, str]]]:
    """
    The kubeconfig of a simulated cluster, and the environment before `story` sets a proxy and an empty cache.
    """
    with SimulatedCluster(parse_nodes("2.3=1"), lambda _: None, control_plane()) as cluster:
        assert cluster.kubeconfig is not None
        yield cluster.kubeconfig.read_bytes(), dict(os.environ)


@pytest.mark.cluster
def test_the_whole_suite_on_a_cluster_that_was_brought_up_for_it(
    embedded: tuple[bytes, dict[str, str]], story: Story, tmp_path: Path
) -> None:
    """
    The cluster that this Azure hands out is the embedded one: from the command line to the verdict, and nothing left.
    """
    story.arm.kubeconfig, environment = embedded
    process = start(story, "--out", str(tmp_path / "out"), environment=environment)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    document = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert document["claim"] == "success"
    assert "removed hostprocess-" in output
    assert story.left() == []
