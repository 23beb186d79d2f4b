"""
Switches named defects, and troubles, on: those of a node on the nodes they can be on, those of the API server in front
of it.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from conformance._suite.errors import UsageError
from infra.simulated.api_defects import API_DEFECTS
from infra.simulated.model.deviations import KNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.simulated.cluster import NodeSpec


def switch_on(nodes: Sequence[NodeSpec], wanted: Sequence[str]) -> tuple[list[NodeSpec], str | None]:
    """
    The nodes with the wanted defects (``name`` or ``name@node``) on them, and the API server's defect, if any.

    Without a node a defect goes onto every node whose era can have it. Raises UsageError for an unknown name, a node
    that there is not, a defect that no node can have, and for more than one defect of the API server.
    """
    found = list(nodes)
    api: list[str] = []
    for text in wanted:
        name, _, where = text.partition("@")
        if name in API_DEFECTS and not where:
            api.append(name)
            continue
        if name not in KNOWN:
            near = difflib.get_close_matches(name, [*KNOWN, *API_DEFECTS], n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "conformance/catalogue.md lists them"
            raise UsageError(f"unknown defect {text!r}", hint)
        if where and where not in {node.name for node in nodes}:
            raise UsageError(f"there is no simulated node {where!r}", f"known are {', '.join(n.name for n in nodes)}")
        eras = KNOWN[name].eras
        chosen = [node.name for node in nodes if node.era in eras and where in {"", node.name}]
        if not chosen:
            who = f"{where} cannot" if where else "no simulated node can"
            raise UsageError(f"{who} have the defect {name!r}", f"it is a defect of the eras {', '.join(eras)}")
        found = [replace(node, deviations=(*node.deviations, name)) if node.name in chosen else node for node in found]
    if len(api) > 1:
        raise UsageError("only one defect of the API server at a time", f"asked for were {', '.join(api)}")
    return found, (api[0] if api else None)
