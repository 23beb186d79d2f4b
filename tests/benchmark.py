"""
``nox -s benchmark``: what a run costs and how that grows with the nodes, on the embedded cluster, as ratios inside one
run. ``-- 10 30 100`` names the sizes; ``-- --short`` runs two small ones and asserts counts and shapes, never times.

Seconds are of this machine and of what else it does; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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
from typing import Any

from conformance._suite.judge.matrix import pages
from conformance._suite.timings import NAME
from tests.opening import opening_seconds

SIZES = (10, 30, 100, 300)
SHORT = (2, 4)
ROLES = {
    "kube-apiserver": "API server", "etcd": "etcd", "kube-controller-manager": "controllers",
    "kube-scheduler": "controllers", "infra.simulated.node": "nodes", "infra.simulated.supervisor": "supervisor",
    "conformance": "observer",
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
                role = role_of(Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0"))
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
    open: Counter[str]
    """How many results are not conformant although they apply, by the code of their reason."""
    sizes: dict[str, int]
    """Bytes by what is at the top of the output folder."""
    slowest: float
    """Seconds of the slowest piece of work, one workload on one node."""
    slowest_workload: float
    """Seconds from the beginning to the end of the slowest workload, over all of its nodes."""
    wall: float
    """Seconds from the first of all workloads to the end of the last."""
    shares: dict[str, float]
    """Parts of all processors' time while it observed, by role; what is not the run's is ``elsewhere``."""
    memory: dict[str, float]
    """The most MiB by role."""
    opening: float | None
    """Seconds until the Allure page shows its results; None without a browser."""

    @property
    def cpu_per_pod(self) -> float:
        return float(self.timings["phases"]["observe"]["cpuSeconds"] / self.timings["pods"])

    @property
    def requests_per_pod(self) -> float:
        return float(self.timings["requests"] / self.timings["pods"])


def measure(nodes: int, out: Path) -> Figures:
    """
    Run and gather the figures.
    """
    code, samples = run(nodes, out)
    timings = json.loads((out / NAME).read_text(encoding="utf-8"))
    spans = defaultdict(list)
    for path in out.rglob("evidence.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["workload"] != "residue":  # it runs before all others, to find out whether they can
            spans[record["workload"]].append((moment(record["started"]), moment(record["ended"])))
    pieces = list(itertools.chain.from_iterable(spans.values()))
    page = out / "allure-report" / "index.html"
    observed = timings["phases"]["observe"]
    began = moment(observed["began"])
    within = [one for one in samples if began <= one.at <= began + observed["seconds"]]
    return Figures(
        nodes, code, timings, open_results(out), {path.name: size_of(path) for path in sorted(out.iterdir())},
        max(end - start for start, end in pieces),
        max(max(end for _, end in each) - min(start for start, _ in each) for each in spans.values()),
        max(end for _, end in pieces) - min(start for start, _ in pieces),
        shares(within), {role: max(one.memory[role] for one in samples) for role in within[-1].memory},
        opening_seconds(page) if page.is_file() else None,
    )  # fmt: skip


def open_results(out: Path) -> Counter[str]:
    """
    The codes of the reasons of what is neither conformant nor not applicable.
    """
    results = json.loads((out / "verdict.json").read_text(encoding="utf-8"))["results"]
    return Counter(one["reasonCode"] for one in results if one["verdict"] not in {"conformant", "not-applicable"})


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
    All figures as text, a column for each size.
    """
    base = figures[0].cpu_per_pod
    rows: list[tuple[str, list[str]]] = [
        ("nodes", [f"{one.nodes}" for one in figures]),
        ("pods", [f"{one.timings['pods']}" for one in figures]),
        ("exit code", [f"{one.code}" for one in figures]),
        ("results that are open", [", ".join(f"{n} {code}" for code, n in one.open.items()) or "0" for one in figures]),
        ("requests a pod (goal <= 15)", [f"{one.requests_per_pod:.2f}" for one in figures]),
        ("observer's CPU a pod, ms", [f"{one.cpu_per_pod * 1000:.1f}" for one in figures]),
        ("  against the first size (goal <= 1.3)", [f"{one.cpu_per_pod / base:.2f}" for one in figures]),
        ("wall / slowest piece of work (goal <= 1.05)", [f"{one.wall / one.slowest:.3f}" for one in figures]),
        ("wall / slowest workload on all nodes", [f"{one.wall / one.slowest_workload:.3f}" for one in figures]),
    ]
    for phase in figures[0].timings["phases"]:
        found = [one.timings["phases"].get(phase, {}).get("seconds", 0) for one in figures]
        rows.append((f"{phase}, s", [f"{seconds:.1f}" for seconds in found]))
    rows += [
        (f"share of all processors: {role}", [f"{one.shares.get(role, 0):.0%}" for one in figures])
        for role in sorted({role for one in figures for role in one.shares})
    ]
    together = [sum(one.shares.get(role, 0) for role in SIMULATION) for one in figures]
    rows.append((f"  {', '.join(SIMULATION)} together", [f"{share:.0%}" for share in together]))
    rows += [
        (f"memory a node, MiB: {role}", [f"{one.memory.get(role, 0) / one.nodes:.1f}" for one in figures])
        for role in ("observer", "nodes", "API server", "etcd")
    ]
    rows += [
        (f"{name}, KiB a node", [f"{one.sizes.get(name, 0) / one.nodes / 1024:.1f}" for one in figures])
        for name in figures[-1].sizes
    ]
    opened = ["not measured" if one.opening is None else f"{one.opening:.2f}" for one in figures]
    rows.append(("the Allure page opens after, s", opened))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  " + "  ".join(f"{text:>12}" for text in texts) for name, texts in rows)


def check(small: Figures, large: Figures) -> None:
    """
    What must hold whatever the machine does: counts, and that everything is there.
    """
    for one in (small, large):
        assert (one.code, one.open) == (0, Counter()), one
        assert one.requests_per_pod <= 15, one  # the goal; each pod costs about three
        assert {"up", "preflight", "observe", "judge", "verdict.json", "junit.xml", "summary.md"} <= one.timings[
            "phases"
        ].keys()
        assert {"run.json", "nodes", "cluster", "verdict.json", "junit.xml", "summary.md", NAME} <= one.sizes.keys()
        assert {"observer", "nodes", "API server", "etcd"} <= one.shares.keys()
        assert one.timings["nodes"] == one.nodes
    more = large.nodes - small.nodes
    pods = large.timings["pods"] - small.timings["pods"]
    assert pods % more == 0, (small, large)
    assert (large.timings["requests"] - small.timings["requests"]) / pods <= 15
    scopes = Counter(str(one.scope) for one in pages().requirements.values())
    for one in (small, large):
        results = one.sizes["verdict.json"]
        assert results > 200 * (scopes["node"] * one.nodes + scopes["cluster"])


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
