"""
A HostProcess pod is in its node's network: same addresses, same ports.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from conformance import Containerd, Defect, Level, Observation, Requirement, Unknown, check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance._suite.observation import Step

NETWORKING = (
    "https://github.com/kubernetes/enhancements/blob/master/keps/sig-windows/"
    "1981-windows-privileged-container-support/README.md#networking"
)
NOT_OF_THIS_MACHINE = 10049
"""The socket error for an address that no interface in sight has."""


def refused(listener: Mapping[str, Any], said: str) -> bool:
    """
    Whether the API server was told that the listener's own address and port refused the connection: by the call that
    connects, or by the whole answer of a proxy that was asked to. A refusal by something between them is none.
    """
    address = f"[{listener['address']}]" if ":" in listener["address"] else listener["address"]
    there = rf"\b{{}} {re.escape(address)}:{listener['port']}"
    connect = rf"{there.format('dial tcp')}: connect(?:: connection refused|ex: [^:]*\brefused)\b"
    proxied = rf"{there.format('dialing')}, code \d+: \d+ connection refused$"
    return bool(re.search(f"{connect}|{proxied}", said, re.IGNORECASE))


def likely_cause(step: Step, listener: Mapping[str, Any]) -> str:
    """
    Why the API server may not have reached the listener, and what helps.
    """
    pod, taken = step.pod, listener.get("wantedPortError")
    asked = pod["status"].get("podIP")
    if asked != listener["address"]:
        return f"The API server asks at the pod's status.podIP, {asked}, where the container does not listen"
    cause = "The likely cause is a firewall between the API server and the node"
    if taken:
        return f"The port that --listener-port names could not be had: socket error {taken}. {cause}"
    sent = [one for container in pod["spec"]["containers"] for one in container.get("env", ())]
    if any(one["name"] == "LISTENER_PORT" and one.get("value") != "0" for one in sent):
        return f"{cause}: it has to let port {listener['port']} through"
    return f"{cause}: --listener-port makes it one port that can be let through"


ADDRESSES = Requirement(
    "network/host-network/addresses",
    "A pod's address is its node's, and its containers have the node's network interfaces.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
    "#when-should-i-use-a-windows-hostprocess-container",
    since=[Containerd("1.6")],
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
    "A container can listen on the node's address.",
    source=NETWORKING,
    since=[Containerd("1.6")],
)


@check(LISTENER, reads="host-network")
def test_a_container_listens_on_the_nodes_address(observation: Observation) -> None:
    """
    Windows lets a process bind only addresses of its own network compartment. Which port it is says nothing.
    """
    error = observation.step("listen").probe("listener")["listener"]["socketError"]
    if error not in {None, NOT_OF_THIS_MACHINE}:
        raise Unknown(f"the address could not be bound: socket error {error}", "socket-trouble")
    bound = "bound" if error is None else f"the address could not be bound: socket error {error}"
    assert bound == "bound"


REACHED_FROM_OUTSIDE = Requirement(
    "network/host-network/reached-from-outside",
    "A container that listens on the node's address is reached there from outside.",
    # It has the host's address; that somebody comes through to it is inferred.
    source=NETWORKING,
    level=Level.SHOULD,
    since=[Containerd("1.6")],
)


@check(REACHED_FROM_OUTSIDE, reads="host-network")
def test_a_listener_on_the_nodes_address_answers(observation: Observation) -> None:
    """
    The API server asks ``pods/<pod>:<port>/proxy``, that is the node's address and this port; what answers knows the
    run's nonce. A refusal of this very address and port is the container's network; whatever else keeps the answer away
    lies on the way there.
    """
    step = observation.step("listen")
    listener = step.probe("listener")["listener"]
    if listener["port"] is None:
        raise Unknown(f"nothing listens: socket error {listener['socketError']}", "nothing-listens")
    answer = step.answer("proxy")
    if answer["code"] != 200 and not step.must_be_told("listener").ready:
        raise Unknown("the listener had ended when it was asked", "listener-ended")
    said = str(answer["body"] if answer["code"] == 200 else answer["message"]).strip()
    if answer["code"] != 200 and not refused(listener, said):
        raise Unknown(
            f"the API server did not reach {listener['address']}, port {listener['port']}: {answer['code']} {said}. "
            + likely_cause(step, listener),
            "proxy-trouble",
        )
    assert {"code": answer["code"], "body": said} == {"code": 200, "body": observation.parameters["nonce"]}


COMPARTMENT_OF_ITS_OWN = Defect(
    "network-compartment-of-its-own",
    "A container is put into a network compartment of its own, with an address from the pod network.",
    breaks=[ADDRESSES, LISTENER],
)

POD_IP_FROM_CNI = Defect(
    "pod-ip-from-cni",
    "The pod is given an address from the pod network, although its processes are in the node's.",
    breaks=[ADDRESSES],
)

HOST_PORT_NOT_REACHABLE = Defect(
    "host-port-not-reachable",
    "Connections to a port that a container listens on are refused.",
    breaks=[REACHED_FROM_OUTSIDE],
)
