"""
The example DaemonSet of the AKS page.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Level, Observation, Requirement, Unknown, check
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
    Its command only sleeps, so a container that ends, and ends again, has failed; one that trouble kept from starting
    once, and that runs, has not. Whether Windows PowerShell is found is the runtime's doing: the image, Nano Server,
    has none.
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
    The same fields with a command that asks Windows, instead of a log in which the page itself shows an error. One that
    is not let run, by a policy of the node or a scanner, asks nothing, whatever becomes of its container.
    """
    step = observation.step("run")
    state = state_of(step, CONTAINER)
    if step.container(CONTAINER).refusal is not None:
        assert state == RUNNING
    facts = step.probe(CONTAINER)
    assert state == RUNNING
    seen = {
        "IsInRole(Administrator)": facts.known("isAdministrator"),
        ADMINISTRATORS: ADMINISTRATORS in facts.known("groups"),
    }
    assert seen == {"IsInRole(Administrator)": True, ADMINISTRATORS: True}


IMAGE_USER_PREFERRED = Defect(
    "image-user-preferred",
    "The user that an image names is preferred to the one of the pod: no log-on as ContainerUser, and no container.",
    breaks=[RUNNING_ON_EACH_NODE, ADMINISTRATOR_RIGHTS],
)

ARGUMENTS_ESCAPED_TWICE = Defect(
    "arguments-escaped-twice",
    "The runtime escapes each argument of a command twice: PowerShell gets its command in one more pair of quotes, and "
    "prints it instead of running it.",
    breaks=[RUNNING_ON_EACH_NODE],
    story="https://github.com/microsoft/hcsshim/pull/1226",
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


@check(OLDER_SCRIPT, reads=("aks-daemonset-older", "node-facts"))
def test_what_the_older_script_prints(observation: Observation) -> str:
    """
    Recorded and explained, never judged: what it prints depends on how the command line travels.
    """
    step = observation.of("aks-daemonset-older").step("run")
    log = step.data["kubernetes"]["logs"].get(CONTAINER, "").strip()
    _, said, rights = log.rpartition("Process has admin rights:")
    answer = rights.strip().partition("\n")[0].strip()
    if answer in {"True", "False"}:
        return f"It printed the answer: {answer}."
    if answer:
        return f"It printed no answer, but {answer[:200]}"
    if said and "Security.Principal.WindowsPrincipal" in log:
        return (
            "It printed what the page itself shows, nothing behind `Process has admin rights:`: its PowerShell has no "
            "type Security.Principal.WindowsPrincipal, so it asked nobody. This shows no right."
        )
    if log:
        return f"It printed no answer, but {log.splitlines()[0][:200]}"
    became = f"It printed nothing. The container: {state_of(step, CONTAINER)}."
    container = step.container(CONTAINER)
    ended_well = container.started and container.ended and container.terminated.get("exitCode") == 0
    if not (ended_well and _has_bind_filter(observation)):
        return became
    return (
        f"{became} With the bind filter, which Windows has here, the command line goes through `cmd /c`, which cuts it "
        "at the first newline, before anything is printed."
    )


def _has_bind_filter(observation: Observation) -> bool:
    try:
        return observation.of("node-facts").step("read").probe("reader")["bindFilter"] is True
    except Unknown:
        return False
