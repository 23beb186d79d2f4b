"""
The life of one workload on one node: its steps in their order, what becomes of them when one fails or the run is
interrupted, and its evidence, which is written however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from conformance._suite import evidence, pod_status
from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.observe import cleanup, collecting, manifests, requests
from conformance._suite.observe.awaiting import Awaiting, Patience
from conformance._suite.observe.plan import NO_SANDBOX, Trouble
from conformance._suite.preflight.changes import changes
from conformance._suite.waiting import TryAgainError, forget_cancellation, persistently
from conformance._suite.workload import BASE_IMAGE

if TYPE_CHECKING:
    from conformance._suite.observe.plan import Creating, Shared, Work
    from conformance._suite.workload import Step

TIDY_SECONDS = 60
"""How long the steps that put the host back may take after an interruption."""


class WorkloadRun:
    """
    Runs one piece of work. ``run`` is all there is to call.
    """

    def __init__(self, shared: Shared, work: Work) -> None:
        self._shared = shared
        self._work = work
        self._node = work.node.name if work.node else ""
        self._owner = ""
        """Whose pods the current step waits for: their owner's name, or the pod's own."""
        self._creating: Creating | None = None
        """What the current step creates; it goes on when the step is given up."""

    async def run(self) -> None:
        """
        Run the steps, and write the evidence. A step that fails ends it, but for those that put the host back. When
        cancelled, these are completed before the CancelledError goes on.
        """
        shared, work = self._shared, self._work
        work.record = self._new_record()
        ended_by: Trouble | asyncio.CancelledError | None = None
        try:
            for step in work.workload.steps:
                if ended_by is not None and (shared.lost() or not (step.always and work.record["steps"])):
                    shared.progress.done += 1
                    continue
                if ended_by is not None and self._node in shared.given_up:
                    shared.progress.done += 1
                    if self._creating is not None:
                        shared.untidy.append(
                            f"{work.label}: the node is gone; what was made on it stays there until it is reaped"
                        )
                    continue
                try:
                    if ended_by is not None:
                        await self._withdraw()
                    await self._step(step)
                except Trouble as error:
                    ended_by = error
                except asyncio.CancelledError as error:
                    ended_by = error
                    await self._after_interruption(step)
                if step.always and not work.record["steps"][-1]["met"] and self._may_have_changed_the_host():
                    shared.untidy.append(f"{work.label}: step {step.name}, which puts the host back, was not completed")
        finally:
            work.record["ended"] = now()
            path = shared.plan.out / evidence.relative_path(work.workload.name, self._node or None)
            evidence.write_json(path, work.record)
            shared.progress.awaited.pop(work.label, None)
            shared.report(shared.progress)
        if isinstance(ended_by, asyncio.CancelledError):
            raise ended_by
        work.trouble = ended_by

    def _new_record(self) -> dict[str, Any]:
        work, plan, namespaces = self._work, self._shared.plan, self._shared.stage.namespaces
        return {
            "schema": evidence.SCHEMA,
            "runId": plan.run_id,
            "simulated": plan.cluster.simulated,
            "workload": work.workload.name,
            "workloadDigest": work.workload.digest,
            "scope": str(work.workload.scope),
            "node": {"name": work.node.name, "uid": work.node.uid} if work.node else None,
            "started": now(),
            "ended": None,
            "parameters": {
                "nonce": work.nonce,
                "markers": {name: secrets.token_hex(16) for name in work.workload.markers},
                "namespace": namespaces["main"],
                "namespaces": {key: namespaces[key] for key in ("baseline", "restricted")},
            },
            "steps": [],
        }

    async def _after_interruption(self, step: Step) -> None:
        """
        From here on the host is put back, and that is not to be interrupted.
        """
        forget_cancellation()
        self._shared.interrupted = True
        steps = self._work.record["steps"]
        if step.always and not self._shared.lost():
            if steps[-1]["name"] == step.name:
                steps.pop()
            with contextlib.suppress(Trouble):
                await self._withdraw()
                await self._step(step)

    async def _withdraw(self) -> None:
        """
        Take away what the step that failed created, even if its creation is still under way: it must not go on, or
        begin, while the host is put back.
        """
        if self._creating is None:
            return
        with contextlib.suppress(TimeoutError, TargetError, RefusedError, TryAgainError):
            async with asyncio.timeout(TIDY_SECONDS):
                await asyncio.wait({self._creating})
                await self._delete_pod(self._owner)

    async def _step(self, step: Step) -> None:
        """
        Carry out one step within its deadline, and record how it ended. Raises Trouble, or what cancels it.
        """
        shared, work = self._shared, self._work
        record: dict[str, Any] = {
            "name": step.name,
            "until": step.until,
            "met": False,
            "trouble": None,
            "started": now(),
            "ended": None,
            "sent": [],
            "api": [],
            **_unseen(step),
        }
        work.record["steps"].append(record)
        shared.progress.awaited[work.label] = f"{step.name} until {step.until}"
        shared.report(shared.progress)
        limit = TIDY_SECONDS if shared.interrupted else step.deadline * shared.plan.time_scale
        timers = shared.timers[self._node] if work.node else set()
        timer = asyncio.timeout(limit)
        try:
            async with timer:
                timers.add(timer)
                await self._carry_out(step, record, Patience(timer, limit))
            record["met"] = True
        except TimeoutError:
            known = collecting.what_is_known(shared.seen, self._owner, self._node)
            code, message = "deadline", f"not {step.until} within {limit:g} s: {known}"
            if shared.vanished(self._node):  # its timers were made to run out
                code, message = shared.given_up[self._node]
            elif said := collecting.no_sandbox(shared.seen, self._owner, self._node):
                code, message = NO_SANDBOX, f"no sandbox was made within {limit:g} s: {said}"
            elif changed := self._changed(record):
                code, message = changed
            record["trouble"] = {"code": code, "message": message}
            raise Trouble(code, message) from None
        except Trouble as error:
            code, message = self._changed(record) or (error.code, str(error))
            record["trouble"] = {"code": code, "message": message}
            raise Trouble(code, message) from error
        except (TargetError, RefusedError) as error:
            record["trouble"] = {"code": "no-answer", "message": str(error)}
            raise Trouble("no-answer", str(error)) from error
        except asyncio.CancelledError:
            record["trouble"] = dict(zip(("code", "message"), shared.ended_by, strict=True))
            raise
        except Exception as error:  # one node's odd answer must not end what is observed on the others
            record["trouble"] = {"code": "suite-trouble", "message": f"{type(error).__name__}: {error}"}
            raise Trouble("suite-trouble", str(error)) from error
        finally:
            timers.discard(timer)
            record["ended"] = now()
            shared.progress.done += 1
            shared.report(shared.progress)

    async def _carry_out(self, step: Step, record: dict[str, Any], patience: Patience) -> None:
        """
        Send what the step sends, wait until it is met, and collect what there is then.
        """
        shared, work = self._shared, self._work
        cluster, plan, stage = shared.cluster, shared.plan, shared.stage
        if self._node in shared.given_up:
            raise Trouble(*shared.given_up[self._node])  # before this began: nothing is sent to it
        filled_in = manifests.placeholders(work, plan, stage, cluster.now())
        if step.requests is not None:
            # Requests go as they are; in manifests ``prepare`` finds every image its place.
            filled_in["image"] = plan.images.resolve(BASE_IMAGE)
            for request in work.workload.requests(step, filled_in):
                record["api"].append(await requests.send_request(cluster, plan, stage, request))
            return
        # Nodes that take other images have objects of their own.
        key = work.workload.name, step.name, manifests.images_on(step, work.node) if work.node else frozenset()
        once = shared.once.get(key) if step.shared else None
        if once:
            documents, self._creating, digest = once
        else:
            documents = work.workload.manifests(step, filled_in)
            for document in documents:
                manifests.prepare(document, work, step, plan, stage)
            digest = self._keep_whole(documents) if step.shared else None
            self._creating = self._create(step, documents)
            if step.shared:
                shared.once[key] = documents, self._creating, digest
        self._owner = documents[-1]["metadata"]["name"]
        # Creating goes on when this is cancelled.
        record["api"] = await asyncio.shield(self._creating)
        record["sent"] = documents
        if digest and work.node:
            record["sent"] = [manifests.part_of(document, work.node) for document in documents]
            record["sentWhole"] = digest
        _raise_refused(record["api"])
        awaiting = await self._see(step, record, patience)
        if collecting.worth_repeating(step, record) and patience.has_time:
            awaiting = await self._see_once_more(step, record, patience)
        collecting.explain_lost(record)
        if step.proxy:
            answer = await collecting.ask_through_proxy(cluster, step, record)
            record["api"].append(answer)
            if answer["code"] != 200:
                await awaiting.end_of(step.proxy["container"])
        now_there = awaiting.pod
        if step.until in {"output", "log", "settled"} and (
            now_there is None or now_there["metadata"]["uid"] != record["kubernetes"]["pod"]["metadata"]["uid"]
        ):
            raise Trouble("pod-replaced", "the pod was replaced while it was looked at")
        # What answered, or did not, is the pod as it was then.
        collecting.snapshot(shared.seen, record, self._owner, self._node, keep=not step.proxy)
        if changed := self._changed(record):
            raise Trouble(*changed)
        if step.delete_after:
            await self._delete_pod(self._owner)

    async def _see(self, step: Step, record: dict[str, Any], patience: Patience) -> Awaiting:
        """
        Wait until the step is met, and record what there is then.
        """
        shared = self._shared
        awaiting = Awaiting(shared.cluster, shared.plan, shared.seen, step, self._owner, self._node, patience)
        try:
            logs = await awaiting.until_met()
        finally:
            collecting.snapshot(shared.seen, record, self._owner, self._node)
        await collecting.read_logs(shared.cluster, step, record, logs)
        return awaiting

    async def _see_once_more(self, step: Step, record: dict[str, Any], patience: Patience) -> Awaiting:
        """
        Run the step's pod a second time, under another name, in what is left of the step's time, and let that count;
        what was seen of the first one is kept beside it.
        """
        *others, pod = record["sent"]
        kept = ("sent", "api", "kubernetes", "probe", "probeTrouble")
        record["firstTry"] = {key: record[key] for key in kept}
        await self._delete_pod(self._owner)
        pod = {**pod, "metadata": {**pod["metadata"], "name": f"{self._owner}-again"}}
        record |= {"sent": [*others, pod], "api": [], **_unseen(step)}
        self._owner = pod["metadata"]["name"]
        self._creating = self._create(step, [pod])
        record["api"] = await asyncio.shield(self._creating)
        _raise_refused(record["api"])
        return await self._see(step, record, patience)

    def _may_have_changed_the_host(self) -> bool:
        """
        Whether a container of a step may have run, or a volume of it made a folder. What was created and not seen may
        have.
        """
        if self._creating is None:
            return False
        pods = [step["kubernetes"]["pod"] for step in self._work.record["steps"]]
        return any(
            pod is None
            or any(pod_status.has_started(status) for status in pod_status.statuses(pod))
            or any("hostPath" in volume for volume in pod["spec"].get("volumes") or ())
            for pod in pods
        )

    def _changed(self, record: dict[str, Any]) -> tuple[str, str] | None:
        """
        What admission made of the pod that was sent, as a code and words, where that is another pod: what becomes of
        it says nothing about the one that was meant.
        """
        pod, node = record["kubernetes"]["pod"], self._work.node
        if pod is None or node is None or not record["sent"]:
            return None
        sent = manifests.part_of(record["sent"][-1], node)
        harmful, _ = changes(sent, pod, self._shared.plan.cluster.server_version, [node])
        return ("pod-changed", f"admission made another pod of it: {', '.join(harmful)}") if harmful else None

    def _create(self, step: Step, documents: list[dict[str, Any]]) -> Creating:
        shared = self._shared
        creating = asyncio.create_task(requests.create(shared.cluster, shared.plan, documents, step))
        shared.creating.add(creating)
        creating.add_done_callback(shared.creating.discard)
        return creating

    def _keep_whole(self, documents: list[dict[str, Any]]) -> str | None:
        """
        Write what is sent once for all nodes, of which each node's evidence then has its part. Returns the file's
        SHA-256; None where it cannot be written, and each node's evidence has to have all of it.
        """
        path = self._shared.plan.out / evidence.whole_path(self._work.workload.name, documents[-1]["metadata"]["name"])
        try:
            evidence.write_json(path, documents)
            return evidence.digest(path)
        except OSError:
            return None

    async def _delete_pod(self, name: str) -> None:
        """
        Delete a pod and wait until it is gone.
        """
        cluster = self._shared.cluster
        pods = requests.collection_path("Pod", self._shared.stage.namespaces["main"])
        await cleanup.delete(cluster, f"{pods}/{name}")

        async def gone() -> None:
            if (await cluster.must("GET", pods, query={"fieldSelector": f"metadata.name={name}"}))["items"]:
                raise TryAgainError(f"pod {name} does not go")

        await persistently(gone, TIDY_SECONDS)


def _unseen(step: Step) -> dict[str, Any]:
    """
    What a step's record holds of a pod that nobody has seen yet.
    """
    return {
        "kubernetes": {"pod": None, "object": None, "events": [], "logs": {}},
        "probe": dict.fromkeys(step.probes),
        "probeTrouble": {},
    }


def _raise_refused(answers: list[dict[str, Any]]) -> None:
    if refused := [answer for answer in answers if answer["code"] != 201]:
        raise Trouble("refused-by-api", f"{refused[0]['request']}: {refused[0]['code']} {refused[0]['message']}")


def now() -> str:
    """
    The time in UTC, ISO 8601 with milliseconds.
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
