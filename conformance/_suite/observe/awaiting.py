"""
Waiting until a step's ``until`` is met: by what the watches see, and by the logs that are followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conformance._suite import evidence
from conformance._suite.cluster import RefusedError
from conformance._suite.observe.plan import Trouble
from conformance._suite.pod_status import decided, failing, has_started, image_trouble, running, runs, status_of
from conformance._suite.waiting import TryAgainError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conformance._suite.cluster import Cluster
    from conformance._suite.observe.plan import Plan
    from conformance._suite.observe.seen import Seen
    from conformance._suite.workload import Step

PULL_SECONDS = 600
"""How long pulling images may take before a step's deadline counts; the kubelet pulls one after another."""
IMAGE_SECONDS = 60
"""For how long an image that cannot be pulled is tried before the kubelet is believed."""
SIMULATED_SETTLING = 0.3
"""The part of a step's ``stable`` time that a simulated kubelet, which reports at once, is given."""
ANSWERS = 10
"""So many answers of a kubelet's fit into the time in which a container is to run undisturbed."""
STATUS_SECONDS = 5
"""By how much the status of a container that has ended may come later than what its end causes."""
LOG_WINDOW = 4096
"""Characters at the end of a log in which a step's pattern is looked for."""
_DENIAL = re.compile(r" is forbidden: | is invalid: |denied the request")
_NOT_YET = re.compile("error looking up service account|status unknown for quota|not yet ready to handle request")


@dataclass(slots=True)
class Patience:
    """
    The deadline of a step. It counts from when the images are there: how long a registry takes is no node's fault.
    """

    timer: asyncio.Timeout
    limit: float
    pulling: bool = False

    @property
    def has_time(self) -> bool:
        """
        Whether half of the time is left, which is enough for what took the other half.
        """
        return (self.timer.when() or 0) - asyncio.get_running_loop().time() > self.limit / 2

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


