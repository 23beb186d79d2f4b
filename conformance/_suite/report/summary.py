"""
``summary.md`` for who decides about a release: the claim first, then the nodes, what failed, what is not proven.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from conformance._suite.files import write_text
from conformance._suite.report.verdict import utc
from conformance._suite.report.wording import (
    SIMULATED,
    claim_sentence,
    comparison,
    counts,
    escaped,
    exit_meaning,
    explains,
    headline,
    judge_again,
    listed,
    one_line,
    place,
    runtime,
)
from conformance._suite.requirement import Level
from conformance._suite.result import CLUSTER, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conformance._suite.report.verdict import Run
    from conformance._suite.result import Result

NAME = "summary.md"
_STEP_LIMIT = 1_000_000
"""GitHub refuses a step's summary of more than 1 MiB."""
_EACH = 50
"""How many failures are written out; the list of all results has every one."""


def write(run: Run) -> Path:
    """
    Write ``summary.md`` into the output folder, append it to ``$GITHUB_STEP_SUMMARY`` when that is set, and return its
    path.
    """
    short, every = _summary(run), _every_result(run)
    path = run.out / NAME
    write_text(path, f"{short}\n{every}")
    if step := os.environ.get("GITHUB_STEP_SUMMARY"):
        whole = f"{short}\n{every}".encode("utf-8", "backslashreplace")
        if len(whole) > _STEP_LIMIT:
            whole = short.encode("utf-8", "backslashreplace")[:_STEP_LIMIT]
        with Path(step).open("ab") as file:
            file.write(whole + b"\n")
    return path


