"""
The rules of containerd's CRI plugin and of its Windows shim for HostProcess containers, one small function each.

Errors are those of the sources. A rule that a deviation can replace is reached through ``rules.Rules``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.simulated.model import files as paths
from infra.simulated.model.accounts import SYSTEM, Accounts, Group, Token, User
from infra.simulated.model.eras import Era, MountMode
from infra.simulated.model.errors import CreateError, ShimError, WindowsError
from infra.simulated.model.files import Binding, FileSystem
from infra.simulated.model.job import (
    CPU_RATE_ENABLE,
    CPU_RATE_HARD_CAP,
    LIMIT_JOB_MEMORY,
    LIMIT_KILL_ON_JOB_CLOSE,
    MIB,
    JobView,
)
from infra.simulated.model.spec import ContainerSpec, Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from infra.simulated.model.network import Network
    from infra.simulated.model.rules import Rules

PIPE = "\\\\.\\pipe\\"
SYSTEM32 = r"C:\Windows\System32"
MACHINE_PATH = (
    "C:\\Windows\\system32;C:\\Windows;C:\\Windows\\System32\\Wbem;"
    "C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\;C:\\Windows\\System32\\OpenSSH\\;C:\\Program Files\\containerd"
)
"""The machine's PATH: that of services, the shim's own among them."""
CONTAINERD = r"C:\Program Files\containerd\containerd.exe"
SHIM = "containerd-shim-runhcs-v1"
MOUNT_POINT = "CONTAINER_SANDBOX_MOUNT_POINT"


def quoted(text: str) -> str:
    """
    A text as Go's ``%q`` prints it.
    """
    return json.dumps(text, ensure_ascii=False)


# What the CRI plugin decides: CreateContainer.


def refuse_mixed_flags(era: Era, spec: ContainerSpec) -> None:
    """
    Container and pod must agree on HostProcess; before containerd 1.6.7 the container's flag was not read. Raises
    CreateError.

    Source: containerd@1.6.7, @1.7.0 and @2.0.0 pkg/cri/server/container_create_windows.go (commits ac388525a and
    978ff393d).
    """
    if spec.host_process == spec.pod_host_process or not era.containerd_since("1.6.7"):
        return
    wrap = "failed to generate spec opts: " if era.containerd_since("2.0.0") else ""
    raise CreateError(
        f'failed to generate container "{spec.id}" spec: {wrap}'
        "pod spec and all containers inside must have the HostProcess field set to be valid"
    )


def cri_mounts(spec: ContainerSpec, files: FileSystem) -> list[tuple[Mount, str]]:
    """
    The mounts with their destinations, parents first; links in a source are resolved and a source that is missing is
    made, on the host, as a folder. Raises CreateError.

    Source: containerd@1.7.28 pkg/cri/opts/spec_windows_opts.go.
    """
    found: list[tuple[Mount, str]] = []
    for mount in sorted(spec.mounts, key=lambda mount: len(_parts(mount.container_path))):
        source = mount.host_path
        try:
            if source and not source.startswith(PIPE):
                if not files.exists(source):
                    files.make_directory(source)
                source = files.real_path(source)
        except WindowsError as error:
            raise _spec_error(spec, f"failed to mkdir {quoted(source)}: mkdir {source}: {error}") from None
        found.append((Mount(source, mount.container_path, mount.read_only), mount_destination(spec, mount)))
    return found


def mount_destination(spec: ContainerSpec, mount: Mount) -> str:
    """
    A destination without a drive gets ``C:``; a whole drive may be one, but not C. Raises CreateError.

    Source: containerd@1.7.28 pkg/cri/opts/spec_windows_opts.go.
    """
    path = mount.container_path.replace("/", "\\")
    if re.fullmatch(r"[A-Za-z]:\\?", path):
        if path[0] in "cC":
            raise _spec_error(spec, "destination path can not be C drive")
        return path[:2]
    return paths.full_path(path) if path else ""


def command_line(rules: Rules, spec: ContainerSpec) -> str:
    """
    The pod's command and args over the image's, as the one line that Windows knows. Raises CreateError when there is
    nothing to run.

    Source: containerd@1.7.28 pkg/cri/opts/spec_opts.go (WithProcessArgs); hcsshim@0.11.7 internal/cmd/cmd.go.
    """
    command, args = spec.command, spec.args
    if not command:
        command = spec.image.entrypoint
        args = args or spec.image.cmd
    words = [*command, *args]
    if not words:
        raise _spec_error(spec, "no command specified")
    return rules.join_arguments(words)


def join_arguments(words: Iterable[str]) -> str:
    r"""
    Arguments as one command line: one with a space or a tab is quoted, a quote in it becomes ``\"``.

    Source: hcsshim@0.11.7 internal/cmd/cmd.go (windows.EscapeArg of Go's x/sys).
    """
    return " ".join(_escape(word) for word in words)


def _escape(word: str) -> str:
    if not word:
        return '""'
    if not re.search(r'[ \t"\\]', word):
        return word
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', word)
    if not re.search(r"[ \t]", word):
        return escaped
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def requested_directory(spec: ContainerSpec) -> str | None:
    """
    The pod's workingDir, or else the image's.

    Source: containerd@1.7.28 pkg/cri/sbserver/container_create.go.
    """
    return spec.working_dir or spec.image.workdir or None


def user_string(spec: ContainerSpec) -> str:
    """
    The effective runAsUserName, or else the image's user; nothing checks it here.

    Source: containerd@1.7.28 pkg/cri/server/container_create_windows.go.
    """
    return spec.user or spec.image.user


def _spec_error(spec: ContainerSpec, text: str) -> CreateError:
    return CreateError(f'failed to generate container "{spec.id}" spec: failed to generate spec: {text}')


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[\\/]", path) if part]


def host_processes(files: FileSystem) -> dict[str, str]:
    """
    The paths of the processes that run on the host whatever the pod: containerd, and its shim, which is the first one
    on PATH; where there is none, the one beside containerd.

    Source: containerd@2.0.0 core/runtime/v2/shim_manager.go (resolveRuntimePath).
    """
    folders = [*MACHINE_PATH.split(";"), paths.parent(CONTAINERD)]
    on_path = (folder.rstrip("\\") + f"\\{SHIM}.exe" for folder in folders)
    return {"containerd": CONTAINERD, SHIM: next(path for path in on_path if files.exists(path))}


# What the shim does when the task is created: storage and limits.


@dataclass(frozen=True, slots=True)
class Storage:
    """
    A container's root file system: where it is seen (with a backslash at the end), the volume behind it, and what
    only the container's silo sees.
    """

    mode: MountMode
    location: str
    volume: str
    bindings: tuple[Binding, ...] = ()


def root_location(era: Era, container: str) -> str:
    r"""
    Where the root file system is: ``C:\C\<id>\`` for shims before 0.10, ``C:\hpc\`` in a silo, ``C:\hpc\<id>\``
    without the bind filter.

    Source: hcsshim@0.9.12 internal/jobcontainers/storage.go; hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go
    (bindSetup, fallbackSetup).
    """
    match era.mount_mode:
        case MountMode.BIND:
            return "C:\\hpc\\"
        case MountMode.FALLBACK:
            return f"C:\\hpc\\{container}\\"
        case MountMode.LINKS:
            return f"C:\\C\\{container}\\"


def refuse_unsupported_mounts(mounts: Sequence[tuple[Mount, str]]) -> None:
    """
    A mount needs a source and a destination, and its source must not be a named pipe. Nothing else is refused: a Unix
    domain socket is a file like others. Raises ShimError.

    Source: hcsshim@0.11.7 internal/jobcontainers/mounts.go (the same in 0.9 to 0.15).
    """
    for mount, destination in mounts:
        if not mount.host_path or not destination:
            raise ShimError(
                "invalid OCI spec - a mount must have both source and a destination: "
                f"{{Destination:{destination} Type: Source:{mount.host_path} Options:[]}}"
            )
        if mount.host_path.startswith(PIPE):
            raise ShimError("named pipe mounts not supported for job containers - interact with the pipe directly")


def bound_at(mount: Mount, destination: str) -> str:
    """
    Where the bind filter shows a mount: at its destination, whatever the host has there. Empty: nowhere. Raises
    ShimError when it cannot.

    Source: hcsshim@0.11.7 internal/jobcontainers/mounts.go (setupMounts).
    """
    del mount
    return destination


def below_root(destination: str) -> str:
    r"""
    A destination without its drive letter, for the link below the root file system: ``C:\a\b`` is at ``\a\b``.

    Source: hcsshim@0.9.12 internal/jobcontainers/mounts.go.
    """
    return destination[2:] if destination[1:2] == ":" else destination


def left_before() -> dict[str, bytes]:
    """
    The files that earlier pods left on the host at paths that later ones mount something to, by path: none.
    """
    return {}


def mount_layers(starts: int) -> None:
    """
    Windows mounts the image's layers; ``starts`` is how often this machine was asked to start such a container before.
    Raises ShimError.
    """
    del starts


def output_lag(starts: int) -> float:
    """
    By how many seconds the shim reads a container's output later than it is written; ``starts`` as above. What a shim
    before 0.12 has not read when the process ends is lost.

    Source: hcsshim pull request 2021 (first in 0.12.0-rc.2).
    """
    del starts
    return 0.0


def sandbox_refusal() -> str | None:
    """
    Why containerd makes no sandbox for any pod; None: it does.
    """
    return None


def create_storage(
    rules: Rules, era: Era, files: FileSystem, spec: ContainerSpec, mounts: Sequence[tuple[Mount, str]]
) -> Storage:
    """
    Mount the layers, then show the mounts, by binding or by links. Raises ShimError.

    Source: hcsshim@0.9.12 and @0.11.7 internal/jobcontainers/jobcontainer.go (Create).
    """
    refuse_unsupported_mounts(mounts)
    number = spec.id.ljust(32, "0")
    volume = f"\\\\?\\Volume{{{number[:8]}-{number[8:12]}-{number[12:16]}-{number[16:20]}-{number[20:32]}}}\\"
    files.add_volume(volume)
    location = rules.root_location(era, spec.id)
    mode = era.mount_mode
    if mode is MountMode.BIND:
        try:
            return Storage(mode, location, volume, _bind(rules, files, location, volume, mounts))
        except ShimError:
            files.drop_volume(volume)
            raise
    files.make_directory(paths.parent(paths.full_path(location)))
    files.link(location, volume)
    storage = Storage(mode, location, volume)
    try:
        for mount, destination in mounts:
            _link(files, mount.host_path, location.rstrip("\\") + below_root(destination))
    except ShimError:
        release_storage(files, storage)
        files.drop_volume(volume)
        raise
    return storage


def _bind(
    rules: Rules, files: FileSystem, location: str, volume: str, mounts: Sequence[tuple[Mount, str]]
) -> tuple[Binding, ...]:
    """
    Bind the root file system and the mounts for the silo, which makes the folders above each on the host, and plant
    the links of older shims in the root file system; those are best effort and not read-only (unverified).

    Source: hcsshim@0.11.7 internal/jobcontainers/mounts.go, internal/jobobject/jobobject.go (ApplyFileBinding).
    """
    files.make_directory(location)
    bindings = [Binding(paths.full_path(location), volume)]
    for mount, destination in mounts:
        if at := rules.bound_at(mount, destination):
            files.make_directory(paths.parent(paths.full_path(at)))
            bindings.append(Binding(paths.full_path(at), mount.host_path, mount.read_only))
        if below := rules.compatibility_link(destination):
            try:
                _link(files, mount.host_path, volume.rstrip("\\") + below)
            except ShimError:
                continue  # the shim only logs it
    return tuple(bindings)


def _link(files: FileSystem, source: str, path: str) -> None:
    try:
        files.make_directory(paths.parent(paths.full_path(path)))
    except WindowsError as error:
        raise ShimError(f"failed to make directory for job container mount: mkdir {path}: {error}") from None
    try:
        files.link(path, source)
    except WindowsError as error:
        raise ShimError(f"failed to setup mount for job container: symlink {source} {path}: {error}") from None


def release_storage(files: FileSystem, storage: Storage) -> None:
    """
    What the shim takes away when the task is deleted: the mount of the layers and its folder, links included, not the
    folders above it; bindings end with the silo.

    Source: hcsshim@0.11.7 internal/layers/layers.go (RemoveSandboxMountPoint).
    """
    if storage.mode is not MountMode.BIND:
        files.delete(storage.location)


def may_change_accounts(token: Token) -> bool:
    """
    Windows lets administrators and the system itself change the machine's accounts.
    """
    return token.trusted


def list_users(accounts: Accounts) -> list[User]:
    """
    All local users.
    """
    return list(accounts.users.values())


def language_mode(token: Token) -> str:
    """
    PowerShell's language mode for a process: without AppLocker or WDAC everybody has the full language.

    Source: Microsoft's about_Language_Modes.
    """
    del token
    return "FullLanguage"


def memory_limit(limit: int | None) -> JobView:
    """
    A memory limit is the whole job's; it is rounded down to MiB, and less than one MiB is none.

    Source: hcsshim@0.11.7 internal/jobcontainers/oci.go and internal/jobobject/limits.go.
    """
    size = (limit or 0) // MIB * MIB
    if not size:
        return JobView()
    return JobView(LIMIT_KILL_ON_JOB_CLOSE | LIMIT_JOB_MEMORY, size)


def cpu_limit(maximum: int | None) -> tuple[int, int]:
    """
    A CPU maximum is a hard cap on the job, in hundredths of a percent of all processors: flags and rate. Raises
    ShimError.

    Source: hcsshim@0.11.7 internal/jobcontainers/oci.go and internal/jobobject/limits.go.
    """
    if not maximum:
        return 0, 0
    if not 1 <= maximum <= 10_000:
        raise ShimError(
            f"failed to set resource limits: failed to set job object cpu limit: "
            f"processor rate of `{maximum}` is invalid"
        )
    return CPU_RATE_ENABLE | CPU_RATE_HARD_CAP, maximum


# What the shim does when the task is started: directory, user, environment, program.


def expand(text: str, location: str) -> str:
    """
    The two spellings of the mount point's variable, exactly these, become the location without its last character.

    Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go.
    """
    short = location[:-1]
    return text.replace(f"%{MOUNT_POINT}%", short).replace(f"$env:{MOUNT_POINT}", short)


def default_directory(era: Era) -> str:
    r"""
    The working directory of a HostProcess container that asks for none: ``C:\hpc`` from containerd 1.7.16 on.

    Source: containerd@1.7.16 pkg/cri/sbserver/container_create.go (commits 989f1ec54, c7ea06a69).
    """
    return r"C:\hpc" if era.containerd_since("1.7.16") else "C:\\"


def start_directory(era: Era, location: str, requested: str | None) -> str:
    r"""
    The working directory. In a silo it is taken as given; else it is joined, without its drive, to the root file
    system, unless it named the mount point. Unverified: without the bind filter the default ends up as
    ``C:\hpc\<id>\hpc``.

    Source: hcsshim@0.9.12 and @0.11.7 internal/jobcontainers/jobcontainer.go.
    """
    asked = (requested or default_directory(era)).replace("/", "\\")
    expanded = expand(asked, location)
    if era.mount_mode is MountMode.BIND or expanded != asked:
        return paths.full_path(expanded)
    return paths.full_path(location + below_root(asked).lstrip("\\"))


def make_start_directory(era: Era, files: FileSystem, directory: str) -> None:
    """
    A working directory that is missing, as the shim sees the host, is made there from shim 0.10 on.

    Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go; kubernetes issue 112885.
    """
    if era.mount_mode is not MountMode.LINKS and not files.exists(directory):
        files.make_directory(directory)


def refuse_empty_user(era: Era, accounts: Accounts) -> Token:
    """
    No user at all is refused. Raises ShimError.

    Source: hcsshim@0.9.12 and @0.11.7 internal/jobcontainers/logon.go.
    """
    del accounts
    empty = "empty user string passed" if era.mount_mode is MountMode.LINKS else "empty username or group name passed"
    raise ShimError(f"failed to create user process token: {empty}")


def group_of(era: Era, accounts: Accounts, user: str) -> Group | None:
    """
    From shim 0.10 on, a user string that is a local group's name means that group, before any user of the name.

    Source: hcsshim@0.11.7 internal/jobcontainers/logon.go (commit d0f3c8555, first in 0.10.0-rc.0).
    """
    return accounts.group(user) if era.shim_since("0.10.0-rc.0") else None


def join_group(group: Group, user: User) -> None:
    """
    The ephemeral account becomes a member of the group, by SID.

    Source: hcsshim@0.11.7 internal/jobcontainers/logon.go.
    """
    group.members.append(user.sid)


def remove_account(accounts: Accounts, name: str) -> None:
    """
    The ephemeral account is deleted with the task; that it is gone already is no error.

    Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go (Close).
    """
    if name.lower() in accounts.users:
        accounts.delete_user(name)


def ephemeral_name(container: str) -> str:
    """
    The name of the ephemeral account: the first 20 characters of the container's id.

    Source: hcsshim@0.11.7 internal/jobcontainers/logon.go.
    """
    return container[:20]


def log_on(accounts: Accounts, domain: str, name: str) -> Token:
    """
    LogonUser with a null password: as a service when the domain is exactly ``NT AUTHORITY``, else interactively.
    Raises WindowsError. Unverified: Windows' exact texts.

    Source: hcsshim@0.11.7 internal/jobcontainers/logon.go.
    """
    return accounts.log_on(domain, name, None, service=domain == "NT AUTHORITY")


def create_token(rules: Rules, era: Era, accounts: Accounts, user: str, container: str) -> Token:
    """
    The token that the container's processes get. Raises ShimError.

    Source: hcsshim@0.9.12 and @0.11.7 internal/jobcontainers/logon.go; "Access is denied." where containerd does not
    run as the system: Kubernetes' documentation on troubleshooting HostProcess containers.
    """
    if not user:
        return rules.empty_user(era, accounts)
    failed = "failed to create user process token: "
    group = rules.group_of(era, accounts, user)
    if group is not None:
        return _ephemeral_token(rules, accounts, group, container)
    domain, separator, name = user.partition("\\")
    if not separator:
        domain, name = "", user
    elif "\\" in name:
        raise ShimError(f"{failed}invalid user string `{user}`")
    if not era.runs_as_system:
        raise ShimError(f"{failed}failed to logon user: Access is denied.")
    try:
        return rules.log_on(accounts, domain, name)
    except WindowsError as error:
        raise ShimError(f"{failed}failed to logon user: {error}") from None


def _ephemeral_token(rules: Rules, accounts: Accounts, group: Group, container: str) -> Token:
    """
    Make the ephemeral account, put it into the group, log it on interactively.

    Source: hcsshim@0.11.7 internal/jobcontainers/logon.go. Unverified: that members of Administrators get an
    unfiltered token.
    """
    name = ephemeral_name(container)
    failed = "failed to create user process token: "
    try:
        user = rules.make_account(accounts, name, f"password of {container}")
    except WindowsError as error:
        raise ShimError(
            f"{failed}failed to create local account for container: failed to create user {name}: {error}"
        ) from None
    rules.join_group(group, user)
    try:
        return accounts.log_on("", name, user.password, service=False)
    except WindowsError as error:
        raise ShimError(f"{failed}failed to logon user: {error}") from None


def user_environment(accounts: Accounts, token: Token, host_name: str, processors: int) -> dict[str, str]:
    """
    The environment that Windows gives an account, without a loaded profile: the machine's variables and its own.

    Source: hcsshim@0.11.7 internal/jobcontainers/env.go (CreateEnvironmentBlock, nothing inherited).
    """
    computer = host_name[:15].upper()
    profile, temp, user = r"C:\Users\Default", r"C:\Windows\TEMP", token.name.rpartition("\\")[2]
    if token.sid == SYSTEM:
        profile, user = r"C:\Windows\system32\config\systemprofile", f"{computer}$"
    elif not token.sid.startswith(accounts.machine_sid):
        folder = "".join(word.capitalize() for word in user.split())
        profile = rf"C:\Windows\ServiceProfiles\{folder}"
        temp = rf"{profile}\AppData\Local\Temp"
    return {
        "ALLUSERSPROFILE": r"C:\ProgramData",
        "APPDATA": rf"{profile}\AppData\Roaming",
        "CommonProgramFiles": r"C:\Program Files\Common Files",
        "COMPUTERNAME": computer,
        "ComSpec": r"C:\Windows\system32\cmd.exe",
        "LOCALAPPDATA": rf"{profile}\AppData\Local",
        "NUMBER_OF_PROCESSORS": str(processors),
        "OS": "Windows_NT",
        "Path": MACHINE_PATH,
        "PATHEXT": ".COM;.EXE;.BAT;.CMD;.VBS;.VBE;.JS;.JSE;.WSF;.WSH;.MSC",
        "PROCESSOR_ARCHITECTURE": "AMD64",
        "ProgramData": r"C:\ProgramData",
        "ProgramFiles": r"C:\Program Files",
        "PUBLIC": r"C:\Users\Public",
        "SystemDrive": "C:",
        "SystemRoot": r"C:\Windows",
        "TEMP": temp,
        "TMP": temp,
        "USERDOMAIN": computer,
        "USERNAME": user,
        "USERPROFILE": profile,
        "windir": r"C:\Windows",
    }


def mount_point_variable(location: str) -> str:
    """
    The value of the mount point's variable: the location, backslash and all. Empty: the variable is not set.

    Source: hcsshim@0.11.7 internal/jobcontainers/env.go.
    """
    return location


def path_tail(era: Era, location: str) -> tuple[str, ...]:
    """
    The folders that the shim adds behind each PATH, from 0.10.0-rc.1 on: the root file system, Windows PowerShell,
    Wbem.

    Source: hcsshim@0.11.7 internal/jobcontainers/env.go (commit 5cfa86d4e).
    """
    if not era.shim_since("0.10.0-rc.1"):
        return ()
    return location, "C:\\WINDOWS\\System32\\WindowsPowerShell\\v1.0\\", r"C:\WINDOWS\System32\Wbem"


def environment(
    rules: Rules, era: Era, spec: ContainerSpec, location: str, of_user: Mapping[str, str]
) -> dict[str, str]:
    """
    A container's variables: the user's, then the image's and the pod's with the mount point expanded in their values
    (0.9.4 and later), then the mount point's own. A later one replaces an earlier one of the same name in any case; an
    empty one is lost on the way.

    Source: hcsshim@0.11.7 internal/jobcontainers/env.go and internal/cmd.
    """
    merged: dict[str, tuple[str, str]] = {name.lower(): (name, value) for name, value in of_user.items()}
    for name, value in [*spec.image.env.items(), *spec.env]:
        if value:
            merged[name.lower()] = (name, expand(value, location) if era.shim_since("0.9.4") else value)
    merged.pop(MOUNT_POINT.lower(), None)
    if value := rules.mount_point_variable(location):
        merged[MOUNT_POINT.lower()] = (MOUNT_POINT, value)
    name, value = merged["path"]
    for folder in rules.path_tail(era, location):
        value += folder if value.endswith(";") else f";{folder}"
    merged["path"] = (name, value)
    merged.setdefault("systemroot", ("SYSTEMROOT", r"C:\Windows"))
    return dict(merged.values())


def search_path(era: Era, variables: Mapping[str, str], directory: str) -> list[str]:
    """
    The folders in which the shim looks for the program: working directory, PATH, Windows' own. Before 0.10 the PATH is
    the shim's own; later it is the container's, and the letters of ``PATH=`` are trimmed off its ends, so that a
    variable called ``Path`` loses its first folder (unverified).

    Source: hcsshim@0.9.12 and @0.11.7 internal/jobcontainers/path.go.
    """
    if era.mount_mode is MountMode.LINKS:
        value = MACHINE_PATH
    else:
        name = next(name for name in variables if name.lower() == "path")
        value = f"{name}={variables[name]}".strip("PATH=")
    return [directory, *value.split(";"), SYSTEM32, r"C:\Windows\System", r"C:\Windows"]


def find_executable(files: FileSystem, line: str, folders: Sequence[str]) -> tuple[str, str]:
    r"""
    The program of a command line, and the line to start it with: a quoted first word is the program; else word 1, words
    1 and 2, … are tried, and what matches with spaces in it is quoted. Raises ShimError.

    Source: hcsshim@0.11.7 internal/jobcontainers/path.go (getApplicationName).
    """
    failed = f"failed to get application name from commandline {quoted(line)}: "
    if line.startswith('"'):
        name, closed, _ = line[1:].partition('"')
        if not closed:
            raise ShimError(f"{failed}no ending quotation mark found in command")
        found = _search(files, name, folders)
        if found is None:
            raise ShimError(f"{failed}failed to find executable {quoted(name)}")
        if files.is_directory(found):
            raise ShimError(f"{failed}found directory instead of executable {quoted(found)}")
        return found, line
    words = line.split(" ")
    folder = ""
    for count in range(1, len(words) + 1):
        name = " ".join(words[:count])
        found = _search(files, name, folders)
        if found is None:
            continue
        if files.is_directory(found):
            folder = folder or found
            continue
        rest = " ".join(words[count:])
        return found, line if count == 1 else f'"{name}"' + (f" {rest}" if rest else "")
    if folder:
        raise ShimError(f"{failed}found directory instead of executable {quoted(folder)}")
    raise ShimError(f"{failed}failed to find executable {quoted(line)}")


def _search(files: FileSystem, name: str, folders: Sequence[str]) -> str | None:
    """
    SearchPathW with the extension ``.exe`` for a name that has none.
    """
    for extension in ("",) if "." in name.rpartition("\\")[2] else ("", ".exe"):
        for folder in folders:
            found = paths.full_path(name + extension, folder) if folder else ""
            if found and len(found) <= 260 and files.exists(found):
                return found
    return None


def silo_line(line: str) -> str:
    """
    In a silo the shim runs everything by ``cmd /c``, since CreateProcess looks for the program with the shim's eyes.

    Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go (CreateProcess).
    """
    return f"cmd /c {line}"


def refuse_missing_directory(files: FileSystem, directory: str) -> None:
    """
    CreateProcess refuses a working directory that is not there (the shim's view). Raises ShimError.

    Source: hcsshim@0.9.12 internal/jobcontainers/jobcontainer.go, internal/exec.
    """
    if not files.is_directory(directory):
        raise ShimError("failed to start host process: failed to create process: The directory name is invalid.")


def network_of(network: Network, container: str) -> Network:
    """
    A HostProcess container is in the host's own network compartment: no CNI, no namespace, no endpoint.

    Source: containerd@1.6.0 pkg/cri/server/sandbox_run.go (commit 79b369a0b).
    """
    del container
    return network


def host_name(name: str, container: str) -> str:
    """
    A HostProcess container has the host's name; the pod's hostname has no effect (unverified).

    Source: hcsshim@0.11.7 internal/jobcontainers (the host name of the specification is not read).
    """
    del container
    return name
