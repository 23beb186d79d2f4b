"""
What a run leaves behind: ``verdict.json``, and every other report made from the same values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance._suite.report import junit, summary, verdict
from conformance._suite.report.allure import complete, generate
from conformance._suite.report.wording import headline
from conformance._suite.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance._suite.report.verdict import Run
    from conformance._suite.say import Say


def write_all(run: Run, say: Say, timings: Timings | None = None, *, allure: bool = True) -> None:
    """
    Write every report into ``run.out``: ``verdict.json`` first, then ``junit.xml``, ``summary.md``, and with ``allure``
    also ``allure-results/`` and ``allure-report/index.html``.

    Each fails alone, with one line; the claim and the exit code do not depend on any of them. How long
    each took goes into ``timings``.
    """
    timings = timings or Timings()
    outputs: tuple[tuple[str, Callable[[], object]], ...] = (
        (verdict.NAME, lambda: verdict.write(run)),
        (junit.NAME, lambda: junit.write(run)),
        (summary.NAME, lambda: summary.write(run)),
        *([("allure-report", lambda: _allure(run, say))] if allure else []),
    )
    for name, output in outputs:
        try:
            with timings.phase(name):
                output()
        except Exception as error:  # noqa: BLE001 - one report that cannot be written must not take the others along
            say(f"{name} could not be written: {type(error).__name__}: {error}")


def _allure(run: Run, say: Say) -> None:
    results, page = run.out / "allure-results", run.out / "allure-report" / "index.html"
    complete(results, run)
    about_all = (run.out / summary.NAME, run.out / verdict.NAME)
    generate(results, page, f"HostProcess conformance — {headline(run)}", say, about_all)
