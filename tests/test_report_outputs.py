from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from rich.console import Console

from conformance._suite import hints
from conformance._suite.errors import UsageError
from conformance._suite.facts import ClusterFacts, NodeFacts, Scope
from conformance._suite.files import cache_directory, write_text
from conformance._suite.report import allure, junit, summary, terminal, verdict, wording, write_all
from conformance._suite.report.allure import page, shown
from conformance._suite.report.verdict import Run, Selection
from conformance._suite.requirement import Level, Requirement
from conformance._suite.result import NODE_SHOWN, NODE_TESTED, Claim, EvidenceReference, Result, Verdict

SECRET = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
NODES = ("win-one", "win-two")
SCHEMA = json.loads((Path(__file__).parent.parent / "reports" / "verdict.schema.json").read_text(encoding="utf-8"))
Cells = set[tuple[str, str | None, str]]


def _requirement(name: str, level: Level = Level.MUST, scope: Scope = Scope.NODE) -> Requirement:
    source = f"https://example.org/documents#{name.replace('/', '-')}"
    return Requirement(name, f"The sentence of `{name}` holds.", source, level, scope)


REQUIREMENTS = {
    requirement.id: requirement
    for requirement in (
        _requirement("network/address/is-the-nodes"),
        _requirement("network/address/is-listed"),
        _requirement("storage/volumes/below"),
        _requirement("storage/volumes/location", Level.SHOULD),
        _requirement("storage/volumes/letter", Level.SHOULD),
        _requirement("accounts/user/with-password", Level.OBSERVED),
        _requirement("admission/pods/refused", scope=Scope.CLUSTER),
    )
}
LONG = json.dumps({f"volume-{number}": f"marker-{number}" for number in range(60)})


def fabricated(out: Path, *, wrong: bool = True) -> Run:
    """
    A run with every verdict at every level that it can have, hostile texts and a secret.
    """
    results = []
    for requirement in REQUIREMENTS.values():
        for node in NODES if requirement.scope is Scope.NODE else (None,):
            path = f"{'nodes/' + node if node else 'cluster'}/{requirement.area}/evidence.json"
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_text(f'{{"about": "{node}"}}\n', encoding="utf-8")
            reference = EvidenceReference(path, hashlib.sha256((out / path).read_bytes()).hexdigest())
            results.append(
                Result(
                    requirement.id,
                    node,
                    requirement.level,
                    Verdict.CONFORMANT,
                    "as-documented",
                    "as documented",
                    evidence=(reference,),
                    duration=0.004,
                )
            )
    changes: dict[tuple[str, str | None], dict[str, Any]] = {
        ("network/address/is-the-nodes", "win-one"): {
            "verdict": Verdict.NON_CONFORMANT, "reason_code": "differs", "expected": "10.240.0.4",
            "reason": "seen <b>|10.244.1.7|</b> ]]> [red]\x1b[31m\ud800 ![x](https://example.org/x.png)",
            "seen": f"password=hunter2 {SECRET}",
        },
        ("storage/volumes/below", "win-one"): {
            "verdict": Verdict.NON_CONFORMANT, "reason_code": "differs", "reason": "volumes differ",
            "expected": LONG, "seen": LONG.replace("marker-7", "other").replace("marker-2", "none"),
        },
        ("storage/volumes/below", "win-two"): {
            "verdict": Verdict.NOT_PROVEN, "reason_code": "deadline", "reason": f"no output in 180 s: Bearer {SECRET}",
        },
        ("storage/volumes/location", "win-one"): {
            "verdict": Verdict.NON_CONFORMANT, "reason_code": "differs", "reason": "elsewhere", "expected": "C:\\hpc",
            "seen": "C:\\x",
        },
        ("storage/volumes/location", "win-two"): {
            "verdict": Verdict.NOT_PROVEN, "reason_code": "deadline", "reason": "no output in 180 s",
        },
        ("storage/volumes/letter", "win-one"): {
            "verdict": Verdict.NOT_APPLICABLE, "reason_code": "version", "reason": "holds since containerd 1.7",
        },
        ("network/address/is-listed", "win-two"): {
            "verdict": Verdict.NOT_APPLICABLE, "reason_code": "version", "reason": "holds since containerd 1.7",
        },
        ("accounts/user/with-password", "win-two"): {
            "verdict": Verdict.NOT_PROVEN, "reason_code": "deadline", "reason": "no output in 180 s",
        },
        ("accounts/user/with-password", "win-one"): {"reason": "the runtime refuses it"},
    }  # fmt: skip
    if wrong:
        results = [replace(result, **changes.get((result.requirement, result.node), {})) for result in results]
    nodes = tuple(
        NodeFacts(name, f"uid-{name}", "10.240.0.4", name, "containerd://1.7.34", "v1.37.2", "Windows Server 2022",
                  "10.0.20348.2762", 4, ({"key": "os", "value": "windows", "effect": "NoSchedule"},), {"a": "b"})
        for name in NODES
    )  # fmt: skip
    return Run(
        suite_version="0.1.0",
        catalogue_digest="sha256:" + "ab" * 32,
        run_id="20261122-3f2a",
        started=datetime(2026, 11, 22, 12, 0, tzinfo=timezone(timedelta(hours=2))),
        ended=datetime(2026, 11, 22, 10, 0, 18, tzinfo=UTC),
        cluster=ClusterFacts("simulated", "v1.37.2", simulated=True),
        nodes=nodes,
        node_subjects={"win-one": {"shim": "0.11.7", "password": "hunter2"}},
        selection=Selection(full=True),
        claim=Claim.FAILURE if wrong else Claim.SUCCESS,
        exit_code=1 if wrong else 0,
        results=tuple(results),
        defects=("pod-ip-from-cni",) if wrong else (),
        requirements=REQUIREMENTS,
        out=out,
        notes=("ended by its deadline",),
        run_digest="cd" * 32,
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return fabricated(tmp_path)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance._suite.report.generate", lambda *_: False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def _cells(run: Run) -> Cells:
    return {(result.requirement, result.node, str(result.verdict)) for result in run.results}


def _in_verdict(out: Path) -> Cells:
    return {(one["requirement"], one["node"], one["verdict"]) for one in verdict.load(out / "verdict.json")["results"]}


def _in_junit(out: Path) -> Cells:
    found = set()
    for suite in ET.parse(out / "junit.xml").getroot():
        for case in suite.iter("testcase"):
            said = case.find("properties/property[@name='verdict']")
            assert said is not None
            node = suite.attrib["name"]
            found.add((case.attrib["name"], None if node == "cluster" else node, said.attrib["value"]))
    return found


def _allure_results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in (out / "allure-results").glob("*-result.json")]


