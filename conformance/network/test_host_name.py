"""
A HostProcess container knows its machine by the machine's own name.
"""

from __future__ import annotations

from conformance import Containerd, Level, Observation, Requirement, Unknown, check

IS_THE_NODES = Requirement(
    "network/host-name/is-the-nodes",
    "A container's host name is that of the machine it runs on.",
    # The upstream test "should run as a process on the host/node"; no document says it.
    source="https://github.com/kubernetes/kubernetes/blob/v1.33.0/test/e2e/windows/host_process.go",
    level=Level.SHOULD,
    since=[Containerd("1.6")],
)


def on_the_machine(seen: str, machine: str) -> bool:
    """
    Whether a host name, seen in a container, is the one that the kubelet has. A kubelet on Windows tells its own host
    name as the node's ``machineID`` (kubernetes pkg/kubelet/winstats/perfcounter_nodestats_windows.go,
    getMachineInfo), whatever ``--hostname-override`` calls the node. Raises Unknown when the node tells none. Case does
    not matter to Windows.
    """
    if not machine:
        raise Unknown("the node's status has no machineID, the kubelet's own host name", "node-fact-missing")
    return seen.lower() == machine.lower()


@check(IS_THE_NODES, reads="host-network")
def test_the_host_name_is_the_nodes(observation: Observation) -> None:
    """
    The witness is the kubelet: whatever the container itself finds, the registry too, may be its own.
    """
    seen, machine = observation.step("listen").probe("listener").known("hostName"), observation.node.machine_id
    assert on_the_machine(seen, machine), f"{seen!r} is not the kubelet's {machine!r}"
