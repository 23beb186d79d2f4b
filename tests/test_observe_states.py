"""
How the engine waits for a pod, and what it keeps of it, when containers fail, come back, or never begin: against a
cluster that plays what a kubelet says.
"""

from __future__ import annotations

import asyncio
import contextlib
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import web

from conformance._suite.cluster import Answer, Cluster, RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.facts import ClusterFacts
from conformance._suite.namespaces import namespaces_of
from conformance._suite.observe import collecting, requests
from conformance._suite.observe.awaiting import Awaiting, Patience
from conformance._suite.observe.plan import Plan, Stage, Trouble
from conformance._suite.observe.seen import Seen
from conformance._suite.preflight.clocks import clock_skew
from conformance._suite.workload import Step, load
from tests.test_kernel_cluster import _serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
FAILED: dict[str, Any] = {"terminated": {"reason": "Error", "exitCode": 1}}
COMPLETED: dict[str, Any] = {"terminated": {"reason": "Completed", "exitCode": 0}}
BACK_OFF: dict[str, Any] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
LAYER = "failed to create shim task: hcsshim::PrepareLayer failed in Win32: The device is not ready. (0x15): unknown"
NOT_STARTED: dict[str, Any] = {
    "terminated": {"reason": "StartError", "exitCode": 128, "message": LAYER, "startedAt": "1970-01-01T00:00:00Z"}
}
POD = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}
LINE = '<<<observation {"a": 1} observation>>>\n'
SETTLED = Step("run", "settled", 60, manifest="x", stable=0.05)
OUTPUT = Step("run", "output", 60, manifest="x", probes=("main",))


def pod(
    state: dict[str, Any], last: dict[str, Any] | None = None, policy: str = "Always", **status: Any
) -> dict[str, Any]:
    entry = {"name": "main", "state": state, "lastState": last or {}, "ready": "running" in state}
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node", "restartPolicy": policy, "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "containerStatuses": [entry], **status},
    }


@dataclass
class Kubelet:
    """
    In the place of a Cluster: the log of each run of the container, ``previous`` included, and the pod's states, of
    which the next one is shown when a log that is followed has ended.
    """

    seen: Seen
    states: Iterator[dict[str, Any]]
    logs: list[str] = field(default_factory=lambda: [""])
    asked: list[dict[str, str]] = field(default_factory=list)
    stays: bool = False
    """Whether a log that is followed never ends."""
    late: float = 0
    """How many seconds an answer takes."""

    async def stream(self, _: str, query: dict[str, str], **__: Any) -> AsyncIterator[bytes]:
        self.asked.append(query)
        await asyncio.sleep(self.late)
        text = self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]
        if text == "refused":
            raise RefusedError("GET log", Answer(400, "is waiting to start"))
        yield text.encode()
        if "follow" not in query:
            return
        if self.stays:
            await asyncio.sleep(60)
        asyncio.get_running_loop().call_later(0.01, self.show_next)

    def show_next(self) -> None:
        for state in self.states:
            self.seen.pod_changed("MODIFIED", state)
            return

    async def request(self, _: str, __: str, query: dict[str, str], **___: Any) -> Answer:
        self.asked.append(query)
        return Answer(200, "the run before" if query.get("previous") else "the last run")


PLAN = Plan("run", Path(), ClusterFacts("existing", "v1.37.2", simulated=False), (), ())


def wait_for(step: Step, kubelet: Kubelet, seconds: float = 5, later: tuple[float, ...] = ()) -> dict[str, str]:
    """
    Wait for the step; further states are shown after so many seconds each. Raises TimeoutError.
    """

    async def go_on() -> None:
        for moment in later:
            await asyncio.sleep(moment)
            kubelet.show_next()

    async def run() -> dict[str, str]:
        kubelet.show_next()
        going = asyncio.create_task(go_on())
        try:
            async with asyncio.timeout(seconds) as timer:
                patience = Patience(timer, seconds)
                awaiting = Awaiting(cast("Cluster", kubelet), PLAN, kubelet.seen, step, "p", "node", patience)
                return await awaiting.until_met()
        finally:
            going.cancel()

    return asyncio.run(run())


def kubelet_of(*states: dict[str, Any], **more: Any) -> Kubelet:
    return Kubelet(Seen(), iter(states), **more)


def test_a_sample_that_ends_again_and_again_has_failed() -> None:
    kubelet = kubelet_of(pod(RUNNING), pod(FAILED), pod(RUNNING, FAILED), pod(BACK_OFF, FAILED))
    wait_for(SETTLED, kubelet, later=(0.02, 0.04, 0.06))
    assert kubelet.seen.pod_of("p", "node") == pod(BACK_OFF, FAILED)


