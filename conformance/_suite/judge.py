"""
Judges what was observed: runs pytest on the pages, and writes the reports.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import conformance
from conformance._suite import evidence, plugin, verdict, workload
from conformance._suite.judging import Judging
from conformance._suite.model import Claim, ClusterFacts, SuiteError, TargetError, UsageError
from conformance._suite.observe import RESIDUE
from conformance._suite.report import write_all
from conformance._suite.report.verdict import Run, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conformance._suite.display import Display

_ROOT = Path(conformance.__file__).parent


@dataclass(slots=True)
class _Outcome:
    code: int
    complaint: str


def require_readable(expression: str) -> None:
    """
    Refuse an expression that cannot be read, before a cluster is brought up for it.
    """
    nobody = Judging(Path(), "", "", ClusterFacts("", "v1.0.0", simulated=False), ())
    outcome = _run_pytest(plugin.Controller(nobody, None), ["--collect-only", "-k", expression], Path(os.devnull))
    if outcome.code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError(plugin.usage_message(outcome.complaint), "see --help")


def require_selection(judging: Judging, expression: str) -> None:
    """
    Refuse a selection that matches nothing, before anything is put on the cluster.
    """
    arguments = ["--collect-only", "-k", expression]
    outcome = _run_pytest(plugin.Controller(judging, None), arguments, Path(os.devnull))
    if outcome.code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UsageError(f"-k {expression!r} matches no check", "names are listed in conformance/catalogue.md")


def _run_pytest(controller: plugin.Controller, options: Sequence[str], log: Path) -> _Outcome:
    arguments = [
        str(_ROOT), f"--rootdir={_ROOT.parent}", "-c", os.devnull, "--import-mode=importlib", "-s",
        "--assert=rewrite", "-p", "xdist", "-p", "allure_pytest", "-p", "conformance._suite.plugin",
        "-p", "no:cacheprovider", *options,
    ]  # fmt: skip
    # What is judged, and how, is decided here alone; workers inherit this.
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    complaint = io.StringIO()
    controller_name = "conformance-controller"

    class _Register:
        """
        Registers the controller under its name before any other hook runs.
        """

        @staticmethod
        @pytest.hookimpl(tryfirst=True)
        def pytest_configure(config: pytest.Config) -> None:
            config.pluginmanager.register(controller, controller_name)

    # What pytest itself prints goes to a log: the terminal is for progress and for the verdict.
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        with contextlib.redirect_stderr(complaint):
            code = int(pytest.main(arguments, plugins=[_Register()]))
        file.write(complaint.getvalue())
    return _Outcome(code, complaint.getvalue())


def judge(
    judging: Judging,
    observe: Callable[[set[str]], None] | None,
    expression: str | None,
    workers: int,
    *,
    started: datetime,
    display: Display,
    defects: tuple[str, ...],
    reports: Path | None = None,
    allure: bool = True,
) -> Run:
    """
    Judge, after ``observe`` was called with the names of the workloads that the selection reads (None: what is there is
    judged), and write the reports, those of ``allure`` only when asked for, into ``reports`` or beside the evidence.
    Raises SuiteError when there is nothing to report.
    """
    controller = plugin.Controller(judging, observe)
    out = reports or judging.out
    options = [f"--alluredir={out / 'allure-results'}"] if allure else []
    if expression:
        options += ["-k", expression]
    if workers:
        options += ["-n", str(workers)]
    outcome = _run_pytest(controller, options, out / "pytest.log")
    if controller.trouble is not None:
        raise controller.trouble
    interrupted = outcome.code == pytest.ExitCode.INTERRUPTED
    if outcome.code == pytest.ExitCode.INTERNAL_ERROR and not controller.results:
        raise TargetError("the suite broke while judging", f"this is a bug in the suite; see {out / 'pytest.log'}")
    results = controller.complete()
    full = expression is None and not interrupted
    claimed = verdict.claim(results, [node.name for node in judging.nodes], full=full)
    code = verdict.EXIT_INTERRUPTED if interrupted else verdict.EXIT_CODES[claimed]
    run = Run(
        suite_version=conformance.__version__,
        catalogue_digest=plugin.pages().digest(),
        run_id=judging.run_id,
        started=started,
        ended=datetime.now(UTC),
        cluster=judging.cluster,
        nodes=judging.nodes,
        node_subjects=_subjects(judging),
        selection=Selection(full=full, expression=expression),
        claim=Claim(claimed),
        exit_code=code,
        results=tuple(results),
        defects=defects,
        requirements=plugin.pages().requirements,
        out=out,
        evidence=judging.out,
    )
    # Judging is done: what is reported now is the verdict, and it is reported whole.
    before = signal.signal(signal.SIGINT, lambda *_: display.say("the verdict is there; writing the reports"))
    try:
        write_all(run, display.say, allure=allure)
    finally:
        signal.signal(signal.SIGINT, before)
    return run


def _subjects(judging: Judging) -> dict[str, dict[str, Any]]:
    """
    What the facts workload read on each node (shim, digests, build), and the images that were pulled there. Missing
    where it was not observed.
    """
    subjects: dict[str, dict[str, Any]] = {}
    for node in judging.nodes:
        with contextlib.suppress(SuiteError):
            facts = evidence.load(judging, workload.load("node-facts"), node)
            (probe,) = facts.data["steps"][0]["probe"].values()
            subjects[node.name] = dict(probe or {})
        with contextlib.suppress(SuiteError):
            residue = evidence.load(judging, workload.load(RESIDUE), node)
            pod = residue.data["steps"][0]["kubernetes"]["pod"]
            pulled = {one["image"]: one.get("imageID") for one in pod["status"]["containerStatuses"]}
            subjects.setdefault(node.name, {})["images"] = pulled
    return subjects
