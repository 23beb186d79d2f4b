"""
What a pod's status says: has a container started, has it ended, is it in trouble? Pure.

A ``pod`` is the API's object, or None where none was seen; a ``status`` is one entry of ``containerStatuses``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance._suite.errors import Unknown
from conformance._suite.trouble import STOPPED_CODES, cause, is_trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
"""Reasons of a ``terminated`` state of a container that the runtime could not start."""
NEVER_RAN = _NOT_STARTED | {"ContainerStatusUnknown"}
"""Reasons of a ``terminated`` state behind which there was no process, or nobody knows."""
LOST = frozenset({"Unknown", "ContainerStatusUnknown"})
"""Reasons of a ``terminated`` state when the kubelet does not know how the container ended."""
_NOT_CREATED = frozenset({"CreateContainerError", "CreateContainerConfigError"})
_REFUSED = _NOT_CREATED | {"RunContainerError"}
"""Reasons of a ``waiting`` state whose message says why the container was not created or not started."""
_FAILING = _REFUSED | {"CrashLoopBackOff"}
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


def has_started(status: Mapping[str, Any]) -> bool:
    """
    Whether the runtime ever started a process for the container, before a restart too: whether it has a log.
    """
    for state in (status.get("state") or {}, status.get("lastState") or {}):
        ended = state.get("terminated")
        if "running" in state or (ended and ended.get("reason") not in NEVER_RAN):
            return True
    return False


def runs(pod: Mapping[str, Any] | None, name: str) -> bool:
    """
    Whether the container runs now.
    """
    return "running" in ((status_of(pod, name) or {}).get("state") or {})


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


def failing(pod: Mapping[str, Any] | None, name: str | None = None) -> bool:
    """
    Whether it is over with the pod: with any of its containers, or with the one of that ``name``. One that is started
    again counts anew, and so does one that trouble keeps from running, which may pass.
    """
    return finished(pod) or any(_over(pod, name))


def decided(pod: Mapping[str, Any] | None) -> bool:
    """
    Whether the pod is done, or each of its containers has ended for good or is refused.
    """
    over = list(_over(pod))
    return finished(pod) or (bool(over) and all(over))


def _over(pod: Mapping[str, Any] | None, name: str | None = None) -> Iterator[bool]:
    """
    Of each regular container, or the one of that ``name``, whether it has ended for good or is refused.
    """
    status = (pod or {}).get("status", {})
    policy = ((pod or {}).get("spec") or {}).get("restartPolicy", "Always")
    # Without its init containers no other one is started.
    never = any(_is_refused(entry, policy) for entry in status.get("initContainerStatuses") or ())
    for entry in status.get("containerStatuses") or ():
        if name in {None, entry["name"]}:
            ended = (entry.get("state") or {}).get("terminated")
            for_good = ended and (policy == "Never" or (policy == "OnFailure" and ended.get("exitCode") == 0))
            yield never or bool(for_good) or _is_refused(entry, policy)


def _is_refused(status: Mapping[str, Any], policy: str) -> bool:
    """
    Whether it waits after a start that failed, or after an end, in a way that another try does not change. Windows'
    words for a start that failed may be about a moment: where the kubelet starts it again, it has to fail twice. What
    is not even created fails by its spec, in containerd's or the kubelet's own words, each time; nobody counts those.
    """
    reason = (status.get("state") or {}).get("waiting", {}).get("reason")
    if reason not in _FAILING or trouble(status) is not None:
        return False
    once = reason not in _NOT_CREATED and refusal(status) is not None and not status.get("restartCount")
    return policy == "Never" or not once


def stopped(pod: Mapping[str, Any]) -> Unknown | None:
    """
    That somebody stopped the whole pod (it was evicted, deleted, its node shut down), which says nothing about its
    containers; None where nobody did.
    """
    status = pod.get("status", {})
    disrupted = next(
        (
            f"{one.get('reason')} {one.get('message') or ''}"
            for one in status.get("conditions") or ()
            if one.get("type") == "DisruptionTarget" and one.get("status") == "True"
        ),
        None,
    )
    if not (status.get("reason") or disrupted or "deletionTimestamp" in pod.get("metadata", {})):
        return None
    why = f"{status['reason']} {status.get('message') or ''}" if status.get("reason") else disrupted or "deleted"
    return Unknown(f"the pod was stopped: {why.strip()}", "pod-stopped")


def trouble(status: Mapping[str, Any]) -> Unknown | None:
    """
    Why what became of a container says nothing about it. None for one that runs, that ran and ended by itself, or that
    was refused for a ``cause`` of its own.
    """
    state = status.get("state") or {}
    if "running" in state:
        return None
    said = refusal(status)
    if said is not None:
        if is_trouble(said):
            return Unknown(f"the machine or its runtime was in trouble: {said}", "runtime-trouble")
        return None if cause(said) else Unknown(f"the container was not started: {said}", "not-started")
    ended = terminated(status)
    if ended is None:
        return Unknown(f"container {status.get('name')} neither runs nor has ended: {_told(state)}", "not-settled")
    if ended.get("reason") in LOST:
        return Unknown("the kubelet does not know how the container ended", "container-lost")
    if int(ended.get("exitCode") or 0) & 0xFFFFFFFF in STOPPED_CODES:
        return Unknown(f"the container was stopped by the machine: {_told({'terminated': ended})}", "container-stopped")
    return None


def refusal(status: Mapping[str, Any]) -> str | None:
    """
    The reason and the whole message with which the container was not created or not started, the last time that it
    should have been; None where that is not so.
    """
    state = status.get("state") or {}
    waiting, ended = state.get("waiting") or {}, terminated(status)
    if "running" in state:
        return None
    if waiting.get("reason") in _REFUSED:
        return _told(state)
    return _told({"terminated": ended}) if ended and ended.get("reason") in _NOT_STARTED else None


def _told(state: Mapping[str, Any]) -> str:
    """
    A state's reason and message, as the kubelet has them; no times.
    """
    detail: Mapping[str, Any] = next(iter(state.values()), {}) or {}
    code = f"exit code {detail['exitCode']}" if detail.get("exitCode") is not None else None
    reason = ", ".join(part for part in (detail.get("reason"), code) if part)
    return ": ".join(part for part in (reason, detail.get("message")) if part) or "no state"


def image_trouble(pod: Mapping[str, Any] | None, events: Iterable[Mapping[str, Any]] = ()) -> str | None:
    """
    Why images are not there, with their names and in the kubelet's words; None where that is not said. Kubelets before
    1.32 say why for a moment only and then `Back-off pulling image`; the events keep it.
    """
    found: dict[str, None] = {}
    for entry in statuses(pod):
        waiting = (entry.get("state") or {}).get("waiting", {})
        if waiting.get("reason") not in _NOT_PULLED:
            continue
        image, words = str(entry.get("image", "")), f"{waiting['reason']}: {waiting.get('message')}"
        told = [one["message"] for one in events if str(one["message"]).startswith(f'Failed to pull image "{image}": ')]
        if told and "ErrImagePull" not in words:
            words = f"ErrImagePull: {told[-1]}"
        found[words if image in words else f"{image}: {words}"] = None
    return "; ".join(found) or None


def described(pod: Mapping[str, Any]) -> str:
    """
    The phase and the containers' states, in one line, with the whole of what the runtime or the kubelet says of them.
    """
    states = []
    for entry in statuses(pod):
        state = entry.get("state") or {}
        told = (
            f"{entry['name']} {next(iter(state), 'waiting')} {_told(state) if 'running' not in state else ''}".strip()
        )
        ended = (entry.get("lastState") or {}).get("terminated")
        states.append(f"{told} (before: {_told({'terminated': ended})})" if ended else told)
    return f"phase {pod.get('status', {}).get('phase')}, {', '.join(states) or 'no container status'}"
