"""
Hints: their form, where each is looked for, and what users read; a hint never changes a verdict.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance import Scope, Unknown
from conformance._suite import evidence, hints
from conformance._suite.cli import program
from conformance._suite.errors import TargetError
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.judge import pytest_run
from conformance._suite.judge.explaining import Explained, explain
from conformance._suite.judge.matrix import pages
from conformance._suite.judging import Judging
from conformance._suite.observation import Evidence
from conformance._suite.requirement import Level
from conformance._suite.result import Result, Verdict
from tests.conftest import ROOT, run_program

if TYPE_CHECKING:
    from conformance._suite.hints import Hint
    from tests.conftest import Matrix

HINTS, KNOWN = hints.load()
BY_NAME = {hint.name: hint for hint in HINTS}
LOG_ON = 'failed to start containerd task "x": failed to create user process token: failed to logon user: '
DENIED = f"{LOG_ON}Access is denied.: unknown"
READ = DENIED.partition(": ")[2]
ROW = {
    "accounts": "accounts/system-accounts/local-system",
    "operation": "operation/aks-daemonset/running-on-each-node",
    "storage": "storage/volumes/relative-path",
}
READS = {one: check.reads for one, check in pages().checks.items()}


def node(name: str = "win", containerd: str = "2.3.4", kubelet: str = "v1.37.2") -> NodeFacts:
    return NodeFacts(name, name, "10.0.0.4", name, f"containerd://{containerd}", kubelet, "Windows", "10.0.20348.1", 4)


def container(said: str | None = None, *, started: bool = False, reason: str = "StartError") -> dict[str, Any]:
    """
    The status of a container that runs, or of one that ended with what was said of it.
    """
    state = {"running": {}} if started else {"terminated": {"reason": reason, "exitCode": 128, "message": said}}
    return {"name": "c", "state": state, "lastState": {}}


def step(*containers: dict[str, Any], log: str = "", events: tuple[str, ...] = (), **facts: Any) -> dict[str, Any]:
    """
    A step in which these containers were seen; ``facts`` are what its probe found.
    """
    warnings = [{"type": "Warning", "reason": "Failed", "message": one} for one in events]
    pod = {"metadata": {}, "spec": {"containers": []}, "status": {"containerStatuses": list(containers)}}
    kubernetes = {"pod": pod, "events": warnings, "logs": {"c": log} if log else {}}
    return {
        "name": "read",
        "met": True,
        "trouble": None,
        "api": [],
        "kubernetes": kubernetes,
        "probe": {"reader": facts},
    }


class Folder:
    """
    Evidence by workload and node, and which of it was read how often.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **workloads: dict[str, Any]) -> None:
        self.steps = {name.replace("_", "-"): one for name, one in workloads.items()}
        self.read: Counter[tuple[str, str | None]] = Counter()
        monkeypatch.setattr(evidence, "load", self.load)

    def load(self, _: Judging, workload: Any, where: NodeFacts | None) -> Evidence:
        self.read[workload.name, where.name if where else None] += 1
        if workload.name not in self.steps:
            raise Unknown("it was not observed")
        return Evidence({"workload": workload.name, "steps": [self.steps[workload.name]]})


def explained(
    requirement: str, *nodes: NodeFacts, verdict: Verdict = Verdict.NON_CONFORMANT, reason: str = "x", seen: str = ""
) -> Explained:
    """
    What is said of one requirement that has this verdict on all nodes.
    """
    judging = Judging(Path(), "r", "2026-11-22T10:00:00", ClusterFacts("existing", "v1.37.2", simulated=False), nodes)
    results = [Result(requirement, one.name, Level.MUST, verdict, "differs", reason, seen=seen) for one in nodes]
    found = explain(judging, results, pages().checks)
    assert [replace(one, hint=None) for one in found.results] == results, "a hint changes nothing else"
    return found


def hint_of(requirement: str, one: NodeFacts, **what: Any) -> str | None:
    return explained(requirement, one, **what).results[0].hint


# The file.


def test_the_file_is_read_and_lies_in_a_package_of_the_wheel() -> None:
    assert len(HINTS) > 20
    assert len(KNOWN) > 5
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert hints.FILE.relative_to(ROOT).parts[0] in targets["wheel"]["packages"]
    assert not {"exclude", "include", "only-include"} & targets["wheel"].keys()


