"""
Evidence on disk: parse what a probe printed, refuse what is not whole, redact, store, load, and refuse what belongs
to another run, node or workload.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance._suite.files import write_text
from conformance._suite.model import Scope, Unknown
from conformance._suite.observation import Evidence
from conformance._suite.redact import redact_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance._suite.workload import Workload

SCHEMA = 1
OUTPUT_LIMIT = 1024 * 1024
"""Bytes of log that are read for a probe's output: many times what any probe prints."""

_OPENING, _CLOSING = "<<<observation ", " observation>>>"
_OUTPUT = re.compile(re.escape(_OPENING) + r"(.*?)" + re.escape(_CLOSING), re.DOTALL)


def parse_output(log: str) -> dict[str, Any]:
    """
    The facts in a container's log. Raises Unknown with the code ``output-missing``, ``output-too-large``,
    ``output-doubled``, ``output-cut`` or ``output-garbage``.
    """
    if len(log) >= OUTPUT_LIMIT:
        raise Unknown(f"the container wrote more than {OUTPUT_LIMIT} bytes", "output-too-large")
    found = _OUTPUT.findall(log)
    if not found:
        if _OPENING in log:
            raise Unknown("the probe's output breaks off in the middle", "output-cut")
        raise Unknown(f"the container printed no observation; its log ends with {log[-300:]!r}", "output-missing")
    if len(found) > 1 or log.count(_OPENING) > 1:
        raise Unknown("the container printed more than one observation", "output-doubled")
    try:
        facts = json.loads(found[0])
    except ValueError as error:
        raise Unknown(f"the probe's output is not JSON: {error}", "output-garbage") from error
    if not isinstance(facts, dict):
        raise Unknown("the probe's output is not a JSON object", "output-garbage")
    return facts


def output_ended(log: str) -> bool:
    """
    Whether the log already holds a whole observation.
    """
    return _CLOSING in log


def relative_path(workload: str, node: str | None) -> Path:
    """
    Where a piece of evidence lies below the output folder.
    """
    owner = Path("nodes") / node if node else Path("cluster")
    return owner / workload / "evidence.json"


def write_json(path: Path, value: object) -> None:
    """
    Write a whole file or none, redacted.
    """
    write_text(path, json.dumps(redact_json(value), indent=1, ensure_ascii=False) + "\n")


def digest(path: Path) -> str:
    """
    The SHA-256 of a file, as hexadecimal text.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(
    out: Path, workload: Workload, node: Mapping[str, str] | None, run_id: str, *, same_digest: bool = True
) -> Evidence:
    """
    Load one piece of evidence. ``node`` is its ``name`` and ``uid``, or None for the cluster's.

    Raises Unknown when it is missing, not whole, or about something else: another run, node or version of the
    workload.
    """
    path = out / relative_path(workload.name, node["name"] if node else None)
    try:
        with path.open(encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        raise Unknown(f"there is no evidence of {workload.name}: it was not observed", "not-observed") from None
    except (OSError, ValueError) as error:
        raise Unknown(f"{path.name} of {workload.name} is not readable: {error}", "evidence-malformed") from error
    expected = {
        "schema": SCHEMA,
        "runId": run_id,
        "workload": workload.name,
        "scope": str(workload.scope if node else Scope.CLUSTER),
        "node": dict(node) if node else None,
    }
    if same_digest:
        expected["workloadDigest"] = workload.digest
    if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
        raise Unknown(f"the evidence of {workload.name} is not whole", "evidence-malformed")
    for key, value in expected.items():
        if data.get(key) != value:
            raise Unknown(
                f"the evidence of {workload.name} is about another {key}: {data.get(key)!r}, not {value!r}",
                "evidence-foreign",
            )
    _refuse_foreign_pods(data, workload.name, node)
    return Evidence(data)


def _refuse_foreign_pods(data: Mapping[str, Any], workload: str, node: Mapping[str, str] | None) -> None:
    for step in data["steps"]:
        try:
            pod = step["kubernetes"]["pod"]
            on = pod["spec"].get("nodeName") if pod else None
            step["probe"], step["api"], step["met"], step["name"]
        except (KeyError, TypeError, AttributeError) as error:
            raise Unknown(f"the evidence of {workload} is not whole: {error!r}", "evidence-malformed") from error
        if node and on and on != node["name"]:
            raise Unknown(f"the evidence of {workload} is about a pod on {on}", "evidence-foreign")
