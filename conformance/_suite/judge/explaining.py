"""
Looks for likely causes beside what is non-conformant or not proven: evidence in, names of hints out. It has no say in
any verdict.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from conformance._suite import evidence, hints, pod_status, workload
from conformance._suite.errors import Unknown
from conformance._suite.facts import Scope
from conformance._suite.result import Verdict
from conformance._suite.versions import Version, containerd_version, in_range, said_version, windows_build
from conformance._suite.words import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from conformance._suite.facts import NodeFacts
    from conformance._suite.hints import Hint, Known, When
    from conformance._suite.judging import Judging
    from conformance._suite.observation import Evidence
    from conformance._suite.requirement import Check
    from conformance._suite.result import Result

_PROBE = re.compile(r"<<<observation [^\n]*")
_NOBODY_LOOKED = frozenset({"not-selected", "no-result"})
_NO_REASON = frozenset({"CrashLoopBackOff", "ContainerCreating", "PodInitializing"})
"""Of a container that waits: they say that it does, not why."""
_OF_PODS = frozenset({"status", "event"})
"""What is said of any container of a workload, be it the one that a result is about or not."""
_SHIM = "node-facts/read/reader/shimVersion"


@dataclass(frozen=True, slots=True)
class Explained:
    """
    The results with the names of their hints, and these hints by name. By node: what is known of its versions and, of
    one on which no container at all started, what was said most often.
    """

    results: tuple[Result, ...]
    hints: Mapping[str, Hint] = field(default_factory=dict)
    known: Mapping[str, tuple[Known, ...]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)


def explain(judging: Judging, results: Sequence[Result], checks: Mapping[str, Check]) -> Explained:
    """
    Give each result that is non-conformant or not proven the first hint that fits it. What there is of a node is read
    once, so that this takes as long as nodes, rows and entries are many, and no longer.
    """
    entries, known = hints.load()
    about = {one: [hint for hint in entries if any(fnmatchcase(one, row) for row in hint.rows)] for one in checks}
    unproven: dict[str | None, list[Result]] = defaultdict(list)
    for result in results:
        if result.verdict in {Verdict.NON_CONFORMANT, Verdict.NOT_PROVEN} and result.reason_code not in _NOBODY_LOOKED:
            unproven[result.node].append(result)
    found: dict[tuple[str, str | None], Hint] = {}
    known_of: dict[str, tuple[Known, ...]] = {}
    silent: dict[str, str] = {}
    for name in (None, *judging.by_name):
        node = _Place(judging, judging.by_name[name] if name else None, checks)
        for result in unproven[name]:
            if hint := node.first_hint(about[result.requirement], result):
                found[result.requirement, name] = hint
        if name:
            known_of[name] = tuple(entry for entry in known if node.meets(entry.when))
            if unproven[name] and node.never_started:
                silent[name] = node.words
    named = [found.get((result.requirement, result.node)) for result in results]
    return Explained(
        tuple(replace(one, hint=hint.name) if hint else one for one, hint in zip(results, named, strict=True)),
        {hint.name: hint for hint in named if hint},
        known_of,
        silent,
    )


class _Place:
    """
    What there is to read of one node, or of the cluster (None): every file is read once, every question asked once.
    """

    def __init__(self, judging: Judging, node: NodeFacts | None, checks: Mapping[str, Check]) -> None:
        self._judging = judging
        self._node = node
        self._checks = checks
        self._evidence: dict[str, Evidence | None] = {}
        self._texts: dict[str, dict[str, list[str]]] = {}
        self._searched: dict[tuple[str, tuple[str, ...], frozenset[str]], tuple[bool, bool]] = {}
        self._met: dict[When, bool] = {}

    def first_hint(self, entries: Iterable[Hint], result: Result) -> Hint | None:
        """
        The first entry that fits a result; what was the machine's trouble is explained by entries about trouble alone.
        """
        for hint in entries:
            if hint.trouble and result.verdict is not Verdict.NOT_PROVEN:
                continue
            if result.reason_code == "runtime-trouble" and not hint.trouble:
                continue
            if self.meets(hint.when) and self._found(hint, result) and (not hint.every or self._in_every_pod(hint)):
                return hint
        return None

    def meets(self, when: When) -> bool:
        """
        Whether the conditions hold. What nobody could find out does not.
        """
        if when not in self._met:
            try:
                self._met[when] = all(in_range(self._version(what), wanted) for what, wanted in when.versions) and all(
                    self._fact(path) == value for path, value in when.facts
                )
            except Unknown:
                self._met[when] = False
        return self._met[when]

    @property
    def never_started(self) -> bool:
        """
        Whether somebody said why a container did not start, and none did.
        """
        return bool(self._silent_pods)

    @property
    def words(self) -> str:
        """
        What was said most often of pods that did not start.
        """
        return Counter(plain(said) for pod in self._silent_pods for said in pod).most_common(1)[0][0]

    def _found(self, hint: Hint, result: Result) -> bool:
        # What was refused and is non-conformant stands in the result's own words. What else was said of pods may have
        # passed, or be about another container.
        others = hint.places - _OF_PODS if result.verdict is Verdict.NON_CONFORMANT else hint.places
        reads = self._checks[result.requirement].reads
        key = hint.name, reads, others
        if key not in self._searched:
            read = [text for name in reads for place in others for text in self._said(name).get(place, ())]
            self._searched[key] = hints.search(hint, read)
        found, ruled_out = self._searched[key]
        if "seen" in hint.places:
            own, own_rules_out = hints.search(hint, [result.reason, result.seen or ""])
            found, ruled_out = found or own, ruled_out or own_rules_out
        return found and not ruled_out

    def _in_every_pod(self, hint: Hint) -> bool:
        pods = self._silent_pods
        return bool(pods) and all(hints.search(hint, pod)[0] for pod in pods)

    @cached_property
    def _silent_pods(self) -> list[list[str]]:
        """
        For each pod on the node what was said of its containers; nothing at all as soon as one of them ever started.
        """
        checks = (check for check in self._checks.values() if check.requirement.scope is Scope.NODE)
        names = {workload.RESIDUE, *(name for check in checks for name in check.reads)}
        pods = []
        # What is read already most likely tells that something started.
        for name in sorted(names, key=lambda name: (name not in self._evidence, name)) if self._node else ():
            for step in self._steps(name):
                statuses = pod_status.statuses(step["kubernetes"].get("pod"))
                if any(pod_status.has_started(status) for status in statuses):
                    return []
                said = [text for status in statuses for reason, text in _states(status) if reason not in _NO_REASON]
                pods.append(said or _warnings(step))
        return [pod for pod in pods if pod]

    def _version(self, what: str) -> Version:
        if self._node is None:
            raise Unknown("the cluster has no such version")
        match what:
            case "containerd":
                return containerd_version(self._node)
            case "kubelet":
                return Version.parse(self._node.kubelet)
            case "build":
                return Version.parse(windows_build(self._node.kernel))
        return said_version(self._fact(_SHIM))

    def _fact(self, path: str) -> Any:
        name, step, container, fact = path.split("/")
        found = self._read(name)
        if found is None:
            raise Unknown(f"there is no evidence of {name}")
        return found.step(step).probe(container)[fact]

    def _said(self, name: str) -> Mapping[str, list[str]]:
        if name not in self._texts:
            said: dict[str, list[str]] = defaultdict(list)
            for step in self._steps(name):
                kubernetes = step["kubernetes"]
                for status in pod_status.statuses(kubernetes.get("pod")):
                    said["status"] += [f"{reason}: {text}" for reason, text in _states(status)]
                said["event"] += _warnings(step)
                said["log"] += [_PROBE.sub("", log) for log in kubernetes.get("logs", {}).values()]
                for answer in step["api"]:
                    causes = [cause.get("message") for cause in answer.get("causes") or ()]
                    said["api"] += [
                        text for text in (answer.get("message"), *causes, *answer.get("warnings", ())) if text
                    ]
                for container in ((kubernetes.get("pod") or {}).get("spec") or {}).get("containers", ()):
                    said["command"].append(" ".join([*container.get("command", ()), *container.get("args", ())]))
            self._texts[name] = said
        return self._texts[name]

    def _steps(self, name: str) -> list[dict[str, Any]]:
        found = self._read(name)
        return found.data["steps"] if found else []

    def _read(self, name: str) -> Evidence | None:
        if name not in self._evidence:
            loaded = workload.load(name)
            try:
                self._evidence[name] = evidence.load(
                    self._judging, loaded, self._node if loaded.scope is Scope.NODE else None
                )
            except Unknown:  # what does not count says nothing either
                self._evidence[name] = None
        return self._evidence[name]


def _states(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    The reasons and messages of a container's present and last state, where it has any.
    """
    return [
        (str(detail.get("reason")), str(detail["message"]))
        for state in (status.get("state") or {}, status.get("lastState") or {})
        for detail in state.values()
        if detail and detail.get("message")
    ]


def _warnings(step: Mapping[str, Any]) -> list[str]:
    events = step["kubernetes"].get("events", ())
    return [f"{event['reason']}: {event['message']}" for event in events if event.get("type") == "Warning"]