def test_every_entry_says_what_to_do_in_short_sentences() -> None:
    for hint in HINTS:
        for text in (hint.cause, hint.remedy):
            assert text.endswith("."), hint.name
            assert len(text) < 300, hint.name
    assert all(one.says.endswith(".") for one in KNOWN)


def test_every_pattern_for_rows_means_a_requirement_and_every_fact_is_a_probes() -> None:
    for hint in HINTS:
        for pattern in hint.rows:
            assert re.fullmatch(r"[a-z*-]+/[a-z*/-]+|\*", pattern)
            assert any(hints_row(pattern, one) for one in pages().requirements), (hint.name, pattern)
    for when in (*(hint.when for hint in HINTS), *(one.when for one in KNOWN)):
        for path, _ in when.facts:
            workload, _, _, fact = path.split("/")
            assert f"'{fact}'" in (ROOT / "workloads" / workload / "probe.ps1").read_text(encoding="utf-8"), path


def hints_row(pattern: str, requirement: str) -> bool:
    return re.fullmatch(pattern.replace("*", ".*"), requirement) is not None


ENTRY = {
    "name": "a-b",
    "text": "x",
    "cause": "C.",
    "remedy": "R.",
    "see": ["https://a"],
    "sure": "read",
    "example": "x",
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "A b"}, "lower case"),
        ({"text": "("}, "a-b: missing \\)"),
        ({"not": "("}, "missing \\)"),
        ({"in": ["somewhere"]}, "`in` or `sure`"),
        ({"in": "log"}, "of another kind: in"),
        ({"sure": "certain"}, "`in` or `sure`"),
        ({"see": ["http://a"]}, "not an https link"),
        ({"see": []}, "empty or of another kind: see"),
        ({"cause": ""}, "empty or of another kind: cause"),
        ({"every": "yes"}, "of another kind: every"),
        ({"rows": "storage/*"}, "of another kind: rows"),
        ({"when": {"windows": ">=1"}}, "unknown conditions"),
        ({"when": {"containerd": "1.7"}}, "is not of the form"),
        ({"when": {"containerd": ">=new"}}, "is not a version"),
        ({"when": {"fact": {"node-facts/bindFilter": True}}}, "unknown conditions"),
        ({"colour": "red"}, "unknown, missing, empty or of another kind: colour"),
        ({"example": None}, "example"),
    ],
)
def test_what_is_not_of_the_form_is_refused_by_name(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    entry = {key: value for key, value in {**ENTRY, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=complaint):
        hints.load(_written(tmp_path, entry))


def test_a_name_is_used_once_and_a_table_is_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="used twice: a-b"):
        hints.load(_written(tmp_path, ENTRY, ENTRY))
    (tmp_path / "x.toml").write_text("[[hints]]\nname = 'a'\n", encoding="utf-8")
    with pytest.raises(ValueError, match="unknown tables: hints"):
        hints.load(tmp_path / "x.toml")


def _written(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / f"{len(entries)}.toml"
    path.write_text("\n".join(_table(entry) for entry in entries), encoding="utf-8")
    return path


def _table(entry: dict[str, Any]) -> str:
    return "[[hint]]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in entry.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(one)}' for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'"


# Where a hint is looked for.


@pytest.mark.parametrize("hint", HINTS, ids=lambda hint: hint.name)
def test_each_example_meets_its_own_entry_first(monkeypatch: pytest.MonkeyPatch, hint: Hint) -> None:
    """
    On a node that meets its conditions, and nowhere else than where the entry looks.
    """
    bounds = {what: re.findall(r">=(\S+)", wanted)[0] for what, wanted in hint.when.versions}
    where = node(containerd=bounds.get("containerd", "2.3.4"), kubelet=bounds.get("kubelet", "v1.37.2"))
    facts: dict[str, dict[str, Any]] = {"node-facts": {"bindFilter": True}, "volumes": {}}
    for path, value in hint.when.facts:
        facts[path.split("/")[0]][path.split("/")[3]] = value
    rows = [one for one in pages().requirements if any(hints_row(pattern, one) for pattern in hint.rows)]
    requirement = next((one for one in rows if one in ROW.values()), rows[0])
    (read,) = READS[requirement][:1]
    place = next(one for one in ("status", "event", "log", "seen") if one in hint.places)
    of_pods = place in {"status", "event"}
    verdict = Verdict.NOT_PROVEN if hint.trouble or of_pods else Verdict.NON_CONFORMANT
    reason, _, said = hint.example.partition(": ") if ": " in hint.example else ("Error", "", hint.example)
    shown = {
        "status": step(container(said, reason=reason)),
        "event": step(container(started=True), events=(hint.example,)),
        "log": step(container(started=True), log=hint.example),
        "seen": step(container(started=True)),
    }[place]
    shown["probe"] = {"reader": facts.get(read, {})}
    others = {
        "residue": step(container(started=not hint.every, said=DENIED)),
        "node-facts": step(**facts["node-facts"]),
    }
    Folder(monkeypatch, **{**others, read: shown})
    seen = hint.example if place == "seen" else "y"
    assert hint_of(requirement, where, verdict=verdict, seen=seen) == hint.name
    assert hint_of(requirement, where, verdict=Verdict.CONFORMANT, seen=seen) is None
    if of_pods:
        assert hint_of(requirement, where, seen=seen) is None, "it may be about something else"
    if "seen" in hint.places:
        assert (hint_of(requirement, where, seen=hint.example) == hint.name) is not hint.trouble


def test_trouble_explains_only_what_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    hint = BY_NAME["layer-was-not-ready"]
    Folder(monkeypatch, aks_daemonset=step(container(hint.example)), residue=step(container(started=True)))
    assert hint_of(ROW["operation"], node()) is None
    assert hint_of(ROW["operation"], node(), verdict=Verdict.NOT_PROVEN) == hint.name


@pytest.mark.parametrize(
    ("requirement", "workload", "shown"),
    [
        (
            "network/host-network/addresses",
            "host_network",
            step(container(started=True), events=('Failed to pull image "x": dial tcp: i/o timeout',)),
        ),
        (
            "network/host-network/addresses",
            "host_network",
            step({**container(started=True), "lastState": container(BY_NAME["bind-failed"].example)["state"]}),
        ),
        (
            "accounts/local-group/made-in-a-container",
            "local_accounts",
            step(container(started=True), container(BY_NAME["log-on-right-missing"].example)),
        ),
    ],
)
def test_what_passed_or_befell_another_container_is_no_cause_of_what_differs(
    monkeypatch: pytest.MonkeyPatch, requirement: str, workload: str, shown: dict[str, Any]
) -> None:
    Folder(monkeypatch, **{workload: shown})
    assert hint_of(requirement, node(), seen='{"podIP": "10.244.0.6"}') is None
    assert hint_of(requirement, node(), verdict=Verdict.NOT_PROVEN) is not None


WEBHOOK = BY_NAME["webhook-does-not-answer"].example


@pytest.mark.parametrize(
    ("requirement", "seen", "expected"),
    [
        ("admission/pod-security/privileged-admits", WEBHOOK, "webhook-does-not-answer"),
        ("admission/pod-security/privileged-admits", "x509: certificate signed by unknown authority", None),
        # System accounts are logged on as a service: another right.
        (ROW["accounts"], BY_NAME["log-on-right-missing"].example, None),
        (ROW["operation"], "FailedScheduling: 0/3 nodes are available: not enough space", None),
        (ROW["operation"], "FailedScheduling: 0/3 nodes are available: 3 Insufficient memory", None),
        (ROW["operation"], "There is not enough space on the disk. (0x70)", "machine-out-of-resources"),
        (
            ROW["operation"],
            "Not enough memory resources are available to process this command.",
            "machine-out-of-resources",
        ),
        (ROW["storage"], '{"config-map": "(win32 225)"}', "script-blocked"),
    ],
)
def test_a_text_is_taken_for_no_more_than_it_says(
    monkeypatch: pytest.MonkeyPatch, requirement: str, seen: str, expected: str | None
) -> None:
    Folder(monkeypatch)
    assert hint_of(requirement, node(), verdict=Verdict.NOT_PROVEN, seen=seen) == expected


def test_a_kubelet_that_has_the_fix_is_not_to_be_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(monkeypatch)
    seen = BY_NAME["flags-of-pod-and-container-differ"].example
    for kubelet, expected in (
        ("v1.24.17", "kubelet-reads-the-pods-flag"),
        ("v1.25.0", "flags-of-pod-and-container-differ"),
    ):
        assert hint_of("operation/container-level/is-host-process", node(kubelet=kubelet), seen=seen) == expected


def test_an_answer_about_something_else_is_no_trouble_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"message": "exceeded quota: not enough quota; x509: certificate signed by unknown authority"}
    Folder(monkeypatch, admission={**step(), "api": [answer]})
    assert hint_of("admission/pod-security/privileged-admits", node(), verdict=Verdict.NOT_PROVEN) is None


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("<<<trouble language-mode: ConstrainedLanguage trouble>>>", "powershell-constrained"),
        (f"<<<trouble script-failed: {BY_NAME['script-blocked'].example} trouble>>>", "script-blocked"),
        ("    + FullyQualifiedErrorId : ScriptContainedMaliciousContent\n", "script-blocked"),
    ],
)
def test_a_script_that_was_kept_from_running_says_by_what(
    monkeypatch: pytest.MonkeyPatch, log: str, expected: str
) -> None:
    Folder(monkeypatch, volumes=step(container(started=True), log=log))
    with pytest.raises(Unknown) as told:
        evidence.parse_output(log)
    assert hint_of(ROW["storage"], node(), verdict=Verdict.NOT_PROVEN, reason=str(told.value)) == expected


