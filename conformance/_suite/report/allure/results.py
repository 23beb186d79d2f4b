"""
Allure's results: what a check is called while it runs, and afterwards every cell of the matrix as ``verdict.json`` has
it, whatever pytest left behind.

A result belongs to the cell that its labels ``requirement`` and ``node`` name; one about the cluster has no ``node``.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import allure

from conformance._suite.files import write_text
from conformance._suite.redact import redact
from conformance._suite.report.wording import (
    claim_sentence,
    cut,
    escaped,
    exit_meaning,
    headline,
    laid_out,
    node_line,
    one_line,
    place,
    printable,
)
from conformance._suite.requirement import Level
from conformance._suite.result import CLUSTER, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from conformance._suite.report.verdict import Run
    from conformance._suite.requirement import Requirement
    from conformance._suite.result import Result

_STATUS = {
    Verdict.CONFORMANT: "passed",
    Verdict.NON_CONFORMANT: "failed",
    Verdict.NOT_PROVEN: "broken",
    Verdict.NOT_APPLICABLE: "skipped",
}
_SEVERITY = {Level.MUST: "critical", Level.SHOULD: "normal", Level.OBSERVED: "minor"}
_CUT = 20_000
"""Characters of one text in a result; the evidence that is attached has all of it."""
_EACH, _ALL = 2_000_000, 10_000_000
"""Bytes of evidence that are attached, of one file and of all; where all is more, only what is not green has its."""
_GREEN = (Verdict.CONFORMANT, Verdict.NOT_APPLICABLE)

CATEGORIES = [
    {"name": "Non-conformant", "matchedStatuses": ["failed"], "messageRegex": r"^(?!should: )[\s\S]*"},
    {"name": "Non-conformant, but only a should", "matchedStatuses": ["failed"], "messageRegex": r"^should: [\s\S]*"},
    {"name": "Not proven", "matchedStatuses": ["broken"]},
    {"name": "Not applicable to this version", "matchedStatuses": ["skipped"]},
]
"""The verdicts, as Allure 2 and 3 both read them."""


def allure_labels(requirement: Requirement, node_name: str | None, *, simulated: bool) -> None:
    """
    Say to Allure what the test that runs now is about; ``node_name`` is None for the cluster.
    """
    dynamic: Any = allure.dynamic
    dynamic.title(_title(requirement.sentence))
    dynamic.link(requirement.source, name=_DOCUMENTED)
    for name, value in _labels(requirement.id, node_name, requirement.level, simulated=simulated):
        dynamic.label(name, value)


_DOCUMENTED = "documented at"


def _title(sentence: str) -> str:
    # Allure shows a title as it is.
    return printable(sentence).replace("`", "")


def _labels(requirement: str, node: str | None, level: Level, *, simulated: bool) -> list[tuple[str, str]]:
    area, topic, _ = requirement.split("/")
    labels = [("requirement", requirement)]
    if node is not None:
        labels.append(("node", node))
    labels += [
        ("parentSuite", node or CLUSTER),
        ("suite", area),
        ("subSuite", topic),
        ("epic", area),
        ("feature", topic),
        ("severity", _SEVERITY[level]),
        ("tag", str(level)),
    ]
    return [*labels, ("tag", "simulated")] if simulated else labels


def complete(results_dir: Path, run: Run) -> None:
    """
    Make the folder say what the run says: one result for each cell, with its verdict's status.

    Of what pytest left a cell keeps its times, its trace and its attachments, redacted. Doubles, cut files, fixtures
    and results of no cell go; a cell whose worker died gets a result.
    """
    results_dir.mkdir(parents=True, exist_ok=True)
    left = _left_by_pytest(results_dir)
    kept: set[str] = set()
    paths = {one.path for result in run.results for one in result.evidence}
    sizes = {path: _size(run.evidence_path(path)) for path in paths}
    green_too = sum(sizes[one.path] for result in run.results for one in result.evidence) <= _ALL
    room = _ALL
    for result in sorted(run.results, key=lambda one: list(Verdict).index(one.verdict)):
        before = left.get((result.requirement, result.node), {})
        attachments = [one for one in before.get("attachments") or [] if _redacted(results_dir, one)]
        size = sum(sizes[one.path] for one in result.evidence)
        attached = (green_too or result.verdict not in _GREEN) and size <= room
        whole = _result(run, result, before, attached=attached)
        for number, one in enumerate(result.evidence if attached else ()):
            # Allure shows a file in one result only, so each has its own copy.
            attachments.append(_attach(results_dir, run, one.path, f"{whole['uuid']}-{number}-attachment"))
        room -= size if attached else 0
        whole["attachments"] = attachments
        kept |= {str(one["source"]) for one in attachments}
        name = f"{whole['uuid']}-result.json"
        kept.add(name)
        # On one line: smaller, and the only form that Python's fast encoder writes.
        write_text(results_dir / name, json.dumps(whole, ensure_ascii=False) + "\n")
    for path in results_dir.iterdir():
        if path.is_file() and path.name not in kept:
            path.unlink()
    _write_json(results_dir / "categories.json", CATEGORIES)
    write_text(results_dir / "environment.properties", _environment(run))
    executor = _executor(os.environ, run)
    if executor:
        _write_json(results_dir / "executor.json", executor)


def _left_by_pytest(results_dir: Path) -> dict[tuple[str, str | None], dict[str, Any]]:
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for path in sorted(results_dir.glob("*-result.json")):
        try:
            result = json.loads(path.read_bytes())
            labels = {label["name"]: label["value"] for label in result["labels"]}
            cell = labels["requirement"], labels.get("node")
            uuid.UUID(result["uuid"])
            end = int(result["stop"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if cell not in found or end > found[cell]["stop"]:
            found[cell] = result
    return found


def _redacted(results_dir: Path, attachment: Mapping[str, Any]) -> bool:
    """
    Whether the attachment is there; a text is redacted in place. What cannot be read as text is left out.
    """
    path = results_dir / Path(str(attachment.get("source"))).name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    clean = redact(text)
    if clean != text:
        write_text(path, clean)
    return True


def _size(path: Path) -> int:
    """
    The bytes that attaching a file takes; none where a note will stand for it.
    """
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return size if size <= _EACH else 0


def _attach(results_dir: Path, run: Run, path: str, name: str) -> dict[str, str]:
    """
    Copy a piece of evidence, or leave a note why it is not there. Returns the attachment.
    """
    try:
        content = run.evidence_path(path).read_bytes()
        if len(content) <= _EACH:
            (results_dir / f"{name}.json").write_bytes(content)
            return {"name": path, "source": f"{name}.json", "type": "application/json"}
        note = f"{path} is not attached, for its size ({len(content)} bytes)."
    except OSError as error:
        note = f"{path} could not be attached: {error.strerror or error}"
    write_text(results_dir / f"{name}.txt", note + "\n")
    return {"name": path, "source": f"{name}.txt", "type": "text/plain"}


def _result(run: Run, result: Result, before: Mapping[str, Any], *, attached: bool) -> dict[str, Any]:
    # The same in every run, so that a later report can tell what changed since.
    same = hashlib.md5(f"{result.requirement} {result.node or ''}".encode(), usedforsecurity=False).hexdigest()
    end = _milliseconds(run.ended)
    stop = before.get("stop", end)
    return {
        "uuid": before.get("uuid") or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.run_id} {same}")),
        "historyId": same,
        "testCaseId": same,
        "fullName": f"{result.requirement} on {place(result)}",
        "titlePath": [place(result), *result.requirement.split("/")[:2]],
        "name": _title(run.sentence(result)),
        "status": _STATUS[result.verdict],
        "statusDetails": _details(run, result, before),
        "description": _description(run, result, attached=attached),
        "stage": "finished",
        "start": before.get("start", stop - round(result.duration * 1000)),
        "stop": stop,
        "parameters": [],
        "steps": [],
        "links": [{"name": _DOCUMENTED, "url": url, "type": "link"} for url in [run.source(result)] if url],
        "labels": [
            {"name": name, "value": value}
            for name, value in (
                *_labels(result.requirement, result.node, result.level, simulated=run.cluster.simulated),
                ("verdict", str(result.verdict)),
            )
        ],
    }


def _details(run: Run, result: Result, before: Mapping[str, Any]) -> dict[str, str]:
    if result.verdict is Verdict.CONFORMANT and result.level is not Level.OBSERVED:
        return {}
    message = cut(result.reason)
    if result.level is not Level.MUST:
        message = f"{result.level}: {message}"
    if cause := run.likely_cause(result):
        # Descriptions are folded up; this is what is seen first.
        message = f"{message}\nlikely cause: {cause}"
    details = {"message": message}
    trace = (before.get("statusDetails") or {}).get("trace")
    if trace and result.verdict is not Verdict.NOT_APPLICABLE:
        details["trace"] = printable(redact(str(trace)))[:_CUT]
    if result.expected is not None and result.seen is not None:
        details["expected"] = printable(laid_out(result.expected))[:_CUT]
        details["actual"] = printable(laid_out(result.seen))[:_CUT]
    return details


def _description(run: Run, result: Result, *, attached: bool) -> str:
    lines = [f"**{result.verdict}** ({result.level}) on {place(result)}"]
    if run.cluster.simulated:
        lines[0] += ", **simulated**"
    if result.level is Level.OBSERVED:
        lines.append(f"Observed, not judged: {_quoted(result.reason)}")
    elif result.verdict is not Verdict.CONFORMANT:
        lines.append(_quoted(result.reason))
    for name, text in (("Documented, expected", result.expected), ("Seen", result.seen)):
        if text is not None:
            lines.append(f"{name}: {_quoted(text)}")
    if hint := run.hints.get(result.hint or ""):
        links = ", ".join(f"<{link}>" for link in hint.see)
        lines.append(f"**Likely cause** ({hint.sure}): {escaped(f'{hint.cause} {hint.remedy}')} {links}")
    if (words := run.silent.get(result.node or "")) and result.verdict not in _GREEN:
        lines.insert(1, f"**No container at all started on {result.node}:** {_quoted(words)}")
    documented = f", documented at <{source}>" if (source := run.source(result)) else ""
    lines.append(f"Requirement `{result.requirement}`{documented}")
    where = "" if attached else ", in the run's folder"
    lines += [f"Evidence `{one.path}`, SHA-256 `{one.sha256}`{where}" for one in result.evidence]
    return "\n\n".join(lines)


def _quoted(text: str) -> str:
    """
    Text from a node as code, so that nothing in it becomes a link, an image or markup.
    """
    return f"`` {one_line(text).replace('`', 'ˋ')} ``"


def _environment(run: Run) -> str:
    # The page shows some 35 characters of each value, the rest when pointed at: what tells most comes first.
    values = {
        "Claim": headline(run),
        "Meaning": claim_sentence(run),
        "Simulated": "yes" if run.cluster.simulated else "no",
        "Target": f"{run.cluster.target}, Kubernetes {run.cluster.server_version}",
        **({"Nodes not tested": ", ".join(run.cluster.untested)} if run.cluster.untested else {}),
        **({"Notes": "; ".join(run.notes)} if run.notes else {}),
        **({"Defects": ", ".join(run.defects)} if run.defects else {}),
        **{f"Node {number}": f"{node.name}: {node_line(node)}" for number, node in enumerate(run.nodes, 1)},
        "Exit code": exit_meaning(run),
        "Run": run.run_id,
        "Suite": run.suite_version,
        "Catalogue": run.catalogue_digest,
    }
    return "".join(f"{_property(name)} = {_property(one_line(value))}\n" for name, value in values.items())


def _property(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\ :=#!" else sign for sign in text)


def _executor(environment: Mapping[str, str], run: Run) -> dict[str, Any]:
    """
    Who ran this, from the variables that CI systems set; empty elsewhere.
    """
    get = environment.get
    if get("GITHUB_ACTIONS"):
        url = f"{get('GITHUB_SERVER_URL')}/{get('GITHUB_REPOSITORY')}/actions/runs/{get('GITHUB_RUN_ID')}"
        found = {"name": "GitHub Actions", "type": "github", "buildUrl": url, "order": get("GITHUB_RUN_NUMBER")}
    elif get("GITLAB_CI"):
        url = get("CI_JOB_URL", "")
        found = {"name": "GitLab CI", "type": "gitlab", "buildUrl": url, "order": get("CI_PIPELINE_IID")}
    elif get("TF_BUILD"):
        url = f"{get('SYSTEM_COLLECTIONURI')}{get('SYSTEM_TEAMPROJECT')}/_build/results?buildId={get('BUILD_BUILDID')}"
        found = {"name": "Azure Pipelines", "type": "azure", "buildUrl": url, "order": get("BUILD_BUILDID")}
    elif get("JENKINS_URL"):
        found = {"name": "Jenkins", "type": "jenkins", "buildUrl": get("BUILD_URL", ""), "order": get("BUILD_NUMBER")}
    else:
        return {}
    order = str(found.pop("order") or "")
    return {
        **found,
        "buildName": f"{found['name']} #{order}",
        **({"buildOrder": int(order)} if order.isdecimal() else {}),
        "reportName": f"HostProcess conformance — {headline(run)}",
    }


def _write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