def test_a_sample_that_has_ended_is_not_taken_for_one_that_runs_where_every_answer_is_late() -> None:
    """
    Neither the status nor the log says for longer than ``stable`` that it has ended.
    """
    kubelet = kubelet_of(pod(RUNNING), pod(BACK_OFF, FAILED), late=3 * SETTLED.stable)
    wait_for(SETTLED, kubelet)
    assert kubelet.seen.pod_of("p", "node") == pod(BACK_OFF, FAILED)


DENIED = "failed to create user process token: failed to logon user: Access is denied.: unknown"


def refused(times: int) -> dict[str, Any]:
    end = {"terminated": {"reason": "StartError", "exitCode": 128, "message": DENIED}}
    shown = pod({"waiting": {"reason": "RunContainerError", "message": DENIED}}, end)
    shown["status"]["containerStatuses"][0]["restartCount"] = times - 1
    return shown


@pytest.mark.parametrize("until", ["settled", "log"])
def test_one_refusal_by_name_is_waited_for_and_a_second_one_is_not(until: str) -> None:
    step = replace(SETTLED, until=until, log={"container": "main", "pattern": "Pinging"})
    kubelet = kubelet_of(
        refused(1), pod(RUNNING, refused(1)["status"]["containerStatuses"][0]["lastState"]), stays=True
    )
    kubelet.logs = ["Pinging"]
    assert wait_for(step, kubelet, later=(0.05,)) == ({"main": "Pinging"} if until == "log" else {})
    kubelet = kubelet_of(refused(1), refused(2))
    assert wait_for(step, kubelet, later=(0.05,)) == ({"main": ""} if until == "log" else {})
    assert kubelet.seen.pod_of("p", "node") == refused(2)
    with pytest.raises(TimeoutError):
        wait_for(step, kubelet_of(refused(1)), 0.2)


@pytest.mark.parametrize("last", [NOT_STARTED, FAILED])
def test_a_sample_that_runs_undisturbed_has_settled_however_it_began(last: dict[str, Any]) -> None:
    kubelet = kubelet_of(pod(RUNNING, last), stays=True)
    assert wait_for(SETTLED, kubelet) == {}
    assert kubelet.seen.pod_of("p", "node") == pod(RUNNING, last)


@pytest.mark.parametrize("until", ["settled", "output", "finished"])
def test_trouble_is_waited_for(until: str) -> None:
    kubelet = kubelet_of(pod(BACK_OFF, NOT_STARTED))
    with pytest.raises(TimeoutError):
        wait_for(replace(OUTPUT, until=until), kubelet, 0.2)


@pytest.mark.parametrize("reason", ["CreateContainerError", "CreateContainerConfigError", "RunContainerError"])
@pytest.mark.parametrize("until", ["settled", "output", "finished"])
def test_what_is_refused_by_name_is_not_waited_for(until: str, reason: str) -> None:
    said = "pod spec and all containers inside must have the HostProcess field set to be valid"
    kubelet = kubelet_of(pod({"waiting": {"reason": reason, "message": said}}, policy="Never"))
    assert wait_for(replace(OUTPUT, until=until), kubelet) == ({"main": ""} if until == "output" else {})


def test_the_log_of_the_run_that_counts_is_read() -> None:
    """
    The first run breaks off, the second one tells; a log that is not there while the container waits is no trouble.
    """
    kubelet = kubelet_of(
        pod(RUNNING, NOT_STARTED), pod(RUNNING), pod(RUNNING), logs=["<<<observation {", "refused", "refused", LINE]
    )
    assert wait_for(OUTPUT, kubelet) == {"main": LINE}


def read_logs(step: Step, shown: dict[str, Any], logs: dict[str, str] | None = None) -> tuple[dict[str, Any], Kubelet]:
    kubelet = kubelet_of(shown)
    record: dict[str, Any] = {
        "kubernetes": {"pod": shown, "logs": {}}, "probe": dict.fromkeys(step.probes), "probeTrouble": {},
    }  # fmt: skip
    asyncio.run(collecting.read_logs(cast("Cluster", kubelet), step, record, dict(logs or {})))
    return record, kubelet


def test_a_container_in_back_off_has_its_log_read_and_one_that_runs_again_both() -> None:
    record, kubelet = read_logs(SETTLED, pod(BACK_OFF, FAILED))
    assert record["kubernetes"]["logs"] == {"main": "the last run"}
    assert "previousLogs" not in record["kubernetes"]
    record, kubelet = read_logs(SETTLED, pod(RUNNING, FAILED))
    assert record["kubernetes"]["logs"] == {"main": "the last run"}
    assert record["kubernetes"]["previousLogs"] == {"main": "the run before"}
    record, kubelet = read_logs(SETTLED, pod(RUNNING, NOT_STARTED))
    assert "previousLogs" not in record["kubernetes"], "there was no process"
    assert len(kubelet.asked) == 1


