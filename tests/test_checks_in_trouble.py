"""
Checks of network, storage and operation, given what no simulated node shows: trouble proves nothing, and hides nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance import Containerd, Observation, Scope, Unknown
from conformance._suite import catalogue, pod_status
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.observation import Evidence, Step
from conformance._suite.trouble import WIN32, cause, is_trouble
from conformance.network.test_host_network import likely_cause
from conformance.operation.states import state_of
from conformance.storage.test_volumes import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGES = catalogue.load()
NODE = NodeFacts("n", "u", "10.0.0.4", "n", "containerd://1.7.34", "v1.37.2", "Windows", "10.0.20348.1", 4)
UID, NONCE = "11111111-2222-4333-8444-555555555555", "77a0f0123ab"
MARKERS = dict.fromkeys(KINDS, "other") | {"empty-dir": "one", "secret": "two"}


def judge(requirement: str, step: str, **seen: Any) -> str:
    """
    ``green``, ``red``, or the code of what is unknown, for one workload with one completed step. ``seen`` are the
    container's ``facts``, its ``log`` and ``state``, the pod's ``status``, the answers of the ``api``, the ``node``.
    """
    container = seen.get("container", "test")
    state = {"name": container, "ready": True, "state": {"running": {}}, **seen.get("state", {})}
    pod = {
        "metadata": {"name": "p", "uid": UID},
        "spec": {"containers": [{"name": container}]},
        "status": {"phase": "Running", "containerStatuses": [state], **seen.get("status", {})},
    }
    data = {
        "name": step,
        "met": True,
        "api": seen.get("api", []),
        "kubernetes": {"pod": pod, "events": [], "logs": {container: seen.get("log", "")}},
        "probe": {"writer": {"written": {}}, container: seen.get("facts")},
        "probeTrouble": seen.get("told", {}),
    }
    check = PAGES.checks[requirement]
    evidence = Evidence({"workload": "w", "parameters": {"nonce": NONCE, "markers": MARKERS}, "steps": [data]})
    facts = ClusterFacts("simulated", "v1.37.2", simulated=True)
    try:
        check.function(Observation({check.reads[0]: evidence}, facts, seen.get("node", NODE)))
    except AssertionError:
        return "red"
    except Unknown as unknown:
        return unknown.code
    return "green"


def test_every_requirement_of_a_node_says_since_when_it_holds() -> None:
    without = [
        one.id
        for one in PAGES.requirements.values()
        if one.scope is Scope.NODE and not any(isinstance(bound, Containerd) for bound in one.since)
    ]
    assert without == []


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (200, NONCE, "green"),
        (200, "another answers", "red"),
        (503, "error trying to reach service: dial tcp 10.0.0.4:5000: connect: connection refused", "red"),
        (503, "proxy error from egress.sock while dialing 10.0.0.4:5000, code 502: 502 connection refused", "red"),
        (503, "dial tcp 10.0.0.4:5000: connectex: the target machine actively refused it.", "red"),
        (503, 'dialing proxy "127.0.0.1:8131" failed: dial tcp 127.0.0.1:8131: connect: connection refused', ""),
        (503, "failed to dial 10.0.0.4:5000: dial tcp 127.0.0.1:8131: connect: connection refused", ""),
        (503, "dial tcp 10.0.0.4:50001: connect: connection refused", ""),
        (503, "error trying to reach service: dial tcp 10.0.0.4:5000: i/o timeout", ""),
        (503, "dial tcp 10.0.0.4:5000: i/o timeout; fallback connection refused", ""),
        (503, "dial tcp 10.0.0.4:5000: proxyconnect: connection refused by proxy 10.9.9.9", ""),
        (503, "proxy error from x while dialing 10.0.0.4:5000, code 502: 502 connection refused by proxy 10.9.9.9", ""),
        (503, "dial tcp 10.0.0.4:5000: connect: no route to host", ""),
        (503, "No agent available", ""),
        (502, "EOF", ""),
        (500, "read: connection reset by peer", ""),
        (504, "", ""),
        (403, "pods is forbidden", ""),
        (404, "not found", ""),
        (0, "the connection broke", ""),
    ],
)
def test_only_a_refusal_or_another_answer_is_the_networks(code: int, said: str, expected: str) -> None:
    answer = {"name": "proxy", "code": code, "message": said, "body": said}
    listener = {"address": "10.0.0.4", "port": 5000, "socketError": None}
    seen = {"container": "listener", "facts": {"listener": listener}, "api": [answer]}
    reached = judge("network/host-network/reached-from-outside", "listen", **seen)
    assert reached == (expected or "proxy-trouble")
    assert judge("network/host-network/listener", "listen", **seen) == "green"


@pytest.mark.parametrize(
    ("pod_ip", "wanted", "taken", "said", "unsaid"),
    [
        ("10.0.0.4", "0", None, "firewall.*: --listener-port makes it one port", "podIP"),
        ("10.0.0.4", "5000", None, "firewall.*: it has to let port 5000 through", "--listener-port"),
        ("10.0.0.4", "4000", 10013, "--listener-port names could not be had: socket error 10013.*firewall", "podIP"),
        ("10.244.0.6", "0", None, "status.podIP, 10.244.0.6, where the container does not listen", "firewall"),
        ("10.244.0.6", "5000", None, "status.podIP, 10.244.0.6, where", "firewall|--listener-port"),
    ],
)
def test_why_nobody_came_through(pod_ip: str, wanted: str, taken: int | None, said: str, unsaid: str) -> None:
    env = [{"name": "HOST_IP", "valueFrom": {}}, {"name": "LISTENER_PORT", "value": wanted}]
    pod = {"spec": {"containers": [{"name": "listener", "env": env}]}, "status": {"podIP": pod_ip}}
    listener = {"address": "10.0.0.4", "port": 5000, "socketError": None, "wantedPortError": taken}
    told = likely_cause(Step({"name": "listen", "kubernetes": {"pod": pod}}), listener)
    assert re.search(said, told)
    assert not re.search(unsaid, told)


@pytest.mark.parametrize(("error", "expected"), [(10049, "red"), (10013, "socket-trouble")])
def test_an_address_that_cannot_be_bound(error: int, expected: str) -> None:
    listener = {"address": "10.0.0.4", "port": None, "socketError": error, "wantedPortError": None}
    seen = {"container": "listener", "facts": {"listener": listener}}
    assert judge("network/host-network/listener", "listen", **seen) == expected
    assert judge("network/host-network/reached-from-outside", "listen", **seen) == "nothing-listens"


@pytest.mark.parametrize(
    ("host", "kubelet", "expected"),
    [
        ("win-1", "WIN-1", "green"),
        ("5f2a7c9e1b", "WIN-1", "red"),
        ("win-1", "", "node-fact-missing"),
        (None, "WIN-1", "fact-unknown"),
    ],
)
def test_the_host_name_is_compared_with_the_kubelets(host: str | None, kubelet: str, expected: str) -> None:
    """
    Whatever the container finds elsewhere: the registry of an isolated one has its own name too.
    """
    facts = {"hostName": host, "machineName": host}
    node = replace(NODE, machine_id=kubelet)
    assert judge("network/host-name/is-the-nodes", "listen", container="listener", facts=facts, node=node) == expected


BROKEN = {"error": "in use", "type": "System.IO.IOException"}


@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        (("one", "two"), "green"),
        (("one", "(win32 3)"), "red"),
        (("one", BROKEN), "fact-unknown"),
        (("(win32 1921)", BROKEN), "red"),
    ],
)
def test_a_volume_that_could_not_be_looked_at_hides_no_other(markers: Sequence[Any], expected: str) -> None:
    facts = {"relativePath": MARKERS | dict(zip(("empty-dir", "secret"), markers, strict=True))}
    assert judge("storage/volumes/relative-path", "read", container="reader", facts=facts) == expected


BIND = 'failed to create shim task: failed to bind target "C:\\a" to root "{}" for job object: {}'


@pytest.mark.parametrize(
    ("root", "why", "volumes", "token"),
    [
        ("C:\\b", "Do not attach the filter to the volume at this time.", "red", "not-started"),
        ("C:\\var\\run\\secrets\\kubernetes.io\\serviceaccount", "Access is denied.", "red", "red"),
        ("C:\\b", "winapi error #5", "red", "not-started"),
        ("C:\\b", "Zugriff verweigert (0x80070005)", "red", "not-started"),
        # Words of a language that nobody reads may be about the machine.
        ("C:\\b", "Zugriff verweigert", "not-started", "not-started"),
        ("C:\\b", "Die Auslagerungsdatei ist zu klein, um diesen Vorgang auszuführen.", "not-started", "not-started"),
        ("C:\\b", "The device is not ready. (0x15)", "runtime-trouble", "runtime-trouble"),
    ],
)
def test_a_volume_that_cannot_be_mounted_is_a_finding_about_volumes(
    root: str, why: str, volumes: str, token: str
) -> None:
    state = ended("StartError", BIND.format(root, why))
    unknown = pod_status.trouble({"name": "reader", **state})
    told = {"reader": {"code": unknown.code if unknown else "not-started", "message": "x"}}
    for requirement, expected in (
        ("storage/volumes/relative-path", volumes),
        ("storage/volumes/at-mount-path-with-drive", volumes),
        ("storage/service-account-token/at-mount-path", token),
    ):
        assert judge(requirement, "read", container="reader", state=state, told=told) == expected


OWN = {"sha256": "0" * 64, "podUid": UID}
STALE = {"sha256": "1" * 64, "podUid": "another"}


@pytest.mark.parametrize(
    ("with_drive", "with_slashes", "expected"),
    [
        (OWN, OWN, "green"),
        (OWN, STALE, "red"),
        (OWN, {"sha256": "2" * 64, "podUid": None}, "red"),
        ("(not a token)", OWN, "red"),
        (OWN, BROKEN, "fact-unknown"),
        (BROKEN, BROKEN, "fact-unknown"),
        (BROKEN, "(win32 3)", "red"),
    ],
)
def test_a_token_is_the_pods_own(with_drive: object, with_slashes: object, expected: str) -> None:
    facts = {"serviceAccount": {"mountPathWithDrive": with_drive, "mountPathWithSlashes": with_slashes}}
    assert judge("storage/service-account-token/at-mount-path", "read", container="reader", facts=facts) == expected


def ended(reason: str, message: str = "", **more: object) -> dict[str, Any]:
    end = {"reason": reason, "message": message, "exitCode": 1, **more}
    return {"ready": False, "state": {"terminated": end}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"ready": False, "state": {"waiting": {"reason": reason, "message": message}}}


TIMED_OUT = "failed to create containerd task: context deadline exceeded"
PROGRAM = 'failed to start containerd task "x": failed to get application name from commandline "y": failed to find '
TASK = "failed to create containerd task: failed to create shim task: "
LAYER = TASK + "failed to mount container storage: hcsshim::{} failed in Win32: {}: unknown"
# Windows says these in its own language; the numbers are the same everywhere.
TROUBLES = [
    TIMED_OUT,
    'failed to reserve container name "c_p_0"',
    "rpc error: code = DeadlineExceeded desc = stream terminated",
    LAYER.format("PrepareLayer", "Falscher Parameter. (0x57)"),
    LAYER.format("ActivateLayer", "Der Prozess kann nicht auf die Datei zugreifen (0x20)"),
    LAYER.format("CreateSandboxLayer", "There is not enough space on the disk. (0x70)"),
    TASK + "failed to mount container storage: Insufficient system resources exist to complete the requested service.",
    TASK + 'failed to bind target "a" to root "b" for job object: Nicht genug Systemressourcen (0x5aa)',
    TASK + 'failed to bind target "a" to root "b" for job object: The device is not ready.',
    "failed to create user process token: failed to logon user: winapi error #1455",
    PROGRAM + "executable: (HRESULT 0x800705AF)",
]
# Windows' English sentences, by the number that the shim does not write.
SENTENCES = {
    8: "Not enough memory resources are available to process this command.",
    14: "Not enough storage is available to complete this operation.",
    21: "The device is not ready.",
    32: "The process cannot access the file because it is being used by another process.",
    33: "The process cannot access the file because another process has locked a portion of the file.",
    39: "The disk is full.",
    112: "There is not enough space on the disk.",
    121: "The semaphore timeout period has expired.",
    170: "The requested resource is in use.",
    258: "The wait operation timed out.",
    995: "The I/O operation has been aborted because of either a thread exit or an application request.",
    1075: "The dependency service does not exist or has been marked for deletion.",
    1115: "A system shutdown is in progress.",
    1117: "The request could not be performed because of an I/O device error.",
    1130: "Not enough server storage is available to process this command.",
    1311: "There are currently no logon servers available to service the logon request.",
    1312: "A specified logon session does not exist. It may already have been terminated.",
    1355: "The specified domain either does not exist or could not be contacted.",
    1450: "Insufficient system resources exist to complete the requested service.",
    1451: "Insufficient system resources exist to complete the requested service.",
    1452: "Insufficient system resources exist to complete the requested service.",
    1453: "Insufficient quota to complete the requested service.",
    1454: "Insufficient quota to complete the requested service.",
    1455: "The paging file is too small for this operation to complete.",
    1460: "This operation returned because the timeout period expired.",
    1722: "The RPC server is unavailable.",
    1723: "The RPC server is too busy to complete this operation.",
    1726: "The remote procedure call failed.",
    1816: "Not enough quota is available to process this command.",
}
TOKEN = TASK + "failed to create user process token: "
SYSTEM = TOKEN + 'failed to logon user "NT AUTHORITY\\SYSTEM": '


def test_a_number_of_trouble_is_known_by_its_sentence_too() -> None:
    assert SENTENCES.keys() == WIN32.keys()
    for number, sentence in SENTENCES.items():
        for said in (sentence, f"Etwas anderes (0x{number:x})", f"0x8007{number:04x}", f"winapi error #{number}"):
            for before in (SYSTEM, BIND.format("C:\\b", "")):
                assert is_trouble(before + said), said
                assert cause(before + said) is None, said


@pytest.mark.parametrize(
    ("said", "accounts", "operation"),
    [
        (SYSTEM + "Access is denied.", "red", "red"),
        (SYSTEM + "The user name or password is incorrect.", "red", "red"),
        (SYSTEM + "The specified account does not exist.", "red", "red"),
        (SYSTEM + "winapi error #1326", "red", "red"),
        (TOKEN + "empty username or group name passed", "red", "red"),
        (SYSTEM + "Logon failure: the user has not been granted the requested logon type", "account-policy", ""),
        (SYSTEM + "winapi error #1385", "account-policy", ""),
        (SYSTEM + "An internal error occurred.", "log-on-failed", ""),
        (SYSTEM + "The security database has not been started.", "log-on-failed", ""),
        (SYSTEM + "A required privilege is not held by the client.", "log-on-failed", ""),
        (SYSTEM + "Der Benutzername oder das Kennwort ist falsch.", "log-on-failed", ""),
        *((SYSTEM + SENTENCES[number], "runtime-trouble", "runtime-trouble") for number in (1075, 1312, 1355)),
    ],
)
def test_a_log_on_that_fails_is_judged_alike_wherever_it_fails(said: str, accounts: str, operation: str) -> None:
    state = ended("StartError", said)
    seen = {"container": "local-system", "state": state}
    assert judge("accounts/system-accounts/local-system", "log-on", **seen) == accounts
    expected = operation or "not-started"
    assert judge("operation/ping-sample/answered", "run", state=state) == expected
    seen["container"] = "powershell"
    assert judge("operation/aks-daemonset/running-on-each-node", "run", **seen) == expected


STATES = [
    ({}, "running"),
    (ended("Error"), "red"),
    (ended("StartError", PROGRAM + "executable"), "red"),
    (
        ended("StartError", TASK + 'failed to bind target "a" to root "b" for job object: Do not attach the filter'),
        "red",
    ),
    (ended("StartError", "failed to create process: The directory name is invalid."), "red"),
    (ended("StartError", "failed to create user process token: failed to logon user: Access is denied."), "red"),
    ({**waiting("CrashLoopBackOff"), "lastState": ended("Error")["state"]}, "red"),
    # One start that failed, and the next one did not.
    *(({"lastState": ended("StartError", text)["state"]}, "running") for text in (PROGRAM, *TROUBLES)),
    *(
        ({**waiting("CrashLoopBackOff"), "lastState": ended("StartError", text)["state"]}, "runtime-trouble")
        for text in TROUBLES
    ),
    *((ended("StartError", text), "runtime-trouble") for text in TROUBLES),
    (ended("StartError", "something that nobody has seen yet"), "not-started"),
    # A reboot, or a service that is stopped: nobody says a reason of the pod.
    (ended("Error", exitCode=-1073741510), "container-stopped"),
    *((ended("Error", exitCode=code), "container-stopped") for code in (0xC000013A, 0x40010004, 0xC000026B)),
    (ended("Unknown"), "container-lost"),
    (ended("ContainerStatusUnknown"), "container-lost"),
    (waiting("CreateContainerError", 'failed to reserve container name "c_p_0"'), "runtime-trouble"),
    (waiting("CreateContainerError", "something else"), "not-started"),
    (waiting("ContainerCreating"), "not-settled"),
    ({"state": {}}, "not-settled"),
]


@pytest.mark.parametrize(("state", "expected"), STATES)
def test_trouble_of_the_runtime_is_no_finding_about_a_sample(state: dict[str, Any], expected: str) -> None:
    daemonset = judge("operation/aks-daemonset/running-on-each-node", "run", container="powershell", state=state)
    assert daemonset == ("green" if expected == "running" else expected)
    ping = judge("operation/ping-sample/answered", "run", state=state, log="Pinging 127.0.0.1")
    assert ping == ("red" if expected == "running" else expected)


RIGHTS = {"isAdministrator": True, "groups": ["S-1-5-32-544"]}
MODE = {"code": "language-mode", "message": "ConstrainedLanguage"}
CRASHING = {**waiting("CrashLoopBackOff"), "lastState": ended("Error")["state"]}


@pytest.mark.parametrize(
    ("state", "facts", "told", "expected"),
    [
        ({}, RIGHTS, {}, "green"),
        ({}, RIGHTS | {"isAdministrator": False}, {}, "red"),
        (CRASHING, RIGHTS, {}, "red"),
        (ended("StartError", PROGRAM + "executable"), None, {"code": "no-output", "message": "x"}, "red"),
        # Device Guard, AppLocker; AMSI, of which the bootstrap itself knows nothing.
        (CRASHING, None, MODE, "language-mode"),
        (CRASHING, None, {"code": "output-missing", "message": "x"}, "output-missing"),
        (ended("StartError", TIMED_OUT), None, MODE, "runtime-trouble"),
    ],
)
def test_a_daemonset_whose_script_may_not_run_shows_no_rights(
    state: dict[str, Any], facts: object, told: dict[str, str], expected: str
) -> None:
    seen = {"container": "powershell", "state": state, "facts": facts, "told": {"powershell": told} if told else {}}
    assert judge("operation/aks-daemonset/administrator-rights", "run", **seen) == expected


def test_a_pod_that_was_evicted_says_nothing() -> None:
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    assert judge("operation/ping-sample/answered", "run", status=status, state=ended("Error")) == "pod-stopped"


def test_what_is_told_of_a_start_that_failed_is_its_message_and_the_log_has_its_own_name() -> None:
    state = {**waiting("CrashLoopBackOff"), "lastState": ended("StartError", "y" * 900 + PROGRAM)["state"]}
    pod = {"status": {"containerStatuses": [{"name": "test", **state}]}, "metadata": {}}
    data = {"name": "run", "kubernetes": {"pod": pod, "logs": {"test": "an earlier start"}}}
    assert state_of(Step(data), "test") == (
        f"not started: StartError, exit code 1: {'y' * 900}{PROGRAM}; what it wrote before: an earlier start"
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [({}, "red"), (ended("Error"), "listener-ended"), (ended("Error", exitCode=-1073741510), "container-stopped")],
)
def test_a_listener_that_has_ended_refuses_nothing(state: dict[str, Any], expected: str) -> None:
    said = "error trying to reach service: dial tcp 10.0.0.4:5000: connect: connection refused"
    facts = {"listener": {"address": "10.0.0.4", "port": 5000, "socketError": None}}
    api = [{"name": "proxy", "code": 503, "message": said, "body": said}]
    asked = {"container": "listener", "facts": facts, "api": api, "state": state}
    assert judge("network/host-network/reached-from-outside", "listen", **asked) == expected


def test_an_answered_ping_is_one() -> None:
    log = "Reply from 127.0.0.1: bytes=32 time<1ms TTL=128"
    assert judge("operation/ping-sample/answered", "run", log=log) == "green"


MIXED = 'failed to generate container "x" spec: pod spec and all containers inside must have the HostProcess field set'
DENIED = "failed to create user process token: failed to logon user: Access is denied.: unknown"
ORDINARY = "failed to create shim task: hcs::CreateComputeSystem x: The parameter is incorrect."


@pytest.mark.parametrize(
    ("state", "host", "expected"),
    [
        (ended("Completed", exitCode=0), "WIN-1", "green"),
        (ended("Completed", exitCode=0), "5f2a7c9e1b", "red"),
        (waiting("CreateContainerError", MIXED), None, "red"),
        (ended("StartError", ORDINARY), None, "red"),
        (ended("StartError", DENIED), None, "other-refusal"),
        (ended("StartError", TIMED_OUT), None, "runtime-trouble"),
        (waiting("CreateContainerError", "in words that nobody knows"), None, "not-started"),
        (ended("Completed", exitCode=0), None, "no-output"),
        (ended("Completed", exitCode=0), "", "fact-unknown"),
    ],
)
def test_a_container_that_says_itself_that_it_is_a_host_process_container(
    state: dict[str, Any], host: str | None, expected: str
) -> None:
    facts = {"hostName": host or None} if host is not None else None
    seen = {"container": "by-itself", "facts": facts, "state": state, "node": replace(NODE, machine_id="win-1")}
    assert judge("operation/container-level/is-host-process", "start", **seen) == expected
