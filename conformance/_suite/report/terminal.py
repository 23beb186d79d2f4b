"""
What the user sees at the end of a run: a table, what failed, what is not proven, and the claim last.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from conformance._suite.report.wording import (
    SIMULATED,
    claim_sentence,
    comparison,
    counts,
    exit_meaning,
    explains,
    headline,
    listed,
    one_line,
    place,
    printable,
)
from conformance._suite.requirement import Level
from conformance._suite.result import CLUSTER, Claim, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance._suite.report.verdict import Run
    from conformance._suite.result import Result

_EACH = 20
"""How many failures are written out; the reports have all."""
_LINE = 400
"""Characters of one reason, or of one line of a comparison."""
_COLOURS = {
    Verdict.NON_CONFORMANT: "bold red",
    Verdict.NOT_PROVEN: "yellow",
    Verdict.CONFORMANT: "green",
    Verdict.NOT_APPLICABLE: "dim",
}
_CLAIM_COLOURS = {Claim.SUCCESS: "bold green", Claim.FAILURE: "bold red", Claim.PARTIAL: "bold yellow"}


def table(run: Run, console: Console | None = None) -> None:
    """
    Print the outcome of a run. Without a terminal: plain lines, nothing wrapped; ``NO_COLOR`` is honoured.
    """
    console = console or Console(highlight=False)
    printer = _Printer(console)
    printer.gap()
    if console.is_terminal:
        console.print(_table(run, console.width), soft_wrap=False)
    else:
        for line in _lines(run):
            printer.line(line)
    _silent(run, printer)
    _causes(run, printer)
    _differing(run, printer)
    _unproven(run, printer)
    _known(run, printer)
    printer.gap()
    page = run.out / "allure-report" / "index.html"
    printer.line(f"report: {page if page.is_file() else run.out / 'summary.md'}")
    for note in run.notes:
        printer.line(f"Note: {note}", "yellow")
    if run.cluster.simulated:
        printer.line(SIMULATED, "yellow")
    if run.defects:
        printer.line(f"Simulated defects switched on: {', '.join(run.defects)}", "yellow")
    printer.line(f"{headline(run)}: {claim_sentence(run)}", _CLAIM_COLOURS[run.claim])
    printer.line(exit_meaning(run), _CLAIM_COLOURS[run.claim])


class _Printer:
    """
    Prints text of any origin as text: no markup, no control characters, no cut lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def gap(self) -> None:
        self._console.print()

    def line(self, text: str, style: str = "", indent: int = 0) -> None:
        shown = Text(printable(text), style=style)
        if self._console.is_terminal:
            self._console.print(Padding(shown, (0, 0, 0, indent)), soft_wrap=False)
        else:
            prefix = " " * indent
            self._console.print(Text("\n".join(prefix + one for one in shown.plain.split("\n"))), soft_wrap=True)


def _silent(run: Run, printer: _Printer) -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    for node, words in run.silent.items():
        groups[one_line(words, _LINE)].append(node)
    if groups:
        printer.gap()
    for words, nodes in groups.items():
        printer.line(f"No container at all started on {listed(nodes)}: {words}", "bold red")


def _causes(run: Run, printer: _Printer) -> None:
    causes = run.likely_causes()
    if not causes:
        return
    printer.gap()
    printer.line(f"Likely causes: {len(causes)}", "bold")
    for hint, found in causes:
        printer.line(f"{listed([node or CLUSTER for node in found])}: {hint.cause}", indent=2)
        printer.line(hint.remedy, indent=4)
        printer.line(f"{hint.see[0]} ({hint.sure})", indent=4)
        printer.line(explains(found.values()), indent=4)


def _known(run: Run, printer: _Printer) -> None:
    known = run.known_of_versions()
    if not known or run.claim is Claim.SUCCESS:
        return
    printer.gap()
    printer.line("Known of these versions, whatever was seen", "bold")
    for one, nodes in known:
        printer.line(f"{listed(nodes)}: {one.says}", indent=2)
        printer.line(one.see[0], indent=4)


