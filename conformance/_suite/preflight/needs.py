"""
What a plan needs of its target, and what the looks at a target share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from conformance._suite.namespaces import require_namespace
from conformance._suite.workload import BASE_IMAGE

if TYPE_CHECKING:
    from conformance._suite.cluster import Answer

LOOK_SECONDS = 8
"""How long an API server may take to answer the first questions."""


@dataclass(frozen=True, slots=True)
class Needs:
    """
    What the plan needs: ``namespace`` where its three namespaces are given, so many pods on one node at once, whether
    Pod Security is judged, and the image that pods name. Raises UsageError for a namespace that cannot be.
    """

    namespace: str | None = None
    pods: int = 1
    pod_security: bool = True
    image: str = BASE_IMAGE

    def __post_init__(self) -> None:
        if self.namespace is not None:
            require_namespace(self.namespace)


def words(answer: Answer) -> str:
    """
    What an answer that refuses says, in one line.
    """
    return f"{answer.code} {' '.join(answer.message.split()) or 'no reason given'}"
