"""
``nox -s judge``: judge kept evidence again, without a cluster.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance._suite.cli.asked import output_folder
from conformance._suite.cli.display import Display
from conformance._suite.cli.interrupts import deferred
from conformance._suite.cli.options import Parser, add_reports
from conformance._suite.errors import UsageError
from conformance._suite.judge import pytest_run
from conformance._suite.judging import Judging, of_kind
from conformance._suite.redact import redact_json
from conformance._suite.report import verdict as report
from conformance._suite.report import write_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
        content = (options.folder / "run.json").read_bytes()
        kept = json.loads(content)
        judging = Judging.from_data(kept["judging"])
        expression = of_kind(str | None, kept.get("expression"))
        defects = of_kind(tuple[str, ...], kept.get("defects", []))
        if expression is not None:
            pytest_run.require_readable(expression)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(
            f"{options.folder} is not the output folder of a run: no run.json that can be read",
            "name a folder below artifacts/",
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    digests = _reported(options.folder, kept, judging, digest)
    rejudged = replace(judging, out=options.folder.resolve(), same_digest=False, digests=digests, run_digest=digest)
    started = datetime.now(UTC)
    out = output_folder(options.out or options.folder / f"judged-{started:%Y%m%dT%H%M%SZ}", "")
    display = Display()
    selected = pytest_run.select(rejudged, expression)
    run = pytest_run.judge(rejudged, selected, out, started=started, defects=defects, allure=options.allure)
    with deferred(lambda: display.say("the verdict is there; writing the reports")):
        write_all(run, display.say, allure=options.allure)
    display.verdict(run)
    return run.exit_code


def _reported(folder: Path, kept: Mapping[str, Any], judging: Judging, digest: str) -> dict[str, str] | None:
    """
    The sums of the evidence that the report in this folder was made from; None where there is no report. Raises
    UsageError when the report cannot be read, or was not made from ``kept``, what ``run.json`` says, whose sum is
    ``digest``.
    """
    path = folder / report.NAME
    if not path.exists():
        return None
    theirs = report.load(path)
    said = report.about(judging.run_id, judging.cluster, judging.nodes, kept.get("defects", []))
    mine = json.loads(json.dumps(redact_json({**said, "expression": kept.get("expression")})))
    # What an earlier suite did not find out is not in its run.json either.
    earlier = {"statedContainerd": None, "machineID": ""}
    try:
        theirs = {"untested": [], **theirs, "expression": theirs["selection"]["expression"]}
        theirs["nodes"] = [{"name": node["name"], "facts": {**earlier, **node["facts"]}} for node in theirs["nodes"]]
        sums = {one["path"]: one["sha256"] for result in theirs["results"] for one in result["evidence"]}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is not whole: {error!r}", "judge a folder as its run left it") from error
    differing = [name for name, value in mine.items() if theirs[name] != value]
    unsummed = "" if "run_digest" in kept["judging"] else digest
    if not differing and theirs.get("runDigest", unsummed) != digest:
        differing = ["SHA-256"]
    if differing:
        raise UsageError(
            f"{folder}/run.json and its {report.NAME} are not of one run: they differ in {', '.join(differing)}",
            "judge a folder as its run left it",
        )
    return sums