def _summary(run: Run) -> str:
    parts = [
        f"# HostProcess conformance: {headline(run)}",
        *([f"> **{SIMULATED}**"] if run.cluster.simulated else []),
        f"**{escaped(claim_sentence(run))}** ({exit_meaning(run)})",
        *_silent(run),
        *_causes(run),
        _facts(run),
        "## Nodes",
        _nodes(run),
        *_known(run),
        "## Results",
        _counts(run),
        *_differing(run),
        *_unproven(run),
        *_not_applicable(run),
        *_observed(run),
        "## Judge it again",
        "The evidence is kept beside this file; the same verdicts follow from it without a cluster:",
        f"```sh\n{judge_again(run)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _silent(run: Run) -> list[str]:
    return [
        f"**No container at all started on {escaped(node)}:** {escaped(one_line(words))}"
        for node, words in run.silent.items()
    ]


def _causes(run: Run) -> list[str]:
    lines = [
        f"- **{escaped(listed([node or CLUSTER for node in found]))}**: {escaped(f'{hint.cause} {hint.remedy}')} "
        f"({', '.join(f'<{link}>' for link in hint.see)}, {hint.sure}; {explains(found.values())})"
        for hint, found in run.likely_causes()
    ]
    return ["## Likely causes", "\n".join(lines)] if lines else []


def _known(run: Run) -> list[str]:
    lines = [
        f"- {escaped(listed(nodes))}: {escaped(one.says)} ({', '.join(f'<{link}>' for link in one.see)})"
        for one, nodes in run.known_of_versions()
    ]
    return ["Known of these versions, whatever was seen:", "\n".join(lines)] if lines else []


def _facts(run: Run) -> str:
    selection = "everything" if run.selection.full else f"only `{run.selection.expression or 'a part'}`"
    rows = [
        ("Target", f"{run.cluster.target}, Kubernetes {run.cluster.server_version}"),
        ("Run", f"`{run.run_id}`, {utc(run.started)} to {utc(run.ended)}"),
        ("Suite", f"{run.suite_version}, catalogue `{run.catalogue_digest}`"),
        ("Judged", selection),
    ]
    if run.cluster.left_out:
        rows.append(("Nodes left out", "; ".join(escaped(line) for line in run.cluster.left_out)))
    if run.cluster.untested:
        untested = (f"{escaped(name)} ({escaped(reason)})" for name, reason in run.cluster.untested.items())
        rows.append(("**Nodes not tested**", "; ".join(untested)))
    rows += [("Note", escaped(note)) for note in run.notes]
    if run.defects:
        rows.append(("Simulated defects", ", ".join(f"`{name}`" for name in run.defects)))
    return _table(("", ""), rows)


def _nodes(run: Run) -> str:
    rows = []
    for node in run.nodes:
        subject = run.node_subjects.get(node.name, {})
        read = ", ".join(f"{key} {value}" for key, value in subject.items() if isinstance(value, str | int))
        row = (node.name, runtime(node), node.kubelet, f"{node.os_image} {node.kernel}")
        rows.append([escaped(one_line(text, 300)) for text in (*row, read)])
    return _table(("Node", "Runtime", "Kubelet", "Windows", "Read on the node"), rows)


def _counts(run: Run) -> str:
    areas = sorted({result.requirement.split("/")[0] for result in run.results})
    cells = defaultdict(list)
    for result in run.results:
        cells[place(result), result.requirement.split("/")[0]].append(result)
    rows = [
        [escaped(name), *(_cell(cells[name, area]) for area in areas)]
        for name in (one or CLUSTER for one in run.places)
    ]
    legend = "Conformant of those that apply, `must` and `should` together."
    return f"{legend}\n\n{_table(('', *areas), rows)}"


def _cell(results: Sequence[Result]) -> str:
    found = counts(results)
    applicable = found.total() - found[Verdict.NOT_APPLICABLE]
    if not applicable:
        return "–"
    said = [f"{found[Verdict.CONFORMANT]} of {applicable}"]
    said += [
        f"**{found[verdict]} {verdict}**" for verdict in (Verdict.NON_CONFORMANT, Verdict.NOT_PROVEN) if found[verdict]
    ]
    return "<br>".join(said)


def _differing(run: Run) -> list[str]:
    parts = []
    for level, title in ((Level.MUST, "Non-conformant"), (Level.SHOULD, "Non-conformant, but only a should")):
        found = [one for one in run.results if one.level is level and one.verdict is Verdict.NON_CONFORMANT]
        if not found:
            continue
        parts.append(f"## {title}")
        parts += [_failure(run, result) for result in found[:_EACH]]
        if len(found) > _EACH:
            parts.append(f"… and {len(found) - _EACH} more: see the list of all results.")
    return parts


def _failure(run: Run, result: Result) -> str:
    lines = [
        f"### {escaped(one_line(run.sentence(result), 300))}",
        "",
        f"- on **{escaped(place(result))}**, `{result.requirement}`, [documented here]({run.source(result)})",
        f"- {escaped(one_line(result.reason))}",
        *([f"- likely cause: {escaped(cause)}"] if (cause := run.likely_cause(result)) else []),
        *(f"- evidence: `{one.path}`" for one in result.evidence),
    ]
    for name, text in comparison(result):
        if "\n" in text or "`" in text:
            lines += [f"- {name}:", "", _fenced(text)]
        else:
            lines.append(f"- {name}: `` {text} ``")
    return "\n".join(lines)


def _unproven(run: Run) -> list[str]:
    groups = defaultdict(list)
    for result in run.results:
        if result.verdict is Verdict.NOT_PROVEN:
            why = escaped(one_line(result.reason) or result.reason_code)
            cause = run.likely_cause(result)
            groups[f"{why}<br>likely cause: {escaped(cause)}" if cause else why].append(result)
    if not groups:
        return []
    rows = [
        (reason, len(found), _named(one.requirement for one in found), _named(place(one) for one in found))
        for reason, found in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    return ["## Not proven", _table(("Why", "How many", "Requirements", "Where"), rows)]


def _not_applicable(run: Run) -> list[str]:
    groups = defaultdict(list)
    for result in run.results:
        if result.verdict is Verdict.NOT_APPLICABLE:
            groups[one_line(result.reason)].append(result)
    rows = [
        (escaped(reason), len(found), _named(one.requirement for one in found), _named(place(one) for one in found))
        for reason, found in sorted(groups.items())
    ]
    return ["## Not applicable", _table(("Why", "How many", "Requirements", "Where"), rows)] if rows else []


def _observed(run: Run) -> list[str]:
    rows = [
        (f"`{one.requirement}`", escaped(place(one)), escaped(one_line(one.reason)))
        for one in run.results
        if one.level is Level.OBSERVED and one.verdict is Verdict.CONFORMANT
    ]
    return ["## Observed, not judged", _table(("Behaviour", "Where", "Seen"), rows)] if rows else []


def _every_result(run: Run) -> str:
    rows = [(f"`{one.requirement}`", escaped(place(one)), one.level, one.verdict) for one in run.results]
    table = _table(("Requirement", "Where", "Level", "Verdict"), rows)
    return f"<details><summary>All {len(rows)} results</summary>\n\n{table}\n\n</details>\n"


def _named(names: Iterable[str]) -> str:
    distinct = sorted(set(names))
    return ", ".join(f"`{name}`" for name in distinct[:10]) + _more(distinct[10:])


def _more(names: Sequence[str]) -> str:
    return f" and {len(names)} more" if names else ""


def _table(titles: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}diff\n{text}\n{fence}"
