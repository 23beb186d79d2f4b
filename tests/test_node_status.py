"""
A pod's status, its back-off, and the volumes' files.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from infra.simulated.node import status, volumes
from infra.simulated.node.status import BackOff, ContainerState

NOW = "2026-01-01T00:00:00Z"


def _state(kind: str = "containers", **spec: Any) -> ContainerState:
    return ContainerState(kind, {"name": spec.pop("name", "c"), "image": "i", **spec})


def _ended(code: int, kind: str = "containers") -> ContainerState:
    state = _state(kind)
    state.ended(status.terminated(code, NOW, NOW, "containerd://1"))
    return state


def _running(ready: bool = True) -> ContainerState:
    state = _state()
    state.runs(NOW)
    state.ready = ready
    return state


def _backing_off(code: int) -> ContainerState:
    state = _ended(code)
    state.waits("CrashLoopBackOff", "…")
    return state


@pytest.mark.parametrize(
    ("states", "policy", "over", "phase"),
    [
        ([_state()], "Always", False, "Pending"),
        ([_running()], "Always", False, "Running"),
        ([_running(), _state()], "Always", False, "Pending"),
        ([_ended(0)], "Never", False, "Succeeded"),
        ([_ended(3)], "Never", False, "Failed"),
        ([_ended(0), _ended(3)], "Never", False, "Failed"),
        ([_ended(0)], "OnFailure", False, "Succeeded"),
        ([_ended(3)], "OnFailure", False, "Running"),
        ([_ended(0)], "Always", False, "Running"),
        ([_backing_off(1)], "Always", False, "Running"),
        ([_ended(0)], "Always", True, "Succeeded"),
        ([_ended(1)], "Always", True, "Failed"),
        ([_state()], "Always", True, "Failed"),
        ([_ended(1, "initContainers"), _state()], "Never", False, "Failed"),
        ([_ended(1, "initContainers"), _state()], "Always", False, "Pending"),
        ([_ended(0, "initContainers"), _running()], "Always", False, "Running"),
    ],
)
def test_phases(states: list[ContainerState], policy: str, over: bool, phase: str) -> None:
    assert status.phase(states, policy, over=over) == phase


def test_a_pod_that_waits_for_its_sidecar_is_pending() -> None:
    sidecar = _state("initContainers", name="s", restartPolicy="Always")
    assert status.phase([sidecar, _state()], "Always", over=False) == "Pending"
    sidecar.runs(NOW)
    sidecar.started = True
    assert status.phase([sidecar, _running()], "Always", over=False) == "Running"


def test_conditions_name_who_is_not_ready() -> None:
    made = {c["type"]: c for c in status.conditions([_running(ready=False)], "Running", sandbox=True)}
    assert made["PodReadyToStartContainers"]["status"] == "True"
    assert made["Initialized"]["status"] == "True"
    assert made["Ready"] == made["ContainersReady"] | {"type": "Ready"}
    assert made["Ready"]["reason"] == "ContainersNotReady"
    assert made["Ready"]["message"] == "containers with unready status: [c]"


@pytest.mark.parametrize(("phase", "reason"), [("Succeeded", "PodCompleted"), ("Failed", "PodFailed")])
def test_conditions_of_a_pod_that_has_ended(phase: str, reason: str) -> None:
    made = {c["type"]: c for c in status.conditions([_ended(0)], phase, sandbox=False)}
    assert made["Ready"]["reason"] == reason
    assert made["PodReadyToStartContainers"]["status"] == "False"


@pytest.mark.parametrize(
    ("kind", "more", "shown"),
    [
        ("containers", {}, (True, True)),
        ("containers", {"readinessProbe": {}}, (True, False)),
        ("containers", {"startupProbe": {}}, (False, False)),
        ("initContainers", {}, (False, False)),
        ("initContainers", {"restartPolicy": "Always"}, (True, True)),
    ],
)
def test_what_a_container_that_runs_is(kind: str, more: dict[str, Any], shown: tuple[bool, bool]) -> None:
    state = _state(kind, **more)
    state.runs(NOW)
    assert (state.started, state.ready) == shown


def test_a_pod_whose_init_container_runs_is_not_initialized() -> None:
    running, waiting = _state("initContainers", name="i"), _state()
    running.runs(NOW)
    assert status.phase([running, waiting], "Never", over=False) == "Pending"
    made = {c["type"]: c for c in status.conditions([running, waiting], "Pending", sandbox=True)}
    assert made["Initialized"]["status"] == "False"
    assert made["Initialized"]["message"] == "containers with incomplete status: [i]"
    running.ended(status.terminated(0, NOW, NOW, "containerd://1"))
    made = {c["type"]: c for c in status.conditions([running, waiting], "Pending", sandbox=True)}
    assert (running.ready, made["Initialized"]["status"]) == (True, "True")


def test_incomplete_init_containers_are_named() -> None:
    made = {c["type"]: c for c in status.conditions([_state("initContainers"), _state()], "Pending", sandbox=True)}
    assert made["Initialized"]["message"] == "containers with incomplete status: [c]"


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    before = [{"type": "Ready", "status": "False", "lastTransitionTime": "then"}]
    same = status.timed([{"type": "Ready", "status": "False"}], before, "now")
    changed = status.timed([{"type": "Ready", "status": "True"}], before, "now")
    assert [same[0]["lastTransitionTime"], changed[0]["lastTransitionTime"]] == ["then", "now"]


def test_a_start_that_failed() -> None:
    state = _state()
    end = status.terminated(128, status.NEVER, NOW, "containerd://1", reason=status.START_ERROR, message="full text")
    state.ended(end)
    shown = status.container_status(state)
    assert shown["state"]["terminated"] == {
        "exitCode": 128,
        "reason": "StartError",
        "message": "full text",
        "startedAt": "1970-01-01T00:00:00Z",
        "finishedAt": NOW,
        "containerID": "containerd://1",
    }
    state.waits("RunContainerError", "full text")
    shown = status.container_status(state)
    assert shown["state"] == {"waiting": {"reason": "RunContainerError", "message": "full text"}}
    assert shown["lastState"]["terminated"] == end


def test_back_off_begins_with_the_second_restart_and_is_forgotten() -> None:
    back_off = BackOff()
    assert [back_off.after(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert back_off.after(601) == 0


@pytest.mark.parametrize(("delay", "shown"), [(10, "10s"), (40, "40s"), (80, "1m20s"), (300, "5m0s")])
def test_back_off_texts(delay: float, shown: str) -> None:
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}}
    assert status.back_off_message(delay, "c", pod) == f"back-off {shown} restarting failed container=c pod=p_n(u)"


def test_files_of_a_config_map_and_a_secret() -> None:
    encoded = base64.b64encode(b"\0binary").decode()
    item = {"data": {"a": "alpha"}, "binaryData": {"b": encoded}}
    assert volumes.payload(item, None, "configmap") == {"a": b"alpha", "b": b"\0binary"}
    assert volumes.payload(item, [{"key": "a", "path": "x/y"}], "configmap") == {"x/y": b"alpha"}
    assert volumes.payload({"data": {"s": encoded}}, None, "secret") == {"s": b"\0binary"}
    assert volumes.payload({}, None, "secret") == {}
    with pytest.raises(volumes.MountError, match="references non-existent configmap key: z"):
        volumes.payload(item, [{"key": "z", "path": "z"}], "configmap")
