"""
--target aks before Azure is asked anything: what is refused, what would be made, and that the bodies are the API's.
"""

from __future__ import annotations

import argparse
import builtins
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import azure.identity.aio  # noqa: F401 - urllib3 tries IPv6 when it is imported, which no test here may do
import pytest
from azure.mgmt.containerservice import types

from conformance._suite.errors import UsageError
from infra import aks
from infra.aks import plan
from infra.aks.plan import Plan, expiry, pool_name
from tests.arm import IMAGES, SUBSCRIPTION, Refusal, require_known
from tests.conftest import ROOT

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
SNAPSHOT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.ContainerService/snapshots/s"


def options(*arguments: str) -> argparse.Namespace:
    """
    As a run gets them; of two subscriptions or owners the last one counts.
    """
    parser = argparse.ArgumentParser()
    aks.add_options(parser.add_argument_group("aks"))
    parser.add_argument("--os-sku", action="append", default=[])
    parser.add_argument("--expect-kubernetes")
    return parser.parse_args(["--aks-subscription", SUBSCRIPTION, "--aks-owner", "ada", *arguments])


def anonymous(*arguments: str) -> argparse.Namespace:
    """
    Neither subscription nor owner is named.
    """
    given = options(*arguments)
    given.aks_subscription = given.aks_owner = None
    return given


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--aks-subscription", "mine"], "--aks-subscription 'mine' cannot be read"),
        (["--aks-os-sku", "Windows2023"], "unknown --aks-os-sku 'Windows2023' — known are Windows20"),
        (["--aks-os-sku", "Ubuntu"], "unknown --aks-os-sku 'Ubuntu' — known are Windows2019, Windows2022, Windows2025"),
        (["--aks-region", "west/europe"], "--aks-region 'west/europe' cannot be read"),
        (["--aks-kubernetes", "latest"], "--aks-kubernetes 'latest' cannot be read — as 1.34 or 1.34.2"),
        (["--aks-windows-vm-size", "big"], "--aks-windows-vm-size 'big' cannot be read — as Standard_D4s_v5"),
        (["--aks-node-count", "0"], "--aks-node-count 0 is out of range — 1 to 100"),
        (["--aks-node-image-version", "2025"], "--aks-node-image-version '2025' cannot be read — as in the pool's"),
        (["--aks-snapshot", "mine"], "--aks-snapshot 'mine' is not the id of a snapshot"),
        (["--aks-snapshot", SNAPSHOT.replace("1111", "9999")], "is in another subscription"),
        (["--aks-owner", "a" * 257], "--aks-owner is too long: 257 characters — at most 256"),
        (["--aks-ttl-hours", "1"], "--aks-ttl-hours 1 is not more than the 60 minutes"),
        (["--aks-ttl-hours", "nan"], "--aks-ttl-hours nan is out of range"),
        (["--aks-cap-minutes", "1"], "--aks-cap-minutes 1 is out of range"),
        *(
            (["--aks-endpoint", url], "--aks-endpoint is not an https address — as https://management.china")
            for url in (
                "http://127.0.0.1:1",
                "https://[::1",
                "https://a:99999",
                "https://a?b=c",
                "https://a/b",
                "https://a b",
                "https://user@a",
                "",
            )
        ),
        # Of a variable that is not set.
        *(
            ([flag, ""], f"{flag} '' cannot be read")
            for flag in (
                "--aks-subscription",
                "--aks-region",
                "--aks-kubernetes",
                "--aks-linux-vm-size",
                "--aks-windows-vm-size",
                "--aks-node-image-version",
            )
        ),
        (["--aks-owner", ""], "--aks-owner '' is not a name"),
        (["--aks-owner", "a\nb"], "--aks-owner 'a\\nb' is not a name"),
        (["--aks-tag", "team"], "--aks-tag 'team' cannot be a tag — as costcentre=1234"),
        (["--aks-tag", "a/b=c"], "--aks-tag 'a/b=c' cannot be a tag"),
        (["--aks-tag", "hostprocess-conformance-owner=bob"], "conformance-owner=bob' cannot be a tag"),
        (["--aks-tag", f"a={'b' * 257}"], "cannot be a tag"),
        (["--aks-node-image-version", IMAGES["Windows2022"]], "does not fit the Windows pools Windows2025"),
        (
            [
                "--aks-os-sku",
                "Windows2022",
                "--aks-os-sku",
                "Windows2025",
                "--aks-node-image-version",
                IMAGES["Windows2022"],
            ],
            "does not fit the Windows pools Windows2022, Windows2025 — name one for each pool, of its OS",
        ),
        (
            [
                "--aks-snapshot",
                SNAPSHOT,
                "--aks-os-sku",
                "Windows2022",
                "--aks-node-image-version",
                IMAGES["Windows2022"],
            ],
            "does not fit the Windows pools Windows2022, s",
        ),
        (
            ["--os-sku", "Windows2022"],
            "--os-sku Windows2022 leaves nothing to test: the pools are Windows2025 — --aks-os",
        ),
        (
            ["--expect-kubernetes", "1.33", "--aks-kubernetes", "1.34.2"],
            "1.33 cannot be met by --aks-kubernetes 1.34.2",
        ),
        (["--aks-ca-file", "/nowhere"], "--aks-ca-file /nowhere is not there"),
    ],
)
def test_bad_input_is_one_line_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    with pytest.raises(UsageError) as raised:
        aks.validate(options(*arguments))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--os-sku", "windows2025", "--os-sku", "Windows2019"],
        ["--os-sku", "Windows2019", "--aks-snapshot", SNAPSHOT],
        ["--expect-kubernetes", "1.34", "--aks-kubernetes", "1.34.2"],
        ["--expect-kubernetes", "v1.34.2", "--aks-kubernetes", "1.34"],
        ["--expect-kubernetes", "1.34"],
        ["--aks-node-image-version", IMAGES["Windows2025"]],
        ["--aks-endpoint", "https://management.chinacloudapi.cn/"],
    ],
)
def test_what_fits_is_taken(arguments: list[str]) -> None:
    aks.validate(options(*arguments))


