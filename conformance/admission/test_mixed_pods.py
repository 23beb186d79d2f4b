"""
All containers of a pod are HostProcess containers, or none is; and pod and containers say the same.
"""

from __future__ import annotations

from conformance import Defect, Kubernetes, Observation, Requirement, Scope, check
from conformance.admission.validation import ALL_OR_NONE, IDENTICAL, answered, documented

REFUSED = Requirement(
    "admission/mixed-pods/refused",
    "The API server refuses a pod in which some containers are HostProcess containers and others are not.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#limitations",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


@check(REFUSED, reads="admission")
def test_a_pod_with_some_hostprocess_containers_is_refused(observation: Observation) -> None:
    """
    Regular, init and ephemeral containers count alike, in a pod and in a template, and what a container does not say it
    inherits from the pod; what is of one kind is not refused for this.
    """
    assert answered(observation.step("requests"), ALL_OR_NONE) == documented(ALL_OR_NONE)


MIXED_POD_ADMITTED = Defect(
    "mixed-pod-admitted",
    "The API server lets a pod pass in which only some containers are HostProcess containers.",
    breaks=[REFUSED],
    on=Scope.CLUSTER,
)

VALUES_AGREE = Requirement(
    "admission/mixed-pods/values-agree",
    "The API server refuses a container whose hostProcess differs from its pod's, where both are set.",
    source="https://github.com/kubernetes/enhancements/blob/master/keps/sig-windows/"
    "1981-windows-privileged-container-support/README.md#windowssecuritycontextoptionshostprocess-flag",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


@check(VALUES_AGREE, reads="admission")
def test_pod_and_container_cannot_disagree(observation: Observation) -> None:
    """
    Each container that disagrees is named, and so is what the pod says, whatever else is wrong with the pod.
    """
    assert answered(observation.step("requests"), IDENTICAL) == documented(IDENTICAL)


DISAGREEING_VALUES_ADMITTED = Defect(
    "disagreeing-values-admitted",
    "The API server lets a container pass whose hostProcess contradicts its pod's.",
    breaks=[VALUES_AGREE],
    on=Scope.CLUSTER,
)
