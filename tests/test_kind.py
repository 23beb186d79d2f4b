"""
`--target kind` from up to down, and every way in which that goes wrong: a stand-in for kind with a real API server
behind it, and a loopback WS-Man peer with a model of a Windows machine. The node that joins is a simulated one; it
comes only if the machine shows a bootstrap token that the API server takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite.cluster import Cluster
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.workload import BASE_IMAGE
from infra import kind
from infra.kind import api, state
from infra.kind.settings import PINNED, Published
from infra.simulated import binaries
from infra.windows import Pace
from tests import wsman
from tests.conftest import ROOT, control_plane, run_program
from tests.fake_kind import Engine
from tests.test_kind_options import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cluster

NODE = "win-model"
DISCOVERY = wsman.ROOT + r"\discovery.conf"
OUT_OF_ORDER = "the control plane does not answer: the node was not taken out in order ("
QUICK = Pace(reach=1.0, pause=0.05)


def containerd(version: str = "2.3.4") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("containerd.exe", "containerd-shim-runhcs-v1.exe"):
            content = f"{name} v{version}".encode()
            member = tarfile.TarInfo(f"bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@dataclass
class JoiningModel(wsman.WindowsModel):
    """
    A machine whose kubelet really asks the API server.
    """

    engine: Engine = field(kw_only=True)
    tokens: list[str] = field(default_factory=list)

    def write(self, path: str, content: bytes) -> None:
        if path == DISCOVERY:  # not the model decides about the token, but the API server, when the kubelet starts
            self.token = json.loads(content)["users"][0]["user"]["token"]
            self.tokens.append(self.token)
        super().write(path, content)

    def start(self, name: str) -> None:
        if name == "kubelet" and wsman.NODE_CONF[1] in self.files and DISCOVERY in self.files:
            node = self.services[name]["command"].rpartition("--hostname-override=")[2].split()[0]
            try:
                self.engine.kubelet(self.files[DISCOVERY].decode(), node)
            except PermissionError as error:
                raise wsman.Failed(f"kubeadm.exe ended with code 1: {error}") from error
        super().start(name)

    def stop(self, name: str) -> None:
        if name == "kubelet" and self.services[name]["running"]:
            self.engine.kubelet_stopped()
        super().stop(name)


@dataclass
class World:
    """
    A Linux host with kind, and a Windows machine.
    """

    engine: Engine
    machine: JoiningModel
    peer: wsman.Peer
    before: dict[str, Any]
    arguments: list[str]
    said: list[str] = field(default_factory=list)

    def up(self, *more: str, say: Callable[[str], None] | None = None) -> None:
        kind.up(options(*self.arguments, *more), say or self.said.append)

    def down(self) -> None:
        kind.down(options(), self.said.append)

    def restarting(self) -> None:
        """
        The machine lacks the feature Containers.
        """
        self.machine.feature = "Disabled"
        self.before = self.machine.state()

    @property
    def untouched(self) -> bool:
        """
        Whether nothing is left anywhere, and the cluster knew nothing of the machine any more when it was deleted.
        """
        left = sorted(path.name for path in state.folder().iterdir())
        machine = self.machine.state() == self.before
        return [] == self.engine.clusters == self.engine.left and machine and left in ([], ["lock"])

    def ask(self, method: str, path: str, body: object = None) -> Any:
        async def ask() -> Any:
            async with await Cluster.connect(self.kubeconfig) as cluster:
                return (await cluster.request(method, path, body)).body

        return asyncio.run(ask())

    @property
    def kubeconfig(self) -> Path:
        return Path(self.engine.facts["kubeconfig"])


def own_address() -> str:
    """
    An address of this machine that is not a loopback one; nothing is sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback one")
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(own_address(), binaries.find(print, control_plane())) as engine:
        yield engine


