"""
Loads and renders ``workloads/<name>/``. The format is described in ``workloads/README.md``.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from conformance._suite.errors import SuiteError
from conformance._suite.facts import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

# Ten times as fast; every manifest is read once for each node.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FOLDER = Path(__file__).parent.parent.parent / "workloads"
# The digest by which Azure's own container networking builds on it (github.com/Azure/azure-container-networking).
BASE_IMAGE = (
    "mcr.microsoft.com/oss/kubernetes/windows-host-process-containers-base-image:v1.0.0"
    "@sha256:b4c9637e032f667c52d1eccfa31ad8c63f1b035e8639f3f48a510536bf34032b"
)

RESIDUE = "residue"
"""The workload that runs before all others: it reaps, and shows that images can be pulled and kubelets reached."""
UNTIL = {"finished", "running", "settled", "output", "log", "event", "answered"}
_STEP_KEYS = {
    "name", "manifest", "until", "deadline", "probes", "always", "shared", "sample", "requests", "proxy", "log",
    "event", "delete_after", "namespace", "stable", "by_build", "once",
}  # fmt: skip
_PLACEHOLDER = re.compile(r"\$\{([a-z][A-Za-z.-]*)\}")
# CreateProcess takes 32767 characters, but where the shim goes through `cmd /c` cmd's limit holds.
COMMAND_LINE_LIMIT = 8191
VARIABLE_LIMIT = 32767
"""Characters of an environment variable."""


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step of a workload. ``deadline`` and ``stable`` are in seconds.
    """

    name: str
    until: str
    deadline: float
    manifest: str | None = None
    requests: str | None = None
    probes: tuple[str, ...] = ()
    always: bool = False
    shared: bool = False
    sample: bool = False
    delete_after: bool = False
    once: bool = False
    namespace: str = "main"
    stable: float = 3.0
    log: Mapping[str, str] | None = None
    event: Mapping[str, str] | None = None
    proxy: Mapping[str, str] | None = None
    by_build: Mapping[str, str] = field(default_factory=dict)
    """The images that nodes take instead of the manifest's, by the first Windows build that does."""
    images: frozenset[str] = frozenset()
    """Those of its manifest, as documented."""

    def image_on(self, documented: str, build: int) -> str:
        """
        The documented image that a node of this Windows build takes; the suite's own fits all.
        """
        first = max((int(one) for one in self.by_build if int(one) <= build), default=None)
        return documented if first is None or documented == BASE_IMAGE else self.by_build[str(first)]

    def images_on(self, build: int) -> frozenset[str]:
        """
        The images that it needs on a node of this Windows build, as documented.
        """
        return frozenset(self.image_on(image, build) for image in self.images)


@dataclass(frozen=True, slots=True)
class Workload:
    """
    What is put on a node, or sent to the API server, to see something.
    """

    name: str
    scope: Scope
    steps: tuple[Step, ...]
    markers: tuple[str, ...]
    probe: str | None
    digest: str

    @property
    def images(self) -> frozenset[str]:
        """
        The images of its pods on any node, as documented.
        """
        return frozenset(image for step in self.steps for image in (*step.images, *step.by_build.values()))

    @property
    def shared(self) -> bool:
        """
        Whether its objects are created once for all nodes.
        """
        return any(step.shared for step in self.steps)

    def manifests(self, step: Step, placeholders: Mapping[str, str]) -> list[dict[str, Any]]:
        """
        The documents of a step's manifest with every placeholder filled in.
        """
        if step.manifest is None:
            return []
        return _documents(FOLDER / self.name / step.manifest, placeholders)

    def requests(self, step: Step, placeholders: Mapping[str, str]) -> list[dict[str, Any]]:
        """
        The requests of a step of an API workload.
        """
        if step.requests is None:
            return []
        (requests,) = _documents(FOLDER / self.name / step.requests, placeholders)
        return requests  # type: ignore[return-value]

    def probe_environment(self) -> str:
        """
        The probe as it travels in ``$env:PROBE``, packed.
        """
        if self.probe is None:
            raise SuiteError(f"workload {self.name} has no probe")
        return pack((FOLDER / self.probe / "probe.ps1").read_bytes())


