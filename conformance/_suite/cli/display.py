"""
What the user sees while a run goes on: live where there is a terminal, plain lines where there is none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from conformance._suite.report import terminal
from conformance._suite.report.wording import runtime

if TYPE_CHECKING:
    from pathlib import Path

    from rich.status import Status

    from conformance._suite.facts import ClusterFacts, NodeFacts
    from conformance._suite.observe.plan import Progress
    from conformance._suite.report.verdict import Run

PLAIN_SECONDS = 5
"""How often progress is told where it cannot be shown in place."""


class _Console(Console):
    """
    A terminal or a pipe that is gone must not take the run, or its clean-up, along; rich would end the program.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # What Python itself flushes at its end must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Display:
    """
    The terminal of one run.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        # The real standard output: pytest's own is sent to a log while it runs.
        self._console = _Console(file=stream or sys.stdout, soft_wrap=True, highlight=False)
        self._status: Status | None = None
        self._told = 0.0

    def say(self, line: str) -> None:
        """
        Print one line.
        """
        # A terminal or a pipe that is gone must not take the run, or its clean-up, along.
        with contextlib.suppress(OSError):
            self._console.print(line, markup=False)

    def header(self, cluster: ClusterFacts, nodes: tuple[NodeFacts, ...], out: Path) -> None:
        """
        Say what is tested, before it is.
        """
        label = " (simulated)" if cluster.simulated else ""
        count = "1 Windows node" if len(nodes) == 1 else f"{len(nodes)} Windows nodes"
        self.say(f"target {cluster.target}{label}: Kubernetes {cluster.server_version}, {count}")
        for node in nodes:
            self.say(f"  {node.name}: {runtime(node)}, {node.os_image} {node.kernel}, kubelet {node.kubelet}")
        self.say(f"evidence and reports: {out}")

    def duration(self, worst: float, pulling: float, minutes: float | None) -> None:
        """
        Say when the run is over at worst; ``worst`` and ``pulling`` are seconds.
        """
        longest = f"{worst / 60:.0f} minutes at worst, and {pulling / 60:.0f} more where images are slow to pull"
        ends = (
            "--deadline MINUTES ends it sooner" if minutes is None else f"--deadline ends it after {minutes:g} minutes"
        )
        self.say(f"observing, clean-up included, takes {longest}; {ends}")

    def progress(self, progress: Progress) -> None:
        """
        Show how far the observation is.
        """
        text = f"observing: {progress.done} of {progress.total} steps"
        if progress.awaited:
            first = [f"{name}: {what}" for name, what in itertools.islice(progress.awaited.items(), 2)]
            more = len(progress.awaited) - len(first)
            text += f"; awaited: {', '.join(first)}" + (f" and {more} more" if more > 0 else "")
        if self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status(text)
                self._status.start()
            self._status.update(text)
        elif time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            self.say(text)

    def progress_ended(self) -> None:
        """
        Take the live line away.
        """
        if self._status is not None:
            self._status.stop()
            self._status = None
        self._told = 0.0

    def verdict(self, run: Run) -> None:
        """
        The table, what failed, what is not proven, and the claim last.
        """
        with contextlib.suppress(OSError):
            terminal.table(run, self._console)
