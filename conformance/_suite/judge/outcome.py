"""
What one check found, as a result: its verdict, and the words that say why.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from conformance._suite import evidence, verdict, workload
from conformance._suite.errors import Unknown
from conformance._suite.facts import Scope
from conformance._suite.redact import redact
from conformance._suite.requirement import Level
from conformance._suite.result import EvidenceReference, Result, Verdict
from conformance._suite.words import plain, shortened

if TYPE_CHECKING:
    from conformance._suite.judging import Judging
    from conformance._suite.requirement import Check

Compared = tuple[str, object, object]
"""A comparison that failed: its operator, what was seen, what was expected."""


def not_applicable(check: Check, node: str | None, excluded: str) -> Result:
    """
    The result of a requirement whose versions leave the node (or the cluster, None) out.
    """
    requirement = check.requirement
    return Result(requirement.id, node, requirement.level, Verdict.NOT_APPLICABLE, "version", excluded)


def result_of(  # noqa: PLR0917
    judging: Judging,
    check: Check,
    node: str | None,
    phase: str,
    error: BaseException | None,
    stated: str | None,
    compared: Compared | None,
) -> Result:
    """
    The result of a check that ended in pytest's ``phase`` with ``error``, or without one; ``stated`` is what it said it
    saw, ``compared`` the comparison that failed last.
    """
    requirement = check.requirement
    found, code = verdict.of_outcome(phase, error)
    expected = seen = None
    reason = stated or "as documented"
    if error is not None:
        reason = _first_paragraph(error)
    if found is Verdict.NON_CONFORMANT and compared:
        operator, left, right = compared
        seen, expected = plain(_shown(left)), ("" if operator == "==" else f"{operator} ") + _shown(right)
        reason = _claim_of(error) or _difference(seen, expected)
    if requirement.level is Level.OBSERVED and found is Verdict.NON_CONFORMANT:
        # Observed behaviour is shown, never judged: a check of this level has no business asserting.
        found, code = Verdict.NOT_PROVEN, "observed-asserts"
    return Result(
        requirement.id,
        node,
        requirement.level,
        found,
        code,
        redact(reason),
        redact(expected) if expected is not None else None,
        redact(seen) if seen is not None else None,
        references(judging, check, node),
    )


def _first_paragraph(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, (AssertionError, Unknown)):
        text = f"{type(error).__name__}: {text}"
    return shortened(plain(text).split("\n\n")[0], 2000)


def _claim_of(error: BaseException | None) -> str | None:
    """
    The message that the check's author gave the assertion, without pytest's explanation of the comparison.
    """
    message = str(error or "").split("\nassert ")[0].strip()
    return None if message.startswith("assert ") or not message else shortened(plain(message), 2000)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    except (TypeError, ValueError):
        return repr(value)


def _difference(seen: str, expected: str) -> str:
    if len(seen) + len(expected) > 200:
        return "what was seen is not what is documented"
    return f"seen {seen}, expected {expected}"


def references(judging: Judging, check: Check, node: str | None) -> tuple[EvidenceReference, ...]:
    """
    The evidence that there is of what a check reads.
    """
    found = []
    for name in check.reads:
        owner = node if workload.load(name).scope is Scope.NODE else None
        path = evidence.relative_path(name, owner)
        if (judging.out / path).is_file():
            found.append(EvidenceReference(path.as_posix(), evidence.digest(judging.out / path)))
    return tuple(found)


def result_to_json(result: Result) -> str:
    """
    A result as text, to travel from a worker.
    """
    return json.dumps(asdict(result))


def result_from_json(text: str) -> Result:
    """
    The inverse of ``result_to_json``.
    """
    data = json.loads(text)
    return Result(
        **{
            **data,
            "level": Level(data["level"]),
            "verdict": Verdict(data["verdict"]),
            "evidence": tuple(EvidenceReference(**reference) for reference in data["evidence"]),
        }
    )
