"""
How the API server's answers are read, for the pages of this area.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from conformance import Unknown
from conformance._suite.pod_security import refusing_level

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from conformance._suite.observation import Step


def causes(step: Step, request: str) -> list[str]:
    """
    All that validation has against the request, sorted, each as ``<field>: <message>``; empty when it let it pass.

    Pod Security comes after validation, so its refusal says that validation had nothing against the request. Raises
    Unknown for any other answer: a policy, a webhook or a missing right in between proves nothing about validation.
    """
    answer = untouched(step, request)
    if answer["code"] == 422 and answer["reason"] == "Invalid" and _is_validations(answer):
        return sorted(f"{cause['field']}: {cause.get('message')}" for cause in answer["causes"])
    if answer["code"] in {200, 201} or refusing_level(answer["message"], answer["code"]):
        return []
    raise Unknown(f"{request}: neither validated nor admitted: {described(answer)}", "other-refusal")


def untouched(step: Step, request: str) -> Mapping[str, Any]:
    """
    The answer to the request. Raises Unknown when admission made another kind of pod of the one that was sent: what was
    let pass then says nothing about that one.
    """
    answer = step.answer(request)
    if changed := answer.get("changed"):
        raise Unknown(f"{request}: admission makes another pod of it: {', '.join(changed)}", "pod-changed")
    return answer


def _is_validations(answer: Mapping[str, Any]) -> bool:
    """
    Whether an Invalid is the API server's own: it names a field in each cause. A ValidatingAdmissionPolicy, whose
    default reason is Invalid, names none; a webhook may, but its refusals say that it denied the request.
    """
    named = bool(answer["causes"]) and all(cause.get("field") for cause in answer["causes"])
    return named and not re.search(r"\bdenied (the )?request\b", answer["message"] or "")


def described(answer: Mapping[str, Any]) -> str:
    """
    An answer in one line.
    """
    return f"{answer['code']} {answer['reason']}: {answer['message']}" if answer["reason"] else str(answer["code"])
