"""
Waiting has a bound, and tries again only what may pass.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from conformance._suite.waiting import TryAgainError, persistently


def test_it_tries_again_until_it_works() -> None:
    tries: list[int] = []

    async def attempt(limit: int) -> str:
        tries.append(1)
        if len(tries) < limit:
            raise TryAgainError("not yet")
        return "done"

    assert asyncio.run(persistently(lambda: attempt(3), 10)) == "done"
    assert asyncio.run(persistently(partial(attempt, 1), 10)) == "done"
    assert len(tries) == 4


def test_it_gives_up_with_the_last_error() -> None:
    async def attempt() -> None:
        raise TryAgainError("never")

    with pytest.raises(TryAgainError, match="never"):
        asyncio.run(persistently(attempt, 0.3))


def test_anything_else_comes_through_at_once() -> None:
    tries: list[int] = []

    async def attempt() -> None:
        tries.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(persistently(attempt, 10))
    assert len(tries) == 1


def test_nobody_is_waited_for_longer_than_the_bound() -> None:
    async def attempt() -> None:
        raise TryAgainError("busy", after=86400)

    async def go() -> None:
        with pytest.raises(TryAgainError):
            await asyncio.wait_for(persistently(attempt, 1), 5)

    asyncio.run(go())
