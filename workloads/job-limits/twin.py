"""
The limits of the job, and how much memory it lets one process, or a parent and its child, commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from infra.simulated.model.view import Process, View

COMMITMENT_LIMIT = 1455
BLOCK = 16
"""Mebibytes in one allocation."""


async def memory(view: View) -> dict[str, int]:
    """
    What the job's extended limit information says.
    """
    return {
        "limitFlags": view.job.limit_flags,
        "processMemoryLimit": view.job.process_memory_limit,
        "jobMemoryLimit": view.job.job_memory_limit,
    }


async def cpu(view: View) -> dict[str, int]:
    """
    What the job's CPU rate control information says.
    """
    return {"controlFlags": view.job.cpu_flags, "cpuRate": view.job.cpu_rate}


def allocate(process: Process, wanted: int) -> dict[str, int | str]:
    """
    Commit block by block: how many mebibytes were got, whether that was all, and the most that the job ever had. Two
    blocks are asked for and one is kept, so that the process has something left at the refusal.
    """
    block, got, outcome = BLOCK * 1024 * 1024, 0, "complete"
    while got < wanted:
        if not process.allocate(2 * block):
            outcome = "refused"
            break
        process.commit -= block
        got += BLOCK
    return {"mebibytes": got, "outcome": outcome, "peakJobMemoryUsed": process.job.peak}


async def allocation(view: View) -> dict[str, int | str] | None:
    """
    What this process gets of ``MEBIBYTES``.
    """
    wanted = view.env.get("MEBIBYTES")
    return allocate(view.process, int(wanted)) if wanted else None


async def child(view: View) -> dict[str, int | str] | None:
    """
    What a child gets of ``CHILD_MEBIBYTES`` while this process holds what it has.
    """
    wanted = view.env.get("CHILD_MEBIBYTES")
    if not wanted:
        return None
    started = view.process.spawn()
    try:
        if not started.commit:
            text = "the child printed nothing and ended"
            raise WindowsError(COMMITMENT_LIMIT, text, "System.Management.Automation.RuntimeException")
        return allocate(started, int(wanted))
    finally:
        started.end()


FACTS = {"memory": memory, "cpu": cpu, "allocation": allocation, "child": child}
