"""
``verdict.json``, the one source of results; every other report is made from the same ``Run``.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import UsageError
from conformance._suite.files import write_text
from conformance._suite.redact import redact, redact_json
from conformance._suite.requirement import Level
from conformance._suite.result import ABOUT_THE_RUN, CLUSTER, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from conformance._suite.facts import ClusterFacts, NodeFacts
    from conformance._suite.hints import Hint, Known
    from conformance._suite.requirement import Requirement
    from conformance._suite.result import Claim, Result

API_VERSION = "hostprocess-conformance/v1"
KIND = "ConformanceReport"
NAME = "verdict.json"


@dataclass(frozen=True, slots=True)
class Selection:
    """
    What was to be judged: everything, or what ``expression`` left.
    """

    full: bool
    expression: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run, judged: all that any report says.

    ``node_subjects`` maps a node's name to what was read from the node itself (shim version, digests). ``defects`` are
    the simulated defects that were switched on, ``notes`` what has to be known beside the results, in a line each, and
    ``run_digest`` the SHA-256 of ``run.json``. ``out`` is where the reports go; the paths of the evidence are below
    ``evidence`` when that is given (evidence judged again), below ``out`` otherwise. A Run holds no secret: its texts
    are redacted when it is made. Results are in the order of requirement and node, those of the cluster first.

    ``hints`` are the likely causes that results name. ``known`` maps a node to what is known of its versions,
    ``silent`` one on which no container at all started to what was said most often.
    """

    suite_version: str
    catalogue_digest: str
    run_id: str
    started: datetime
    ended: datetime
    cluster: ClusterFacts
    nodes: tuple[NodeFacts, ...]
    node_subjects: Mapping[str, Mapping[str, Any]]
    selection: Selection
    claim: Claim
    exit_code: int
    results: tuple[Result, ...]
    defects: tuple[str, ...]
    requirements: Mapping[str, Requirement]
    out: Path
    evidence: Path | None = None
    hints: Mapping[str, Hint] = field(default_factory=dict)
    known: Mapping[str, tuple[Known, ...]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    run_digest: str = ""

    def __post_init__(self) -> None:
        clean = (
            replace(
                result,
                reason=redact(result.reason),
                expected=None if result.expected is None else redact(result.expected),
                seen=None if result.seen is None else redact(result.seen),
            )
            for result in self.results
        )
        ordered = tuple(sorted(clean, key=lambda result: (result.requirement, result.node or "")))
        object.__setattr__(self, "results", ordered)
        object.__setattr__(self, "silent", {node: redact(words) for node, words in self.silent.items()})
        object.__setattr__(self, "node_subjects", redact_json(dict(self.node_subjects)))

    @property
    def places(self) -> tuple[str | None, ...]:
        """
        The rows of the matrix: the nodes, those that were not tested behind them, then None for the cluster where a
        result is about it.
        """
        nodes = tuple(dict.fromkeys((*(node.name for node in self.nodes), *self.cluster.untested)))
        return (*nodes, None) if any(result.node is None for result in self.results) else nodes

    def sentence(self, result: Result) -> str:
        """
        The documented behaviour that a result is about, what a run has to show, or the id when the catalogue no longer
        has it.
        """
        requirement = self.requirements.get(result.requirement)
        named = ABOUT_THE_RUN.get(result.requirement, result.requirement)
        return requirement.sentence if requirement else named

    def source(self, result: Result) -> str:
        """
        The link to the paragraph that documents it, or an empty text.
        """
        requirement = self.requirements.get(result.requirement)
        return requirement.source if requirement else ""

    def likely_cause(self, result: Result) -> str:
        """
        What is likely behind a result, in a sentence or two; empty where nothing is known.
        """
        hint = self.hints.get(result.hint or "")
        return hint.cause if hint else ""

    def likely_causes(self) -> list[tuple[Hint, dict[str | None, Counter[Verdict]]]]:
        """
        The likely causes, what explains most first, each with the nodes (None: the cluster) where it is likely, and how
        many results of which verdict it explains there.
        """
        found: dict[str, dict[str | None, Counter[Verdict]]] = {}
        for result in self.results:
            if result.hint in self.hints:
                found.setdefault(str(result.hint), {}).setdefault(result.node, Counter())[result.verdict] += 1
        order = sorted(found, key=lambda name: -sum(one.total() for one in found[name].values()))
        return [(self.hints[name], found[name]) for name in order]

    def known_of_versions(self) -> list[tuple[Known, list[str]]]:
        """
        What is known of the nodes' versions, each with the names of the nodes.
        """
        found: dict[Known, list[str]] = {}
        for node in self.nodes:
            for known in self.known.get(node.name, ()):
                found.setdefault(known, []).append(node.name)
        return list(found.items())

    def evidence_path(self, path: str) -> Path:
        """
        Where a piece of evidence lies on this machine.
        """
        return (self.evidence or self.out) / path


def document(run: Run) -> dict[str, Any]:
    """
    The content of ``verdict.json``, as ``reports/verdict.schema.json`` describes it. Times are UTC, durations seconds.
    """
    whole: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "suiteVersion": run.suite_version,
        "catalogueDigest": run.catalogue_digest,
        "runDigest": run.run_digest,
        "started": utc(run.started),
        "ended": utc(run.ended),
        **about(run.run_id, run.cluster, run.nodes, run.defects),
        "notes": list(run.notes),
        "selection": {"full": run.selection.full, "expression": run.selection.expression},
        "claim": str(run.claim),
        "exitCode": run.exit_code,
        "results": [_result(result) for result in run.results],
        "hints": [
            {
                "name": hint.name,
                "cause": hint.cause,
                "remedy": hint.remedy,
                "see": list(hint.see),
                "sure": hint.sure,
                "explains": [
                    {
                        "node": node,
                        "nonConformant": found[Verdict.NON_CONFORMANT],
                        "notProven": found[Verdict.NOT_PROVEN],
                    }
                    for node, found in explained.items()
                ],
            }
            for hint, explained in run.likely_causes()
        ],
        "known": [
            {"name": one.name, "says": one.says, "see": list(one.see), "nodes": nodes}
            for one, nodes in run.known_of_versions()
        ],
    }
    for node in whole["nodes"]:
        node["subject"] = dict(run.node_subjects.get(node["name"], {}))
        if node["name"] in run.silent:
            node["nothingStarted"] = run.silent[node["name"]]
    clean: dict[str, Any] = redact_json(whole)
    return clean


