"""
--target aks before Azure is asked anything: what is refused, what would be made, and that the bodies are the API's.
"""

from __future__ import annotations

import argparse
import builtins
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import azure.identity.aio  # noqa: F401 - urllib3 tries IPv6 when it is imported, which no test here may do
import pytest
from azure.mgmt.containerservice import types

from conformance._suite.model import UsageError
from infra import aks
from infra.aks.plan import Plan, expiry, pool_name
from tests.arm import SUBSCRIPTION
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
SNAPSHOT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.ContainerService/snapshots/s"


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    aks.add_options(parser.add_argument_group("aks"))
    return parser.parse_args(["--aks-subscription", SUBSCRIPTION, "--aks-owner", "ada", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--aks-subscription", "mine"], "--aks-subscription 'mine' cannot be read"),
        (["--aks-subscription", ""], "needs an Azure subscription — name it with --aks-subscription or AZURE_SUB"),
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
        (["--aks-endpoint", "http://127.0.0.1:1"], "--aks-endpoint is not an https address"),
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


def test_the_subscription_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION.replace("1", "7"))
    assert Plan.of(options("--aks-subscription", "")).subscription.startswith("77777777")


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
    with pytest.raises(UsageError, match=r"pip install 'hostprocess-conformance\[aks\]'"):
        aks.validate(options())


def test_importing_the_target_imports_no_azure() -> None:
    code = "import infra.aks, sys; sys.exit(any(name.startswith('azure') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_dry_run_tells_all_that_would_be_made() -> None:
    told = aks.describe(
        options("--aks-region", "West Europe", "--aks-region", "northeurope", "--aks-os-sku", "Windows2022",
                "--aks-os-sku", "windows2025", "--aks-node-count", "2", "--aks-kubernetes", "1.34",
                "--aks-node-image-version", "AKSWindows-2022-containerd-20348.1.1")
    )  # fmt: skip
    for part in (
        "resource group   hostprocess-<id>-westeurope, in westeurope; when Azure has no room there: in northeurope",
        "hostprocess-conformance=aks, hostprocess-conformance-owner=ada, hostprocess-conformance-run=<id>",
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


def _known(body: Mapping[str, Any], kind: Any, path: str) -> None:
    """
    Every name in the body is one that the SDK's own type for it has.
    """
    for name, value in body.items():
        assert name in kind.__annotations__, f"{path}.{name} is no property of {kind.__name__}"
        words = re.findall(r"\w+", str(kind.__annotations__[name]))
        inner = [getattr(types, word) for word in words if hasattr(getattr(types, word, None), "__required_keys__")]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and inner:
                _known(item, inner[0], f"{path}.{name}")


def test_the_bodies_hold_only_what_the_sdk_knows() -> None:
    plan = Plan.of(options("--aks-kubernetes", "1.34", "--aks-snapshot", SNAPSHOT))
    snapshot = {"id": SNAPSHOT, "properties": {"kubernetesVersion": "1.34.1", "vmSize": "Standard_D8s_v5"}}
    pool = plan.pool_body("Windows2022", snapshot)
    assert pool["properties"]["creationData"] == {"sourceResourceId": SNAPSHOT}
    assert pool["properties"]["vmSize"] == "Standard_D8s_v5"
    _known(pool, types.AgentPool, "pool")
    _known(plan.cluster_body("westeurope", plan.tags(NOW)), types.ManagedCluster, "cluster")
    with pytest.raises(AssertionError, match=r"pool\.properties.osSku is no property"):
        _known({"properties": {"osSku": "Windows2022"}}, types.AgentPool, "pool")
    with pytest.raises(AssertionError, match=r"cluster\.properties\.agentPoolProfiles.size is no property"):
        _known({"properties": {"agentPoolProfiles": [{"size": 1}]}}, types.ManagedCluster, "cluster")


def test_no_password_is_asked_for_or_sent() -> None:
    assert "windowsProfile" not in Plan.of(options()).cluster_body("westeurope", {})["properties"]
    assert "assword" not in (Path(aks.__file__).parent / "plan.py").read_text().replace("random password", "")
