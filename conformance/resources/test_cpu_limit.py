"""
A CPU limit is the hard cap of the container's job object.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Observation, Requirement, check
from conformance.resources.limits import millicores

# https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-jobobject_cpu_rate_control_information
ENABLED, HARD_CAP = 0x1, 0x4

LIMIT_IS_THE_JOBS = Requirement(
    "resources/cpu/limit-is-the-jobs",
    "A container's CPU limit is the hard cap of its job object, as a share of all processors of the node.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#resource-limits",
    since=[Containerd("1.6")],
)


@check(LIMIT_IS_THE_JOBS, reads="job-limits")
def test_the_cpu_limit_is_the_jobs(observation: Observation) -> None:
    """
    Windows counts in hundredths of a percent of all processors, 1 to 10000.
    """
    step = observation.step("limits")
    cpu = step.probe("cpu")["cpu"]
    capped = cpu["controlFlags"] & (ENABLED | HARD_CAP) == ENABLED | HARD_CAP
    seen = cpu["cpuRate"] if capped else "no hard cap"
    assert seen == min(max(10 * millicores(step, "cpu") // observation.node.capacity_cpu, 1), 10000)


LIMIT_MISSING = Defect(
    "cpu-limit-missing",
    "The job object of a container has no CPU rate control although the pod sets a limit.",
    breaks=[LIMIT_IS_THE_JOBS],
)
