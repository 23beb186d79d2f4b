"""
What a node counts, in the text format that is scraped from a kubelet.
"""

from __future__ import annotations

from collections import Counter

_HELP = {
    "kubelet_started_containers_total": "[ALPHA] Cumulative number of containers started",
    "kubelet_started_containers_errors_total": "[ALPHA] Cumulative number of errors when starting containers",
    "kubelet_started_host_process_containers_total": (
        "[ALPHA] Cumulative number of hostprocess containers started. This metric will only be collected on Windows."
    ),
    "kubelet_started_host_process_containers_errors_total": (
        "[ALPHA] Cumulative number of errors when starting hostprocess containers. "
        "This metric will only be collected on Windows."
    ),
    "kubelet_started_pods_total": "[ALPHA] Cumulative number of pods started",
}

_TYPES = {"initContainers": "init_container", "containers": "container", "ephemeralContainers": "ephemeral_container"}


class Metrics:
    """
    One node's counters. A counter is absent until it is first used.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def _count(self, name: str, **labels: str) -> None:
        self._counts[name, tuple(sorted(labels.items()))] += 1

    def pod_started(self) -> None:
        """
        A pod's sandbox has been made.
        """
        self._count("kubelet_started_pods_total")

    def container_starting(self, kind: str, *, host_process: bool) -> None:
        """
        A start is about to be tried: counted before the outcome is known, as the kubelet does.
        """
        self._count("kubelet_started_containers_total", container_type=_TYPES[kind])
        if host_process:
            self._count("kubelet_started_host_process_containers_total", container_type=_TYPES[kind])

    def container_failed(self, kind: str, code: str, *, host_process: bool) -> None:
        """
        The start has failed with ``code`` (the waiting reason).
        """
        self._count("kubelet_started_containers_errors_total", container_type=_TYPES[kind], code=code)
        if host_process:
            self._count("kubelet_started_host_process_containers_errors_total", container_type=_TYPES[kind], code=code)

    def text(self, gauges: dict[str, int]) -> str:
        """
        Everything as Prometheus text; ``gauges`` are values of the moment.
        """
        lines: list[str] = []
        for name in sorted({name for name, _ in self._counts}):
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} counter"]
            for (of, labels), count in sorted(self._counts.items()):
                if of == name:
                    shown = ",".join(f'{key}="{value}"' for key, value in labels)
                    lines.append(f"{name}{{{shown}}} {count}" if shown else f"{name} {count}")
        for name, value in sorted(gauges.items()):
            lines += [f"# TYPE {name} gauge", f"{name} {value}"]
        return "\n".join(lines) + "\n"
