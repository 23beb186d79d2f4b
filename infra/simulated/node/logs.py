"""
Which lines of a container's log a request asks for. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from infra.simulated.node import clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Line(Protocol):
    """
    What a log line of the model has.
    """

    @property
    def time(self) -> str:
        """
        When it was written.
        """

    @property
    def stream(self) -> str:
        """
        ``stdout`` or ``stderr``.
        """

    @property
    def text(self) -> str:
        """
        The line without its end.
        """


class LogOptionsError(ValueError):
    """
    The request's parameters make no sense; the text says why.
    """


@dataclass(slots=True)
class LogOptions:
    """
    The parameters of ``/containerLogs``; ``since`` is absolute.
    """

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    limit: int | None = None
    since: datetime | None = None
    stream: str | None = None


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text in {None, ""}:
        return None
    try:
        value = int(str(text))
    except ValueError:
        raise LogOptionsError(f'Invalid value for {name}: "{text}"') from None
    if value < 0:
        raise LogOptionsError(f"{name}: must be greater than or equal to 0")
    return value


def options(query: Mapping[str, str], now: datetime | None = None) -> LogOptions:
    """
    Read a query string. Raises LogOptionsError.
    """
    seconds, time = _number(query, "sinceSeconds"), query.get("sinceTime")
    since = None
    if seconds is not None:
        since = (now or datetime.now(UTC)) - timedelta(seconds=seconds)
    elif time:
        try:
            since = clock.parse(time)
        except ValueError:
            raise LogOptionsError(f"sinceTime: {time!r} is not a time") from None
    stream = query.get("stream", "").lower()
    return LogOptions(
        follow=query.get("follow") in {"true", "1"},
        previous=query.get("previous") in {"true", "1"},
        timestamps=query.get("timestamps") in {"true", "1"},
        tail=_number(query, "tailLines"),
        limit=_number(query, "limitBytes"),
        since=since,
        stream=stream if stream in {"stdout", "stderr"} else None,
    )


def wanted(line: Line, asked: LogOptions) -> bool:
    """
    Whether a line is new enough and of the stream that is asked for.
    """
    if asked.stream and line.stream != asked.stream:
        return False
    return asked.since is None or clock.parse(line.time) >= asked.since


def formatted(line: Line, asked: LogOptions) -> bytes:
    """
    The line as it is sent.
    """
    text = f"{line.time} {line.text}\n" if asked.timestamps else f"{line.text}\n"
    return text.encode()


def selected(lines: Sequence[Line], asked: LogOptions) -> list[bytes]:
    """
    The lines that are there already, ready to be sent; the limit in bytes is for the sender, who knows the sum.
    """
    chosen = [line for line in lines if wanted(line, asked)]
    if asked.tail is not None:
        chosen = chosen[len(chosen) - min(asked.tail, len(chosen)) :]
    return [formatted(line, asked) for line in chosen]


class Allowance:
    """
    How many bytes may still be sent.
    """

    def __init__(self, limit: int | None) -> None:
        self._left = limit

    def cut(self, data: bytes) -> bytes:
        """
        As much of ``data`` as may be sent.
        """
        if self._left is None:
            return data
        part = data[: self._left]
        self._left -= len(part)
        return part

    def spent(self) -> bool:
        """
        Whether nothing more may be sent.
        """
        return self._left == 0


_PULLS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


def unavailable(pod: str, container: str, waiting: str | None, *, previous: bool) -> str:
    """
    Why there is no log, in the kubelet's words; ``waiting`` is the reason a container has not started for.

    Source: kubernetes pkg/kubelet/kubelet_pods.go (validateContainerLogStatus).
    """
    if previous:
        return f'previous terminated container "{container}" in pod "{pod}" not found'
    if waiting is not None:
        return f'container "{container}" in pod "{pod}" is waiting to start: {_PULLS.get(waiting, waiting)}'
    return f'container "{container}" in pod "{pod}" is not available'
