"""
When what a run makes may be taken away by another: on labels of what it makes on the cluster, and in the names of what
it makes on a host, so that nothing has to be remembered anywhere.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_LABEL = "hostprocess-conformance/run"
EXPIRES_LABEL = "hostprocess-conformance/expires"
LIFETIME = timedelta(hours=24)
"""Longer than any run; not normative."""
ALL_HOURS = 0xFFFFF
"""An hour after that of every expiry: whatever has one is taken away."""

_HOUR = 3600
_STAMP = "%Y%m%dT%H%M%SZ"


def hour_of(moment: datetime) -> int:
    """
    The hours since 1970 in UTC; five hexadecimal digits until the year 2089.
    """
    return int(moment.timestamp()) // _HOUR


def labels(run_id: str, now: datetime) -> dict[str, str]:
    """
    What every object that a run creates carries.
    """
    expires = datetime.fromtimestamp((hour_of(now + LIFETIME)) * _HOUR, UTC)
    return {RUN_LABEL: run_id, EXPIRES_LABEL: expires.strftime(_STAMP)}


def expires(carried: Mapping[str, str]) -> datetime | None:
    """
    When an object with these labels expires; None where they do not tell that.
    """
    try:
        return datetime.strptime(carried[EXPIRES_LABEL], _STAMP).replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return None


def nonce(now: datetime) -> str:
    """
    Eleven hexadecimal digits: five for the hour of expiry, six that are random.
    """
    return f"{hour_of(now + LIFETIME):05x}{secrets.token_hex(3)}"
