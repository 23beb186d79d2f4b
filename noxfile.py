"""
What can be done here; ``nox -l`` lists it. Arguments behind ``--`` go to the program.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import NoReturn

import nox
import nox.command

nox.options.sessions = ["conformance"]
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
# Longer than the program needs to clean up after Ctrl-C: nodes may take their time to let pods go.
CLEAN_UP_SECONDS = 300
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
    try:
        python = _install(session, ROOT / ".nox" / "suite")
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
    Run a command with every exit code accepted, and return it.
    """
    code = 0

    class Codes:
        """
        Accepts every code and remembers it.
        """

        def __contains__(self, value: object) -> bool:
            nonlocal code
            code = int(str(value))
            return True

        def __iter__(self):  # type: ignore[no-untyped-def] # noqa: ANN204
            return iter(())

    session.run(
        *command,
        success_codes=Codes(),
        env={"HOSTPROCESS_CONFORMANCE_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"},
        interrupt_timeout=CLEAN_UP_SECONDS,
        terminate_timeout=CLEAN_UP_SECONDS,
        external=True,
    )
    return code


@nox.session(venv_backend="none")
def conformance(session: nox.Session) -> None:
    """Judge Windows nodes: by default simulated ones; -- --target existing for the cluster of your kubeconfig."""
    _program(session)


@nox.session(default=False, venv_backend="none")
def judge(session: nox.Session) -> None:
    """Judge kept evidence again, without a cluster: nox -s judge -- artifacts/<run>."""
    _program(session, "judge")


@nox.session(default=False, venv_backend="none")
def up(session: nox.Session) -> None:
    """Leave an embedded cluster running for kubectl, and print its kubeconfig's path."""
    _program(session, "up")


@nox.session(default=False, venv_backend="none")
def down(session: nox.Session) -> None:
    """Take away the cluster that `up` left."""
    _program(session, "down")


@nox.session(default=False, venv_backend="none")
def catalogue(session: nox.Session) -> None:
    """Write conformance/catalogue.md and .json from the pages; -- --check only verifies them."""
    _program(session, "catalogue")


@nox.session(default=False, venv_backend="none")
def tests(session: nox.Session) -> None:
    """Test the suite itself, then its style and types."""
    python = _install(session, ROOT / ".nox" / "tests", "tests", "lint")
    session.run(python, "-m", "pytest", *session.posargs, external=True)
    if not session.posargs:
        _lint(session, python)


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
