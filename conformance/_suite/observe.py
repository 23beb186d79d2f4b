"""
The engine: puts all workloads on all nodes at once, follows them by one watch a namespace, writes evidence as it
arrives, and takes everything away again. It never judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from conformance._suite import cleanup, evidence, expiry
from conformance._suite.cleanup import CLEAN_UP_SECONDS, Going
from conformance._suite.cluster import REQUEST_SECONDS, RefusedError, Watched, keep_watching
from conformance._suite.errors import TargetError, Unknown
from conformance._suite.facts import Scope
from conformance._suite.images import Images
from conformance._suite.namespaces import ENFORCE_LABEL, LOCK, default_namespace, namespaces_of, pull_secret_name
from conformance._suite.preflight.admission import look_inside
from conformance._suite.preflight.clocks import clock_notice, clock_skew
from conformance._suite.preflight.look import told
from conformance._suite.preflight.needs import Needs
from conformance._suite.waiting import TryAgainError, persistently
from conformance._suite.workload import BASE_IMAGE, bootstrap_command, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from conformance._suite.cluster import Answer, Cluster
    from conformance._suite.facts import ClusterFacts, NodeFacts
    from conformance._suite.workload import Step, Workload

RESIDUE = "residue"
"""The workload that runs before all others: it reaps, and shows that images can be pulled and kubelets reached."""
_COLLECTIONS = {"Pod": "pods", "ConfigMap": "configmaps", "Secret": "secrets", "ServiceAccount": "serviceaccounts"}

TIDY_SECONDS = 60
"""How long the steps that put the host back may take after an interruption."""
PULL_SECONDS = 600
"""How long pulling images may take before a step's deadline counts; the kubelet pulls one after another."""
SIMULATED_SETTLING = 0.3
"""The part of a step's ``stable`` time that a simulated kubelet, which reports at once, is given."""
LOG_WINDOW = 4096
"""Characters at the end of a log in which a step's pattern is looked for."""
LOG_SECONDS = 10
"""For how long the API server's way to a kubelet is tried."""
PROXY_SECONDS = 5
"""For how long the API server's way to a pod's port is tried."""
_ELSEWHERE = "--registry-prefix, --images-file and --pull-secret say where it is"
IMAGE_SECONDS = 60
"""For how long an image that cannot be pulled is tried before the kubelet is believed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What one run observes. ``time_scale`` multiplies every deadline.
    """

    run_id: str
    out: Path
    cluster: ClusterFacts
    nodes: tuple[NodeFacts, ...]
    workloads: tuple[Workload, ...]
    images: Images = field(default_factory=Images)
    time_scale: float = 1.0
    namespace: str | None = None
    """Use this namespace, and those with -baseline and -restricted behind its name, which exist already."""
    reap_all: bool = False
    """Take away what runs left on the hosts even where it has not expired."""


@dataclass(slots=True)
class Progress:
    """
    How far the observation is: steps met or given up, of how many, and what is still awaited.
    """

    total: int = 0
    done: int = 0
    awaited: dict[str, str] = field(default_factory=dict)
    """What is awaited, by the name of the piece of work."""


class _Deadline(Exception):  # noqa: N818 - an outcome, not a mistake
    pass