@pytest.fixture
def world(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    web, text = {}, PINNED.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(text):
        if line.startswith("url = "):
            url = line.split('"')[1]
            web[url] = containerd() if "containerd-" in url else url.encode()
        if line.startswith("sha256"):
            text[number] = f'sha256 = "{hashlib.sha256(web[url]).hexdigest()}"'
    versions = tmp_path / "versions.toml"
    versions.write_text("\n".join(text), encoding="utf-8")
    machine = JoiningModel(engine=engine, web=web, feature="Enabled")  # without restarts, but where they matter
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{engine.program}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WINDOWS_PASSWORD", wsman.PASSWORD)
    monkeypatch.setattr(kind, "PACE", QUICK)
    monkeypatch.setattr(wsman, "SERVER", engine.facts["url"])
    with wsman.Peer(machine, tmp_path / "certificates") as peer:
        arguments = [
            "--kind-api-address", engine.facts["address"], "--kind-api-port", str(engine.facts["port"]),
            "--kind-versions", str(versions), "--windows-host", "127.0.0.1", "--windows-port", str(peer.port),
            "--windows-ca", str(peer.ca), "--windows-transport", "basic",
        ]  # fmt: skip
        world = World(engine, machine, peer, machine.state(), arguments)
        yield world
    engine.fault("")
    engine.kubelet_stopped()
    for path in (*(engine.folder / "clusters").iterdir(), engine.folder / "left", engine.folder / "working"):
        path.unlink(missing_ok=True)
    for collection in ("/api/v1/nodes", "/apis/apps/v1/namespaces/kube-system/daemonsets"):
        world.ask("DELETE", collection)
    # Pods of nodes that are gone go with nobody's word but this.
    for pod in world.ask("GET", "/api/v1/namespaces/kube-system/pods")["items"]:
        name = pod["metadata"]["name"]
        world.ask("DELETE", f"/api/v1/namespaces/kube-system/pods/{name}?gracePeriodSeconds=0")


# -- the whole story


def test_up_run_down_as_a_user_does_it(world: World, tmp_path: Path) -> None:
    def program(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "conformance", *arguments], capture_output=True, text=True, check=False, timeout=120,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    dry = program("up", "--target", "kind", "--dry-run", *world.arguments)
    assert "kind: Cluster" in dry
    assert world.machine.ran == []

    output = program("up", "--target", "kind", *world.arguments)
    kubeconfig = tmp_path / "cache" / "hostprocess-conformance" / "kind" / "kubeconfig"
    assert f"export KUBECONFIG={kubeconfig}" in output
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert world.engine.facts["url"] in kubeconfig.read_text()
    assert world.engine.clusters == ["hostprocess-conformance"]
    run = run_program(tmp_path / "out", "--target", "existing", "--kubeconfig", str(kubeconfig))
    assert run.code == 0, run.output
    assert {node for _, node in run.verdicts() if node} == {NODE}

    output += program("down", "--target", "kind")
    assert world.engine.clusters == []
    assert world.untouched
    for secret in (wsman.PASSWORD, *(token.partition(".")[2] for token in world.machine.tokens)):
        assert secret not in output


def test_what_was_joined_is_what_was_asked_for(world: World, tmp_path: Path) -> None:
    build = tmp_path / "containerd.tar.gz"
    build.write_bytes(containerd("9.9.9"))
    world.restarting()
    with kind.brought_up(options(*world.arguments, "--windows-containerd", str(build)), world.said.append) as target:
        assert (target.name, target.simulated) == ("kind", False)
        assert world.machine.restarts == 1
        assert b"v9.9.9" in world.machine.files[wsman.CONTAINERD + r"\bin\containerd.exe"]
        linux = world.ask("GET", "/api/v1/nodes/hostprocess-conformance-control-plane")
        address = world.engine.facts["address"]
        assert linux["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip-overwrite"] == address
        slices = world.ask("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        assert slices["endpoints"][0]["addresses"] == [address]
        names = [one["metadata"]["name"] for one in world.ask("GET", api._DAEMON_SETS)["items"]]
        assert names == ["flannel-linux", "flannel-windows", "kube-proxy-windows"]
        pods = world.ask("GET", "/api/v1/namespaces/kube-system/pods")["items"]
        there = {one["metadata"]["labels"]["app"]: one["status"] for one in pods if one["spec"].get("nodeName") == NODE}
        assert there.keys() == {"flannel-windows", "kube-proxy-windows"}
        for status in there.values():
            assert [one["status"] for one in status["conditions"] if one["type"] == "Ready"] == ["True"]
        assert any("its pod is not Ready" in line for line in world.said)  # it was waited for
        # The token was taken once, is gone, and is in no file of ours.
        (token,) = world.machine.tokens
        secrets = world.ask("GET", "/api/v1/namespaces/kube-system/secrets")["items"]
        assert [one for one in secrets if one["type"] == "bootstrap.kubernetes.io/token"] == []
        # What somebody else runs there has to go, too.
        pod = {"terminationGracePeriodSeconds": 0, "nodeName": NODE, "containers": [{"name": "c", "image": BASE_IMAGE}]}
        other = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": pod}
        assert world.ask("POST", "/api/v1/namespaces/default/pods", other)["spec"]["nodeName"] == NODE
        assert wsman.NETWORK in world.machine.hns
        kept = "".join(path.read_text() for path in state.folder().iterdir()) + "\n".join(world.said)
        assert token.partition(".")[2] not in kept
        assert wsman.PASSWORD not in kept
    assert world.machine.restarts == 2
    assert world.untouched


def test_up_again_finds_all_done_and_other_options_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.up()
    ran = len(world.machine.ran)
    monkeypatch.delattr(Published, "digest")  # what is there is not asked for again
    world.up()
    assert {name for name, _ in world.machine.ran[ran:]} == {"facts", "journal"}
    with pytest.raises(UsageError, match="had another --kind-api-port — take"):
        world.up("--kind-api-port", "1")
    moved = options(*world.arguments)
    moved.resolve_image = lambda image: f"mirror.example/{image}"
    with pytest.raises(UsageError, match="had another --registry-prefix or --images-file — take"):
        kind.up(moved, print)
    monkeypatch.setenv("WINDOWS_PASSWORD", "wrong")
    with pytest.raises(TargetError, match="refuses user"):
        world.up()
    monkeypatch.setenv("WINDOWS_PASSWORD", wsman.PASSWORD)
    assert world.engine.clusters == ["hostprocess-conformance"]  # it stays what it was
    world.down()
    assert world.untouched


# -- what is refused before anything is made


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("absent", "there is no `kind` on PATH — install it"),
        ("engine", "Cannot connect to the Docker daemon.*install and start Docker"),
        ("old", r"kind v0\.20\.0 is too old — install v0\.33\.0 or newer"),
    ],
)
def test_without_a_kind_that_works_nothing_is_touched(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: str, complaint: str
) -> None:
    world.engine.fault(fault)
    if fault == "absent":
        monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetError, match=complaint):
        world.up()
    assert world.machine.ran == []
    assert world.untouched


