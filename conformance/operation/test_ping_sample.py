"""
The example pod of the Kubernetes page.
"""

from __future__ import annotations

import re

from conformance import Defect, Observation, Requirement, check

ANSWERED = Requirement(
    "operation/ping-sample/answered",
    "The documented example pod runs, and its ping of 127.0.0.1 is answered.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#manifest-example",
)

# `TTL=` stands in an answer and nowhere else, in every language that Windows speaks.
ANSWER = re.compile(r"127\.0\.0\.1.*TTL=")


@check(ANSWERED, reads="ping-sample")
def test_the_example_pod_pings(observation: Observation) -> None:
    """
    A ping that never starts, that ends, or that goes on without an answer is a finding: the step ends on each of them.
    """
    step = observation.step("run")
    if step.container("test").started:
        log = step.log("test").strip()
        seen = "answered" if ANSWER.search(log) else f"not answered: {log[-300:]}"
    else:
        seen = f"not started: {step.container('test').status.get('state')}"
    assert seen == "answered"


UNANSWERED = Defect(
    "ping-unanswered",
    "Echo requests from a container get no answer.",
    breaks=[ANSWERED],
)
