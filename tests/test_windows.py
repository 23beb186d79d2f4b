"""
A Windows machine is prepared, joined and put back, over a real WS-Man connection to a model of the machine.

The scripts themselves run nowhere here: their twins do (tests/wsman.py). tests/test_probes.py reads the scripts.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, Literal

import pytest

from conformance._suite.errors import TargetError, UsageError
from infra.windows import Address, Artifact, Machine, Pace, Plan, connection
from infra.windows.connection import SCRIPTS, encoded_bootstrap
from tests import wsman
from tests.powershell import script
from tests.wsman import DISCOVERY, PASSWORD, QUICK, TOKEN, USER, Peer, WindowsModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

sockets = pytest.mark.sockets
ANY_FILE = Artifact("https://x/y", "0" * 64)
OLD_CONTAINERD = {
    "command": r'"C:\Program Files\containerd\containerd.exe" --run-service',
    "start": "Auto",
    "running": True,
    "environment": ["HTTPS_PROXY=http://proxy:3128", r"PATH=C:\old"],
    "needs": [],
}


def with_containerd() -> WindowsModel:
    """
    A machine on which containerd runs already, with files and data of its own.
    """
    model = WindowsModel(feature="Enabled", services={"containerd": dict(OLD_CONTAINERD)})
    for folder in (
        r"C:\Program Files\containerd",
        r"C:\ProgramData\containerd\root",
        r"C:\var\log",
        r"C:\etc\cni\net.d",
    ):
        model.make(folder)
    model.write(r"C:\Program Files\containerd\containerd.exe", b"containerd v1.7.0\n")
    model.write(r"C:\ProgramData\containerd\root\meta.db", b"what it knows")
    model.write(r"C:\etc\cni\net.d\10-mine.conf", b"{}")
    model.changes = 0
    return model


def occupied(file: str) -> WindowsModel:
    """
    A machine with a file that kubeadm reset would delete.
    """
    model = WindowsModel()
    model.make(file.rpartition("\\")[0])
    model.write(file, b"")
    return model


MACHINES = {"bare": WindowsModel, "with containerd": with_containerd}
every_machine = pytest.mark.parametrize("make", MACHINES.values(), ids=MACHINES.keys())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "containerd.tar.gz"
    path.write_bytes(wsman.containerd_archive())
    return path


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(WindowsModel(), tmp_path / "certificate") as one:
        yield one


def address_of(peer: Peer, transport: Literal["ntlm", "basic"] = "basic") -> Address:
    return Address("127.0.0.1", USER, peer.port, transport, peer.ca)


def machine_at(peer: Peer, said: list[str] | None = None, pace: Pace = QUICK, password: str = PASSWORD) -> Machine:
    return Machine(address_of(peer), password, (said if said is not None else []).append, pace)


# The whole way


@sockets
@every_machine
def test_a_machine_is_prepared_joined_and_put_back(
    make: Callable[[], WindowsModel], tmp_path: Path, archive: Path
) -> None:
    model = make()
    before = model.state()
    said: list[str] = []
    with Peer(model, tmp_path / "certificate") as peer:
        machine = machine_at(peer, said)
        machine.prepare(wsman.plan_for(model, archive))
        assert model.feature == "Enabled"
        assert model.services["containerd"]["command"] == wsman.CONTAINERD_COMMAND
        assert "containerd github.com/containerd/containerd/v2 v2.2.1; containerd.exe sha256:" in "\n".join(said)
        config = model.text(wsman.CONTAINERD + r"\config.toml")
        assert "registry.k8s.io/pause:3.10" in str(config)
        assert not model.services["kubelet"]["running"]
        machine.join(DISCOVERY, TOKEN, "win-1")
        assert model.services["kubelet"]["running"]
        assert model.services["kubelet"]["command"].endswith(" --hostname-override=win-1 --node-ip=192.0.2.20")
        assert wsman.NETWORK in model.hns
        assert model.text(r"C:\etc\kubernetes\kubelet.conf") == "win-1"
        done = machine.restore()
        assert done[0] == "the node was reset (kubeadm reset)"
        assert done[-1] == r"C:\ProgramData\hostprocess-conformance was removed"
        assert model.state() == before
        assert machine.restore() == []
        assert not peer.shells


@sockets
def test_messages_are_encrypted_with_ntlm_inside_tls(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users"
    users.write_text(f":{USER}:{PASSWORD}\n", encoding="utf-8")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))
    model = WindowsModel()
    before = model.state()
    with Peer(model, tmp_path / "certificate", "ntlm") as peer:
        peer.faults = dict(zip(range(5, 200, 9), ["close", "drop"] * 20, strict=False))
        machine = Machine(address_of(peer, "ntlm"), PASSWORD, print, QUICK)
        machine.prepare(wsman.plan_for(model, archive))
        machine.restore()
        assert model.state() == before
        assert peer.encrypted >= peer.requests > 100
        assert peer.unreadable > 1
        with pytest.raises(TargetError, match="refuses user 'Administrator' with this password over ntlm"):
            Machine(address_of(peer, "ntlm"), "wrong", print, QUICK).facts()


@sockets
def test_the_shim_is_the_one_of_the_build_under_test(tmp_path: Path, archive: Path) -> None:
    # containerd prefers the shim that PATH leads to, and other installations put theirs on the machine's PATH.
    model = with_containerd()
    before = model.state()
    with Peer(model, tmp_path / "certificate") as peer:
        machine_at(peer).prepare(wsman.plan_for(model, archive))
        proxy, path = model.services["containerd"]["environment"]
        assert proxy == "HTTPS_PROXY=http://proxy:3128"
        assert path.split(";")[0] == rf"PATH={wsman.CONTAINERD}\bin"
        assert path.endswith(";" + wsman.MACHINE_PATH)
        machine_at(peer).restore()
    assert model.services == before["services"]
    text = (SCRIPTS / "containerd.ps1").read_text(encoding="ascii")
    assert """"PATH=$bin;" + [Environment]::GetEnvironmentVariable('Path', 'Machine')""" in text
    assert "Set-ServiceState 'containerd' $before.service" in text
    text = (SCRIPTS / "prelude.ps1").read_text(encoding="ascii")
    assert "if ($null -ne $state.environment) {\n        New-ItemProperty -Path $key -Name Environment " in text


@sockets
def test_what_is_there_is_not_done_again(peer: Peer, archive: Path) -> None:
    plan = wsman.plan_for(peer.machine, archive)
    machine = machine_at(peer)
    for _ in range(2):
        machine.prepare(plan)
        machine.join(DISCOVERY, TOKEN, "win-1")
        changes = peer.machine.changes
    machine.prepare(plan)
    machine.join(DISCOVERY, TOKEN, "win-1")
    assert peer.machine.changes == changes
    assert peer.machine.restarts == 1


@sockets
def test_another_build_takes_the_place_of_the_first_and_leaves_nothing_either(
    peer: Peer, archive: Path, tmp_path: Path
) -> None:
    before = peer.machine.state()
    said: list[str] = []
    machine = machine_at(peer, said)
    machine.prepare(wsman.plan_for(peer.machine, archive))
    machine.join(DISCOVERY, TOKEN, "win-1")
    other = tmp_path / "other.tar.gz"
    other.write_bytes(wsman.containerd_archive("2.3.0"))
    machine.prepare(wsman.plan_for(peer.machine, other))
    machine.join(DISCOVERY, TOKEN, "win-2")
    assert any("v2.3.0" in line for line in said)
    assert peer.machine.services["kubelet"]["command"].endswith("=win-2 --node-ip=192.0.2.20")
    machine.restore()
    assert peer.machine.state() == before


@sockets
def test_a_large_archive_goes_up_in_pieces_and_on_from_where_it_broke_off(peer: Peer, tmp_path: Path) -> None:
    archive = tmp_path / "large.tar.gz"
    archive.write_bytes(wsman.containerd_archive(padding=9 * 1024 * 1024))
    plan = wsman.plan_for(peer.machine, archive)
    # In the second piece the connection breaks, and the machine cannot be reached for longer than anybody waits.
    peer.faults[150] = "drop"
    peer.refuse_after_fault = 10**6
    impatient = Pace(pause=0.01, reach=0.1)
    with pytest.raises(TargetError, match="cannot be reached"):
        machine_at(peer, pace=impatient).prepare(plan)
    peer.refusing = 0
    sent = peer.actions["Send"]
    machine_at(peer).prepare(plan)
    pieces = archive.stat().st_size / (64 * 1024) * 4 / 3
    assert peer.actions["Send"] - sent < pieces * 0.8
    path = r"C:\ProgramData\hostprocess-conformance\downloads\containerd.tar.gz"
    assert peer.machine.files[path] == archive.read_bytes()


@sockets
def test_a_part_that_is_not_what_was_sent_is_sent_again(peer: Peer, archive: Path) -> None:
    plan = wsman.plan_for(peer.machine, archive)
    peer.machine.make(wsman.ROOT + r"\downloads")
    part = rf"{wsman.ROOT}\downloads\containerd.tar.gz.{plan.containerd.sha256}.part"
    peer.machine.write(part, b"\0" * 100)
    machine_at(peer).prepare(plan)
    assert wsman.CONTAINERD + r"\bin\containerd.exe" in peer.machine.files


# Secrets


@sockets
def test_neither_the_password_nor_the_token_is_left_or_said(peer: Peer, archive: Path) -> None:
    said: list[str] = []
    machine = machine_at(peer, said)
    machine.prepare(wsman.plan_for(peer.machine, archive))
    peer.machine.token = "other1.0123456789abcdef"
    with pytest.raises(TargetError) as refused:
        machine.join(DISCOVERY, TOKEN, "win-1")
    assert "Unauthorized" in str(refused.value)
    peer.machine.token = TOKEN
    machine.join(DISCOVERY, TOKEN, "win-1")
    everything = str(said) + str(refused.value) + repr(machine.__dict__["_address"])
    everything += str(peer.lines) + str(peer.machine.services) + str(peer.machine.files)
    assert PASSWORD not in everything
    assert TOKEN.partition(".")[2] not in everything


# Digests


@sockets
@every_machine
def test_a_download_with_another_digest_changes_nothing(
    make: Callable[[], WindowsModel], tmp_path: Path, archive: Path
) -> None:
    model = make()
    plan = wsman.plan_for(model, archive)
    model.web[wsman.KUBEADM_URL] = b"something else"
    before = model.state()
    with Peer(model, tmp_path / "certificate") as peer, pytest.raises(TargetError) as refused:
        machine_at(peer).prepare(plan)
    assert re.search(r"kubeadm\.exe has the SHA-256 digest \w{64}, and \w{64} was wanted — nothing", str(refused.value))
    assert refused.value.exit_code == 3
    assert model.state() == before


@sockets
def test_what_cannot_be_downloaded_is_said(peer: Peer, archive: Path) -> None:
    plan = wsman.plan_for(peer.machine, archive)
    before = peer.machine.state()
    peer.machine.web.clear()
    with pytest.raises(TargetError, match=r"file failed on .*curl.*404"):
        machine_at(peer).prepare(plan)
    assert peer.machine.state() == before


def test_a_local_file_is_checked_before_anything_is_connected_to(tmp_path: Path, archive: Path) -> None:
    good = wsman.plan_for(WindowsModel(), archive)
    machine = Machine(Address("127.0.0.1", USER), PASSWORD, print)
    archive.write_bytes(b"cut")
    with pytest.raises(TargetError, match=r"has the SHA-256 digest .* nothing was changed"):
        machine.prepare(good)
    archive.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        machine.prepare(good)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Artifact("https://x/y", "abc"),
        lambda: Artifact("file:///x", "0" * 64),
        lambda: Address("127.0.0.1", ""),
        lambda: Address("a b", USER),
        lambda: Address("127.0.0.1", USER, transport="kerberos"),  # type: ignore[arg-type]
        lambda: Plan(ANY_FILE, ANY_FILE, ANY_FILE, cni_bin="/opt/cni"),
        lambda: Plan(ANY_FILE, ANY_FILE, ANY_FILE, pause_image="x' y"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


# Connections


@sockets
def test_a_wrong_password_is_one_clear_line(peer: Peer) -> None:
    with pytest.raises(TargetError) as refused:
        machine_at(peer, password="wrong-password").facts()
    assert "refuses user 'Administrator' with this password over basic — check both" in str(refused.value)
    assert "wrong-password" not in str(refused.value)
    assert peer.requests == 0


@sockets
def test_a_certificate_is_trusted_only_by_name(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = wsman.make_certificate(tmp_path / "other")
    # Neither the environment's authorities nor its proxies count, for better or worse.
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for bundle in (peer.ca, other):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(bundle))
        for ca in (None, other):
            with pytest.raises(TargetError, match=r"certificate of .* is not trusted: .* — give the file"):
                Machine(Address("127.0.0.1", USER, peer.port, "basic", ca), PASSWORD, print, QUICK).facts()
        assert machine_at(peer).facts()["hostName"] == "WIN-MODEL"
    unchecked = Address("127.0.0.1", USER, peer.port, "basic", None, verify=False)
    assert Machine(unchecked, PASSWORD, print, QUICK).facts()["build"] == 20348


@sockets
def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    mismatch = pytest.raises(TargetError, match=r"is not trusted: IP address mismatch.* — name the machine")
    with Peer(WindowsModel(), tmp_path / "certificate", host="127.0.0.2") as peer, mismatch:
        machine_at(peer).facts()


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello", encoding="utf-8")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(UsageError, match="holds no certificate"):
            Machine(Address("127.0.0.1", USER, ca=tmp_path / name), PASSWORD, print).facts()


@sockets
def test_a_port_that_speaks_no_https_is_named(tmp_path: Path) -> None:
    class Plain(BaseHTTPRequestHandler):
        def log_message(self, format: str, *_: Any) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = Address("127.0.0.1", USER, int(server.server_address[1]), "basic")
        with pytest.raises(TargetError, match="does not speak https"):
            Machine(address, PASSWORD, print, QUICK).facts()
        server.shutdown()


@sockets
def test_a_machine_that_is_not_there_is_given_up(peer: Peer) -> None:
    peer.refusing = 10**6
    with pytest.raises(TargetError, match=r"cannot be reached: .* — is it up, and does WinRM listen"):
        machine_at(peer, pace=Pace(reach=0.1, pause=0.01)).facts()


@sockets
def test_why_it_is_tried_again_is_said_once(peer: Peer) -> None:
    said: list[str] = []
    peer.refusing = 9
    machine_at(peer, said).facts()
    assert said[0] == f"reaching 127.0.0.1:{peer.port}"
    # A connection that is closed at once is seen in one or two ways, nine times.
    assert 2 <= len(said) == len(set(said)) <= 4
    assert all(re.fullmatch(rf"127.0.0.1:{peer.port}: .+; trying again", line) for line in said[1:])
    said.clear()
    machine_at(peer, said).restore()
    assert said == [f"reaching 127.0.0.1:{peer.port}"]


@sockets
@pytest.mark.parametrize("fault", ["drop", "lose", "close", "shell", "slow"])
def test_a_connection_that_breaks_again_and_again_is_survived(fault: str, peer: Peer, archive: Path) -> None:
    before = peer.machine.state()
    peer.faults = dict.fromkeys(range(2, 400, 5), fault)
    machine = machine_at(peer)
    machine.prepare(wsman.plan_for(peer.machine, archive))
    machine.join(DISCOVERY, TOKEN, "win-1")
    assert peer.machine.services["kubelet"]["running"]
    machine.restore()
    assert peer.machine.state() == before
    assert not any(number < peer.requests for number in peer.faults)


@sockets
def test_a_script_that_is_ended_on_the_machine_is_run_again(peer: Peer, archive: Path) -> None:
    before = peer.machine.state()
    machine = machine_at(peer)
    for _ in range(10):
        peer.machine.cut_at = peer.machine.changes + 2
        machine.prepare(wsman.plan_for(peer.machine, archive))
    peer.machine.cut_at = None
    machine.join(DISCOVERY, TOKEN, "win-1")
    machine.restore()
    assert peer.machine.state() == before


# Deadlines


@sockets
def test_a_command_that_never_ends_is_ended_at_its_deadline(peer: Peer) -> None:
    peer.endless = True
    with pytest.raises(TargetError, match=r"facts did not end on 127.0.0.1:.* in time"):
        machine_at(peer, pace=Pace(step=0.3)).facts()
    assert peer.actions["Receive"] > 3
    assert not peer.shells


@sockets
def test_a_machine_that_is_silent_is_left_at_the_deadline(peer: Peer) -> None:
    peer.silent = True
    with pytest.raises(TargetError, match=r"facts did not end on \S+ in time: it does not answer"):
        machine_at(peer, pace=Pace(step=0.3)).facts()


@sockets
def test_a_command_that_takes_long_is_waited_for(peer: Peer) -> None:
    peer.late = 5
    assert machine_at(peer).facts()["build"] == 20348
    assert peer.actions["Receive"] == 7


@sockets
def test_a_machine_that_does_not_come_back_from_its_restart_is_given_up(peer: Peer, archive: Path) -> None:
    plan = wsman.plan_for(peer.machine, archive)
    before = peer.machine.state()
    peer.refuse_after_restart = 10**6
    with pytest.raises(TargetError, match=r"did not come back from its restart: .*cannot be reached"):
        machine_at(peer, pace=Pace(reboot=0.3, reach=0.1, pause=0.01)).prepare(plan)
    peer.refusing = 0
    peer.refuse_after_restart = 3
    machine_at(peer).restore()
    assert peer.machine.state() == before


@sockets
def test_a_feature_that_waits_for_ever_for_a_restart_is_given_up(peer: Peer, archive: Path) -> None:
    plan = wsman.plan_for(peer.machine, archive)
    peer.machine.stuck = True
    with pytest.raises(TargetError, match="still waits for a restart after 3"):
        machine_at(peer).prepare(plan)


# Machines that will not do


@sockets
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (WindowsModel(build=14393), "needs Windows Server 2019"),
        (WindowsModel(build=26100, installation="Client"), "needs Windows Server 2019"),
        (WindowsModel(administrator=False), "no elevated administrator"),
        (WindowsModel(services={"kubelet": {**OLD_CONTAINERD, "needs": []}}), "already is a node"),
        (occupied(r"C:\var\lib\kubelet\config.yaml"), r"files of another node in C:\\var\\lib\\kubelet — empty"),
        (occupied(r"C:\etc\kubernetes\pki\mine.key"), r"files of another node in C:\\etc\\kubernetes\\pki — empty"),
        (occupied(r"C:\etc\kubernetes\manifests\mine.yaml"), r"files of another node in C:\\etc\\kubernetes\\manif"),
    ],
)
def test_a_machine_that_will_not_do_is_left_alone(
    model: WindowsModel, says: str, tmp_path: Path, archive: Path
) -> None:
    before = model.state()
    with Peer(model, tmp_path / "certificate") as peer:
        for call in (machine_at(peer).facts, lambda: machine_at(peer).prepare(wsman.plan_for(model, archive))):
            with pytest.raises(TargetError, match=says) as refused:
                call()
            assert refused.value.exit_code == 3
    assert model.state() == before


@sockets
def test_a_machine_without_windows_powershell_is_told_apart(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "encoded_bootstrap", lambda: "pwsh -c x")
    with pytest.raises(TargetError, match=r"without a result: 'pwsh.*is not recognized.* — is it a Windows Server"):
        machine_at(peer).facts()


@sockets
def test_a_machine_that_constrains_powershell_is_told_apart(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"<<<trouble language-mode: ConstrainedLanguage trouble>>>\r\n"
    ran: list[bytes] = []

    def run(_: object, stdin: bytes) -> tuple[bytes, bytes, int]:
        ran.append(stdin)
        return said, b"", 1

    monkeypatch.setattr(wsman, "run_script", run)
    with pytest.raises(TargetError, match=r"language-mode: ConstrainedLanguage — a policy .* exempt 'Administrator'"):
        machine_at(peer).facts()
    assert len(ran) == 1, "the next try changes nothing"


@sockets
def test_a_line_that_cmd_would_not_take_fails_as_it_does(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    line = encoded_bootstrap()
    # A line that cmd would take, but for the `cmd /c ` that WinRM puts ahead of it.
    monkeypatch.setattr(connection, "encoded_bootstrap", lambda: line + "A" * (8191 - len(line)))
    with pytest.raises(TargetError, match="The command line is too long"):
        machine_at(peer).facts()


@sockets
def test_joining_needs_a_prepared_machine_a_name_and_a_kubeconfig(peer: Peer, archive: Path) -> None:
    machine = machine_at(peer)
    with pytest.raises(TargetError, match="is not prepared"):
        machine.join(DISCOVERY, TOKEN, "win-1")
    with pytest.raises(UsageError, match="no node name"):
        machine.join(DISCOVERY, TOKEN, "Win_1; x")
    machine.prepare(wsman.plan_for(peer.machine, archive))
    for text in ("", "kind: Config", "clusters: [", "[]"):
        with pytest.raises(UsageError, match="is no kubeconfig"):
            machine.join(text, TOKEN, "win-1")


# The journal


@sockets
@pytest.mark.parametrize("text", [b"", b'{"version":1,"entr', b'{"version":2,"entries":[]}', b"[]"])
def test_a_journal_that_cannot_be_read_stops_everything(text: bytes, peer: Peer, archive: Path) -> None:
    peer.machine.make(wsman.ROOT)
    peer.machine.write(wsman.JOURNAL, text)
    before = peer.machine.state()
    machine = machine_at(peer)
    for call in (machine.restore, lambda: machine.prepare(wsman.plan_for(peer.machine, archive))):
        with pytest.raises(TargetError) as refused:
            call()
        assert re.search(r"the journal C:\\\S+ is cut, or another version .* — take the node down", str(refused.value))
    assert peer.machine.state() == before


@sockets
@pytest.mark.parametrize("entry", [{"step": "../x", "before": "{}"}, {"step": "join", "before": "{"}, {"step": "join"}])
def test_a_step_that_nobody_knows_is_not_run(entry: dict[str, str], peer: Peer) -> None:
    peer.machine.make(wsman.ROOT)
    peer.machine.write(wsman.JOURNAL, json.dumps({"version": 1, "entries": [entry]}).encode())
    with pytest.raises(TargetError, match="has a step that this version does not know — take the node down with"):
        machine_at(peer).restore()


@sockets
def test_a_folder_that_somebody_else_has_put_there_is_not_trusted(peer: Peer, archive: Path) -> None:
    peer.machine.make(wsman.ROOT)
    peer.machine.write(wsman.JOURNAL, json.dumps({"version": 1, "entries": []}).encode())
    peer.machine.owner = "S-1-5-21-1-2-3-1001"
    before = peer.machine.state()
    machine = machine_at(peer)
    for call in (machine.restore, lambda: machine.prepare(wsman.plan_for(peer.machine, archive))):
        with pytest.raises(
            TargetError, match=r"belongs to S-1-5-21\S+, and not to SYSTEM .* — somebody else has put it"
        ):
            call()
    assert peer.machine.state() == before


@sockets
def test_the_last_errors_of_the_logs_are_told_without_secrets(peer: Peer) -> None:
    machine = machine_at(peer)
    assert machine.last_errors() == ""
    peer.machine.make(wsman.CONTAINERD)
    log = b"E1123 10:00:00 old\nI1123 fine\nE1123 10:00:01 no sandbox\nF1123 10:00:02 password=hunter2xyz\n"
    peer.machine.write(wsman.ROOT + r"\kubelet.log", log)
    peer.machine.write(wsman.CONTAINERD + r"\containerd.log", b'level=info msg=a\nlevel=error msg="no shim"\n')
    told = machine.last_errors()
    assert told.startswith("kubelet.log: E1123 10:00:01 no sandbox; kubelet.log: F1123 10:00:02 password=")
    assert told.endswith('containerd.log: level=error msg="no shim"')
    assert "hunter2xyz" not in told


# Killed


class KilledError(BaseException):
    """
    The process ends here.
    """


class Direct(connection.Connection):
    """
    The same connection without a network, to a model: what is cut there ends the client as well.
    """

    def __init__(self, model: WindowsModel) -> None:
        super().__init__(Address("model", USER), PASSWORD, print, QUICK)
        self._model = model

    def _once(self, name: str, task: str, given: Any, lines: Any, end: float) -> connection._Output:
        model = self._model
        output = connection._Output()
        output.add(*wsman.run_script(model, connection.standard_input(name, task, given, lines)), done=True)
        if model.restart_in is not None:
            model.restart()
        if model.cut_at is not None and model.changes >= model.cut_at:
            model.cut_at = None
            raise KilledError
        return output


def directly(model: WindowsModel, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(Address("model", USER), PASSWORD, lambda _: None, QUICK)
    monkeypatch.setattr(machine, "_connect", lambda: Direct(model))
    return machine


@every_machine
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_whatever_is_cut_at_any_change_can_be_undone(
    make: Callable[[], WindowsModel], power: bool, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Preparing, joining and restoring end together with the script at the n-th change, for every n; so does the first
    restoring after that, at every change of its own in turn.
    """
    before = make().state()
    for number in range(1, 400):
        model = make()
        model.cut_restarts = power
        plan = wsman.plan_for(model, archive)
        machine = directly(model, monkeypatch)
        model.cut_at = number
        try:
            machine.prepare(plan)
            machine.join(DISCOVERY, TOKEN, "win-1")
            machine.restore()
        except KilledError:
            model.cut_at = model.changes + 1 + number % 7
            with contextlib.suppress(KilledError):
                machine.restore()
            model.cut_at = None
            machine.restore()
        assert model.state() == before, (number, model.ran)
        if number > model.changes:
            break
    assert 80 < number < 399


