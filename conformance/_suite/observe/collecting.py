"""
Putting what there is into a step's record: the pod and its events, the logs, what the probes printed, the answer of a
pod's port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance._suite import evidence, pod_status
from conformance._suite.errors import TargetError, Unknown
from conformance._suite.observe.awaiting import log_path
from conformance._suite.observe.plan import Trouble
from conformance._suite.observe.requests import send
from conformance._suite.transient import THROTTLED
from conformance._suite.waiting import TryAgainError, persistently

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance._suite.cluster import Answer, Cluster
    from conformance._suite.observe.seen import Seen
    from conformance._suite.workload import Step

LOG_SECONDS = 10
"""For how long the API server's way to a kubelet is tried."""
PROXY_SECONDS = 5
"""For how long the API server's way to a pod's port is tried."""
LOST_OUTPUT = (
    "; it ended with exit code 0{}. A shim before 0.12, as containerd 1.6 and 1.7 have it, can lose the last output of "
    "a process that ends at once (https://github.com/microsoft/hcsshim/pull/2021)"
)
KEPT_LOG = 16 * 1024
"""Characters of a probe's log that evidence keeps; its facts stand beside it."""


def snapshot(seen: Seen, record: dict[str, Any], owner: str, node: str, *, keep: bool = False) -> None:
    """
    Put the pod and the events as last seen into a step's record; with ``keep`` a pod that is there already stays.
    """
    pods = seen.pods_of(owner, node)
    if pods and not (keep and record["kubernetes"]["pod"]):
        record["kubernetes"]["pod"] = pods[0]
    names = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    record["kubernetes"]["pods"] = names
    record["kubernetes"]["events"] = seen.events_of({owner, *names})


def what_is_known(seen: Seen, owner: str, node: str) -> str:
    """
    What is known about a pod that did not get where it should, in one line.
    """
    pods = seen.pods_of(owner, node)
    events = seen.events_of({owner, *(pod["metadata"]["name"] for pod in pods)})
    last = next(
        (f"; {event['reason']}: {event['message']}" for event in reversed(events) if event["type"] == "Warning"), ""
    )
    return (pod_status.described(pods[0]) if pods else "no pod was seen") + last


def no_sandbox(seen: Seen, owner: str, node: str) -> str | None:
    """
    Why the node made no sandbox for a pod, in the kubelet's words; None where it made one, or did not say why not.
    """
    events = [one for pod in seen.pods_of(owner, node) for one in seen.events_of({pod["metadata"]["name"]})]
    if any(event["reason"] in {"Pulling", "Pulled", "Created", "Started"} for event in events):
        return None
    said = [str(event["message"]) for event in events if event["reason"] == "FailedCreatePodSandBox"]
    return said[-1] if said else None


async def read_logs(cluster: Cluster, step: Step, record: dict[str, Any], logs: dict[str, str]) -> None:
    """
    Read the logs that were not read on the way, and what the probes printed in them. Raises Trouble for a log that
    cannot be read.
    """
    pod = record["kubernetes"]["pod"]
    if step.until == "event" or pod is None:
        return
    previous: dict[str, str] = {}
    for entry in pod_status.statuses(pod):
        name, runs_again = entry["name"], pod_status.runs(pod, entry["name"]) and pod_status.terminated(entry)
        if not pod_status.has_started(entry):
            logs.pop(name, None)
        elif name not in logs:
            logs[name] = await _read_log(cluster, pod, name)
        if runs_again and pod_status.has_started({"state": {"terminated": runs_again}}):
            previous[name] = (await _read_log(cluster, pod, name, previous="true"))[-KEPT_LOG:]
    record["kubernetes"]["logs"] = logs
    if previous:
        record["kubernetes"]["previousLogs"] = previous
    for name in step.probes:
        if name not in logs:
            record["probeTrouble"][name] = _why_not_started(pod, name, record["probeTrouble"])
            continue
        try:
            record["probe"][name] = evidence.parse_output(logs[name])
        except Unknown as error:
            record["probeTrouble"][name] = {"code": error.code, "message": str(error)}
        # The facts stand beside it; the log keeps what else was written.
        logs[name] = logs[name][:KEPT_LOG]