def test_what_the_machine_refuses_is_told_before_a_cluster_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = world.engine.folder / "calls"
    calls.unlink(missing_ok=True)
    with pytest.raises(TargetError, match="is not trusted"):
        kind.up(options(*(one for one in world.arguments if one not in ("--windows-ca", str(world.peer.ca)))), print)
    world.machine.installation = "Client"
    with pytest.raises(TargetError, match="a node needs Windows Server"):
        world.up()
    monkeypatch.setenv("WINDOWS_PASSWORD", "wrong")
    with pytest.raises(TargetError, match="refuses user 'Administrator' with this password"):
        world.up()
    monkeypatch.delenv("WINDOWS_PASSWORD")
    with pytest.raises(UsageError, match="set WINDOWS_PASSWORD"):
        world.up()
    monkeypatch.setenv("WINDOWS_PASSWORD", wsman.PASSWORD)
    with pytest.raises(TargetError, match=r"192\.0\.2\.77 is no address of this host"):
        world.up("--kind-api-address", "192.0.2.77")
    assert "create" not in calls.read_text()
    assert world.untouched


def test_a_cluster_of_that_name_that_is_not_ours_is_left_alone(world: World) -> None:
    (world.engine.folder / "clusters" / "mine").touch()
    with pytest.raises(TargetError, match="it is not of this program's making"):
        world.up("--kind-name", "mine")
    assert world.engine.clusters == ["mine"]


# -- what goes wrong on the way


def test_a_cluster_that_kind_makes_half_is_removed(world: World) -> None:
    world.engine.fault("half-way")
    with pytest.raises(TargetError, match=r"`kind create cluster` failed: .*failed to init node with kubeadm"):
        world.up()
    assert world.untouched


def test_an_archive_with_a_wrong_digest_ends_it(world: World) -> None:
    url = next(url for url in world.machine.web if "containerd-" in url)
    world.machine.web[url] = containerd("0.0.1")
    with pytest.raises(TargetError, match=r"has the SHA-256 digest .* was wanted"):
        world.up()
    assert world.untouched


def test_a_node_that_is_never_ready_is_told_in_its_own_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "READY_SECONDS", 0.5)
    world.engine.fault("unready")

    def say(line: str) -> None:
        world.said.append(line)
        if line.endswith(": network"):
            world.machine.files[wsman.ROOT + r"\kubelet.log"] = b"I1123 started\nE1123 12:00:00 no sandbox image\n"

    complaint = (
        rf"{NODE} was not Ready within .* it has reported nothing; on the machine: kubelet\.log: E1123 .*no sand"
    )
    with pytest.raises(TargetError, match=complaint):
        world.up(say=say)
    assert any("is not ready yet" in line for line in world.said)
    assert world.untouched


def test_a_token_that_the_api_server_does_not_take_ends_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TOKEN_LIFE", timedelta(seconds=-1))

    def say(line: str) -> None:
        if line.endswith(": join"):
            world.machine.files[wsman.CONTAINERD + r"\containerd.log"] = b'level=error msg="no shim"\n'

    with pytest.raises(TargetError, match=r"the API server answers 401; on the machine: containerd\.log: .*no shim"):
        world.up(say=say)
    assert world.untouched


def test_an_interruption_inside_the_block_takes_it_down_even_without_its_kubeconfig(world: World) -> None:
    def interrupted() -> None:
        with kind.brought_up(options(*world.arguments), world.said.append):
            state.kubeconfig().unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert any(line.startswith(OUT_OF_ORDER) for line in world.said)
    (world.engine.folder / "left").unlink()
    assert world.untouched


