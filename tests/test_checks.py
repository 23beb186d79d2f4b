"""
Checks of accounts and of memory, given what no simulated node shows: what proves nothing must not pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from conformance import Containerd, Kubernetes, Observation, Scope, Unknown
from conformance._suite import catalogue
from conformance._suite.facts import ClusterFacts
from conformance._suite.observation import Evidence
from conformance.accounts.test_local_group import (
    test_a_group_gets_a_new_account_that_is_its_member as group_gets_an_account,
)
from conformance.accounts.test_local_group import test_the_account_is_gone_with_its_pod as account_is_gone
from conformance.accounts.test_refused_users import test_a_user_that_does_not_exist_is_refused as unknown_user
from conformance.accounts.test_refused_users import test_no_user_at_all_is_refused as no_user
from conformance.resources.test_memory_limit import test_one_process_is_stopped_at_the_limit as one_process
from conformance.resources.test_memory_limit import test_parent_and_child_are_stopped_together as parent_and_child

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINE = "S-1-5-21-1-2-3"
PREFIX = 'failed to start containerd task "0123": failed to create user process token: '
DENIED = PREFIX + "failed to logon user: Access is denied.: unknown"
INCORRECT = PREFIX + "failed to logon user: The user name or password is incorrect.: unknown"


def step(name: str, containers: dict[str, Any]) -> dict[str, Any]:
    """
    A completed step: each container with the facts that its probe printed, or with the text it was refused with.
    """
    statuses, printed = [], {}
    for container, seen in containers.items():
        refused = isinstance(seen, str)
        ended = {"reason": "StartError", "message": seen} if refused else {"reason": "Completed"}
        statuses.append({"name": container, "state": {"terminated": ended}})
        printed[container] = None if refused else seen
    pod = {"status": {"containerStatuses": statuses}}
    return {"name": name, "met": True, "trouble": None, "kubernetes": {"pod": pod}, "probe": printed}


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


def test_every_requirement_of_these_areas_says_since_when_it_holds() -> None:
    for requirement in catalogue.load().requirements.values():
        if requirement.area in {"accounts", "resources"}:
            assert requirement.since[0] in {Containerd("1.6"), Containerd("1.7")}, requirement.id
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
    ("mebibytes", "outcome", "expected"),
    [
        (768, "complete", "red"),
        (512, "refused", "red"),
        (496, "refused", "green"),
        (416, "refused", "green"),
        (256, "refused", "green"),
        (240, "refused", "other-limit"),
        (0, "refused", "other-limit"),
    ],
)
def test_where_one_process_is_refused(mebibytes: int, outcome: str, expected: str) -> None:
    allocation = {"mebibytes": mebibytes, "outcome": outcome}
    assert (
        verdict(one_process, observed(job_limits=[step("limits", {"alone": {"allocation": allocation}})])) == expected
    )


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ((208, "complete"), (336, "complete"), "red"),
        ((208, "complete"), (304, "refused"), "red"),
        ((208, "complete"), (144, "refused"), "green"),
        ((208, "complete"), (48, "refused"), "green"),
        ((208, "complete"), (32, "refused"), "other-limit"),
        ((208, "complete"), (0, "refused"), "other-limit"),
        ((192, "refused"), (0, "refused"), "parent-refused"),
    ],
)
def test_where_a_child_is_refused(parent: tuple[int, str], child: tuple[int, str], expected: str) -> None:
    keys = ("mebibytes", "outcome")
    family = {"allocation": dict(zip(keys, parent, strict=True)), "child": dict(zip(keys, child, strict=True))}
    assert verdict(parent_and_child, observed(job_limits=[step("limits", {"family": family})])) == expected
