"""
The one place where the suite waits and tries again. Everything here has a bound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import tenacity  # noqa: TID251 - this is the one module

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Value = TypeVar("Value")

LONGEST_PAUSE = 10.0
"""Seconds; whoever asks for more by Retry-After is asked again all the same."""


CLOSING_SECONDS = 0.1
"""For connections on their way out; a peer that is there answers in milliseconds."""


class TryAgainError(Exception):
    """
    An attempt failed in a way that may pass. ``after`` is the pause in seconds that the other side asked for.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = min(error.after or 0.0, LONGEST_PAUSE) if isinstance(error, TryAgainError) else 0.0
    # Jitter: hundreds of waiters must not come back at the same moment.
    return max(asked, tenacity.wait_exponential_jitter(multiplier=0.1, max=LONGEST_PAUSE, jitter=0.2)(state))


async def persistently(attempt: Callable[[], Awaitable[Value]], seconds: float) -> Value:
    """
    Await ``attempt()`` until it returns, again after each TryAgainError, for at most about ``seconds``; then the last
    TryAgainError comes through.
    """
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TryAgainError),
        stop=tenacity.stop_before_delay(seconds),
        wait=_pause,
        sleep=asyncio.sleep,
        reraise=True,
    )

    async def once() -> Value:
        # tenacity asks what kind of function it is given; a lambda would not be seen to be awaited.
        return await attempt()

    return await retrying(once)


async def let_connections_close() -> None:
    """
    Wait for what aiohttp does aside: a session that is closed has TLS connections that still say good-bye, and an event
    loop that ends under them leaves them open.
    """
    await asyncio.sleep(CLOSING_SECONDS)


def forget_cancellation() -> None:
    """
    Let this task await again after it was cancelled: what is left to do must be done.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
