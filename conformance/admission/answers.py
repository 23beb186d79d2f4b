"""
How the API server's answers are read, for the pages of this area.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from conformance._suite.observation import Step

VIOLATES = "violates PodSecurity "
"""What Pod Security Admission, and nobody else, says in a refusal."""


def causes(step: Step, request: str) -> list[str]:
    """
    All that validation has against the request, sorted, each as ``<field>: <message>``; empty when it let it pass.

    Pod Security comes after validation, so its refusal says that validation had nothing against the request. Raises
    Unknown for any other answer: a webhook or a missing right in between proves nothing about validation.
    """
    answer = step.answer(request)
    if answer["code"] == 422 and answer["reason"] == "Invalid":
        return sorted(f"{cause.get('field')}: {cause.get('message')}" for cause in answer["causes"])
    if answer["code"] in {200, 201} or refused_by_pod_security(answer):
        return []
    raise Unknown(f"{request}: neither validated nor admitted: {described(answer)}", "other-refusal")


def refused_by_pod_security(answer: Mapping[str, Any]) -> bool:
    """
    Whether the request was refused, and by Pod Security Admission.
    """
    return answer["code"] == 403 and VIOLATES in (answer["message"] or "")


def described(answer: Mapping[str, Any]) -> str:
    """
    An answer in one line.
    """
    return f"{answer['code']} {answer['reason']}: {answer['message']}" if answer["reason"] else str(answer["code"])