_STATUS = {"passed": "conformant", "failed": "non-conformant", "broken": "not-proven", "skipped": "not-applicable"}


def _in_allure(out: Path) -> Cells:
    found = set()
    for result in _allure_results(out):
        labels = {label["name"]: label["value"] for label in result["labels"]}
        assert labels["verdict"] == _STATUS[result["status"]]
        found.add((labels["requirement"], labels.get("node"), labels["verdict"]))
    return found


def _in_summary(out: Path) -> Cells:
    rows = re.findall(
        r"^\| `([^`]+)` \| (\S+) \| \w+ \| (\S+) \|$", (out / "summary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    return {(requirement, None if node == "cluster" else node, said) for requirement, node, said in rows}


def _terminal(run: Run, **console: Any) -> str:
    file = io.StringIO()
    terminal.table(run, Console(file=file, highlight=False, **console))
    return file.getvalue()


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("wrong", [True, False])
def test_all_outputs_say_the_same(tmp_path: Path, wrong: bool) -> None:
    run = fabricated(tmp_path, wrong=wrong)
    said: list[str] = []
    write_all(run, said.append)
    assert said == []
    for read in (_in_verdict, _in_junit, _in_allure, _in_summary):
        assert read(tmp_path) == _cells(run), read.__name__
    assert len(_allure_results(tmp_path)) == len(run.results)


@pytest.mark.usefixtures("no_page")
def test_no_output_holds_a_secret(run: Run) -> None:
    left = run.out / "allure-results"
    left.mkdir()
    (left / "a-attachment.txt").write_text(f"captured {SECRET} password=hunter2", encoding="utf-8")
    (left / "b-attachment.bin").write_bytes(b"\xff\xfe" + SECRET.encode())
    attachments = [{"name": "log", "source": name} for name in ("a-attachment.txt", "b-attachment.bin", "../x.txt")]
    _pytest_left(left, "network/address/is-the-nodes", "win-one", trace=f"assert {SECRET}", attachments=attachments)
    write_all(run, print)
    written = [path for path in run.out.rglob("*") if path.is_file()]
    assert len(written) > 20
    for text in [path.read_bytes().decode("utf-8", "replace") for path in written] + [
        _terminal(run),
        repr(run.results),
    ]:
        assert SECRET not in text
        assert "hunter2" not in text


@pytest.mark.usefixtures("no_page")
def test_a_likely_cause_stands_in_every_report(run: Run) -> None:
    """
    Beside the row, and once for all rows; what is known of versions, and a node on which nothing starts, once.
    """
    hint = next(one for one in hints.load()[0] if one.name == "no-bind-filter")
    known = next(one for one in hints.load()[1] if one.name == "binds")
    named = ("network/address/is-the-nodes", "storage/volumes/below", "storage/volumes/location")
    run = replace(
        run,
        results=tuple(
            replace(one, hint=hint.name)
            if one.requirement in named and one.verdict in {Verdict.NON_CONFORMANT, Verdict.NOT_PROVEN}
            else one
            for one in run.results
        ),
        hints={hint.name: hint},
        known={"win-one": (known,), "win-two": (known,)},
        silent={"win-two": f"failed to logon user: <b>, Bearer {SECRET}"},
    )
    write_all(run, print)
    data = json.loads((run.out / "verdict.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, SCHEMA)
    assert sum(one.get("hint") == hint.name for one in data["results"]) == 5
    (told,) = data["hints"]
    assert (told["name"], told["cause"], told["sure"]) == (hint.name, hint.cause, "documented")
    assert told["explains"] == [
        {"node": "win-one", "nonConformant": 3, "notProven": 0},
        {"node": "win-two", "nonConformant": 0, "notProven": 2},
    ]
    assert data["known"] == [
        {"name": "binds", "says": known.says, "see": list(known.see), "nodes": ["win-one", "win-two"]}
    ]
    assert [one.get("nothingStarted") for one in data["nodes"]] == [
        None,
        "failed to logon user: <b>, Bearer [redacted]",
    ]

    lines = _terminal(run).splitlines()
    silent = lines.index("No container at all started on win-two: failed to logon user: <b>, Bearer [redacted]")
    first = lines.index("Likely causes: 1")
    assert silent < first < lines.index("Non-conformant: 2")
    assert lines[first + 1 : first + 5] == [
        f"  win-one, win-two: {hint.cause}",
        f"    {hint.remedy}",
        f"    {hint.see[0]} (documented)",
        "    explains 3 non-conformant and 2 not-proven rows",
    ]
    assert sum(line.strip() == f"likely cause: {hint.cause}" for line in lines) == 5
    assert f"  win-one, win-two: {known.says}" in lines

    text = (run.out / "summary.md").read_text(encoding="utf-8")
    assert text.index("**No container at all started on win-two:**") < text.index("## Likely causes")
    assert text.index("## Likely causes") < text.index("## Nodes")
    assert text.count("likely cause: This Windows has no bind filter") == 5
    assert "Known of these versions, whatever was seen:" in text

    results = [json.loads(path.read_bytes()) for path in (run.out / "allure-results").glob("*-result.json")]
    with_cause = [one for one in results if "**Likely cause** (documented)" in one["description"]]
    assert len(with_cause) == 5
    for one in with_cause:
        assert f"likely cause: {hint.cause}" in one["statusDetails"]["message"]
        assert "&#60;container id&#62;" in one["description"], "nothing in a cause becomes markup"
    silent_rows = [one for one in results if "No container at all started on win-two" in one["description"]]
    assert {one["status"] for one in silent_rows} == {"broken"}
    assert (run.out / "junit.xml").read_text(encoding="utf-8").count("likely cause: ") == 5


def test_a_report_of_an_earlier_suite_is_read(run: Run, tmp_path: Path) -> None:
    data = json.loads(verdict.write(run).read_text(encoding="utf-8"))
    for later in ("hints", "known", "notes", "runDigest", "untested"):
        del data[later]
    (tmp_path / "old.json").write_text(json.dumps(data), encoding="utf-8")
    assert verdict.load(tmp_path / "old.json") == data


def test_verdict_json_is_as_its_schema_says(run: Run, tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for one in (run, fabricated(tmp_path / "right", wrong=False)):
        data = verdict.load(verdict.write(one))
        jsonschema.validate(data, SCHEMA)
        assert data.keys() == set(SCHEMA["properties"])
        assert (data["started"], data["ended"]) == ("2026-11-22T10:00:00Z", "2026-11-22T10:00:18Z")
        assert data["nodes"][0]["subject"]["shim"] == "0.11.7"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "more": 1}, SCHEMA)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda _: "", "cut short"),
        (lambda _: "\x00garbage", "no JSON"),
        (lambda _: "[]", "is not a ConformanceReport"),
        (lambda text: text.replace("ConformanceReport", "Pod"), "is not a ConformanceReport"),
        (lambda text: text.replace("conformance/v1", "conformance/v2"), "is of version 'hostprocess-conformance/v2'"),
        (lambda text: text.replace('"claim"', '"klaim"'), "missing or unknown: claim, klaim"),
        (lambda text: text.replace('"not-proven"', '"green"', 1), "unknown verdict 'green'"),
        (lambda text: text.replace('"level": "must"', '"level": "may"', 1), "unknown level 'may'"),
        (lambda text: text.replace("address/is-listed", "address/is-the-nodes"), "a second time"),
        (lambda text: text.replace('"reason":', '"raison":', 1), "is not whole"),
    ],
)
def test_a_bad_verdict_json_is_refused_with_the_reason(run: Run, change: Any, complaint: str) -> None:
    path = verdict.write(run)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(complaint)):
        verdict.load(path)


