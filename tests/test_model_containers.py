"""
Containers of the model: what runs in them, what they see, what they leave, and what each deviation changes.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite.errors import Unknown
from conformance._suite.evidence import parse_output
from conformance._suite.workload import FOLDER, bootstrap_command, pack
from infra.simulated.model import programs, twins
from infra.simulated.model.container import Container, ContainerSpec, Mount
from infra.simulated.model.deviations import BIND, DEVIATIONS, GROUPS
from infra.simulated.model.eras import ERAS
from infra.simulated.model.errors import CreateError, StartError, WindowsError
from infra.simulated.model.host import WORKLOADS, Host
from infra.simulated.model.job import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from infra.simulated.model.view import View

ID = "0123456789abcdef" * 4
BASE = "mcr.microsoft.com/oss/kubernetes/windows-host-process-containers-base-image:v1.0.0"
NANO = "mcr.microsoft.com/powershell:lts-nanoserver-1809"
SYSTEM = "NT AUTHORITY\\SYSTEM"
HOST_NAME = "Win-Containerd-Node-0"
STOPPED = -1073741510
NOT_RECOGNIZED = ["'{}' is not recognized as an internal or external command,", "operable program or batch file."]


def node(era: str = "1.7", *deviations: str) -> Host:
    return Host(ERAS[era], "win-containerd-node-0", "10.240.0.4", frozenset(deviations))


def create(host: Host, *command: str, image: str = BASE, user: str | None = SYSTEM, **more: Any) -> Container:
    plain = ContainerSpec(ID, "c", "p", "ns", "uid", host.image(image), command=command, user=user)
    return host.create(replace(plain, **more))


async def begin(host: Host, *command: str, **more: Any) -> Container:
    container = create(host, *command, **more)
    await container.start()
    return container


async def finish(host: Host, *command: str, **more: Any) -> tuple[int, list[str]]:
    container = await begin(host, *command, **more)
    code = await asyncio.wait_for(container.wait(), 5)
    return code, [line.text for line in container.log.lines]


def ran(host: Host, *command: str, **more: Any) -> tuple[int, list[str]]:
    return asyncio.run(finish(host, *command, **more))


def refused(host: Host, *command: str, **more: Any) -> str:
    with pytest.raises(StartError) as error:
        ran(host, *command, **more)
    return str(error.value)


@pytest.mark.parametrize("era", ERAS)
def test_a_user_error_is_told_as_containerd_tells_it(era: str) -> None:
    assert refused(node(era), "whoami", user="nobody") == (
        f'failed to start containerd task "{ID}": failed to create user process token: '
        "failed to logon user: The user name or password is incorrect.: unknown"
    )


@pytest.mark.parametrize("era", ERAS)
def test_a_pipe_is_refused_when_the_task_is_created(era: str) -> None:
    assert refused(node(era), "whoami", mounts=(Mount("\\\\.\\pipe\\docker", "/pipe"),)) == (
        "failed to create containerd task: failed to create shim task: named pipe mounts not supported for job "
        "containers - interact with the pipe directly: unknown"
    )


def test_a_mount_that_cannot_be_linked_leaves_nothing_mounted() -> None:
    host = node("1.6")
    told = refused(host, "whoami", mounts=(Mount(r"C:\a", "/x"), Mount(r"C:\b", "/x")))
    assert told.startswith(
        "failed to create containerd task: failed to create shim task: failed to setup mount for job container: "
    )
    assert host.files.list(r"C:\C") == []


def test_other_containers_are_refused() -> None:
    with pytest.raises(CreateError, match="the simulation has only HostProcess containers"):
        create(node(), "cmd", host_process=False, pod_host_process=False)


@pytest.mark.parametrize("era", ERAS)
def test_a_missing_program(era: str) -> None:
    host = node(era)
    container = create(host, "foobar.exe", "x")
    if era in BIND:
        assert ran(host, "foobar.exe", "x") == (1, [NOT_RECOGNIZED[0].format("foobar.exe"), NOT_RECOGNIZED[1]])
        return
    with pytest.raises(StartError, match=r"failed to find executable \"foobar.exe x\": unknown"):
        asyncio.run(container.start())
    assert container.unmodelled


@pytest.mark.parametrize(("era", "told"), [("1.6", "find executable"), ("1.7-no-bind-filter", "user process token")])
def test_of_two_mistakes_older_shims_tell_the_program_newer_ones_the_user(era: str, told: str) -> None:
    assert told in refused(node(era), "foobar.exe", user="nobody")


def test_a_program_that_is_there_but_not_modelled_is_recorded() -> None:
    for era in ("1.6", "1.7"):
        container = create(node(era), r"C:\Program Files\containerd\containerd.exe")
        if era == "1.6":
            with pytest.raises(StartError, match="failed to find executable"):
                asyncio.run(container.start())
        else:
            asyncio.run(_to_the_end(container))
        assert "containerd.exe" in container.unmodelled[0]


async def _to_the_end(container: Container) -> int:
    await container.start()
    return await container.wait()


@pytest.mark.parametrize(
    ("line", "code", "output"),
    [
        ("whoami", 0, ["nt authority\\system"]),
        ("HOSTNAME.exe", 0, ["Win-Containerd-Node-0"]),
        ("echo one& echo two", 0, ["one", "two"]),
        ('echo "a & b" ^& c', 0, ['"a & b" & c']),
        ("echo %OS%-%NONE%", 0, ["Windows_NT-%NONE%"]),
        ("echo first\necho second", 0, ["first"]),
        ("exit /b 5", 5, []),
        ("exit -1", -1, []),
        ("missing && echo no || hostname", 0, [NOT_RECOGNIZED[0].format("missing"), NOT_RECOGNIZED[1], HOST_NAME]),
        ("echo in>C:\\t.txt& type C:\\t.txt& echo more>>C:\\t.txt& type C:\\t.txt", 0, ["in", "in", "more"]),
        ("missing 2>nul", 1, []),
        ("missing >nul 2>&1", 1, []),
        ("type C:\\none", 1, ["The system cannot find the file specified."]),
        ("set NEW=1& set NEW", 0, ["NEW=1"]),
        ("cd C:\\Windows & cd", 0, ["C:\\Windows"]),
        ("dir /b C:\\ProgramData", 0, []),
        ("rem x", 0, []),
        ('""C:\\Windows\\System32\\cmd.exe" /c "exit 3""', 3, []),
        ('"echo in quotes"', 0, ["in quotes"]),
        ("echo a | find", 1, ["The syntax of the command is incorrect."]),
        ("net localgroup Nobody", 2, ["The specified local group does not exist.", ""]),
    ],
)
def test_cmd(line: str, code: int, output: list[str]) -> None:
    async def run() -> tuple[int, list[str]]:
        container = await begin(node(), "powershell", "Start-Sleep 99")
        assert container._view is not None
        found = await programs.run_line(container._view, f"cmd /c {line}")
        await container.stop(1)
        return found, [line.text for line in container.log.lines]

    found = asyncio.run(run())
    assert (found[0], found[1][: len(output)]) == (code, output)


def test_quotes_that_the_shim_escapes_reach_cmd_with_their_backslashes() -> None:
    assert ran(node("1.6"), "cmd", "/c", 'echo "a & b"') == (0, [r"\"a & b\""])


def test_too_long_a_line_is_refused_by_cmd() -> None:
    assert ran(node("1.7"), "echo", "x" * 8191) == (1, ["The command line is too long."])


SCRIPT = """$AdminRights = ([Security.Principal.WindowsPrincipal][Security.Principal.WindowsIdentity]::GetCurrent())\
.IsInRole([Security.Principal.WindowsBuiltInRole]"Administrator")
Write-Host "Process has admin rights: $AdminRights"
while ($true) { Start-Sleep -Seconds 2147483 }
"""


@pytest.mark.parametrize("era", ERAS)
def test_the_older_aks_script_is_cut_at_its_newline_where_cmd_runs_it(era: str) -> None:
    async def run() -> tuple[int, list[str]]:
        container = await begin(node(era), "powershell.exe", "-command", SCRIPT, image=NANO)
        if era not in BIND:
            async for _ in container.log.follow():
                break
            await container.stop(1)
        return await container.wait(), [line.text for line in container.log.lines]

    assert asyncio.run(run()) == ((0, []) if era in BIND else (STOPPED, ["Process has admin rights: True"]))


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        ("exit 7", 7, []),
        ("$x = 'a'; Write-Output \"is $x in $env:OS\"", 0, ["is a in Windows_NT"]),
        ("whoami; hostname", 0, ["nt authority\\system", "Win-Containerd-Node-0"]),
        ("[Security.Principal.WindowsIdentity]::GetCurrent().Name", 0, [SYSTEM]),
        ("Start-Sleep -Milliseconds 1; 'done'", 0, ["done"]),
    ],
)
def test_powershell(script: str, code: int, output: list[str]) -> None:
    assert ran(node("1.6"), "powershell.exe", "-NoProfile", "-Command", script) == (code, output)


def test_powershell_that_is_not_modelled_fails_and_is_recorded() -> None:
    container = create(node("1.6"), "powershell", "Get-Process | Sort-Object Name")
    assert asyncio.run(_to_the_end(container)) == 1
    assert container.unmodelled == ["powershell.exe -Command Get-Process | Sort-Object Name"]


TWIN = """
from infra.simulated.model.view import WindowsError
async def good(view): return {"name": view.token.name, "é": 1}
async def bad(view): view.read("C:\\\\none\\\\x")
FACTS = {"good": good, "bad": bad}
async def after(view): await view.until_stopped()
"""


def probe(host: Host, packed: str, user: str = SYSTEM) -> Container:
    return create(host, *bootstrap_command(), env=(("PROBE", packed),), user=user)


def with_probes(folder: Path, *deviations: str, era: str = "1.7") -> Host:
    (folder / "some").mkdir()
    (folder / "some" / "probe.ps1").write_bytes(b"Fact 'good' {}")
    (folder / "some" / "twin.py").write_text(TWIN)
    (folder / "bootstrap.ps1").write_bytes((FOLDER / "bootstrap.ps1").read_bytes())
    return Host(ERAS[era], "win", "10.240.0.4", frozenset(deviations), workloads=folder)


@pytest.mark.parametrize("era", ERAS)
def test_a_known_probe_runs_its_twin(era: str, tmp_path: Path) -> None:
    host = with_probes(tmp_path, era=era)

    async def run() -> tuple[int, list[str]]:
        container = probe(host, pack(b"Fact 'good' {}"))
        await container.start()
        async for _ in container.log.follow():
            break
        assert container.running
        await container.stop(0)
        return await container.wait(), [line.text for line in container.log.lines]

    code, (line,) = asyncio.run(run())
    assert code == 1
    assert line.isascii()
    facts = json.loads(line.removeprefix("<<<observation ").removesuffix(" observation>>>"))
    assert facts == {
        "good": {"name": SYSTEM, "é": 1},
        "bad": {
            "error": "The system cannot find the path specified.",
            "type": "System.IO.DirectoryNotFoundException",
        },
    }


def test_an_unknown_probe_is_no_observation(tmp_path: Path) -> None:
    unknown = probe(with_probes(tmp_path), pack(b"unknown"))
    assert asyncio.run(_to_the_end(unknown)) == 1
    assert "sha256:" in unknown.unmodelled[0]


WHOLE = pack(b"Fact 'good' {}")


@pytest.mark.parametrize("packed", ["", "!", WHOLE[:-4], WHOLE[:-1], WHOLE[:64], WHOLE[65:], "0" + WHOLE[1:]])
def test_a_probe_that_is_not_whole_is_not_run(tmp_path: Path, packed: str) -> None:
    container = probe(with_probes(tmp_path), packed)
    assert asyncio.run(_to_the_end(container)) == 1
    with pytest.raises(Unknown, match="did not arrive whole") as refused:
        parse_output("\n".join(line.text for line in container.log.lines))
    assert refused.value.code == "script-damaged"


def test_a_bootstrap_of_another_project_is_not_played(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"\n".join([b"& $env:PROBE", b"exit 0"]).decode().encode("utf-16-le")).decode()
    assert ran(with_probes(tmp_path), "powershell", "-e", encoded, env=(("PROBE", WHOLE),))[0] == 1


def test_where_scripts_are_constrained_whoami_says_who_runs(tmp_path: Path) -> None:
    host = with_probes(tmp_path, "powershell-constrained")
    group = host.accounts.add_group("own")
    container = probe(host, WHOLE, user="own")
    assert asyncio.run(_to_the_end(container)) == 1
    log = "\n".join(line.text for line in container.log.lines)
    with pytest.raises(Unknown, match="ConstrainedLanguage") as refused:
        parse_output(log)
    assert refused.value.code == "language-mode"
    assert f'"WIN\\own","Group","{group.sid}","Mandatory group, Enabled by default, Enabled group"' in log


def test_net_and_whoami_work_on_the_accounts_of_the_machine() -> None:
    host = node()
    assert ran(host, "net", "localgroup", "own", "/add")[0] == 0
    assert ran(host, "net", "user", "me", "Secret1!", "/add")[0] == 0
    assert ran(host, "net", "localgroup", "own", "me", "/add")[0] == 0
    assert "me" in ran(host, "net", "localgroup", "own")[1]
    assert "*own" in ran(host, "net", "localgroup")[1]
    assert ran(host, "net", "localgroup", "own", "/add")[0] == 2
    denied = ran(host, "net", "localgroup", "other", "/add", user="NT AUTHORITY\\Local service")
    assert denied == (2, ["System error 5 has occurred.", "", "Access is denied.", ""])
    groups = ran(host, "whoami", "/groups", "/fo", "csv", "/nh", user="own")[1]
    assert any(line.startswith('"WIN-CONTAINERD-\\own"') for line in groups)
    assert ran(host, "net", "user", "me", "/delete")[0] == 0
    assert host.accounts.members("own") == []
    assert ran(host, "net", "localgroup", "own", "/delete")[0] == 0


@pytest.mark.parametrize("era", sorted(GROUPS))
def test_an_ephemeral_account_lives_as_long_as_its_container(era: str) -> None:
    host = node(era)
    before = sorted(host.accounts.users)

    async def run() -> None:
        container = await begin(host, "ping", "-t", "127.0.0.1", user="administrators")
        assert ID[:20] in host.accounts.users
        assert len(host.accounts.members("Administrators")) == 2
        said: list[bytes] = []
        assert await container.exec(["whoami"], None, lambda _, data: said.append(data)) == 0
        assert b"".join(said).decode().strip() == f"win-containerd-\\{ID[:20]}"
        await container.stop(1)

    asyncio.run(run())
    assert sorted(host.accounts.users) == before
    assert len(host.accounts.members("Administrators")) == 1


def test_ping_counts_and_waits() -> None:
    code, output = ran(node(), "ping", "-n", "1", "10.240.0.4")
    assert code == 0
    assert output[:3] == [
        "",
        "Pinging 10.240.0.4 with 32 bytes of data:",
        "Reply from 10.240.0.4: bytes=32 time<1ms TTL=128",
    ]
    assert ran(node(), "ping", "-n", "1", "10.9.9.9")[0] == 1
    assert "could not find host nowhere" in ran(node(), "ping", "nowhere")[1][0]


@pytest.mark.parametrize("era", ERAS)
def test_where_mounts_are_seen_and_what_stays_on_the_host(era: str) -> None:
    host = node(era)
    host.files.write(r"C:\source\m.txt", b"marker")
    mounts = (Mount(r"C:\source", "/data/in", read_only=True), Mount(r"C:\made", r"C:\other\place"))
    before = set(host.files.walk())

    async def run() -> View:
        container = await begin(host, "ping", "-t", "127.0.0.1", mounts=mounts)
        view = container._view
        assert view is not None
        root = view.env["CONTAINER_SANDBOX_MOUNT_POINT"]
        assert view.is_directory(root)
        assert view.read(f"{root}data\\in\\m.txt") == b"marker"
        assert view.exists(r"C:\data\in\m.txt") is (era in BIND)
        assert view.exists(r".\data\in\m.txt") is (era != "1.7-no-bind-filter")
        assert not host.files.exists(r"C:\data\in\m.txt")
        if era in BIND:
            with pytest.raises(WindowsError, match="write protected"):
                view.write(r"C:\data\in\new", b"")
        view.write(f"{root}data\\in\\new", b"x")
        view.write(f"{root}own.txt", b"x")
        await container.stop(1)
        container.remove()
        return view

    view = asyncio.run(run())
    left = set(host.files.walk()) - before
    assert left == {r"C:\made", r"C:\source\new"} | {
        "1.6": {r"C:\C"},
        "1.7-no-bind-filter": {r"C:\hpc"},
    }.get(era, {r"C:\hpc", r"C:\data", r"C:\other"})
    assert host.containers == {}
    assert not view.exists(view.env["CONTAINER_SANDBOX_MOUNT_POINT"] + "own.txt")


@pytest.mark.parametrize(("era", "left"), [("1.6", None), ("1.7", r"C:\debug"), ("1.7-no-bind-filter", "")])
def test_a_missing_working_directory(era: str, left: str | None) -> None:
    host = node(era)
    if left is None:
        assert refused(host, "whoami", working_dir="/debug").endswith(
            "failed to start host process: failed to create process: The directory name is invalid.: unknown"
        )
        return
    assert ran(host, "cmd", "/c", "cd", working_dir="/debug")[0] == 0
    assert host.files.exists(r"C:\debug") is bool(left)


def test_two_containers_bind_the_same_path_to_different_sources() -> None:
    host = node()
    for name in ("a", "b"):
        host.files.write(rf"C:\{name}\f", name.encode())
        assert ran(host, "cmd", "/c", r"type C:\m\f", id=name * 64, mounts=(Mount(rf"C:\{name}", "/m"),)) == (0, [name])


def test_stopping() -> None:
    async def run(grace: float) -> int:
        container = await begin(node(), "ping", "-t", "127.0.0.1")
        asleep = asyncio.create_task(container.exec(["powershell", "Start-Sleep 99"], None, lambda *_: None))
        await asyncio.sleep(0)
        await container.stop(grace)
        await container.stop(grace)
        assert await asleep == STOPPED
        with pytest.raises(StartError, match="CONTAINER_EXITED"):
            await container.exec(["whoami"], None, lambda *_: None)
        assert container.log.closed
        assert container.job.commit == 0
        return await container.wait()

    assert asyncio.run(run(5)) == STOPPED
    assert asyncio.run(run(0)) == 1


@pytest.mark.parametrize("era", ERAS)
def test_exec(era: str) -> None:
    async def run() -> None:
        container = await begin(node(era), "ping", "-t", "127.0.0.1")
        said: list[tuple[int, bytes]] = []
        assert await container.exec(["hostname"], None, lambda *part: said.append(part)) == 0
        assert said == [(1, b"Win-Containerd-Node-0\r\n")]
        if era in BIND:
            assert await container.exec(["foobar"], None, lambda *part: said.append(part)) == 1
            assert said[-1][0] == 2
        else:
            with pytest.raises(StartError, match="failed to exec in container: failed to start exec"):
                await container.exec(["foobar"], None, lambda *_: None)
        await container.stop(1)

    asyncio.run(run())


def test_a_terminal_echoes_and_cmd_reads_lines() -> None:
    async def run() -> tuple[int, str]:
        container = await begin(node(), "ping", "-t", "127.0.0.1")
        typed, said = asyncio.StreamReader(), bytearray()
        typed.feed_data(b"hostx\x7fname\rexit 4\r")
        code = await container.exec(["cmd"], typed, lambda _, data: said.extend(data), tty=True)
        await container.stop(1)
        return code, said.decode()

    code, said = asyncio.run(run())
    assert code == 4
    assert "Win-Containerd-Node-0\r\n" in said
    assert "hostx\b \bname\r\n" in said


def test_attach_sees_what_is_written_and_stdin_is_read() -> None:
    async def run() -> tuple[str, list[str]]:
        container = create(node(), "cmd", stdin=True)
        said = bytearray()
        detach = container.attach(lambda _, data: said.extend(data))
        await container.start()
        assert container.stdin is not None
        container.stdin.feed_data(b"echo hello\n")
        container.stdin.feed_eof()
        await container.wait()
        detach()
        detach()
        return said.decode(), [line.text async for line in container.log.follow()]

    said, lines = asyncio.run(run())
    assert "hello\r\n" in said
    assert "C:\\hpc>hello" in lines


def test_a_limit_below_what_the_program_needs() -> None:
    assert ran(node("1.6"), "powershell.exe", "exit 0", memory_limit=10 * MIB)[0] == -1073741801
    assert ran(node("1.7"), "powershell.exe", "exit 0", memory_limit=10 * MIB)[0] == -1073741801
    assert ran(node("1.7"), "powershell.exe", "exit 0", memory_limit=80 * MIB)[0] == 0


def test_processes_reach_the_api_server_by_the_services_address_and_by_its_own() -> None:
    host = node()

    async def answer(method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        return 200, f"{method} {path} {headers['A']}".encode() + body

    async def run() -> None:
        env = (("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443"))
        container = await begin(host, "ping", "-t", "127.0.0.1", env=env)
        view = container._view
        assert view is not None
        with pytest.raises(WindowsError):
            await view.https("GET", "10.0.0.1", 443, "/version", {})
        host.api_server = answer
        assert await view.https("GET", "10.0.0.1", 443, "/v", {"A": "b"}, b"!") == (200, b"GET /v b!")
        with pytest.raises(WindowsError):
            await view.https("GET", "10.0.0.2", 443, "/version", {})
        host.api_address = ("api.example", 6443)
        host.service_unreachable = True
        with pytest.raises(WindowsError) as unreachable:
            await view.https("GET", "10.0.0.1", 443, "/version", {})
        assert unreachable.value.code == 10060
        assert await view.https("GET", "api.example", 6443, "/v", {"A": "b"}, b"!") == (200, b"GET /v b!")
        await container.stop(1)

    asyncio.run(run())


def test_the_firewall_is_opened_and_closed_by_netsh() -> None:
    async def run() -> None:
        host = node()
        container = await begin(host, "ping", "-t", "127.0.0.1", user="NT AUTHORITY\\SYSTEM")
        view = container._view
        assert view is not None
        port = view.listen(host.address, 0, bytes.upper)
        firewall = ("netsh.exe", "advfirewall", "firewall")
        scope = ("dir=in", "action=allow", "protocol=TCP", f"localip={host.address}", f"localport={port}")

        def refusal() -> int:
            with pytest.raises(WindowsError) as refused:
                host.network.connect_from_outside(host.address, port)
            return refused.value.code

        assert refusal() == 10060
        assert host.network.connect(host.address, port) is not None
        assert (await view.run([*firewall, "show", "rule", "name=one"]))[0] == 1
        assert (await view.run([*firewall, "add", "rule", "name=one", *scope]))[0] == 0
        assert host.network.connect_from_outside(host.address, port)(b"a") == b"A"
        view.machine.network.close(host.address, port)
        assert refusal() == 10061
        assert (await view.run([*firewall, "show", "rule", "name=one"]))[0] == 0
        assert (await view.run([*firewall, "delete", "rule", "name=one"]))[0] == 0
        assert (await view.run([*firewall, "delete", "rule", "name=one"]))[0] == 1
        assert refusal() == 10060
        assert container.unmodelled == []
        assert (await view.run([*firewall, "add", "rule", "name=one", "dir=out", "localport=1"]))[0] == 1
        assert len(container.unmodelled) == 1
        await container.stop(1)

    asyncio.run(run())


def test_only_who_is_trusted_opens_the_firewall() -> None:
    line = ("netsh", "advfirewall", "firewall", "add", "rule", "name=x", "dir=in", "action=allow", "protocol=TCP")
    assert ran(node(), *line, "localport=80", user="NT AUTHORITY\\Local service")[0] == 1
    assert ran(node(), *line, "localport=80", user="NT AUTHORITY\\SYSTEM")[0] == 0


def test_a_port_that_is_taken_says_nothing_about_the_address() -> None:
    twin = twins.find(WORKLOADS, sha256((WORKLOADS / "host-network" / "probe.ps1").read_bytes()).hexdigest())
    assert twin is not None

    async def run() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        host = node()
        for address, wanted in ((host.address, "20250"), (host.address, "20250"), ("10.9.9.9", "20251")):
            env = (("ROLE", "listen"), ("NONCE", "0"), ("HOST_IP", address), ("LISTENER_PORT", wanted))
            number = str(len(found)) * 64
            container = await begin(host, "ping", "-t", "127.0.0.1", env=env, id=number)
            assert container._view is not None
            found.append(await twin.FACTS["listener"](container._view))
        return found

    first, second, elsewhere = asyncio.run(run())
    assert (first["port"], first["socketError"], first["wantedPortError"]) == (20250, None, None)
    assert (second["port"] is None, second["socketError"], second["wantedPortError"]) == (False, None, 10048)
    assert (elsewhere["port"], elsewhere["socketError"], elsewhere["wantedPortError"]) == (None, 10049, 10049)


@pytest.mark.parametrize("folder", ["C:\\Program Files\\containerd", "C:\\Windows\\system32", "C:\\Windows"])
def test_path_decides_which_shim_runs(folder: str) -> None:
    twin = twins.find(WORKLOADS, sha256((WORKLOADS / "node-facts" / "probe.ps1").read_bytes()).hexdigest())
    assert twin is not None
    shim = rf"{folder}\containerd-shim-runhcs-v1.exe"

    async def run() -> dict[str, Any]:
        host = node()
        host.files.write(shim, folder.encode(), version="0.9.9")
        container = await begin(host, "ping", "-t", "127.0.0.1")
        assert container._view is not None
        found = {name: await twin.FACTS[name](container._view) for name in ("containerd", "shim")}
        await container.stop(1)
        return found

    found = asyncio.run(run())
    assert found["containerd"]["path"] == r"C:\Program Files\containerd\containerd.exe"
    assert found["shim"] == {"path": shim, "sha256": sha256(folder.encode()).hexdigest(), "fileVersion": "0.9.9"}


def test_what_a_wrong_mount_causes_is_data_and_what_a_busy_machine_causes_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = twins.find(WORKLOADS, sha256((WORKLOADS / "volumes" / "probe.ps1").read_bytes()).hexdigest())
    assert twin is not None
    codes = iter((2, 5, 1921, 1920, 448, 32))
    kinds = {1920: "System.IO.IOException", 448: "System.IO.IOException", 32: "System.IO.IOException"}

    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        env = (("ROLE", "read"), ("NONCE", "0"))
        container = await begin(node(), "ping", "-t", "127.0.0.1", env=env)
        view = container._view
        assert view is not None

        def read(_: str) -> bytes:
            code = next(codes, 0)
            if not code:
                raise WindowsError(1, "odd")
            raise WindowsError(code, "x", kinds.get(code, ""))

        monkeypatch.setattr(view, "read", read)
        found = await twin.FACTS["relativePath"](view), await twin.FACTS["serviceAccount"](view)
        await container.stop(1)
        return found

    markers, tokens = asyncio.run(run())
    assert list(markers.values())[:5] == [f"(win32 {code})" for code in (2, 5, 1921, 1920, 448)]
    assert markers["projected"] == {"error": "x", "type": "System.IO.IOException"}
    assert all(one == {"error": "odd", "type": "System.ComponentModel.Win32Exception"} for one in tokens.values())


@pytest.mark.parametrize("text", ["", "a.b.c", "no token", "a.NQ.c", "a.e30.c"])
def test_what_is_no_token_of_a_pod_names_none(text: str) -> None:
    twin = twins.find(WORKLOADS, sha256((WORKLOADS / "volumes" / "probe.ps1").read_bytes()).hexdigest())
    assert twin is not None
    host = node()
    host.files.write(r"C:\hpc-token\token", text.encode())

    async def run() -> dict[str, Any]:
        mount = Mount(r"C:\hpc-token", "/var/run/secrets/kubernetes.io/serviceaccount")
        env = (("ROLE", "read"), ("NONCE", "0"))
        container = await begin(host, "ping", "-t", "127.0.0.1", env=env, mounts=(mount,))
        assert container._view is not None
        found: dict[str, Any] = await twin.FACTS["serviceAccount"](container._view)
        await container.stop(1)
        return found

    for one in asyncio.run(run()).values():
        assert one == "(not a token)" or one["podUid"] is None


# Deviations.


async def seen(host: Host) -> dict[str, Any]:
    """
    What can be observed on a node, by name: the rows of the table below.
    """
    found: dict[str, Any] = {}
    source, account = r"C:\var\lib\kubelet\pods\x\source", r"C:\var\lib\kubelet\pods\x\account"
    host.files.write(rf"{source}\f", b"x")
    host.accounts.add_group("own")
    host.files.write(rf"{account}\token", b"own")
    mounts = (
        Mount(source, r"C:\drive\in"),
        Mount(source, "/slashes/in"),
        Mount(account, "/var/run/secrets/kubernetes.io/serviceaccount"),
    )
    limits = {"memory_limit": 300 * MIB, "cpu_maximum": 1000}
    container = await begin(host, "ping", "-t", "127.0.0.1", mounts=mounts, **limits)
    view = container._view
    assert view is not None
    await container.log.follow().__anext__()
    while len(container.log.lines) < 3:
        await asyncio.sleep(0)
    root = view.env.get("CONTAINER_SANDBOX_MOUNT_POINT")
    found["interfaces"] = view.interfaces
    try:
        port = view.listen(host.address, 0, bytes.upper)
        found["listener"] = host.network.connect(host.address, port) is not None
    except WindowsError as error:
        found["listener"] = error.code
    found["host name"] = view.host_name
    found["mount point"] = root
    found["below mount point"] = (
        bool(root) and view.exists(f"{root}drive\\in\\f") and view.exists(f"{root}slashes\\in\\f")
    )
    found["relative"] = view.exists(r".\drive\in\f") and view.exists(r".\slashes\in\f")
    found["directory is root"] = bool(root) and view.full_path(".").lower() == view.full_path(root or "").lower()
    found["at drive"] = view.exists(r"C:\drive\in\f")
    found["at slashes"] = view.exists("/slashes/in/f")
    token = r"C:\var\run\secrets\kubernetes.io\serviceaccount\token"
    found["token"] = view.read(token) if view.exists(token) else None
    found["system"] = (view.token.sid, view.token.administrator)
    job = view.job
    found["memory limit"] = (job.limit_flags, job.job_memory_limit, job.process_memory_limit)
    found["cpu limit"] = (job.cpu_flags, job.cpu_rate)
    process = view.process.job.process("powershell.exe")
    assert process.begin()
    found["one process"] = process.allocate(400 * MIB)
    process.commit = min(process.commit, 100 * MIB)
    child = process.spawn()
    process.allocate(100 * MIB)
    found["parent and child"] = child.allocate(150 * MIB)
    found["ping"] = container.log.lines[2].text
    await container.stop(1)
    for name, user in {
        "service": "NT AUTHORITY\\Local service",
        "network": "NT AUTHORITY\\NetworkService",
        "group": "own",
        "unknown": "nobody",
        "none": None,
    }.items():
        try:
            other = await begin(
                host, "whoami", "/groups", "/user", "/fo", "csv", user=user, id=name.encode().hex().ljust(64, "0")
            )
            await other.wait()
            found[name] = [line.text for line in other.log.lines]
        except StartError as error:
            found[name] = str(error)
    try:
        found["host path"] = await finish(host, "cmd", "/c", "ver", mounts=(Mount(r"C:\host", r"C:\seen"),))
    except StartError as error:
        found["host path"] = str(error)
    found["users after"] = sorted(host.accounts.users)
    found["makes groups"] = await view.run(["net.exe", "localgroup", "made", "/add"])
    try:
        found["powershell"] = await finish(host, "powershell.exe", "exit 3", image=NANO)
    except StartError as error:
        found["powershell"] = str(error)
    return found


MOUNT_POINT = {"mount point", "below mount point", "directory is root"}
CHANGES: dict[str, set[str]] = {
    "network-compartment-of-its-own": {"interfaces", "listener"},
    "host-port-not-reachable": {"listener"},
    "host-name-of-its-own": {"host name"},
    "sandbox-mount-point-unset": MOUNT_POINT,
    "sandbox-mount-point-without-drive": {"mount point"},
    "rootfs-elsewhere": {"mount point", "relative", "directory is root"},
    "compatibility-links-missing": {"below mount point", "relative"},
    "working-directory-elsewhere": {"relative", "directory is root"},
    "volumes-not-bound": {"at drive", "at slashes", "token"},
    "host-path-not-bound": {"host path"},
    "drive-letter-not-added": {"at slashes", "token"},
    "stale-token-on-the-host": {"token"},
    "local-system-logs-on-as-administrator": {"system"},
    "local-service-logs-on-as-system": {"service"},
    "network-service-logs-on-as-local-service": {"network"},
    "group-account-not-a-member": {"group"},
    "group-account-left-behind": {"users after"},
    "group-runs-as-system": {"group"},
    "group-not-made": {"makes groups"},
    "unknown-user-logs-on-as-system": {"unknown"},
    "no-user-logs-on-as-system": {"none"},
    "memory-limit-per-process": {"memory limit", "parent and child"},
    "memory-limit-missing": {"memory limit", "one process", "parent and child"},
    "memory-limit-not-enforced": {"one process", "parent and child"},
    "child-escapes-job": {"parent and child"},
    "cpu-limit-missing": {"cpu limit"},
    "ping-unanswered": {"ping"},
    "arguments-escaped-twice": {"powershell"},
    "image-user-preferred": {"powershell"},
    "system-token-filtered": {"system"},
}
FAITHFUL: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize(
    ("name", "era"),
    [(name, era) for name in CHANGES for era in sorted(DEVIATIONS[name].eras) if era != "1.7-no-bind-filter"],
)
def test_a_deviation_changes_what_it_says_and_nothing_else(name: str, era: str) -> None:
    if era not in FAITHFUL:
        FAITHFUL[era] = asyncio.run(seen(node(era)))
    wrong = asyncio.run(seen(node(era, name)))
    assert {key for key, value in wrong.items() if value != FAITHFUL[era][key]} == CHANGES[name]


@pytest.mark.parametrize("era", ERAS)
def test_where_containerd_is_not_the_system_nothing_starts(era: str) -> None:
    denied = "failed to create user process token: failed to logon user: Access is denied.: unknown"
    for user in ("NT AUTHORITY\\SYSTEM", "NT AUTHORITY\\Local service"):
        with pytest.raises(StartError) as refused:
            asyncio.run(begin(node(era, "containerd-is-not-the-system"), "whoami", user=user))
        assert str(refused.value).endswith(denied)


def test_a_first_start_that_fails_leaves_nothing_and_the_next_one_does_not() -> None:
    host = node("2.3", "first-start-fails")
    assert "hcsshim::PrepareLayer failed in Win32: The device is not ready. (0x15): unknown" in refused(host, "whoami")
    assert ran(host, "whoami", id="1" * 64)[0] == 0
    assert "PrepareLayer" in refused(host, "hostname", id="2" * 64), "another one"


@pytest.mark.parametrize(("name", "kept"), [("output-lost-once", ["", "x"]), ("output-lost", ["", ""])])
def test_an_old_shim_loses_what_it_has_not_read(name: str, kept: list[str]) -> None:
    host = node("1.7", name)
    assert ["".join(ran(host, "cmd", "/c", "echo x", id=str(n) * 64)[1]).strip() for n in range(2)] == kept


def test_a_shim_that_reads_late_loses_nothing_while_the_process_stays() -> None:
    host = node("1.7", "output-lost")

    async def run() -> list[str]:
        container = await begin(host, "cmd", "/c", "echo first& ping -n 5 127.0.0.1 >nul& echo last")
        await container.wait()
        return [line.text.strip() for line in container.log.lines]

    assert asyncio.run(run()) == ["first"]


def test_a_refused_bind_leaves_nothing_behind() -> None:
    host = node("2.3", "host-path-not-bound")
    before = set(host.files.walk())
    text = refused(host, "whoami", mounts=(Mount(r"C:\a", r"C:\b"),))
    assert text == (
        'failed to create containerd task: failed to create shim task: failed to bind target "C:\\\\a" to root '
        '"C:\\\\b" for job object: Do not attach the filter to the volume at this time.: unknown'
    )
    assert set(host.files.walk()) - before <= {r"C:\a", r"C:\hpc"}


def test_what_has_no_rule_is_the_kubelets() -> None:
    theirs = {name for name, deviation in DEVIATIONS.items() if not deviation.replaces}
    assert theirs == {
        "container-level-flag-lost",
        "pod-ip-from-cni",
        "config-map-not-mounted",
        "token-not-mounted",
        "token-garbled",
    }
    assert set(CHANGES) == set(DEVIATIONS) - theirs - {"containerd-is-not-the-system"}
    assert node("1.7", "token-garbled").deviates("token-garbled")
    assert not node("1.7").deviates("token-garbled")
    with pytest.raises(ValueError, match="no deviation is called 'x'"):
        node("1.7").deviates("x")


@pytest.mark.parametrize(
    ("era", "names", "text"),
    [
        ("1.7", ["nonsense"], "no deviation is called"),
        ("1.6", ["volumes-not-bound"], "cannot be on a node of era 1.6"),
        ("1.7-no-bind-filter", ["volumes-not-bound"], "cannot be on a node of era 1.7-no-bind-filter"),
        ("1.7", ["memory-limit-missing", "memory-limit-per-process"], "replace the same rule"),
    ],
)
def test_deviations_that_cannot_be(era: str, names: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        node(era, *names)
