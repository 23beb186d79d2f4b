"""
Evidence kept from earlier runs is judged again with the same verdict, by whoever has the folder alone.

A recording is an output folder without its reports, and ``expected.json``: verdicts by requirement and node. Take a new
one with ``python -m conformance --out FOLDER …`` when evidence itself changes its form, never to make a test pass.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_program

RECORDINGS = sorted((Path(__file__).parent / "recordings").iterdir())


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_a_recording_is_judged_as_it_was(recording: Path, tmp_path: Path) -> None:
    expected = json.loads((recording / "expected.json").read_text(encoding="utf-8"))
    run = run_program(tmp_path / "out", "judge", str(recording), environment={"KUBECONFIG": "/nowhere"})
    assert run.code == expected["exitCode"], run.output
    found = {f"{requirement} {node}": verdict for (requirement, node), verdict in run.verdicts().items()}
    assert {key: found.get(key) for key in expected["verdicts"]} == expected["verdicts"]
    red = [one for one in run.verdict["results"] if one["verdict"] == "non-conformant"]
    assert red
    assert all({"expected", "seen"} <= one.keys() for one in red), "both sides of each comparison are told"


def test_evidence_of_another_run_does_not_count(tmp_path: Path) -> None:
    """
    A recording with one file put in from another run: what reads it is not proven, the rest stands.
    """
    forged = tmp_path / "forged"
    shutil.copytree(RECORDINGS[0], forged)
    (path,) = forged.glob("nodes/*2-3*/job-limits/evidence.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    data["runId"] = "another"
    path.write_text(json.dumps(data), encoding="utf-8")
    run = run_program(tmp_path / "out", "judge", str(forged))
    foreign = {one["requirement"] for one in run.verdict["results"] if one["reasonCode"] == "evidence-foreign"}
    assert {one.split("/")[0] for one in foreign} == {"resources"}
    assert len(foreign) == 4


def test_a_selection_that_matches_nothing_any_more_is_partial(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(RECORDINGS[0], kept)
    path = kept / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "expression": "a_check_that_is_gone"}))
    run = run_program(tmp_path / "out", "judge", str(kept))
    assert run.code == 4, run.output
    assert {one["verdict"] for one in run.verdict["results"]} == {"not-proven", "not-applicable"}
