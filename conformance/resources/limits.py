"""
The limits that a container of the evidence was sent with, for the pages of this area: those of an older manifest are
other ones than today's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from conformance import Unknown

if TYPE_CHECKING:
    from conformance._suite.observation import Step


def mebibytes(step: Step, container: str) -> int:
    """
    A container's memory limit in MiB. Raises Unknown where it was sent with none that is written so.
    """
    return _limit(step, container, "memory", "Mi")


def millicores(step: Step, container: str) -> int:
    """
    A container's CPU limit in thousandths of a processor. Raises Unknown as above.
    """
    return _limit(step, container, "cpu", "m")


def _limit(step: Step, container: str, resource: str, unit: str) -> int:
    for sent in step.data["sent"]:
        for one in sent["spec"]["containers"]:
            limit = ((one.get("resources") or {}).get("limits") or {}).get(resource)
            if one["name"] == container and (found := re.fullmatch(rf"(\d+){unit}", str(limit))):
                return int(found[1])
    raise Unknown(f"container {container} was sent without a {resource} limit in {unit}", "no-limit-sent")
