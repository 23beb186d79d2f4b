"""
``nox -s judge``: judge kept evidence again, without a cluster.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from conformance._suite.cli.asked import output_folder
from conformance._suite.cli.display import Display
from conformance._suite.cli.interrupts import deferred
from conformance._suite.cli.options import Parser, add_reports
from conformance._suite.errors import UsageError
from conformance._suite.judge import pytest_run
from conformance._suite.judging import Judging
from conformance._suite.report import verdict as report
from conformance._suite.report import write_all

if TYPE_CHECKING:
    from collections.abc import Sequence


def judge(arguments: Sequence[str]) -> int:
    """
    Judge the folder of a run, and write new reports. Returns the exit code.
    """
    parser = Parser("judge", "Judge kept evidence again, without a cluster.")
    parser.add_argument("folder", type=Path, help="an output folder of an earlier run")
    parser.add_argument("--out", type=Path, help="where the new reports go (default: FOLDER/judged-<time>)")
    add_reports(parser)
    options = parser.parse(arguments)
    try:
        kept = json.loads((options.folder / "run.json").read_text(encoding="utf-8"))
        judging = Judging.from_data(kept["judging"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{options.folder} is not the output folder of a run: no run.json that can be read",
            "name a folder below artifacts/",
        ) from error
    started = datetime.now(UTC)
    out = output_folder(options.out or options.folder / f"judged-{started:%Y%m%dT%H%M%SZ}", "")
    display = Display()
    rejudged = replace(judging, out=options.folder.resolve(), same_digest=False, digests=_reported(options.folder))
    selected = pytest_run.select(rejudged, kept.get("expression"))
    run = pytest_run.judge(
        rejudged, selected, out, started=started, defects=tuple(kept.get("defects", ())), allure=options.allure
    )
    with deferred(lambda: display.say("the verdict is there; writing the reports")):
        write_all(run, display.say, allure=options.allure)
    display.verdict(run)
    return run.exit_code


def _reported(folder: Path) -> dict[str, str]:
    """
    The sums of the evidence that the report in this folder was made from; nothing where there is no report.
    """
    try:
        document = report.load(folder / report.NAME)
    except UsageError:
        return {}
    return {one["path"]: one["sha256"] for result in document["results"] for one in result["evidence"]}
