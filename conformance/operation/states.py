"""
What became of a container that should run on, for the pages of this area.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Unknown

if TYPE_CHECKING:
    from conformance._suite.observation import Step

RUNNING = "running and ready"


def state_of(step: Step, container: str) -> str:
    """
    ``running and ready``, or how the container ended, with the end of what it wrote, or why it was not started. Raises
    Unknown for trouble, which says nothing about the sample.
    """
    seen = step.must_be_told(container)
    log = step.data["kubernetes"]["logs"].get(container, "").strip()[-300:]
    if seen.ready:
        return RUNNING
    if seen.refusal is not None:
        return f"not started: {seen.refusal}" + (f"; what it wrote before: {log}" if log else "")
    if "running" in seen.status["state"]:
        raise Unknown(f"container {container} runs and is not ready", "not-settled")
    ended = seen.terminated
    written = log or str(ended.get("message") or "") or "nothing"
    return f"ended: {ended.get('reason')}, exit code {ended.get('exitCode')}; it wrote: {written}"
