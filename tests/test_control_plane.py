from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from conformance._suite.errors import TargetError, UsageError
from infra.simulated import cluster
from infra.simulated.binaries import NAMES
from infra.simulated.certificates import Authority, write_kubeconfig
from infra.simulated.cluster import NodeSpec, SimulatedCluster, down, name_nodes, parse_nodes, up
from infra.simulated.release import ETCD, KUBERNETES
from infra.simulated.supervisor import process_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.target import Target

PROJECT = Path(__file__).parents[1]
GIVEN = os.environ.get("CONFORMANCE_CONTROL_PLANE_BIN")
CONTROL_PLANE = Path(GIVEN) if GIVEN else None
FAKE = f"sleep 1000.{os.getpid()}"
"""What fake binaries do: their processes are told by it."""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """
    An empty directory for everything temporary, with a path short enough for sockets.
    """
    path = Path("/tmp") / f"hpc-test-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    path.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(path))
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    left = list(path.iterdir())
    assert left == []
    path.rmdir()


def eventually(holds: Callable[[], bool], seconds: float = 8) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.05)
    return True


def processes(text: str) -> dict[int, str]:
    """
    The living processes (a zombie is dead) with this text in their command line.
    """
    listing = subprocess.run(["ps", "-eo", "pid=,stat=,args=", "-ww"], capture_output=True, text=True, check=True)
    found = {}
    for line in listing.stdout.splitlines():
        pid, state, command = line.split(None, 2)
        if text in command and not state.startswith("Z"):
            found[int(pid)] = command
    return found


def pid_of(name: str, data: Path) -> int:
    (pid,) = (pid for pid, command in processes(str(data)).items() if name in command.split(" --")[0])
    return pid


def data_of(target: Target) -> Path:
    assert target.kubeconfig is not None
    return target.kubeconfig.parent


def ask(kubeconfig: Path, path: str) -> Any:
    """
    GET with the kubeconfig's identity.
    """
    config = json.loads(kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]
    user = config["users"][0]["user"]
    trust = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
    identity = kubeconfig.with_name("test-identity.pem")
    identity.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
    trust.load_cert_chain(identity)
    identity.unlink()
    with contextlib.closing(
        http.client.HTTPSConnection(server["server"].removeprefix("https://"), context=trust)
    ) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


# Nodes


def test_nodes_are_named_after_their_era_and_get_addresses_in_order() -> None:
    assert parse_nodes("1.6=2, 2.3 , 1.7-no-bind-filter=1") == [
        NodeSpec("win-containerd-1-6-1", "1.6", "10.240.0.4"),
        NodeSpec("win-containerd-1-6-2", "1.6", "10.240.0.5"),
        NodeSpec("win-containerd-2-3-1", "2.3", "10.240.0.6"),
        NodeSpec("win-containerd-1-7-no-bind-filter-1", "1.7-no-bind-filter", "10.240.0.7"),
    ]


def test_more_nodes_than_the_last_number_of_an_address_holds() -> None:
    nodes = name_nodes([("2.3", ("a-deviation",))] * 300)
    assert nodes[-1].address == "10.240.1.47"
    assert len({node.address for node in nodes}) == len({node.name for node in nodes}) == 300
    assert nodes[0].deviations == ("a-deviation",)


@pytest.mark.parametrize("text", ["", "=", "1.6=", "1.6=x", "1.6=-1", "1.6=1,,", "1.6=0", "1.6=¹", "=3"])
def test_nodes_that_cannot_be_read_are_an_error_of_use(text: str) -> None:
    with pytest.raises(UsageError, match="write era=count"):
        parse_nodes(text)


def test_an_unknown_era_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown era '1\.5' .* 1\.6, 1\.7, 2\.2, 2\.3, 1\.7-no-bind-filter"):
        parse_nodes("1.5=1")


# Certificates


def test_a_certificate_serves_both_directions_and_names_whose_it_is(tmp_path: Path) -> None:
    identity = Authority(tmp_path).issue("node", "system:node:n", "system:nodes", ("n",), ("10.240.0.4",))
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "O=system:nodes,CN=system:node:n"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {use._name for use in usage} == {"clientAuth", "serverAuth"}
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.240.0.4"]
    assert identity.key.stat().st_mode & 0o777 == 0o600


