"""
The three rules of validation about HostProcess pods, and all that each request of the workload is refused for.

A pod can break several rules at once, and the API server then names each. The rules, each a requirement of its own, are
judged by the same table: a rule's check leaves out what the other two say, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance.admission.answers import causes

if TYPE_CHECKING:
    from conformance._suite.observation import Step

ALL_OR_NONE = "If pod contains any hostProcess containers then all containers must be HostProcess containers"
IDENTICAL = "pod hostProcess value must be identical if both are specified, was "
HOST_NETWORK = "hostNetwork must be true if pod contains any hostProcess containers"
RULES = (ALL_OR_NONE, IDENTICAL, HOST_NETWORK)
"""The words by which the API server names each."""


def differs(container: str, *, pod: bool, spec: str = "spec") -> str:
    """
    What is said of a container that contradicts its pod.
    """
    words = {True: "true", False: "false"}
    field = f"{spec}.{container}.securityContext.windowsOptions.hostProcess"
    return f"{field}: Invalid value: {words[not pod]}: {IDENTICAL}{words[pod]}"


MIXED = f'spec: Invalid value: "": {ALL_OR_NONE}'
UNSHARED = f"spec.hostNetwork: Invalid value: false: {HOST_NETWORK}"
TEMPLATE_MIXED = f"spec.template.{MIXED}"
TEMPLATE_UNSHARED = f"spec.template.{UNSHARED}"

DOCUMENTED: dict[str, list[str]] = {
    # Valid.
    "gated-container-level": [],
    "gated-pod-level": [],
    "gated-off": [],
    "pod-level": [],
    "container-level": [],
    "both-levels": [],
    "off-everywhere": [],
    "off-everywhere-host-network": [],
    "template": [],
    "ephemeral": [],
    "ephemeral-inherits": [],
    # The pod says nothing, and some of its containers are HostProcess containers.
    "mixed-container-unset": [MIXED],
    "mixed-container-unset-no-host-network": [MIXED, UNSHARED],
    "mixed-container-off": [MIXED],
    "mixed-init-container-unset": [MIXED],
    "mixed-init-container-unset-no-host-network": [MIXED, UNSHARED],
    "mixed-only-init-container-on": [MIXED],
    "mixed-ephemeral-container-unset": [MIXED],
    "mixed-template": [TEMPLATE_MIXED],
    # The pod is one, and one of its containers is not: the pod is mixed too, because the others inherit.
    "differ-one-container": [differs("containers[1]", pod=True), MIXED],
    "differ-one-container-no-host-network": [differs("containers[1]", pod=True), MIXED, UNSHARED],
    "differ-init-container": [differs("initContainers[0]", pod=True), MIXED],
    "differ-init-container-no-host-network": [differs("initContainers[0]", pod=True), MIXED, UNSHARED],
    "differ-ephemeral-container": [differs("ephemeralContainers[0]", pod=True), MIXED],
    # The pod is one, and none of its containers is: none is left that the other rules could be about.
    "differ-only-container": [differs("containers[0]", pod=True)],
    "differ-only-container-no-host-network": [differs("containers[0]", pod=True)],
    "differ-only-container-with-init-container": [
        differs("containers[0]", pod=True),
        differs("initContainers[0]", pod=True),
    ],
    "differ-template": [differs("containers[0]", pod=True, spec="spec.template.spec")],
    # The pod is none, and all of its containers are: they are of one kind.
    "differ-every-container": [differs("containers[0]", pod=False), differs("containers[1]", pod=False)],
    "differ-every-container-no-host-network": [
        differs("containers[0]", pod=False),
        differs("containers[1]", pod=False),
        differs("initContainers[0]", pod=False),
        UNSHARED,
    ],
    # The pod is none, and one of its containers is.
    "differ-one-container-on": [differs("containers[0]", pod=False), MIXED],
    "differ-one-container-on-no-host-network": [differs("containers[0]", pod=False), MIXED, UNSHARED],
    "differ-ephemeral-container-no-host-network": [differs("ephemeralContainers[0]", pod=False), MIXED, UNSHARED],
    "differ-template-no-host-network": [
        differs("containers[0]", pod=True, spec="spec.template.spec"),
        TEMPLATE_MIXED,
        TEMPLATE_UNSHARED,
    ],
    # All is well but for the host's network.
    "no-host-network-pod-level": [UNSHARED],
    "no-host-network-container-level": [UNSHARED],
    "host-network-off": [UNSHARED],
    "no-host-network-template": [TEMPLATE_UNSHARED],
}


def documented(rule: str) -> list[str]:
    """
    What the requests are to be refused for, sorted lines ``<request>: <field>: <message>``, without what the other two
    rules say. A request without a line is to pass.
    """
    return _lines(DOCUMENTED, rule)


def answered(step: Step, rule: str) -> list[str]:
    """
    What the requests were refused for, as ``documented`` has it. Raises Unknown when one was answered by anybody else
    than validation.
    """
    return _lines({request: causes(step, request) for request in DOCUMENTED}, rule)


def _lines(said: dict[str, list[str]], rule: str) -> list[str]:
    others = [other for other in RULES if other != rule]
    return sorted(
        f"{request}: {cause}"
        for request, against in said.items()
        for cause in against
        if not any(other in cause for other in others)
    )
