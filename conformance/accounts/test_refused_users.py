"""
A container without a usable account is not started: it never becomes somebody else.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Level, Observation, Requirement, Unknown, check
from conformance.accounts.log_ons import outcome, refusal

UNKNOWN = Requirement(
    "accounts/refused-users/unknown",
    "A container whose runAsUserName is no account or group of the node is not started.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#choosing-a-user-account",
    level=Level.SHOULD,
    since=[Containerd("1.6")],
)


@check(UNKNOWN, reads=("refused-accounts", "system-accounts"))
def test_a_user_that_does_not_exist_is_refused(observation: Observation) -> None:
    """
    The name is new in each run; that its log-on fails tells something about the user only where somebody else can be
    logged on. No document says it in so many words: hence a should.
    """
    refused = observation.of("refused-accounts").step("log-on")
    assert outcome(refused, "unknown") == "refused"
    others = observation.of("system-accounts").step("log-on")
    if all(refusal(others, account) is not None for account in ("local-system", "local-service", "network-service")):
        said = refusal(refused, "unknown")
        raise Unknown(f"the node logs nobody on, not even Windows' own accounts: {said}", "nobody-logs-on")


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
    level=Level.SHOULD,
    since=[Containerd("1.6")],
)


@check(NONE, reads="refused-accounts")
def test_no_user_at_all_is_refused(observation: Observation) -> None:
    """
    A user is required; a default would be a guess about rights. The API server lets the pod pass, the node should not:
    no document says who refuses it. An image of the user's choice may name a user, whom Windows then fails to log on as
    it does the user that nobody knows: that shows nothing.
    """
    step = observation.step("log-on")
    assert outcome(step, "none") == "refused"
    said = str(refusal(step, "none"))
    if "empty user" not in said and ("logon" in said or said == refusal(step, "unknown")):
        raise Unknown(f"the runtime was given a user, so the image names a user: {said}", "image-names-user")


NONE_IS_SYSTEM = Defect(
    "no-user-logs-on-as-system",
    "A container that names no user runs as LocalSystem.",
    breaks=[NONE],
)
