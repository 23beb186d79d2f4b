"""
``judge`` takes a folder for what was run: what was changed since is refused, or proves nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite.cli import program
from conformance._suite.judging import Judging
from tests.conftest import Finished, run_program

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDING = Path(__file__).parent / "recordings" / "links-missing"
WRONG = "win-containerd-2-3-1"
VOLUMES = f"nodes/{WRONG}/volumes/evidence.json"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """
    The recording with the report that is made from it.
    """
    folder = tmp_path_factory.mktemp("reported") / "folder"
    shutil.copytree(RECORDING, folder)
    run = run_program(folder.with_name("out"), "judge", str(folder), "--no-allure")
    shutil.copy(run.out / "verdict.json", folder)
    return Finished(run.code, run.output, folder)


@pytest.fixture
def folder(reported: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reported.out, tmp_path / "folder"))


def change(path: Path, how: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    how(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_where_there_is_no_report_the_claim_says_so(reported: Finished) -> None:
    assert reported.code == 1, reported.output
    (unreported,) = (one for one in reported.verdict["results"] if one["requirement"].startswith("run/"))
    assert (unreported["requirement"], unreported["verdict"], unreported["reasonCode"]) == (
        "run/evidence/reported", "not-proven", "no-report",
    )  # fmt: skip
    assert "No report vouches for the evidence that was judged again." in reported.output.splitlines()[-2]
    assert not (reported.out.with_name("out") / "pytest.log").read_text(encoding="utf-8").count("Traceback")
    # The recording is older than today's workloads, which is said, and its verdicts are what they were.
    (note,) = reported.verdict["notes"]
    assert note.startswith("observed with other workloads than this suite has, and judged by its checks: ")
    assert f"Note: {note}" in reported.output


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda run: run["judging"]["nodes"].pop(), "differ in nodes"),
        (
            lambda run: run["judging"]["nodes"][1].update(container_runtime="containerd://1.5.11+azure"),
            "differ in nodes",
        ),
        (lambda run: run["judging"]["nodes"][1].update(stated_containerd="1.5.11"), "differ in nodes"),
        (lambda run: run["judging"]["cluster"].update(simulated=False), "differ in simulated"),
        (lambda run: run["judging"]["cluster"].update(untested={"x": "cordoned"}), "differ in untested"),
        (lambda run: run["judging"]["cluster"].update(server_version="v1.22.0"), "differ in serverVersion"),
        (lambda run: run["judging"].update(run_id="another"), "differ in runId"),
        (lambda run: run["judging"]["nodes"][1].update(machine_id="another"), "differ in nodes"),
        (lambda run: run.update(defects=[]), "differ in simulatedDefects"),
        (lambda run: run.update(expression="cpu_limit"), "differ in expression"),
        (lambda run: run["judging"].update(started="2020-01-01T00:00:00+00:00"), "differ in SHA-256"),
        (lambda run: run["judging"]["nodes"][1].update(name=5), "no run.json that can be read"),
        (lambda run: run.update(defects=5), "no run.json that can be read"),
    ],
)
def test_another_run_json_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], how: Callable[[Any], object], said: str
) -> None:
    change(folder / "run.json", how)
    assert program.main(["judge", str(folder)]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not list(folder.glob("judged-*"))


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        *[("cluster", "untested", wrong) for wrong in (None, ["a"], {"a": 1})],
        *[("cluster", "server_version", wrong) for wrong in (None, 1)],
        *[("cluster", "target", 3), ("cluster", "simulated", "no"), ("cluster", "left_out", [3])],
        *[("nodes", name, None) for name in ("labels", "taints", "kernel", "os_image", "internal_ip", "host_name")],
        *[("nodes", name, 5) for name in ("internal_ip", "stated_containerd", "machine_id", "name", "another")],
        *[("nodes", "capacity_cpu", True), ("nodes", "labels", {"a": 1}), ("nodes", "name", "win-containerd-1-6-1")],
        *[("run", "run_id", 3), ("run", "started", None), ("run", "same_digest", "x"), ("run", "nodes", {})],
    ],
)
def test_a_run_json_with_things_of_another_kind_is_none(where: str, name: str, value: object) -> None:
    data = json.loads((RECORDING / "run.json").read_text(encoding="utf-8"))["judging"]
    assert Judging.from_data(json.loads(json.dumps(Judging.from_data(data).to_data()))) == Judging.from_data(data)
    {"run": data, "cluster": data["cluster"], "nodes": data["nodes"][1]}[where][name] = value
    with pytest.raises((TypeError, ValueError)):
        Judging.from_data(data)


@pytest.mark.parametrize(
    ("name", "value"), [("expression", 5), ("expression", "and and"), ("defects", "abc"), ("judging", [])]
)
def test_beside_the_judging_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: object) -> None:
    shutil.copy(RECORDING / "run.json", tmp_path)
    change(tmp_path / "run.json", lambda run: run.update({name: value}))
    assert program.main(["judge", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert "no run.json that can be read" in line
    assert line.count("\n") == 1


LATER = ("hints", "known", "notes", "runDigest", "untested")


@pytest.mark.parametrize("gone", [*((one,) for one in LATER), LATER])
def test_a_report_without_what_later_suites_say_is_refused_unless_its_run_is_as_old(
    folder: Path, capsys: pytest.CaptureFixture[str], gone: tuple[str, ...]
) -> None:
    change(folder / "verdict.json", lambda report: [report.pop(one) for one in gone])
    # With all of them gone it is an earlier suite's, of which a run of this one is not.
    change(folder / "run.json", lambda run: run["judging"].update(started="2020-01-01T00:00:00+00:00", run_digest=""))
    assert program.main(["judge", str(folder)]) == 2
    line = capsys.readouterr().err
    assert ("missing or unknown: " + gone[0] if len(gone) == 1 else "differ in SHA-256") in line
    assert line.count("\n") == 1


def test_a_report_of_an_earlier_suite_is_taken(folder: Path, tmp_path: Path) -> None:
    change(folder / "verdict.json", lambda report: [report.pop(one) for one in LATER])
    change(folder / "verdict.json", lambda report: [one["facts"].pop("machineID") for one in report["nodes"]])
    run = run_program(tmp_path / "out", "judge", str(folder), "--no-allure")
    assert run.code == 1, run.output


@pytest.mark.parametrize(
    "how",
    [
        lambda text: text[:500],
        lambda text: text[:-3],
        lambda _: "",
        lambda _: "[" * 100_000,
        lambda text: text.replace('"evidence": [', '"evidence": [5, ', 1),
        lambda text: text.replace('"facts"', '"fact"', 1),
    ],
)
def test_a_report_that_cannot_be_read_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], how: Callable[[str], str]
) -> None:
    path = folder / "verdict.json"
    path.write_text(how(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert program.main(["judge", str(folder)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1


def reasons(run: Finished) -> set[str]:
    return {
        one["reasonCode"]
        for one in run.verdict["results"]
        if one["node"] == WRONG and one["requirement"].startswith("storage/volumes/")
    }


def _nothing_put(data: Any) -> None:
    data["parameters"]["markers"] = {}


def _nothing_vouched_for(data: Any) -> None:
    for result in data["results"]:
        result["evidence"] = [one for one in result["evidence"] if one["path"] != VOLUMES]


@pytest.mark.parametrize(("path", "how"), [(VOLUMES, _nothing_put), ("verdict.json", _nothing_vouched_for)])
def test_evidence_that_the_report_does_not_vouch_for_proves_nothing(
    folder: Path, tmp_path: Path, path: str, how: Callable[[Any], object]
) -> None:
    change(folder / path, how)
    run = run_program(tmp_path / "out", "judge", str(folder), "--no-allure")
    assert run.code == 4, run.output
    assert reasons(run) == {"evidence-altered"}


def test_a_folder_as_its_run_left_it_is_judged_as_it_was(folder: Path, reported: Finished, tmp_path: Path) -> None:
    run = run_program(tmp_path / "out", "judge", str(folder), "--no-allure")
    assert run.code == 1, run.output
    before = reported.verdicts()
    del before["run/evidence/reported", None]
    assert run.verdicts() == before


def test_without_a_report_and_without_markers_nothing_becomes_green(folder: Path, tmp_path: Path) -> None:
    (folder / "verdict.json").unlink()
    change(folder / VOLUMES, _nothing_put)
    run = run_program(tmp_path / "out", "judge", str(folder), "--no-allure")
    assert reasons(run) == {"kinds-missing"}


def test_a_node_on_which_nothing_binding_applies_is_an_error_in_junit_and_said_with_the_reason(
    folder: Path, tmp_path: Path
) -> None:
    """
    containerd 1.5: all is not applicable, so nothing is shown. Without a report, which would refuse the change.
    """
    (folder / "verdict.json").unlink()
    change(
        folder / "run.json",
        lambda run: run["judging"]["nodes"][1].update(container_runtime="containerd://1.5.11+azure"),
    )
    run = run_program(tmp_path / "out", "judge", str(folder), "--no-allure")
    assert run.code == 4, run.output
    assert f"Nothing binding applies to {WRONG}." in run.output.splitlines()[-2]
    assert "nothing binding applies: holds since containerd 1.6; holds since containerd 1.7.0-alpha.1" in run.output
    junit = (run.out / "junit.xml").read_text(encoding="utf-8")
    # Besides what an older recording cannot show.
    assert junit.count('<error message="nothing binding applies: holds since containerd 1.6') == 1
