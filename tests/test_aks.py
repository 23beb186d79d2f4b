"""
--target aks against a loopback Resource Manager: up, use, down, and every way in which that goes wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import AioHttpTransport

from conformance._suite.errors import TargetError, UsageError
from infra import aks
from infra.aks import arm as connection
from infra.aks import provisioning
from infra.simulated.cluster import SimulatedCluster, parse_nodes
from tests.arm import IMAGES, SUBSCRIPTION, Group, LoopbackArm, Operation
from tests.conftest import ROOT, control_plane
from tests.test_aks_options import options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.sockets

CLUSTER = r"PUT .*/managedClusters/hpc$"
POOL = r"PUT .*/agentPools/"


NO_LOGIN = (
    "Attempted credentials:\n\tEnvironmentCredential: EnvironmentCredential authentication unavailable.\n"
    "\tAzureCliCredential: Please run 'az login' to set up an account\nTo mitigate this issue, …"
)


class Credential:
    """
    Hands out what ``tokens`` holds, one after the other, and then fails as Azure's own does.
    """

    def __init__(self, tokens: list[str], failed: str = NO_LOGIN) -> None:
        self._tokens, self._failed = tokens, failed

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        if not self._tokens:
            failed = "DefaultAzureCredential failed to retrieve a token from the included credentials."
            raise ClientAuthenticationError(f"{failed}\n{self._failed}")
        token = self._tokens[0] if len(self._tokens) == 1 else self._tokens.pop(0)
        return AccessToken(token, int(time.time()) + 3600)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class ShortLived(Credential):
    """
    Its tokens end at once, and Azure takes the newest one alone.
    """

    def __init__(self, arm: LoopbackArm) -> None:
        super().__init__([])
        self._arm = arm

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        token = f"token-{time.monotonic_ns()}"
        self._arm.tokens = {token}
        return AccessToken(token, int(time.time()) - 1)


class Story:
    """
    A user in front of the loopback Azure: what they asked for, and all that they were told.
    """

    def __init__(self, arm: LoopbackArm, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arm, self.kubeconfigs, self.said = arm, cache / "hostprocess-conformance" / "aks", list[str]()
        self.tokens = ["token-0"]
        self.slept: list[float] = []
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        # What a machine in a company has set must not come between the suite and a server on this machine.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        monkeypatch.setattr(connection, "credential", lambda: Credential(self.tokens))
        monkeypatch.setattr(provisioning, "BUSY_SECONDS", 0.0)
        monkeypatch.setattr(AioHttpTransport, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        """
        The SDK waits for Azure: the program's clock jumps to the end of that, whatever this machine's speed is.
        """
        self.slept.append(seconds)
        loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time
        loop.time = lambda: now() + seconds  # type: ignore[method-assign]
        for _ in range(3):  # what has run out by then comes before whatever follows the wait
            await asyncio.sleep(0)

    def options(self, *arguments: str) -> argparse.Namespace:
        return options("--aks-endpoint", self.arm.url, "--aks-ca-file", str(self.arm.ca_file), *arguments)

    def run(self, *arguments: str) -> None:
        """
        The cluster up, and down again.
        """
        with aks.brought_up(self.options(*arguments), self.said.append) as target:
            assert target.kubeconfig is not None
            assert target.kubeconfig.read_bytes() == self.arm.kubeconfig

    def refused(self, *arguments: str, kind: type[Exception] = TargetError) -> str:
        """
        The one line that a run ends with; nothing is left in Azure or here.
        """
        with pytest.raises(kind) as raised:
            self.run(*arguments)
        line = str(raised.value)
        assert "\n" not in line
        assert self.left() == []
        return line

    def left(self) -> list[str]:
        """
        All that is in Azure, and each kubeconfig, or the folder that was made for it, here.
        """
        return [*self.arm.groups, *(path.name for path in self.kubeconfigs.rglob("*"))]

    def told(self, part: str) -> bool:
        return any(part in line for line in self.said)

    def group(self) -> str:
        """
        The one group that this suite made.
        """
        (name,) = (name for name in self.arm.groups if not name.startswith("MC_"))
        return name


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


def _unready(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for node in nodes[:1]:
        node["status"]["conditions"] = [{"type": "Ready", "status": "False", "message": "cni plugin not initialized"}]
    return nodes


def test_nodes_are_waited_for_until_they_are_ready(story: Story) -> None:
    looks = []

    def slowly(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        looks.append(len(nodes))
        return nodes[: len(looks) // 2] if len(looks) < 4 else _unready(nodes) if len(looks) < 6 else nodes

    story.arm.nodes = slowly
    story.run("--aks-node-count", "2")
    assert looks == [2] * 6
    assert not story.told("is not Ready")
    assert story.left() == []


def test_a_node_that_does_not_become_ready_is_named_and_left_to_the_run(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "READY_LIMIT", timedelta(seconds=0.3))
    story.arm.nodes = _unready
    story.run("--aks-node-count", "2")
    assert story.told("aksw2025000000 is not Ready within 0.005 min: not ready: cni plugin not initialized")


def test_a_node_that_never_comes_is_exit_3_and_all_is_torn_down(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "READY_LIMIT", timedelta(seconds=0.3))
    story.arm.nodes = lambda nodes: nodes[1:]
    line = story.refused("--aks-node-count", "2")
    assert line.startswith("Azure made 2 Windows nodes, and 1 came to the cluster within 0.005 min — ")


def test_a_run_leaves_nothing(story: Story) -> None:
    story.run()
    assert story.left() == []
    assert story.said[-1].startswith("removed hostprocess-")


def test_up_ends_with_what_runs_until_when_and_how_to_end_it(story: Story) -> None:
    aks.up(story.options(), story.said.append)
    ends = story.arm.groups[story.group()].tags["hostprocess-conformance-expires"]
    assert story.said[-1] == (
        f"{story.group()} runs, and costs money, until `nox -s down -- --target aks --aks-subscription {SUBSCRIPTION} "
        f"--aks-owner ada --aks-endpoint {story.arm.url} --aks-ca-file {story.arm.ca_file}` or, from {ends} on, "
        "anyone's `down`"
    )


def test_what_azure_gets(story: Story) -> None:
    story.run("--aks-node-count", "3", "--aks-windows-vm-size", "Standard_D8s_v5", "--aks-tag", "team=hosts")
    (_, group), (_, cluster), (_, pool) = story.arm.bodies
    assert cluster["tags"] == group["tags"]
    assert cluster["tags"]["team"] == "hosts"
    assert cluster["tags"]["hostprocess-conformance"] == "aks"
    assert cluster["properties"]["enableRBAC"] is True
    assert cluster["properties"]["autoUpgradeProfile"] == {"upgradeChannel": "none", "nodeOSUpgradeChannel": "None"}
    assert (pool["properties"]["count"], pool["properties"]["vmSize"]) == (3, "Standard_D8s_v5")
    assert not re.search("password|windowsProfile", json.dumps(story.arm.bodies), re.IGNORECASE)


def test_whoever_waits_is_told_for_how_long(story: Story) -> None:
    story.arm.polls = 20
    story.run()
    assert story.told("usually takes 25 to 30 min; it is given up after 60 min")
    assert story.told("creating the cluster hpc in westeurope: 1 min of usually 10; 25 to 30 in all")
    assert story.told("creating the Windows pool w2025: 1 min of usually 15")
    assert story.told("westeurope: 1 min of usually 10")


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
        # Long-term support alone: not for the free tier.
        (["--aks-kubernetes", "1.31.9"], UsageError, "unknown Kubernetes version in westeurope '1.31.9'"),
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


def test_a_log_in_that_entra_refuses_is_told_in_its_own_words(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = "Attempted credentials:\n\tEnvironmentCredential: Failed\nContent: AADSTS7000215: Invalid client secret."
    monkeypatch.setattr(connection, "credential", lambda: Credential([], failed))
    assert "no Azure credential is accepted: AADSTS7000215: Invalid client secret. — `az login`" in story.refused()


def test_a_log_in_that_cannot_be_reached_is_not_called_a_wrong_credential(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = "Attempted credentials:\n\tEnvironmentCredential: Cannot connect to host login.microsoftonline.com:443 ssl"
    monkeypatch.setattr(connection, "credential", lambda: Credential([], failed))
    assert "Azure's log-in cannot be reached: Cannot connect to host login.microsoftonline.com:443" in story.refused()


def test_a_missing_right(story: Story) -> None:
    """
    Neither making nor removing is allowed: nothing was made, and nothing is called left behind.
    """
    for method in ("PUT", "GET .*resourcegroups/", "DELETE"):
        story.arm.refuse(method, 403, "AuthorizationFailed", "The client does not have authorization", times=99)
    line = story.refused()
    assert "AuthorizationFailed: The client does not have" in line
    assert line.endswith(" — docs/aks.md lists the rights that are needed")
    assert not story.told("LEFT BEHIND")


def test_a_policy_that_asks_for_tags(story: Story) -> None:
    story.arm.refuse("PUT", 403, "RequestDisallowedByPolicy", "Resource was disallowed by policy 'tags'.")
    assert "--aks-tag if it asks for tags" in story.refused()


def test_a_cache_that_cannot_be_written_is_found_out_before_anything_is_made(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert "set XDG_CACHE_HOME to another folder" in story.refused()
    assert story.arm.requests == []


def test_azure_that_cannot_be_reached(story: Story) -> None:
    story.arm.stop()
    assert "Azure cannot be reached" in story.refused()


def test_a_server_that_is_not_trusted(story: Story) -> None:
    story.arm.ca_file = ROOT / "pyproject.toml"
    with pytest.raises(UsageError, match="holds no certificate"):
        aks.validate(story.options())


def test_a_kubeconfig_that_cannot_be_written_in_the_end(story: Story) -> None:
    def occupy(request: str, _: int) -> None:
        if request.startswith("POST"):
            (story.kubeconfigs / SUBSCRIPTION / f"{story.group()}.kubeconfig").mkdir()

    story.arm.seen = occupy
    with pytest.raises(
        TargetError, match=r"the kubeconfig cannot be written to .*: .* — set XDG_CACHE_HOME to another"
    ):
        story.run()
    assert story.arm.groups == {}


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
        (
            {},
            ["--aks-node-image-version", "AKSWindows-2022-x"],
            TargetError,
            "hold the node images AKSWindows-2022-old",
        ),
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
    """
    The pools one after another; and while Azure itself works on the cluster, as it may, it is asked again.
    """
    story.arm.refuse(POOL, 409, "OperationNotAllowed", "There is an in progress managed cluster operation.", 2)
    story.run("--aks-os-sku", "Windows2022", "--aks-os-sku", "Windows2025")
    assert sum("/agentPools/" in one for one in story.arm.changes()) == 4
    assert story.left() == []


def test_a_cluster_that_stays_busy(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "BUSY_LIMIT", timedelta())
    story.arm.refuse(POOL, 409, "OperationNotAllowed", "There is an in progress managed cluster operation.", 99)
    line = story.refused()
    assert "pool w2025: the cluster stays busy: OperationNotAllowed: There is an in progress managed" in line


def test_a_conflict_that_does_not_pass_by_itself_is_told_at_once(story: Story) -> None:
    story.arm.refuse(POOL, 409, "PropertyChangeNotAllowed", "Changing property 'x' is not allowed.", 99)
    assert "PropertyChangeNotAllowed: Changing property" in story.refused()
    assert sum("/agentPools/" in one for one in story.arm.changes()) == 1


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "SkuNotAvailable", "The requested VM size is not available in location 'westeurope'."),
        (400, "BadRequest", "The VM size of Standard_D4s_v5 is not allowed in your subscription in location 'x'."),
        (409, "OperationNotAllowed", "results in exceeding approved standardDSv5Family Cores quota."),
        (409, "AksCapacityHeavyUsage", "AKS is experiencing heavy usage in region westeurope."),
        (400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 4, remaining 0."),
        (409, "AllocationFailed", "Allocation failed."),
        (400, "QuotaExceeded", "The quota is exceeded."),
        (400, "VMSizeNotSupported", "Virtual Machine size is not supported."),
    ],
)
def test_no_room_has_many_names(story: Story, status: int, code: str, message: str) -> None:
    story.arm.refuse(CLUSTER, status, code, message)
    line = story.refused("--aks-region", "westeurope")
    assert f"Azure has no room in westeurope: {code}: {message} — name another --aks-region" in line


def test_another_region_where_the_first_has_no_room(story: Story) -> None:
    story.arm.refuse(CLUSTER, 409, "SkuNotAvailable", "The VM size is not available.")
    target = aks.up(story.options(), story.said.append)
    assert target.kubeconfig
    assert story.told("Azure has no room in westeurope: SkuNotAvailable: The VM size is not available.")
    assert [group.location for group in story.arm.groups.values()] == ["northeurope", "northeurope"]
    aks.down(story.options(), story.said.append)
    assert story.left() == []


@pytest.mark.parametrize("where", [CLUSTER, POOL])
def test_no_room_is_found_out_late_and_nowhere_is_any(story: Story, where: str) -> None:
    inner = {"code": "OverconstrainedAllocationRequest", "message": "Allocation failed."}
    story.arm.fail_late(where, "ReconcileVMSSAgentPoolFailed", "VMSS failed", inner, times=2)
    line = story.refused()
    assert "Azure has no room in westeurope, northeurope: ReconcileVMSSAgentPoolFailed: Overconstrained" in line
    assert "how sizes are spelled shows `az vm list-skus --location northeurope`" in line


def test_an_operation_that_fails_late_is_told_with_its_cause(story: Story) -> None:
    output = f"VM has reported a failure. {'output ' * 100} exit code 50"
    inner = {"code": "Failed", "message": "…", "details": [{"code": "VMExtensionProvisioningError", "message": output}]}
    story.arm.fail_late(POOL, "ReconcileVMSSAgentPoolFailed", "the pool failed", inner)
    line = story.refused()
    assert "ReconcileVMSSAgentPoolFailed: VMExtensionProvisioningError: VM has reported a failure." in line
    assert line.endswith("exit code 50")
    assert sum("/agentPools/" in one for one in story.arm.changes()) == 1  # that is no reason for another region


def test_what_azure_refuses_for_a_reason_of_its_own(story: Story) -> None:
    story.arm.refuse(CLUSTER, 400, "BadRequest", "Local accounts have to be disabled.")
    assert "what was asked for: creating the cluster in westeurope: BadRequest: Local accounts" in story.refused()


def test_no_kubeconfig(story: Story) -> None:
    story.arm.kubeconfig = b""
    assert "gives no kubeconfig" in story.refused()


def test_a_secret_in_azures_words_is_not_told(story: Story) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL20ifQ.c2lnbmF0dXJlc2lnbmF0dXJl"
    story.arm.refuse(CLUSTER, 400, "BadRequest", f"The token {token} and adminPassword=hunter2 are refused.")
    line = story.refused()
    assert "The token [redacted] and adminPassword=[redacted] are refused." in line
    assert not any(secret in text for secret in (token, "hunter2", "token-0") for text in (line, *story.said))


@pytest.mark.parametrize("where", [CLUSTER, POOL])
def test_an_operation_that_never_ends(story: Story, where: str) -> None:
    story.arm.never_ending = where
    assert "is not up after 60 minutes — try again, or give it more" in story.refused()


def test_a_pause_that_is_longer_than_the_cap(story: Story) -> None:
    story.arm.refuse(CLUSTER, 429, "TooManyRequests", "…", 1, Retry_After="7200")
    assert "is not up after 60 minutes" in story.refused()


def test_tokens_that_end_are_replaced_before_azure_refuses_them(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "credential", lambda: ShortLived(story.arm))
    story.run()
    assert not any("Token" in one for one in story.arm.refused)
    assert story.left() == []


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
    group = story.group()
    assert story.told(f"LEFT BEHIND, and costs money: resource group {group} in subscription {SUBSCRIPTION}: no Azure")
    story.tokens.append("token-1")
    story.arm.seen = lambda _request, _status: None
    aks.down(story.options(), story.said.append)
    assert story.left() == []


# -- removals that do not go well


def test_what_is_left_behind_after_a_good_run_is_its_error_and_the_remedy_finds_it(story: Story) -> None:
    story.arm.refuse("DELETE", 409, "ScopeLocked", "The scope is locked.")
    with pytest.raises(
        TargetError, match=r"^LEFT BEHIND, and costs money: .*: ScopeLocked: The scope is locked.; re"
    ) as it:
        story.run()
    group = story.group()
    assert f"or `az group delete --subscription {SUBSCRIPTION} --name {group}`" in str(it.value)
    remedy = re.search(r"`nox -s down -- --target aks (.+?)`", str(it.value))
    assert remedy
    parser = argparse.ArgumentParser()
    aks.add_options(parser.add_argument_group("aks"))
    aks.down(parser.parse_args(shlex.split(remedy[1])), story.said.append)
    assert story.told(f"removed {group}, with all that was in it")
    assert story.left() == []


def test_a_group_that_is_locked_keeps_its_kubeconfig(story: Story) -> None:
    target = aks.up(story.options(), story.said.append)
    assert target.kubeconfig
    story.arm.refuse("DELETE", 409, "ScopeLocked", "The scope is locked.")
    with pytest.raises(TargetError, match=r"LEFT BEHIND.* hostprocess-\w+-westeurope .*: ScopeLocked: The scope is l"):
        aks.down(story.options(), story.said.append)
    assert target.kubeconfig.exists()


@pytest.mark.parametrize("late", [True, False])
def test_a_removal_in_the_middle_of_an_operation_is_asked_for_again(story: Story, *, late: bool) -> None:
    inner = {"code": "OperationNotAllowed", "message": "There is an in progress managed cluster operation."}
    if late:
        story.arm.fail_late("DELETE", "ResourceGroupDeletionBlocked", "Deletion of resource group failed", inner)
    else:
        story.arm.refuse("DELETE", 409, "Conflict", "An operation is in progress.")
    story.run()
    assert sum(one.startswith("DELETE") for one in story.arm.requests) == 2
    assert story.left() == []


def test_a_removal_that_fails_again_and_again_is_given_up_with_the_reason(story: Story) -> None:
    story.arm.fail_late("DELETE", "ResourceGroupDeletionBlocked", "Nic 'x' is in use", times=float("inf"))
    target = aks.up(story.options(), story.said.append)
    story.arm.polls = 50  # each time it takes Azure 50 × 20 seconds to find that out
    with pytest.raises(TargetError, match=r"LEFT BEHIND.*: ResourceGroupDeletionBlocked: Nic 'x' is in use; remove it"):
        aks.down(story.options(), story.said.append)
    assert sum(one.startswith("DELETE") for one in story.arm.requests) == 2
    assert target.kubeconfig
    assert target.kubeconfig.exists()


@pytest.mark.parametrize("answered", [True, False])
def test_a_removal_that_is_under_way_already_is_waited_for(story: Story, *, answered: bool) -> None:
    """
    Somebody deletes the group in the portal: before `down` looks at it, or just after that.
    """
    add_group(story.arm, "mine", "ada", 3)
    at = "DELETE" if answered else "GET"

    def portal(request: str) -> None:
        if request.startswith(at) and request.endswith("/mine") and not story.arm.groups["mine"].deletion:
            story.arm.groups["mine"].deletion = Operation(2, story.arm.groups.clear)

    story.arm.arrived = portal
    aks.down(story.options(), story.said.append)
    assert story.said[-1] == "removed mine, with all that was in it"
    assert [one for one in story.arm.refused if "ResourceGroupBeingDeleted" in one] == (
        [f"DELETE /subscriptions/{SUBSCRIPTION}/resourcegroups/mine: ResourceGroupBeingDeleted"] if answered else []
    )


def test_a_removal_that_never_ends(story: Story) -> None:
    story.arm.never_ending = "DELETE"
    add_group(story.arm, "mine", "ada", 3)
    with pytest.raises(TargetError, match=r"LEFT BEHIND.* mine .*: Azure is still at it after 30 min; remove it with"):
        aks.down(story.options(), story.said.append)
    assert story.told("removing mine: usually 10 min")
    assert story.told("removing mine: 29 min of usually 10")


def test_a_removal_that_azure_does_not_take_on(story: Story) -> None:
    """
    One of two groups; the other one does not have to wait for it.
    """
    story.arm.refuse("DELETE .*/stuck$", 429, "TooManyRequests", "…", 1, Retry_After="7200")
    add_group(story.arm, "stuck", "ada", 3)
    add_group(story.arm, "other", "ada", 3)
    pause = threading.Event()
    in_time = list[bool]()

    def hold(request: str) -> None:
        if request.startswith("DELETE") and request.endswith("stuck"):
            for _ in range(1000):
                if not story.told("removed other"):
                    pause.wait(0.01)
            in_time.append(story.told("removed other"))

    story.arm.arrived = hold
    with pytest.raises(TargetError, match=r"LEFT BEHIND.* stuck .*: Azure does not take it on after 30 min"):
        aks.down(story.options(), story.said.append)
    assert in_time == [True]
    assert set(story.arm.groups) == {"stuck"}


def test_a_failure_in_the_removal_itself_still_names_what_is_left(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("disk on fire")

    story.arm.refuse(CLUSTER, 400, "BadRequest", "…")
    story.arm.seen = lambda *_: monkeypatch.setattr(provisioning, "_removed", broken)
    with pytest.raises(TargetError, match="BadRequest"):
        story.run()
    assert story.told(
        f"LEFT BEHIND, and costs money: resource group {story.group()} in subscription {SUBSCRIPTION}: OSErr"
    )


def test_the_region_without_room_is_looked_at_once_more(story: Story) -> None:
    """
    Azure gave the removal of the first region's group up while the second one's cluster came up.
    """
    story.arm.refuse(CLUSTER, 400, "SkuNotAvailable", "not available")
    story.arm.fail_late("DELETE .*westeurope$", "Conflict", "An operation was in progress.")
    story.arm.polls = 1

    def give_up(request: str, _: int) -> None:
        for group in story.arm.groups.values():
            if "northeurope" in request and group.deletion:
                group.deletion.look()

    story.arm.seen = give_up
    aks.up(story.options(), story.said.append)
    assert [group.location for group in story.arm.groups.values()] == ["northeurope", "northeurope"]
    assert sum(one.startswith("DELETE") for one in story.arm.requests) == 2


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
    group = story.group()
    removal = story.arm.groups[group].deletion
    assert removal is not None
    assert story.said[-1].startswith(f"Azure is removing {group}; `nox -s down -- --target aks --aks-subscription ")
    removal.polls = 1
    aks.down(story.options(), story.said.append)
    assert story.left() == []


def test_ctrl_c_while_the_group_is_on_its_way_does_not_overtake_it(story: Story) -> None:
    """
    Azure gets the group's PUT, and only makes it when the user has pressed Ctrl-C: the removal comes after that.
    """
    overtaken = threading.Event()

    def interrupt(request: str) -> None:
        if request.startswith("PUT"):
            os.kill(os.getpid(), signal.SIGINT)
            overtaken.wait(0.5)

    def removing(request: str, _: int) -> None:
        if request.startswith("GET") and "/resourcegroups/" in request.lower():
            overtaken.set()

    story.arm.arrived, story.arm.seen = interrupt, removing
    with pytest.raises(KeyboardInterrupt):
        story.run()
    assert story.arm.changes()[-1].startswith("DELETE")


def test_a_second_ctrl_c_names_what_azure_has_not_taken_on(story: Story) -> None:
    def interrupt(request: str) -> None:
        if request.startswith("DELETE") or "managedClusters/hpc" in request:
            os.kill(os.getpid(), signal.SIGINT)

    story.arm.arrived = interrupt
    with pytest.raises(KeyboardInterrupt):
        story.run()
    assert story.said[-1].startswith(f"LEFT BEHIND, and costs money: resource group {story.group()} in subscription ")
    assert "interrupted before Azure said that it takes the removal on; remove it with `nox" in story.said[-1]


def test_ctrl_c_in_down_tells_what_is_under_way(story: Story) -> None:
    add_group(story.arm, "mine", "ada", 3)

    def interrupt(request: str, _: int) -> None:
        if "operationresults" in request:
            os.kill(os.getpid(), signal.SIGINT)

    story.arm.polls = 10**6
    story.arm.seen = interrupt
    with pytest.raises(KeyboardInterrupt):
        aks.down(story.options(), story.said.append)
    assert story.said[-1].startswith("Azure is removing mine; `nox -s down -- --target aks --aks-subscription ")
    assert not story.told("LEFT BEHIND")


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
from conformance._suite.cli.program import main
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


def up_killed_after(story: Story, step: int) -> subprocess.Popen[str]:
    """
    The ended program, killed before it had Azure's answer to this step, or through, when there are not so many. A step
    is a change, and the first look at each operation.
    """
    started = threading.Event()
    steps = itertools.count(1)
    looked = set[str]()

    def kill(request: str, status: int) -> None:
        first_look = "/operations/" in request and request not in looked
        looked.add(request)
        if (first_look or request.startswith(("PUT", "DELETE"))) and next(steps) == step:
            started.wait()
            process.kill()

    story.arm.seen = kill
    process = start(story, "up", "--aks-os-sku", "Windows2022", "--aks-os-sku", "Windows2025")
    started.set()
    process.communicate(timeout=60)
    story.arm.connections.wait_until_closed()
    story.arm.seen = lambda _request, _status: None
    return process


def test_killed_after_any_step_down_finds_and_removes_everything(story: Story) -> None:
    """
    SIGKILL after the first, the second, … step of an `up` whose first region has no room, until one is through without
    having been killed; each time `down`, without a file of the dead one, leaves nothing.
    """
    kills = 0
    while True:
        story.arm.faults.clear()
        story.arm.refuse("PUT .*westeurope/.*/hpc$", 400, "SkuNotAvailable", "not available")
        process = up_killed_after(story, kills + 1)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert story.arm.groups
        kills += 1
        aks.down(story.options(), story.said.append)
        assert story.left() == []
    # The first group, the cluster that is refused, the removal; then the group, the cluster, two pools and their ends.
    assert kills >= 3 + 1 + 3 * 2
    assert len(story.left()) == 4  # that one is up: its group, AKS's own, the kubeconfig and its folder


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
    environment["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
    process = start(story, "--out", str(tmp_path / "out"), environment=environment)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    document = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert document["claim"] == "success"
    assert "removed hostprocess-" in output
    assert story.left() == []
