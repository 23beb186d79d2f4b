"""
What became of a container that should run on, for the pages of this area.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from conformance import Unknown

if TYPE_CHECKING:
    from conformance._suite.observation import Step

RUNNING = "running and ready"

# What the runtime and the kubelet say when they are overloaded or lost sight of something.
_TROUBLE = re.compile(
    r"context deadline exceeded|context canceled|failed to reserve (?:container|sandbox) name|DeadlineExceeded|"
    r"code = Unavailable|ttrpc: closed",
    re.IGNORECASE,
)


def state_of(step: Step, container: str) -> str:
    """
    ``running and ready``, or how the container ended, with the end of what it wrote. Raises Unknown for trouble, which
    says nothing about the sample: a pod that was evicted, a container that was not created (yet), one that the kubelet
    lost sight of, a runtime that did not answer in time.
    """
    pod = step.pod["status"]
    if pod.get("reason") or "deletionTimestamp" in step.pod["metadata"]:
        why = f"{pod.get('reason') or 'deleted'} {pod.get('message') or ''}".strip()
        raise Unknown(f"the pod was stopped: {why}", "pod-stopped")
    seen = step.container(container)
    if not seen.ended:
        if seen.ready:
            return RUNNING
        state = seen.status.get("state") or "no state"
        raise Unknown(f"container {container} neither runs nor has ended: {state}", "not-settled")
    ended = seen.terminated
    message = str(ended.get("message") or "")
    if seen.lost:
        raise Unknown("the kubelet does not know how the container ended", "container-lost")
    if _TROUBLE.search(message):
        raise Unknown(f"the runtime was in trouble: {message}", "runtime-trouble")
    written = step.data["kubernetes"]["logs"].get(container, "").strip() or message or "nothing"
    return f"ended: {ended.get('reason')}, exit code {ended.get('exitCode')}; it wrote: {written[-300:]}"