@pytest.mark.parametrize(
    ("shown", "code", "said"),
    [
        (pod(NOT_STARTED, policy="Never"), "runtime-trouble", f"StartError, exit code 128: {LAYER}"),
        (pod(BACK_OFF, NOT_STARTED), "runtime-trouble", LAYER),
        (
            pod({"terminated": {"reason": "StartError", "exitCode": 128, "message": "failed to bind target x"}}),
            "not-started",
            "StartError, exit code 128: failed to bind target x",
        ),
        (pod({"waiting": {"reason": "CreateContainerError", "message": "because"}}), "not-started", "because"),
        (pod({"waiting": {"reason": "ContainerCreating"}}), "not-settled", "ContainerCreating"),
        (pod(NOT_STARTED, reason="Evicted", message="low on disk"), "pod-stopped", "Evicted low on disk"),
    ],
)
def test_a_probe_that_never_started_says_why_in_the_runtimes_words(shown: dict[str, Any], code: str, said: str) -> None:
    # An empty log is what follows from a container that never started.
    for logs in ({}, {"main": ""}):
        record, _ = read_logs(OUTPUT, shown, logs)
        trouble = record["probeTrouble"]["main"]
        assert (trouble["code"], said in trouble["message"]) == (code, True)
        assert "1970" not in trouble["message"]
        assert record["kubernetes"]["logs"] == {}


@pytest.mark.parametrize(
    ("first", "log", "code", "said"),
    [
        (
            {
                "terminated": {
                    "reason": "StartError",
                    "exitCode": 128,
                    "message": "failed to bind target x: The parameter is incorrect.",
                }
            },
            "",
            "not-started",
            "the container never started: StartError, exit code 128: failed to bind target x",
        ),
        (FAILED, "<<<trouble language-mode: ConstrainedLanguage trouble>>>", "language-mode", "ConstrainedLanguage"),
        (RUNNING, "<<<observation {} observation>>>", "not-settled", "container main neither runs nor has ended"),
    ],
)
def test_a_probe_behind_an_init_container_says_why_that_one_did_not_end_well(
    first: dict[str, Any], log: str, code: str, said: str
) -> None:
    shown = pod({"waiting": {"reason": "PodInitializing"}})
    shown["status"]["initContainerStatuses"] = [{"name": "first", "state": first}]
    record, _ = read_logs(replace(OUTPUT, probes=("first", "main")), shown, {"first": log})
    trouble = record["probeTrouble"]["main"]
    assert (trouble["code"], said in trouble["message"]) == (code, True)
    assert ("the init container first: " in trouble["message"]) is (first is not RUNNING)


@pytest.mark.parametrize(
    ("code", "end", "once", "again"),
    [
        ("output-missing", COMPLETED, False, True),
        ("output-cut", COMPLETED, False, True),
        ("output-missing", COMPLETED, True, False),
        ("output-missing", FAILED, False, False),
        ("output-garbage", COMPLETED, False, False),
        ("runtime-trouble", NOT_STARTED, False, True),
        ("runtime-trouble", NOT_STARTED, True, True),
        ("not-started", NOT_STARTED, False, False),
    ],
)
def test_what_is_worth_a_second_try(code: str, end: dict[str, Any], once: bool, again: bool) -> None:
    record = {
        "kubernetes": {"pod": pod(end, policy="Never")},
        "sent": [{"kind": "ConfigMap"}, {"kind": "Pod"}],
        "probeTrouble": {"main": {"code": code, "message": "x"}},
    }
    for until in ("finished", "output"):
        step = replace(OUTPUT, until=until, once=once)
        assert collecting.worth_repeating(step, record) is again
        assert not collecting.worth_repeating(step, {**record, "sent": [{"kind": "DaemonSet"}]})
        assert not collecting.worth_repeating(step, {**record, "probeTrouble": {}})


def test_a_second_try_needs_the_half_of_the_time() -> None:
    async def run() -> tuple[bool, bool]:
        async with asyncio.timeout(1) as timer:
            patience = Patience(timer, 1)
            before = patience.has_time
            await asyncio.sleep(0)
            timer.reschedule(asyncio.get_running_loop().time() + 0.4)
            return before, patience.has_time

    assert asyncio.run(run()) == (True, False)


