"""
Where the time of a run went: each phase's wall and CPU seconds, and what was asked of the API server.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "timings.json"


class Timings:
    """
    The phases of one run, in the order they began.
    """

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}
        """What else was counted: ``requests`` to the API server, ``pods`` that were seen."""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """
        Measure the block, however it ends; CPU seconds are this process' and those of the programs that it waited for.
        """
        began, wall, cpu = datetime.now(UTC), time.monotonic(), sum(os.times()[:4])
        try:
            yield
        finally:
            self.phases[name] = {
                "began": began.isoformat(),
                "seconds": round(time.monotonic() - wall, 3),
                "cpuSeconds": round(sum(os.times()[:4]) - cpu, 3),
            }

    def to_json(self) -> dict[str, Any]:
        """
        ``phases`` by name (``began`` in UTC, ``seconds``, ``cpuSeconds``), and the counts.
        """
        return {"phases": self.phases, **self.counts}
