"""
A container without a usable account is not started: it never becomes somebody else.
"""

from __future__ import annotations

from conformance import Defect, Observation, Requirement, check
from conformance.accounts.log_ons import outcome

UNKNOWN = Requirement(
    "accounts/refused-users/unknown",
    "A container whose runAsUserName is no account or group of the node is not started.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#choosing-a-user-account",
)


@check(UNKNOWN, reads="refused-accounts")
def test_a_user_that_does_not_exist_is_refused(observation: Observation) -> None:
    """
    The name is new in each run, and the runtime says that it could not log the user on.
    """
    assert outcome(observation.step("log-on"), "unknown") == "refused"


UNKNOWN_IS_SYSTEM = Defect(
    "unknown-user-logs-on-as-system",
    "A container that asks for an account that does not exist runs as LocalSystem.",
    breaks=[UNKNOWN],
)

NONE = Requirement(
    "accounts/refused-users/none",
    "A container is not started when neither pod, container nor image names a user.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
    "#hostprocess-pod-configuration-requirements",
)


@check(NONE, reads="refused-accounts")
def test_no_user_at_all_is_refused(observation: Observation) -> None:
    """
    A user is required; a default would be a guess about rights. The API server lets the pod pass, the node must not.
    """
    assert outcome(observation.step("log-on"), "none") == "refused"


NONE_IS_SYSTEM = Defect(
    "no-user-logs-on-as-system",
    "A container that names no user runs as LocalSystem.",
    breaks=[NONE],
)
