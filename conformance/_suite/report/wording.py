"""
How the reports put things: the claim in one sentence, the two sides of a comparison, texts cut to a readable length.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from conformance._suite.requirement import Level
from conformance._suite.result import ABOUT_THE_RUN, CLUSTER, EVIDENCE_REPORTED, NODE_SHOWN, NODE_TESTED, Claim, Verdict
from conformance._suite.verdict import EXIT_INTERRUPTED, EXIT_MEANING
from conformance._suite.words import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conformance._suite.facts import NodeFacts
    from conformance._suite.report.verdict import Run
    from conformance._suite.result import Result

SIMULATED = "SIMULATED: the nodes were a model of Windows nodes. This tells about the suite, not about anyone's node."
LINES = 24
"""How many lines of a comparison are shown before it points to the evidence."""
WIDTH = 2000
"""How many characters of one text are shown."""

# What neither a terminal should obey nor XML may hold: controls but tab and newline, surrogates, non-characters, and
# what turns the direction of writing.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """
    The text without what a terminal would obey or XML refuses; each such character becomes ``\ufffd``.
    """
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str, width: int = WIDTH) -> str:
    """
    The text on one line, cut in its middle to ``width`` characters.
    """
    return shortened(" ".join(printable(text).split()), width)


def escaped(text: str) -> str:
    """
    A text for Markdown, in which nothing becomes markup: a table would break, a link or an image would be shown.
    """
    return re.sub(r"[\\`*_\[\]<>|#!&~]", lambda sign: f"&#{ord(sign[0])};", printable(text))


def place(result: Result) -> str:
    """
    The node that a result is about, or ``cluster``.
    """
    return result.node or CLUSTER


def cut(text: str, lines: int = LINES, width: int = WIDTH) -> str:
    """
    The first and the last lines and characters of a text, and between them how much is missing.
    """
    whole = printable(text).strip("\n")
    shown = whole.split("\n")
    if len(shown) <= lines and len(whole) <= width:
        return whole
    head = "\n".join(shown[: lines * 2 // 3])[: width * 2 // 3]
    tail = "\n".join(shown[-(lines // 3) :])[-(width // 3) :]
    return f"{head}\n… {len(whole) - len(head) - len(tail)} more characters: see the evidence\n{tail}"


def laid_out(text: str) -> str:
    """
    JSON one value a line, so that it can be read and compared; any other text as it is.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict | list) else text


def comparison(result: Result, width: int = WIDTH) -> list[tuple[str, str]]:
    """
    What was expected and what was seen, each with its heading; for long texts the difference of the two, line by line,
    no line longer than ``width`` characters. Empty where nothing was compared.
    """
    if result.expected is None or result.seen is None:
        sides = (("expected", result.expected), ("seen", result.seen))
        return [(name, cut(laid_out(text))) for name, text in sides if text is not None]
    if max(len(result.expected), len(result.seen)) <= 200 and "\n" not in result.expected + result.seen:
        return [("expected", printable(result.expected)), ("seen", printable(result.seen))]
    lines = difflib.unified_diff(
        laid_out(result.expected)[:50_000].splitlines(),
        laid_out(result.seen)[:50_000].splitlines(),
        n=2,
        lineterm="",
    )
    body = "\n".join(shortened(line, width) for line in list(lines)[2:])
    return [("difference (- expected, + seen)", cut(body))]


def counts(results: Iterable[Result]) -> Counter[Verdict]:
    """
    How many of the judged results (``observed`` ones are not) have which verdict.
    """
    return Counter(result.verdict for result in results if result.level is not Level.OBSERVED)


def explains(found: Iterable[Counter[Verdict]]) -> str:
    """
    How many rows a likely cause explains.
    """
    total = sum(found, Counter[Verdict]())
    counted = (f"{total[one]} {one}" for one in (Verdict.NON_CONFORMANT, Verdict.NOT_PROVEN) if total[one])
    return f"explains {' and '.join(counted)} {'row' if total.total() == 1 else 'rows'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """
    The first names, and how many more there are.
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def headline(run: Run) -> str:
    """
    The claim, and that it is a simulation's where it is one.
    """
    return f"{run.claim}{' (simulated)' if run.cluster.simulated else ''}"


def claim_sentence(run: Run) -> str:
    """
    What the claim means, in one or two plain sentences.
    """
    musts = [result for result in run.results if result.level is Level.MUST]
    wrong = [result for result in musts if result.verdict is Verdict.NON_CONFORMANT]
    unproven = [one for one in musts if one.verdict is Verdict.NOT_PROVEN and one.requirement not in ABOUT_THE_RUN]
    said = []
    if run.claim is Claim.SUCCESS:
        said.append(f"Every must that applies was seen to hold on {_nodes(run)}.")
    elif run.claim is Claim.FAILURE:
        where = listed(sorted({place(result) for result in wrong}))
        said.append(f"{_number(len(wrong), 'must does', 'musts do')} not hold, on {where}.")
        if unproven:
            said.append(f"{_number(len(unproven), 'more was', 'more were')} not proven.")
    elif unproven:
        missing = _number(len(unproven), "must was", "musts were")
        said.append(f"Nothing binding was seen to fail, but {missing} not proven.")
    else:
        said.append("Nothing binding was seen to fail, but not every node has shown that it holds.")
    if untested := [place(result) for result in musts if result.requirement == NODE_TESTED]:
        were = _number(len(untested), "Windows node was", "Windows nodes were")
        said.append(f"{were} not tested: {listed(untested)}.")
    if any(result.requirement == EVIDENCE_REPORTED for result in musts):
        said.append("No report vouches for the evidence that was judged again.")
    if silent := [place(result) for result in musts if result.requirement == NODE_SHOWN]:
        said.append(f"Nothing binding applies to {listed(silent)}.")
    if run.exit_code == EXIT_INTERRUPTED:
        said.append("The run was interrupted.")
    elif not run.selection.full:
        said.append(f"Only a selection was judged: {run.selection.expression or 'a part'}.")
    shoulds = sum(result.level is Level.SHOULD and result.verdict is Verdict.NON_CONFORMANT for result in run.results)
    if shoulds:
        said.append(f"{_number(shoulds, 'should does', 'shoulds do')} not hold, which does not change the claim.")
    return " ".join(said)


def exit_meaning(run: Run) -> str:
    """
    The exit code with its meaning.
    """
    return f"exit {run.exit_code}: {EXIT_MEANING.get(run.exit_code, 'undocumented')}"


def runtime(node: NodeFacts) -> str:
    """
    The container runtime with its version, and who says so where the node itself does not.
    """
    reported = node.container_runtime.replace("://", " ")
    return f"{reported} ({node.stated_containerd} as stated by the user)" if node.stated_containerd else reported


def node_line(node: NodeFacts) -> str:
    """
    What a node is, in one line.
    """
    return f"{runtime(node)}, Windows {node.kernel} ({node.os_image}), kubelet {node.kubelet}"


def judge_again(run: Run) -> str:
    """
    The command that judges the same evidence again.
    """
    return f"nox -s judge -- {run.evidence or run.out}"


def _nodes(run: Run) -> str:
    return f"the node {run.nodes[0].name}" if len(run.nodes) == 1 else f"all {len(run.nodes)} nodes"


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
