"""
Evidence on disk: parse what a probe printed, refuse what is not whole, redact, store, load, and refuse what belongs
to another run, node or workload.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import Unknown
from conformance._suite.facts import Scope
from conformance._suite.files import write_text
from conformance._suite.observation import Evidence
from conformance._suite.redact import redact_json

if TYPE_CHECKING:
    from conformance._suite.facts import NodeFacts
    from conformance._suite.judging import Judging
    from conformance._suite.workload import Workload

SCHEMA = 1
OUTPUT_LIMIT = 1024 * 1024
"""Bytes of log that are read for a probe's output: many times what any probe prints."""

_OPENING, _CLOSING = "<<<observation ", " observation>>>"
_TROUBLE = re.compile(r"<<<trouble ([a-z-]+): (.*?) trouble>>>")
"""What ``workloads/bootstrap.ps1`` prints in an observation's place: a code, and a text."""
_CAUSES = {
    "language-mode": "a policy of the node keeps PowerShell from running the probe's script",
    "script-damaged": "the probe's script did not arrive whole, and nothing of it was run",
    "script-failed": "the probe's script failed as a whole",
}
_SHOWN = 500
"""Characters of a log, or of the bootstrap's text, that a reason shows."""


def parse_output(log: str) -> dict[str, Any]:
    """
    The facts in a container's log. Raises Unknown with the code ``output-missing``, ``output-too-large``,
    ``output-doubled``, ``output-cut`` or ``output-garbage``, or with the bootstrap's own: ``language-mode``,
    ``script-damaged``, ``script-failed``.
    """
    if len(log) >= OUTPUT_LIMIT:
        raise Unknown(f"the container wrote more than {OUTPUT_LIMIT} bytes", "output-too-large")
    if _OPENING not in log:
        if told := _TROUBLE.search(log):
            raise Unknown(f"{_CAUSES.get(told[1], 'the probe was not run')}: {told[2][:_SHOWN]}", told[1])
        said = _plain(log)[-_SHOWN:]
        raise Unknown(f"the container printed no observation; its log ends with {said!r}", "output-missing")
    if log.count(_OPENING) > 1:
        raise Unknown("the container printed more than one observation", "output-doubled")
    text, closing, _ = log.partition(_OPENING)[2].partition(_CLOSING)
    if not closing:
        raise Unknown("the probe's output breaks off in the middle", "output-cut")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unknown(f"the probe's output is not JSON: {error}", "output-garbage") from error
    if not isinstance(facts, dict):
        raise Unknown("the probe's output is not a JSON object", "output-garbage")
    return facts


def _plain(log: str) -> str:
    """
    A log whose errors Windows PowerShell wrote as CLIXML, as text.
    """
    if "#< CLIXML" not in log:
        return log
    errors = "".join(re.findall(r'<S S="Error">(.*?)</S>', log, re.DOTALL))
    return re.sub(r"_x([0-9A-F]{4})_", lambda code: chr(int(code[1], 16)), html.unescape(errors)) or log


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


def whole_path(workload: str, name: str) -> Path:
    """
    Where that is kept whole, below the output folder, which was sent once for all nodes: by the object's name.
    """
    return Path("cluster") / workload / f"{name}.sent.json"


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


def load(judging: Judging, workload: Workload, node: NodeFacts | None) -> Evidence:
    """
    Load one piece of evidence: of a node, or of the cluster (None).

    Raises Unknown when it is missing or not whole, or when it is not this run's evidence of this workload here.
    """
    path = relative_path(workload.name, node.name if node else None)
    try:
        content = (judging.out / path).read_bytes()
        data = json.loads(content)
    except FileNotFoundError:
        if path.as_posix() in (judging.digests or {}):
            raise Unknown(
                f"the evidence of {workload.name} is gone since the report was made", "evidence-altered"
            ) from None
        raise Unknown(f"there is no evidence of {workload.name}: it was not observed", "not-observed") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Unknown(f"{path.name} of {workload.name} is not readable: {error}", "evidence-malformed") from error
    reported = (judging.digests or {}).get(path.as_posix())
    # Of its own evidence a run has no report yet; of an earlier run's all that counts is in its report.
    vouched = reported == hashlib.sha256(content).hexdigest() if reported else judging.same_digest
    if judging.digests is not None and not vouched:
        raise Unknown(f"the evidence of {workload.name} is not what the report was made from", "evidence-altered")
    try:
        foreign = _foreign(data, judging, workload, node)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Unknown(f"the evidence of {workload.name} is not whole: {error!r}", "evidence-malformed") from error
    if foreign:
        raise Unknown(f"the evidence of {workload.name} is foreign: {foreign}", "evidence-foreign")
    for step in data["steps"]:
        if not step.get("sentWhole"):
            continue
        whole = judging.out / whole_path(workload.name, step["sent"][-1]["metadata"]["name"])
        if not (whole.is_file() and digest(whole) == step["sentWhole"]):
            raise Unknown(f"{whole.name} of {workload.name} is not what was sent", "evidence-altered")
    return Evidence(data)


def _foreign(data: dict[str, Any], judging: Judging, workload: Workload, node: NodeFacts | None) -> str | None:
    """
    Say why this is not the evidence that was asked for, or None. Raises KeyError and the like when it is not whole.
    """
    expected = {
        "schema": SCHEMA,
        "runId": judging.run_id,
        "simulated": judging.cluster.simulated,
        "workload": workload.name,
        "scope": str(workload.scope if node else Scope.CLUSTER),
        "node": {"name": node.name, "uid": node.uid} if node else None,
    }
    if judging.same_digest:
        expected["workloadDigest"] = workload.digest
    for key, value in expected.items():
        if data[key] != value:
            return f"its {key} is {data[key]!r}, not {value!r}"
    # ISO 8601 in UTC sorts as text; a run's beginning has microseconds, hence the cut.
    if not judging.started[:19] <= data["started"][:19] <= data["ended"][:19]:
        return f"it is from {data['started']} to {data['ended']}, the run began at {judging.started}"
    known = {step.name: step for step in workload.steps}
    names = [step["name"] for step in data["steps"]]
    if names != [name for name in known if name in names]:
        return f"its steps are {names}"
    for step in data["steps"]:
        if step["until"] != known[step["name"]].until:
            return f"step {step['name']} waited until {step['until']}"
        if answered_twice := len(step["api"]) - len({answer["name"] for answer in step["api"]}):
            return f"step {step['name']} has {answered_twice} answers too many"
        if step["met"] and node and (stranger := _stranger(step, data, node)):
            return f"step {step['name']}: {stranger}"
    return None


def _stranger(step: dict[str, Any], data: dict[str, Any], node: NodeFacts) -> str | None:
    """
    Say why the pod of a completed step is not the one that was put there.
    """
    pod, sent = step["kubernetes"]["pod"], step["sent"][-1]
    if pod["spec"]["nodeName"] != node.name:
        return f"its pod is on {pod['spec']['nodeName']}"
    if pod["metadata"]["namespace"] != data["parameters"]["namespace"]:
        return f"its pod is in namespace {pod['metadata']['namespace']}"
    owner = pod["metadata"]["name"] if sent["kind"] == "Pod" else pod["metadata"]["ownerReferences"][0]["name"]
    return None if owner == sent["metadata"]["name"] else f"its pod is {pod['metadata']['name']}"