def test_an_interruption_in_a_step_takes_away_what_was_begun(world: World) -> None:
    def say(line: str) -> None:
        if line.endswith(": join"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.up(say=say)
    assert world.untouched


def test_ctrl_c_while_kind_is_at_work_ends_kind_and_takes_its_cluster_away(world: World, tmp_path: Path) -> None:
    world.engine.fault("hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "conformance", "up", "--target", "kind", *world.arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    pause = threading.Event()
    while not world.engine.clusters and process.poll() is None:
        pause.wait(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert world.untouched, output


# -- killed runs

DRIVER = """
import os, signal, sys
from infra import kind
from infra.windows import Pace
from tests.test_kind_options import options
kind.PACE = Pace(reach=1.0, pause=0.05)
def say(line):
    if line.endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
kind.up(options(*sys.argv[2:]), say)
"""


def killed(world: World, at: str) -> None:
    """
    An `up` that is killed when it says something that ends so, or where the peer's faults say.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, at, *world.arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.pid is not None
    world.peer.client.put(process.pid)
    world.peer.kill_at_cut = True
    pause = threading.Event()
    while at == "kind at work" and not (world.engine.folder / "working").exists() and process.poll() is None:
        pause.wait(0.02)
    if at == "kind at work":
        process.kill()
    assert process.wait(60) == -signal.SIGKILL
    world.machine.cut_at = None


POINTS = ["kind at work", ": machine", ": join", "in kubeadm", ": network"]


def kind_ended(world: World) -> None:
    """
    Wait for the end of a kind that was at work.
    """
    working = world.engine.folder / "working"
    while working.exists():
        threading.Event().wait(0.02)
        status = Path(f"/proc/{working.read_text()}/stat")
        with contextlib.suppress(OSError):
            if status.read_text().rpartition(")")[2].split()[0] != "Z":
                continue
        working.unlink()


def prepare_kill(world: World, at: str) -> None:
    if at == "kind at work":
        world.engine.fault("late")
    if at == "in kubeadm":
        # In the middle of the join: the model counts its changes, this is the one after the token was written.
        original = world.machine.write

        def write(path: str, content: bytes) -> None:
            if path == wsman.NODE_CONF[1]:
                world.machine.cut_at = world.machine.changes + 1
            original(path, content)

        world.machine.write = write  # type: ignore[method-assign]


@pytest.mark.parametrize("at", POINTS)
def test_a_run_killed_at_any_point_leaves_what_down_needs(world: World, at: str) -> None:
    prepare_kill(world, at)
    killed(world, at)
    world.engine.fault("")
    assert state.path().is_file()
    world.down()
    kind_ended(world)
    assert world.untouched, world.said
    world.down()
    assert world.said[-1] == "--target kind: nothing is up"


@pytest.mark.parametrize("at", ["kind at work", "in kubeadm"])
def test_up_goes_on_where_a_run_was_killed(world: World, at: str) -> None:
    prepare_kill(world, at)
    killed(world, at)
    world.engine.fault("")
    world.machine.__dict__.pop("write", None)
    world.up()
    assert any(line.startswith("going on from an earlier run") for line in world.said)
    assert world.said[-1].startswith(f"{NODE} is Ready")
    world.down()
    assert world.untouched


def test_without_a_control_plane_the_machine_is_put_back_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_PATIENCE", 0.2)
    world.up()
    assert wsman.NETWORK in world.machine.hns
    text = state.kubeconfig().read_text()
    state.kubeconfig().write_text(text.replace(world.engine.facts["url"], "https://127.0.0.1:9"))
    world.down()
    assert any(line.startswith(OUT_OF_ORDER) for line in world.said)
    assert f"nodes/{NODE}" in world.engine.left  # indeed
    (world.engine.folder / "left").unlink()
    assert world.untouched


def test_a_machine_that_cannot_be_reached_keeps_its_state_for_a_later_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.up()
    monkeypatch.delenv("WINDOWS_PASSWORD")
    with pytest.raises(UsageError, match="set WINDOWS_PASSWORD"):
        world.down()
    monkeypatch.setenv("WINDOWS_PASSWORD", wsman.PASSWORD)
    world.peer.refusing = 1_000_000
    world.engine.kubelet_stopped()  # nobody ends its pods
    monkeypatch.setattr(api, "LEAVE_SECONDS", 0.2)
    with pytest.raises(TargetError, match=r"not all is undone \(machine\): .*cannot be reached.*run `down` again"):
        world.down()
    assert any(line.startswith("not all pods on it ended within") for line in world.said)
    assert world.engine.clusters == []
    assert state.path().is_file()
    world.peer.refusing = 0
    (world.engine.folder / "left").unlink()
    world.down()
    assert world.untouched
