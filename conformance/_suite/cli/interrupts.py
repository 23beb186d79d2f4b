"""
What Ctrl-C does in each part of a run. SIGTERM and a terminal that goes away come as Ctrl-C, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def on_interrupt(handle: Callable[[], object]) -> Iterator[None]:
    """
    While the block awaits, Ctrl-C calls ``handle`` in the event loop; after it, it is a KeyboardInterrupt again.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, handle)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def deferred(say: Callable[[], None]) -> Iterator[None]:
    """
    While the block runs, Ctrl-C only says why it goes on.
    """
    before = signal.signal(signal.SIGINT, lambda *_: say())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
