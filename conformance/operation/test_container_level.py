"""
A container that says itself that it is a HostProcess container is one.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Observation, Requirement, Unknown, check
from conformance._suite.trouble import Cause, cause
from conformance.network.test_host_name import IS_THE_NODES, on_the_machine

IS_HOST_PROCESS = Requirement(
    "operation/container-level/is-host-process",
    "A container that sets hostProcess in its own securityContext, in a pod that does not, is a HostProcess container.",
    source="https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#security-context-1",
    since=[Containerd("1.6")],
)


@check(IS_HOST_PROCESS, reads="starts")
def test_a_container_that_sets_it_itself_is_a_host_process_container(observation: Observation) -> None:
    """
    A runtime that was told so for the container and not for its pod's sandbox creates no container, or an ordinary one:
    that has a host name of its own, and HCS does not make it of an image without Windows in it. Another refusal says
    nothing about this.
    """
    step = observation.step("start")
    refusal = step.must_be_told("by-itself").refusal
    if refusal is not None and cause(refusal) is not Cause.HOST_PROCESS:
        raise Unknown(f"it was not started: {refusal}", "other-refusal")
    became = "started" if refusal is None else f"not started: {refusal}"
    assert became == "started"
    seen, machine = step.probe("by-itself").known("hostName"), observation.node.machine_id
    assert on_the_machine(seen, machine), f"its host name is {seen!r}, not the kubelet's {machine!r}"


CONTAINER_LEVEL_FLAG_LOST = Defect(
    "container-level-flag-lost",
    "The kubelet takes hostProcess for the pod's sandbox from the pod's securityContext alone.",
    breaks=[IS_HOST_PROCESS],
    story="https://github.com/kubernetes/kubernetes/pull/110140",
)

HOST_NAME_OF_ITS_OWN = Defect(
    "host-name-of-its-own",
    "A container is given a host name of its own, as one that is isolated has.",
    breaks=[IS_THE_NODES, IS_HOST_PROCESS],
)
