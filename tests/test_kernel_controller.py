"""
What is lost is not-proven: the expected set of results is fixed before the run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conformance._suite import evidence
from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.judge import plugin
from conformance._suite.judge.matrix import Selected, pages, whole
from conformance._suite.judge.outcome import result_from_json, result_to_json
from conformance._suite.judge.pytest_run import about_the_run, complete
from conformance._suite.judging import Judging
from conformance._suite.observation import Evidence
from conformance._suite.requirement import Level
from conformance._suite.result import NODE_SHOWN, NODE_TESTED, Result, Verdict

NODES = tuple(
    NodeFacts(name, f"uid-{name}", "10.0.0.1", name, runtime, "v1.37.2", "Windows", "10.0.1", 2)
    for name, runtime in (("old", "containerd://1.6.39"), ("new", "containerd://2.3.4"))
)


def _complete(*selected: tuple[str, str | None]) -> list[Result]:
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    judging = Judging(Path(), "r", "2026-01-01T00:00:00+00:00", facts, NODES)
    return complete(judging, Selected(frozenset(selected)), {})


def test_every_requirement_has_a_row_for_every_node_or_one_for_the_cluster() -> None:
    found = {(one.requirement, one.node) for one in _complete()}
    assert len(found) == sum(1 if one.scope == "cluster" else 2 for one in pages().requirements.values())


def test_a_result_that_never_came_is_not_proven() -> None:
    found = {(one.requirement, one.node): one for one in _complete(("resources/cpu/limit-is-the-jobs", "new"))}
    lost = found["resources/cpu/limit-is-the-jobs", "new"]
    assert (lost.verdict, lost.reason_code) == (Verdict.NOT_PROVEN, "no-result")
    left_out = found["resources/cpu/limit-is-the-jobs", "old"]
    assert (left_out.verdict, left_out.reason_code) == (Verdict.NOT_PROVEN, "not-selected")


def test_versions_are_gated_for_each_node_by_itself() -> None:
    found = {(one.requirement, one.node): one.verdict for one in _complete()}
    assert found["storage/volumes/at-mount-path-with-drive", "old"] is Verdict.NOT_APPLICABLE
    assert found["storage/volumes/at-mount-path-with-drive", "new"] is Verdict.NOT_PROVEN


def test_what_the_run_did_not_look_at_or_see_is_a_result_of_its_own() -> None:
    """
    One node that nobody left out was not tested, and on one that was nothing binding applies.
    """
    facts = ClusterFacts("existing", "v1.37.2", simulated=False, untested={"down": "not ready: no network"})
    ancient = replace(NODES[0], name="ancient", container_runtime="containerd://1.5.11+azure")
    blind = replace(NODES[0], name="blind", container_runtime="containerd://abcdef0.m")
    judging = Judging(Path(), "r", "2026-01-01T00:00:00+00:00", facts, (*NODES, ancient, blind))
    found = about_the_run(judging, complete(judging, Selected(frozenset()), {}))
    assert [(one.requirement, one.node, one.reason_code, one.reason) for one in found] == [
        (NODE_TESTED, "down", "node-not-tested", "the node was not tested: not ready: no network"),
        (NODE_SHOWN, "ancient", "nothing-applies",
         "nothing binding applies: holds since containerd 1.6; holds since containerd 1.7.0-alpha.1"),
    ]  # fmt: skip
    assert {(one.level, one.verdict) for one in found} == {(Level.MUST, Verdict.NOT_PROVEN)}


def test_what_can_only_be_unknown_is_not_observed() -> None:
    """
    A node whose version cannot be told asks for no workload: whatever is seen there proves nothing.
    """
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    blind = replace(NODES[1], name="blind", container_runtime="containerd://abcdef0.m")
    both = Judging(Path(), "r", "", facts, (NODES[0], blind))
    assert whole(both).workloads(both) == whole(replace(both, nodes=NODES[:1])).workloads(both)
    alone = replace(both, nodes=(blind,))
    assert whole(alone).workloads(alone) == ["admission"]


@pytest.mark.parametrize(
    ("says", "agrees"),
    [
        ("containerd github.com/containerd/containerd v1.6.39 0123abc", False),
        ("containerd github.com/containerd/containerd/v2 v2.0.7+azure 0123abc", True),
        ("containerd github.com/containerd/containerd/v2 v2.0.0+unknown", True),
        (None, True),
    ],
)
def test_a_version_that_containerd_itself_denies_gates_nothing(
    monkeypatch: pytest.MonkeyPatch, says: str | None, agrees: bool
) -> None:
    data = {"steps": [{"probe": {"reader": {"containerdVersion": says}}}]}
    monkeypatch.setattr(evidence, "load", lambda *_: Evidence(data))
    node = replace(NODES[1], container_runtime="containerd://abcdef0.m", stated_containerd="2.0")
    judging = Judging(Path(), "r", "", ClusterFacts("existing", "v1.37.2", simulated=False), (node,))
    if agrees:
        plugin._compare_stated(judging, node)
    else:
        with pytest.raises(Unknown, match=r"containerd 2\.0 is stated, and containerd\.exe says 1\.6\.39"):
            plugin._compare_stated(judging, node)


def test_a_result_travels_unchanged() -> None:
    result = Result("a/b/c", None, Level.SHOULD, Verdict.CONFORMANT, "as-documented", "it holds", "1", "1")
    assert result_from_json(result_to_json(result)) == result
