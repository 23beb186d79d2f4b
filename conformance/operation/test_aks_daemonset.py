"""
The example DaemonSet of the AKS page.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Level, Observation, Requirement, check
from conformance.operation.states import RUNNING, state_of

PAGE = "https://learn.microsoft.com/azure/aks/use-windows-hpc#run-a-hostprocess-workload"
CONTAINER = "powershell"
ADMINISTRATORS = "S-1-5-32-544"

RUNNING_ON_EACH_NODE = Requirement(
    "operation/aks-daemonset/running-on-each-node",
    "The documented DaemonSet has a running pod on the node.",
    source=PAGE,
    since=[Containerd("1.6")],
)


@check(RUNNING_ON_EACH_NODE, reads="aks-daemonset")
def test_the_daemonset_runs_on_the_node(observation: Observation) -> None:
    """
    Its command only sleeps, so a container that has ended, even once, has failed. Whether Windows PowerShell is found
    is the runtime's doing: the image's own PATH does not have it.
    """
    step = observation.step("run")
    seen = {"phase": step.pod["status"].get("phase"), CONTAINER: state_of(step, CONTAINER)}
    assert seen == {"phase": "Running", CONTAINER: RUNNING}


ADMINISTRATOR_RIGHTS = Requirement(
    "operation/aks-daemonset/administrator-rights",
    "A container of the documented DaemonSet has administrator rights on the node.",
    source=PAGE,
    since=[Containerd("1.6")],
)


@check(ADMINISTRATOR_RIGHTS, reads="aks-daemonset-rights")
def test_the_daemonset_has_administrator_rights(observation: Observation) -> None:
    """
    The same fields with a command that asks Windows, instead of a log in which the page itself shows an error.
    """
    step = observation.step("run")
    assert state_of(step, CONTAINER) == RUNNING
    facts = step.probe(CONTAINER)
    seen = {"IsInRole(Administrator)": facts["isAdministrator"], ADMINISTRATORS: ADMINISTRATORS in facts["groups"]}
    assert seen == {"IsInRole(Administrator)": True, ADMINISTRATORS: True}


POWERSHELL_NOT_ON_PATH = Defect(
    "powershell-not-on-path",
    "The runtime does not put Windows PowerShell's folder on the PATH of a container whose image sets one of its own.",
    breaks=[RUNNING_ON_EACH_NODE, ADMINISTRATOR_RIGHTS],
    story="https://github.com/MicrosoftDocs/azure-docs/issues/101159",
)

SYSTEM_TOKEN_FILTERED = Defect(
    "system-token-filtered",
    "The token that a container gets for NT AUTHORITY\\SYSTEM lacks the Administrators group.",
    breaks=[ADMINISTRATOR_RIGHTS],
)

OLDER_SCRIPT = Requirement(
    "operation/aks-daemonset/older-script",
    "The script of the page as it was before prints whether the process has administrator rights.",
    source=PAGE,
    level=Level.OBSERVED,
    since=[Containerd("1.6")],
)


@check(OLDER_SCRIPT, reads="aks-daemonset-older")
def test_what_the_older_script_prints(observation: Observation) -> str:
    """
    Recorded and explained, never judged: what it prints depends on how the command line travels.
    """
    step = observation.step("run")
    log = step.data["kubernetes"]["logs"].get(CONTAINER, "").strip()
    _, said, rights = log.rpartition("Process has admin rights:")
    rights = rights.strip()
    if said and rights:
        return f"It printed the answer: {rights.splitlines()[0]}."
    if said:
        return (
            "It printed what the page itself shows, nothing behind `Process has admin rights:`: its PowerShell has no "
            "type Security.Principal.WindowsPrincipal, so it asked nobody. This shows no right."
        )
    if not log:
        return (
            "It printed nothing. With the bind filter the command line goes through `cmd /c`, which cuts it at the "
            f"first newline, before anything is printed. The container: {state_of(step, CONTAINER)}."
        )
    return f"It failed: {log.splitlines()[0][:200]}"
