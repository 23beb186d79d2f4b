"""
The three service accounts of Windows that a HostProcess container can always run as.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Observation, Requirement, check
from conformance.accounts.log_ons import who_ran
from conformance.operation.test_aks_daemonset import ADMINISTRATOR_RIGHTS, RUNNING_ON_EACH_NODE
from conformance.operation.test_ping_sample import ANSWERED

SOURCE = "https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#system-accounts"

LOCAL_SYSTEM = Requirement(
    "accounts/system-accounts/local-system",
    "A container whose runAsUserName is `NT AUTHORITY\\SYSTEM` runs as Windows' LocalSystem account.",
    source=SOURCE,
    since=[Containerd("1.6")],
)


@check(LOCAL_SYSTEM, reads="system-accounts")
def test_system_logs_on_as_local_system(observation: Observation) -> None:
    """
    The process has the SID that LocalSystem has on every Windows; a name could belong to anyone.
    """
    assert who_ran(observation.step("log-on"), "local-system") == "S-1-5-18"


LOCAL_SYSTEM_IS_ADMINISTRATOR = Defect(
    "local-system-logs-on-as-administrator",
    "A container that asks for LocalSystem runs as the machine's own Administrator.",
    breaks=[LOCAL_SYSTEM],
)

LOCAL_SERVICE = Requirement(
    "accounts/system-accounts/local-service",
    "A container whose runAsUserName is `NT AUTHORITY\\Local service` runs as Windows' LocalService account.",
    source=SOURCE,
    since=[Containerd("1.6")],
)


@check(LOCAL_SERVICE, reads="system-accounts")
def test_local_service_logs_on_as_local_service(observation: Observation) -> None:
    """
    The least privileged of the three: to run as anyone else here would give away rights unasked.
    """
    assert who_ran(observation.step("log-on"), "local-service") == "S-1-5-19"


LOCAL_SERVICE_IS_SYSTEM = Defect(
    "local-service-logs-on-as-system",
    "A container that asks for LocalService runs as LocalSystem.",
    breaks=[LOCAL_SERVICE],
)

NETWORK_SERVICE = Requirement(
    "accounts/system-accounts/network-service",
    "A container whose runAsUserName is `NT AUTHORITY\\NetworkService` runs as Windows' NetworkService account.",
    source=SOURCE,
    since=[Containerd("1.6")],
)


@check(NETWORK_SERVICE, reads="system-accounts")
def test_network_service_logs_on_as_network_service(observation: Observation) -> None:
    """
    LocalService and NetworkService differ in who they are on the network, so one cannot stand in for the other.
    """
    assert who_ran(observation.step("log-on"), "network-service") == "S-1-5-20"


NETWORK_SERVICE_IS_LOCAL_SERVICE = Defect(
    "network-service-logs-on-as-local-service",
    "A container that asks for NetworkService runs as LocalService.",
    breaks=[NETWORK_SERVICE],
)

NOBODY_LOGS_ON = Defect(
    "containerd-is-not-the-system",
    "Containerd runs as an ordinary account, which may log nobody on: no container starts.",
    breaks=[LOCAL_SYSTEM, LOCAL_SERVICE, NETWORK_SERVICE, ANSWERED, RUNNING_ON_EACH_NODE, ADMINISTRATOR_RIGHTS],
    story="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
    "#troubleshooting-hostprocess-containers",
)