def _differing(run: Run, printer: _Printer) -> None:
    for level, title in ((Level.MUST, "Non-conformant"), (Level.SHOULD, "Non-conformant, but only a should")):
        found = [one for one in run.results if one.level is level and one.verdict is Verdict.NON_CONFORMANT]
        if not found:
            continue
        printer.gap()
        printer.line(f"{title}: {len(found)}", "bold red" if level is Level.MUST else "bold yellow")
        for result in found[:_EACH]:
            printer.gap()
            printer.line(run.sentence(result), "bold", 2)
            printer.line(f"{result.requirement} on {place(result)}", indent=4)
            printer.line(f"documented at {run.source(result)}", indent=4)
            sides = comparison(result, _LINE)
            if not sides:
                printer.line(one_line(result.reason, _LINE), indent=4)
            for name, text in sides:
                if "\n" in text:
                    printer.line(f"{name}:", indent=4)
                    printer.line(text, indent=6)
                else:
                    printer.line(f"{name + ':':<9} {text}", indent=4)
            if cause := run.likely_cause(result):
                printer.line(f"likely cause: {cause}", indent=4)
            for one in result.evidence:
                printer.line(f"evidence: {run.evidence_path(one.path)}", indent=4)
        if len(found) > _EACH:
            printer.line(f"… and {len(found) - _EACH} more in summary.md", indent=2)


def _unproven(run: Run, printer: _Printer) -> None:
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in run.results:
        if result.verdict is Verdict.NOT_PROVEN and result.reason_code != "not-selected":
            why = one_line(result.reason, _LINE) or result.reason_code
            groups[why, run.likely_cause(result)].append(result)
    if not groups:
        return
    printer.gap()
    printer.line(f"Not proven: {sum(len(found) for found in groups.values())}", "bold yellow")
    for (reason, cause), found in sorted(groups.items(), key=lambda item: -len(item[1])):
        printer.line(reason, "yellow", 2)
        if cause:
            printer.line(f"likely cause: {cause}", indent=4)
        shown = [f"{one.requirement} on {place(one)}" for one in found[:5]]
        for line in [*shown, *([f"and {len(found) - 5} more"] if len(found) > 5 else [])]:
            printer.line(line, indent=4)


def _table(run: Run, width: int) -> Table:
    """
    Areas down and nodes across where that fits, otherwise one line a node with its totals.
    """
    cells = _cells(run)
    names = [name or CLUSTER for name in run.places]
    areas = sorted({area for _, area in cells})
    shown = Table(show_edge=False, pad_edge=False)
    if max(map(len, [*areas, "area"])) + sum(max(len(name), 16) + 3 for name in names) <= width:
        shown.add_column("area", no_wrap=True)
        for name in names:
            shown.add_column(Text(printable(name)), no_wrap=True)
        for area in areas:
            shown.add_row(area, *(_coloured(cells.get((name, area), [])) for name in names))
        return shown
    shown.add_column("node", overflow="fold")
    shown.add_column("conformant", overflow="fold")
    results: dict[str, list[Result]] = defaultdict(list)
    for result in run.results:
        results[place(result)].append(result)
    for name in names:
        shown.add_row(Text(printable(name)), _coloured(results[name]))
    return shown


def _lines(run: Run) -> list[str]:
    cells = _cells(run)
    areas = sorted({area for _, area in cells})
    wide = max((len(area) for area in areas), default=0)
    return [
        f"{area:<{wide}}  {name}  {', '.join(text for text, _ in _said(cells[name, area]))}"
        for name in (one or CLUSTER for one in run.places)
        for area in areas
        if (name, area) in cells
    ]


def _cells(run: Run) -> dict[tuple[str, str], list[Result]]:
    cells: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in run.results:
        if result.reason_code != "not-selected":
            cells[place(result), result.requirement.split("/")[0]].append(result)
    return dict(cells)


def _coloured(results: Sequence[Result]) -> Text:
    return Text("\n").join(Text(text, style=_COLOURS[verdict]) for text, verdict in _said(results))


def _said(results: Sequence[Result]) -> list[tuple[str, Verdict]]:
    """
    What one cell says, line by line: how many of those that apply are conformant, and what the others are.
    """
    found = counts(results)
    applicable = found.total() - found[Verdict.NOT_APPLICABLE]
    if not applicable:
        return [("not applicable" if found else "observed" if results else "", Verdict.NOT_APPLICABLE)]
    bad = [verdict for verdict in (Verdict.NON_CONFORMANT, Verdict.NOT_PROVEN) if found[verdict]]
    first = f"{found[Verdict.CONFORMANT]} of {applicable}"
    return [(first, bad[0] if bad else Verdict.CONFORMANT), *((f"{found[one]} {one}", one) for one in bad)]