def test_a_kubeconfig_is_only_its_owners(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    path = tmp_path / "kubeconfig"
    path.write_text("an older one, open to all")
    write_kubeconfig(path, "https://127.0.0.1:1", authority.certificate, authority.issue("a", "a"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["current-context"] == "simulated"


# A start that fails


def test_a_temporary_directory_with_a_long_path_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    found = cluster._data_directory()
    found.rmdir()
    assert len(str(found)) < 60
    assert list(long.iterdir()) == []


def test_a_temporary_directory_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(TargetError, match="set TMPDIR"):
        cluster._data_directory()


def fake_binaries(directory: Path, **programs: str) -> Path:
    directory.mkdir()
    for name in NAMES:
        version = f"etcd Version: {ETCD}" if name == "etcd" else f"Kubernetes v{KUBERNETES}"
        script = programs.get(name.replace("-", "_"), f"exec {FAKE}")
        (directory / name).write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\n{script}\n')
        (directory / name).chmod(0o755)
    return directory


@pytest.mark.sockets
def test_a_child_that_dies_is_named_with_its_last_words(tmp_path: Path, temporary: Path, said: list[str]) -> None:
    fakes = fake_binaries(tmp_path / "bin", kube_apiserver="echo first; echo 'cannot listen: no luck' >&2; exit 3")
    with (
        pytest.raises(TargetError, match=r"kube-apiserver ended with code 3:\nfirst\ncannot listen: no luck"),
        SimulatedCluster([], said.append, fakes),
    ):
        pytest.fail("it must not come up")
    assert processes(FAKE) == {}


@pytest.mark.sockets
def test_a_start_that_takes_too_long_is_given_up(
    tmp_path: Path, temporary: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_START_LIMIT", 1.0)
    fakes = fake_binaries(tmp_path / "bin")
    with (
        pytest.raises(TargetError, match=r"not ready after 1 s:\netcd: \(its log is empty\)\nkube-apiserver: "),
        SimulatedCluster([], said.append, fakes),
    ):
        pytest.fail("it must not come up")
    assert processes(FAKE) == {}


@pytest.mark.sockets
def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    fakes = fake_binaries(tmp_path / "bin")
    with a_program(fakes, "starting") as program:
        assert eventually(lambda: len(processes(FAKE)) == 2)
        os.killpg(program.pid, signal.SIGINT)
        program.wait(15)
        assert processes(FAKE) == processes(str(temporary)) == {}


# The real one


@contextlib.contextmanager
def a_program(binaries: Path | None, until: str) -> Iterator[subprocess.Popen[str]]:
    """
    A program in a process group of its own that holds a cluster until it is killed, once it has printed ``until``.
    """
    code = (
        "import signal\n"
        "from pathlib import Path\n"
        "from infra.simulated.cluster import SimulatedCluster\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored\n"
        f"binaries = {str(binaries) if binaries else None!r}\n"
        "say = lambda text: print(text, flush=True)\n"
        "with SimulatedCluster([], say, Path(binaries) if binaries else None) as target:\n"
        "    print('up', target.kubeconfig, flush=True)\n"
        "    signal.pause()\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with program:
        try:
            assert any(line.startswith(until) for line in program.stdout or ())
            yield program
        finally:
            program.kill()


@pytest.mark.cluster
def test_it_comes_up_and_leaves_nothing(temporary: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379")
    held = SimulatedCluster([], said.append, CONTROL_PLANE)
    with held as target:
        data = data_of(target)
        assert (target.name, target.context, target.simulated) == ("simulated", "simulated", True)
        assert ask(data / "kubeconfig", "/version")["gitVersion"] == f"v{KUBERNETES}"
        assert (
            ask(data / "kubeconfig", "/api/v1/namespaces/default/serviceaccounts/default")["kind"] == "ServiceAccount"
        )
        assert data.stat().st_mode & 0o777 == 0o700
        children = processes(str(data))
        assert all(os.getsid(pid) != os.getsid(0) for pid in children)
        assert len(children) == 6, children  # supervisor, reaper and the control plane
    assert processes(str(data)) == {}
    assert not data.exists()
    assert held.died is None


@pytest.mark.cluster
def test_nothing_outlives_a_program_that_is_killed(temporary: Path) -> None:
    with a_program(CONTROL_PLANE, "up ") as program:
        assert len(processes(str(temporary))) == 6
        program.kill()
        program.wait(5)
        assert eventually(lambda: processes(str(temporary)) == {})
        assert eventually(lambda: list(temporary.iterdir()) == [])


@pytest.fixture
def interruptible() -> Iterator[None]:
    """
    A test run that a shell put into the background has SIGINT ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def live_and_lose(held: SimulatedCluster, victim: str) -> None:
    """
    Kill one of the cluster's processes, and go on without a look at it.
    """
    with held as target:
        assert held.died is None
        os.kill(pid_of(victim, data_of(target)), signal.SIGKILL)
        threading.Event().wait(30)


@pytest.mark.cluster
@pytest.mark.usefixtures("interruptible")
def test_nothing_outlives_a_supervisor_that_is_killed(temporary: Path, said: list[str]) -> None:
    held = SimulatedCluster([], said.append, CONTROL_PLANE)
    with pytest.raises(TargetError, match="cluster died: its supervisor ended without a word — try again"):
        live_and_lose(held, "infra.simulated.supervisor")
    assert held.died is not None
    assert eventually(lambda: processes(str(temporary)) == {})
    assert eventually(lambda: list(temporary.iterdir()) == [])


@pytest.mark.cluster
@pytest.mark.usefixtures("interruptible")
def test_a_child_that_is_lost_ends_the_rest_and_interrupts_the_program(temporary: Path, said: list[str]) -> None:
    held = SimulatedCluster(parse_nodes("2.3=1"), said.append, CONTROL_PLANE)
    began = time.monotonic()
    with pytest.raises(TargetError, match="the simulated cluster died: node ended with code -9") as raised:
        live_and_lose(held, "infra.simulated.node")
    assert time.monotonic() - began < 25
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)
    assert str(held.died).startswith("node ended with code -9")
    assert processes(str(temporary)) == {}


@pytest.mark.cluster
@pytest.mark.usefixtures("interruptible")
def test_a_death_is_told_even_where_the_interrupt_was_swallowed(temporary: Path, said: list[str]) -> None:
    held = SimulatedCluster([], said.append, CONTROL_PLANE)
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(held)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(pid_of("kube-scheduler", data_of(target)), signal.SIGKILL)
            threading.Event().wait(30)
        with pytest.raises(TargetError, match="kube-scheduler ended with code -9"):
            stack.close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    The directory of the detached cluster's state, in a cache directory of the test's own.
    """
    from infra.simulated import binaries

    real = CONTROL_PLANE or binaries.find(print)
    monkeypatch.setattr("infra.simulated.binaries.find", lambda *_: real)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hostprocess-conformance" / "up"


@pytest.mark.cluster
def test_up_stays_until_down(state: Path, temporary: Path, said: list[str]) -> None:
    kubeconfig = up(parse_nodes("1.6=2,2.3=1"), said.append)
    try:
        assert kubeconfig == state / "kubeconfig"
        content = kubeconfig.read_text()
        assert up(parse_nodes("2.2=1"), said.append) == kubeconfig
        assert kubeconfig.read_text() == content
        assert "up already and stays as it is (nodes: 1.6=2,2.3=1); `nox -s down` takes it away" in said[-1]
        assert ask(kubeconfig, "/version")["gitVersion"] == f"v{KUBERNETES}"
    finally:
        assert down(said.append)
    assert processes(str(temporary)) == {}
    assert sorted(path.name for path in state.iterdir()) in (["lock"], [])
    assert not down(said.append)


@pytest.mark.cluster
def test_a_cluster_that_nobody_let_go_of_ends_with_its_starter(state: Path, temporary: Path, said: list[str]) -> None:
    """
    A starter that is killed in the last moment: all is ready, nobody was told.
    """
    from infra.simulated import binaries

    state.mkdir(parents=True)
    config = cluster._config(binaries.find(said.append), [], (), ())
    config["state"], config["kubeconfig"] = str(state / "state.json"), str(state / "kubeconfig")
    supervisor = cluster._Supervisor(config, said.append)
    try:
        supervisor.until_ready()
        assert not json.loads((state / "state.json").read_text())["ready"]
    finally:
        supervisor._input.close()
        assert eventually(lambda: processes(str(temporary)) == {})
        supervisor.stop()
    assert list(state.iterdir()) == []


@pytest.mark.sockets
def test_an_up_that_is_killed_while_starting_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fakes = fake_binaries(tmp_path / "bin")
    code = f"from pathlib import Path; from infra.simulated.cluster import up; up([], print, Path({str(fakes)!r}))"
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: len(processes(FAKE)) == 2)
    finally:
        starter.kill()
        starter.wait()
    assert eventually(lambda: processes(FAKE) == processes(str(temporary)) == {})
    assert eventually(lambda: list(temporary.iterdir()) == [])
    assert not down(said.append)


@pytest.mark.cluster
def test_up_cleans_up_after_a_cluster_that_was_killed(state: Path, temporary: Path, said: list[str]) -> None:
    up([], said.append)
    try:
        first = json.loads((state / "state.json").read_text())
        os.kill(first["pid"], signal.SIGKILL)
        assert eventually(lambda: processes(first["data"]) == {})
        said.clear()
        kubeconfig = up([], said.append)
        assert "cleaning up after it" in said[0]
        assert ask(kubeconfig, "/version")["major"] == "1"
    finally:
        down(said.append)


def test_down_leaves_a_process_alone_that_only_has_the_same_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    state = tmp_path / "hostprocess-conformance" / "up"
    state.mkdir(parents=True)
    data = tmp_path / "data"
    data.mkdir()
    innocent = subprocess.Popen(["sleep", "100"])
    try:
        (state / "state.json").write_text(
            json.dumps(
                {
                    "pid": innocent.pid,
                    "started": "another time",
                    "data": str(data),
                    "kubeconfig": str(state / "kubeconfig"),
                    "ready": True,
                }
            )
        )
        assert down(said.append)
        assert innocent.poll() is None
        assert not data.exists()
        assert not (state / "state.json").exists()
    finally:
        innocent.kill()
        innocent.wait()


def test_a_process_start_tells_the_living_from_the_dead() -> None:
    process = subprocess.Popen(["sleep", "100"])
    started = process_start(process.pid)
    assert started is not None
    assert process_start(process.pid) == started
    process.kill()
    assert eventually(lambda: process_start(process.pid) is None)  # a zombie
    process.wait()
    assert process_start(process.pid) is None