def test_a_missing_verdict_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        verdict.load(tmp_path / "verdict.json")


@pytest.mark.usefixtures("no_page")
def test_a_node_that_was_not_tested_stands_in_every_report(tmp_path: Path) -> None:
    """
    Also one on which nothing binding applies: JUnit has an error for each, the claim and its last lines name them.
    """
    good = fabricated(tmp_path, wrong=False)
    reason = "the node was not tested: not ready: | no network"
    missing = (
        Result(NODE_TESTED, "win-down", Level.MUST, Verdict.NOT_PROVEN, "node-not-tested", reason),
        Result(NODE_SHOWN, "win-two", Level.MUST, Verdict.NOT_PROVEN, "nothing-applies", "nothing binding applies: x"),
    )
    cluster = replace(good.cluster, untested={"win-down": "not ready: | no network"})
    run = replace(
        good, cluster=cluster, results=(*good.results, *missing), claim=Claim.PARTIAL, exit_code=4
    )  # fmt: skip
    write_all(run, print)
    for read in (_in_verdict, _in_junit, _in_allure, _in_summary):
        assert read(tmp_path) == _cells(run), read.__name__
    document = verdict.load(tmp_path / "verdict.json")
    jsonschema.validate(document, SCHEMA)
    assert document["untested"] == [{"name": "win-down", "reason": "not ready: | no network"}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "claim": "success"}, SCHEMA)
    root = ET.parse(tmp_path / "junit.xml").getroot()
    errors = {suite.attrib["name"]: suite.attrib["errors"] for suite in root}
    assert errors == {"win-one": "0", "win-two": "1", "win-down": "1", "cluster": "0"}
    (error,) = root.iterfind(".//testsuite[@name='win-down']/testcase/error")
    assert error.attrib["message"] == reason
    said = "1 Windows node was not tested: win-down. Nothing binding applies to win-two."
    assert said in wording.claim_sentence(run)
    last = _terminal(run).splitlines()
    assert said in last[-2]
    assert any("nothing binding applies: x" in line for line in last)
    environment = (tmp_path / "allure-results" / "environment.properties").read_text(encoding="utf-8")
    assert "Nodes\\ not\\ tested = win-down" in environment


