"""
What a pod's status says: one table for every question that is asked of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from conformance._suite import pod_status

RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
COMPLETED: dict[str, Any] = {"terminated": {"reason": "Completed", "exitCode": 0}}
NOT_STARTED: dict[str, Any] = {"terminated": {"reason": "StartError", "exitCode": 128}}
LOST: dict[str, Any] = {"terminated": {"reason": "ContainerStatusUnknown", "exitCode": 137}}
BACK_OFF: dict[str, Any] = {"waiting": {"reason": "CrashLoopBackOff"}}
CREATING: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
NOTHING: dict[str, Any] = {}
FLAGS = 'failed to generate container "x" spec: pod spec and all containers inside must have the HostProcess field set'
RESERVED = 'failed to reserve container name "main_p_0": name is reserved for "0123"'
NON_ROOT = "container's runAsUserName (ContainerAdministrator) which ... will break non-root policy"


def _pod(state: dict[str, Any], last: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    entry = {"name": "main", "state": state, "lastState": last or {}, "ready": "running" in state, **more}
    return {"status": {"phase": "Running", "containerStatuses": [entry]}}


BIND = 'failed to create shim task: failed to bind target "C:\\a" to root "C:\\b" for job object: Access is denied.'
LAYER = "failed to create shim task: hcsshim::PrepareLayer failed in Win32: The device is not ready. (0x15): unknown"
MOUNT_REFUSED: dict[str, Any] = {"terminated": {"reason": "StartError", "exitCode": 128, "message": BIND}}
LAYER_TROUBLE: dict[str, Any] = {"terminated": {"reason": "StartError", "exitCode": 128, "message": LAYER}}
REBOOTED: dict[str, Any] = {"terminated": {"reason": "Error", "exitCode": -1073741510}}
FAILED: dict[str, Any] = {"terminated": {"reason": "Error", "exitCode": 1}}


def _waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("pod", "started", "running", "failing", "trouble"),
    [
        (_pod(CREATING), False, False, False, "not-settled"),
        (_pod(NOTHING), False, False, False, "not-settled"),
        (_pod(RUNNING), True, True, False, ""),
        (_pod(RUNNING, ready=False), True, False, False, ""),
        # What is started again counts anew, however it began.
        (_pod(RUNNING, COMPLETED), True, True, False, ""),
        (_pod(RUNNING, LAYER_TROUBLE), True, True, False, ""),
        (_pod(RUNNING, MOUNT_REFUSED), True, True, False, ""),
        # It has ended, and is about to be started again.
        (_pod(COMPLETED), True, False, False, ""),
        (_pod(FAILED), True, False, False, ""),
        # It ended again after it was started again.
        (_pod(BACK_OFF, COMPLETED), True, False, True, ""),
        (_pod(BACK_OFF, FAILED), True, False, True, ""),
        # It was refused twice; once may be a moment's.
        (_pod(BACK_OFF, MOUNT_REFUSED, restartCount=1), False, False, True, ""),
        (_pod(BACK_OFF, MOUNT_REFUSED, restartCount=0), False, False, False, ""),
        (_pod(BACK_OFF, MOUNT_REFUSED), False, False, False, ""),
        # Trouble may pass.
        (_pod(NOT_STARTED), False, False, False, "not-started"),
        (_pod(LAYER_TROUBLE), False, False, False, "runtime-trouble"),
        (_pod(BACK_OFF, LAYER_TROUBLE), False, False, False, "runtime-trouble"),
        (_pod(BACK_OFF, NOT_STARTED), False, False, False, "not-started"),
        (_pod(BACK_OFF, REBOOTED), True, False, False, "container-stopped"),
        (_pod(BACK_OFF, LOST), False, False, False, "container-lost"),
        (_pod(BACK_OFF), False, False, False, "not-settled"),
        (_pod(LOST), False, False, False, "container-lost"),
        (_pod(REBOOTED), True, False, False, "container-stopped"),
        (_pod({"terminated": {"reason": "Error", "exitCode": 0xC000013A}}), True, False, False, "container-stopped"),
        # It ran, and could not be started a second time.
        (_pod(LAYER_TROUBLE, FAILED), True, False, False, "runtime-trouble"),
        # Refused before there is a process.
        (_pod(_waiting("RunContainerError", BIND), MOUNT_REFUSED, restartCount=1), False, False, True, ""),
        (_pod(_waiting("RunContainerError", BIND), MOUNT_REFUSED, restartCount=0), False, False, False, ""),
        (_pod(_waiting("RunContainerError", LAYER)), False, False, False, "runtime-trouble"),
        (_pod(_waiting("RunContainerError")), False, False, False, "not-started"),
        (
            _pod(_waiting("CreateContainerError", "failed to reserve container name x")),
            False,
            False,
            False,
            "runtime-trouble",
        ),
        (_pod(_waiting("CreateContainerError", FLAGS)), False, False, True, ""),
        (_pod(_waiting("CreateContainerConfigError", NON_ROOT)), False, False, True, ""),
        (_pod(_waiting("CreateContainerConfigError", 'configmap "x" not found')), False, False, False, "not-started"),
        (_pod({"terminated": {"exitCode": 0}}), True, False, False, ""),
    ],
)
def test_one_container(pod: dict[str, Any], started: bool, running: bool, failing: bool, trouble: str) -> None:
    status = pod_status.status_of(pod, "main")
    assert status is not None
    found = pod_status.trouble(status)
    assert (
        pod_status.has_started(status),
        pod_status.running(pod),
        pod_status.failing(pod),
        pod_status.failing(pod, "main"),
        pod_status.decided(pod),
        found.code if found else "",
    ) == (started, running, failing, failing, failing, trouble)


def test_one_refusal_is_enough_where_nothing_is_started_again() -> None:
    for policy in ("Never", "OnFailure", "Always"):
        pod = {**_pod(_waiting("RunContainerError", BIND)), "spec": {"restartPolicy": policy}}
        assert pod_status.failing(pod) is (policy == "Never")
        assert pod_status.decided(pod) is (policy == "Never")


@pytest.mark.parametrize("state", [COMPLETED, FAILED, NOT_STARTED, LAYER_TROUBLE, LOST, REBOOTED])
def test_where_nothing_is_started_again_an_end_is_the_end(state: dict[str, Any]) -> None:
    pod = {**_pod(state), "spec": {"restartPolicy": "Never"}}
    assert pod_status.failing(pod)
    assert pod_status.decided(pod)
    assert pod_status.failing({**pod, "spec": {"restartPolicy": "OnFailure"}}) is (state is COMPLETED)


def test_a_pod_is_decided_by_all_of_its_containers() -> None:
    pod = {**_pod(_waiting("CreateContainerError", FLAGS)), "spec": {"restartPolicy": "Never"}}
    other = {"name": "other", "state": RUNNING, "ready": True}
    pod["status"]["containerStatuses"].append(other)
    assert pod_status.failing(pod)
    assert pod_status.failing(pod, "main")
    assert not pod_status.failing(pod, "other")
    assert not pod_status.decided(pod)
    other["state"] = COMPLETED
    assert pod_status.decided(pod)


def test_without_its_init_container_nothing_starts() -> None:
    pod = _pod(CREATING)
    first = {"name": "first", "state": _waiting("RunContainerError", BIND), "restartCount": 1}
    pod["status"]["initContainerStatuses"] = [first]
    assert pod_status.decided(pod)
    first["state"] = _waiting("RunContainerError", LAYER)
    assert not pod_status.decided(pod)


def test_the_words_of_a_refusal_are_whole_and_have_no_times() -> None:
    message = 'failed to start containerd task "' + "0" * 64 + '": ' + "x" * 3000
    ended = {"reason": "StartError", "exitCode": 128, "message": message, "startedAt": "1970-01-01T00:00:00Z"}
    for state in ({"terminated": ended}, BACK_OFF):
        entry = {"name": "main", "state": state, "lastState": {"terminated": ended}}
        assert pod_status.refusal(entry) == f"StartError, exit code 128: {message}"
    assert pod_status.refusal({"state": RUNNING, "lastState": {"terminated": ended}}) is None
    assert pod_status.refusal({"state": FAILED}) is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"status": {"reason": "Evicted", "message": "The node was low on memory."}}, "Evicted The node was low"),
        ({"status": {"reason": "NodeShutdown"}}, "NodeShutdown"),
        ({"status": {}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "deleted"),
        (
            {
                "status": {
                    "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]
                }
            },
            "TerminationByKubelet",
        ),
    ],
)
def test_a_pod_that_somebody_stopped(more: dict[str, Any], said: str) -> None:
    found = pod_status.stopped(more)
    assert found is not None
    assert (found.code, said in str(found)) == ("pod-stopped", True)
    assert pod_status.stopped(_pod(FAILED)) is None


def test_nothing_is_known_of_a_pod_that_was_not_seen() -> None:
    pods: tuple[dict[str, Any] | None, ...] = (None, {}, {"status": {}})
    for pod in pods:
        assert pod_status.statuses(pod) == []
        assert pod_status.status_of(pod, "main") is None
        assert not pod_status.runs(pod, "main")
        assert not pod_status.decided(pod)
        assert not pod_status.running(pod)
        assert not pod_status.failing(pod)
        assert not pod_status.finished(pod)
        assert pod_status.image_trouble(pod) is None


@pytest.mark.parametrize(
    ("phase", "finished"), [("Pending", False), ("Running", False), ("Succeeded", True), ("Failed", True)]
)
def test_a_pod_is_finished_by_its_phase(phase: str, finished: bool) -> None:
    assert pod_status.finished({"status": {"phase": phase}}) is finished
    # One that is finished runs no more, whatever its containers said last.
    assert pod_status.failing({"status": {"phase": phase}}) is finished


def test_an_init_container_that_completed_is_no_failure() -> None:
    pod = _pod(RUNNING)
    pod["status"]["initContainerStatuses"] = [{"name": "first", "state": COMPLETED}]
    assert [entry["name"] for entry in pod_status.statuses(pod)] == ["first", "main"]
    assert pod_status.running(pod)
    assert not pod_status.failing(pod)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_is_not_there(reason: str) -> None:
    pod = _pod({"waiting": {"reason": reason, "message": "no such image"}})
    assert pod_status.image_trouble(pod) == f"{reason}: no such image"
    assert not pod_status.failing(pod)


def test_what_an_image_lacks_is_told_by_the_event_where_the_state_only_says_back_off() -> None:
    pod = _pod(_waiting("ImagePullBackOff", 'Back-off pulling image "a/b:c"'), image="a/b:c")
    events = [{"reason": "Failed", "message": f'Failed to pull image "{image}": {why}'} for image, why in (
        ("a/b:c", "dial tcp: i/o timeout"), ("a/b:c", "401 Unauthorized"), ("other", "not found"))]  # fmt: skip
    assert pod_status.image_trouble(pod, events) == 'ErrImagePull: Failed to pull image "a/b:c": 401 Unauthorized'
    assert pod_status.image_trouble(pod, []) == 'ImagePullBackOff: Back-off pulling image "a/b:c"'
    newer = _pod(_waiting("ImagePullBackOff", 'Back-off pulling image "a/b:c": ErrImagePull: not found'), image="a/b:c")
    assert pod_status.image_trouble(newer, events) == (
        'ImagePullBackOff: Back-off pulling image "a/b:c": ErrImagePull: not found'
    )


def test_a_pod_in_one_line() -> None:
    assert pod_status.described(_pod(BACK_OFF, COMPLETED)) == (
        "phase Running, main waiting CrashLoopBackOff (before: Completed, exit code 0)"
    )
    assert pod_status.described(_pod(RUNNING)) == "phase Running, main running"
    assert pod_status.described({}) == "phase None, no container status"
