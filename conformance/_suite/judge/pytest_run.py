"""
Runs pytest on the pages: to find out what is selected, and to judge evidence that is finished.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import conformance
from conformance._suite import catalogue, evidence, verdict, workload
from conformance._suite.errors import SuiteError, TargetError, Unknown, UsageError
from conformance._suite.facts import ClusterFacts, Scope
from conformance._suite.judge import matrix, plugin
from conformance._suite.judge.explaining import Explained, explain
from conformance._suite.judge.matrix import Cell, Selected
from conformance._suite.judge.outcome import not_applicable, references
from conformance._suite.judging import Judging
from conformance._suite.report.verdict import Run, Selection
from conformance._suite.requirement import Level, excluded_by
from conformance._suite.result import EVIDENCE_REPORTED, NODE_SHOWN, NODE_TESTED, Claim, Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conformance._suite.requirement import Check

_ROOT = Path(conformance.__file__).parent


@dataclass(frozen=True, slots=True)
class _Outcome:
    code: int
    complaint: str


def require_readable(expression: str) -> None:
    """
    Raise UsageError for a ``-k`` that cannot be read; no cluster and no node is needed to tell.
    """
    nobody = Judging(Path(), "", "", ClusterFacts("", "v1.0.0", simulated=False), ())
    outcome = _run_pytest(plugin.Controller(nobody), ["--collect-only", "-k", expression], Path(os.devnull))
    if outcome.code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError(_usage_message(outcome.complaint), "see --help")


def select(judging: Judging, expression: str | None) -> Selected:
    """
    What is to be judged: everything, or what ``expression`` (``-k``) matches, be it nothing. Raises TargetError when
    pytest broke.
    """
    if expression is None:
        return matrix.whole(judging)
    controller = plugin.Controller(judging)
    outcome = _run_pytest(controller, ["--collect-only", "-k", expression], Path(os.devnull))
    if outcome.code == pytest.ExitCode.INTERNAL_ERROR:
        raise TargetError(f"the checks cannot be collected: {_usage_message(outcome.complaint)}")
    return Selected(frozenset(controller.collected), expression)


def judge(
    judging: Judging,
    selected: Selected,
    out: Path,
    *,
    started: datetime,
    workers: int = 0,
    interrupted: bool = False,
    defects: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    allure: bool = True,
) -> Run:
    """
    Judge what is selected from the evidence that is there; leave pytest's log, and with ``allure`` its results, in
    ``out``. When observing was ``interrupted``, or Ctrl-C comes meanwhile, what has no result is not proven. ``notes``
    are what every report has to say beside the results. Raises TargetError when pytest broke.
    """
    results: Mapping[Cell, Result] = {}
    if not interrupted:
        controller = plugin.Controller(judging)
        options = [f"--alluredir={out / 'allure-results'}"] if allure else []
        if selected.expression:
            options += ["-k", selected.expression]
        if workers:
            options += ["-n", str(workers)]
        outcome = _run_pytest(controller, options, out / "pytest.log")
        if outcome.code == pytest.ExitCode.INTERNAL_ERROR and not controller.results:
            raise TargetError("the suite broke while judging", f"this is a bug in the suite; see {out / 'pytest.log'}")
        results = controller.results
        interrupted = outcome.code == pytest.ExitCode.INTERRUPTED
    completed = complete(judging, selected, results)
    besides = about_the_run(judging, completed)
    full = selected.expression is None and not interrupted
    explained = _explained(judging, completed, out)
    claimed = verdict.claim([*completed, *besides], [node.name for node in judging.nodes], full=full)
    return Run(
        suite_version=conformance.__version__,
        catalogue_digest=matrix.pages().digest(),
        run_id=judging.run_id,
        started=started,
        ended=datetime.now(UTC),
        cluster=judging.cluster,
        nodes=judging.nodes,
        node_subjects=_subjects(judging),
        selection=Selection(full=full, expression=selected.expression),
        claim=Claim(claimed),
        exit_code=verdict.EXIT_INTERRUPTED if interrupted else verdict.EXIT_CODES[claimed],
        results=(*explained.results, *besides),
        defects=defects,
        notes=(*notes, *_other_workloads(judging)),
        run_digest=judging.run_digest,
        requirements=matrix.pages().requirements,
        out=out,
        evidence=judging.out,
        hints=explained.hints,
        known=explained.known,
        silent=explained.silent,
    )


def _explained(judging: Judging, results: list[Result], out: Path) -> Explained:
    try:
        return explain(judging, results, matrix.pages().checks)
    except Exception:  # noqa: BLE001 - what is likely behind a verdict must not cost the verdict
        with (out / "pytest.log").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return Explained(tuple(results))


def complete(judging: Judging, selected: Selected, found: Mapping[Cell, Result]) -> list[Result]:
    """
    A result for every cell of the matrix, sorted: what was not selected, or was lost with its worker, is not-proven.
    """
    checks = matrix.pages().checks
    cells = matrix.whole(judging).cells
    results = {
        (one, node): found.get((one, node))
        or _missing(judging, checks[one], node, chosen=(one, node) in selected.cells)
        for one, node in cells
    }
    return [results[key] for key in sorted(results, key=lambda key: (key[0], key[1] or ""))]


def about_the_run(judging: Judging, results: Sequence[Result]) -> list[Result]:
    """
    What keeps the run from showing what it is for: nodes that nobody left out and that were not tested, and nodes on
    which nothing binding was seen, be it good or bad; and evidence that no report vouches for.
    """
    found = [
        _unseen(NODE_TESTED, node, "node-not-tested", f"the node was not tested: {reason}")
        for node, reason in judging.cluster.untested.items()
    ]
    if judging.digests is None:
        reason = "there is no verdict.json beside the evidence: nothing tells whether it is what was observed"
        found.append(_unseen(EVIDENCE_REPORTED, None, "no-report", reason))
    for node in judging.nodes:
        musts = [one for one in results if one.node == node.name and one.level is Level.MUST]
        if all(one.verdict is Verdict.NOT_APPLICABLE for one in musts):
            reasons = "; ".join(sorted({one.reason for one in musts}))
            found.append(_unseen(NODE_SHOWN, node.name, "nothing-applies", f"nothing binding applies: {reasons}"))
    return found


def _unseen(what: str, node: str | None, code: str, reason: str) -> Result:
    return Result(what, node, Level.MUST, Verdict.NOT_PROVEN, code, reason)


def _missing(judging: Judging, check: Check, node: str | None, *, chosen: bool) -> Result:
    requirement = check.requirement
    try:
        excluded = excluded_by(requirement, matrix.facts_of(judging, node))
    except Unknown:
        excluded = None
    if excluded:
        return not_applicable(check, node, excluded)
    code, reason = (
        ("no-result", "the check ended without a result: its worker died or the run was interrupted")
        if chosen
        else ("not-selected", "left out by the selection")
    )
    seen = references(judging, check, node)
    return Result(requirement.id, node, requirement.level, Verdict.NOT_PROVEN, code, reason, evidence=seen)


def _run_pytest(controller: plugin.Controller, options: Sequence[str], log: Path) -> _Outcome:
    arguments = [
        str(_ROOT), f"--rootdir={_ROOT.parent}", "-c", os.devnull, "--import-mode=importlib", "-s",
        "--assert=rewrite", "-p", "xdist", "-p", "allure_pytest", "-p", plugin.__name__,
        "-p", "no:cacheprovider", *options,
    ]  # fmt: skip
    # pytest rewrites the assertions of what it imports itself: those of a page that is there already would say neither
    # what was seen nor what was expected.
    for page in catalogue.page_names():
        sys.modules.pop(page, None)
    # What is judged, and how, is decided here alone; workers inherit this.
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    complaint = io.StringIO()
    # What pytest itself prints goes to a log: the terminal is for progress and for the verdict.
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        with contextlib.redirect_stderr(complaint):
            code = int(pytest.main(arguments, plugins=[controller]))
        file.write(complaint.getvalue())
    return _Outcome(code, complaint.getvalue())


def _other_workloads(judging: Judging) -> list[str]:
    """
    A note when evidence that is judged again is of workloads that have changed since.
    """
    changed = []
    for loaded in map(workload.load, [] if judging.same_digest else workload.names()):
        for node in judging.nodes if loaded.scope is Scope.NODE else (None,):
            with contextlib.suppress(SuiteError):
                # One run is of one suite: the first evidence tells.
                if evidence.load(judging, loaded, node).data["workloadDigest"] != loaded.digest:
                    changed.append(loaded.name)
                break
    whose = "observed with other workloads than this suite has, and judged by its checks"
    return [f"{whose}: {', '.join(changed)}"] if changed else []


def _subjects(judging: Judging) -> dict[str, dict[str, Any]]:
    """
    What the facts workload read on each node (shim, digests, build), and the images that were pulled there. Missing
    where it was not observed.
    """
    subjects: dict[str, dict[str, Any]] = {}
    judging = replace(judging, digests=None)  # no verdict hangs on it, and reports name only what one hangs on
    for node in judging.nodes:
        with contextlib.suppress(SuiteError):
            facts = evidence.load(judging, workload.load("node-facts"), node)
            (probe,) = facts.data["steps"][0]["probe"].values()
            subjects[node.name] = dict(probe or {})
        with contextlib.suppress(SuiteError):
            residue = evidence.load(judging, workload.load(workload.RESIDUE), node)
            pod = residue.data["steps"][0]["kubernetes"]["pod"]
            pulled = {one["image"]: one.get("imageID") for one in pod["status"]["containerStatuses"]}
            subjects.setdefault(node.name, {})["images"] = pulled
    return subjects


def _usage_message(text: str) -> str:
    """
    The one line of pytest's own complaint that says what is wrong with a selection.
    """
    lines = [re.sub(r"^ERROR: ", "", line).strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line), "pytest refused its arguments")