def test_a_long_line_takes_no_time() -> None:
    """
    Of each text the beginning and the end are searched: on one long line some expressions take time as its square.
    """
    line = "failed to logon user: failed to bind pull ImportLayer " * 20_000
    begin = time.process_time()
    for hint in HINTS:
        hints.search(hint, [line])
        assert hints.search(hint, [f"{hint.example}\n{line}"])[0]
        assert hints.search(hint, [f"{line}\n{hint.example}"])[0]
    assert time.process_time() - begin < 10


def test_only_where_nothing_started_containerd_is_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {
        "residue": step(container(DENIED)),
        "system_accounts": step(container(DENIED)),
        # A container without a user is refused before anybody is logged on.
        "refused_accounts": step(container(DENIED), container("empty username or group name passed")),
    }
    Folder(monkeypatch, **silent)
    seen = f"nobody: {READ}"
    found = explained(ROW["accounts"], node(), seen=seen)
    assert found.results[0].hint == "containerd-is-not-the-system"
    assert found.silent == {
        "win": "failed to create user process token: failed to logon user: Access is denied.: unknown"
    }

    Folder(monkeypatch, **{**silent, "residue": step(container(started=True))})
    found = explained(ROW["accounts"], node(), seen=seen)
    assert found.results[0].hint == "log-on-failed"
    assert found.silent == {}

    Folder(monkeypatch, **{**silent, "volumes": step(container("no such volume"))})
    found = explained(ROW["accounts"], node(), seen=seen)
    assert found.results[0].hint == "log-on-failed", "not every pod says so"
    assert list(found.silent) == ["win"]


