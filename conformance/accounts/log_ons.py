"""
How the runtime's log-on of a container's user ended, for the pages of this area.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Unknown

if TYPE_CHECKING:
    from conformance._suite.observation import Step

REFUSED = "failed to create user process token"
"""What the runtime says of every container that got no account, whatever the reason."""

LOG_ON_FAILED = f"{REFUSED}: failed to logon user"
"""What it says when Windows refused to log the user on; Windows' own words follow."""


def refusal(step: Step, container: str) -> str | None:
    """
    What the runtime said when it refused to log the container's user on, without what names the container; None when a
    process was started. Raises Unknown when nothing was started for another reason.
    """
    if step.container(container).started:
        return None
    message = str(step.must_be_told(container).refusal)
    if REFUSED not in message:
        raise Unknown(f"container {container} was not started for another reason: {message}", "not-started")
    return message[message.index(REFUSED) :]


def who_ran(step: Step, container: str) -> str:
    """
    The SID that the container's process has, or, where the log-on was refused, ``nobody`` and what was said.
    """
    refused = refusal(step, container)
    return f"nobody: {refused}" if refused is not None else str(step.probe(container)["sid"])


def outcome(step: Step, container: str) -> str:
    """
    ``refused``, or that the container ran and, where its probe told, who it was.
    """
    if refusal(step, container) is not None:
        return "refused"
    told = step.data["probe"].get(container) or {}
    return f"ran as {told.get('name')} ({told.get('sid')})" if told else "ran, and its probe printed nothing"
