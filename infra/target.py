"""
A cluster under test: how to reach it, and how it came to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """
    ``name`` is the kind of target (``simulated``, ``existing``, …); ``context`` is the kubeconfig's context to use,
    None for its current one. Without a kubeconfig it is the one that the service account of this pod is for.
    ``simulated`` marks every result that comes from it.
    """

    name: str
    kubeconfig: Path | None
    context: str | None
    simulated: bool
