"""
Local groups as accounts: a new account for each container, a member of the group, gone afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Containerd, Defect, Level, Observation, Requirement, Unknown, check
from conformance.accounts.log_ons import has_group, refusal, refused_for_good, sid_of, who_ran

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


def whole(users: object) -> list[str]:
    """
    A list of the machine's users, as SIDs, that has the built-in Administrator, whom every Windows has. Raises Unknown
    for any other: Windows says nothing when it lists only some.
    """
    if not isinstance(users, list) or not any(str(sid).endswith("-500") for sid in users):
        raise Unknown(f"the list of local users is not whole: {users!r}", "users-not-whole")
    return users


def logs_on_locally(rights: Facts, group: str) -> None:
    """
    Raise Unknown where the machine's own policy keeps a new member of the group from logging on locally, which is how
    the runtime logs it on.
    """
    # Everyone, Authenticated Users, INTERACTIVE, Users: these every local user is in.
    everyone = {"S-1-1-0", "S-1-5-11", "S-1-5-4", "S-1-5-32-545", group}
    # Local accounts. Those of them that are administrators (S-1-5-114) are others: the group is no administrator.
    denied = {*everyone, "S-1-5-113"} & {*rights["denied"]}
    if denied or not everyone & {*rights["allowed"]}:
        why = f"denied are {sorted(denied)}" if denied else f"allowed are only {rights['allowed']}"
        raise Unknown(f"the node's policy lets no such account log on locally: {why}", "logon-right-missing")


def same_machine(account: str, group: str) -> bool:
    """
    Whether two SIDs are of one machine's own accounts: those of a machine differ in the last part alone.
    """
    return account.rpartition("-")[0] == group.rpartition("-")[0]


MADE_IN_A_CONTAINER = Requirement(
    "accounts/local-group/made-in-a-container",
    "`net localgroup NAME /add` in a container that runs as LocalSystem makes the local group on the node.",
    source=SOURCE,
    since=[Containerd("1.6")],
)

REFUSED = {5, 1314}
"""Win32's numbers for access denied, and for a privilege that is not held."""


@check(MADE_IN_A_CONTAINER, reads="local-accounts")
def test_a_group_can_be_made_in_a_container(observation: Observation) -> None:
    """
    Windows has no policy that keeps the system itself from making a group; any other account it may keep from it. A
    failure in which nobody says that it was refused, such as a service that has stopped, is no finding.
    """
    prepared = observation.step("prepare").probe("prepare")
    account, group = prepared.known("sid"), prepared["group"]
    if account != "S-1-5-18":
        raise Unknown(f"the container does not run as LocalSystem, but as {account}", "not-system")
    code, number = group["exitCode"], group["number"] if group["exitCode"] else None
    if code != 0 and number not in REFUSED:
        raise Unknown(f"`net localgroup /add` ended with {code}, and the error {number}", "group-not-made")
    seen = {"exit code": code, "error": number, "is a group of the node": bool(group["sid"])}
    assert seen == {"exit code": 0, "error": None, "is a group of the node": True}


GROUP_NOT_MADE = Defect(
    "group-not-made",
    "A container that runs as LocalSystem is refused by the node's account database.",
    breaks=[MADE_IN_A_CONTAINER],
)

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
    group = prepared["group"]["sid"]
    refused = refusal(members, "member")
    if refused is not None:
        logs_on_locally(prepared["logOnRights"], group)
        assert refused_for_good(refused) is None
    account = sid_of(members, "member")
    seen = {
        "is an account of this machine": same_machine(account, group),
        "was there before": account in whole(prepared["localUsers"]),
        "has the group in its token": has_group(members, "member", group),
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
    before = whole(prepared["localUsers"])
    account = who_ran(observation.step("members"), "member")
    if not same_machine(account, prepared["group"]["sid"]) or account in before:
        raise Unknown(f"no account was made, so none can be missed: {account}", "no-account-made")
    after = whole(observation.step("after").probe("after")["localUsers"])
    # The suite's own user was made after those, and is listed before it is removed; others may go at any time.
    witnesses = {prepared["user"]["sid"]} - {None} or before
    if missing := {*witnesses} - {*after}:
        raise Unknown(f"users that are there are not listed: {sorted(missing)}", "users-not-whole")
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
    account = sid_of(members, "password-user")
    return "It ran as that user." if account == user else f"It ran as somebody else: {account}."
