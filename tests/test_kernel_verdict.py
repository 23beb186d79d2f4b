"""
The verdict algebra, by table.
"""

from __future__ import annotations

import pytest

from conformance._suite import verdict
from conformance._suite.errors import Unknown
from conformance._suite.requirement import Level
from conformance._suite.result import Claim, Result, Verdict

RED, OPEN, GREEN, NONE = Verdict.NON_CONFORMANT, Verdict.NOT_PROVEN, Verdict.CONFORMANT, Verdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("phase", "error", "expected"),
    [
        ("call", None, GREEN),
        ("call", AssertionError("seen 1"), RED),
        ("call", pytest.fail.Exception("no"), RED),
        ("setup", AssertionError("a fixture asserts"), OPEN),
        ("teardown", AssertionError("a fixture asserts"), OPEN),
        ("call", Unknown("no answer", "deadline"), OPEN),
        ("setup", Unknown("no evidence", "not-observed"), OPEN),
        ("call", KeyError("x"), OPEN),
        ("call", pytest.skip.Exception("the user skips"), OPEN),
        ("call", KeyboardInterrupt(), OPEN),
    ],
)
def test_outcome(phase: str, error: BaseException | None, expected: Verdict) -> None:
    assert verdict.of_outcome(phase, error)[0] is expected


def test_the_reason_code_of_an_unknown_fact_is_its_own() -> None:
    assert verdict.of_outcome("call", Unknown("late", "deadline")) == (OPEN, "deadline")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([GREEN, RED, OPEN, NONE], RED),
        ([GREEN, OPEN, NONE], OPEN),
        ([GREEN, NONE], GREEN),
        ([NONE], NONE),
        ([], OPEN),
    ],
)
def test_merge_takes_the_worst(verdicts: list[Verdict], expected: Verdict) -> None:
    assert verdict.merge(verdicts) is expected


def _result(node: str | None, found: Verdict, level: Level = Level.MUST) -> Result:
    return Result("area/topic/behaviour", node, level, found, "code", "reason")


@pytest.mark.parametrize(
    ("results", "nodes", "full", "expected"),
    [
        ([_result("a", GREEN)], ["a"], True, Claim.SUCCESS),
        ([_result("a", GREEN)], ["a"], False, Claim.PARTIAL),
        ([_result("a", GREEN), _result("b", RED)], ["a", "b"], True, Claim.FAILURE),
        ([_result("a", GREEN), _result("b", RED)], ["a", "b"], False, Claim.FAILURE),
        ([_result("a", GREEN), _result("b", OPEN)], ["a", "b"], True, Claim.PARTIAL),
        ([_result("a", GREEN), _result("b", NONE)], ["a", "b"], True, Claim.PARTIAL),
        ([_result("a", NONE)], ["a"], True, Claim.PARTIAL),
        ([_result(None, GREEN)], ["a"], True, Claim.PARTIAL),
        ([_result(None, GREEN)], [], True, Claim.PARTIAL),
        ([], ["a"], True, Claim.PARTIAL),
        ([_result("a", GREEN), _result("a", RED, Level.SHOULD)], ["a"], True, Claim.SUCCESS),
        ([_result("a", GREEN), _result("a", OPEN, Level.OBSERVED)], ["a"], True, Claim.SUCCESS),
        ([_result("a", GREEN), _result(None, OPEN)], ["a"], True, Claim.PARTIAL),
        ([_result("a", RED, Level.SHOULD)], ["a"], True, Claim.PARTIAL),
        ([_result("b", GREEN)], ["a"], True, Claim.PARTIAL),
        ([_result("a", GREEN), _result("b", GREEN)], ["a"], True, Claim.SUCCESS),
    ],
)
def test_claim(results: list[Result], nodes: list[str], full: bool, expected: Claim) -> None:
    assert verdict.claim(results, nodes, full=full) is expected


def test_exit_codes() -> None:
    assert {claim: verdict.EXIT_CODES[claim] for claim in Claim} == {
        Claim.SUCCESS: 0,
        Claim.FAILURE: 1,
        Claim.PARTIAL: 4,
    }
