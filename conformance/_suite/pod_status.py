"""
What a pod's status says: has a container started, has it ended, is it in trouble? Pure.

A ``pod`` is the API's object, or None where none was seen; a ``status`` is one entry of ``containerStatuses``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NEVER_RAN = frozenset({"StartError", "ContainerCannotRun", "ContainerStatusUnknown"})
"""Reasons of a ``terminated`` state behind which there was no process, or nobody knows."""
LOST = frozenset({"Unknown", "ContainerStatusUnknown"})
"""Reasons of a ``terminated`` state when the kubelet does not know how the container ended."""
_FAILING = frozenset({"CrashLoopBackOff", "RunContainerError"})
_NOT_PULLED = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


def statuses(pod: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """
    The statuses of all containers, init containers first.
    """
    status = (pod or {}).get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def status_of(pod: Mapping[str, Any] | None, name: str) -> dict[str, Any] | None:
    """
    The status of one container, None where the kubelet has not told it yet.
    """
    return next((entry for entry in statuses(pod) if entry["name"] == name), None)


def terminated(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """
    How a container ended, be it restarted or waiting for that since; None where it never did.
    """
    for state in (status.get("state") or {}, status.get("lastState") or {}):
        if ended := state.get("terminated"):
            return ended  # type: ignore[no-any-return]
    return None


def has_ended(pod: Mapping[str, Any] | None, name: str) -> bool:
    """
    Whether the container has ended at least once.
    """
    status = status_of(pod, name)
    return status is not None and terminated(status) is not None


def has_started(pod: Mapping[str, Any] | None, name: str) -> bool:
    """
    Whether the container runs, or has run and was not restarted since: whether there is a log to follow now. Says less
    than ``ever_started``: a container that waits to be restarted has not started, nor has one that ended for no reason
    that is told.
    """
    state = (status_of(pod, name) or {}).get("state") or {}
    return "running" in state or state.get("terminated", {}).get("reason") not in {None, *NEVER_RAN}


def ever_started(status: Mapping[str, Any]) -> bool:
    """
    Whether the runtime ever started a process for the container, before a restart too.
    """
    for state in (status.get("state") or {}, status.get("lastState") or {}):
        if "running" in state:
            return True
        ended = state.get("terminated")
        if ended and ended.get("reason") not in NEVER_RAN:
            return True
    return False


def finished(pod: Mapping[str, Any] | None) -> bool:
    """
    Whether the pod is done, one way or the other.
    """
    return (pod or {}).get("status", {}).get("phase") in {"Succeeded", "Failed"}


def running(pod: Mapping[str, Any] | None) -> bool:
    """
    Whether every regular container runs and is ready.
    """
    regular = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return bool(regular) and all(entry.get("ready") and "running" in (entry.get("state") or {}) for entry in regular)


def failing(pod: Mapping[str, Any] | None) -> bool:
    """
    Whether a container has ended or cannot be started, although it should run; a pod that succeeded, too, runs no more.
    """
    waiting = {(entry.get("state") or {}).get("waiting", {}).get("reason") for entry in statuses(pod)}
    regular = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return finished(pod) or bool(waiting & _FAILING) or any(terminated(entry) is not None for entry in regular)


def image_trouble(pod: Mapping[str, Any] | None) -> str | None:
    """
    Why images are not there, with their names and in the kubelet's words; None where that is not said.
    """
    found: dict[str, None] = {}
    for entry in statuses(pod):
        waiting = (entry.get("state") or {}).get("waiting", {})
        if waiting.get("reason") in _NOT_PULLED:
            words, image = f"{waiting['reason']}: {waiting.get('message')}", str(entry.get("image", ""))
            found[words if image in words else f"{image}: {words}"] = None
    return "; ".join(found) or None


def described(pod: Mapping[str, Any]) -> str:
    """
    The phase and the containers' states, in one line.
    """
    states = [
        f"{entry['name']} {kind} {detail.get('reason') or ''}".strip()
        for entry in statuses(pod)
        for kind, detail in (entry.get("state") or {}).items()
    ]
    return f"phase {pod.get('status', {}).get('phase')}, {', '.join(states) or 'no container status'}"
