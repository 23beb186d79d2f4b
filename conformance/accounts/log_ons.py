"""
How the runtime's log-on of a container's user ended, for the pages of this area.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from conformance import Unknown
from conformance._suite.observation import Facts
from conformance._suite.trouble import LOG_ON, Cause, cause, is_policy

if TYPE_CHECKING:
    from conformance._suite.observation import Step


def refusal(step: Step, container: str) -> str | None:
    """
    What the runtime said when it refused to log the container's user on, without what names the container; None when a
    process was started. Raises Unknown when nothing was started for another reason.
    """
    if step.container(container).started:
        return None
    message = str(step.container(container).refusal)
    found = re.search(LOG_ON, message)
    try:
        step.must_be_told(container)
    except Unknown as unknown:
        # Whatever Windows says of a log-on is this area's to tell.
        if found is None or unknown.code != "not-started":
            raise
    if found is None:
        raise Unknown(f"container {container} was not started for another reason: {message}", "not-started")
    # Up to here it is containerd's, and names the container's id.
    return message[message.rfind(": ", 0, found.start()) + 1 :].strip()


def refused_for_good(refused: str) -> str:
    """
    What the runtime said, once more, where that tells something about the runtime. Raises Unknown where the machine's
    policy refused, or where Windows' words are not known to mean that it always will.
    """
    if is_policy(refused):
        raise Unknown(f"the machine's own policy refused the account: {refused}", "account-policy")
    if cause(refused) is not Cause.USER:
        raise Unknown(f"the log-on failed, and it is not known why: {refused}", "log-on-failed")
    return refused


def _who(step: Step, container: str) -> Facts:
    """
    ``sid`` and ``groups`` of the container's process, as its probe or, where no script may run, whoami.exe says.
    """
    try:
        return step.probe(container)
    except Unknown as unknown:
        told = whoami(step.log(container)) if unknown.code == "language-mode" else None
        if told is None:
            raise
        return told


def sid_of(step: Step, container: str) -> str:
    """
    The SID that the container's process has.
    """
    return str(_who(step, container).known("sid"))


def has_group(step: Step, container: str, group: str) -> bool:
    """
    Whether the group, a SID, is in force in its token. Raises Unknown where only whoami.exe lists it and may mean one
    that denies alone.
    """
    who = _who(step, container)
    if group in who.get("unclear", ()):
        raise Unknown(f"whoami.exe lists {group} with other attributes than Everyone's", "group-unclear")
    return group in who.known("groups")


def whoami(log: str) -> Facts | None:
    """
    What ``whoami /user /groups /fo csv /nh`` printed in a log, as ``sid``, ``groups`` and ``unclear``; None where not
    all is there. The attributes are translated: ``groups`` have the same ones as Everyone, who is in force in every
    token that a log-on makes, the others are ``unclear``.
    """
    said, ended, _ = log.partition("trouble>>>")[2].partition("<<<whoami ended>>>")
    rows = [row for row in csv.reader(said.splitlines()) if row]
    users, groups = [row for row in rows if len(row) == 2], [row for row in rows if len(row) == 4]
    sids = [row[1] for row in users] + [row[2] for row in groups]
    whole = ended and len(users) == 1 and groups and len(rows) == len(sids)
    if not whole or not all(re.fullmatch(r"S-1(-[0-9]+)+", sid) for sid in sids):
        return None
    in_force = [row[3] for row in groups if row[2] == "S-1-1-0"]
    return Facts(
        sid=sids[0],
        groups=[row[2] for row in groups if row[3] in in_force],
        unclear=[row[2] for row in groups if row[3] not in in_force],
    )


def who_ran(step: Step, container: str) -> str:
    """
    The SID that the container's process has, or, where the log-on was refused for good, ``nobody`` and what was said.
    """
    refused = refusal(step, container)
    return f"nobody: {refused_for_good(refused)}" if refused is not None else sid_of(step, container)


def outcome(step: Step, container: str) -> str:
    """
    ``refused``, or that the container ran and, where its probe told, who it was.
    """
    if refusal(step, container) is not None:
        return "refused"
    told = step.data["probe"].get(container) or {}
    return f"ran as {told.get('name')} ({told.get('sid')})" if told else "ran, and its probe printed nothing"