def test_a_node_on_which_no_sandbox_is_made_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    event = 'failed to get sandbox image "pause:3.10": not found'
    waiting = {"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}}
    Folder(monkeypatch, residue=step(waiting, events=(event,)))
    found = explained("operation/ping-sample/answered", node(), verdict=Verdict.NOT_PROVEN, reason=f"Failed: {event}")
    assert found.silent == {"win": f"Failed: {event}"}
    assert found.results[0].hint == "sandbox-image-missing"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"bindFilter": False}, "no-bind-filter"),
        ({"bindFilter": True}, None),
        ({"bindFilter": {"error": "it could not look"}}, None),
        ({}, None),
    ],
)
def test_a_fact_that_nobody_found_out_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], expected: str | None
) -> None:
    Folder(monkeypatch, volumes=step(container(started=True)), node_facts=step(**facts))
    assert hint_of(ROW["storage"], node(), seen='{"x": "(win32 3)"}') == expected
    assert hint_of(ROW["storage"], node(containerd="1.6.39"), seen='{"x": "(win32 3)"}') is None


@pytest.mark.parametrize(
    ("says", "meets"),
    [
        ("containerd-shim-runhcs-v1 version v0.9.0", True),
        ("containerd-shim-runhcs-v1 version v0.11.7", False),
        ("commit: abc\nversion: unknown", False),
        ({"error": "it could not be run"}, False),
        (None, False),
    ],
)
def test_an_unknown_shim_meets_no_condition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: object, meets: bool
) -> None:
    entries = hints.load(_written(tmp_path, {**ENTRY, "when": {"shim": "<0.9.1"}}))
    monkeypatch.setattr(hints, "load", lambda: entries)
    Folder(monkeypatch, ping_sample=step(container(started=True)), node_facts=step(shimVersion=says))
    assert hint_of("operation/ping-sample/answered", node()) == ("a-b" if meets else None)


