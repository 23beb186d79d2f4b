"""
Checks of accounts and of memory, given what no simulated node shows: what proves nothing must not pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance import Containerd, Kubernetes, Observation, Scope, Unknown
from conformance._suite import catalogue
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.observation import Evidence
from conformance.accounts.log_ons import whoami
from conformance.accounts.test_local_group import test_a_group_can_be_made_in_a_container as group_is_made
from conformance.accounts.test_local_group import (
    test_a_group_gets_a_new_account_that_is_its_member as group_gets_an_account,
)
from conformance.accounts.test_local_group import test_the_account_is_gone_with_its_pod as account_is_gone
from conformance.accounts.test_refused_users import test_a_user_that_does_not_exist_is_refused as unknown_user
from conformance.accounts.test_refused_users import test_no_user_at_all_is_refused as no_user
from conformance.resources.test_cpu_limit import test_the_cpu_limit_is_the_jobs as cpu_limit
from conformance.resources.test_memory_limit import test_one_process_is_stopped_at_the_limit as one_process
from conformance.resources.test_memory_limit import test_parent_and_child_are_stopped_together as parent_and_child
from conformance.storage.test_sandbox_mount_point import test_the_volume_is_where_the_runtime_puts_it as location
from conformance.storage.test_volumes import KINDS
from conformance.storage.test_volumes import test_volumes_are_at_their_relative_paths as relative_paths

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINE = "S-1-5-21-1-2-3"
PREFIX = 'failed to start containerd task "0123": failed to create user process token: '
DENIED = PREFIX + "failed to logon user: Access is denied.: unknown"
GERMAN = PREFIX + "failed to log on user: Der Benutzername oder das Kennwort ist falsch.: unknown"
INCORRECT = PREFIX + "failed to logon user: The user name or password is incorrect.: unknown"


def step(name: str, containers: dict[str, Any], memory: str = "512Mi") -> dict[str, Any]:
    """
    A completed step: each container with the facts that its probe printed, or with the text it was refused with;
    ``memory`` is the limit that all of them were sent with.
    """
    statuses, printed = [], {}
    for container, seen in containers.items():
        refused = isinstance(seen, str)
        ended = {"reason": "StartError", "message": seen} if refused else {"reason": "Completed"}
        statuses.append({"name": container, "state": {"terminated": ended}})
        printed[container] = None if refused else seen
    pod = {"status": {"containerStatuses": statuses}}
    limits = {"limits": {"memory": memory, "cpu": "700m"}}
    sent = [{"kind": "Pod", "spec": {"containers": [{"name": name, "resources": limits} for name in containers]}}]
    return {"name": name, "met": True, "trouble": None, "sent": sent, "kubernetes": {"pod": pod}, "probe": printed}


def observed(**workloads: list[dict[str, Any]]) -> Observation:
    evidence = {
        name.replace("_", "-"): Evidence({"workload": name, "steps": steps}) for name, steps in workloads.items()
    }
    return Observation(evidence, ClusterFacts("simulated", "v1.37.2", simulated=True))


def verdict(judge: Callable[[Observation], object], observation: Observation) -> str:
    """
    ``green``, ``red``, or the code of what is unknown.
    """
    try:
        judge(observation)
    except AssertionError:
        return "red"
    except Unknown as unknown:
        return unknown.code
    return "green"


NOT_LOOKED = {"error": "QueryInformationJobObject failed", "type": "System.Management.Automation.RuntimeException"}


def in_bytes(peak: object) -> object:
    return peak * 1024 * 1024 if isinstance(peak, int) else peak


def test_every_requirement_of_these_areas_says_since_when_it_holds() -> None:
    for requirement in catalogue.load().requirements.values():
        if requirement.area in {"accounts", "resources"}:
            assert requirement.since[0] in {Containerd("1.6"), Containerd("1.7.0-alpha.1")}, requirement.id
        if requirement.scope is Scope.CLUSTER:
            assert requirement.since == [Kubernetes("1.23")], requirement.id


@pytest.mark.parametrize(
    ("unknown", "system", "service", "expected"),
    [
        (INCORRECT, {"sid": "S-1-5-18"}, {"sid": "S-1-5-19"}, "green"),
        (INCORRECT, {"sid": "S-1-5-18"}, INCORRECT, "green"),
        (INCORRECT, DENIED, DENIED, "nobody-logs-on"),
        (DENIED, DENIED, DENIED, "nobody-logs-on"),
        (DENIED, DENIED.replace("0123", "4567"), DENIED, "nobody-logs-on"),
        (PREFIX + "invalid user string `x`", {"sid": "S-1-5-18"}, {"sid": "S-1-5-19"}, "green"),
        ("could not log on user x: 0x52e", {"sid": "S-1-5-18"}, {"sid": "S-1-5-19"}, "green"),
        (PREFIX + "failed to logon user: 0x5aa", {"sid": "S-1-5-18"}, {"sid": "S-1-5-19"}, "runtime-trouble"),
        ("no such file", {"sid": "S-1-5-18"}, {"sid": "S-1-5-19"}, "not-started"),
        (INCORRECT, "no such file", "no such file", "not-started"),
        ({"name": "x", "sid": "S-1-5-18"}, DENIED, DENIED, "red"),
    ],
)
def test_an_unknown_user(unknown: object, system: object, service: object, expected: str) -> None:
    accounts = {"local-system": system, "local-service": service, "network-service": service}
    seen = observed(refused_accounts=[step("log-on", {"unknown": unknown})], system_accounts=[step("log-on", accounts)])
    assert verdict(unknown_user, seen) == expected


@pytest.mark.parametrize(
    ("none", "expected"),
    [
        (PREFIX + "empty username or group name passed: unknown", "green"),
        (PREFIX + "empty user string passed: unknown", "green"),
        (PREFIX + "no username was given: unknown", "green"),
        (INCORRECT, "image-names-user"),
        (GERMAN, "image-names-user"),
        ("no such file", "not-started"),
        ({"name": "x", "sid": "S-1-5-18"}, "red"),
    ],
)
def test_no_user(none: object, expected: str) -> None:
    containers = {"none": none, "unknown": GERMAN}
    assert verdict(no_user, observed(refused_accounts=[step("log-on", containers)])) == expected


OWN, ADMINISTRATOR, GROUP, MADE, OTHER = (f"{MACHINE}-{rid}" for rid in (1005, 500, 1001, 1002, 1000))
RIGHTS = {"allowed": ["S-1-5-32-544", "S-1-5-32-545"], "denied": ["S-1-5-32-546"]}
NOT_GRANTED = PREFIX + "failed to logon user: Logon failure: the user has not been granted the requested logon type: x"
TOO_SHORT = PREFIX + "failed to create local account: The password does not meet the password policy requirements.: x"
RESOURCES = PREFIX + "failed to logon user: Insufficient system resources exist to complete the requested service.: x"


def local_accounts(member: object, left: Any, **prepared: Any) -> Observation:
    """
    What ``local-accounts`` shows of a group's container, and the users that are listed afterwards.
    """
    facts = {
        "sid": "S-1-5-18",
        "logOnRights": RIGHTS,
        "localUsers": [ADMINISTRATOR],
        "group": {"sid": GROUP, "exitCode": 0, "number": None},
        "user": {"sid": MADE},
        **prepared,
    }
    return observed(
        local_accounts=[
            step("prepare", {"prepare": facts}),
            step("members", {"member": member}),
            step("after", {"after": {"localUsers": left}}),
        ]
    )


MEMBER = {"sid": OWN, "groups": [GROUP]}
LEFT = [ADMINISTRATOR, MADE]


@pytest.mark.parametrize(
    ("member", "left", "account", "gone"),
    [
        (MEMBER, LEFT, "green", "green"),
        (MEMBER, [*LEFT, OWN], "green", "red"),
        # A list that lacks somebody says nothing about somebody else.
        (MEMBER, [], "green", "users-not-whole"),
        (MEMBER, {}, "green", "users-not-whole"),
        (MEMBER, "x", "green", "users-not-whole"),
        (MEMBER, [MADE], "green", "users-not-whole"),
        (MEMBER, [ADMINISTRATOR], "green", "users-not-whole"),
        (MEMBER, [ADMINISTRATOR, OTHER], "green", "users-not-whole"),
        ({"sid": ADMINISTRATOR, "groups": [GROUP]}, LEFT, "red", "no-account-made"),
        ({"sid": "S-1-5-18", "groups": [GROUP]}, LEFT, "red", "no-account-made"),
        ({"sid": "S-1-5-21-4-5-6-1005", "groups": [GROUP]}, LEFT, "red", "no-account-made"),
        # What cannot be null.
        ({"sid": None, "groups": [GROUP]}, LEFT, "fact-unknown", "fact-unknown"),
        *(({"sid": OWN, "groups": groups}, LEFT, "fact-unknown", "green") for groups in ([None], [], None)),
        (INCORRECT, LEFT, "red", "no-account-made"),
        (NOT_GRANTED, LEFT, "account-policy", "account-policy"),
        (TOO_SHORT, LEFT, "account-policy", "account-policy"),
        (RESOURCES, LEFT, "runtime-trouble", "runtime-trouble"),
        (GERMAN, LEFT, "log-on-failed", "log-on-failed"),
    ],
)
def test_the_account_of_a_group(member: object, left: object, account: str, gone: str) -> None:
    seen = local_accounts(member, left)
    assert (verdict(group_gets_an_account, seen), verdict(account_is_gone, seen)) == (account, gone)


def test_accounts_of_other_pods_come_and_go() -> None:
    """
    The suite's own user tells that the list is whole; where none could be made, everybody who was there before does.
    """
    for user, gone in ({"sid": MADE}, "green"), ({"sid": None}, "users-not-whole"):
        seen = local_accounts(MEMBER, LEFT, localUsers=[ADMINISTRATOR, OTHER], user=user)
        assert verdict(account_is_gone, seen) == gone


def test_a_list_of_users_before_that_is_not_whole_proves_nothing() -> None:
    seen = local_accounts(MEMBER, LEFT, localUsers=[])
    assert {verdict(check, seen) for check in (group_gets_an_account, account_is_gone)} == {"users-not-whole"}


@pytest.mark.parametrize(
    ("allowed", "denied", "expected"),
    [
        (["S-1-5-32-544"], [], "logon-right-missing"),
        ([], [], "logon-right-missing"),
        *(([sid], [], "red") for sid in ("S-1-1-0", "S-1-5-11", "S-1-5-4", "S-1-5-32-545", GROUP)),
        *((["S-1-5-32-545"], [sid], "logon-right-missing") for sid in ("S-1-5-113", "S-1-1-0", GROUP)),
        (["S-1-5-32-545"], ["S-1-5-32-546", "S-1-5-114"], "red"),
    ],
)
def test_a_log_on_that_the_nodes_policy_forbids(allowed: list[str], denied: list[str], expected: str) -> None:
    seen = local_accounts(INCORRECT, LEFT, logOnRights={"allowed": allowed, "denied": denied})
    assert verdict(group_gets_an_account, seen) == expected
    unread = local_accounts(INCORRECT, LEFT, logOnRights={"error": "secedit.exe ended with 1"})
    assert verdict(group_gets_an_account, unread) == "fact-unknown"
    assert verdict(group_gets_an_account, local_accounts(MEMBER, LEFT, logOnRights={"error": "x"})) == "green"


@pytest.mark.parametrize(
    ("account", "exit_code", "number", "sid", "expected"),
    [
        ("S-1-5-18", 0, None, GROUP, "green"),
        ("S-1-5-18", 0, None, None, "red"),
        ("S-1-5-18", 2, 5, None, "red"),
        ("S-1-5-18", 2, 1314, None, "red"),
        # There already, no memory, a full disk, a shutdown, no service, and what nobody has thought of.
        *(
            ("S-1-5-18", 2, number, None, "group-not-made")
            for number in (1379, 1450, 112, 1115, 1726, 2138, 2114, 9999)
        ),
        *(("S-1-5-18", code, None, None, "group-not-made") for code in (1, 2, -1073741502, 0xC0000142, None)),
        ("S-1-5-19", 2, 5, None, "not-system"),
        (None, 2, 5, None, "fact-unknown"),
    ],
)
def test_a_group_made_in_a_container(
    account: str | None, exit_code: int | None, number: int | None, sid: str | None, expected: str
) -> None:
    group = {"exitCode": exit_code, "number": number, "sid": sid}
    assert verdict(group_is_made, local_accounts(MEMBER, LEFT, sid=account, group=group)) == expected


WHOAMI = """<<<trouble language-mode: ConstrainedLanguage trouble>>>
"win-1\\0123","S-1-5-21-1-2-3-1005"

