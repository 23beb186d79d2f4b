"""
Which of a cluster's nodes are tested, why each other one is not, and what the user expects of those that are. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import UsageError
from conformance._suite.versions import is_build, is_version, meets, windows_build

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
    (``20348`` or ``20348.2700``). Raises UsageError for what is no SKU or build.
    """

    names: tuple[str, ...] = ()
    selector: str = ""
    os_skus: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for sku in self.os_skus:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", sku):
                raise UsageError(f"--os-sku {sku!r} is not an OS SKU", "write it as the node's label, Windows2022")
        for build in self.builds:
            if not is_build(build):
                raise UsageError(f"--windows-build {build!r} is not a build", "write 20348 or 20348.2700")


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
    The nodes under test as the API gives them, sorted by name; a line for each reason why others are left out; and
    what is wrong with the choice.
    """

    nodes: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def choose(items: Sequence[dict[str, Any]], choice: Choice, selected: Collection[str] | None = None) -> Chosen:
    """
    Choose among all nodes of a cluster; ``selected`` are the names of those that the selector matches, None without a
    selector. A cordoned node is left out unless it is named; a taint alone leaves no node out.
    """
    reasons = {_name(item): _left_out(item, choice, selected) for item in items}
    nodes = sorted((item for item in items if reasons[_name(item)] is None), key=_name)
    by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        if reason is not None:
            by_reason.setdefault(reason, []).append(name)
    left_out = tuple(f"{reason}: {counted(names)}" for reason, names in sorted(by_reason.items()))
    windows = sorted(_name(item) for item in items if _os(item) == "windows")
    problems = [
        problem(f"node {name} cannot be tested: {reason}", _remedy(reason))
        for name, reason in sorted(reasons.items())
        if name in choice.names and reason is not None
    ]
    if absent := sorted(set(choice.names) - set(reasons)):
        there = f"the Windows nodes are: {', '.join(windows) or 'none'}"
        problems.append(problem(f"no node is called {', '.join(absent)}", there))
    if not nodes and not problems:
        wanted = " that is ready" if choice == Choice() else " that is ready and is asked for"
        others = "; ".join(f"{reason}: {counted(names)}" for reason, names in sorted(by_reason.items()))
        remedy = f"a node counts by its label {OS_LABEL}=windows and its condition Ready; --node tests a cordoned one"
        problems.append(problem(f"the cluster has no Windows node{wanted}{f' ({others})' if others else ''}", remedy))
    return Chosen(tuple(nodes), left_out, tuple(problems))


def _left_out(item: Mapping[str, Any], choice: Choice, selected: Collection[str] | None) -> str | None:
    """
    The first reason why a node is not tested; None for one that is.
    """
    if (system := _os(item)) != "windows":
        return f"not Windows but {system}" if system else f"without the label {OS_LABEL}"
    if choice.names and _name(item) not in choice.names:
        return "not named by --node"
    if selected is not None and _name(item) not in selected:
        return f"not matched by --node-selector {choice.selector}"
    if choice.os_skus and os_sku(item).lower() not in {sku.lower() for sku in choice.os_skus}:
        return f"OS SKU {os_sku(item) or 'unknown'}, not {' or '.join(choice.os_skus)}"
    if choice.builds and not any(meets(build(item), wanted) for wanted in choice.builds):
        return f"Windows build {build(item) or 'unknown'}, not {' or '.join(choice.builds)}"
    if (reason := not_ready(item)) is not None:
        return reason
    if not {"capacity", "nodeInfo"} <= item["status"].keys():
        return "says nothing of its capacity or its software"
    if item.get("spec", {}).get("unschedulable") and _name(item) not in choice.names:
        return "cordoned"
    return None


def _remedy(reason: str) -> str:
    if reason.startswith(("not ready", "unreachable")):
        return "`kubectl describe node` says why"
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
    return version.partition("+")[0] if runtime == "containerd" else node.container_runtime


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