def test_the_line_of_the_probe_is_no_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = hints.load(_written(tmp_path, {**ENTRY, "text": "needle", "not": "pin", "in": ["log"]}))
    monkeypatch.setattr(hints, "load", lambda: entries)
    for log, expected in (
        ('<<<observation {"a": "needle"} observation>>>\n', None),
        ("a needle\n", "a-b"),
        ("a needle, a pin\n", None),
    ):
        Folder(monkeypatch, ping_sample=step(container(started=True), log=log))
        assert hint_of("operation/ping-sample/answered", node()) == expected


def test_every_file_of_a_node_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However many rows are not proven: what 1,000 nodes cost is 1,000 times what one costs.
    """
    folder = Folder(monkeypatch, volumes=step(container(started=True), log="x" * 16_000))
    nodes = [node(f"win-{number}") for number in range(50)]
    judging = Judging(Path(), "r", "", ClusterFacts("existing", "v1.37.2", simulated=False), tuple(nodes))
    results = [
        Result(one, each.name, Level.MUST, Verdict.NOT_PROVEN, "deadline", "not in time")
        for one, requirement in pages().requirements.items()
        if requirement.scope is Scope.NODE
        for each in nodes
    ]
    explain(judging, results, pages().checks)
    assert max(folder.read.values()) == 1
    assert len(folder.read) <= 50 * 20


def test_what_breaks_a_hint_costs_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("containerStatuses")

    monkeypatch.setattr(pytest_run, "explain", broken)
    results = [Result("a/b/c", "win", Level.MUST, Verdict.NOT_PROVEN, "deadline", "not in time")]
    judging = Judging(tmp_path, "r", "", ClusterFacts("existing", "v1.37.2", simulated=False), (node(),))
    assert pytest_run._explained(judging, results, tmp_path).results == tuple(results)
    assert "KeyError" in (tmp_path / "pytest.log").read_text(encoding="utf-8")


def test_what_is_known_of_versions_needs_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(monkeypatch, node_facts=step(bindFilter=True))
    found = explained(
        ROW["storage"], node("old", "1.6.39", "v1.24.1"), node("new", "2.3.4"), verdict=Verdict.CONFORMANT
    ).known
    assert {name: [one.name for one in said] for name, said in found.items()} == {
        "old": ["links-only", "no-port-forward", "pod-level-flag-only"],
        "new": ["commands-by-cmd", "binds", "no-bindings-inside"],
    }


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("win-1 cannot pull x: ErrImagePull: failed to pull: no match for platform in manifest: not found", True),
        ("win-1 cannot pull x: failed to pull image: dial tcp: lookup mcr.microsoft.com: no such host", True),
        ("there is no Windows node", False),
        (f"nothing starts on win-1: {DENIED}", True),
    ],
)
def test_what_ends_a_run_is_explained_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, expected: bool
) -> None:
    def fail(_: Any) -> int:
        raise TargetError(said)

    monkeypatch.setattr(program, "conformance", fail)
    assert program.main([]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"conformance: {said}"
    assert [line.startswith("likely cause: ") for line in lines[1:2]] == ([True] if expected else [])
    assert [line.startswith("https://") for line in lines[2:]] == ([True] if expected else [])


# What users read: on nodes that are wrong, and on those that are not.

EXPECTED = {
    "container-level-flag-lost": {"flags-of-pod-and-container-differ"},
    "image-user-preferred": {"log-on-failed"},
    "arguments-escaped-twice": {"quotes-doubled"},
    "containerd-is-not-the-system": {"containerd-is-not-the-system"},
    "host-path-not-bound": {"file-system-driver-refuses-the-bind"},
    "log-on-locally-denied": {"log-on-right-missing"},
    "password-policy-refuses": {"group-account-not-made"},
    "log-on-out-of-resources": {"machine-out-of-resources"},
}
"""The hints on a node with a defect or in trouble; on all others none."""


@pytest.mark.cluster
def test_what_a_user_reads_about_wrong_nodes(matrix: Matrix, tmp_path: Path) -> None:
    """
    Through the command line, against the real API server: the likely causes, first and once; and the same from the
    evidence alone.
    """
    without = matrix.faithful["1.7-no-bind-filter"]
    silent, doubled = (matrix.wrong[name] for name in ("containerd-is-not-the-system", "arguments-escaped-twice"))
    chosen = [option for one in (silent, without, doubled) for option in ("--node", one)]
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig), *chosen, "--no-allure"
    )
    again = run_program(tmp_path / "again", "judge", str(run.out), "--no-allure")
    expected = {
        "containerd-is-not-the-system": (silent, r"6 non-conformant and \d+ not-proven rows"),
        "no-bind-filter": (without, "5 non-conformant rows"),
        "quotes-doubled": (doubled, "1 non-conformant row"),
    }
    for each in (run, again):
        assert each.code == 1, each.output
        lines = each.output.splitlines()
        told = [line for line in lines if line.startswith("No container at all started on ")]
        assert told == [f"No container at all started on {silent}: {READ}"]
        first = lines.index("Likely causes: 3")
        assert lines.index(told[0]) < first < lines.index("Non-conformant: 12")
        for number, (hint, (where, rows)) in enumerate(expected.items()):
            begin = first + 1 + 4 * number
            assert lines[begin] == f"  {where}: {BY_NAME[hint].cause}"
            assert lines[begin + 1] == f"    {BY_NAME[hint].remedy}"
            assert lines[begin + 2] == f"    {BY_NAME[hint].see[0]} ({BY_NAME[hint].sure})"
            assert re.fullmatch(f"    explains {rows}", lines[begin + 3])
        assert not re.search(r"[0-9a-f]{64}|-EncodedCommand [A-Za-z0-9+/]{41}", each.output)
        summary = (each.out / "summary.md").read_text(encoding="utf-8")
        assert summary.index("## Likely causes") < summary.index("## Nodes")
    assert again.verdict["hints"] == run.verdict["hints"]
    assert [one.get("hint") for one in again.verdict["results"]] == [one.get("hint") for one in run.verdict["results"]]


@pytest.mark.cluster
def test_each_defect_has_the_expected_hint_or_none(matrix: Matrix) -> None:
    named: defaultdict[str | None, set[str]] = defaultdict(set)
    for result in matrix.run.verdict["results"]:
        if "hint" in result:
            assert result["verdict"] in {"non-conformant", "not-proven"}
            named[result["node"]].add(result["hint"])
    expected = {(matrix.wrong | matrix.troubled)[name]: hints for name, hints in EXPECTED.items()}
    assert named == {**expected, matrix.faithful["1.7-no-bind-filter"]: {"no-bind-filter"}}


@pytest.mark.cluster
def test_nothing_that_a_faithful_node_leaves_looks_like_a_cause(matrix: Matrix) -> None:
    """
    Not even where no row were proven.
    """
    kept = Judging.from_data(json.loads((matrix.run.out / "run.json").read_text(encoding="utf-8"))["judging"])
    nodes = tuple(one for one in kept.nodes if one.name in matrix.faithful.values())
    judging = replace(kept, out=matrix.run.out, nodes=nodes)
    results = [
        Result(one, where, Level.MUST, Verdict.NOT_PROVEN, "deadline", "not in time")
        for one, requirement in pages().requirements.items()
        for where in ([None] if requirement.scope is Scope.CLUSTER else judging.by_name)
    ]
    found = explain(judging, results, pages().checks)
    assert len(nodes) == len(matrix.faithful)
    assert [(one.requirement, one.node, one.hint) for one in found.results if one.hint] == []
    assert found.silent == {}
