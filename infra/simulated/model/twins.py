"""
Finds what runs in place of a probe: the twin.py beside the probe.ps1 with a given digest.
"""

from __future__ import annotations

import importlib.util
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from infra.simulated.model.view import View


class Twin(Protocol):
    """
    A twin's face: its facts in order, and optionally ``after(view)``, awaited once they are printed.
    """

    FACTS: dict[str, Callable[[View], Awaitable[Any]]]
    __file__: str


_known: dict[Path, tuple[int, str]] = {}
_loaded: dict[tuple[Path, int], Twin] = {}


def is_bootstrap(workloads: Path, text: str) -> bool:
    """
    Whether this is ``bootstrap.ps1`` without its comments.
    """
    lines = (workloads / "bootstrap.ps1").read_text(encoding="ascii").splitlines()
    return text.splitlines() == [line for line in lines if not line.startswith("#")]


def find(workloads: Path, digest: str) -> Twin | None:
    """
    The twin of the probe whose text has this SHA-256 (hexadecimal), None when no workload has such a probe.
    """
    for probe in sorted(workloads.glob("*/probe.ps1")):
        if _digest(probe) == digest and (twin := probe.with_name("twin.py")).is_file():
            return _load(twin)
    return None


def _digest(probe: Path) -> str:
    changed = probe.stat().st_mtime_ns
    if _known.get(probe, (0, ""))[0] != changed:
        _known[probe] = (changed, sha256(probe.read_bytes()).hexdigest())
    return _known[probe][1]


def _load(path: Path) -> Twin:
    key = (path, path.stat().st_mtime_ns)
    if key not in _loaded:
        name = f"workloads_twin_{path.parent.name.replace('-', '_')}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded")
        module: Any = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        _loaded[key] = module
    return _loaded[key]
