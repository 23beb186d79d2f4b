"""
Which Pod Security Standards let HostProcess pods pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Defect, Kubernetes, Observation, Requirement, Scope, Unknown, check
from conformance._suite.pod_security import refusing_level
from conformance.admission.answers import described, untouched

if TYPE_CHECKING:
    from conformance._suite.observation import Step

STANDARDS = "https://kubernetes.io/docs/concepts/security/pod-security-standards/"
HOST_PROCESS = "hostProcess ("
"""How this reason of a refusal begins."""


def outcome(step: Step, request: str) -> str:
    """
    ``admitted``, or ``refused by <level>`` and, where that is among the reasons, ``for hostProcess``. Raises Unknown
    for an answer that is not Pod Security's.
    """
    answer = untouched(step, request)
    if answer["code"] == 201:
        return "admitted"
    if (level := refusing_level(answer["message"], answer["code"])) is None:
        raise Unknown(f"{request}: neither admitted nor refused by Pod Security: {described(answer)}", "other-refusal")
    return f"refused by {level}" + (" for hostProcess" if HOST_PROCESS in answer["message"] else "")


def require_ordinary(step: Step, request: str) -> None:
    """
    Raise Unknown unless the ordinary pod passes: where that one is refused too, refusals say nothing of HostProcess.
    """
    if (seen := outcome(step, request)) != "admitted":
        why = described(step.answer(request))
        raise Unknown(f"{request}: an ordinary pod is {seen} as well: {why}", "control-refused")


BASELINE_REFUSES = Requirement(
    "admission/pod-security/baseline-refuses",
    "A namespace that enforces the baseline standard takes no HostProcess pod.",
    source=STANDARDS + "#baseline",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


@check(BASELINE_REFUSES, reads="admission")
def test_baseline_refuses(observation: Observation) -> None:
    """
    Wherever in the pod hostProcess is set; an ordinary pod passes.
    """
    expected = {
        "baseline-pod-level": "refused by baseline for hostProcess",
        "baseline-container-level": "refused by baseline for hostProcess",
    }
    step = observation.step("requests")
    seen = {request: outcome(step, request) for request in expected}
    require_ordinary(step, "baseline-ordinary")
    assert seen == expected


BASELINE_ADMITS = Defect(
    "baseline-admits",
    "The API server admits HostProcess pods under the baseline standard.",
    breaks=[BASELINE_REFUSES],
    on=Scope.CLUSTER,
)

RESTRICTED_REFUSES = Requirement(
    "admission/pod-security/restricted-refuses",
    "A namespace that enforces the restricted standard takes no HostProcess pod.",
    source=STANDARDS + "#restricted",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


@check(RESTRICTED_REFUSES, reads="admission")
def test_restricted_refuses(observation: Observation) -> None:
    """
    Restricted is baseline and more; an ordinary pod that heeds it passes.
    """
    expected = {
        "restricted-pod-level": "refused by restricted for hostProcess",
        "restricted-container-level": "refused by restricted for hostProcess",
    }
    step = observation.step("requests")
    seen = {request: outcome(step, request) for request in expected}
    require_ordinary(step, "restricted-ordinary")
    assert seen == expected


RESTRICTED_ADMITS = Defect(
    "restricted-admits",
    "The API server admits HostProcess pods under the restricted standard.",
    breaks=[RESTRICTED_REFUSES],
    on=Scope.CLUSTER,
)

PRIVILEGED_ADMITS = Requirement(
    "admission/pod-security/privileged-admits",
    "A namespace that enforces the privileged standard takes HostProcess pods.",
    source=STANDARDS + "#privileged",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


@check(PRIVILEGED_ADMITS, reads="admission")
def test_privileged_admits(observation: Observation) -> None:
    """
    The standard that HostProcess pods are to run under restricts nothing.
    """
    expected = {"pod-level": "admitted", "container-level": "admitted"}
    assert {request: outcome(observation.step("requests"), request) for request in expected} == expected


PRIVILEGED_REFUSES = Defect(
    "privileged-refuses",
    "The API server refuses HostProcess pods even under the privileged standard.",
    breaks=[PRIVILEGED_ADMITS],
    on=Scope.CLUSTER,
)

FAILED_CREATE = Requirement(
    "admission/pod-security/daemonset-gets-failed-create",
    "Where baseline is enforced a DaemonSet of HostProcess pods is taken, its pods are not, and its events say so.",
    source="https://kubernetes.io/docs/concepts/security/pod-security-admission/#workload-resources-and-pod-templates",
    scope=Scope.CLUSTER,
    since=[Kubernetes("1.23")],
)


def _says_why(message: str) -> bool:
    """
    Whether it is Pod Security's refusal, and whole: the last reason ends with what the pod must not set.
    """
    return refusing_level(message) is not None and (HOST_PROCESS in message or message.endswith(")"))


@check(FAILED_CREATE, reads="admission")
def test_a_daemonset_hears_that_its_pods_are_refused(observation: Observation) -> None:
    """
    Enforcing is about pods, not templates: whoever creates the DaemonSet learns of the refusal from its events only.
    """
    events = [event for event in observation.step("daemonset").events if event["reason"].endswith("Create")]
    # What was refused for another reason, such as a service account that was not there yet, was tried again.
    told = [event for event in events if event["reason"] != "FailedCreate" or _says_why(event["message"])]
    if events and not told:
        why = events[-1]["message"]
        raise Unknown(f"the DaemonSet's pods were refused for another reason, or it is cut: {why}", "other-refusal")
    seen = {(event["reason"], refusing_level(event["message"]), HOST_PROCESS in event["message"]) for event in told}
    assert seen == {("FailedCreate", "baseline", True)}


NOT_REPORTED = Defect(
    "failed-create-not-reported",
    "A DaemonSet's event says that pods were created which Pod Security has refused.",
    breaks=[FAILED_CREATE],
    on=Scope.CLUSTER,
)

LABEL_DROPPED = Defect(
    "enforce-label-dropped",
    "The API server loses a namespace's label that has the baseline standard enforced.",
    breaks=[BASELINE_REFUSES, FAILED_CREATE],
    on=Scope.CLUSTER,
)
