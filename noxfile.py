"""
What can be done here; ``nox -l`` lists it. Arguments behind ``--`` go to the program.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import nox
import nox.command

nox.options.sessions = ["conformance"]
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
# The exit code for a target that cannot be tested; 1 would say that something is non-conformant.
CANNOT_TEST = 3


def _wanted(extras: tuple[str, ...]) -> str:
    described = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(f"{described}{extras}{ROOT}".encode()).hexdigest()


def _install(session: nox.Session, environment: Path, *extras: str) -> str:
    """
    Install the project with its pinned dependencies, unless this environment already has just that. The sessions that
    run the program share one environment. Returns its Python.
    """
    python = str(environment / ("Scripts" if os.name == "nt" else "bin") / "python")
    stamp = environment / "installed"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != _wanted(extras):
        session.run(sys.executable, "-m", "virtualenv", "-q", str(environment), external=True)
        extra = f"[{','.join(extras)}]" if extras else ""
        pinned = ("-c", "constraints.txt", "-e", f".{extra}")
        session.run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pinned, external=True)
        stamp.write_text(_wanted(extras), encoding="utf-8")
    return python


def _program(session: nox.Session, *command: str) -> None:
    """
    Run the program and end with its exit code.
    """
    # The Azure SDK is large, and nobody else needs it.
    extras = ("aks",) if {"aks", "--target=aks"} & set(session.posargs) else ()
    try:
        python = _install(session, ROOT / ".nox" / "-".join(("suite", *extras)), *extras)
    except nox.command.CommandFailed:
        session.warn("the suite could not be installed: is there a network, or a mirror for pip?")
        _end(CANNOT_TEST)
    code = _run(session, python, "-m", "conformance", *command, *session.posargs)
    if code:
        _end(code if code > 0 else CANNOT_TEST)


def _end(code: int) -> NoReturn:
    """
    End with this code: nox knows only success and failure, a pipeline needs to know which failure.
    """
    sys.stdout.flush()
    os._exit(code)


def _run(session: nox.Session, *command: str) -> int:
    """
    Run a command to its end and return its exit code.
    """
    session.log(" ".join(command))
    environment = {**os.environ, "HOSTPROCESS_CONFORMANCE_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment) as program:
        # A pipeline that gives up sends SIGTERM to nox alone; Ctrl-C reaches both.
        signal.signal(signal.SIGTERM, lambda *_: program.terminate())
        while True:
            try:
                return program.wait()
            except KeyboardInterrupt:
                continue  # it is cleaning up, and knows how long that may take


@nox.session(venv_backend="none")
def conformance(session: nox.Session) -> None:
    """Judge Windows nodes: by default simulated ones; -- --target existing, aks or kind for real ones."""
    _program(session)


@nox.session(default=False, venv_backend="none")
def judge(session: nox.Session) -> None:
    """Judge kept evidence again, without a cluster: nox -s judge -- artifacts/<run>."""
    _program(session, "judge")


@nox.session(default=False, venv_backend="none")
def up(session: nox.Session) -> None:
    """Leave a cluster running (embedded, or -- --target aks or kind), and print its kubeconfig's path."""
    _program(session, "up")


@nox.session(default=False, venv_backend="none")
def down(session: nox.Session) -> None:
    """Take away the cluster that `up`, or a run that was killed, left."""
    _program(session, "down")


@nox.session(default=False, venv_backend="none")
def cleanup(session: nox.Session) -> None:
    """Take away what killed runs left on an existing cluster and its hosts."""
    _program(session, "cleanup")


@nox.session(default=False, venv_backend="none")
def rbac(session: nox.Session) -> None:
    """Print the least rights that a run needs, as manifests."""
    _program(session, "rbac")


@nox.session(default=False, venv_backend="none")
def images(session: nox.Session) -> None:
    """List every image, with its digest where known."""
    _program(session, "images")


@nox.session(default=False, venv_backend="none")
def catalogue(session: nox.Session) -> None:
    """Write conformance/catalogue.md and .json from the pages; -- --check only verifies them."""
    _program(session, "catalogue")


@nox.session(default=False, venv_backend="none")
def tests(session: nox.Session) -> None:
    """Test the suite itself, then its style and types."""
    python = _install(session, ROOT / ".nox" / "tests", "tests", "lint")
    session.run(python, "-m", "pytest", *(session.posargs or ("-n", "auto", "--dist", "loadgroup")), external=True)
    if not session.posargs:
        _lint(session, python)


@nox.session(default=False, venv_backend="none")
def benchmark(session: nox.Session) -> None:
    """Print what a run costs and how that grows with the nodes; -- --short asserts counts and shapes alone."""
    python = _install(session, ROOT / ".nox" / "tests", "tests", "lint")
    session.run(python, "-m", "tests.benchmark", *session.posargs, external=True)


@nox.session(default=False, venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style and types alone."""
    _lint(session, _install(session, ROOT / ".nox" / "tests", "tests", "lint"))


def _lint(session: nox.Session, python: str) -> None:
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(python, "-m", "mypy", ".", external=True)
    for twin in sorted(ROOT.glob("workloads/*/twin.py")):
        session.run(python, "-m", "mypy", str(twin.relative_to(ROOT)), silent=True, external=True)
