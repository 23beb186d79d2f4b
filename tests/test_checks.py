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
        (INCORRECT, DENIED, DENIED, "green"),
        (DENIED, DENIED, DENIED, "nobody-logs-on"),
        (DENIED, DENIED.replace("0123", "4567"), DENIED, "nobody-logs-on"),
        (PREFIX + "invalid user string `x`", {"sid": "S-1-5-18"}, {"sid": "S-1-5-19"}, "other-refusal"),
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
        (INCORRECT, "image-names-user"),
        ("no such file", "not-started"),
        ({"name": "x", "sid": "S-1-5-18"}, "red"),
    ],
)
def test_no_user(none: object, expected: str) -> None:
    assert verdict(no_user, observed(refused_accounts=[step("log-on", {"none": none})])) == expected


@pytest.mark.parametrize(
    ("member", "left", "account", "gone"),
    [
        ({"sid": f"{MACHINE}-1005", "groups": [f"{MACHINE}-1001"]}, [], "green", "green"),
        ({"sid": f"{MACHINE}-1005", "groups": [f"{MACHINE}-1001"]}, [f"{MACHINE}-1005"], "green", "red"),
        ({"sid": f"{MACHINE}-500", "groups": [f"{MACHINE}-1001"]}, [f"{MACHINE}-500"], "red", "no-account-made"),
        ({"sid": "S-1-5-18", "groups": [f"{MACHINE}-1001"]}, [], "red", "no-account-made"),
        ({"sid": "S-1-5-21-4-5-6-1005", "groups": [f"{MACHINE}-1001"]}, [], "red", "no-account-made"),
        (INCORRECT, [], "red", "no-account-made"),
    ],
)
def test_the_account_of_a_group(member: object, left: list[str], account: str, gone: str) -> None:
    prepared = {"group": {"sid": f"{MACHINE}-1001", "exitCode": 0}, "localUsers": [f"{MACHINE}-500"]}
    seen = observed(
        local_accounts=[
            step("prepare", {"prepare": prepared}),
            step("members", {"member": member}),
            step("after", {"after": {"localUsers": left}}),
        ]
    )
    assert (verdict(group_gets_an_account, seen), verdict(account_is_gone, seen)) == (account, gone)


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
