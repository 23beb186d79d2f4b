"""
Evidence is parsed or refused, never guessed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite import evidence
from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts, Scope
from conformance._suite.judging import Judging
from conformance._suite.observation import Evidence, Facts
from conformance._suite.workload import Step, Workload

if TYPE_CHECKING:
    from pathlib import Path

WORKLOAD = Workload("volumes", Scope.NODE, (Step("read", "finished", 60),), (), "volumes", "sha256:w")
NODE = NodeFacts("win-1", "u-1", "10.0.0.1", "win-1", "containerd://2.3.4", "v1.37.2", "Windows", "10.0.1", 2)


def _line(text: str) -> str:
    return f"<<<observation {text} observation>>>\n"


def test_a_whole_observation_is_read() -> None:
    assert evidence.parse_output("noise\n" + _line('{"a": 1}') + "more\n") == {"a": 1}


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("", "output-missing"),
        ("'powershell.exe' is not recognized", "output-missing"),
        ("<<<observation {", "output-cut"),
        (_line("{"), "output-garbage"),
        (_line("[1]"), "output-garbage"),
        (_line("{}") + _line("{}"), "output-doubled"),
        (_line("{}") + "<<<observation {", "output-doubled"),
        (_line('{"a": ' + "[" * 100_000), "output-garbage"),
        ("<<<observation " * 50_000, "output-doubled"),
        ("x" * evidence.OUTPUT_LIMIT, "output-too-large"),
        (_line("{}") + "x" * evidence.OUTPUT_LIMIT, "output-too-large"),
    ],
)
def test_anything_else_is_refused(log: str, code: str) -> None:
    with pytest.raises(Unknown) as caught:
        evidence.parse_output(log)
    assert caught.value.code == code


def _data(**changes: Any) -> dict[str, Any]:
    pod = {"metadata": {"name": "volumes-1", "namespace": "hpc-r", "uid": "p"}, "spec": {"nodeName": "win-1"}}
    sent = {"kind": "Pod", "metadata": {"name": "volumes-1"}}
    step = {
        "name": "read",
        "until": "finished",
        "met": True,
        "trouble": None,
        "sent": [sent],
        "api": [{"name": "read/Pod"}],
        "probe": {"reader": {"a": 1}},
        "probeTrouble": {},
        "kubernetes": {"pod": pod, "events": [], "logs": {}},
    }
    return {
        "schema": 1,
        "runId": "r",
        "simulated": False,
        "workload": "volumes",
        "workloadDigest": "sha256:w",
        "scope": "node",
        "node": {"name": "win-1", "uid": "u-1"},
        "started": "2026-01-01T00:00:01.000Z",
        "ended": "2026-01-01T00:00:02.000Z",
        "parameters": {"namespace": "hpc-r"},
        "steps": [step],
        **changes,
    }


def _write(out: Path, data: object) -> Path:
    path = out / evidence.relative_path("volumes", "win-1")
    evidence.write_json(path, data)
    return path


def _judging(out: Path, **changes: Any) -> Judging:
    facts = ClusterFacts("existing", "v1.37.2", simulated=False)
    return replace(Judging(out, "r", "2026-01-01T00:00:00.500000+00:00", facts, (NODE,)), **changes)


def test_own_evidence_is_loaded(tmp_path: Path) -> None:
    _write(tmp_path, _data())
    assert evidence.load(_judging(tmp_path), WORKLOAD, NODE).step("read").probe("reader")["a"] == 1


def _code(tmp_path: Path, **judging: Any) -> str:
    with pytest.raises(Unknown) as caught:
        evidence.load(_judging(tmp_path, **judging), WORKLOAD, NODE)
    return caught.value.code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"runId": "another"}, "evidence-foreign"),
        ({"node": {"name": "win-1", "uid": "reinstalled"}}, "evidence-foreign"),
        ({"simulated": True}, "evidence-foreign"),
        ({"workload": "network"}, "evidence-foreign"),
        ({"workloadDigest": "sha256:other"}, "evidence-foreign"),
        ({"schema": 2}, "evidence-foreign"),
        ({"started": "2025-12-31T23:59:59.000Z"}, "evidence-foreign"),
        ({"ended": "2026-01-01T00:00:00.000Z"}, "evidence-foreign"),
        ({"ended": None}, "evidence-malformed"),
        ({"steps": None}, "evidence-malformed"),
        ({"steps": [{}]}, "evidence-malformed"),
        ({"steps": ["x"]}, "evidence-malformed"),
        ({"steps": [_data()["steps"][0]] * 2}, "evidence-foreign"),
        ({"parameters": {"namespace": "hpc-other"}}, "evidence-foreign"),
    ],
)
def test_foreign_and_broken_evidence_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    _write(tmp_path, _data(**changes))
    assert _code(tmp_path) == code


@pytest.mark.parametrize(
    ("where", "value", "code"),
    [
        (("kubernetes", "pod", "spec", "nodeName"), "win-2", "evidence-foreign"),
        (("kubernetes", "pod", "metadata", "name"), "another", "evidence-foreign"),
        (("kubernetes", "pod"), None, "evidence-malformed"),
        (("sent",), [], "evidence-malformed"),
        (("until",), "running", "evidence-foreign"),
        (("name",), "tidy", "evidence-foreign"),
        (("api",), [{"name": "x", "code": 422}, {"name": "x", "code": 201}], "evidence-foreign"),
    ],
)
def test_a_step_that_is_not_this_ones_is_refused(tmp_path: Path, where: tuple[str, ...], value: Any, code: str) -> None:
    data = _data()
    place = data["steps"][0]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    _write(tmp_path, data)
    assert _code(tmp_path) == code


def test_evidence_that_is_not_what_the_report_was_made_from_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, _data())
    name = evidence.relative_path("volumes", "win-1").as_posix()
    digests = {name: evidence.digest(path)}
    assert evidence.load(_judging(tmp_path, digests=digests), WORKLOAD, NODE).data
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    assert _code(tmp_path, digests=digests) == "evidence-altered"
    path.unlink()
    assert _code(tmp_path, digests=digests) == "evidence-altered"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00", "[" * 100_000])
def test_missing_and_cut_files_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        path = tmp_path / evidence.relative_path("volumes", "win-1")
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert _code(tmp_path) == ("not-observed" if content is None else "evidence-malformed")


def test_a_step_that_was_not_met_is_unknown_with_its_reason() -> None:
    trouble = {"code": "deadline", "message": "not finished within 60 s"}
    found = Evidence({"workload": "volumes", "steps": [{"name": "read", "met": False, "trouble": trouble}]})
    with pytest.raises(Unknown, match="not finished within 60 s") as caught:
        found.step("read")
    assert caught.value.code == "deadline"


def test_a_fact_that_could_not_be_found_out_is_unknown() -> None:
    facts = Facts({"ok": {"x": 1}, "bad": {"error": "Access is denied", "type": "X"}})
    assert facts["ok"]["x"] == 1
    with pytest.raises(Unknown, match="Access is denied"):
        facts["bad"]
    with pytest.raises(Unknown):
        facts["absent"]


def test_what_was_sent_once_for_all_nodes_has_to_be_there_as_it_was_sent(tmp_path: Path) -> None:
    data = _data()
    step = data["steps"][0]
    whole = tmp_path / evidence.whole_path("volumes", step["sent"][-1]["metadata"]["name"])
    evidence.write_json(whole, [{"kind": "DaemonSet"}])
    step["sentWhole"] = evidence.digest(whole)
    _write(tmp_path, data)
    assert evidence.load(_judging(tmp_path), WORKLOAD, NODE).data
    whole.write_text("[]")
    assert _code(tmp_path) == "evidence-altered"
    whole.unlink()
    assert _code(tmp_path) == "evidence-altered"
