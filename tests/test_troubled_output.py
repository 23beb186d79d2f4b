"""
What a container can print instead of an observation: end to end, each is not-proven with its own reason, never red.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite import evidence, workload
from conformance._suite.cluster import Answer, Cluster
from conformance._suite.errors import Unknown
from conformance._suite.judging import Judging
from conformance._suite.observe.engine import Engine
from conformance._suite.observe.plan import Plan
from conformance._suite.observe.workload_run import now
from conformance._suite.preflight.look import look
from conformance._suite.preflight.needs import Needs
from conformance._suite.preflight.selection import Choice, Expectations

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Matrix

WORKLOAD = "system-accounts"


class Garbling(Cluster):
    """
    A cluster whose containers' logs are changed on the way.
    """

    garble: Any = staticmethod(lambda log: log)

    async def request(self, method: str, path: str, *arguments: Any, **options: Any) -> Answer:
        answer = await super().request(method, path, *arguments, **options)
        if path.endswith("/log"):
            return Answer(answer.code, type(self).garble(answer.body))
        return answer


GARBLES: dict[str, Any] = {
    "output-missing": lambda _: "",
    "output-garbage": lambda log: log.replace("{", "<"),
    "output-doubled": lambda log: log + log,
    "output-cut": lambda log: log[: len(log) // 2],
    "output-too-large": lambda log: log + "x" * 10_000_000,
}


@pytest.mark.cluster
@pytest.mark.parametrize("code", GARBLES)
def test_it_proves_nothing(matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(Garbling, "garble", staticmethod(GARBLES[code]))
    loaded = workload.load(WORKLOAD)

    async def observe() -> Judging:
        async with await Garbling.connect(matrix.kubeconfig) as cluster:
            names = (matrix.faithful["2.3"],)
            facts, nodes = await look(
                cluster, "existing", Choice(names=names), Expectations(), Needs(), print, simulated=True
            )
            plan = Plan(code.replace("-", ""), tmp_path, facts, nodes, (loaded,))
            judging = Judging(tmp_path, plan.run_id, now(), facts, nodes)
            await Engine(cluster, plan, lambda _: None).observe()
            return judging

    judging = asyncio.run(observe())
    step = evidence.load(judging, loaded, judging.nodes[0]).step("log-on")
    assert {trouble["code"] for trouble in step.data["probeTrouble"].values()} == {code}
    with pytest.raises(Unknown) as caught:
        step.probe("local-system")
    assert caught.value.code == code
