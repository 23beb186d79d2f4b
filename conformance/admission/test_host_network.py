"""
HostProcess containers share the node's network, and a pod has to say so.
"""

from __future__ import annotations

from conformance import Defect, Kubernetes, Observation, Requirement, Scope, check
from conformance.admission.validation import HOST_NETWORK, answered, documented

REQUIRED = Requirement(
    "admission/host-network/required",
    "The API server refuses a HostProcess pod whose hostNetwork is not true.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
    "#hostprocess-pod-configuration-requirements",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


@check(REQUIRED, reads="admission")
def test_host_network_has_to_be_set(observation: Observation) -> None:
    """
    Left out or false, in a pod and in a template, whatever else is wrong with it; a pod that in the end has no
    HostProcess container need not set it.
    """
    assert answered(observation.step("requests"), HOST_NETWORK) == documented(HOST_NETWORK)


NOT_REQUIRED = Defect(
    "host-network-not-required",
    "The API server lets a HostProcess pod pass that does not ask for the host's network.",
    breaks=[REQUIRED],
    on=Scope.CLUSTER,
)
