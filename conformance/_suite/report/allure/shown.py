"""
What the page shows of a large run: a browser opens hundreds of rows at once, not tens of thousands.

What is red or unproven stays, one result a node, as long as there are not too many of them; what is green or not
applicable becomes one result for each requirement. ``allure-results`` keeps every cell.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from conformance._suite.files import write_text
from conformance._suite.report.wording import printable

if TYPE_CHECKING:
    from pathlib import Path

MOST = 2000
"""Results that the page shows one by one."""
MOST_OPEN = 200
"""Those of them that are failed or broken: Allure opens every group with one."""
MOST_NAMES = 100
"""Nodes that a row names which stands for more."""
_OPEN = ("failed", "broken")
_TOGETHER = "nodes that agree"


def copy(results_dir: Path, to: Path) -> str:
    """
    Copy Allure's results into the new folder ``to``, fewer of them where there are too many for a page.

    Returns how many stand for how many then; an empty text where all are there.
    """
    results = [json.loads(path.read_bytes()) for path in sorted(results_dir.glob("*-result.json"))]
    if len(results) <= MOST and sum(one["status"] in _OPEN for one in results) <= MOST_OPEN:
        shutil.copytree(results_dir, to)
        return ""
    to.mkdir()
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in sorted(results, key=lambda one: str(one["fullName"])):
        groups[_label(one, "requirement"), one["status"]].append(one)
    kept = []
    room = _rooms({group: len(found) for group, found in groups.items() if group[1] in _OPEN})
    for (requirement, status), found in groups.items():
        alone = found[: room.get((requirement, status), 0)]
        summed = found[len(alone) :]
        kept += alone if len(summed) > 1 else found
        if len(summed) > 1:
            kept.append(_sum(requirement, summed, more=bool(alone)))
    for one in kept:
        for attachment in one["attachments"]:
            shutil.copy(results_dir / attachment["source"], to)
        write_text(to / f"{one['uuid']}-result.json", json.dumps(one, ensure_ascii=False))
    for about_all in ("categories.json", "executor.json"):
        if (results_dir / about_all).is_file():
            shutil.copy(results_dir / about_all, to)
    told = f"{len(results)} results in {len(kept)} rows"
    claim, *others = (results_dir / "environment.properties").read_text(encoding="utf-8").splitlines()
    note = f"Rows = {told}, for nodes that agree are summed up; verdict.json and allure-results have every result"
    write_text(to / "environment.properties", "\n".join([claim, note, *others]) + "\n")
    return told


def _rooms(sizes: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """
    How many of each group are shown one by one: small groups whole, the others share what is left.
    """
    rooms = {}
    left = MOST_OPEN
    for number, group in enumerate(sorted(sizes, key=lambda group: sizes[group])):
        rooms[group] = min(sizes[group], left // (len(sizes) - number))
        left -= rooms[group]
    return rooms


def _sum(requirement: str, found: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """
    One result for those of a requirement that have the same status: the first of them, about all their nodes.
    """
    first = found[0]
    where = f"{len(found)} {'more ' if more else ''}nodes"
    simulated = ", **simulated**" if {"name": "tag", "value": "simulated"} in first["labels"] else ""
    names = [_label(one, "node") for one in found]
    others = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    listed = printable(", ".join(names[:MOST_NAMES])) + others
    same = hashlib.md5(f"{requirement} {first['status']} summed up".encode(), usedforsecurity=False).hexdigest()
    messages = [one["statusDetails"].get("message", "") for one in found]
    message = messages[0]
    if reasons := len(set(messages)) - 1:
        # The first keeps its beginning, which the categories tell a should by.
        message += f" (and {reasons} other reasons: see verdict.json)"
    return {
        **first,
        "uuid": str(uuid.UUID(same)),
        "historyId": same,
        "testCaseId": same,
        "fullName": f"{requirement} on {where}",
        "name": f"{first['name']} ({where})",
        "titlePath": [_TOGETHER, *requirement.split("/")[:2]],
        "statusDetails": {"message": message} if message else {},
        "description": f"**{_label(first, 'verdict')}** on {where}{simulated}\n\n`` {listed} ``\n\n"
        f"The first of them:\n\n{first['description']}",
        "labels": [
            {**label, "value": _TOGETHER} if label["name"] == "parentSuite" else label
            for label in first["labels"]
            if label["name"] != "node"
        ],
        "attachments": [],
    }


def _label(result: dict[str, Any], name: str) -> str:
    return next(str(label["value"]) for label in result["labels"] if label["name"] == name)
