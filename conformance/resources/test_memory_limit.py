"""
A memory limit is that of the container's job object: of all its processes together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Containerd, Defect, Observation, Requirement, Unknown, check
from conformance.resources.limits import mebibytes

if TYPE_CHECKING:
    from conformance._suite.observation import Facts

SOURCE = "https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#resource-limits"

# https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-jobobject_basic_limit_information
PROCESS_MEMORY, JOB_MEMORY = 0x100, 0x200


BLOCK_MEBIBYTES = 32
"""What the probe asks for at once."""


def stopped_by_this_limit(allocation: Facts, limit: int) -> None:
    """
    Raises Unknown unless the job itself was at its limit (mebibytes) when Windows refused: the most that its processes
    ever had committed together leaves no room for what was asked, and is not above it. Else something else refused,
    such as the node's own memory and page file.
    """
    peak = most(allocation)
    if not limit - BLOCK_MEBIBYTES <= peak <= limit:
        raise Unknown(f"not refused at the limit: the job had at most {peak:.0f} of {limit} MiB", "other-limit")


def most(allocation: Facts) -> float:
    """
    The most that the processes of the job ever had committed together, in mebibytes.
    """
    return float(allocation["peakJobMemoryUsed"] / 1024 / 1024)


LIMIT_IS_THE_JOBS = Requirement(
    "resources/memory/limit-is-the-jobs",
    "A container's memory limit is set on its job object, for the job as a whole.",
    source=SOURCE,
    since=[Containerd("1.6")],
)


@check(LIMIT_IS_THE_JOBS, reads="job-limits")
def test_the_memory_limit_is_the_jobs(observation: Observation) -> None:
    """
    Windows tells a process the limits of the job it is in, in bytes; one for each process is another limit.
    """
    step = observation.step("limits")
    memory = step.probe("alone")["memory"]
    flags = memory["limitFlags"]
    seen = {
        "limit of the job": memory["jobMemoryLimit"] if flags & JOB_MEMORY else None,
        "limit of each process": memory["processMemoryLimit"] if flags & PROCESS_MEMORY else None,
    }
    assert seen == {"limit of the job": mebibytes(step, "alone") * 1024 * 1024, "limit of each process": None}


ONE_PROCESS = Requirement(
    "resources/memory/one-process",
    "A process in a container cannot commit more memory than the container's limit.",
    source=SOURCE,
    since=[Containerd("1.6")],
)


@check(ONE_PROCESS, reads="job-limits")
def test_one_process_is_stopped_at_the_limit(observation: Observation) -> None:
    """
    The process asks for half as much again as the limit, and Windows refuses before the limit is passed.
    """
    step = observation.step("limits")
    limit = mebibytes(step, "alone")
    allocation: Facts = step.probe("alone")["allocation"]
    assert allocation["outcome"] == "refused"
    assert allocation["mebibytes"] < limit
    stopped_by_this_limit(allocation, limit)


PARENT_AND_CHILD = Requirement(
    "resources/memory/parent-and-child",
    "The processes of a container together cannot commit more memory than the container's limit.",
    source=SOURCE,
    since=[Containerd("1.6")],
)


@check(PARENT_AND_CHILD, reads="job-limits")
def test_parent_and_child_are_stopped_together(observation: Observation) -> None:
    """
    Each asks for less than the limit, both for more; the parent holds its share while the child asks.
    """
    step = observation.step("limits")
    limit = mebibytes(step, "family")
    family = step.probe("family")
    parent: Facts = family["allocation"]
    if parent["outcome"] != "complete":
        raise Unknown(f"the parent itself got only {parent['mebibytes']} MiB", "parent-refused")
    child: Facts = family["child"]
    assert child["outcome"] == "refused"
    assert parent["mebibytes"] + child["mebibytes"] < limit
    assert most(child) <= limit
    stopped_by_this_limit(child, limit)


LIMIT_MISSING = Defect(
    "memory-limit-missing",
    "The job object of a container has no memory limit although the pod sets one.",
    breaks=[LIMIT_IS_THE_JOBS, ONE_PROCESS, PARENT_AND_CHILD],
)

PER_PROCESS = Defect(
    "memory-limit-per-process",
    "The memory limit is set for each process of the job, not for the job.",
    breaks=[LIMIT_IS_THE_JOBS, PARENT_AND_CHILD],
)

NOT_ENFORCED = Defect(
    "memory-limit-not-enforced",
    "The job object reports the memory limit, but nothing stops a process from passing it.",
    breaks=[ONE_PROCESS, PARENT_AND_CHILD],
)

CHILD_ESCAPES = Defect(
    "child-escapes-job",
    "A child process does not belong to the job of its parent.",
    breaks=[PARENT_AND_CHILD],
)
