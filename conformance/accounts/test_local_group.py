"""
Local groups as accounts: a new account for each container, a member of the group, gone afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Containerd, Defect, Level, Observation, Requirement, Unknown, check
from conformance.accounts.log_ons import refusal, who_ran

if TYPE_CHECKING:
    from conformance._suite.observation import Facts

SOURCE = "https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#local-accounts"


def preparations(observation: Observation) -> Facts:
    """
    What the first pod found and made. Raises Unknown when there is no group that a container could run as.
    """
    prepared = observation.step("prepare").probe("prepare")
    if not prepared["group"]["sid"]:
        raise Unknown(f"`net localgroup /add` ended with {prepared['group']['exitCode']}", "group-not-made")
    return prepared


def same_machine(account: str, group: str) -> bool:
    """
    Whether two SIDs are of one machine's own accounts: those of a machine differ in the last part alone.
    """
    return account.rpartition("-")[0] == group.rpartition("-")[0]


EPHEMERAL_ACCOUNT = Requirement(
    "accounts/local-group/ephemeral-account",
    "A container whose runAsUserName is a local group runs as a new local account that is a member of the group.",
    source=SOURCE,
    since=[Containerd("1.7.0-alpha.1")],
)


@check(EPHEMERAL_ACCOUNT, reads="local-accounts")
def test_a_group_gets_a_new_account_that_is_its_member(observation: Observation) -> None:
    """
    What a process may do follows from the groups in its token.
    """
    prepared = preparations(observation)
    members = observation.step("members")
    assert refusal(members, "member") is None
    member = members.probe("member")
    group = prepared["group"]["sid"]
    seen = {
        "is an account of this machine": same_machine(member["sid"], group),
        "was there before": member["sid"] in prepared["localUsers"],
        "has the group in its token": group in member["groups"],
    }
    assert seen == {
        "is an account of this machine": True,
        "was there before": False,
        "has the group in its token": True,
    }


NOT_A_MEMBER = Defect(
    "group-account-not-a-member",
    "The account that is made for a local group is not put into the group.",
    breaks=[EPHEMERAL_ACCOUNT],
)

RUNS_AS_SYSTEM = Defect(
    "group-runs-as-system",
    "A container that asks for a local group runs as LocalSystem, and no account is made.",
    breaks=[EPHEMERAL_ACCOUNT],
)

ACCOUNT_REMOVED = Requirement(
    "accounts/local-group/account-removed",
    "The account that was made for a container of a local group is gone once the pod is deleted.",
    source=SOURCE,
    since=[Containerd("1.7.0-alpha.1")],
)


@check(ACCOUNT_REMOVED, reads="local-accounts")
def test_the_account_is_gone_with_its_pod(observation: Observation) -> None:
    """
    The account is to be ephemeral: an account that stays is one that nobody looks after.
    """
    prepared = preparations(observation)
    account = who_ran(observation.step("members"), "member")
    if not same_machine(account, prepared["group"]["sid"]) or account in prepared["localUsers"]:
        raise Unknown(f"no account was made, so none can be missed: {account}", "no-account-made")
    after = observation.step("after").probe("after")["localUsers"]
    assert [left for left in after if left == account] == []


LEFT_BEHIND = Defect(
    "group-account-left-behind",
    "The account that is made for a local group stays on the node when its container is removed.",
    breaks=[ACCOUNT_REMOVED],
)

BEFORE_1_7 = Requirement(
    "accounts/local-group/refused-before-1-7",
    "What becomes of a container whose runAsUserName is a local group before containerd 1.7.",
    source=SOURCE,
    level=Level.OBSERVED,
    since=[Containerd("1.6")],
    until=[Containerd("1.7.0-alpha.1")],
)


@check(BEFORE_1_7, reads="local-accounts")
def test_what_becomes_of_a_group_before_1_7(observation: Observation) -> str:
    """
    Local groups are documented to need 1.7, and not that an earlier version refuses them: the shim decides, and a
    vendor may ship 1.6 with one that knows groups.
    """
    preparations(observation)
    members = observation.step("members")
    refused = refusal(members, "member")
    return f"It was refused: {refused}" if refused is not None else f"It ran as {who_ran(members, 'member')}."


WITH_PASSWORD = Requirement(
    "accounts/local-user/with-password",
    "What becomes of a container whose runAsUserName is a local user that has a password.",
    source=SOURCE,
    level=Level.OBSERVED,
    since=[Containerd("1.6")],
)


@check(WITH_PASSWORD, reads="local-accounts")
def test_what_becomes_of_a_user_with_a_password(observation: Observation) -> str:
    """
    There is no field for a password, so the runtime can only try without; nothing documents what follows.
    """
    user = observation.step("prepare").probe("prepare")["user"]["sid"]
    if not user:
        raise Unknown("the user was not made", "user-not-made")
    members = observation.step("members")
    refused = refusal(members, "password-user")
    if refused is not None:
        return f"It was refused: {refused}"
    account = members.probe("password-user")["sid"]
    return "It ran as that user." if account == user else f"It ran as somebody else: {account}."