@cache
def pack(script: bytes) -> str:
    """
    A script as the bootstrap takes it: SHA-256 (hexadecimal), a colon, base64. Not compressed: packed scripts are what
    malware looks like. Raises SuiteError for one that no environment variable holds.
    """
    packed = f"{hashlib.sha256(script).hexdigest()}:{base64.b64encode(script).decode()}"
    if len(packed) > VARIABLE_LIMIT:
        raise SuiteError(f"a script of {len(script)} bytes does not fit into an environment variable")
    return packed


@cache
def bootstrap_command() -> tuple[str, ...]:
    """
    The command that runs the probe in ``$env:PROBE`` under Windows PowerShell.
    """
    script = (FOLDER / "bootstrap.ps1").read_text(encoding="ascii")
    code = "\n".join(line for line in script.splitlines() if not line.startswith("#"))
    encoded = base64.b64encode(code.encode("utf-16-le")).decode()
    command = ("powershell.exe", "-NoProfile", "-NonInteractive", "-EncodedCommand", encoded)
    if len("cmd /c " + " ".join(command)) > COMMAND_LINE_LIMIT:
        raise SuiteError("the bootstrap does not fit into a command line")
    return command


def _documents(path: Path, placeholders: Mapping[str, str]) -> list[dict[str, Any]]:
    def fill(found: re.Match[str]) -> str:
        if found[1] not in placeholders:
            raise SuiteError(f"{path.parent.name}/{path.name}: unknown placeholder ${{{found[1]}}}")
        return placeholders[found[1]]

    text = _PLACEHOLDER.sub(fill, path.read_text(encoding="utf-8"))
    return [document for document in yaml.load_all(text, _LOADER) if document is not None]


@cache
def load(name: str) -> Workload:
    """
    Load one workload. Raises SuiteError that says what is wrong with its ``workload.toml``.
    """
    folder = FOLDER / name
    try:
        table = tomllib.loads((folder / "workload.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SuiteError(f"workload {name}: {error}") from error
    if unknown := table.keys() - {"scope", "probe", "markers", "step"}:
        raise SuiteError(f"workload {name}: unknown keys {sorted(unknown)}")
    steps = []
    for entry in table.get("step", ()):
        if unknown := entry.keys() - _STEP_KEYS:
            raise SuiteError(f"workload {name}, step {entry.get('name')}: unknown keys {sorted(unknown)}")
        if entry.get("until") not in UNTIL:
            raise SuiteError(f"workload {name}, step {entry.get('name')}: until must be one of {sorted(UNTIL)}")
        images = frozenset(_images(folder / entry["manifest"]) if "manifest" in entry else ())
        steps.append(Step(**{**entry, "probes": tuple(entry.get("probes", ()))}, images=images))
    if not steps:
        raise SuiteError(f"workload {name} has no step")
    probe = table.get("probe") or (name if (folder / "probe.ps1").exists() else None)
    return Workload(
        name,
        Scope(table.get("scope", "node")),
        tuple(steps),
        tuple(table.get("markers", ())),
        probe,
        _digest(folder, probe),
    )


def _images(path: Path) -> set[str]:
    placed = (
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in yaml.load_all(path.read_text(encoding="utf-8"), _LOADER)
        if document and document["kind"] in {"Pod", "DaemonSet"}
    )  # fmt: skip
    named = {one["image"] for spec in placed for one in [*spec.get("initContainers", ()), *spec["containers"]]}
    return {BASE_IMAGE if image == "${image}" else image for image in named}


def _digest(folder: Path, probe: str | None) -> str:
    found = hashlib.sha256()
    files = {path for path in folder.iterdir() if path.suffix in {".toml", ".yaml", ".ps1"}}
    if probe:
        files |= {folder.parent / probe / "probe.ps1", folder.parent / "bootstrap.ps1"}
    for path in sorted(files):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return "sha256:" + found.hexdigest()


def names() -> list[str]:
    """
    The names of all workloads, sorted. A folder that only holds a probe is none.
    """
    return sorted(path.parent.name for path in FOLDER.glob("*/workload.toml"))
