"""
Evidence is parsed or refused, never guessed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite import evidence
from conformance._suite.model import Scope, Unknown
from conformance._suite.observation import Evidence, Facts
from conformance._suite.workload import Step, Workload

if TYPE_CHECKING:
    from pathlib import Path

WORKLOAD = Workload("volumes", Scope.NODE, (Step("read", "finished", 60),), (), "volumes", "sha256:w")
NODE = {"name": "win-1", "uid": "u-1"}


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
        ("x" * evidence.OUTPUT_LIMIT, "output-too-large"),
        (_line("{}") + "x" * evidence.OUTPUT_LIMIT, "output-too-large"),
    ],
)
def test_anything_else_is_refused(log: str, code: str) -> None:
    with pytest.raises(Unknown) as caught:
        evidence.parse_output(log)
    assert caught.value.code == code


def _written(out: Path, **changes: Any) -> None:
    data = {
        "schema": 1,
        "runId": "r",
        "workload": "volumes",
        "workloadDigest": "sha256:w",
        "scope": "node",
        "node": NODE,
        "parameters": {},
        "steps": [
            {
                "name": "read",
                "met": True,
                "trouble": None,
                "api": [],
                "probe": {"reader": {"a": 1}},
                "probeTrouble": {},
                "kubernetes": {"pod": {"spec": {"nodeName": "win-1"}}, "events": [], "logs": {}},
            }
        ],
        **changes,
    }
    evidence.write_json(out / evidence.relative_path("volumes", "win-1"), data)


def test_own_evidence_is_loaded(tmp_path: Path) -> None:
    _written(tmp_path)
    assert evidence.load(tmp_path, WORKLOAD, NODE, "r").step("read").probe("reader")["a"] == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"runId": "another"}, "evidence-foreign"),
        ({"node": {"name": "win-1", "uid": "reinstalled"}}, "evidence-foreign"),
        ({"workload": "network"}, "evidence-foreign"),
        ({"workloadDigest": "sha256:other"}, "evidence-foreign"),
        ({"schema": 2}, "evidence-foreign"),
        ({"steps": None}, "evidence-malformed"),
        ({"steps": [{}]}, "evidence-malformed"),
        ({"steps": ["x"]}, "evidence-malformed"),
    ],
)
def test_foreign_and_broken_evidence_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    _written(tmp_path, **changes)
    with pytest.raises(Unknown) as caught:
        evidence.load(tmp_path, WORKLOAD, NODE, "r")
    assert caught.value.code == code


def test_a_pod_of_another_node_is_refused(tmp_path: Path) -> None:
    _written(tmp_path)
    path = tmp_path / evidence.relative_path("volumes", "win-1")
    data = json.loads(path.read_text())
    data["steps"][0]["kubernetes"]["pod"]["spec"]["nodeName"] = "win-2"
    path.write_text(json.dumps(data))
    with pytest.raises(Unknown) as caught:
        evidence.load(tmp_path, WORKLOAD, NODE, "r")
    assert caught.value.code == "evidence-foreign"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00"])
def test_missing_and_cut_files_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        path = tmp_path / evidence.relative_path("volumes", "win-1")
        path.parent.mkdir(parents=True)
        path.write_text(content)
    with pytest.raises(Unknown):
        evidence.load(tmp_path, WORKLOAD, NODE, "r")


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
