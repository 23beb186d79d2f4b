"""
What a killed run left on a host is reaped once it has expired; whatever else is there is left alone.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from conformance._suite import workload
from infra.simulated.model.container import ContainerSpec
from infra.simulated.model.eras import ERAS
from infra.simulated.model.host import Host
from infra.simulated.model.network import Allowed

NOW = 490_000
EXPIRED, UNEXPIRED = f"{NOW - 1:05x}0abcde", f"{NOW:05x}123456"
LOOK_ALIKES = ("", "12345678", "zzzzz123456", EXPIRED.upper(), f"{EXPIRED}0", EXPIRED[1:], f"{EXPIRED}-old")
IMAGE = "mcr.microsoft.com/oss/kubernetes/windows-host-process-containers-base-image:v1.0.0"
SYSTEM = "NT AUTHORITY\\SYSTEM"


@pytest.fixture(params=ERAS)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(ERAS[request.param], "win-containerd-node-0", "10.240.0.4")


def reap(host: Host, *, user: str = SYSTEM, **env: str) -> dict[str, Any]:
    """
    The facts that a container with the probe prints.
    """
    env = {"REAP_BEFORE": str(NOW), "PROBE": workload.load("residue").probe_environment(), **env}
    spec = ContainerSpec(
        *("0123456789abcdef" * 4, "c", "p", "ns", "uid", host.image(IMAGE)),
        command=workload.bootstrap_command(),
        user=user,
        env=tuple(env.items()),
    )

    async def run() -> list[str]:
        container = host.create(spec)
        await container.start()
        assert await container.wait() == 0
        assert container.unmodelled == []
        container.remove()
        return [line.text for line in container.log.lines]

    (line,) = asyncio.run(run())
    facts: dict[str, Any] = json.loads(line.removeprefix("<<<observation ").removesuffix(" observation>>>"))
    return facts


def outcomes(facts: dict[str, Any], name: str) -> dict[str, str]:
    return {one["name"]: one["outcome"] for one in facts[name]}


def firewall(host: Host) -> list[str]:
    return [rule.name for rule in host.network.firewall]


def test_a_clean_host_stays_as_it_is(host: Host) -> None:
    assert reap(host) == {"groups": [], "users": [], "folders": [], "firewallRules": []}
    before = set(host.files.walk())
    reap(host)
    assert set(host.files.walk()) == before


def test_of_the_accounts_only_the_expired_ones_go(host: Host) -> None:
    names = {
        "groups": [f"hpc-{what}" for what in (*LOOK_ALIKES, "conformance", f"user-{EXPIRED}")],
        "users": [f"hpc-user-{what}" for what in LOOK_ALIKES] + [f"hpc-{EXPIRED}"],
    }
    # Windows has no two accounts of one name in different case.
    for group in (*names["groups"], f"hpc-{UNEXPIRED}"):
        host.accounts.add_group(group)
    for user in (*names["users"], f"hpc-user-{UNEXPIRED}"):
        host.accounts.add_user(user, "Secret1!")
    groups, users = set(host.accounts.groups), set(host.accounts.users)
    kept = reap(host)
    assert outcomes(kept, "groups") == {f"hpc-{UNEXPIRED}": "kept"}
    assert outcomes(kept, "users") == {f"hpc-user-{UNEXPIRED}": "kept"}

    assert outcomes(reap(host, REAP_BEFORE=str(NOW + 1)), "users") == {f"hpc-user-{UNEXPIRED}": "reaped"}
    assert set(host.accounts.groups) == groups - {f"hpc-{UNEXPIRED}"}
    assert set(host.accounts.users) == users - {f"hpc-user-{UNEXPIRED}"}


def test_of_the_rules_only_the_expired_ones_go(host: Host) -> None:
    others = [f"hpc-conformance-{what}" for what in LOOK_ALIKES[:3]] + [f"my hpc-conformance-{EXPIRED}"]
    for name in (*others, f"hpc-conformance-{EXPIRED}", f"hpc-conformance-{EXPIRED}", f"hpc-conformance-{UNEXPIRED}"):
        host.network.firewall.append(Allowed(name, "", 80))
    assert reap(host)["firewallRules"] == [
        {"name": f"hpc-conformance-{EXPIRED}", "outcome": "reaped"},
        {"name": f"hpc-conformance-{UNEXPIRED}", "outcome": "kept"},
    ]
    assert firewall(host) == [*others, f"hpc-conformance-{UNEXPIRED}"]


@pytest.mark.parametrize("top", ["C:\\hpc-conformance-", "C:\\hpc-conformance\\", "C:\\hpc-conformance-slashes\\"])
def test_of_the_folders_only_the_expired_ones_go(host: Host, top: str) -> None:
    for nonce in (EXPIRED, UNEXPIRED):
        host.files.write(rf"{top}{nonce}\marker", b"")
        host.files.write(rf"{top}{nonce}\config-map\..data\marker", b"")
    assert reap(host)["folders"] == [
        {"name": f"{top}{EXPIRED}", "outcome": "reaped"},
        {"name": f"{top}{UNEXPIRED}", "outcome": "kept"},
    ]
    assert not host.files.exists(f"{top}{EXPIRED}")
    assert host.files.exists(rf"{top}{UNEXPIRED}\config-map\..data\marker")


def test_what_is_not_ours_stays(host: Host) -> None:
    theirs = [rf"C:\hpc-conformance\{name}" for name in ("notes", *LOOK_ALIKES[1:3], f"notes\\{EXPIRED}")]
    theirs += [rf"C:\hpc-conformance-{name}" for name in ("backup", *LOOK_ALIKES[1:])]
    theirs += [rf"C:\hpc-{EXPIRED}", rf"C:\Users\hpc-conformance-{EXPIRED}", rf"C:\hpc-conformance-slashes-{EXPIRED}"]
    for folder in theirs:
        host.files.write(rf"{folder}\f", b"")
    host.files.write(rf"C:\hpc-conformance\{EXPIRED[:-1]}f", b"a file, no folder")
    before = set(host.files.walk())
    assert reap(host)["folders"] == []
    assert before <= set(host.files.walk())


def test_what_a_link_leads_to_survives(host: Host) -> None:
    ours = rf"C:\hpc-conformance\{EXPIRED}"
    host.files.write(r"C:\precious\folder\f", b"precious")
    host.files.make_directory(ours)
    host.files.link(rf"{ours}\secret", r"C:\precious\folder")
    host.files.link(rf"{ours}\marker", r"C:\precious\folder\f")
    host.files.link(rf"{ours}\projected", r"C:\no longer there")
    host.files.link(rf"C:\hpc-conformance-{EXPIRED}", r"C:\precious")
    assert outcomes(reap(host), "folders") == {
        rf"C:\hpc-conformance-{EXPIRED}": "reaped",
        ours: "reaped",
        r"C:\hpc-conformance": "reaped",
    }
    assert not host.files.is_link(rf"C:\hpc-conformance-{EXPIRED}")
    assert host.files.read(r"C:\precious\folder\f") == b"precious"


def test_a_parent_that_is_a_link_is_somebody_elses(host: Host) -> None:
    host.files.make_directory(rf"C:\elsewhere\{EXPIRED}")
    host.files.make_directory(r"C:\empty")
    host.files.link(r"C:\hpc-conformance", r"C:\elsewhere")
    host.files.link(r"C:\hpc-conformance-slashes", r"C:\empty")
    assert reap(host)["folders"] == []
    assert host.files.exists(rf"C:\elsewhere\{EXPIRED}")
    assert host.files.is_link(r"C:\hpc-conformance-slashes")


def test_parents_go_when_they_are_empty(host: Host) -> None:
    host.files.make_directory(rf"C:\hpc-conformance\{EXPIRED}")
    host.files.make_directory(rf"C:\hpc-conformance-slashes\{EXPIRED}")
    host.files.write(r"C:\hpc-conformance-slashes\notes.txt", b"")
    assert outcomes(reap(host), "folders") == {
        rf"C:\hpc-conformance\{EXPIRED}": "reaped",
        rf"C:\hpc-conformance-slashes\{EXPIRED}": "reaped",
        r"C:\hpc-conformance": "reaped",
    }
    assert not host.files.exists(r"C:\hpc-conformance")
    assert host.files.list(r"C:\hpc-conformance-slashes") == ["notes.txt"]


def test_what_cannot_be_taken_away_is_named_with_why(host: Host) -> None:
    host.accounts.add_group(f"hpc-{EXPIRED}")
    host.accounts.add_user(f"hpc-user-{EXPIRED}", "Secret1!")
    host.network.firewall.append(Allowed(f"hpc-conformance-{EXPIRED}", "", 80))
    facts = reap(host, user="NT AUTHORITY\\Local service")
    assert outcomes(facts, "groups") == {f"hpc-{EXPIRED}": "left: 2"}
    assert outcomes(facts, "users") == {f"hpc-user-{EXPIRED}": "left: 2"}
    assert outcomes(facts, "firewallRules") == {f"hpc-conformance-{EXPIRED}": "left: 1"}
    assert firewall(host) == [f"hpc-conformance-{EXPIRED}"]


def test_what_another_run_was_faster_to_take_away_is_gone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.accounts.add_group(f"hpc-{EXPIRED}")
    delete = host.accounts.delete_group

    def delete_too_late(name: str) -> None:
        delete(name)
        delete(name)

    monkeypatch.setattr(host.accounts, "delete_group", delete_too_late)
    assert outcomes(reap(host), "groups") == {f"hpc-{EXPIRED}": "reaped"}


def test_without_an_hour_nothing_is_taken_away(host: Host) -> None:
    host.accounts.add_group(f"hpc-{EXPIRED}")
    assert outcomes(reap(host, REAP_BEFORE="0"), "groups") == {f"hpc-{EXPIRED}": "kept"}


def test_the_pod_is_told_the_hour() -> None:
    residue = workload.load("residue")
    placeholders = {"nonce": EXPIRED, "image": IMAGE, "reap-before": str(NOW)}
    (pod,) = residue.manifests(residue.steps[0], placeholders)
    (container,) = pod["spec"]["containers"]
    assert container["env"] == [{"name": "REAP_BEFORE", "value": str(NOW)}]
    assert pod["spec"]["securityContext"]["windowsOptions"] == {"hostProcess": True, "runAsUserName": SYSTEM}


def test_a_local_users_name_is_as_long_as_windows_allows() -> None:
    accounts = workload.load("local-accounts")
    placeholders = {"nonce": EXPIRED, "image": IMAGE}
    (pod,) = accounts.manifests(accounts.steps[0], placeholders)
    names = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    assert len(names["LOCAL_USER"]) <= 20
