"""
``nox -s benchmark``: what a run costs and how that grows with the nodes, on the embedded cluster, as ratios inside one
run. ``-- 10 30 100`` names the sizes; ``-- --short`` runs two small ones and asserts counts and shapes, never times.

Seconds are of this machine and of what else it does; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance._suite import workload
from conformance._suite.facts import Scope
from conformance._suite.judge.matrix import pages
from conformance._suite.timings import NAME
from conformance._suite.workload import RESIDUE
from tests.opening import opening_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (10, 30, 100, 300)
SHORT = (2, 4)
ROLES = {
    "kube-apiserver": "API server", "etcd": "etcd", "kube-controller-manager": "controllers",
    "kube-scheduler": "controllers", "infra.simulated.node": "nodes", "infra.simulated.supervisor": "supervisor",
}  # fmt: skip
"""Who a process of the run is, by what its command line names."""
SIMULATION = ("API server", "etcd", "nodes")
TICK = os.sysconf("SC_CLK_TCK")
EVERY = 0.5
"""Seconds between two looks at the processes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """
    CPU seconds since their start and MiB of memory of the run's processes by their role, and how long the machine's
    processors were busy with anything at all.
    """

    at: float
    cpu: defaultdict[str, float]
    memory: defaultdict[str, float]
    busy: float


