"""
All containers of a pod are HostProcess containers, or none is; and pod and containers say the same.
"""

from __future__ import annotations

from conformance import Defect, Observation, Requirement, Scope, check
from conformance.admission.answers import invalid_fields

ALL_OR_NONE = "If pod contains any hostProcess containers then all containers must be HostProcess containers"
IDENTICAL = "pod hostProcess value must be identical if both are specified, was "

REFUSED = Requirement(
    "admission/mixed-pods/refused",
    "The API server refuses a pod in which some containers are HostProcess containers and others are not.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#limitations",
    scope=Scope.CLUSTER,
)


@check(REFUSED, reads="admission")
def test_a_pod_with_some_hostprocess_containers_is_refused(observation: Observation) -> None:
    """
    Regular, init and ephemeral containers count alike, in a pod and in a template; what is of one kind passes.
    """
    expected = {
        "mixed-container-unset": {"spec": ALL_OR_NONE},
        "mixed-container-off": {"spec": ALL_OR_NONE},
        "mixed-init-container-unset": {"spec": ALL_OR_NONE},
        "mixed-only-init-container-on": {"spec": ALL_OR_NONE},
        "mixed-ephemeral-container-unset": {"spec": ALL_OR_NONE},
        "mixed-template": {"spec.template.spec": ALL_OR_NONE},
        "pod-level": {},
        "container-level": {},
        "ephemeral": {},
        "template": {},
        "off-everywhere": {},
    }
    requests = observation.step("requests")
    assert {request: invalid_fields(requests, request, ALL_OR_NONE) for request in expected} == expected


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
)


@check(VALUES_AGREE, reads="admission")
def test_pod_and_container_cannot_disagree(observation: Observation) -> None:
    """
    Each container that disagrees is named, and so is what the pod says.
    """
    value = "securityContext.windowsOptions.hostProcess"
    expected = {
        "differ-one-container": {f"spec.containers[1].{value}": IDENTICAL + "true"},
        "differ-only-container": {f"spec.containers[0].{value}": IDENTICAL + "true"},
        "differ-every-container": {
            f"spec.containers[0].{value}": IDENTICAL + "false",
            f"spec.containers[1].{value}": IDENTICAL + "false",
        },
        "differ-init-container": {f"spec.initContainers[0].{value}": IDENTICAL + "true"},
        "differ-ephemeral-container": {f"spec.ephemeralContainers[0].{value}": IDENTICAL + "true"},
        "differ-template": {f"spec.template.spec.containers[0].{value}": IDENTICAL + "true"},
        "both-levels": {},
        "off-everywhere": {},
    }
    requests = observation.step("requests")
    assert {request: invalid_fields(requests, request, IDENTICAL) for request in expected} == expected


DISAGREEING_VALUES_ADMITTED = Defect(
    "disagreeing-values-admitted",
    "The API server lets a container pass whose hostProcess contradicts its pod's.",
    breaks=[VALUES_AGREE],
    on=Scope.CLUSTER,
)
