"""
How Pod Security Admission's refusals are told from everybody else's. Pure.
"""

from __future__ import annotations

import re

_REFUSAL = re.compile(r'\bpods "[^"]*" is forbidden: violates PodSecurity "([^":]+):')
# Policies and webhooks that know the same standards say the same words behind these.
_ANOTHERS = re.compile(r"\bdenied (the )?request:")


def refusing_level(message: str | None, code: int = 403) -> str | None:
    """
    The Pod Security Standard for which Pod Security Admission refused a pod, by what the API server said (an answer, or
    an event of a controller, which has no code); None where it is not its refusal.
    """
    refusal = _REFUSAL.search(message or "")
    return refusal[1] if code == 403 and refusal and not _ANOTHERS.search(message or "") else None