def about(run_id: str, cluster: ClusterFacts, nodes: Sequence[NodeFacts], defects: Sequence[str]) -> dict[str, Any]:
    """
    What ``verdict.json`` says of a run before anything is judged; not redacted.
    """
    return {
        "runId": run_id,
        "target": cluster.target,
        "serverVersion": cluster.server_version,
        "simulated": cluster.simulated,
        "simulatedDefects": list(defects),
        "leftOut": list(cluster.left_out),
        "untested": [{"name": name, "reason": reason} for name, reason in cluster.untested.items()],
        "nodes": [
            {
                "name": node.name,
                "facts": {
                    "uid": node.uid,
                    "internalIP": node.internal_ip,
                    "hostName": node.host_name,
                    "containerRuntime": node.container_runtime,
                    "statedContainerd": node.stated_containerd,
                    "kubelet": node.kubelet,
                    "osImage": node.os_image,
                    "kernel": node.kernel,
                    "machineID": node.machine_id,
                    "capacityCpu": node.capacity_cpu,
                    "taints": list(node.taints),
                    "labels": dict(node.labels),
                },
            }
            for node in nodes
        ],
    }


def _result(result: Result) -> dict[str, Any]:
    sides = {"expected": result.expected, "seen": result.seen}
    return {
        "requirement": result.requirement,
        "node": result.node,
        "level": str(result.level),
        "verdict": str(result.verdict),
        "reasonCode": result.reason_code,
        "reason": result.reason,
        **{side: text for side, text in sides.items() if text is not None},
        **({"hint": result.hint} if result.hint else {}),
        "evidence": [{"path": one.path, "sha256": one.sha256} for one in result.evidence],
        "duration": result.duration,
    }


def utc(moment: datetime) -> str:
    """
    A moment as all reports write it, ISO 8601 in UTC. Raises ValueError for one that knows no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a run's times must know their zone")
    return (moment - (moment.utcoffset() or moment - moment)).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(run: Run) -> Path:
    """
    Write ``verdict.json`` into the output folder, whole or not at all, and return its path.
    """
    path = run.out / NAME
    write_text(path, json.dumps(document(run), indent=1, ensure_ascii=False) + "\n")
    return path


_KEYS = {
    *("apiVersion", "kind", "suiteVersion", "catalogueDigest", "runId", "started", "ended", "target", "serverVersion"),
    *("simulated", "simulatedDefects", "leftOut", "selection", "claim", "exitCode", "nodes", "results"),
}
_LATER_KEYS = {"hints", "known", "notes", "runDigest", "untested"}
"""Of which reports of earlier suites have none."""
_RESULT_KEYS = {"requirement", "node", "level", "verdict", "reasonCode", "reason", "evidence", "duration"}


def load(path: Path) -> dict[str, Any]:
    """
    Read a ``verdict.json``. Raises UsageError, saying what is wrong, when it is not there, cut, garbage, another kind
    of file, of another version, or judges one requirement twice on one node.
    """
    remedy = f"name the {NAME} of a run"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", remedy) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is cut short or no JSON: {error}", remedy) from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UsageError(f"{path} is not a {KIND}", remedy)
    if data.get("apiVersion") != API_VERSION:
        raise UsageError(
            f"{path} is of version {data.get('apiVersion')!r}, this suite reads {API_VERSION!r}",
            "use the suite that wrote it",
        )
    if wrong_keys := data.keys() ^ (_KEYS | _LATER_KEYS if data.keys() & _LATER_KEYS else _KEYS):
        raise UsageError(f"{path}: missing or unknown: {', '.join(sorted(wrong_keys))}", remedy)
    if not isinstance(data["results"], list) or not isinstance(data["nodes"], list):
        raise UsageError(f"{path}: results and nodes must be lists", remedy)
    seen = set()
    for number, result in enumerate(data["results"]):
        wrong = _wrong(result)
        if wrong is None and (cell := (result["requirement"], result["node"])) in seen:
            wrong = f"judges {cell[0]} on {cell[1] or CLUSTER} a second time"
        if wrong:
            raise UsageError(f"{path}: result {number} {wrong}", remedy)
        seen.add(cell)
    return data


def _wrong(result: object) -> str | None:
    if not isinstance(result, dict) or not result.keys() >= _RESULT_KEYS:
        return "is not whole"
    if not isinstance(result["requirement"], str) or not isinstance(result["node"], str | None):
        return "names no requirement and node"
    if result["verdict"] not in list(Verdict):
        return f"has an unknown verdict {result['verdict']!r}"
    if result["level"] not in list(Level):
        return f"has an unknown level {result['level']!r}"
    for one in result["evidence"] if isinstance(result["evidence"], list) else [None]:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("path", "sha256")):
            return "names evidence without its path and SHA-256"
    return None