@pytest.mark.usefixtures("no_page")
def test_a_stated_version_is_said_to_be_one_in_every_report(tmp_path: Path) -> None:
    good = fabricated(tmp_path, wrong=False)
    node = replace(good.nodes[0], container_runtime="containerd://abcdef0.m", stated_containerd="1.7.28")
    run = replace(good, nodes=(node, good.nodes[1]))
    write_all(run, print)
    said = "containerd abcdef0.m (1.7.28 as stated by the user)"
    assert said in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert said in (tmp_path / "junit.xml").read_text(encoding="utf-8")
    environment = (tmp_path / "allure-results" / "environment.properties").read_text(encoding="utf-8")
    assert said.replace(" ", "\\ ") in environment
    facts = [one["facts"]["statedContainerd"] for one in verdict.load(tmp_path / "verdict.json")["nodes"]]
    assert facts == ["1.7.28", None]


def test_junit_fails_exactly_where_the_claim_does(run: Run) -> None:
    root = ET.parse(junit.write(run)).getroot()
    outcomes = {
        (suite.attrib["name"], case.attrib["name"]): [
            one.tag for one in case if one.tag not in ("properties", "system-out")
        ]
        for suite in root
        for case in suite.iter("testcase")
    }
    assert {key for key, found in outcomes.items() if found == ["failure"]} == {
        ("win-one", "network/address/is-the-nodes"),
        ("win-one", "storage/volumes/below"),
    }
    assert {key for key, found in outcomes.items() if found == ["error"]} == {("win-two", "storage/volumes/below")}
    assert outcomes["win-one", "storage/volumes/location"] == ["skipped"]
    assert outcomes["win-one", "accounts/user/with-password"] == []
    assert (root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]) == ("13", "2", "1")
    skipped = root.find(".//testsuite[@name='win-one']/testcase[@name='storage/volumes/location']/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "should, non-conformant: elsewhere"
    assert "simulated" in root.attrib["name"]


# -- Allure


def _pytest_left(folder: Path, requirement: str, node: str | None, *, number: int = 1, **more: Any) -> Path:
    identity = f"00000000-0000-4000-8000-{number:012d}"
    labels = [{"name": "requirement", "value": requirement}, *([{"name": "node", "value": node}] if node else [])]
    trace = more.pop("trace", None)
    result = {"uuid": identity, "name": "test_it[x]", "status": "passed", "start": 100, "stop": 100 + number,
              "labels": labels, "statusDetails": {"message": "raw", "trace": trace}, **more}  # fmt: skip
    path = folder / f"{identity}-result.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def _of(out: Path, requirement: str, node: str | None) -> dict[str, Any]:
    (found,) = (one for one in _allure_results(out) if one["fullName"] == f"{requirement} on {node or 'cluster'}")
    return found


def test_allure_results_are_completed_repaired_and_deduplicated(run: Run) -> None:
    left = run.out / "allure-results"
    left.mkdir()
    _pytest_left(left, "storage/volumes/below", "win-one", trace="the trace")
    _pytest_left(left, "storage/volumes/below", "win-one", number=2)
    _pytest_left(left, "admission/pods/refused", None, number=3)
    _pytest_left(left, "admission/pods/gone", None, number=4)
    (left / "5-result.json").write_text('{"uuid": "cut', encoding="utf-8")
    (left / "6-container.json").write_text("{}", encoding="utf-8")
    allure.complete(left, run)
    allure.complete(left, run)
    assert _in_allure(run.out) == _cells(run)
    assert len(_allure_results(run.out)) == len(run.results)
    repaired = _of(run.out, "storage/volumes/below", "win-one")
    assert (repaired["status"], repaired["stop"]) == ("failed", 102), "the latest of the doubled ones, repaired"
    assert _of(run.out, "admission/pods/refused", None)["uuid"].endswith("3")
    lost = _of(run.out, "storage/volumes/below", "win-two")
    assert lost["status"] == "broken"
    assert lost["statusDetails"]["message"].startswith("no output in 180 s")
    assert not list(left.glob("*-container.json"))


def test_allure_says_what_a_release_manager_asks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    left = run.out / "allure-results"
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("CI_JOB_URL", "https://example.org/jobs/7")
    monkeypatch.setenv("CI_PIPELINE_IID", "7")
    allure.complete(left, run)
    failed = _of(run.out, "storage/volumes/below", "win-one")
    assert failed["name"] == "The sentence of storage/volumes/below holds."
    assert failed["links"] == [
        {"name": "documented at", "url": "https://example.org/documents#storage-volumes-below", "type": "link"}
    ]
    assert json.loads(failed["statusDetails"]["expected"]) == json.loads(LONG)
    (attachment,) = failed["attachments"]
    assert attachment["name"] == "nodes/win-one/storage/evidence.json"
    assert (left / attachment["source"]).read_bytes() == (run.out / attachment["name"]).read_bytes()
    labels = {(label["name"], label["value"]) for label in failed["labels"]}
    assert labels >= {("parentSuite", "win-one"), ("suite", "storage"), ("severity", "critical"), ("tag", "simulated")}
    observed = _of(run.out, "accounts/user/with-password", "win-one")
    assert (observed["status"], observed["statusDetails"]["message"]) == ("passed", "observed: the runtime refuses it")
    sources = [one["source"] for result in _allure_results(run.out) for one in result["attachments"]]
    assert len(sources) == len(set(sources)), "Allure shows an attachment in one result only"
    environment = (left / "environment.properties").read_text(encoding="utf-8")
    assert "Claim = failure\\ (simulated)" in environment
    assert "win-two" in environment
    assert json.loads((left / "executor.json").read_text(encoding="utf-8"))["buildOrder"] == 7
    categories = json.loads((left / "categories.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in categories][:3] == [
        "Non-conformant",
        "Non-conformant, but only a should",
        "Not proven",
    ]


def test_history_is_per_requirement_and_node_and_the_same_in_the_next_run(tmp_path: Path) -> None:
    seen = []
    for name in ("first", "second"):
        run = replace(fabricated(tmp_path / name), run_id=name)
        allure.complete(run.out / "allure-results", run)
        seen.append({one["fullName"]: (one["historyId"], one["testCaseId"]) for one in _allure_results(run.out)})
    assert seen[0] == seen[1]
    assert len(set(seen[0].values())) == len(run.results)


def test_evidence_that_is_gone_or_huge_is_named_instead(run: Run) -> None:
    gone, huge = run.out / "nodes/win-one/network/evidence.json", run.out / "nodes/win-one/storage/evidence.json"
    gone.unlink()
    huge.write_bytes(b" " * 2_000_001)
    allure.complete(run.out / "allure-results", run)
    notes = {path.read_text(encoding="utf-8").strip() for path in (run.out / "allure-results").glob("*-attachment.txt")}
    assert notes == {
        "nodes/win-one/network/evidence.json could not be attached: No such file or directory",
        "nodes/win-one/storage/evidence.json is not attached, for its size (2000001 bytes).",
    }


def test_evidence_judged_again_lies_elsewhere(run: Run, tmp_path: Path) -> None:
    again = replace(run, out=tmp_path / "judged", evidence=run.out)
    allure.complete(again.out / "allure-results", again)
    assert not list((again.out / "allure-results").glob("*-attachment.txt"))


def many(out: Path, nodes: int, verdicts: dict[str, Verdict]) -> Run:
    """
    A run of so many nodes: as documented, but for the requirements that have another verdict on every node.
    """
    run = fabricated(out, wrong=False)
    facts = tuple(replace(run.nodes[0], name=f"win-{number:04}") for number in range(nodes))
    results = [
        replace(one, node=node.name, verdict=verdicts.get(one.requirement, one.verdict), reason=f"seen on {node.name}")
        for one in run.results
        for node in (facts if one.node == "win-one" else ())
    ]
    results += [one for one in run.results if one.node is None]
    return replace(run, nodes=facts, results=tuple(results))


def _labels(result: dict[str, Any]) -> dict[str, str]:
    return {label["name"]: label["value"] for label in result["labels"]}


def test_where_evidence_is_much_only_what_is_not_green_has_it_attached(run: Run) -> None:
    for area in ("network", "storage", "accounts"):
        for node in NODES:
            (run.out / f"nodes/{node}/{area}/evidence.json").write_bytes(b" " * 1_900_000)
    allure.complete(run.out / "allure-results", run)
    with_evidence = [one for one in _allure_results(run.out) if one["attachments"]]
    assert len(with_evidence) == 5, "what fits into 10 MB"
    assert {one["status"] for one in with_evidence} == {"failed", "broken"}
    green = _of(run.out, "network/address/is-listed", "win-one")
    assert "nodes/win-one/network/evidence.json" in green["description"]
    assert "in the run's folder" in green["description"]
    assert not list((run.out / "allure-results").glob("*-attachment.txt")), "no file for what is not there"
    assert _in_allure(run.out) == _cells(run)


def test_a_small_run_is_shown_whole(run: Run, tmp_path: Path) -> None:
    results, to = run.out / "allure-results", tmp_path / "to"
    allure.complete(results, run)
    assert shown.copy(results, to) == ""
    assert {path.name: path.read_bytes() for path in to.iterdir()} == {
        path.name: path.read_bytes() for path in results.iterdir()
    }


def test_a_large_run_shows_what_is_red_and_sums_up_what_is_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    run = many(tmp_path, 350, {"storage/volumes/letter": Verdict.NOT_APPLICABLE})
    failed = [replace(one, verdict=Verdict.NON_CONFORMANT) if one.node == "win-0007" else one for one in run.results]
    run = replace(run, results=tuple(failed))
    results, to = tmp_path / "allure-results", tmp_path / "page" / "allure-results"
    to.parent.mkdir()
    allure.complete(results, run)
    assert len(_allure_results(tmp_path)) == 2101
    assert shown.copy(results, to) == "2101 results in 13 rows"
    rows = _allure_results(to.parent)
    assert len(rows) == 13
    red = [one for one in rows if one["status"] == "failed"]
    assert {(_labels(one)["requirement"], _labels(one)["node"]) for one in red} == {
        (name, "win-0007") for name, one in REQUIREMENTS.items() if one.scope is Scope.NODE
    }
    assert all((to / one["source"]).is_file() for result in red for one in result["attachments"])
    summed = {_labels(one)["requirement"]: one for one in rows if "node" not in _labels(one)}
    assert summed["admission/pods/refused"]["fullName"] == "admission/pods/refused on cluster"
    below = summed["storage/volumes/below"]
    assert below["name"] == "The sentence of storage/volumes/below holds. (349 nodes)"
    assert "win-0006, win-0008" in below["description"]
    assert "**simulated**" in below["description"]
    assert summed["storage/volumes/letter"]["status"] == "skipped"
    assert len({one["uuid"] for one in rows}) == len({one["historyId"] for one in rows}) == 13
    for name in ("categories.json", "executor.json"):
        assert (to / name).read_bytes() == (results / name).read_bytes()
    lines = (to / "environment.properties").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("Claim = ")
    assert lines[1].startswith("Rows = 2101 results in 13 rows")


def test_much_that_is_red_is_shown_in_part_for_every_requirement(tmp_path: Path) -> None:
    names = {"storage/volumes/below": Verdict.NOT_PROVEN, "storage/volumes/location": Verdict.NON_CONFORMANT}
    run = many(tmp_path, 150, names)
    results, to = tmp_path / "allure-results", tmp_path / "page" / "allure-results"
    to.parent.mkdir()
    allure.complete(results, run)
    assert shown.copy(results, to)
    rows = _allure_results(to.parent)
    for name in names:
        found = [one for one in rows if _labels(one)["requirement"] == name]
        assert len([one for one in found if "node" in _labels(one)]) == 100
        (rest,) = (one for one in found if "node" not in _labels(one))
        assert rest["fullName"] == f"{name} on 50 more nodes"
        assert rest["statusDetails"]["message"].endswith("(and 49 other reasons: see verdict.json)")
    location = next(one for one in rows if one["fullName"] == "storage/volumes/location on 50 more nodes")
    assert location["statusDetails"]["message"].startswith("should: "), "the categories tell a should by it"


@pytest.mark.parametrize(
    ("sizes", "rooms"),
    [
        ([200], [200]),
        ([1000], [200]),
        ([3, 38, 159], [3, 38, 159]),
        ([3, 38, 400], [3, 38, 159]),
        ([150, 150], [100, 100]),
        ([1, 1000, 1000], [1, 99, 100]),
    ],
)
def test_what_is_red_on_few_nodes_is_shown_whole_however_much_else_is(sizes: list[int], rooms: list[int]) -> None:
    found = shown._rooms({(f"requirement-{number}", "failed"): size for number, size in enumerate(sizes)})
    assert list(found.values()) == rooms


@pytest.mark.usefixtures("no_page")
def test_a_large_run_has_every_cell_in_every_output(tmp_path: Path) -> None:
    run = many(tmp_path, 350, {})
    write_all(run, print)
    for read in (_in_verdict, _in_junit, _in_allure, _in_summary):
        assert read(tmp_path) == _cells(run), read.__name__


@pytest.mark.usefixtures("no_page")
def test_allure_can_be_left_out(run: Run) -> None:
    write_all(run, print, allure=False)
    assert _in_verdict(run.out) == _in_junit(run.out) == _in_summary(run.out) == _cells(run)
    assert not list(run.out.glob("allure*"))


# -- the page


def test_a_large_page_says_how_many_rows_and_has_no_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = many(tmp_path, 350, {})
    results = tmp_path / "allure-results"
    allure.complete(results, run)
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    small.write_text("{}", encoding="utf-8")
    large.write_bytes(b" " * 2_000_001)
    configs = []

    def generated(_: object, folder: Path, *__: object) -> str:
        configs.append(json.loads((folder / "allurerc.json").read_text(encoding="utf-8")))
        write_text(folder / "page" / "index.html", "<html><head></head></html>")
        return ""

    monkeypatch.setattr(page, "_run", generated)
    monkeypatch.setattr(page, "_installed", lambda _: (tmp_path, page._Node("node", ("npm",))))
    assert page.generate(results, tmp_path / "index.html", "The name", print, (small, large))
    assert "display: none" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert configs[0]["name"] == "The name, 2101 results in 7 rows"
    assert configs[0]["globalAttachments"] == ["small.json"], "what is large lies beside the page"


@pytest.mark.parametrize(
    "html",
    [
        "<html><body>no head</body></html>",
        '<html><head><script src="https://example.org/x.js"></script></head></html>',
        "<html><head><link rel=stylesheet href=//example.org/x.css></head></html>",
        "<html><head></head><body><script>load('https://www.googletagmanager.com/x')</script></body></html>",
    ],
)
def test_a_page_that_asks_another_host_is_refused(html: str) -> None:
    with pytest.raises(page._PageError, match="not self-contained"):
        page._self_contained(html)


def test_the_page_loses_its_google_tag_and_gets_a_policy() -> None:
    html = (
        '<head><title>x</title></head><body><script async src="https://www.googletagmanager.com/gtag/js?id=G-1"></script>\n'
        "<script>function gtag(){}</script><script>d('aHR0cHM6Ly9leGFtcGxlLm9yZw==')</script></body>"
    )
    clean = page._self_contained(html)
    assert "gtag" not in clean
    assert "Content-Security-Policy" in clean
    assert "aHR0cHM6" in clean


def test_without_node_and_network_one_line_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(page, "_WHEEL", str(tmp_path / "no-such.whl"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    said: list[str] = []
    write_all(run, said.append)
    assert len(said) == 2
    assert said[0].startswith("there is no Node.js")
    assert said[1].startswith("no Allure page: pip failed")
    assert "\n" not in said[1]
    assert len(_allure_results(run.out)) == len(run.results)
    assert not (run.out / "allure-report").exists()


def test_the_page_shows_the_claim_and_every_sentence_without_a_network(run: Run, tmp_path: Path) -> None:
    if not list(cache_directory().glob("allure-*/node_modules")):
        pytest.skip("Allure is not in the cache: a first `nox -s conformance` puts it there")
    results, html = run.out / "allure-results", run.out / "index.html"
    allure.complete(results, run)
    said: list[str] = []
    assert allure.generate(results, html, "The name — failure (simulated)", said.append), said
    text = html.read_text(encoding="utf-8")
    assert "The name — failure (simulated)" in text
    assert "googletagmanager" not in text
    assert SECRET not in text
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return
    log = tmp_path / "net.json"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}",
               "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=8000", f"--log-net-log={log}",
               "--dump-dom", html.as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "The sentence of storage/volumes/below holds." in shown
    assert "win-one" in shown
    assert "https://example.org" not in log.read_text(encoding="utf-8"), "a picture in a node's text is not fetched"
    assert "googletagmanager" not in log.read_text(encoding="utf-8")


def test_the_lock_file_names_versions_and_digests_but_no_registry() -> None:
    lock = json.loads((Path(page.__file__).parent / "package-lock.json").read_text(encoding="utf-8"))
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-")
        assert not package.get("hasInstallScript"), name


# -- summary and terminal


def test_the_summary_begins_with_the_claim_and_lists_what_failed(run: Run, tmp_path: Path) -> None:
    text = summary.write(run).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "# HostProcess conformance: failure (simulated)"
    assert lines[2].startswith("> **SIMULATED")
    assert "2 musts do not hold, on win-one. 1 more was not proven." in lines[4]
    assert "(exit 1: failure" in lines[4]
    assert "pod-ip-from-cni" in text
    assert "| win-one | 1 of 1 |" not in text, "an observation is not counted"
    for part in ("documented here](https://example.org/documents#storage-volumes-below)", "nox -s judge -- ",
                 "evidence: `nodes/win-one/storage/evidence.json`", "## Not proven", "holds since containerd 1.7",
                 "## Observed, not judged", "## Non-conformant, but only a should"):  # fmt: skip
        assert part in text
    assert "<b>" not in text
    assert "![x](" not in text


def test_the_summary_goes_to_github_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "step.md"
    step.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    path = summary.write(run)
    assert step.read_text(encoding="utf-8") == f"before\n{path.read_text(encoding='utf-8')}\n"


def test_the_terminal_is_plain_when_it_is_none(run: Run) -> None:
    text = _terminal(run, width=40)
    lines = text.splitlines()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u2500-\u257f]", text), (
        "neither colours nor boxes nor what a node wrote"
    )
    assert "network    win-one  1 of 2, 1 non-conformant" in lines
    assert "storage    win-two  1 of 3, 2 not-proven" in lines
    assert "admission  cluster  1 of 1" in lines
    assert "    documented at https://example.org/documents#storage-volumes-below" in lines, "links are not wrapped"
    assert f"    evidence: {run.out}/nodes/win-one/storage/evidence.json" in lines
    assert any(line.endswith("more characters: see the evidence") for line in lines), "a long difference is cut"
    assert f"report: {run.out}/summary.md" in lines
    assert lines[-2].startswith("failure (simulated): 2 musts do not hold")
    assert lines[-1] == "exit 1: failure: something is non-conformant"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_the_terminal_keeps_its_width(run: Run, width: int) -> None:
    text = _terminal(run, width=width, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= width


def test_no_color_is_honoured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[3" in _terminal(run, width=80, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", _terminal(run, width=80, force_terminal=True, color_system="standard"))


# -- wording


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"claim": Claim.PARTIAL, "results": ()}, "Nothing binding was seen to fail, but not every node has shown"),
        (
            {"claim": Claim.PARTIAL, "results": (), "selection": Selection(full=False, expression="ping")},
            "Only a selection was judged: ping.",
        ),
        ({"claim": Claim.PARTIAL, "results": (), "exit_code": 130}, "The run was interrupted."),
        ({"claim": Claim.SUCCESS, "results": ()}, "Every must that applies was seen to hold on all 2 nodes."),
    ],
)
def test_the_claim_is_a_plain_sentence(run: Run, change: dict[str, Any], sentence: str) -> None:
    assert sentence in wording.claim_sentence(replace(run, **change))


def test_one_report_that_fails_leaves_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit, "write", lambda _: 1 / 0)
    monkeypatch.setattr("conformance._suite.report.generate", lambda *_: False)
    said: list[str] = []
    write_all(run, said.append)
    assert said == ["junit.xml could not be written: ZeroDivisionError: division by zero"]
    assert _in_verdict(run.out) == _in_summary(run.out) == _in_allure(run.out) == _cells(run)