def look(root: int) -> Sample:
    """
    A sample of a process and all that descend from it.
    """
    parents: dict[int, int] = {}
    times: dict[int, tuple[float, float]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(fields[1])
            times[int(path.name)] = (
                (int(fields[11]) + int(fields[12])) / TICK,
                int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
            )
    cpu: defaultdict[str, float] = defaultdict(float)
    memory: defaultdict[str, float] = defaultdict(float)
    for process in times:
        ancestor = process
        while ancestor not in {0, root}:
            ancestor = parents.get(ancestor, 0)
        with contextlib.suppress(OSError):
            if ancestor == root:
                command = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
                # A program that it starts is for a moment a copy of it.
                role = "observer" if process == root else role_of(command)
                cpu[role] += times[process][0]
                memory[role] += times[process][1]
    busy = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(busy[3]) + int(busy[4])
    return Sample(time.time(), cpu, memory, (sum(map(int, busy)) - idle) / TICK)


def role_of(command: list[str]) -> str:
    """
    Who a process is, from its command line.
    """
    words = {Path(word).name for word in command}
    return next((role for name, role in ROLES.items() if name in words), "other")


def run(nodes: int, out: Path) -> tuple[int, list[Sample]]:
    """
    One whole default run on so many nodes: its exit code, and the samples taken meanwhile.
    """
    command = [sys.executable, "-m", "conformance", "--sim-nodes", f"2.3={nodes}", "--out", str(out)]
    samples: list[Sample] = []
    over = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"}) as program:

        def watch() -> None:
            while not over.wait(EVERY):
                samples.append(look(program.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        code = program.wait()
        over.set()
        watching.join()
    return code, samples


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What one run cost.
    """

    nodes: int
    code: int
    timings: dict[str, Any]
    results: list[dict[str, Any]]
    pieces: list[tuple[float, float]]
    """When each piece of work, one workload on one node, began and ended; without those that run before all others."""
    sizes: dict[str, int]
    """Bytes by what is at the top of the output folder."""
    shared: int
    """Files of what was sent once for all nodes."""
    shares: dict[str, float]
    """Parts of all processors' time while it observed, by role; what is not the run's is ``elsewhere``."""
    memory: dict[str, float]
    """The most MiB by role."""
    opening: float | None
    """Seconds until the Allure page shows its results; None without a browser."""

    @property
    def open(self) -> Counter[str]:
        """
        How many results are neither conformant nor not applicable, by the code of their reason.
        """
        closed = {"conformant", "not-applicable"}
        return Counter(one["reasonCode"] for one in self.results if one["verdict"] not in closed)

    @property
    def pods(self) -> int:
        return int(self.timings["pods"])

    @property
    def cpu(self) -> float:
        return float(self.timings["phases"]["observe"]["cpuSeconds"])

    @property
    def slowest(self) -> float:
        return max(end - start for start, end in self.pieces)

    @property
    def work(self) -> float:
        """
        Seconds from the first piece's beginning to the last one's end.
        """
        return max(end for _, end in self.pieces) - min(start for start, _ in self.pieces)


def measure(nodes: int, out: Path) -> Figures:
    """
    Run and gather the figures.
    """
    code, samples = run(nodes, out)
    timings = json.loads((out / NAME).read_text(encoding="utf-8"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in out.rglob("evidence.json")]
    page = out / "allure-report" / "index.html"
    observed = timings["phases"]["observe"]
    began = moment(observed["began"])
    within = [one for one in samples if began <= one.at <= began + observed["seconds"]]
    return Figures(
        nodes, code, timings, json.loads((out / "verdict.json").read_text(encoding="utf-8"))["results"],
        [(moment(one["started"]), moment(one["ended"])) for one in records if one["workload"] != RESIDUE],
        {path.name: size_of(path) for path in sorted(out.iterdir())}, len(list(out.glob("cluster/*/*.sent.json"))),
        shares(within), {role: max(one.memory[role] for one in samples) for role in within[-1].memory},
        opening_seconds(page) if page.is_file() else None,
    )  # fmt: skip


def shares(samples: list[Sample]) -> dict[str, float]:
    """
    Who used how much of all processors between the first sample and the last.
    """
    first, last = samples[0], samples[-1]
    whole = (last.at - first.at) * (os.cpu_count() or 1)
    found = {role: (last.cpu[role] - first.cpu[role]) / whole for role in last.cpu}
    return {**found, "elsewhere": (last.busy - first.busy) / whole - sum(found.values())}


def moment(text: str) -> float:
    """
    Seconds since 1970 of an ISO 8601 time.
    """
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def size_of(path: Path) -> int:
    """
    The bytes of a file, or of all files below a folder.
    """
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def table(figures: list[Figures]) -> str:
    """
    All figures as text, a column for each size. What grows is told for what came on top of the first size, so that
    what any run costs does not hide it.
    """
    first = figures[0]

    def grown(value: Callable[[Figures], float], per: Callable[[Figures], float]) -> list[float]:
        return [value(first) / per(first)] + [
            (value(one) - value(first)) / (per(one) - per(first)) for one in figures[1:]
        ]

    cpu = grown(lambda one: one.cpu, lambda one: one.pods)
    rows: list[tuple[str, list[str]]] = [
        ("nodes", [f"{one.nodes}" for one in figures]),
        ("pods", [f"{one.pods}" for one in figures]),
        ("exit code", [f"{one.code}" for one in figures]),
        ("results that are open", [", ".join(f"{n} {code}" for code, n in one.open.items()) or "0" for one in figures]),
        ("requests a pod (goal <= 15)", [f"{one.timings['requests'] / one.pods:.2f}" for one in figures]),
        ("observer's CPU a pod, ms", [f"{one.cpu / one.pods * 1000:.1f}" for one in figures]),
        ("  against the smallest of them (goal <= 1.3)", against([one.cpu / one.pods for one in figures])),
        ("  of the pods on top of the first size, ms", [f"{seconds * 1000:.1f}" for seconds in cpu]),
        ("work, first to last / slowest piece (goal <= 1.05)", [f"{one.work / one.slowest:.3f}" for one in figures]),
        ("whole observation / slowest piece", [
            f"{one.timings['phases']['observe']['seconds'] / one.slowest:.3f}" for one in figures]),
    ]  # fmt: skip
    for phase in first.timings["phases"]:
        found = [one.timings["phases"].get(phase, {}).get("seconds", 0) for one in figures]
        rows.append((f"{phase}, s", [f"{seconds:.1f}" for seconds in found]))
    rows += [
        (f"share of all processors: {role}", [f"{one.shares.get(role, 0):.0%}" for one in figures])
        for role in sorted({role for one in figures for role in one.shares})
    ]
    for roles in (SIMULATION, (*SIMULATION, "controllers")):
        together = [sum(one.shares.get(role, 0) for role in roles) for one in figures]
        rows.append((f"  {', '.join(roles)} together", [f"{share:.0%}" for share in together]))
    for role in ("observer", "nodes", "API server", "etcd"):
        used = [one.memory.get(role, 0) for one in figures]
        more = grown(lambda one, role=role: one.memory.get(role, 0), lambda one: one.nodes)  # type: ignore[misc]
        rows.append((f"memory, MiB: {role}", [f"{mebibytes:.0f}" for mebibytes in used]))
        rows.append(("  a node on top of the first size", [f"{mebibytes:.1f}" for mebibytes in more]))
    rows += [
        (f"{name}, KiB a node", [f"{one.sizes.get(name, 0) / one.nodes / 1024:.1f}" for one in figures])
        for name in figures[-1].sizes
    ]
    opened = ["not measured" if one.opening is None else f"{one.opening:.2f}" for one in figures]
    rows.append(("the Allure page opens after, s", opened))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  " + "  ".join(f"{text:>12}" for text in texts) for name, texts in rows)


def against(values: list[float]) -> list[str]:
    """
    Each value as a multiple of the smallest.
    """
    return [f"{value / min(values):.2f}" for value in values]


def check(small: Figures, large: Figures) -> None:
    """
    What must hold whatever the machine does: counts, and that everything is there.
    """
    workloads = [workload.load(name) for name in workload.names()]
    on_nodes = [one for one in workloads if one.scope is Scope.NODE]
    for one in (small, large):
        assert (one.code, one.open) == (0, Counter()), one
        rows = Counter(result["node"] for result in one.results)
        scopes = Counter(requirement.scope for requirement in pages().requirements.values())
        assert sorted(rows.values()) == sorted([scopes[Scope.CLUSTER], *[scopes[Scope.NODE]] * one.nodes])
        # Every workload but the first began before any had ended: nothing waits for anything.
        assert len(one.pieces) == (len(on_nodes) - 1) * one.nodes + len(workloads) - len(on_nodes)
        assert max(start for start, _ in one.pieces) <= min(end for _, end in one.pieces)
        assert one.shared == sum(workload.shared for workload in workloads)
        assert {"up", "preflight", "observe", "judge", "verdict.json", "junit.xml", "summary.md"} <= {
            *one.timings["phases"]
        }
        assert {"run.json", "nodes", "cluster", "verdict.json", "junit.xml", "summary.md", NAME} <= {*one.sizes}
        assert {"observer", "nodes", "API server", "etcd"} <= {*one.shares}
        assert one.timings["nodes"] == one.nodes
        assert all(seconds["seconds"] >= 0 for seconds in one.timings["phases"].values())
    more = large.nodes - small.nodes
    pods = sum(step.manifest is not None for one in on_nodes for step in one.steps)
    assert large.pods - small.pods == pods * more
    requests = (large.timings["requests"] - small.timings["requests"]) / (pods * more)
    # It is created and its logs are read; a few are deleted one by one, or asked through the proxy.
    assert 2 <= requests <= 6, requests


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s benchmark --", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="how many nodes, smallest first")
    parser.add_argument("--short", action="store_true", help="two small sizes; assert counts and shapes")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for nodes in SHORT if options.short else options.sizes:
            out = Path(folder) / str(nodes)
            print(f"{nodes} nodes …", flush=True)
            figures.append(measure(nodes, out))
            shutil.rmtree(out)
    print(table(figures))
    if options.short:
        check(*figures)


if __name__ == "__main__":
    main()
