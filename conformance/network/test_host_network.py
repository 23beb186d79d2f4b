"""
A HostProcess pod is in its node's network: same addresses, same ports.
"""

from __future__ import annotations

import re

from conformance import Defect, Observation, Requirement, Unknown, check

_SILENCE = re.compile(r"i/o timeout|deadline exceeded|timed out|TLS handshake timeout", re.IGNORECASE)

ADDRESSES = Requirement(
    "network/host-network/addresses",
    "A pod's address is its node's, and its containers have the node's network interfaces.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
    "#when-should-i-use-a-windows-hostprocess-container",
)


@check(ADDRESSES, reads="host-network")
def test_the_pod_has_the_nodes_addresses(observation: Observation) -> None:
    """
    The kubelet copies the pod's address from the node, so what the container itself finds on its interfaces counts.
    """
    node = observation.node.internal_ip
    if not node:
        raise Unknown("the node has no InternalIP", "node-fact-missing")
    step = observation.step("listen")
    found = step.probe("listener")["addresses"]
    status = step.pod["status"]
    seen = {
        "podIP": status.get("podIP"),
        "hostIP": status.get("hostIP"),
        "on an interface": node if node in found else found,
    }
    assert seen == {"podIP": node, "hostIP": node, "on an interface": node}


LISTENER = Requirement(
    "network/host-network/listener",
    "A container that listens on the node's address is reached there from outside.",
    source="https://github.com/kubernetes/enhancements/blob/master/keps/sig-windows/"
    "1981-windows-privileged-container-support/README.md#networking",
)


@check(LISTENER, reads="host-network")
def test_a_listener_on_the_nodes_address_answers(observation: Observation) -> None:
    """
    The API server asks ``pods/<pod>:<port>/proxy``; what answers knows the run's nonce. Silence may be a firewall's,
    a refusal is the network's.
    """
    step = observation.step("listen")
    listener = step.probe("listener")["listener"]
    if listener["port"] is None:
        bound = f"the address could not be bound: socket error {listener['socketError']}"
    else:
        bound = "bound"
    assert bound == "bound"
    answer = step.answer("proxy")
    said = str(answer["body"] if answer["code"] == 200 else answer["message"]).strip()
    if answer["code"] == 504 or (answer["code"] != 200 and _SILENCE.search(said)):
        raise Unknown(f"nothing answered in time: {answer['code']} {said}", "proxy-timeout")
    assert {"code": answer["code"], "body": said} == {"code": 200, "body": observation.parameters["nonce"]}


COMPARTMENT_OF_ITS_OWN = Defect(
    "network-compartment-of-its-own",
    "A container is put into a network compartment of its own, with an address from the pod network.",
    breaks=[ADDRESSES, LISTENER],
)

POD_IP_FROM_CNI = Defect(
    "pod-ip-from-cni",
    "The pod is given an address from the pod network, although its processes are in the node's.",
    breaks=[ADDRESSES, LISTENER],
)

HOST_PORT_NOT_REACHABLE = Defect(
    "host-port-not-reachable",
    "Connections to a port that a container listens on are refused.",
    breaks=[LISTENER],
)