"Everyone","Well-known group","S-1-1-0","Mandatory group, Enabled by default, Enabled group"
"WIN-1\\hpc-1","Alias","S-1-5-21-1-2-3-1001","Mandatory group, Enabled by default, Enabled group"
<<<whoami ended>>>
"""


def test_where_no_script_may_run_whoami_says_who_ran() -> None:
    assert whoami(WHOAMI) == {"sid": OWN, "groups": ["S-1-1-0", GROUP], "unclear": []}
    seen = local_accounts(None, LEFT)
    members = seen.step("members").data
    members["kubernetes"]["logs"] = {"member": WHOAMI}
    members["kubernetes"]["pod"]["status"]["containerStatuses"][0]["state"]["terminated"] = {"reason": "Error"}
    members["probeTrouble"] = {"member": {"code": "language-mode", "message": "ConstrainedLanguage"}}  # type: ignore[index]
    assert (verdict(group_gets_an_account, seen), verdict(account_is_gone, seen)) == ("green", "green")
    german = WHOAMI.replace("Mandatory group, Enabled by default, Enabled group", "Verbindliche Gruppe, Aktiviert")
    denies = WHOAMI.replace(
        '1001","Mandatory group, Enabled by default, Enabled group', '1001","Group used for deny only'
    )
    nobody = WHOAMI.replace("S-1-1-0", "S-1-5-11")
    without = "".join(line for line in WHOAMI.splitlines(keepends=True) if GROUP not in line)
    for said, account in (german, "green"), (denies, "group-unclear"), (nobody, "group-unclear"), (without, "red"):
        members["kubernetes"]["logs"] = {"member": said}
        assert (verdict(group_gets_an_account, seen), verdict(account_is_gone, seen)) == (account, "green"), said
    for cut in (-2, -40, 170, 100, 60):
        assert whoami(WHOAMI[:cut]) is None, WHOAMI[:cut]
        members["kubernetes"]["logs"] = {"member": WHOAMI[:cut]}
        assert verdict(group_gets_an_account, seen) == "language-mode"


@pytest.mark.parametrize(
    ("mebibytes", "outcome", "peak", "expected"),
    [
        (768, "complete", 850, "red"),
        (768, "complete", NOT_LOOKED, "red"),
        (512, "refused", 512, "red"),
        (496, "refused", 511, "green"),
        (256, "refused", 480, "green"),
        (416, "refused", 479, "other-limit"),
        # The node itself has no more memory.
        (300, "refused", 390, "other-limit"),
        (0, "refused", 80, "other-limit"),
        # The job is above its limit: whatever refused, the job's did not.
        (416, "refused", 513, "other-limit"),
        (416, "refused", NOT_LOOKED, "fact-unknown"),
    ],
)
def test_where_one_process_is_refused(mebibytes: int, outcome: str, peak: object, expected: str) -> None:
    allocation = {"mebibytes": mebibytes, "outcome": outcome, "peakJobMemoryUsed": in_bytes(peak)}
    assert (
        verdict(one_process, observed(job_limits=[step("limits", {"alone": {"allocation": allocation}})])) == expected
    )


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ((208, "complete", 300), (336, "complete", 700), "red"),
        ((208, "complete", 300), (336, "complete", NOT_LOOKED), "red"),
        ((208, "complete", 300), (304, "refused", 512), "red"),
        ((208, "complete", 300), (144, "refused", 512), "green"),
        # Two PowerShells of 140 MiB leave nothing for the child.
        ((208, "complete", 360), (0, "refused", 500), "green"),
        ((208, "complete", 300), (64, "refused", 440), "other-limit"),
        ((208, "complete", 300), (256, "refused", 640), "red"),
        ((208, "complete", 300), (144, "refused", NOT_LOOKED), "fact-unknown"),
        ((192, "refused", 500), (0, "refused", 500), "parent-refused"),
    ],
)
def test_where_a_child_is_refused(
    parent: tuple[int, str, object], child: tuple[int, str, object], expected: str
) -> None:
    parent, child = ((*one[:2], in_bytes(one[2])) for one in (parent, child))
    keys = ("mebibytes", "outcome", "peakJobMemoryUsed")
    family = {"allocation": dict(zip(keys, parent, strict=True)), "child": dict(zip(keys, child, strict=True))}
    assert verdict(parent_and_child, observed(job_limits=[step("limits", {"family": family})])) == expected


@pytest.mark.parametrize(
    ("memory", "mebibytes", "expected"),
    [("1024Mi", 600, "green"), ("1024Mi", 400, "other-limit"), ("256Mi", 496, "red"), ("1Gi", 600, "no-limit-sent")],
)
def test_the_limit_is_the_one_that_the_pod_was_sent_with(memory: str, mebibytes: int, expected: str) -> None:
    allocation = {"mebibytes": mebibytes, "outcome": "refused", "peakJobMemoryUsed": in_bytes(mebibytes + 400)}
    seen = observed(job_limits=[step("limits", {"alone": {"allocation": allocation}}, memory)])
    assert verdict(one_process, seen) == expected


@pytest.mark.parametrize(
    ("flags", "rate", "processors", "expected"),
    [(0x5, 1750, 4, "green"), (0x5, 7000, 1, "green"), (0x5, 875, 4, "red"), (0x1, 1750, 4, "red"), (0, 0, 4, "red")],
)
def test_a_cpu_limit(flags: int, rate: int, processors: int, expected: str) -> None:
    node = NodeFacts("n", "u", "10.0.0.4", "n", "containerd://1.7.34", "v1.37.2", "Windows", "10.0.1", processors)
    found = observed(job_limits=[step("limits", {"cpu": {"cpu": {"controlFlags": flags, "cpuRate": rate}}})])
    assert verdict(cpu_limit, replace(found, node_facts=node)) == expected


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        (dict.fromkeys(KINDS, "x"), "green"),
        ({}, "kinds-missing"),
        (dict.fromkeys(KINDS[1:], "x"), "kinds-missing"),
        ({**dict.fromkeys(KINDS, "x"), "secret": ""}, "kinds-missing"),
    ],
)
def test_volumes_of_fewer_kinds_prove_nothing_about_every_kind(put: dict[str, str], expected: str) -> None:
    read = step("read", {"writer": {"written": True}, "reader": {"relativePath": put}})
    seen = Observation(
        {"volumes": Evidence({"workload": "volumes", "steps": [read], "parameters": {"markers": put}})},
        ClusterFacts("simulated", "v1.37.2", simulated=True),
    )
    assert verdict(relative_paths, seen) == expected


@pytest.mark.parametrize(
    ("said", "seen", "expected"),
    [
        ("containerd-shim-runhcs-v1 version 0.9.12", "C:\\C\\abc\\", "green"),
        ("containerd-shim-runhcs-v1 version 0.9.12", "C:\\hpc\\", "red"),
        ("containerd-shim-runhcs-v1 version 0.11.7", "C:\\hpc\\", "green"),
        ("containerd-shim-runhcs-v1 version \ncommit: 0\nspec: 1.0.2", "C:\\hpc\\", "green"),
        ({"error": "no such file"}, "C:\\hpc\\", "green"),
        ({"error": "no such file"}, "C:\\x\\", "red"),
    ],
)
def test_1_6_may_come_with_a_later_shim_than_its_own(said: object, seen: str, expected: str) -> None:
    read = step("read", {"reader": {"sandboxMountPoint": {"value": seen}}})
    read["kubernetes"]["pod"]["status"]["containerStatuses"][0]["containerID"] = "containerd://abc"
    facts = step("read", {"reader": {"shimVersion": said, "bindFilter": True}})
    node = NodeFacts("n", "u", "10.0.0.4", "n", "containerd://1.6.21+azure", "v1.37.2", "Windows", "10.0.1", 4)
    assert verdict(location, replace(observed(volumes=[read], node_facts=[facts]), node_facts=node)) == expected
