"""
HostProcess containers share the node's network, and a pod has to say so.
"""

from __future__ import annotations

from conformance import Defect, Observation, Requirement, Scope, check
from conformance.admission.answers import invalid_fields

RULE = "hostNetwork must be true if pod contains any hostProcess containers"

REQUIRED = Requirement(
    "admission/host-network/required",
    "The API server refuses a HostProcess pod whose hostNetwork is not true.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
    "#hostprocess-pod-configuration-requirements",
    scope=Scope.CLUSTER,
)


@check(REQUIRED, reads="admission")
def test_host_network_has_to_be_set(observation: Observation) -> None:
    """
    Left out or false, in a pod and in a template; a pod without HostProcess containers need not set it.
    """
    expected = {
        "no-host-network-pod-level": {"spec.hostNetwork": RULE},
        "no-host-network-container-level": {"spec.hostNetwork": RULE},
        "host-network-off": {"spec.hostNetwork": RULE},
        "no-host-network-template": {"spec.template.spec.hostNetwork": RULE},
        "pod-level": {},
        "container-level": {},
        "template": {},
        "off-everywhere": {},
    }
    requests = observation.step("requests")
    assert {request: invalid_fields(requests, request, RULE) for request in expected} == expected


NOT_REQUIRED = Defect(
    "host-network-not-required",
    "The API server lets a HostProcess pod pass that does not ask for the host's network.",
    breaks=[REQUIRED],
    on=Scope.CLUSTER,
)