class _Trouble(Exception):  # noqa: N818 - an outcome, not a mistake
    """
    A step cannot be completed. ``code`` and the text go into the evidence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def now() -> str:
    """
    The time in UTC, ISO 8601 with milliseconds.
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Seen:
    """
    Pods and events as the watches saw them, and a bell for whoever waits for a change.
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self._bells: dict[tuple[str, str], asyncio.Event] = {}

    def bell(self, owner: str, node: str) -> asyncio.Event:
        """
        The bell that rings for changes of the pods of one owner (or the pod of that name) on one node.
        """
        return self._bells.setdefault((owner, node), asyncio.Event())

    def pod_changed(self, kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self.pods.pop(uid, None)
        else:
            self.pods[uid] = pod
        self._ring(_owner(pod), pod["spec"].get("nodeName", ""))

    def event_changed(self, kind: str, event: dict[str, Any]) -> None:
        if kind != "DELETED":
            self.events[event["metadata"]["uid"]] = event
        name = event["involvedObject"].get("name", "")
        owners = {name} | {_owner(pod) for pod in self.pods.values() if pod["metadata"]["name"] == name}
        for owner, node in self._bells:
            if owner in owners:
                self._ring(owner, node)

    def _ring(self, owner: str, node: str) -> None:
        for key in ((owner, node), (owner, "")):
            if key in self._bells:
                self._bells[key].set()

    def pods_of(self, owner: str, node: str) -> list[dict[str, Any]]:
        """
        The pods of an owner on a node that are not on their way out, newest first.
        """
        found = [
            pod
            for pod in self.pods.values()
            if _owner(pod) == owner and (not node or pod["spec"].get("nodeName") == node)
        ]
        found.sort(key=lambda pod: ("deletionTimestamp" in pod["metadata"], pod["metadata"]["name"]))
        return found

    def events_of(self, names: set[str]) -> list[dict[str, Any]]:
        """
        The events about objects of these names, oldest first, reduced to what evidence needs.
        """
        found = [event for event in self.events.values() if event["involvedObject"].get("name") in names]
        found.sort(key=lambda event: event["metadata"]["creationTimestamp"])
        return [
            {
                "type": event.get("type"),
                "reason": event.get("reason"),
                "message": event.get("message"),
                "object": f"{event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}",
                "count": event.get("count") or 1,
            }
            for event in found
        ]


def _owner(pod: Mapping[str, Any]) -> str:
    owners = pod["metadata"].get("ownerReferences") or ()
    return str(owners[0]["name"] if owners else pod["metadata"]["name"])


@dataclass(slots=True)
class _Patience:
    """
    The deadline of a step. It counts from when the images are there: how long a registry takes is no node's fault.
    """

    timer: asyncio.Timeout
    limit: float
    pulling: bool = False

    def heed(self, events: list[dict[str, Any]], pulling_until: float) -> None:
        """
        Take in what the kubelet says about pulling images.
        """
        said = [event["reason"] for event in events if event["reason"] in {"Pulling", "Pulled"}]
        pulling = bool(said) and said[-1] == "Pulling"
        if pulling:
            self.timer.reschedule(pulling_until)
        elif self.pulling:
            self.timer.reschedule(asyncio.get_running_loop().time() + self.limit)
        self.pulling = pulling


@dataclass(slots=True)
class _Work:
    """
    One workload on one node (or on the cluster), and its evidence as it grows.
    """

    workload: Workload
    node: NodeFacts | None
    nonce: str
    record: dict[str, Any] = field(default_factory=dict)
    trouble: _Trouble | None = None
    creating: asyncio.Task[list[dict[str, Any]]] | None = None
    """What the current step creates; it goes on when the step is given up."""
    key: tuple[str, str] = ("", "")
    """Whose pods the current step waits for: their owner (or name) and node."""

    @property
    def label(self) -> str:
        """
        What a person calls it.
        """
        return f"{self.workload.name} on {self.node.name if self.node else 'the API server'}"


class BusyError(TargetError):
    """
    Another run is at work in the given namespace.
    """


class Engine:
    """
    Observes a plan on a cluster. ``report`` is called whenever the progress changes; ``lost`` says whether the whole
    cluster is gone, so that there is nothing to take away or to put back any more; ``say`` is told, in a line each,
    what was found and what was reaped.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        report: Callable[[Progress], None],
        lost: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lost = lost
        self._cluster = cluster
        self._plan = plan
        self._report = report
        self._say = say
        self._progress = Progress()
        self._seen = _Seen()
        self._shared: dict[str, asyncio.Task[list[dict[str, Any]]]] = {}
        self._creating: set[asyncio.Task[list[dict[str, Any]]]] = set()
        self._patience: dict[tuple[str, str], _Patience] = {}
        self._labels = expiry.labels(plan.run_id, cluster.now())
        self._pull_secret = pull_secret_name(plan.run_id) if plan.images.pull_secret else None
        self._vanished: set[str] = set()
        self._timers: dict[str, set[asyncio.Timeout]] = {node.name: set() for node in plan.nodes}
        self.namespaces = namespaces_of(plan.namespace or default_namespace(plan.run_id))
        self.going: list[Going] = []
        """What was asked to go; ``left_behind`` waits for it."""
        self.untidy: list[str] = []
        """What could not be put back, in words."""
        self._interrupted = False

    async def observe(self) -> None:
        """
        Look once more, reap what has expired on the hosts, observe everything, then clean up; clean up as well when
        cancelled or in trouble. Raises TargetError when the namespaces cannot be made or watched, when an image cannot
        be pulled, or when the API server does not reach a kubelet.
        """
        taken: set[str] = set()
        work = self._work(self._plan.workloads, taken)
        on_nodes = not work or any(one.node for one in work)
        first = self._work([load(RESIDUE)], taken) if on_nodes else []
        self._progress.total = sum(len(one.workload.steps) for one in [*first, *work])
        scopes = {workload.scope for workload in self._plan.workloads}
        keys = ["main", "baseline", "restricted"] if Scope.CLUSTER in scopes else ["main"]
        watches: list[asyncio.Task[None]] = []
        try:
            for key in keys:
                self.going.append(Going(self.namespaces[key], self._plan.run_id if self._plan.namespace else None))
                await self._have_namespace(key)
            if self._pull_secret:
                await self._create_pull_secret()
            await self._start_watches([self.namespaces[key] for key in keys], watches)
            if not self._plan.namespace:
                await self._look_inside({key: self.namespaces[key] for key in keys})
            await self._run_all(first, watches)
            self._heed(first)
            await self._run_all(work, watches)
        finally:
            if not self._lost():
                await self._clean_up()
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    def _work(self, workloads: Iterable[Workload], taken: set[str]) -> list[_Work]:
        found = []
        for workload in workloads:
            for node in self._plan.nodes if workload.scope is Scope.NODE else (None,):
                while (nonce := expiry.nonce(self._cluster.now())) in taken:
                    pass
                taken.add(nonce)
                found.append(_Work(workload, node, nonce))
        return found

    async def _look_inside(self, namespaces: Mapping[str, str]) -> None:
        needs = Needs(
            pod_security="baseline" in namespaces, image=self._plan.images.resolve(BASE_IMAGE)
        )  # fmt: skip
        problems = await look_inside(self._cluster, namespaces, self._plan.nodes, needs, self._say)
        if problems:
            raise TargetError(told(problems))

    def _heed(self, first: list[_Work]) -> None:
        """
        Take in what was found before anything was put on the nodes. Raises TargetError for what keeps every workload
        from running, of all nodes at once.
        """
        problems = []
        for work in first:
            node = work.label.rpartition(" on ")[2]
            if work.trouble and work.trouble.code == "image-not-pulled":
                problems.append(f"{node}: {work.trouble} — `nox -s images` lists what is needed; {_ELSEWHERE}")
            if work.trouble and work.trouble.code == "log-unreadable":
                problems.append(
                    f"{node}: the API server does not reach its kubelet: {work.trouble}"
                    " — open port 10250 of the node to it"
                )
            for step in work.record["steps"]:
                pod = step["kubernetes"]["pod"]
                skew = clock_skew(pod, self._cluster.now()) if pod else None
                if skew is not None and (notice := clock_notice(node, skew)):
                    self._say(notice)
                for line in _reaped(step["probe"]):
                    self._say(f"{node}: {line}")
        if problems:
            raise TargetError(told(problems))

    async def _run_all(self, work: list[_Work], watches: list[asyncio.Task[None]]) -> None:
        tasks = [asyncio.create_task(self._run(one)) for one in work]
        running = asyncio.gather(*tasks)
        broken = asyncio.create_task(_first(watches))
        try:
            either: list[asyncio.Future[Any]] = [running, broken]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # A watch only ends when it is refused; nothing can be observed without it.
                error = await broken
                raise TargetError(
                    f"the watch was refused: {error}", "the suite needs the right to watch pods and events"
                )
            await running
        finally:
            # Cancelled work still puts the host back: every piece of it is waited for, not only the first that ends.
            for task in [*tasks, broken]:
                task.cancel()
            await asyncio.gather(running, *tasks, broken, return_exceptions=True)

    async def _have_namespace(self, key: str) -> None:
        if self._plan.namespace:
            if key == "main":
                await self._lock()
            return
        level = "privileged" if key == "main" else key
        labels = {**self._labels, ENFORCE_LABEL: level}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespaces[key], "labels": labels}}
        try:
            await self._cluster.must("POST", "/api/v1/namespaces", body)
        except RefusedError as error:
            raise TargetError(
                f"namespace {self.namespaces[key]} was refused: {error.answer.message}",
                "the suite needs the right to create and delete namespaces, or --namespace",
            ) from error

        async def account_made() -> None:
            # Without it admission refuses every pod.
            path = f"/api/v1/namespaces/{self.namespaces[key]}/serviceaccounts/default"
            if (await self._cluster.request("GET", path)).code == 404:
                raise TryAgainError("the namespace has no default service account")

        try:
            await persistently(account_made, CLEAN_UP_SECONDS)
        except TryAgainError as error:
            raise TargetError(str(error), "is the controller manager running?") from error

    async def _lock(self) -> None:
        """
        Keep others out of a given namespace: their objects would have the names of ours.
        """
        path = f"/api/v1/namespaces/{self.namespaces['main']}/configmaps"
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LOCK, "labels": self._labels}}
        answer = await self._cluster.request("POST", path, body)
        if answer.code == 409:
            self.going.clear()  # what is there is not ours
            raise BusyError(
                f"another run uses namespace {self._plan.namespace}, or one that was killed did",
                f"wait for it; when it is dead, `nox -s cleanup -- --namespace {self._plan.namespace} --all`, with the "
                "same --kubeconfig",
            )
        if answer.code != 201:
            raise TargetError(f"ConfigMap {LOCK} in namespace {self._plan.namespace} was refused: {answer.message}")

    async def _create_pull_secret(self) -> None:
        namespace = self.namespaces["main"]
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._pull_secret, "namespace": namespace, "labels": self._labels},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": self._plan.images.pull_secret},
        }
        answer = await self._cluster.request(
            "POST", f"/api/v1/namespaces/{namespace}/secrets", secret, repeatable=True
        )  # fmt: skip
        if answer.code not in {201, 409}:
            raise TargetError(f"the pull secret was refused: {answer.code} {answer.message}")

    async def _start_watches(self, namespaces: list[str], tasks: list[asyncio.Task[None]]) -> None:
        # All of them: with a selector, a node that loses a label would look like one that is gone.
        nodes = Watched("/api/v1/nodes", self._node_changed)
        watched = [nodes]
        for namespace in namespaces:
            watched.append(Watched(f"/api/v1/namespaces/{namespace}/pods", self._seen.pod_changed))
            watched.append(Watched(f"/api/v1/namespaces/{namespace}/events", self._seen.event_changed))
        for one in watched:
            task = asyncio.create_task(keep_watching(self._cluster, one))
            listed = asyncio.create_task(one.listed.wait())
            tasks.append(task)
            await asyncio.wait({task, listed}, return_when=asyncio.FIRST_COMPLETED, timeout=REQUEST_SECONDS)
            listed.cancel()
            if not one.listed.is_set() and not task.done():
                raise TargetError(f"{one.path} cannot be listed", "does the API server still answer?")
        for node in self._plan.nodes:
            if nodes.listed.is_set() and node.uid not in nodes.objects:
                self._vanish(node.name)

    def _node_changed(self, kind: str, item: dict[str, Any]) -> None:
        for node in self._plan.nodes:
            # Another node of the same name is another machine.
            if node.name == item["metadata"]["name"] and (kind == "DELETED") == (node.uid == item["metadata"]["uid"]):
                self._vanish(node.name)

    def _vanish(self, node: str) -> None:
        """
        Give up what is awaited on a node that is no longer in the cluster; the others go on.
        """
        if node not in self._vanished:
            self._vanished.add(node)
            self._say(f"{node} is no longer in the cluster: what was not seen on it by now is not proven")
            for timer in self._timers[node]:
                timer.reschedule(asyncio.get_running_loop().time())

    # -- one workload

    async def _run(self, work: _Work) -> None:
        parameters = {
            "nonce": work.nonce,
            "markers": {name: secrets.token_hex(16) for name in work.workload.markers},
            "namespace": self.namespaces["main"],
            "namespaces": {key: self.namespaces[key] for key in ("baseline", "restricted")},
        }
        work.record = {
            "schema": evidence.SCHEMA,
            "runId": self._plan.run_id,
            "simulated": self._plan.cluster.simulated,
            "workload": work.workload.name,
            "workloadDigest": work.workload.digest,
            "scope": str(work.workload.scope),
            "node": {"name": work.node.name, "uid": work.node.uid} if work.node else None,
            "started": now(),
            "ended": None,
            "parameters": parameters,
            "steps": [],
        }
        lost: _Trouble | asyncio.CancelledError | None = None
        try:
            for step in work.workload.steps:
                if lost is not None and (self._lost() or not (step.always and work.record["steps"])):
                    self._progress.done += 1
                    continue
                if lost is not None and work.node and work.node.name in self._vanished:
                    self._progress.done += 1
                    self.untidy.append(
                        f"{work.label}: the node is gone; what was made on it stays there until it is reaped"
                    )
                    continue
                try:
                    if lost is not None:
                        await self._withdraw(work)
                    await self._step(work, step)
                except _Trouble as error:
                    lost = error
                except asyncio.CancelledError as error:
                    lost = error
                    await self._after_interruption(work, step)
                if step.always and not work.record["steps"][-1]["met"]:
                    self.untidy.append(f"{work.label}: step {step.name}, which puts the host back, was not completed")
        finally:
            work.record["ended"] = now()
            path = self._plan.out / evidence.relative_path(work.workload.name, work.node.name if work.node else None)
            evidence.write_json(path, work.record)
            self._progress.awaited.pop(work.label, None)
            self._report(self._progress)
        if isinstance(lost, asyncio.CancelledError):
            raise lost
        work.trouble = lost

    async def _after_interruption(self, work: _Work, step: Step) -> None:
        """
        From here on the host is put back, and that is not to be interrupted.
        """
        _continue_after_cancel()
        self._interrupted = True
        if step.always and not self._lost():
            if work.record["steps"][-1]["name"] == step.name:
                work.record["steps"].pop()
            with contextlib.suppress(_Trouble):
                await self._withdraw(work)
                await self._step(work, step)

    async def _withdraw(self, work: _Work) -> None:
        """
        Take away what the step that failed created, even if its creation is still under way: it must not go on, or
        begin, while the host is put back.
        """
        if work.creating is None:
            return
        with contextlib.suppress(TimeoutError, TargetError, RefusedError, TryAgainError):
            async with asyncio.timeout(TIDY_SECONDS):
                await asyncio.wait({work.creating})
                await self._delete_pod(work.key[0])

    async def _step(self, work: _Work, step: Step) -> None:
        record: dict[str, Any] = {
            "name": step.name,
            "until": step.until,
            "met": False,
            "trouble": None,
            "started": now(),
            "ended": None,
            "sent": [],
            "api": [],
            "kubernetes": {"pod": None, "object": None, "events": [], "logs": {}},
            "probe": dict.fromkeys(step.probes),
            "probeTrouble": {},
        }
        work.record["steps"].append(record)
        self._progress.awaited[work.label] = f"{step.name} until {step.until}"
        self._report(self._progress)
        limit = TIDY_SECONDS if self._interrupted else step.deadline * self._plan.time_scale
        timers = self._timers[work.node.name] if work.node else set()
        timer = asyncio.timeout(limit)
        try:
            async with timer:
                timers.add(timer)
                await self._carry_out(work, step, record, _Patience(timer, limit))
            record["met"] = True
        except TimeoutError:
            code, message = "deadline", f"not {step.until} within {limit:g} s: {self._state_of(work)}"
            if work.node and work.node.name in self._vanished:
                code, message = "node-vanished", "the node was removed from the cluster while it was looked at"
            record["trouble"] = {"code": code, "message": message}
            raise _Trouble(code, message) from None
        except _Trouble as error:
            record["trouble"] = {"code": error.code, "message": str(error)}
            raise
        except (TargetError, RefusedError) as error:
            record["trouble"] = {"code": "no-answer", "message": str(error)}
            raise _Trouble("no-answer", str(error)) from error
        except asyncio.CancelledError:
            record["trouble"] = {"code": "interrupted", "message": "the run was interrupted"}
            raise
        except Exception as error:  # one node's odd answer must not end what is observed on the others
            record["trouble"] = {"code": "suite-trouble", "message": f"{type(error).__name__}: {error}"}
            raise _Trouble("suite-trouble", str(error)) from error
        finally:
            timers.discard(timer)
            record["ended"] = now()
            self._progress.done += 1
            self._report(self._progress)

    def _state_of(self, work: _Work) -> str:
        """
        What is known about a pod that did not get where it should, in one line.
        """
        owner, node = work.key
        pods = self._seen.pods_of(owner, node)
        events = self._seen.events_of({owner, *(pod["metadata"]["name"] for pod in pods)})
        last = next(
            (f"; {event['reason']}: {event['message']}" for event in reversed(events) if event["type"] == "Warning"), ""
        )
        if not pods:
            return f"no pod was seen{last}"
        status = pods[0].get("status", {})
        waiting = [
            f"{one['name']} {kind} {detail.get('reason') or ''}".strip()
            for one in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
            for kind, detail in (one.get("state") or {}).items()
        ]
        return f"phase {status.get('phase')}, {', '.join(waiting) or 'no container status'}{last}"

    async def _carry_out(self, work: _Work, step: Step, record: dict[str, Any], patience: _Patience) -> None:
        placeholders = self._placeholders(work)
        if step.requests is not None:
            placeholders["image"] = self._plan.images.resolve(BASE_IMAGE)
            for request in work.workload.requests(step, placeholders):
                record["api"].append(await self._send_request(request))
            return
        documents = work.workload.manifests(step, placeholders)
        for document in documents:
            self._prepare(document, work, step)
        subject = documents[-1]
        owner, node = subject["metadata"]["name"], work.node.name if work.node else ""
        work.key = (owner, node)
        work.creating = self._shared.get(work.workload.name) if step.shared else None
        if work.creating is None:
            work.creating = asyncio.create_task(self._create(documents, step))
            self._creating.add(work.creating)
            work.creating.add_done_callback(self._creating.discard)
            if step.shared:
                self._shared[work.workload.name] = work.creating
        record["api"] = await asyncio.shield(work.creating)
        record["sent"] = documents
        if refused := [answer for answer in record["api"] if answer["code"] != 201]:
            raise _Trouble("refused-by-api", f"{refused[0]['request']}: {refused[0]['code']} {refused[0]['message']}")
        self._patience[work.key] = patience
        try:
            logs = await self._await(step, owner, node)
        finally:
            self._snapshot(record, owner, node)
        await self._read_logs(step, record, logs)
        now_there = self._pod(owner, node)
        if step.until in {"output", "log", "settled"} and (
            now_there is None or now_there["metadata"]["uid"] != record["kubernetes"]["pod"]["metadata"]["uid"]
        ):
            raise _Trouble("pod-replaced", "the pod was replaced while it was looked at")
        if step.proxy:
            record["api"].append(await self._ask_through_proxy(step, record))
        self._snapshot(record, owner, node, keep=True)
        if step.delete_after:
            await self._delete_pod(owner)

    def _placeholders(self, work: _Work) -> dict[str, str]:
        parameters = work.record["parameters"]
        return {
            "run": self._plan.run_id,
            "nonce": work.nonce,
            "namespace": self.namespaces["main"],
            "node": work.node.name if work.node else "",
            "image": BASE_IMAGE,
            "reap-before": str(expiry.ALL_HOURS if self._plan.reap_all else expiry.hour_of(self._cluster.now())),
            **{f"marker.{name}": text for name, text in parameters["markers"].items()},
        }

    def _prepare(self, document: dict[str, Any], work: _Work, step: Step) -> None:
        """
        Give a manifest its namespace, its place, and the probe. A documented sample keeps every other field.
        """
        metadata = document.setdefault("metadata", {})
        metadata["namespace"] = self.namespaces[step.namespace]
        name = metadata.get("name") or f"{work.workload.name}-{step.name}"
        # One name for one object: what is not shared carries the nonce of its node.
        metadata["name"] = name if step.shared or work.nonce in name else f"{name}-{work.nonce}"
        metadata.setdefault("labels", {}).update(self._labels)
        if document["kind"] not in {"Pod", "DaemonSet"}:
            return
        spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        if document["kind"] == "Pod" and work.node:
            spec["nodeName"] = work.node.name
            taints = list(work.node.taints)
        else:
            if step.shared:
                spec["affinity"] = _affinity([node.name for node in self._plan.nodes])
            taints = [taint for node in self._plan.nodes for taint in node.taints]
        tolerations = spec.setdefault("tolerations", [])
        for taint in taints:
            toleration = {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]}
            if toleration not in tolerations:
                tolerations.append(toleration)
        if not tolerations:
            del spec["tolerations"]
        if not step.sample:
            spec.setdefault("os", {"name": "windows"})
        if work.workload.name == RESIDUE:
            # Nothing is put on a node before all of its images are there.
            needed = {image for one in self._plan.workloads if one.scope is Scope.NODE for image in one.images}
            spec["containers"] += [
                {"name": f"image-{number}", "image": image, "command": ["cmd.exe", "/c", "exit 0"]}
                for number, image in enumerate(sorted(needed - {BASE_IMAGE}), 1)
            ]
        if self._pull_secret:
            spec.setdefault("imagePullSecrets", []).append({"name": self._pull_secret})
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            container["image"] = self._plan.images.resolve(container["image"])
            if container["name"] in step.probes:
                container["command"] = list(bootstrap_command())
                environment = container.setdefault("env", [])
                environment.append({"name": "PROBE", "value": work.workload.probe_environment()})

    async def _create(self, documents: list[dict[str, Any]], step: Step) -> list[dict[str, Any]]:
        answers = []
        for document in documents:
            namespace = document["metadata"]["namespace"]
            group = "/apis/apps/v1" if document["kind"] == "DaemonSet" else "/api/v1"
            collection = "daemonsets" if document["kind"] == "DaemonSet" else _COLLECTIONS[document["kind"]]
            path = f"{group}/namespaces/{namespace}/{collection}"
            name = f"{step.name}/{document['kind']}"
            answer = await self._send(name, "POST", path, document, repeatable=True)
            if answer["reason"] == "AlreadyExists" and await self._is_ours(path, document["metadata"]["name"]):
                answer = {**answer, "code": 201}
            answers.append(answer)
        return answers

    async def _is_ours(self, collection: str, name: str) -> bool:
        """
        Whether an object that exists already is this run's: an earlier try got through although its answer did not.
        """
        if not self._plan.namespace:
            return True  # a name that is random, in a namespace whose name is
        query = {"fieldSelector": f"metadata.name={name}", "labelSelector": f"{expiry.RUN_LABEL}={self._plan.run_id}"}
        return bool((await self._cluster.must("GET", collection, query=query))["items"])

    async def _send_request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        item = request["object"]
        namespace = self.namespaces[request.get("namespace", "main")]
        kind = item.get("kind", "Pod")
        group = "/apis/apps/v1" if kind == "DaemonSet" else "/api/v1"
        collection = "daemonsets" if kind == "DaemonSet" else "pods"
        path = request.get("path") or f"{group}/namespaces/{namespace}/{collection}"
        path = path.replace("{namespace}", namespace)
        query = {"dryRun": "All"} if request.get("dryRun", True) else {}
        if request.get("method", "POST") == "POST":
            item.setdefault("metadata", {}).setdefault("labels", {}).update(self._labels)
        return await self._send(
            request["name"],
            request.get("method", "POST"),
            path,
            item,
            query=query,
            content_type=request.get("contentType", "application/json"),
        )

    async def _send(self, name: str, method: str, path: str, body: object, **options: Any) -> dict[str, Any]:
        query = options.get("query") or {}
        shown = f"{method} {path}" + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else "")
        answer = await self._cluster.request(method, path, body, **options)
        status = answer.status
        return {
            "name": name,
            "request": shown,
            "code": answer.code,
            "reason": status.get("reason"),
            "message": answer.message,
            "causes": list((status.get("details") or {}).get("causes") or ()),
            "warnings": list(answer.warnings),
            "body": None if isinstance(answer.body, dict) else answer.body,
        }

    # -- waiting

    async def _await(self, step: Step, owner: str, node: str) -> dict[str, str]:
        """
        Wait until the step's ``until`` is met; return the logs that were read on the way.
        """
        if step.until == "event":
            await self._until(owner, node, lambda: self._event_seen(step, owner))
            return {}
        if step.until in {"output", "log"}:
            containers = step.probes if step.until == "output" else ((step.log or {})["container"],)
            return await self._follow_all(step, owner, node, containers)
        if step.until == "settled":
            return await self._until_settled(step, owner, node)
        met = _finished if step.until == "finished" else _running
        await self._until(owner, node, lambda: met(self._pod(owner, node)))
        return {}

    def _event_seen(self, step: Step, owner: str) -> bool:
        wanted = (step.event or {})["reason"]
        return any(re.fullmatch(wanted, str(event["reason"])) for event in self._seen.events_of({owner}))

    def _pod(self, owner: str, node: str) -> dict[str, Any] | None:
        pods = self._seen.pods_of(owner, node)
        return pods[0] if pods else None

    async def _until(self, owner: str, node: str, met: Callable[[], bool]) -> None:
        bell = self._seen.bell(owner, node)
        unpullable_since: float | None = None
        existed = False
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            bell.clear()
            if met():
                return
            pod = self._pod(owner, node)
            if pod is None and existed:
                raise _Trouble("pod-vanished", "the pod was deleted before it was done")
            if pod is not None:
                existed = True
                events = self._seen.events_of({pod["metadata"]["name"]})
                self._patience[owner, node].heed(events, began + PULL_SECONDS * self._plan.time_scale)
            refused = _image_trouble(pod)
            if refused is None:
                unpullable_since = None
            else:
                unpullable_since = unpullable_since or clock()
                if clock() - unpullable_since > IMAGE_SECONDS * self._plan.time_scale:
                    raise _Trouble("image-not-pulled", f"the image cannot be pulled: {refused}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), 5 if refused else None)

    async def _until_settled(self, step: Step, owner: str, node: str) -> dict[str, str]:
        """
        Wait until the pod either has failed visibly or has run undisturbed for ``stable`` seconds.
        """
        while True:
            await self._until(owner, node, lambda: _running(self._pod(owner, node)) or _failing(self._pod(owner, node)))
            pod = self._pod(owner, node)
            if pod is None or _failing(pod):
                return {}
            stable = step.stable * (SIMULATED_SETTLING if self._plan.cluster.simulated else self._plan.time_scale)
            if await self._undisturbed(pod, stable):
                return {}
            # A log has ended: give the status the time to say why.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stable):
                    await self._until(owner, node, lambda: _failing(self._pod(owner, node)))

    async def _undisturbed(self, pod: Mapping[str, Any], seconds: float) -> bool:
        """
        Whether every container runs on for so long. The kubelet ends a log that is followed when its container ends;
        the pod's status says it later, on a busy node much later.
        """

        async def follow(name: str) -> None:
            query = {"container": name, "follow": "true", "tailLines": "1"}
            with contextlib.suppress(TryAgainError, RefusedError):
                async for _ in self._cluster.stream(_log_path(pod), query, silence=3600):
                    pass

        follows = [asyncio.create_task(follow(container["name"])) for container in pod["spec"]["containers"]]
        try:
            ended, _ = await asyncio.wait(follows, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in follows:
                task.cancel()
            await asyncio.gather(*follows, return_exceptions=True)
        return not ended

    async def _follow_all(self, step: Step, owner: str, node: str, containers: tuple[str, ...]) -> dict[str, str]:
        texts = await asyncio.gather(*(self._follow(step, owner, node, name) for name in containers))
        return dict(zip(containers, texts, strict=True))

    async def _follow(self, step: Step, owner: str, node: str, container: str) -> str:
        """
        Follow one container's log until it says what is awaited, or the container has ended.
        """
        await self._until(
            owner, node, lambda: _has_started(self._pod(owner, node), container) or _failing(self._pod(owner, node))
        )
        if not _has_started(self._pod(owner, node), container):
            return ""
        pattern = re.compile((step.log or {})["pattern"]) if step.log else None
        while True:
            pod = self._pod(owner, node)
            if pod is None:
                raise _Trouble("pod-vanished", "the pod was deleted before it was done")
            text = ""
            with contextlib.suppress(TryAgainError):
                query = {"container": container, "follow": "true", "limitBytes": str(evidence.OUTPUT_LIMIT)}
                async for chunk in self._cluster.stream(_log_path(pod), query, silence=3600):
                    text += chunk.decode(errors="replace")
                    # Only the end is searched: patterns must stay quick whatever a container writes.
                    if pattern.search(text[-LOG_WINDOW:]) if pattern else evidence.output_ended(text):
                        return text
            if _has_ended(self._pod(owner, node), container) or len(text) >= evidence.OUTPUT_LIMIT:
                return text
            # The stream broke or ended early: read again from the beginning.
            await asyncio.sleep(0.3)

    # -- collecting

    def _snapshot(self, record: dict[str, Any], owner: str, node: str, *, keep: bool = False) -> None:
        pods = self._seen.pods_of(owner, node)
        if pods and not (keep and record["kubernetes"]["pod"]):
            pod = dict(pods[0])
            pod["metadata"] = {key: value for key, value in pod["metadata"].items() if key != "managedFields"}
            record["kubernetes"]["pod"] = pod
        names = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        record["kubernetes"]["pods"] = names
        record["kubernetes"]["events"] = self._seen.events_of({owner, *names})

    async def _read_logs(self, step: Step, record: dict[str, Any], logs: dict[str, str]) -> None:
        pod = record["kubernetes"]["pod"]
        if step.until == "event" or pod is None:
            return
        status = pod.get("status", {})
        for entry in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
            name = entry["name"]
            if name in logs or not _has_started(pod, name):
                continue
            logs[name] = await self._read_log(pod, name)
        record["kubernetes"]["logs"] = logs
        for name in step.probes:
            if name not in logs:
                record["probeTrouble"][name] = {"code": "not-started", "message": "the container never started"}
                continue
            try:
                record["probe"][name] = evidence.parse_output(logs[name])
            except Unknown as error:
                record["probeTrouble"][name] = {"code": error.code, "message": str(error)}
            # The facts stand beside it; the log keeps what else was written.
            logs[name] = logs[name][: 16 * 1024]

    async def _read_log(self, pod: Mapping[str, Any], container: str) -> str:
        query = {"container": container, "limitBytes": str(evidence.OUTPUT_LIMIT)}

        async def read() -> Answer:
            # 5xx is what the API server says of a kubelet that it does not reach.
            answer = await self._cluster.request("GET", _log_path(pod), query=query, passing=frozenset({429}))
            if answer.code >= 500:
                raise TryAgainError(f"{answer.code} {answer.message}")
            return answer

        try:
            answer = await persistently(read, LOG_SECONDS)
        except TryAgainError as error:
            raise _Trouble("log-unreadable", f"the log of {container}: {error}") from error
        if answer.code != 200:
            raise _Trouble("log-unreadable", f"the log of {container}: {answer.code} {answer.message}")
        return answer.body if isinstance(answer.body, str) else str(answer.body)

    async def _ask_through_proxy(self, step: Step, record: Mapping[str, Any]) -> dict[str, Any]:
        wanted = step.proxy or {}
        facts = record["probe"].get(wanted["container"]) or {}
        told = facts.get(wanted["fact"])
        port = told.get(wanted["port"]) if isinstance(told, dict) else None
        metadata = record["kubernetes"]["pod"]["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{port}/proxy/"
        if not isinstance(port, int):
            return {"name": "proxy", "request": f"GET {path}", "code": 0, "reason": None,
                    "message": "the probe listens on no port", "causes": [], "warnings": [], "body": None}  # fmt: skip

        async def ask() -> dict[str, Any]:
            # A refused connection, too, comes as a 503: an answer. Any other 5xx is the way there, not the node.
            answer = await self._send("proxy", "GET", path, None, passing=frozenset({429}))
            if answer["code"] >= 500 and "refused" not in answer["message"]:
                asked.append(answer)
                raise TryAgainError(answer["message"])
            return answer

        asked: list[dict[str, Any]] = []
        try:
            return await persistently(ask, PROXY_SECONDS)
        except TryAgainError:
            return asked[-1]

    # -- taking away

    async def _delete_pod(self, name: str) -> None:
        """
        Delete a pod and wait until it is gone.
        """
        pods = f"/api/v1/namespaces/{self.namespaces['main']}/pods"
        await cleanup.delete(self._cluster, f"{pods}/{name}")

        async def gone() -> None:
            if (await self._cluster.must("GET", pods, query={"fieldSelector": f"metadata.name={name}"}))["items"]:
                raise TryAgainError(f"pod {name} does not go")

        await persistently(gone, TIDY_SECONDS)

    async def _clean_up(self) -> None:
        """
        Take away the pods, and ask for the rest to go: the namespace controller takes five seconds to begin, which the
        run spends on judging.
        """
        _continue_after_cancel()
        if self._creating:
            # What is created after it was deleted would stay.
            await asyncio.wait(self._creating, timeout=REQUEST_SECONDS)
        self._progress.awaited = {"clean-up": "pods to go"}
        self._report(self._progress)
        stuck = [pod for pod in self._seen.pods.values() if pod["spec"].get("nodeName") in self._vanished]
        for pod in stuck:
            # Its kubelet is not there to confirm that it ended.
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            await cleanup.delete(self._cluster, path, {"gracePeriodSeconds": "0"})
        results = await asyncio.gather(
            *(cleanup.remove(self._cluster, one) for one in self.going), return_exceptions=True
        )
        self.untidy += [str(result) for result in results if isinstance(result, Exception)]
        self._progress.awaited = {}


def _reaped(probes: Mapping[str, Any]) -> Iterator[str]:
    """
    What the residue workload says it did, in a line each.
    """
    for facts in probes.values():
        for kind, found in (facts or {}).items():
            if isinstance(found, dict):
                yield f"{kind} could not be looked through: {found.get('error')}"
                continue
            for one in found or ():
                if one["outcome"] != "kept":
                    yield f"{one['outcome']} of an earlier run: {one['name']} ({kind})"


async def _first(tasks: list[asyncio.Task[None]]) -> BaseException | None:
    """
    The exception of the first task that ends.
    """
    finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return next(iter(finished)).exception()


def _continue_after_cancel() -> None:
    """
    Let this task await again after it was cancelled: what is left to do must be done.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _affinity(names: list[str]) -> dict[str, Any]:
    field_match = {"key": "metadata.name", "operator": "In", "values": names}
    terms = {"nodeSelectorTerms": [{"matchFields": [{**field_match, "values": [name]}]} for name in names]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _log_path(pod: Mapping[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/log"


def _statuses(pod: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    status = (pod or {}).get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _has_ended(pod: Mapping[str, Any] | None, name: str) -> bool:
    """
    Whether the container has ended at least once, be it restarted or waiting for that since.
    """
    return any(
        "terminated" in (entry.get(key) or {})
        for entry in _statuses(pod)
        if entry["name"] == name
        for key in ("state", "lastState")
    )


def _has_started(pod: Mapping[str, Any] | None, name: str) -> bool:
    for entry in _statuses(pod):
        if entry["name"] == name:
            state = entry.get("state") or {}
            return "running" in state or state.get("terminated", {}).get("reason") not in {
                None, "StartError", "ContainerCannotRun", "ContainerStatusUnknown",
            }  # fmt: skip
    return False


def _finished(pod: Mapping[str, Any] | None) -> bool:
    return (pod or {}).get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _running(pod: Mapping[str, Any] | None) -> bool:
    statuses = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return bool(statuses) and all(entry.get("ready") and "running" in (entry.get("state") or {}) for entry in statuses)


def _failing(pod: Mapping[str, Any] | None) -> bool:
    """
    Whether a container has ended or cannot be started, although it should run.
    """
    states = [entry.get("state") or {} for entry in _statuses(pod)]
    refused = {"CrashLoopBackOff", "RunContainerError"}
    if _finished(pod) or any(state.get("waiting", {}).get("reason") in refused for state in states):
        return True
    regular = (pod or {}).get("status", {}).get("containerStatuses") or ()
    return any("terminated" in (entry.get(key) or {}) for entry in regular for key in ("state", "lastState"))


def _image_trouble(pod: Mapping[str, Any] | None) -> str | None:
    for entry in _statuses(pod):
        waiting = (entry.get("state") or {}).get("waiting", {})
        if waiting.get("reason") in {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}:
            return f"{waiting['reason']}: {waiting.get('message')}"
    return None
