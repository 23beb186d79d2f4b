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


def _pod(state: dict[str, Any], last: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    entry = {"name": "main", "state": state, "lastState": last or {}, "ready": "running" in state, **more}
    return {"status": {"phase": "Running", "containerStatuses": [entry]}}


@pytest.mark.parametrize(
    ("pod", "has_started", "ever_started", "has_ended", "running", "failing"),
    [
        (_pod(CREATING), False, False, False, False, False),
        (_pod(NOTHING), False, False, False, False, False),
        (_pod(RUNNING), True, True, False, True, False),
        (_pod(RUNNING, ready=False), True, True, False, False, False),
        (_pod(RUNNING, COMPLETED), True, True, True, True, True),
        (_pod(COMPLETED), True, True, True, False, True),
        (_pod(NOT_STARTED), False, False, True, False, True),
        (_pod(LOST), False, False, True, False, True),
        (_pod(BACK_OFF), False, False, False, False, True),
        # Here the two answers differ: it ran, and there is no log of a running container to follow.
        (_pod(BACK_OFF, COMPLETED), False, True, True, False, True),
        (_pod(BACK_OFF, NOT_STARTED), False, False, True, False, True),
        (_pod({"waiting": {"reason": "RunContainerError"}}), False, False, False, False, True),
        (_pod({"terminated": {"exitCode": 0}}), False, True, True, False, True),
    ],
)
def test_one_container(  # noqa: PLR0917
    pod: dict[str, Any], has_started: bool, ever_started: bool, has_ended: bool, running: bool, failing: bool
) -> None:
    status = pod_status.status_of(pod, "main")
    assert status is not None
    assert (
        pod_status.has_started(pod, "main"),
        pod_status.ever_started(status),
        pod_status.has_ended(pod, "main"),
        pod_status.running(pod),
        pod_status.failing(pod),
    ) == (has_started, ever_started, has_ended, running, failing)


def test_nothing_is_known_of_a_pod_that_was_not_seen() -> None:
    pods: tuple[dict[str, Any] | None, ...] = (None, {}, {"status": {}})
    for pod in pods:
        assert pod_status.statuses(pod) == []
        assert pod_status.status_of(pod, "main") is None
        assert not pod_status.has_started(pod, "main")
        assert not pod_status.has_ended(pod, "main")
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


def test_a_pod_in_one_line() -> None:
    assert pod_status.described(_pod(BACK_OFF, COMPLETED)) == "phase Running, main waiting CrashLoopBackOff"
    assert pod_status.described(_pod(RUNNING)) == "phase Running, main running"
    assert pod_status.described({}) == "phase None, no container status"
