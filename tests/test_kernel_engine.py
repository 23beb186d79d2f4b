"""
In which order work begins, how much of it at once, and what is kept of it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from conformance._suite import evidence, workload
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.namespaces import namespaces_of
from conformance._suite.observe import engine as module
from conformance._suite.observe.engine import Engine
from conformance._suite.observe.plan import VANISHED, Plan, Shared, Stage, Work
from conformance._suite.observe.seen import Seen
from conformance._suite.observe.workload_run import WorkloadRun

if TYPE_CHECKING:
    import pytest

    from conformance._suite.cluster import Cluster

NODES = tuple(
    NodeFacts(
        f"win-{number}", f"uid-{number}", "10.0.0.1", f"win-{number}", "containerd://2.3.4", "v1.37.2", "W", "1", 2
    )
    for number in range(1, 5)
)


class _Clock:
    """
    As much of a cluster as is needed before anything is sent.
    """

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


def _engine(*names: str) -> tuple[Engine, list[Work]]:
    workloads = tuple(workload.load(name) for name in names)
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    plan = Plan("run", Path(), facts, NODES, workloads)
    engine = Engine(cast("Cluster", _Clock()), plan, lambda _: None)
    return engine, engine._work(workloads, set())


def test_what_is_shared_begins_first_and_then_it_goes_node_by_node() -> None:
    _, work = _engine("admission", "aks-daemonset", "node-facts", "volumes")
    assert [one.label for one in work] == [
        "admission on the API server",
        *(f"aks-daemonset on {node.name}" for node in NODES),
        *(f"{name} on {node.name}" for node in NODES for name in ("node-facts", "volumes")),
    ]
    assert len({one.nonce for one in work}) == len(work)


def test_nothing_is_sent_to_a_node_that_went_before_its_turn(tmp_path: Path) -> None:
    loaded = workload.load("local-accounts")
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    plan = Plan("run", tmp_path, facts, NODES, (loaded,))
    # This cluster cannot be asked for anything.
    shared = Shared(
        cast("Cluster", _Clock()), plan, Stage(namespaces_of("hpc-run"), {}), Seen(), lambda _: None, lambda: False
    )
    shared.timers = {node.name: set() for node in NODES}
    shared.given_up["win-1"] = VANISHED
    work = Work(loaded, NODES[0], "0123456789a")
    asyncio.run(WorkloadRun(shared, work).run())
    (step,) = json.loads((tmp_path / evidence.relative_path("local-accounts", "win-1")).read_text())["steps"]
    assert (step["met"], step["trouble"]["code"], step["sent"]) == (False, "node-vanished", [])
    assert shared.progress.done == len(loaded.steps)
    assert shared.untidy == []
    assert work.trouble is not None
    assert work.trouble.code == "node-vanished"


def test_a_node_selector_that_the_node_meets_makes_no_other_pod(tmp_path: Path) -> None:
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    plan = Plan("run", tmp_path, facts, NODES, ())
    shared = Shared(
        cast("Cluster", _Clock()), plan, Stage(namespaces_of("hpc-run"), {}), Seen(), lambda _: None, lambda: False
    )
    pod: dict[str, Any] = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}
    record = {"sent": [pod], "kubernetes": {"pod": {**pod, "spec": {**pod["spec"], "nodeSelector": {"pool": "a"}}}}}

    def changed(pool: str) -> tuple[str, str] | None:
        work = Work(workload.load("job-limits"), replace(NODES[0], labels={"pool": pool}), "0123456789a")
        return WorkloadRun(shared, work)._changed(record)

    assert changed("a") is None
    told = f"admission made another pod of it: adds spec.nodeSelector.pool (not met by {NODES[0].name})"
    assert changed("b") == ("pod-changed", told)


def test_no_more_is_under_way_than_the_limit_and_no_record_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: set[str] = set()
    most = 0

    class Run:
        def __init__(self, _: Shared, work: Work) -> None:
            self._work = work

        async def run(self) -> None:
            nonlocal most
            under_way.add(self._work.label)
            most = max(most, len(under_way))
            self._work.record = {"steps": []}
            await asyncio.sleep(0.01)
            under_way.discard(self._work.label)

    monkeypatch.setattr(module, "WorkloadRun", Run)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    engine, work = _engine("node-facts", "volumes")

    async def run_all(**how: Any) -> None:
        watch = asyncio.create_task(asyncio.sleep(60))
        try:
            await engine._run_all(work, [watch], **how)
        finally:
            watch.cancel()

    asyncio.run(run_all())
    assert (most, under_way) == (3, set())
    assert [one.record for one in work] == [{}] * len(work)
    asyncio.run(run_all(keep=True))
    assert [one.record for one in work] == [{"steps": []}] * len(work)
