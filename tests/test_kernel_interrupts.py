"""
What Ctrl-C does in each part of a run.
"""

from __future__ import annotations

import asyncio
import signal

import pytest

from conformance._suite.cli.interrupts import deferred, on_interrupt


def test_while_the_block_awaits_the_event_loop_hears_it_and_afterwards_it_is_an_interrupt_again() -> None:
    heard: list[str] = []

    async def run() -> None:
        with on_interrupt(lambda: heard.append("Ctrl-C")):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0.01)
        assert heard == ["Ctrl-C"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    asyncio.run(run())
    assert heard == ["Ctrl-C"]


def test_what_is_deferred_goes_on_and_says_why() -> None:
    said: list[str] = []
    done = []
    with deferred(lambda: said.append("writing the reports")):
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert (said, done) == (["writing the reports"], ["written"])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
