"""
Which of a cluster's nodes are tested, why each other one is not, and what the user expects of those that are. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import UsageError
from conformance._suite.versions import is_build, is_version, meets, unreadable, windows_build

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from conformance._suite.facts import NodeFacts

OS_LABEL = "kubernetes.io/os"
SKU_LABEL = "kubernetes.azure.com/os-sku"
BUILD_LABEL = "node.kubernetes.io/windows-build"
SHOWN_NAMES = 3
"""How many names a line about nodes that are left out spells out."""
_SERVER_YEAR = re.compile(r"Windows Server (\d{4})\b")


def problem(what: str, remedy: str) -> str:
    """
    One thing that is in the way and what to do about it, in one line.
    """
    return f"{what} — {remedy}"


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Which nodes the user wants: all Windows nodes, or those of these names, labels, OS SKUs (``Windows2022``) and builds
    (``20348`` or ``20348.2700``), without those of the names in ``leave_out``. ``stated`` is the containerd version
    that the user states, by the node's name, or by an empty one for all. Raises UsageError for what is no SKU, build or
    version.
    """

    names: tuple[str, ...] = ()
    selector: str = ""
    os_skus: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    stated: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for sku in self.os_skus:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", sku):
                raise UsageError(f"--os-sku {sku!r} is not an OS SKU", "write it as the node's label, Windows2022")
        for build in self.builds:
            if not is_build(build):
                raise UsageError(f"--windows-build {build!r} is not a build", "write 20348 or 20348.2700")
        for text in self.stated.values():
            if not is_version(text) or "." not in text:
                example = "write 1.7.28, or NODE=1.7.28 for one node"
                raise UsageError(f"--containerd-version {text!r} is not a version", example)