def worth_repeating(step: Step, record: Mapping[str, Any]) -> bool:
    """
    Whether a probe of a pod that has ended for good may well tell what it did not tell: the machine was in trouble when
    it was to be started, or it ended well and its line was lost on the way.
    """
    pod, told = record["kubernetes"]["pod"], record["probeTrouble"]
    if not told or step.until not in {"finished", "output"} or record["sent"][-1]["kind"] != "Pod":
        return False
    ends = {name: pod_status.terminated(pod_status.status_of(pod, name) or {}) or {} for name in told}
    return any(
        trouble["code"] == "runtime-trouble" or (not step.once and _is_lost(trouble, ends[name]))
        for name, trouble in told.items()
        if ends[name]
    )


def _is_lost(trouble: Mapping[str, str], end: Mapping[str, Any]) -> bool:
    return trouble["code"] in {"output-missing", "output-cut"} and end.get("exitCode") == 0


def explain_lost(record: Mapping[str, Any]) -> None:
    """
    Say of each probe that ended well without its line what may be the reason.
    """
    for name, trouble in record["probeTrouble"].items():
        end = pod_status.terminated(pod_status.status_of(record["kubernetes"]["pod"], name) or {}) or {}
        if _is_lost(trouble, end):
            trouble["message"] += LOST_OUTPUT.format(", the second time too" if "firstTry" in record else "")


def _why_not_started(pod: Mapping[str, Any], name: str, told: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """
    Why a container has no log, in the words of the kubelet or the runtime. One that waits for the init containers says
    what is ``told`` of the first whose probe was in trouble.
    """
    status = pod_status.status_of(pod, name) or {"name": name}
    stopped = pod_status.stopped(pod)
    waiting = (status.get("state") or {}).get("waiting") or {}
    if not stopped and waiting.get("reason") == "PodInitializing":
        for first in pod["status"].get("initContainerStatuses") or ():
            if why := told.get(first["name"]):
                return {"code": why["code"], "message": f"the init container {first['name']}: {why['message']}"}
    if unknown := stopped or pod_status.trouble(status):
        return {"code": unknown.code, "message": str(unknown)}
    return {"code": "not-started", "message": f"the container never started: {pod_status.refusal(status)}"}


async def _read_log(cluster: Cluster, pod: Mapping[str, Any], container: str, **which: str) -> str:
    query = {"container": container, "limitBytes": str(evidence.OUTPUT_LIMIT), **which}

    async def read() -> Answer:
        # 5xx is what the API server says of a kubelet that it does not reach.
        answer = await cluster.request("GET", log_path(pod), query=query, passing=THROTTLED)
        if answer.code >= 500:
            raise TryAgainError(f"{answer.code} {answer.message}")
        return answer

    try:
        answer = await persistently(read, LOG_SECONDS)
    except TryAgainError as error:
        raise Trouble("log-unreadable", f"the log of {container}: {error}") from error
    if answer.code != 200:
        raise Trouble("log-unreadable", f"the log of {container}: {answer.code} {answer.message}")
    return answer.body if isinstance(answer.body, str) else str(answer.body)


async def ask_through_proxy(cluster: Cluster, step: Step, record: Mapping[str, Any]) -> dict[str, Any]:
    """
    Ask the port that a probe says it listens on, through the API server; the answer as evidence keeps it.
    """
    wanted = step.proxy or {}
    facts = record["probe"].get(wanted["container"]) or {}
    told = facts.get(wanted["fact"])
    port = told.get(wanted["port"]) if isinstance(told, dict) else None
    metadata = record["kubernetes"]["pod"]["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{port}/proxy/"
    nothing = {
        "name": "proxy", "request": f"GET {path}", "code": 0, "reason": None, "message": "the probe listens on no port",
        "causes": [], "warnings": [], "body": None,
    }  # fmt: skip
    if not isinstance(port, int):
        return nothing

    async def ask() -> dict[str, Any]:
        # A refused connection, too, comes as a 503: an answer. Any other 5xx is the way there, not the node.
        try:
            answer = await send(cluster, "proxy", "GET", path, None, passing=THROTTLED)
        except TargetError as error:
            return {**nothing, "message": str(error)}
        if answer["code"] >= 500 and "refused" not in answer["message"]:
            asked.append(answer)
            raise TryAgainError(answer["message"])
        return answer

    asked: list[dict[str, Any]] = []
    try:
        return await persistently(ask, PROXY_SECONDS)
    except TryAgainError:
        return asked[-1]
