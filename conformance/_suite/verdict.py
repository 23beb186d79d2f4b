"""
One rule from outcome to verdict, one rule to merge, one claim, one exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance._suite.errors import Unknown
from conformance._suite.requirement import Level
from conformance._suite.result import Claim, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conformance._suite.result import Result

EXIT_CODES = {Claim.SUCCESS: 0, Claim.FAILURE: 1, Claim.PARTIAL: 4}
EXIT_USAGE = 2
EXIT_TARGET = 3
EXIT_INTERRUPTED = 130

EXIT_MEANING = {
    0: "success",
    1: "failure: something is non-conformant",
    2: "usage or configuration",
    3: "the target cannot be tested: no Windows node, no access, missing rights, no image",
    4: "partial: nothing is non-conformant, something is not proven",
    130: "interrupted; cleaned up",
}


def of_outcome(phase: str, error: BaseException | None) -> tuple[Verdict, str]:
    """
    The verdict and its reason code for a check that ended in ``phase`` (setup, call, teardown) with ``error``.

    Only an assertion in the body of a check is a non-conformance. Everything else that goes wrong is the suite's or
    the world's trouble, and proves nothing.
    """
    if error is None:
        return Verdict.CONFORMANT, "as-documented"
    if phase == "call" and isinstance(error, (AssertionError, pytest.fail.Exception)):
        return Verdict.NON_CONFORMANT, "differs"
    if isinstance(error, Unknown):
        return Verdict.NOT_PROVEN, error.code
    if isinstance(error, pytest.skip.Exception):
        return Verdict.NOT_PROVEN, "skipped"
    return Verdict.NOT_PROVEN, "check-broken"


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """
    The worst of them; of none, not-proven.
    """
    order = list(Verdict)
    return min(verdicts, key=order.index, default=Verdict.NOT_PROVEN)


def claim(results: Sequence[Result], nodes: Sequence[str], *, full: bool) -> Claim:
    """
    What the run claims. ``nodes`` are the names of the nodes under test; ``full`` is False when the user selected less
    than everything that applies, which is partial at best.
    """
    musts = [result for result in results if result.level is Level.MUST]
    if any(result.verdict is Verdict.NON_CONFORMANT for result in musts):
        return Claim.FAILURE
    shown = {result.node for result in musts if result.verdict is Verdict.CONFORMANT and result.node is not None}
    unproven = any(result.verdict is Verdict.NOT_PROVEN for result in musts)
    if not full or not nodes or not shown >= set(nodes) or unproven:
        return Claim.PARTIAL
    return Claim.SUCCESS