@dataclass(frozen=True, slots=True)
class Expectations:
    """
    What is to be there, by component: ``1.7`` is met by 1.7.28, not by 1.70. Raises UsageError for what is no version.
    """

    containerd: str | None = None
    build: str | None = None
    kubernetes: str | None = None
    nodes: int | None = None

    def __post_init__(self) -> None:
        if self.nodes is not None and self.nodes < 1:
            raise UsageError(f"--expect-nodes {self.nodes} is no number of nodes", "1 or more")
        for name, example in {"containerd": "1.7.28", "build": "20348.2700", "kubernetes": "1.33"}.items():
            text = getattr(self, name)
            # An empty one, of a variable that is not set, must not be met by everything.
            if text is not None and (not is_version(text) or (name == "build" and text in {"10", "10.0"})):
                raise UsageError(f"--expect-{name} {text!r} is not a version", f"write it like {example}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """
    The nodes under test as the API gives them, sorted by name; a line for each reason why others are left out; what is
    wrong with the choice; and, by name, why nodes are not tested that nobody left out.
    """

    nodes: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    untested: Mapping[str, str] = field(default_factory=dict)


def choose(items: Sequence[dict[str, Any]], choice: Choice, selected: Collection[str] | None = None) -> Chosen:
    """
    Choose among all nodes of a cluster; ``selected`` are the names of those that the selector matches, None without a
    selector. A cordoned node is only tested when it is named; a taint alone keeps no node out.
    """
    left_out = {_name(item): reason for item in items if (reason := _left_out(item, choice, selected))}
    untested = {
        _name(item): reason for item in items if _name(item) not in left_out and (reason := _untested(item, choice))
    }
    reasons = {_name(item): left_out.get(_name(item)) or untested.get(_name(item)) for item in items}
    nodes = sorted((item for item in items if reasons[_name(item)] is None), key=_name)
    windows = sorted(_name(item) for item in items if _windows(item))
    problems = [
        problem(f"node {name} cannot be tested: {reason}", _remedy(reason))
        for name, reason in sorted(reasons.items())
        if name in choice.names and reason is not None
    ]
    if absent := sorted({*choice.names, *choice.leave_out, *choice.stated} - {"", *reasons}):
        there = f"the Windows nodes are: {', '.join(windows) or 'none'}"
        problems.append(problem(f"no node is called {', '.join(absent)}", there))
    if not nodes and not problems:
        wanted = " that is ready" if choice == Choice() else " that is ready and is asked for"
        others = "; ".join(by_reason(left_out | untested))
        remedy = f"a node counts by its label {OS_LABEL}=windows and its condition Ready; --node tests a cordoned one"
        problems.append(problem(f"the cluster has no Windows node{wanted}{f' ({others})' if others else ''}", remedy))
    return Chosen(tuple(nodes), tuple(by_reason(left_out)), tuple(problems), dict(sorted(untested.items())))


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """
    A line for each reason, with the nodes that it is about.
    """
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(reason, []).append(name)
    return [f"{reason}: {counted(found)}" for reason, found in sorted(names.items())]


def _left_out(item: Mapping[str, Any], choice: Choice, selected: Collection[str] | None) -> str | None:
    """
    The first reason why a node is no candidate: it is no Windows node, or the user does not want it. What it does not
    report of itself is no such reason.
    """
    if not _windows(item):
        return f"not Windows but {_os(item)}" if _os(item) else f"without the label {OS_LABEL}"
    if _name(item) in choice.leave_out:
        return "by --leave-out"
    if choice.names and _name(item) not in choice.names:
        return "not named by --node"
    if selected is not None and _name(item) not in selected:
        return f"not matched by --node-selector {choice.selector}"
    sku, found = os_sku(item), build(item)
    if choice.os_skus and (sku or not _mute(item)) and sku.lower() not in {one.lower() for one in choice.os_skus}:
        return f"OS SKU {sku or 'unknown'}, not {' or '.join(choice.os_skus)}"
    if choice.builds and (found or not _mute(item)) and not any(meets(found, wanted) for wanted in choice.builds):
        return f"Windows build {found or 'unknown'}, not {' or '.join(choice.builds)}"
    return None


def _untested(item: Mapping[str, Any], choice: Choice) -> str | None:
    """
    Why a Windows node that the user did not leave out cannot be tested; None for one that can.
    """
    if _os(item) != "windows":
        return f"a Windows node without the label {OS_LABEL}=windows"
    if (reason := not_ready(item)) is not None:
        return reason
    if _mute(item):
        return "says nothing of its capacity or its software"
    if item.get("spec", {}).get("unschedulable") and _name(item) not in choice.names:
        return "cordoned"
    return None


def _mute(item: Mapping[str, Any]) -> bool:
    """
    Whether a node reports no capacity or no software. The API server fills in empty texts.
    """
    status = item.get("status", {})
    return not status.get("capacity", {}).get("cpu") or not any(status.get("nodeInfo", {}).values())


def _remedy(reason: str) -> str:
    if reason.startswith(("not ready", "unreachable")):
        return "`kubectl describe node` says why"
    if reason.startswith("a Windows node"):
        return "its kubelet sets that label: restart it, or see what takes the label away"
    return "name another --node, or leave the other option away"


def not_ready(item: Mapping[str, Any]) -> str | None:
    """
    Why a node is not ready, in the words of its condition; None for one that is.
    """
    taints = {taint["key"] for taint in item.get("spec", {}).get("taints") or ()}
    if "node.kubernetes.io/unreachable" in taints:
        return "unreachable: its kubelet has not reported for a while"
    conditions = [one for one in item.get("status", {}).get("conditions") or () if one["type"] == "Ready"]
    if not conditions:
        return "not ready: its kubelet has never reported"
    if conditions[0]["status"] == "True":
        return None
    said = conditions[0].get("message") or conditions[0].get("reason") or f"Ready is {conditions[0]['status']}"
    return f"not ready: {' '.join(str(said).split())}"


def os_sku(item: Mapping[str, Any]) -> str:
    """
    ``Windows2022``: AKS' label, else from the OS image (``Windows Server 2022 Datacenter``); empty where neither says.
    """
    if label := (item["metadata"].get("labels") or {}).get(SKU_LABEL):
        return str(label)
    year = _SERVER_YEAR.search(item.get("status", {}).get("nodeInfo", {}).get("osImage", ""))
    return f"Windows{year[1]}" if year else ""


def build(item: Mapping[str, Any]) -> str:
    """
    ``20348.2700``: from the kernel version, else, without the revision, from the label of the kubelet.
    """
    kernel = item.get("status", {}).get("nodeInfo", {}).get("kernelVersion", "")
    label = (item["metadata"].get("labels") or {}).get(BUILD_LABEL, "")
    return windows_build(kernel) or windows_build(label)


def breaches(expectations: Expectations, server: str, nodes: Iterable[NodeFacts]) -> list[str]:
    """
    A problem for each expectation that the API server or a node does not meet, with all that do not.
    """
    nodes = list(nodes)
    there = {
        "containerd": {node.name: _containerd(node) for node in nodes},
        "build": {node.name: windows_build(node.kernel) or node.kernel for node in nodes},
        "kubernetes": {"the API server": server, **{node.name: node.kubelet for node in nodes}},
    }
    problems = []
    if expectations.nodes not in {None, len(nodes)}:
        remedy = "the lines above say why others are left out"
        problems.append(problem(f"--expect-nodes {expectations.nodes} is not met: there are {len(nodes)}", remedy))
    for name, found in there.items():
        expected = getattr(expectations, name)
        wrong = [f"{who} has {has}" for who, has in found.items() if expected and not meets(has, expected)]
        if wrong:
            remedy = "choose the nodes that have it, or change the expectation"
            problems.append(problem(f"--expect-{name} {expected} is not met: {', '.join(wrong)}", remedy))
    return problems


def _containerd(node: NodeFacts) -> str:
    runtime, _, version = node.container_runtime.partition("://")
    return node.stated_containerd or version if runtime == "containerd" else node.container_runtime


def with_stated(nodes: Iterable[NodeFacts], choice: Choice) -> tuple[NodeFacts, ...]:
    """
    The nodes, and of those whose containerd version cannot be read the one that the user states. Raises UsageError when
    what the user states contradicts what a node reports.
    """
    found = []
    for node in nodes:
        stated = choice.stated.get(node.name, choice.stated.get(""))
        runtime, _, version = node.container_runtime.partition("://")
        if stated and runtime == "containerd" and unreadable(node) is not None:
            found.append(replace(node, stated_containerd=stated))
            continue
        if stated and not (runtime == "containerd" and meets(version, stated)):
            raise UsageError(
                f"--containerd-version {stated} contradicts node {node.name}, which reports {node.container_runtime}",
                "state it only of nodes whose version cannot be read: NODE=VERSION",
            )
        found.append(node)
    return tuple(found)


def counted(names: Sequence[str]) -> str:
    """
    The first names and how many there are: ``5 nodes (a, b, c and 2 more)``.
    """
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    listed = ", ".join(names[:SHOWN_NAMES]) + more
    return listed if len(names) == 1 else f"{len(names)} nodes ({listed})"


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _os(item: Mapping[str, Any]) -> str:
    return str((item["metadata"].get("labels") or {}).get(OS_LABEL, ""))


def _windows(item: Mapping[str, Any]) -> bool:
    """
    Whether it is a Windows node, be it only by what its kubelet reports, or by the label of before Kubernetes 1.14.
    """
    reported = item.get("status", {}).get("nodeInfo", {}).get("operatingSystem", "")
    labelled = (item["metadata"].get("labels") or {}).get(f"beta.{OS_LABEL}", "")
    return "windows" in {str(one).lower() for one in (_os(item), reported, labelled)}
