"""
The engine: brings the stage up, runs all pieces of work at once, up to a limit, over one set of watches, and cleans up
in every case.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from conformance._suite import expiry, pod_status
from conformance._suite.cluster import REQUEST_SECONDS
from conformance._suite.errors import TargetError
from conformance._suite.facts import Scope
from conformance._suite.namespaces import LEVELS, default_namespace, namespaces_of, pull_secret_name
from conformance._suite.observe import cleanup, stage
from conformance._suite.observe.cleanup import Going
from conformance._suite.observe.plan import NO_SANDBOX, VANISHED, BusyError, Progress, Shared, Stage, Work
from conformance._suite.observe.seen import Seen, kept_of_event, kept_of_node, kept_of_pod
from conformance._suite.observe.trials import trials
from conformance._suite.observe.workload_run import WorkloadRun
from conformance._suite.preflight.admission import look_inside
from conformance._suite.preflight.clocks import clock_notice, clock_skew
from conformance._suite.preflight.look import told
from conformance._suite.preflight.needs import Needs
from conformance._suite.waiting import forget_cancellation
from conformance._suite.watch import Watched, keep_watching
from conformance._suite.workload import BASE_IMAGE, RESIDUE, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from conformance._suite.cluster import Cluster
    from conformance._suite.observe.plan import Plan
    from conformance._suite.say import Say
    from conformance._suite.workload import Workload

AT_ONCE = 1200
"""Pieces of work (one workload on one node) that are under way at once, as many as about a hundred nodes have; not
normative. More of them would only wait for the API server, and for that their deadlines are not meant. The pods of a
shared DaemonSet are created on all nodes at once whatever this says."""
_REAP = "reap"
"""The container of ``residue`` that has the suite's own image; what the others lack costs those who need it."""
_ELSEWHERE = "--registry-prefix, --images-file and --pull-secret say where it is"


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
        say: Say = lambda _: None,
    ) -> None:
        self._stage = Stage(
            namespaces_of(plan.namespace or default_namespace(plan.run_id)),
            expiry.labels(plan.run_id, cluster.now()),
            pull_secret_name(plan.run_id) if plan.images.pull_secret else None,
        )
        self._shared = Shared(cluster, plan, self._stage, Seen(), report, lost)
        self._shared.timers = {node.name: set() for node in plan.nodes}
        self._cluster = cluster
        self._plan = plan
        self._say = say
        self._node_uids = {node.name: node.uid for node in plan.nodes}
        self.cleaning_up = False
        self.remarks: list[str] = []
        """What was said that a reader of the reports has to know as well."""
        self.going: list[Going] = []
        """What was asked to go; ``left_behind`` waits for it."""

    @property
    def pods(self) -> int:
        """
        How many pods were seen.
        """
        return self._shared.seen.count

    @property
    def untidy(self) -> list[str]:
        """
        What could not be put back, in words.
        """
        return self._shared.untidy

    def out_of_time(self, message: str) -> None:
        """
        Say, before ``observe`` is cancelled, that it is because the time of the whole run is over.
        """
        self._shared.ended_by = ("run-deadline", message)

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
        self._shared.progress.total = sum(len(one.workload.steps) for one in [*first, *work])
        scopes = {workload.scope for workload in self._plan.workloads}
        keys = list(LEVELS) if Scope.CLUSTER in scopes else ["main"]
        watches: list[asyncio.Task[None]] = []
        try:
            await self._bring_up_stage(keys)
            namespaces = {key: self._stage.namespaces[key] for key in keys}
            await self._start_watches(list(namespaces.values()), watches)
            await self._look_inside(namespaces)
            await self._run_all(first, watches, keep=True)
            self._check_first(first)
            await self._run_all(work, watches)
        finally:
            if not self._shared.lost():
                await self._clean_up()
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _bring_up_stage(self, keys: list[str]) -> None:
        for key in keys:
            self.going.append(Going(self._stage.namespaces[key], self._plan.run_id if self._plan.namespace else None))
            if not self._plan.namespace:
                await stage.make_namespace(self._cluster, self._stage, key)
            elif key == "main":
                try:
                    await stage.lock(self._cluster, self._stage)
                except BusyError:
                    self.going.clear()  # what is there is not ours
                    raise
        if self._stage.pull_secret:
            await stage.create_pull_secret(self._cluster, self._stage, self._plan.images.pull_secret)

    def _work(self, workloads: Iterable[Workload], taken: set[str]) -> list[Work]:
        found = []
        for workload in workloads:
            for node in self._plan.nodes if workload.scope is Scope.NODE else (None,):
                while (nonce := expiry.nonce(self._cluster.now())) in taken:
                    pass
                taken.add(nonce)
                found.append(Work(workload, node, nonce))
        # Not all may begin at once: what is created on all nodes at once comes first, then all work of a node together.
        place = {node.name: number for number, node in enumerate(self._plan.nodes, 1)}
        return sorted(found, key=lambda one: 0 if one.node is None or one.workload.shared else place[one.node.name])

    def _remark(self, line: str) -> None:
        self.remarks.append(line)
        self._say(line)

    async def _look_inside(self, namespaces: Mapping[str, str]) -> None:
        cluster, plan = self._cluster, self._plan
        needs = Needs(pod_security="baseline" in namespaces, image=plan.images.resolve(BASE_IMAGE))
        asked = list(trials(plan, self._stage, cluster.now()))
        problems = await look_inside(
            cluster, namespaces, asked, needs, self._remark, server=plan.cluster.server_version, nodes=plan.nodes
        )
        if problems:
            raise TargetError(told(problems))

    def _check_first(self, first: list[Work]) -> None:
        """
        Take in what was found before anything was put on the nodes: one that starts no pod is given up. Raises
        TargetError for what keeps every workload from running, of all nodes at once.
        """
        problems, no_pod = [], []
        for work in first:
            node = work.node.name if work.node else ""
            if work.trouble and work.trouble.code == "image-not-pulled":
                line = f"{node}: {work.trouble}"
                own = pod_status.status_of(work.record["steps"][0]["kubernetes"]["pod"], _REAP) or {}
                if pod_status.image_trouble({"status": {"containerStatuses": [own]}}) is None:
                    self._remark(f"{line}; what needs it is not proven. {_ELSEWHERE}")
                else:
                    problems.append(f"{line} — `nox -s images` lists what is needed; {_ELSEWHERE}")
            if work.trouble and work.trouble.code == "log-unreadable":
                problems.append(
                    f"{node}: the API server does not reach its kubelet: {work.trouble}"
                    " — open port 10250 of the node to it"
                )
            if work.trouble and work.trouble.code == NO_SANDBOX:
                self._shared.given_up[node] = NO_SANDBOX, f"the node was given up after the first step: {work.trouble}"
                no_pod.append(f"{node}: no pod can be started: {work.trouble}")
            for step in work.record["steps"]:
                pod = step["kubernetes"]["pod"]
                skew = clock_skew(pod, self._cluster.now()) if pod else None
                if skew is not None and (notice := clock_notice(node, skew)):
                    self._remark(notice)
                for line in _reaped(step["probe"]):
                    self._say(f"{node}: {line}")
        if problems or (no_pod and len(no_pod) == len(self._plan.nodes)):
            raise TargetError(told([*problems, *no_pod]))
        for line in no_pod:
            self._remark(f"{line}; its rows are not proven, the other nodes go on")

    async def _run_all(self, work: list[Work], watches: list[asyncio.Task[None]], *, keep: bool = False) -> None:
        """
        Run all of them; ``keep`` their records for a look.
        """
        gate = asyncio.Semaphore(AT_ONCE)

        async def run(one: Work) -> None:
            async with gate:
                await WorkloadRun(self._shared, one).run()
            if not keep:
                one.record = {}  # it is written; thousands of them are gigabytes

        tasks = [asyncio.create_task(run(one)) for one in work]
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

    async def _start_watches(self, namespaces: list[str], tasks: list[asyncio.Task[None]]) -> None:
        # All of them: with a selector, a node that loses a label would look like one that is gone.
        nodes = Watched("/api/v1/nodes", self._node_changed, kept_of_node)
        watched = [nodes]
        for namespace in namespaces:
            seen, path = self._shared.seen, f"/api/v1/namespaces/{namespace}"
            watched.append(Watched(f"{path}/pods", seen.pod_changed, kept_of_pod))
            watched.append(Watched(f"{path}/events", seen.event_changed, kept_of_event))
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
        name, uid = item["metadata"]["name"], item["metadata"]["uid"]
        if name in self._node_uids:
            ours = uid == self._node_uids[name]
            # Another node of the same name is another machine: ours is gone.
            if (ours and kind == "DELETED") or (not ours and kind != "DELETED"):
                self._vanish(name)

    def _vanish(self, node: str) -> None:
        """
        Give up what is awaited on a node that is no longer in the cluster; the others go on.
        """
        if not self._shared.vanished(node):
            self._shared.given_up[node] = VANISHED
            self._say(f"{node} is no longer in the cluster: what was not seen on it by now is not proven")
            for timer in self._shared.timers[node]:
                timer.reschedule(asyncio.get_running_loop().time())

    async def _clean_up(self) -> None:
        """
        Take away the pods, and ask for the rest to go: the namespace controller takes five seconds to begin, which the
        run spends on judging.
        """
        forget_cancellation()
        self.cleaning_up = True
        shared = self._shared
        if shared.creating:
            # What is created after it was deleted would stay.
            await asyncio.wait(shared.creating, timeout=REQUEST_SECONDS)
        shared.progress.awaited = {"clean-up": "pods to go"}
        shared.report(shared.progress)
        stuck = [pod for pod in shared.seen.pods.values() if shared.vanished(pod["spec"].get("nodeName"))]
        for pod in stuck:
            # Its kubelet is not there to confirm that it ended.
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            await cleanup.delete(self._cluster, path, {"gracePeriodSeconds": "0"})
        results = await asyncio.gather(
            *(cleanup.remove(self._cluster, one) for one in self.going), return_exceptions=True
        )
        shared.untidy += [str(result) for result in results if isinstance(result, Exception)]
        shared.progress.awaited = {}


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
