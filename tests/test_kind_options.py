"""
What `--target kind` refuses before anything is made, what it would make, and that its pinned versions are whole.
"""

from __future__ import annotations

import argparse
import getpass
import gzip
import hashlib
import http.server
import io
import json
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from filelock import FileLock

from conformance._suite.errors import TargetError, UsageError
from conformance._suite.workload import BASE_IMAGE, pack
from infra import kind
from infra.kind import api, state
from infra.kind.settings import PINNED, Published, load_versions, read
from infra.windows import Artifact, Plan
from infra.windows.machine import ROOT as ROOT_THERE
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST = "ab" * 32
GOOD = ("--kind-api-address", "192.0.2.10", "--windows-host", "192.0.2.20")
SCRIPTS = sorted(api.MANIFESTS.glob("*.ps1"))


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    kind.add_options(parser.add_argument_group("kind"))
    return parser.parse_args(given)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--windows-host", "win"), "--kind-api-address is missing"),
        ((*GOOD, "--kind-api-address", "127.0.0.1"), "no other machine reaches this host"),
        ((*GOOD, "--kind-api-address", "0.0.0.0"), "no other machine reaches this host"),
        ((*GOOD, "--kind-api-address", "linux.example"), "is no IPv4 address"),
        ((*GOOD, "--kind-api-port", "70000"), "--kind-api-port 70000 is no port"),
        ((*GOOD, "--kind-name", "Upper"), "is no name for a cluster"),
        ((*GOOD, "--kind-certificate-name", "a b"), "neither a host's name nor an address"),
        (("--kind-api-address", "192.0.2.10"), "needs a Windows machine"),
        ((*GOOD, "--windows-host", "https://win"), "neither a host's name nor an address"),
        ((*GOOD, "--windows-port", "0"), "--windows-port 0 is no port"),
        ((*GOOD, "--windows-user", " "), "--windows-user is empty"),
        ((*GOOD, "--windows-transport", "kerberos"), "ntlm or basic"),
        ((*GOOD, "--windows-ca", "/nowhere.pem"), "holds no certificate to trust"),
        ((*GOOD, "--windows-ca", "/nowhere.pem", "--windows-no-verify"), "contradict each other"),
        ((*GOOD, "--windows-containerd", "/nowhere.tar.gz"), "cannot be read"),
        ((*GOOD, "--windows-containerd", "http://x/c.tar.gz"), "is not fetched by https"),
        ((*GOOD, "--windows-containerd", "https://x/c.tar.gz"), "a URL without a digest"),
        ((*GOOD, "--windows-containerd-sha256", DIGEST), "without --windows-containerd"),
        ((*GOOD, "--windows-containerd", "https://x/c", "--windows-containerd-sha256", "abc"), "is no SHA-256"),
        ((*GOOD, "--kind-versions", "/nowhere.toml"), "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(given: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as refused:
        kind.validate(options(*given))
    assert "\n" not in str(refused.value)


def test_a_local_archive_has_its_digest_computed_and_checked(tmp_path: Path) -> None:
    archive = tmp_path / "containerd.tar.gz"
    archive.write_bytes(gzip.compress(b"build"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    build = ("--windows-containerd", str(archive))
    found = read(options(*GOOD, *build), load_versions())
    assert (found.containerd, found.containerd_sha256) == (str(archive), digest)
    kind.validate(options(*GOOD, *build, "--windows-containerd-sha256", digest.upper()))
    with pytest.raises(UsageError, match=f"has the digest {digest}, not {DIGEST}"):
        kind.validate(options(*GOOD, *build, "--windows-containerd-sha256", DIGEST))
    archive.write_bytes(b"MZ")
    with pytest.raises(UsageError, match=r"is no \.tar\.gz archive"):
        kind.validate(options(*GOOD, *build))


def test_a_dry_run_tells_everything_and_needs_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WINDOWS_PASSWORD", raising=False)
    asked = options(*GOOD, "--kind-certificate-name", "linux.example")
    asked.resolve_image = lambda image: f"mirror.example/{image}"
    told = kind.describe(asked)
    versions = load_versions()
    for part in ("192.0.2.10", "192.0.2.20", "linux.example", "disableDefaultCNI: true", *versions.images.values()):
        assert part in told
    assert all(file.url in told for file in versions.files.values())
    assert f"mirror.example/{versions.images['node']}" in told
    assert told.splitlines()[-1].startswith("Nothing was checked: ")
    assert list(tmp_path.iterdir()) == []


def test_the_password_is_asked_for_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = read(options(*GOOD), load_versions())
    monkeypatch.delenv("WINDOWS_PASSWORD", raising=False)
    asked: list[str] = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    stdin = io.StringIO("not typed\n")
    monkeypatch.setattr(getpass, "getpass", typed)
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UsageError, match="set WINDOWS_PASSWORD"):
        kind._password(wanted)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    assert kind._password(wanted) == "typed"
    assert asked == ["password of Administrator at 192.0.2.20: "]
    monkeypatch.setenv("WINDOWS_PASSWORD", "set")
    assert kind._password(wanted) == "set"


def test_the_page_tells_every_option() -> None:
    page = (ROOT / "docs" / "kind.md").read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(add_help=False)
    kind.add_options(parser.add_argument_group("kind"))
    assert [name for action in parser._actions for name in action.option_strings if f"`{name}" not in page] == []


# -- versions


def test_the_pinned_versions_are_whole_and_of_one_release() -> None:
    versions = load_versions()
    assert versions.kubernetes in versions.images["node"]
    for name in ("kubelet", "kubeadm", "kube-log-runner", "kube-proxy"):
        assert f"/{versions.kubernetes}/" in versions.files[name].url
    assert kind.images() == [*versions.images.values(), BASE_IMAGE]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[kind]", "[kind", "is not the TOML that is wanted"),
        ("[files.kubeadm]", "[files.kubeadmin]", "lacks 'kubeadm'"),
        ('https://dl.k8s.io/release/v1.37.0/bin/windows/amd64/kubelet.exe"', 'http://mirror/kubelet.exe"', "by https"),
        ('sha256 = "4f36', 'other = "4f36', "has no digest"),
        ('sha256 = "4f36', 'sha256 = "4f', "has no digest"),
        ('node = "kindest', 'no = "kindest', "lacks 'node'"),
    ],
)
def test_a_changed_copy_of_the_versions_is_read_as_strictly(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = PINNED.read_text(encoding="utf-8")
    assert old in text
    copy = tmp_path / "versions.toml"
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        kind.validate(options(*GOOD, "--kind-versions", str(copy)))


PUBLISHED = {
    "/a.exe.sha256": DIGEST.upper(),
    "/sums": f"{'cd' * 32}  b.exe\n{DIGEST} *a.exe\n",
    "/release": json.dumps({"assets": [{"name": "b.exe"}, {"name": "a.exe", "digest": f"sha256:{DIGEST}"}]}),
    "/undigested": json.dumps({"assets": [{"name": "a.exe", "digest": None}]}),
    "/others": f"{'cd' * 32}  b.exe\n{'ef' * 32}  c.exe\n",
    "/page": "<html>not found</html>",
}


@pytest.fixture
def publisher() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = PUBLISHED.get(self.path)
            self.send_response(200 if text else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, format: str, *_: Any) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.sockets
@pytest.mark.parametrize("place", ["/a.exe.sha256", "/sums", "/release"])
def test_a_digest_is_read_from_what_its_publisher_puts_there(publisher: str, place: str) -> None:
    assert Published("https://x/a.exe", digest_from=publisher + place).digest() == DIGEST


@pytest.mark.sockets
@pytest.mark.parametrize("place", ["/undigested", "/others", "/page", "/absent"])
def test_a_publisher_who_tells_no_digest_ends_it(publisher: str, place: str) -> None:
    with pytest.raises(TargetError, match=place):
        Published("https://x/a.exe", digest_from=publisher + place).digest()


# -- manifests


def manifests() -> list[dict[str, Any]]:
    versions = load_versions()
    digests = dict.fromkeys(versions.files, DIGEST)
    wanted = read(options(*GOOD), versions)
    return list(api.documents(wanted, versions, digests, lambda image: f"mirror.example/{image}"))


def test_nothing_is_left_to_fill_in_and_every_image_is_resolved() -> None:
    found = manifests()
    assert "${" not in yaml.safe_dump(found)
    pods = [one["spec"]["template"]["spec"] for one in found if one["kind"] == "DaemonSet"]
    used = {container["image"] for pod in pods for container in [*pod["containers"], *pod.get("initContainers", ())]}
    pulled = {f"mirror.example/{image}" for image in kind.images()}
    # The node's image is kind's to pull, the pause image containerd's.
    assert pulled - used == {f"mirror.example/{load_versions().images[name]}" for name in ("node", "pause")}
    assert used < pulled


def test_what_runs_on_windows_is_host_process_and_gets_its_files_with_digests() -> None:
    windows = [
        one for one in manifests() if one["metadata"]["name"].endswith("-windows") and one["kind"] == "DaemonSet"
    ]
    assert [one["metadata"]["name"] for one in windows] == ["flannel-windows", "kube-proxy-windows"]
    for pod in (one["spec"]["template"]["spec"] for one in windows):
        assert pod["securityContext"]["windowsOptions"]["hostProcess"] is True
        assert pod["hostNetwork"] is True
        assert pod["nodeSelector"] == {"kubernetes.io/os": "windows"}
        values = [one.get("value", "") for one in pod["containers"][0]["env"]]
        assert "https://192.0.2.10:6443" in values
        assert [value for value in values if value.startswith(f"{DIGEST} https://")]


def test_the_overlay_is_the_one_that_windows_demands() -> None:
    (config,) = (one for one in manifests() if one["kind"] == "ConfigMap")
    assert json.loads(config["data"]["net-conf.json"])["Backend"] == {"Type": "vxlan", "VNI": 4096, "Port": 4789}
    assert json.loads(config["data"]["10-flannel.conflist"])["plugins"][0]["delegate"]["type"] == "ptp"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_fit_into_an_environment_variable(path: Path) -> None:
    assert len(pack(path.read_bytes())) < 16 * 1024


def test_the_network_keeps_to_the_folders_of_the_program() -> None:
    text = (api.MANIFESTS / "flannel.ps1").read_text(encoding="ascii")
    plan = Plan(*(3 * (Artifact("https://x/y", DIGEST),)))
    assert plan.cni_bin.startswith(ROOT_THERE)
    assert f"$plugins = '{plan.cni_bin}'" in text
    assert f"$configuration = '{plan.cni_conf}\\10-flannel.conf'" in text
    assert "dataDir = $leases" in text
    for path in SCRIPTS:
        places = re.findall(r"'(C:[^']*)'", path.read_text(encoding="ascii"))
        assert places
        assert all(place.startswith(ROOT_THERE + "\\") for place in places)


# -- the state file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hostprocess-conformance" / "kind"


def test_two_at_a_time_are_one_too_many(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "_LOCK_SECONDS", 0.1)
    with FileLock(state.folder() / "lock"), pytest.raises(TargetError, match="another run"):
        kind.down(options(), print)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_where_nothing_is_up_down_says_so(cache: Path) -> None:
    said: list[str] = []
    kind.down(options(), said.append)
    assert said == ["--target kind: nothing is up"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[:-40], "is cut or damaged"),
        (lambda _: "", "is cut or damaged"),
        (lambda _: "[]", "is cut or damaged"),
        (lambda text: text.replace('"begun"', '"begin"'), "is cut or damaged"),
        (lambda text: text.replace("cluster", "flying"), "is cut or damaged"),
        (lambda text: text.replace("5986", '"5986"'), "is cut or damaged"),
        (lambda text: text.replace("ntlm", "kerberos"), "is cut or damaged"),
        (lambda text: text.replace('"verify": true', '"verify": 1'), "is cut or damaged"),
        (lambda text: text.replace('"node": ""', '"node": 7'), "is cut or damaged"),
        (lambda text: text.replace('"192.0.2.20"', "7"), "is cut or damaged"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "is of version 2, this program knows 1"),
    ],
)
def test_a_state_file_that_is_none_is_told_and_kept(cache: Path, change: Any, complaint: str) -> None:
    kept = state.State(read(options(*GOOD), load_versions()))
    kept.begin("cluster")
    assert state.load() == kept
    assert state.path().stat().st_mode & 0o777 == 0o600
    damaged = change(state.path().read_text())
    state.path().write_text(damaged)
    for attempt in (lambda: kind.down(options(), print), lambda: kind.up(options(*GOOD), print)):
        with pytest.raises(UsageError, match=complaint) as refused:
            attempt()
        assert str(cache) in str(refused.value)
        assert refused.value.hint
    assert state.path().read_text() == damaged
