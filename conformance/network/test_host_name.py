"""
A HostProcess container knows its machine by the machine's own name.
"""

from __future__ import annotations

from conformance import Defect, Observation, Requirement, Unknown, check

IS_THE_NODES = Requirement(
    "network/host-name/is-the-nodes",
    "A container's host name is its node's.",
    source="https://github.com/kubernetes/enhancements/blob/master/keps/sig-windows/"
    "1981-windows-privileged-container-support/README.md#networking",
)


@check(IS_THE_NODES, reads="host-network")
def test_the_host_name_is_the_nodes(observation: Observation) -> None:
    """
    Compared without case, which Windows does not care about, and never by ``COMPUTERNAME``, which it cuts at 15
    characters.
    """
    if not observation.node.host_name:
        raise Unknown("the node has no Hostname address", "node-fact-missing")
    seen = observation.step("listen").probe("listener")["hostName"]
    assert seen.lower() == observation.node.host_name.lower()


HOST_NAME_OF_ITS_OWN = Defect(
    "host-name-of-its-own",
    "A container is given a host name of its own, as one that is isolated has.",
    breaks=[IS_THE_NODES],
)