@pytest.mark.parametrize(
    ("said", "denied"),
    [
        ('Error creating: pods "x-" is forbidden: violates PodSecurity', True),
        (
            'Error creating: admission webhook "g" denied the request: [azurepolicy] not for a service account',
            True,
        ),
        ('Error creating: Pod "x-" is invalid: spec: Forbidden', True),
        ("Error creating: Internal error occurred: failed calling webhook", False),
        ('Error creating: pods "x-" is forbidden: error looking up service account n/default: not found', False),
        ("Error creating: etcdserver: request timed out", False),
        ('Error creating: pods "x-" is forbidden: status unknown for quota: q, resources: pods', False),
        ('Error creating: pods "x-" is forbidden: not yet ready to handle request', False),
        ('Error creating: pods "x-" is forbidden: exceeded quota: q, requested: pods=1', True),
    ],
)
def test_a_controllers_pod_that_is_refused_is_not_waited_for(said: str, denied: bool) -> None:
    seen = Seen()
    event = {
        "metadata": {"uid": "e", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "involvedObject": {"kind": "DaemonSet", "name": "p"},
        "type": "Warning", "reason": "FailedCreate", "message": said,
    }  # fmt: skip

    async def run() -> None:
        seen.event_changed("ADDED", event)
        async with asyncio.timeout(0.1) as timer:
            await Awaiting(cast("Cluster", None), PLAN, seen, SETTLED, "p", "node", Patience(timer, 1)).until_met()

    with pytest.raises(Trouble if denied else TimeoutError) as ended:
        asyncio.run(run())
    if denied:
        assert (cast("Trouble", ended.value).code, said in str(ended.value)) == ("refused-by-api", True)


@pytest.mark.parametrize(
    ("reason", "said", "met"),
    [
        ("FailedCreate", 'Error creating: pods "x" is forbidden: violates PodSecurity "baseline:latest": a (b)', True),
        ("SuccessfulCreate", "Created pod: p-x", True),
        ("FailedCreate", 'Error creating: pods "x-" is forbidden: error looking up service account n/default', False),
        ("FailedCreate", "Error creating: Internal error occurred: failed calling webhook", False),
    ],
)
def test_the_event_that_is_waited_for_is_pod_securitys(reason: str, said: str, met: bool) -> None:
    seen, (_, step) = Seen(), load("admission").steps
    event = {
        "metadata": {"uid": "e", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "involvedObject": {"kind": "DaemonSet", "name": "p"},
        "type": "Warning", "reason": reason, "message": said,
    }  # fmt: skip

    async def run() -> None:
        seen.event_changed("ADDED", event)
        async with asyncio.timeout(0.1) as timer:
            await Awaiting(cast("Cluster", None), PLAN, seen, step, "p", "", Patience(timer, 1)).until_met()

    with contextlib.nullcontext() if met else pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_container_that_never_started_has_no_clock() -> None:
    now = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    assert clock_skew(pod(NOT_STARTED), now) is None
    late = {"terminated": {**NOT_STARTED["terminated"], "finishedAt": "2026-01-01T00:00:10Z"}}
    assert clock_skew(pod(late), now) == 0.0
    assert clock_skew(pod(BACK_OFF, late), now) == 0.0


def test_a_proxy_that_gives_no_answer_is_an_answer_of_no_code() -> None:
    class Silent:
        async def request(self, *_: Any, **__: Any) -> Answer:
            raise TargetError("no answer: ServerDisconnectedError")

    step = replace(OUTPUT, proxy={"container": "main", "fact": "listener", "port": "port"})
    record = {"probe": {"main": {"listener": {"port": 5000}}}, "kubernetes": {"pod": pod(RUNNING)}}
    answer = asyncio.run(collecting.ask_through_proxy(cast("Cluster", Silent()), step, record))
    assert (answer["name"], answer["code"], "ServerDisconnectedError" in answer["message"]) == ("proxy", 0, True)


@pytest.mark.sockets
@pytest.mark.parametrize("first", ["reset", "502", "504"])
@pytest.mark.parametrize("dry", [True, False])
def test_a_request_of_an_api_workload_survives_what_passes(tmp_path: Path, first: str, dry: bool) -> None:
    """
    A creation that is no dry run gets through although its answer does not: what is there already is ours.
    """
    tries: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        tries.append(request.query_string)
        if len(tries) == 1 and first == "reset":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if len(tries) == 1:
            return web.Response(status=int(first))
        if dry:
            return web.json_response(POD, status=201)
        return web.json_response({"kind": "Status", "reason": "AlreadyExists", "code": 409}, status=409)

    async def use(cluster: Cluster) -> None:
        request = {"name": "r", "dryRun": dry, "object": deepcopy(POD)}
        answer = await requests.send_request(cluster, PLAN, Stage(namespaces_of("n"), {}), request)
        assert (answer["name"], answer["code"]) == ("r", 201)

    asyncio.run(_serve(tmp_path, handler, use))
    assert tries == ["dryRun=All" if dry else ""] * 2


@pytest.mark.sockets
def test_a_webhooks_500_is_an_answer(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "failed calling webhook", "code": 500}, status=500)

    async def use(cluster: Cluster) -> None:
        request = {"name": "r", "object": deepcopy(POD)}
        assert (await requests.send_request(cluster, PLAN, Stage(namespaces_of("n"), {}), request))["code"] == 500

    asyncio.run(_serve(tmp_path, handler, use))
