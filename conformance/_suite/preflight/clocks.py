"""
How far clocks are from the API server's: this machine's and the nodes'.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from conformance._suite.pod_status import statuses
from conformance._suite.preflight.selection import problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance._suite.cluster import Answer
    from conformance._suite.say import Say

SKEW_NOTICE, SKEW_LIMIT = 10.0, 300.0
"""Seconds two clocks may differ without a word, and at all; not normative, tokens and logs get confusing."""


def told_clock(answer: Answer, now: datetime, say: Say) -> list[str]:
    """
    Tell how far this machine's clock, which said ``now`` when the answer came, is from the API server's.
    """
    if answer.date is None:
        return []
    ahead = (now - answer.date).total_seconds()
    if abs(ahead) <= SKEW_NOTICE:
        return []
    line = f"this machine's clock is {_apart(ahead)} the API server's"
    if abs(ahead) > SKEW_LIMIT:
        return [problem(line, "set it by a time server")]
    say(line)
    return []


def clock_skew(pod: Mapping[str, Any], now: datetime) -> float | None:
    """
    By how many seconds a node's clock is at least ahead of the API server's (negative: behind), from a pod as it was
    there at ``now`` by the server's clock; 0 where the times allow that both are right, None where nothing has started.

    A container starts after its pod is created, which the server stamps, and before ``now``; all stamps are to the
    second, so that a second either way says nothing.
    """
    stamps = [
        datetime.fromisoformat(state[moment])
        for entry in statuses(pod)
        for place in ("state", "lastState")
        for state in (entry.get(place) or {}).values()
        for moment in ("startedAt", "finishedAt")
        # A container that could not be started began in 1970, as the kubelet tells it.
        if state.get(moment) and datetime.fromisoformat(state[moment]).timestamp() > 0
    ]
    if not stamps:
        return None
    second = timedelta(seconds=1)
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    if (ahead := max(stamps) - now - second) > timedelta():
        return ahead.total_seconds()
    if (behind := min(stamps) + second - created) < timedelta():
        return behind.total_seconds()
    return 0.0


def clock_notice(node: str, seconds: float) -> str | None:
    """
    What to say about a node's clock; None where it is right, as far as can be told.
    """
    if abs(seconds) <= SKEW_NOTICE:
        return None
    return f"the clock of {node} is at least {_apart(seconds)} the API server's"


def _apart(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
