"""
How long observing takes at worst.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from conformance._suite.facts import Scope
from conformance._suite.observe.awaiting import PULL_SECONDS
from conformance._suite.observe.engine import AT_ONCE
from conformance._suite.workload import RESIDUE, load

if TYPE_CHECKING:
    from conformance._suite.observe.plan import Plan
    from conformance._suite.workload import Step

CLEAN_UP_SECONDS = 300.0
"""At most, after everything has ended."""


def worst_case(plan: Plan) -> tuple[float, float]:
    """
    Seconds until the nodes are clean again when every step takes as long as it may, and how many more where images are
    slow to pull.
    """
    first, *others = (sum(map(_longest, one.steps)) for one in (load(RESIDUE), *plan.workloads))
    work = sum(len(plan.nodes) if one.scope is Scope.NODE else 1 for one in plan.workloads)
    turns = math.ceil(work / AT_ONCE)
    return (first + turns * max(others, default=0)) * plan.time_scale + CLEAN_UP_SECONDS, PULL_SECONDS * plan.time_scale


def _longest(step: Step) -> float:
    """
    A step's time, or twice that where its pod may be run a second time (``collecting.worth_repeating``).
    """
    return step.deadline * (2 if step.probes and not step.shared else 1)
