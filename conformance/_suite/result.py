"""
What judging says: one result for each requirement on each node, and the claim of the whole run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance._suite.requirement import Level

CLUSTER = "cluster"
"""What stands for the node in the reports, and in the name of a test, where a row is about the API server."""

NODE_TESTED = "run/nodes/tested"
NODE_SHOWN = "run/nodes/shown"
EVIDENCE_REPORTED = "run/evidence/reported"
ABOUT_THE_RUN = {
    NODE_TESTED: "Every Windows node that the user did not leave out is tested.",
    NODE_SHOWN: "Something that is binding was seen to hold on every node.",
    EVIDENCE_REPORTED: "Evidence that is judged again is what an earlier report was made from.",
}
"""What a run has to show besides the requirements. Where it does not, that is a result of its own, never conformant, so
that every report and the claim say the same of it."""


class Verdict(StrEnum):
    """
    What is known about one requirement on one node, worst first: merging takes the first one present.
    """

    NON_CONFORMANT = "non-conformant"
    NOT_PROVEN = "not-proven"
    CONFORMANT = "conformant"
    NOT_APPLICABLE = "not-applicable"


class Claim(StrEnum):
    """
    What a whole run claims.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class EvidenceReference:
    """
    A piece of evidence that a result rests on: its path below the output folder, and the SHA-256 of the file.
    """

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Result:
    """
    One cell of the matrix. ``node`` is None for scope ``cluster``. ``expected`` and ``seen`` are the two sides of the
    comparison that failed, where there was one; ``duration`` is the check's own time in seconds. ``hint`` names the
    entry of ``hints.toml`` that says what is likely behind it.
    """

    requirement: str
    node: str | None
    level: Level
    verdict: Verdict
    reason_code: str
    reason: str
    expected: str | None = None
    seen: str | None = None
    evidence: tuple[EvidenceReference, ...] = ()
    duration: float = 0.0
    hint: str | None = None