@pytest.mark.parametrize(
    ("variable", "user"), [("CI", "ada"), ("TF_BUILD", "ada"), ("PROW_JOB_ID", "ada"), ("", "root")]
)
def test_where_jobs_share_a_user_name_the_owner_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, user: str
) -> None:
    for name in plan.CI:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION)
    monkeypatch.setenv("LOGNAME", "ada")
    assert Plan.of(anonymous()).owner == "ada"
    monkeypatch.setenv("LOGNAME", user)
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(
        UsageError, match=f"user name {user} may be that of other jobs too.*this job alone with --aks-ow"
    ):
        aks.validate(anonymous())


def test_no_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    with pytest.raises(
        UsageError, match="needs an Azure subscription — name it with --aks-subscription or AZURE_SUBSC"
    ):
        aks.validate(anonymous())


def test_the_subscription_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION.replace("1", "7"))
    given = options()
    given.aks_subscription = None
    assert Plan.of(given).subscription.startswith("77777777")


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("azure.identity", "azure.mgmt"))]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("azure"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(UsageError, match=r"`pip install -e '\.\[aks\]'` in the checkout"):
        aks.validate(options())


def test_importing_the_target_imports_no_azure() -> None:
    code = "import infra.aks, sys; sys.exit(any(name.startswith('azure') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_dry_run_tells_all_that_would_be_made() -> None:
    told = aks.describe(
        options("--aks-region", "West Europe", "--aks-region", "northeurope", "--aks-os-sku", "Windows2022",
                "--aks-os-sku", "windows2025", "--aks-node-count", "2", "--aks-kubernetes", "1.34",
                "--aks-node-image-version", "AKSWindows-2022-containerd-20348.1.1",
                "--aks-node-image-version", "AKSWindows-2025-containerd-26100.1.1", "--aks-tag", "team=hosts")
    )  # fmt: skip
    for part in (
        "resource group   hostprocess-<id>-westeurope, in westeurope; when Azure has no room there: in northeurope",
        "hostprocess-conformance=aks, hostprocess-conformance-owner=ada, hostprocess-conformance-run=<id>",
        "  team=hosts,",
        "usually takes 40 to 45 minutes; after 60, all regions together, it is given up",
        "Kubernetes 1.34",
        "Linux, 1 × Standard_D2s_v5",
        "w2022 (Windows2022): 2 × Standard_D4s_v5",
        "w2025 (Windows2025): 2 × Standard_D4s_v5",
        "node image must be AKSWindows-2022-containerd-20348.1.1",
        "MC_hostprocess-<id>-westeurope_hpc_westeurope",
        "4 × Windows VM Standard_D4s_v5",
        "5 OS disks",
    ):
        assert part in told, part


def test_a_dry_run_from_a_snapshot_makes_that_pool_alone() -> None:
    told = aks.describe(options("--aks-snapshot", SNAPSHOT))
    assert f"Windows pool   one from {SNAPSHOT}: 1 × the snapshot's own VM size" in told
    assert "w2025" not in told


def test_a_dry_run_with_both_kinds_of_pool_gives_each_its_own_size() -> None:
    told = aks.describe(options("--aks-snapshot", SNAPSHOT, "--aks-os-sku", "Windows2022"))
    assert "w2022 (Windows2022): 1 × Standard_D4s_v5" in told
    assert f"one from {SNAPSHOT}: 1 × the snapshot's own VM size" in told
    assert "2 × Windows VM Standard_D4s_v5 and the snapshot's own VM size" in told


def test_names_fit_azures_limits() -> None:
    plan = Plan.of(options())
    longest = "southeastasiastage2"
    assert len(f"MC_{plan.group(longest)}_hpc_{longest}") <= 80
    assert {pool_name(sku) for sku in ("Windows2019", "Windows2022", "Windows2025")} == {"w2019", "w2022", "w2025"}
    assert len(pool_name("WindowsAnnual")) == 6


def test_the_tags_carry_the_expiry_in_utc() -> None:
    tags = Plan.of(options("--aks-ttl-hours", "6")).tags(NOW)
    assert tags["hostprocess-conformance-created"] == "2026-11-24T02:00:00Z"
    assert tags["hostprocess-conformance-expires"] == "2026-11-24T08:00:00Z"
    assert expiry(tags) == datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
    assert expiry({"hostprocess-conformance-expires": "soon"}) is None


def test_the_pool_of_a_snapshot() -> None:
    snapshot = {
        "id": SNAPSHOT,
        "properties": {"kubernetesVersion": "1.34.1", "vmSize": "Standard_D8s_v5", "enableFIPS": True},
    }
    wanted = Plan.of(options("--aks-snapshot", SNAPSHOT)).pool_body("Windows2022", snapshot)["properties"]
    assert wanted["creationData"] == {"sourceResourceId": SNAPSHOT}
    assert wanted["orchestratorVersion"] == "1.34.1"
    assert wanted["vmSize"] == "Standard_D8s_v5"
    assert wanted["enableFIPS"] is True


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({"properties": {"osSku": "Windows2022"}}, types.AgentPool, "unknown field osSku"),
        ({"properties": {"agentPoolProfiles": [{"size": 1}]}}, types.ManagedCluster, "unknown field size"),
        (
            {"properties": {"autoUpgradeProfile": {"upgradeChannel": "never"}}},
            types.ManagedCluster,
            "cannot be 'never'",
        ),
        ({"sku": {"name": "Base", "tier": "free"}}, types.ManagedCluster, "tier cannot be 'free'"),
    ],
)
def test_the_loopback_azure_refuses_what_the_sdk_does_not_know(body: dict[str, Any], kind: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        require_known(body, kind)
