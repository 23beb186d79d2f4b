"""
The rules of the model by table: no container is started here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from conformance._suite.versions import Version
from infra.simulated.model import runtime, spec
from infra.simulated.model.accounts import Accounts
from infra.simulated.model.eras import ERAS, Era, MountMode
from infra.simulated.model.errors import CreateError, ImageNotFound, OtherBuild, ShimError, WindowsError
from infra.simulated.model.files import Binding, FileSystem, full_path
from infra.simulated.model.host import Host, machine_files
from infra.simulated.model.job import Job, JobView, job_of_child, may_commit
from infra.simulated.model.network import Network, find_listener
from infra.simulated.model.programs import split_arguments
from infra.simulated.model.rules import Rules
from infra.simulated.model.spec import ContainerSpec, ImageConfig, Mount

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "0123456789abcdef" * 4
BASE = "mcr.microsoft.com/oss/kubernetes/windows-host-process-containers-base-image:v1.0.0"
NANO = "mcr.microsoft.com/powershell:lts-nanoserver-1809"
SYSTEM = "NT AUTHORITY\\SYSTEM"
MIB = 1024 * 1024


def request(**changes: object) -> ContainerSpec:
    plain = ContainerSpec(
        ID, "c", "p", "ns", "uid", ImageConfig(BASE), command=("whoami",), user="NT AUTHORITY\\SYSTEM"
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9.12", "0.10.0-rc.0"), ("0.10.0-rc.1", "0.10.0-rc.8"), ("0.15.0-rc.3", "0.15.0"), ("1.6.39", "1.7.0")],
)
def test_versions_are_ordered(older: str, newer: str) -> None:
    assert Version.parse(older) < Version.parse(newer)


@pytest.mark.parametrize(
    ("era", "mode", "root", "directory", "default"),
    [
        ("1.6", MountMode.LINKS, f"C:\\C\\{ID}\\", rf"C:\C\{ID}\w", f"C:\\C\\{ID}"),
        ("1.7", MountMode.BIND, "C:\\hpc\\", r"C:\w", r"C:\hpc"),
        ("2.2", MountMode.BIND, "C:\\hpc\\", r"C:\w", r"C:\hpc"),
        ("2.3", MountMode.BIND, "C:\\hpc\\", r"C:\w", r"C:\hpc"),
        ("1.7-no-bind-filter", MountMode.FALLBACK, f"C:\\hpc\\{ID}\\", rf"C:\hpc\{ID}\w", rf"C:\hpc\{ID}\hpc"),
    ],
)
def test_mode_root_and_working_directory(era: str, mode: MountMode, root: str, directory: str, default: str) -> None:
    assert ERAS[era].mount_mode is mode
    assert runtime.root_location(ERAS[era], ID) == root
    assert runtime.start_directory(ERAS[era], root, "C:\\w") == directory
    assert runtime.start_directory(ERAS[era], root, None) == default.rstrip("\\")
    named = runtime.start_directory(ERAS[era], root, "%CONTAINER_SANDBOX_MOUNT_POINT%\\x")
    assert named == f"{root}x"


def test_the_default_directory_of_older_containerd_is_the_drive() -> None:
    assert runtime.start_directory(replace(ERAS["1.7"], containerd="1.7.15"), "C:\\hpc\\", None) == "C:\\"


@pytest.mark.parametrize("name", ["1.6", "1.7", "2.2", "1.7-no-bind-filter"])
def test_an_era_needs_both_a_new_shim_and_the_bind_filter_to_bind(name: str) -> None:
    without = replace(ERAS[name], bind_filter=False)
    assert without.mount_mode is not MountMode.BIND
    assert machine_files(ERAS[name]).exists(r"c:\windows\system32\BINDFLTAPI.dll") is ERAS[name].bind_filter


TAIL = ";C:\\hpc\\;C:\\WINDOWS\\System32\\WindowsPowerShell\\v1.0\\;C:\\WINDOWS\\System32\\Wbem"


@pytest.mark.parametrize(
    ("era", "value", "path"),
    [
        # The shim's own test (hcsshim@0.13.0 test/cri-containerd/jobcontainer_test.go) expects these two.
        ("1.7", r"C:\Windows\system32;C:\Windows", r"C:\Windows\system32;C:\Windows" + TAIL),
        ("2.2", r"%CONTAINER_SANDBOX_MOUNT_POINT%\vim\;C:\Windows", r"C:\hpc\vim\;C:\Windows" + TAIL),
        ("2.3", r"C:\Windows;", r"C:\Windows" + TAIL),
        ("1.6", r"C:\Windows\system32;C:\Windows", r"C:\Windows\system32;C:\Windows"),
    ],
)
def test_path(era: str, value: str, path: str) -> None:
    found = environment(ERAS[era], env=(("Path", value),))
    assert [found[name] for name in found if name.lower() == "path"] == [path]


def environment(era: Era, **changes: object) -> dict[str, str]:
    accounts = Accounts("M", "seed")
    token = accounts.service_token("S-1-5-18")
    of_user = runtime.user_environment(accounts, token, "Win-Containerd-1-7-0", 4)
    return runtime.environment(Rules(), era, request(**changes), runtime.root_location(era, ID), of_user)


def test_environment() -> None:
    own = (
        ("container_sandbox_mount_point", "mine"),
        ("EMPTY", ""),
        ("A", "$env:CONTAINER_SANDBOX_MOUNT_POINT\\a"),
        ("B", "$CONTAINER_SANDBOX_MOUNT_POINT\\b"),
        ("a", "last"),
        ("C", "%container_sandbox_mount_point%"),
    )
    found = environment(ERAS["1.7"], env=own, image=ImageConfig(NANO, env={"B": "image", "D": "image"}))
    assert found["CONTAINER_SANDBOX_MOUNT_POINT"] == "C:\\hpc\\"
    assert "container_sandbox_mount_point" not in found
    assert "EMPTY" not in found
    assert {name: found[name] for name in ("a", "B", "C", "D")} == {
        "a": "last",
        "B": "$CONTAINER_SANDBOX_MOUNT_POINT\\b",
        "C": "%container_sandbox_mount_point%",
        "D": "image",
    }
    assert found["COMPUTERNAME"] == "WIN-CONTAINERD-"
    old = environment(replace(ERAS["1.6"], shim="0.9.3"), env=own[2:3])
    assert old["A"] == "$env:CONTAINER_SANDBOX_MOUNT_POINT\\a"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ping", "-t", "127.0.0.1"], "ping -t 127.0.0.1"),
        (["cmd", "/c", "echo a b"], 'cmd /c "echo a b"'),
        (["x", 'say "hi"'], r'x "say \"hi\""'),
        (["x", 'a\\"b'], r"x a\\\"b"),
        (["x", "a b\\"], r'x "a b\\"'),
        (["x", ""], 'x ""'),
    ],
)
def test_arguments_become_a_line_and_come_back(words: list[str], line: str) -> None:
    assert runtime.join_arguments(words) == line
    assert split_arguments(line) == [word for word in words if word] + ([""] if "" in words else [])


def test_command_and_args_replace_those_of_the_image() -> None:
    image = ImageConfig(BASE, entrypoint=("entry",), cmd=("cmd",))
    assert runtime.command_line(Rules(), request(command=(), image=image)) == "entry cmd"
    assert runtime.command_line(Rules(), request(command=(), args=("a",), image=image)) == "entry a"
    assert runtime.command_line(Rules(), request(command=("c",), image=image)) == "c"
    with pytest.raises(CreateError, match="no command specified"):
        runtime.command_line(Rules(), request(command=(), image=ImageConfig(BASE)))


@pytest.mark.parametrize(
    ("written", "destination"),
    [
        ("C:\\a\\b", "C:\\a\\b"),
        ("c:/a/b/", "C:\\a\\b"),
        ("/var/run", "C:\\var\\run"),
        ("\\x\\..\\y", "C:\\y"),
        ("D:", "D:"),
    ],
)
def test_destinations(written: str, destination: str) -> None:
    assert runtime.mount_destination(request(), Mount("C:\\s", written)) == destination


def test_drive_c_is_no_destination() -> None:
    text = f'failed to generate container "{ID}" spec: failed to generate spec: destination path can not be C drive'
    with pytest.raises(CreateError) as refused:
        runtime.mount_destination(request(), Mount("C:\\s", "C:"))
    assert str(refused.value) == text


def test_a_missing_source_is_made_and_a_linked_one_is_resolved() -> None:
    files = FileSystem()
    files.make_directory(r"C:\real\in")
    files.link(r"C:\linked", r"C:\real")
    mounts = (Mount(r"C:\linked\in", r"C:\deep\er"), Mount(r"C:\missing", r"C:\top"))
    found = runtime.cri_mounts(request(mounts=mounts), files)
    assert [(mount.host_path, destination) for mount, destination in found] == [
        (r"C:\missing", r"C:\top"),
        (r"C:\real\in", r"C:\deep\er"),
    ]
    assert files.is_directory(r"C:\missing")


def test_named_pipes_and_empty_paths_are_refused_by_the_shim_alone() -> None:
    pipe = runtime.cri_mounts(request(mounts=(Mount("\\\\.\\pipe\\x", "/x"),)), FileSystem())
    with pytest.raises(ShimError, match="named pipe mounts not supported for job containers - interact with the pipe"):
        runtime.refuse_unsupported_mounts(pipe)
    with pytest.raises(ShimError, match="a mount must have both source and a destination"):
        runtime.refuse_unsupported_mounts([(Mount("", "/x"), "C:\\x")])


@pytest.mark.parametrize(
    ("containerd", "wrap"),
    [("1.6.6", None), ("1.6.7", ""), ("1.7.34", ""), ("2.2.7", "failed to generate spec opts: ")],
)
def test_mixed_pods(containerd: str, wrap: str | None) -> None:
    era = replace(ERAS["1.6"], containerd=containerd)
    if wrap is None:
        runtime.refuse_mixed_flags(era, request(host_process=False))
        return
    with pytest.raises(CreateError) as refused:
        runtime.refuse_mixed_flags(era, request(host_process=False))
    assert str(refused.value) == (
        f'failed to generate container "{ID}" spec: {wrap}'
        "pod spec and all containers inside must have the HostProcess field set to be valid"
    )


@pytest.mark.parametrize(
    ("asked", "flags", "limit"),
    [
        (None, 0x2000, 0),
        (MIB - 1, 0x2000, 0),
        (10 * MIB, 0x2200, 10 * MIB),
        (10 * MIB + 5, 0x2200, 10 * MIB),
    ],
)
def test_memory_limit(asked: int | None, flags: int, limit: int) -> None:
    assert runtime.memory_limit(asked) == JobView(flags, limit)


def test_cpu_limit() -> None:
    assert runtime.cpu_limit(None) == (0, 0)
    assert runtime.cpu_limit(1750) == (5, 1750)
    with pytest.raises(ShimError, match="processor rate of `10001` is invalid"):
        runtime.cpu_limit(10_001)


def test_parent_and_child_share_the_limit_of_the_job() -> None:
    job = Job(runtime.memory_limit(300 * MIB), may_commit, job_of_child)
    parent = job.process("powershell.exe")
    assert parent.begin()
    assert parent.allocate(100 * MIB)
    child = parent.spawn()
    assert not child.allocate(100 * MIB)
    assert child.allocate(60 * MIB)
    assert job.commit == 300 * MIB
    with pytest.raises(WindowsError, match="paging file is too small"):
        parent.spawn()
    child.end()
    assert parent.allocate(100 * MIB)
    assert job.peak == 300 * MIB


@pytest.mark.parametrize(
    ("era", "user", "text"),
    [
        ("1.6", "", "empty user string passed"),
        ("1.7", "", "empty username or group name passed"),
        ("1.6", "nobody", "failed to logon user: The user name or password is incorrect."),
        ("2.3", "nobody", "failed to logon user: The user name or password is incorrect."),
        ("1.6", "Administrators", "failed to logon user: The user name or password is incorrect."),
        ("2.2", "Administrator", "failed to logon user: The user name or password is incorrect."),
        ("1.7", "nt authority\\system", "failed to logon user: The user name or password is incorrect."),
        ("1.7", "a\\b\\c", "invalid user string `a\\b\\c`"),
        ("1.7", "ContainerUser", "failed to logon user: The user name or password is incorrect."),
    ],
)
def test_refused_users(era: str, user: str, text: str) -> None:
    with pytest.raises(ShimError) as refused:
        runtime.create_token(Rules(), ERAS[era], Accounts("M", "seed"), user, ID)
    assert str(refused.value) == f"failed to create user process token: {text}"


def test_containerd_as_an_ordinary_account_logs_nobody_on() -> None:
    era = replace(ERAS["1.7"], runs_as_system=False)
    with pytest.raises(ShimError, match=r"failed to logon user: Access is denied\."):
        runtime.create_token(Rules(), era, Accounts("M", "seed"), "NT AUTHORITY\\SYSTEM", ID)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("user", "sid", "administrator"),
    [
        ("NT AUTHORITY\\SYSTEM", "S-1-5-18", True),
        ("NT AUTHORITY\\System", "S-1-5-18", True),
        ("NT AUTHORITY\\Local service", "S-1-5-19", False),
        ("NT AUTHORITY\\NetworkService", "S-1-5-20", False),
        ("NT AUTHORITY\\Network Service", "S-1-5-20", False),
    ],
)
def test_system_accounts(era: str, user: str, sid: str, administrator: bool) -> None:
    token = runtime.create_token(Rules(), ERAS[era], Accounts("M", "seed"), user, ID)
    assert (token.sid, token.administrator) == (sid, administrator)


def test_a_group_of_a_users_name_hides_the_user() -> None:
    accounts = Accounts("M", "seed")
    group = accounts.add_group("both")
    user = accounts.add_user("Both", "secret")
    token = runtime.create_token(Rules(), ERAS["1.7"], accounts, "BOTH", ID)
    assert token.name == f"M\\{ID[:20]}"
    assert token.sid != user.sid
    assert group.sid in token.groups
    runtime.remove_account(accounts, ID[:20])
    assert group.members == []


def files_with(*paths: str) -> FileSystem:
    files = machine_files(ERAS["1.7"])
    for path in paths:
        files.write(path, b"")
    return files


@pytest.mark.parametrize(
    ("line", "program", "started"),
    [
        ("ping -t", r"C:\Windows\System32\ping.exe", "ping -t"),
        ('"ping" -t', r"C:\Windows\System32\ping.exe", '"ping" -t'),
        (r"C:\Program Files\x y.exe arg", r"C:\Program Files\x y.exe", r'"C:\Program Files\x y.exe" arg'),
        ("test 2", r"C:\w\test 2.exe", '"test 2"'),
        ("tool a", r"C:\w\tool", "tool a"),
        ("CMD /c x", r"C:\Windows\System32\CMD.exe", "CMD /c x"),
    ],
)
def test_finding_the_program(line: str, program: str, started: str) -> None:
    files = files_with(r"C:\Program Files\x y.exe", r"C:\w\test 2.exe", r"C:\w\tool")
    found, line = runtime.find_executable(files, line, [r"C:\w", runtime.SYSTEM32])
    assert (found, line) == (program, started)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('a"b c', r'commandline "a\"b c": failed to find executable "a\"b c"'),
        (
            '"open',
            r'commandline "\"open": no ending quotation mark found in command',
        ),
        (
            "folder.exe",
            r'commandline "folder.exe": found directory instead of executable "C:\\w\\folder.exe"',
        ),
    ],
)
def test_programs_that_are_not_found(line: str, text: str) -> None:
    with pytest.raises(ShimError) as refused:
        runtime.find_executable(files_with(r"C:\w\folder.exe\x"), line, [r"C:\w"])
    assert str(refused.value) == f"failed to get application name from {text}"


def test_before_0_10_the_shims_own_path_counts_and_later_the_containers() -> None:
    assert r"C:\mine" not in runtime.search_path(ERAS["1.6"], {"PATH": r"C:\mine"}, "C:\\")
    assert r"C:\mine" in runtime.search_path(ERAS["1.7-no-bind-filter"], {"PATH": r"C:\mine"}, "C:\\")
    assert r"ath=C:\mine" in runtime.search_path(ERAS["1.7-no-bind-filter"], {"Path": r"C:\mine"}, "C:\\")


@pytest.mark.parametrize(
    ("path", "directory", "full"),
    [
        ("a\\..\\b", r"C:\w", r"C:\w\b"),
        ("/a/./b/", r"C:\w", r"C:\a\b"),
        ("c:x", r"C:\w", r"C:\w\x"),
        ("c:\\", r"C:\w", "C:\\"),
        ("..\\..\\..", r"C:\w", "C:\\"),
        ("x. ", r"C:\w", r"C:\w\x"),
        ("", r"C:\w", r"C:\w"),
    ],
)
def test_full_paths(path: str, directory: str, full: str) -> None:
    assert full_path(path, directory) == full


def test_a_file_system_of_windows() -> None:
    files = FileSystem()
    files.write(r"C:\Data\One.txt", b"1")
    files.link(r"C:\Data\latest", "One.txt")
    assert files.read("c:/DATA/one.TXT") == b"1"
    assert files.read(r"C:\Data\latest") == b"1"
    files.write(r"C:\data\ONE.txt", b"2")
    assert files.list(r"C:\data") == ["latest", "One.txt"]
    files.delete(r"C:\Data\latest")
    assert files.exists(r"C:\Data\One.txt")
    codes: list[tuple[Callable[[], object], int]] = [
        (lambda: files.read(r"C:\Data\none"), 2),
        (lambda: files.read(r"C:\none\none"), 3),
        (lambda: files.read(r"C:\Data"), 5),
        (lambda: files.link(r"C:\Data\One.txt", "x"), 183),
        (lambda: files.write(r"C:\none\x", b"", parents=False), 3),
        (lambda: files.list(r"C:\none"), 3),
        (lambda: files.read("D:\\x"), 3),
    ]
    for call, code in codes:
        with pytest.raises(WindowsError) as refused:
            call()
        assert refused.value.code == code
    files.link(r"C:\loop", r"C:\loop")
    with pytest.raises(WindowsError) as endless:
        files.read(r"C:\loop")
    assert endless.value.code == 1921


def test_a_binding_is_seen_by_its_silo_alone() -> None:
    files = FileSystem()
    files.write(r"C:\source\real.txt", b"real")
    files.link(r"C:\source\link.txt", "real.txt")
    files.make_directory(r"C:\mnt")
    silo = files.view([Binding(r"C:\mnt\x", r"C:\source", read_only=True)], administrator=True)
    assert silo.read(r"c:\mnt\X\real.txt") == silo.read(r"C:\mnt\x\link.txt") == b"real"
    assert silo.list(r"C:\mnt") == ["x"]
    assert files.list(r"C:\mnt") == []
    with pytest.raises(WindowsError) as refused:
        silo.write(r"C:\mnt\x\new.txt", b"")
    assert refused.value.code == 19
    files.write(r"C:\source\new.txt", b"new")
    assert silo.read(r"C:\mnt\x\new.txt") == b"new"


def test_only_who_is_trusted_writes_into_windows_folders() -> None:
    files = machine_files(ERAS["1.7"])
    with pytest.raises(WindowsError) as refused:
        files.view((), administrator=False).write(r"C:\Windows\x", b"")
    assert refused.value.code == 5
    files.view((), administrator=True).write(r"C:\Windows\x", b"")


def test_listeners() -> None:
    network = Network(("10.240.0.4", "127.0.0.1"), find_listener)
    port = network.listen("10.240.0.4", 0, bytes.upper)
    assert network.connect("10.240.0.4", port) is not None
    assert network.connect("127.0.0.1", port) is None
    assert network.connect("10.240.0.5", port) is None
    network.listen("0.0.0.0", 80, bytes.lower)
    assert network.connect("127.0.0.1", 80) is not None
    for address, taken, code in (("10.240.0.9", 0, 10049), ("127.0.0.1", 80, 10048)):
        with pytest.raises(WindowsError) as refused:
            network.listen(address, taken, bytes.upper)
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("reference", "user"),
    [
        (BASE, ""),
        ("my.registry:5000/x/windows-host-process-containers-base-image@sha256:" + "a" * 64, ""),
        ("windows-host-process-containers-base-image:v1.0.0@sha256:" + "a" * 64, ""),
        (NANO, "ContainerUser"),
        ("mirror.example/powershell:lts-nanoserver-ltsc2022", "ContainerUser"),
    ],
)
def test_images(reference: str, user: str) -> None:
    assert spec.image(reference, 20348).user == user


@pytest.mark.parametrize(
    ("tag", "build", "fits"),
    [
        ("ltsc2019", 17763, True),
        ("ltsc2019", 20348, False),
        ("ltsc2019", 26100, False),
        ("ltsc2022", 17763, False),
        ("ltsc2022", 20348, True),
        ("ltsc2022", 26100, True),
    ],
)
def test_nano_server_fits_some_builds(tag: str, build: int, fits: bool) -> None:
    reference = f"mirror.example/windows/nanoserver:{tag}"
    if fits:
        found = spec.image(reference, build)
        assert (found.user, found.env) == ("ContainerUser", {})
        return
    with pytest.raises(OtherBuild, match=f'image "{reference}": no match for platform in manifest: not found'):
        spec.image(reference, build)


@pytest.mark.parametrize(
    "reference", ["nginx", NANO.replace("1809", "1909"), BASE.replace("v1.0.0", "v9"), "powershell"]
)
def test_unknown_images(reference: str) -> None:
    with pytest.raises(ImageNotFound) as refused:
        spec.image(reference, 20348)
    assert str(refused.value) == (
        f'failed to pull and unpack image "{reference}": failed to resolve reference "{reference}": '
        f"{reference}: not found"
    )


def test_each_machine_is_its_own() -> None:
    one, two = (Host(ERAS["1.7"], f"win-containerd-1-7-{i}", f"10.240.0.{4 + i}") for i in range(2))
    assert one.host_name == "Win-Containerd-1-7-0"
    assert one.host_name.lower() == one.name
    assert one.accounts.machine_sid != two.accounts.machine_sid
    assert one.accounts.machine == "WIN-CONTAINERD-"
    one.files.write(r"C:\x", b"")
    assert not two.files.exists(r"C:\x")
    shim = r"C:\Program Files\containerd\containerd-shim-runhcs-v1.exe"
    assert one.files.file_version(shim) == "0.11.7"
    assert one.files.read(shim) == two.files.read(shim)
