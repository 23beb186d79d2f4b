"""
A HostProcess container knows its machine by the machine's own name.
"""

from __future__ import annotations

from conformance import Containerd, Defect, Observation, Requirement, Unknown, check

IS_THE_NODES = Requirement(
    "network/host-name/is-the-nodes",
    "A container's host name is that of the machine it runs on.",
    # The upstream test "should run as a process on the host/node".
    source="https://github.com/kubernetes/kubernetes/blob/v1.33.0/test/e2e/windows/host_process.go",
    since=[Containerd("1.6")],
)


@check(IS_THE_NODES, reads="host-network")
def test_the_host_name_is_the_nodes(observation: Observation) -> None:
    """
    Compared with what the machine's registry has, without case, which Windows does not care about. Neither with the
    node's name, which ``--hostname-override`` may have changed, nor with ``COMPUTERNAME``, which is cut at 15
    characters.
    """
    facts = observation.step("listen").probe("listener")
    seen, machine = facts["hostName"], facts["machineName"]
    if not machine:
        raise Unknown("the registry has no host name of the machine", "node-fact-missing")
    assert seen.lower() == machine.lower()


HOST_NAME_OF_ITS_OWN = Defect(
    "host-name-of-its-own",
    "A container is given a host name of its own, as one that is isolated has.",
    breaks=[IS_THE_NODES],
)
