"""
A pod's status from the state of its containers. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What containerd says of a container that never ran.
START_ERROR = "StartError"
START_ERROR_CODE = 128
NEVER = "1970-01-01T00:00:00Z"


@dataclass(slots=True)
class ContainerState:
    """
    One container of a pod, over all its starts. ``kind`` is the list in the spec that it stands in; ``waiting`` is
    (reason, message); ``terminated`` is the end that is shown as the state, ``last`` the one before the present start.
    """

    kind: str
    spec: dict[str, Any]
    waiting: tuple[str, str] | None = None
    running_since: str | None = None
    terminated: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    restart_count: int = 0
    container_id: str = ""
    image_id: str = ""
    ready: bool = False
    started: bool = False
    finished: bool = False

    @property
    def name(self) -> str:
        """
        The container's name.
        """
        return str(self.spec["name"])

    @property
    def sidecar(self) -> bool:
        """
        Whether it is an init container that stays.
        """
        return self.kind == "initContainers" and self.spec.get("restartPolicy") == "Always"

    def runs(self, since: str) -> None:
        """
        It has started. An ordinary init container is ready when it has ended well, not before; others wait for their
        probes.

        Source: kubernetes pkg/kubelet/prober/prober_manager.go (UpdatePodStatus).
        """
        self.waiting, self.running_since, self.terminated = None, since, None
        stays = self.kind != "initContainers" or self.sidecar
        self.started = stays and "startupProbe" not in self.spec
        self.ready = self.started and "readinessProbe" not in self.spec

    def ended(self, terminated: dict[str, Any]) -> None:
        """
        It has ended, or could not start.
        """
        self.waiting, self.running_since, self.terminated = None, None, terminated
        self.ready = self.kind == "initContainers" and not self.sidecar and terminated["exitCode"] == 0
        self.started = False

    def waits(self, reason: str, message: str = "") -> None:
        """
        It is to start (again); its last end becomes the last state.
        """
        if self.terminated is not None:
            self.last = self.terminated
        self.waiting, self.running_since, self.terminated = (reason, message), None, None
        self.ready = self.started = False


def terminated(
    code: int, started: str, finished: str, container_id: str, *, reason: str | None = None, message: str | None = None
) -> dict[str, Any]:
    """
    A ``ContainerStateTerminated``.
    """
    made: dict[str, Any] = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "startedAt": started,
        "finishedAt": finished,
        "containerID": container_id,
    }
    if message:
        made["message"] = message
    return made


def container_status(state: ContainerState) -> dict[str, Any]:
    """
    A ``ContainerStatus``.
    """
    if state.running_since is not None:
        shown: dict[str, Any] = {"running": {"startedAt": state.running_since}}
    elif state.terminated is not None:
        shown = {"terminated": state.terminated}
    else:
        reason, message = state.waiting or ("PodInitializing", "")
        shown = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    made: dict[str, Any] = {
        "name": state.name,
        "image": state.spec["image"],
        "imageID": state.image_id,
        "state": shown,
        "lastState": {"terminated": state.last} if state.last else {},
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restart_count,
    }
    if state.container_id:
        made["containerID"] = state.container_id
    return made


def phase(states: list[ContainerState], policy: str, *, over: bool) -> str:
    """
    The pod's phase; ``over`` when nothing of it can run any more, whatever the restart policy says.
    """
    pending_init = failed_init = 0
    for state in states:
        if state.kind != "initContainers":
            continue
        if state.sidecar:
            pending_init += 0 if state.started or state.terminated or over else 1
        elif state.terminated is not None:
            failed_init += 1 if state.terminated["exitCode"] else 0
        else:
            pending_init += 1
            failed_init += 1 if state.last is not None and state.last["exitCode"] else 0
    if failed_init and policy == "Never":
        return "Failed"
    waiting = running = stopped = succeeded = 0
    for state in states:
        if state.kind != "containers":
            continue
        end = state.terminated or (state.last if state.running_since is None else None)
        if state.running_since is not None:
            running += 1
        elif end is not None:
            stopped += 1
            succeeded += 1 if end["exitCode"] == 0 and state.terminated is not None else 0
        else:
            waiting += 1
    if over and not running:
        return "Failed" if waiting or stopped != succeeded else "Succeeded"
    if pending_init or waiting:
        return "Pending"
    if running:
        return "Running"
    if policy == "Always":
        return "Running"
    if stopped == succeeded:
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _condition(kind: str, true: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    made = {"type": kind, "status": "True" if true else "False"}
    if reason:
        made["reason"] = reason
    if message:
        made["message"] = message
    return made


def conditions(states: list[ContainerState], pod_phase: str, *, sandbox: bool) -> list[dict[str, Any]]:
    """
    The conditions that the kubelet owns, without times; ``sandbox`` while the pod has one.
    """
    made = [_condition("PodReadyToStartContainers", sandbox)]
    waits = [s.name for s in states if s.kind == "initContainers" and not (s.started if s.sidecar else s.ready)]
    if pod_phase == "Succeeded":
        made.append(_condition("Initialized", True, "PodCompleted"))
    elif waits and pod_phase != "Running":
        text = f"containers with incomplete status: [{' '.join(waits)}]"
        made.append(_condition("Initialized", False, "ContainersNotInitialized", text))
    else:
        made.append(_condition("Initialized", True))
    unready = [s.name for s in states if (s.kind == "containers" or s.sidecar) and not s.ready]
    if pod_phase == "Succeeded":
        reason, text = "PodCompleted", ""
    elif pod_phase == "Failed":
        reason, text = "PodFailed", ""
    else:
        reason, text = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    done = pod_phase in {"Succeeded", "Failed"}
    for kind in ("Ready", "ContainersReady"):
        if done or unready:
            made.append(_condition(kind, False, reason, text))
        else:
            made.append(_condition(kind, True))
    return made


def timed(made: list[dict[str, Any]], before: list[dict[str, Any]], now: str) -> list[dict[str, Any]]:
    """
    The conditions with ``lastTransitionTime``: kept where the status is as it was.
    """
    known = {item["type"]: item for item in before}
    result = []
    for item in made:
        old = known.get(item["type"])
        same = old is not None and old.get("status") == item["status"]
        since = old.get("lastTransitionTime", now) if old is not None and same else now
        result.append({**item, "lastProbeTime": None, "lastTransitionTime": since})
    return result


def back_off_message(delay: float, container: str, pod: dict[str, Any]) -> str:
    """
    What a container in CrashLoopBackOff says.
    """
    minutes, rest = divmod(int(delay), 60)
    shown = f"{minutes}m{rest}s" if minutes else f"{rest}s"
    return f"back-off {shown} restarting failed container={container} pod={pod_text(pod)}"


def pod_text(pod: dict[str, Any]) -> str:
    """
    A pod as the kubelet names it in messages.
    """
    metadata = pod["metadata"]
    return f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"


class BackOff:
    """
    The kubelet's restart back-off of one container: none for the first restart, then 10 s, doubled up to 5 min, and
    forgotten after 10 min of running. Times are seconds of a monotonic clock.
    """

    FIRST = 10.0
    LONGEST = 300.0

    def __init__(self) -> None:
        self._delay = 0.0

    def after(self, ran: float) -> float:
        """
        The seconds to wait after an end, when the container ran for ``ran`` seconds.
        """
        if ran > 2 * self.LONGEST:
            self._delay = 0.0
        now, self._delay = self._delay, min(max(self._delay * 2, self.FIRST), self.LONGEST)
        return max(0.0, now)