@every_machine
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_whatever_is_cut_at_any_change_can_be_finished(
    make: Callable[[], WindowsModel], power: bool, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make()
    machine = directly(whole, monkeypatch)
    machine.prepare(wsman.plan_for(whole, archive))
    machine.join(DISCOVERY, TOKEN, "win-1")
    for number in range(1, whole.changes + 1):
        model = make()
        model.cut_at, model.cut_restarts = number, power
        plan = wsman.plan_for(model, archive)
        machine = directly(model, monkeypatch)
        with contextlib.suppress(KilledError):
            machine.prepare(plan)
            machine.join(DISCOVERY, TOKEN, "win-1")
        model.cut_at = None
        machine.prepare(plan)
        machine.join(DISCOVERY, TOKEN, "win-1")
        assert model.state() == whole.state(), (number, model.ran)
        assert model.changed["feature"] == whole.changed["feature"]
        assert model.changed["rule"] == 1


def killed(peer: Peer, plan: Plan) -> int | None:
    """
    The exit code of a process that prepares and joins the machine, as killed as the peer makes it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.wsman"])
    process = context.Process(target=wsman.prepare_and_join, args=(address_of(peer), plan), daemon=True)
    process.start()
    assert process.pid is not None
    peer.client.put(process.pid)
    process.join(60)
    return process.exitcode


@sockets
@pytest.mark.parametrize("number", range(1, 29, 7))
def test_a_process_that_is_killed_after_a_script_is_made_up_for(number: int, tmp_path: Path, archive: Path) -> None:
    model = with_containerd() if number % 2 else WindowsModel()
    before = model.state()
    with Peer(model, tmp_path / "certificate") as peer:
        peer.kill_after_script = number
        assert (killed(peer, wsman.plan_for(model, archive)) == -signal.SIGKILL) is (len(model.ran) >= number)
        machine_at(peer).restore()
        assert model.state() == before


@sockets
@pytest.mark.parametrize("number", range(2, 70, 22))
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_a_process_that_is_killed_while_a_script_is_cut_is_made_up_for(
    number: int, power: bool, tmp_path: Path, archive: Path
) -> None:
    model = with_containerd()
    before = model.state()
    model.cut_at, model.cut_restarts = number, power
    with Peer(model, tmp_path / "certificate") as peer:
        peer.kill_at_cut = True
        assert (killed(peer, wsman.plan_for(model, archive)) == -signal.SIGKILL) is (model.changes >= number)
        machine_at(peer).restore()
        assert model.state() == before


@sockets
def test_a_run_after_a_killed_one_does_only_what_is_missing(peer: Peer, archive: Path) -> None:
    plan = wsman.plan_for(peer.machine, archive)
    done = wsman.plan_for(peer.machine, archive)
    peer.kill_after_script = 14
    assert killed(peer, plan) not in {0, None}
    peer.kill_after_script = None
    before = len(peer.machine.ran)
    assert killed(peer, done) == 0
    assert peer.machine.services["kubelet"]["running"]
    assert peer.machine.changed["feature"] == 1
    assert ("reboot", "apply") not in peer.machine.ran[before:]
    assert ("file", "apply") not in peer.machine.ran[before:]
    assert len(json.loads(peer.machine.files[wsman.JOURNAL])["entries"]) == 7


# The scripts and their twins

SHARED = {
    # apply: unless it is pending, or as wanted: into the journal, change, look, complain. undo: what differs is put
    # back; what does not differ any more leaves the journal; what still does is complained of.
    ("prelude", "step"): (
        "invoke-alone read-journal where-object -eq -eq -and -not -like -and -not -not convertto-json write-journal "
        "out-null -not -like -and -not convertto-json "
        "-eq -and convertto-json -cne convertfrom-json out-null convertto-json -ceq write-journal where-object -ne "
        "-not -like convertto-json -like"
    ),
    ("prelude", "set-servicestate"): (
        "get-servicestate stop-service -not -not get-ciminstance invoke-cimmethod out-null get-servicestate -and -lt "
        "start-sleep -not get-servicestate new-service out-null -replace get-ciminstance invoke-cimmethod -ne "
        "new-itemproperty out-null remove-itemproperty start-service"
    ),
    ("prelude", "get-servicestate"): "get-ciminstance -not -eq getvalue",
    ("prelude", "remove-folder"): (
        "exists -and -lt start-sleep -ge icacls.exe out-null icacls.exe out-null cmd.exe out-null exists"
    ),
    ("containerd", "stop-shim"): "get-process where-object -and startswith stop-process",
    ("join", "reset-node"): "-not exists invoke-program remove-file",
}


def test_every_script_has_its_twin_with_the_same_results() -> None:
    names = {path.stem for path in SCRIPTS.glob("*.ps1")} - {"prelude", "bootstrap"}
    assert names == {*wsman.STEPS, *wsman.OTHERS}
    model = WindowsModel()
    model.make(wsman.ROOT)
    given: dict[str, Any] = {"paths": [], "make": [], "path": "x", "sha256": "0", "url": None}
    for name in names:
        # The first hash literal of a script is what it looks at, or all that it says.
        first = script(SCRIPTS / f"{name}.ps1").tables[0]
        if name in wsman.STEPS:
            assert tuple(wsman.STEPS[name].look(model, given)) == first
        else:
            assert tuple(wsman.OTHERS[name](model, "check", given, [])) == first
    step = wsman.STEPS["firewall"].run("firewall", model, "check", given)
    assert tuple(step) in script(SCRIPTS / "prelude.ps1").tables


@pytest.mark.parametrize("name", wsman.STEPS)
def test_each_part_of_a_step_calls_what_its_twin_stands_for(name: str) -> None:
    assert script(SCRIPTS / f"{name}.ps1").steps == (wsman.STEPS[name].calls,)


@pytest.mark.parametrize(("name", "function"), SHARED)
def test_what_steps_share_calls_what_it_must(name: str, function: str) -> None:
    assert script(SCRIPTS / f"{name}.ps1").bodies[function] == SHARED[name, function]


def test_what_scripts_and_python_must_agree_on() -> None:
    texts = {path.stem: path.read_text(encoding="ascii") for path in SCRIPTS.glob("*.ps1")}
    assert wsman.ROOT == r"C:\ProgramData\hostprocess-conformance"
    assert "[IO.Path]::Combine($env:ProgramData, 'hostprocess-conformance')" in texts["prelude"]
    assert f"$rule = '{wsman.RULE}'" in texts["firewall"]
    assert texts["network"].count(f"-eq '{wsman.NETWORK}'") == 3
    assert "    shutdown.exe /r /f /t 5\n" in texts["reboot"]
    for path in wsman.NODE_CONF:
        assert f"'{path}'" in texts["join"]
    for name in wsman.STEPS:
        assert f"Step '{name}' {{" in texts[name]
    assert len("cmd /c " + encoded_bootstrap()) <= 8191


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("prelude", "Write-Journal ($entries + ", "& $change $state"),
        ("prelude", "& $back (", "Write-Journal ($entries | "),
        ("prelude", "$file.Flush($true)", "[IO.File]::Replace($aside, $journal"),
        ("containerd", "-ne $given.sha256) { throw", "Stop-Service -Name containerd"),
        ("file", "if ($found -ne $given.sha256)", "[IO.File]::Move($part, $path)"),
        ("journal", "icacls.exe", "Write-Journal @()"),
        ("journal", "Remove-Folder $folder", "Remove-File $journal"),
        ("join", "[IO.File]::WriteAllBytes($discovery", "finally { Remove-File $discovery }"),
    ],
)
def test_the_scripts_keep_the_order_that_their_twins_have(name: str, first: str, then: str) -> None:
    text = (SCRIPTS / f"{name}.ps1").read_text(encoding="ascii")
    assert 0 < text.index(first) < text.index(then)


def test_no_script_has_a_secret_in_a_command_line() -> None:
    for path in SCRIPTS.glob("*.ps1"):
        assert "--token" not in path.read_text(encoding="ascii")
        assert "tls-bootstrap-token" not in path.read_text(encoding="ascii")
