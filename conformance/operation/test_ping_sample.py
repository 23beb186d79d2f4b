"""
The example pod of the Kubernetes page.
"""

from __future__ import annotations

import re

from conformance import Containerd, Defect, Observation, Requirement, check
from conformance.operation.states import state_of

ANSWERED = Requirement(
    "operation/ping-sample/answered",
    "The documented example pod runs, and its ping of 127.0.0.1 is answered.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#manifest-example",
    since=[Containerd("1.6")],
)

# `TTL=` stands in an answer and nowhere else, in every language that Windows speaks.
ANSWER = re.compile(r"127\.0\.0\.1.*TTL=")


@check(ANSWERED, reads="ping-sample")
def test_the_example_pod_pings(observation: Observation) -> None:
    """
    A ping that cannot be started, that ends, or that goes on without an answer is a finding: the step ends on each of
    them. Trouble of the runtime is none.
    """
    step = observation.step("run")
    log = step.log("test").strip() if step.container("test").started else ""
    seen = "answered" if ANSWER.search(log) else f"not answered: {state_of(step, 'test')}; {log[-300:]}"
    assert seen == "answered"


UNANSWERED = Defect(
    "ping-unanswered",
    "Echo requests from a container get no answer.",
    breaks=[ANSWERED],
)
