"""
Times as Kubernetes writes them.
"""

from __future__ import annotations

from datetime import UTC, datetime


def seconds(nanoseconds: int | None = None) -> str:
    """
    Now, or a time since the epoch, to the second, as in ``metav1.Time``.
    """
    time = datetime.now(UTC) if nanoseconds is None else datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def micros() -> str:
    """
    Now, to the microsecond, as in ``metav1.MicroTime``.
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> datetime:
    """
    A time of either form, or with nanoseconds, which are cut. Raises ValueError.
    """
    text = text.strip().replace("Z", "+00:00").replace("z", "+00:00")
    head, dot, rest = text.partition(".")
    if dot:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        text = f"{head}.{digits[:6].ljust(6, '0')}{rest[len(digits) :]}"
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