@dataclass(frozen=True, slots=True)
class Awaiting:
    """
    One step's wait for the pods of ``owner`` (an owner's name, or the pod's own) on ``node`` (empty: wherever).
    """

    cluster: Cluster
    plan: Plan
    seen: Seen
    step: Step
    owner: str
    node: str
    patience: Patience

    async def until_met(self) -> dict[str, str]:
        """
        Wait until the step's ``until`` is met; return the logs that were read on the way, by container. Raises Trouble
        when it cannot be met any more.
        """
        step = self.step
        if step.until == "event":
            await self._until(self._event_seen)
            return {}
        if step.until in {"output", "log"}:
            containers = step.probes if step.until == "output" else ((step.log or {})["container"],)
            texts = await asyncio.gather(*(self._follow(name) for name in containers))
            return dict(zip(containers, texts, strict=True))
        if step.until == "settled":
            await self._until_settled()
            return {}
        met = decided if step.until == "finished" else running
        await self._until(lambda: met(self.pod))
        return {}

    @property
    def pod(self) -> dict[str, Any] | None:
        """
        The pod as last seen.
        """
        return self.seen.pod_of(self.owner, self.node)

    def _event_seen(self) -> bool:
        wanted = self.step.event or {}
        return any(
            re.fullmatch(wanted["reason"], str(event["reason"]))
            and re.search(wanted.get("message", ""), str(event["message"]))
            for event in self.seen.events_of({self.owner})
        )

    async def _until(self, met: Callable[[], bool]) -> None:
        bell = self.seen.bell(self.owner, self.node)
        unpullable_since: float | None = None
        existed = False
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            bell.clear()
            if met():
                return
            pod = self.pod
            if pod is None and existed:
                raise Trouble("pod-vanished", "the pod was deleted before it was done")
            events = self.seen.events_of({pod["metadata"]["name"] if pod else self.owner})
            if pod is not None:
                existed = True
                self.patience.heed(events, began + PULL_SECONDS * self.plan.time_scale)
            elif denied := _denied(events):
                raise Trouble("refused-by-api", f"no pod was made: {denied}")
            refused = image_trouble(pod, events)
            if refused is None:
                unpullable_since = None
            else:
                unpullable_since = unpullable_since or clock()
                if clock() - unpullable_since > IMAGE_SECONDS * self.plan.time_scale:
                    raise Trouble("image-not-pulled", f"the image cannot be pulled: {refused}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), 5 if refused else None)

    async def _until_settled(self) -> None:
        """
        Wait until the pod either has failed for good or has run undisturbed for ``stable`` seconds: one start that
        failed, and the next one did not, is no failure.
        """
        while True:
            await self._until(lambda: running(self.pod) or failing(self.pod))
            pod = self.pod
            if pod is None or failing(pod):
                return
            stable = self.step.stable * (SIMULATED_SETTLING if self.plan.cluster.simulated else self.plan.time_scale)
            if await self._undisturbed(pod, stable):
                return
            # A log has ended: give the status the time to say so.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stable):
                    await self._until(lambda: not running(self.pod))

    async def end_of(self, container: str) -> None:
        """
        Give the status the time to say that a container has ended, if it has.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS * (SIMULATED_SETTLING if self.plan.cluster.simulated else 1)):
                await self._until(lambda: not runs(self.pod, container))

    async def _undisturbed(self, pod: Mapping[str, Any], seconds: float) -> bool:
        """
        Whether every container runs on for so long. The kubelet ends a log that is followed when its container ends;
        the pod's status says it later, on a busy node much later. Where the way to the kubelet is slow, it is waited
        for several times as long as one answer takes: a log that is not there yet has not ended either.
        """
        names = [container["name"] for container in pod["spec"]["containers"]]

        async def read(name: str, **more: str) -> None:
            query = {"container": name, "tailLines": "1", **more}
            with contextlib.suppress(TryAgainError, RefusedError):
                async for _ in self.cluster.stream(log_path(pod), query, silence=3600):
                    pass

        asked = asyncio.get_running_loop().time()
        await read(names[0])
        seconds = max(seconds, ANSWERS * (asyncio.get_running_loop().time() - asked))
        follows = [asyncio.create_task(read(name, follow="true")) for name in names]
        try:
            ended, _ = await asyncio.wait(follows, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in follows:
                task.cancel()
            await asyncio.gather(*follows, return_exceptions=True)
        return not ended

    async def _follow(self, container: str) -> str:
        """
        Follow one container's log until it says what is awaited, or the container has ended.
        """

        def started() -> bool:
            return has_started(status_of(self.pod, container) or {})

        await self._until(lambda: started() or failing(self.pod, container))
        if not started():
            return ""
        pattern = re.compile((self.step.log or {})["pattern"]) if self.step.log else None
        while True:
            pod = self.pod
            if pod is None:
                raise Trouble("pod-vanished", "the pod was deleted before it was done")
            text, whole = "", False
            try:
                query = {"container": container, "follow": "true", "limitBytes": str(evidence.OUTPUT_LIMIT)}
                async for chunk in self.cluster.stream(log_path(pod), query, silence=3600, ends_soon=True):
                    text += chunk.decode(errors="replace")
                    # Only the end is searched: patterns must stay quick whatever a container writes.
                    if pattern.search(text[-LOG_WINDOW:]) if pattern else evidence.output_ended(text):
                        return text
                whole = True
            except TryAgainError:
                pass
            except RefusedError as error:
                if error.answer.code != 400:  # the container waits to be started again, and has no log
                    raise
            if (whole and failing(self.pod, container)) or len(text) >= evidence.OUTPUT_LIMIT:
                return text
            # The stream broke or ended early, or the container is started again: read from the beginning.
            await asyncio.sleep(0.3)
            await self._until(lambda: runs(self.pod, container) or failing(self.pod, container))


def _denied(events: list[dict[str, Any]]) -> str | None:
    """
    Why a controller's pod was refused, in the API server's or a policy's words; None where none was. What it cannot
    make because of something else, such as a webhook that does not answer, may still come.
    """
    said = [str(event["message"]) for event in events if event["reason"] == "FailedCreate"]
    return next((text for text in reversed(said) if _DENIAL.search(text) and not _NOT_YET.search(text)), None)


def log_path(pod: Mapping[str, Any]) -> str:
    """
    The API path of a pod's log.
    """
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/log"
