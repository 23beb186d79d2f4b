"""
The ways in which a simulated node can be wrong or in trouble, by name. Each replaces rules of a faithful node by wrong
ones; those without a replacement are the kubelet's own, which asks ``Host.deviates``.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from infra.simulated.model import job, runtime
from infra.simulated.model.accounts import (
    ADMINISTRATORS,
    LOCAL_SERVICE,
    NETWORK_SERVICE,
    SYSTEM,
    Accounts,
    Group,
    LogOnRights,
    Token,
    User,
)
from infra.simulated.model.eras import ERAS, Era, MountMode
from infra.simulated.model.errors import ACCESS_DENIED, NO_SYSTEM_RESOURCES, PASSWORD_TOO_SHORT, ShimError, WindowsError
from infra.simulated.model.job import LIMIT_KILL_ON_JOB_CLOSE, LIMIT_PROCESS_MEMORY, Job, JobView, Process
from infra.simulated.model.network import LOOPBACK, Network, Respond, find_listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from infra.simulated.model.rules import Rules
    from infra.simulated.model.spec import ContainerSpec, Mount

ALL = frozenset(ERAS)
BIND = frozenset(name for name, era in ERAS.items() if era.mount_mode is MountMode.BIND)
OLD_SHIM = frozenset(name for name, era in ERAS.items() if not era.shim_since("0.12.0"))
GROUPS = frozenset(name for name, era in ERAS.items() if era.containerd_since("1.7.0"))


@dataclass(frozen=True, slots=True)
class Deviation:
    """
    One way to be wrong: its name, what is wrong in one sentence, the eras it can be switched on in, and the rules that
    it replaces (fields of Rules).
    """

    name: str
    wrong: str
    eras: frozenset[str] = ALL
    replaces: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def apply(rules: Rules, era: Era, names: frozenset[str]) -> Rules:
    """
    The rules of a node with these deviations. Raises ValueError for one that is unknown, that cannot be in this era,
    or that replaces what another one replaces.
    """
    replaced: dict[str, str] = {}
    for name in sorted(names):
        deviation = KNOWN.get(name)
        if deviation is None:
            raise ValueError(f"no deviation is called {name!r}; there are: {', '.join(sorted(KNOWN))}")
        if era.name not in deviation.eras:
            raise ValueError(
                f"{name} cannot be on a node of era {era.name}, only of {', '.join(sorted(deviation.eras))}"
            )
        for rule in deviation.replaces:
            if rule in replaced:
                raise ValueError(f"{name} and {replaced[rule]} replace the same rule")
            replaced[rule] = name
        rules = replace(rules, **deviation.replaces)
    return rules


# Network.


def _own_compartment(network: Network, container: str) -> Network:
    address = f"10.244.{int(container[:2], 16)}.{int(container[2:4], 16) % 253 + 2}"
    return Network((address, LOOPBACK), network.find, firewall=network.firewall)


def _only_loopback_answers(network: Network, address: str, port: int) -> Respond | None:
    return find_listener(network, address, port) if address == LOOPBACK else None


def _own_host_name(name: str, container: str) -> str:
    del name
    return f"hpc-{container[:11]}"


# Storage.


def _without_drive(location: str) -> str:
    return location.removeprefix("C:")


def _elsewhere(era: Era, container: str) -> str:
    del era
    return f"C:\\containers\\rootfs\\{container}\\"


def _directory_is_system32(era: Era, location: str, requested: str | None) -> str:
    return runtime.SYSTEM32 if requested is None else runtime.start_directory(era, location, requested)


def _no_link(destination: str) -> str:
    del destination
    return ""


def _not_bound(mount: Mount, destination: str) -> str:
    del mount, destination
    return ""


def _bound_only_with_drive(mount: Mount, destination: str) -> str:
    """
    The kubelet of a Windows node writes ``c:`` before a path without a drive and leaves its slashes, so that ``c:/``
    is such a path too.
    """
    written = mount.container_path
    return "" if written[1:2] != ":" or written.startswith("c:/") else destination


def _host_path_not_bound(mount: Mount, destination: str) -> str:
    """
    Windows does not attach the bind filter to a volume with a file system driver of its own, such as WinFsp's.
    """
    if mount.host_path.lower().startswith("c:\\var\\lib\\kubelet\\"):
        return destination
    target, root = runtime.quoted(mount.host_path), runtime.quoted(destination)
    raise ShimError(
        f"failed to bind target {target} to root {root} for job object: "
        "Do not attach the filter to the volume at this time."
    )


_ACCOUNT = r"C:\var\run\secrets\kubernetes.io\serviceaccount"


def _token_not_bound(mount: Mount, destination: str) -> str:
    del mount
    return "" if destination.lower() == _ACCOUNT.lower() else destination


def _stale_token() -> dict[str, bytes]:
    """
    What an earlier pod's token looks like: nobody can read more in it than whose it was.
    """
    claims = {"kubernetes.io": {"pod": {"name": "an-earlier-pod", "uid": "00000000-0000-4000-8000-000000000000"}}}
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims, "a signature"))
    token = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return {rf"{_ACCOUNT}\token": token}


# Accounts.


def _log_on_as(sid: str, token_of: Callable[[Accounts], Token]) -> Callable[[Accounts, str, str], Token]:
    """
    Where the account with this SID logs on, the machine gives another token.
    """

    def log_on(accounts: Accounts, domain: str, name: str) -> Token:
        token = runtime.log_on(accounts, domain, name)
        return token_of(accounts) if token.sid == sid else token

    return log_on


def _administrator(accounts: Accounts) -> Token:
    return accounts.user_token(accounts.users["administrator"])


def _filtered_system(accounts: Accounts) -> Token:
    token = accounts.service_token(SYSTEM)
    return replace(token, groups=tuple(sid for sid in token.groups if sid != ADMINISTRATORS))


def _nobody_logs_on(accounts: Accounts, domain: str, name: str) -> Token:
    del accounts, domain, name
    raise WindowsError(ACCESS_DENIED)


def _unknown_is_system(accounts: Accounts, domain: str, name: str) -> Token:
    try:
        return runtime.log_on(accounts, domain, name)
    except WindowsError:
        if name.lower() in {*accounts.users, *accounts.groups}:
            raise
        return accounts.service_token(SYSTEM)


def _empty_is_system(era: Era, accounts: Accounts) -> Token:
    del era
    return accounts.service_token(SYSTEM)


def _no_group(era: Era, accounts: Accounts, user: str) -> None:
    del era, accounts, user


def _group_is_system(accounts: Accounts, domain: str, name: str) -> Token:
    return accounts.service_token(SYSTEM) if accounts.group(name) else runtime.log_on(accounts, domain, name)


def _join_nothing(group: Group, user: User) -> None:
    del group, user


def _leave_account(accounts: Accounts, name: str) -> None:
    del accounts, name


def _only_administrators() -> LogOnRights:
    return LogOnRights(allowed=(ADMINISTRATORS,))


def _password_refused(accounts: Accounts, name: str, password: str) -> User:
    del accounts, name, password
    raise WindowsError(PASSWORD_TOO_SHORT)


def _no_resources(accounts: Accounts, domain: str, name: str) -> Token:
    token = runtime.log_on(accounts, domain, name)
    if token.sid == NETWORK_SERVICE:
        raise WindowsError(NO_SYSTEM_RESOURCES)
    return token


def _no_users(accounts: Accounts) -> list[User]:
    del accounts
    return []


# Resources.


def _limit_per_process(limit: int | None) -> JobView:
    size = runtime.memory_limit(limit).job_memory_limit
    if not size:
        return JobView()
    return JobView(LIMIT_KILL_ON_JOB_CLOSE | LIMIT_PROCESS_MEMORY, process_memory_limit=size)


def _no_memory_limit(limit: int | None) -> JobView:
    del limit
    return JobView()


def _no_cpu_limit(maximum: int | None) -> tuple[int, int]:
    del maximum
    return 0, 0


def _always_commit(process: Process, size: int) -> bool:
    del process, size
    return True


def _child_without_job(parent: Job) -> Job:
    return Job(JobView(), parent.may_commit, job.job_of_child)


# Programs.


_WORD = re.compile(r'[^\s"]+|"[^"]*"')


def _escaped_twice(words: Iterable[str]) -> str:
    """
    The shim 0.9.0 takes the line that it has made apart again, at what is no space or stands in quotes, and Go's
    os/exec escapes each part once more.

    Source: hcsshim internal/jobcontainers/jobcontainer.go (splitArgs) and pull request 1226, which mends 0.9.0.
    """
    return runtime.join_arguments(_WORD.findall(runtime.join_arguments(words)))


def _image_before_pod(spec: ContainerSpec) -> str:
    return spec.image.user or runtime.user_string(spec)


def _no_echo(network: Network, address: str) -> bool:
    del network, address
    return False


DEVIATIONS = {
    deviation.name: deviation
    for deviation in (
        Deviation(
            "network-compartment-of-its-own",
            "The container is in a network compartment of its own and sees none of the host's interfaces.",
            replaces={"network_of": _own_compartment},
        ),
        Deviation(
            "container-level-flag-lost",
            "The sandbox is a HostProcess one only where the pod itself says so, not where a container does.",
        ),
        Deviation("pod-ip-from-cni", "The pod's IP is one of the pod network, not the node's."),
        Deviation(
            "host-port-not-reachable",
            "A listener is bound to the node's address, but a connection to it is refused.",
            replaces={"find_listener": _only_loopback_answers},
        ),
        Deviation(
            "host-name-of-its-own",
            "The container has a host name of its own.",
            replaces={"host_name": _own_host_name},
        ),
        Deviation(
            "sandbox-mount-point-unset",
            "CONTAINER_SANDBOX_MOUNT_POINT is not set.",
            replaces={"mount_point_variable": lambda _: ""},
        ),
        Deviation(
            "sandbox-mount-point-without-drive",
            "CONTAINER_SANDBOX_MOUNT_POINT names no drive.",
            replaces={"mount_point_variable": _without_drive},
        ),
        Deviation(
            "rootfs-elsewhere",
            "The container's root file system is at another place; containerd's default directory does not follow it.",
            BIND,
            {"root_location": _elsewhere},
        ),
        Deviation(
            "compatibility-links-missing",
            "Volumes are bound at their mount paths, but not linked below the sandbox mount point.",
            BIND,
            {"compatibility_link": _no_link},
        ),
        Deviation(
            "working-directory-elsewhere",
            "A container that asks for no working directory starts in C:\\Windows\\System32.",
            replaces={"start_directory": _directory_is_system32},
        ),
        Deviation("config-map-not-mounted", "Volumes of ConfigMaps are left out of the container."),
        Deviation(
            "volumes-not-bound",
            "Nothing is bound at the mount paths; the links below the sandbox mount point are all there is.",
            BIND,
            {"bound_at": _not_bound},
        ),
        Deviation(
            "host-path-not-bound",
            "A container with a hostPath volume is not started: its folder cannot be bound.",
            BIND,
            {"bound_at": _host_path_not_bound},
        ),
        Deviation(
            "drive-letter-not-added",
            "A mount path without a drive letter is not bound.",
            BIND,
            {"bound_at": _bound_only_with_drive},
        ),
        Deviation(
            "stale-token-on-the-host",
            "The service account's volume is not bound, and an earlier pod's token lies at its mount path on the host.",
            BIND,
            {"bound_at": _token_not_bound, "left_before": _stale_token},
        ),
        Deviation("token-not-mounted", "The service account's token is not mounted."),
        Deviation("token-garbled", "The mounted token's signature is wrong."),
        Deviation(
            "containerd-is-not-the-system",
            "containerd runs as an ordinary account, which may log nobody on.",
            replaces={"log_on": _nobody_logs_on},
        ),
        Deviation(
            "local-system-logs-on-as-administrator",
            "NT AUTHORITY\\SYSTEM logs on as the built-in Administrator.",
            replaces={"log_on": _log_on_as(SYSTEM, _administrator)},
        ),
        Deviation(
            "local-service-logs-on-as-system",
            "NT AUTHORITY\\Local service logs on as the system.",
            replaces={"log_on": _log_on_as(LOCAL_SERVICE, lambda accounts: accounts.service_token(SYSTEM))},
        ),
        Deviation(
            "network-service-logs-on-as-local-service",
            "NT AUTHORITY\\NetworkService logs on as Local service.",
            replaces={"log_on": _log_on_as(NETWORK_SERVICE, lambda accounts: accounts.service_token(LOCAL_SERVICE))},
        ),
        Deviation(
            "group-not-made",
            "No process in a container may change the machine's accounts.",
            replaces={"may_change_accounts": lambda _: False},
        ),
        Deviation(
            "group-account-not-a-member",
            "The ephemeral account of a local group is not made a member of it.",
            GROUPS,
            {"join_group": _join_nothing},
        ),
        Deviation(
            "group-runs-as-system",
            "A local group logs on as the system, and no ephemeral account is made.",
            GROUPS,
            {"group_of": _no_group, "log_on": _group_is_system},
        ),
        Deviation(
            "group-account-left-behind",
            "The ephemeral account of a local group stays when its container is gone.",
            GROUPS,
            {"remove_account": _leave_account},
        ),
        Deviation(
            "unknown-user-logs-on-as-system",
            "A user that nobody knows logs on as the system.",
            replaces={"log_on": _unknown_is_system},
        ),
        Deviation(
            "no-user-logs-on-as-system",
            "A container without any user runs as the system.",
            replaces={"empty_user": _empty_is_system},
        ),
        Deviation(
            "memory-limit-per-process",
            "The memory limit is set for each process, not for the job.",
            replaces={"memory_limit": _limit_per_process},
        ),
        Deviation(
            "memory-limit-missing",
            "No memory limit is set.",
            replaces={"memory_limit": _no_memory_limit},
        ),
        Deviation(
            "memory-limit-not-enforced",
            "The job tells a memory limit, but allocations beyond it are granted.",
            replaces={"may_commit": _always_commit},
        ),
        Deviation(
            "child-escapes-job",
            "A child process is not in the container's job.",
            replaces={"job_of_child": _child_without_job},
        ),
        Deviation("cpu-limit-missing", "No CPU limit is set.", replaces={"cpu_limit": _no_cpu_limit}),
        Deviation(
            "arguments-escaped-twice",
            "Each argument of a command is escaped twice.",
            ALL - GROUPS,
            {"join_arguments": _escaped_twice},
        ),
        Deviation("ping-unanswered", "Nobody answers a ping.", replaces={"answers_echo": _no_echo}),
        Deviation(
            "image-user-preferred",
            "A container whose image names a user logs on as that one, whatever its pod says.",
            replaces={"user_string": _image_before_pod},
        ),
        Deviation(
            "system-token-filtered",
            "The system's token lacks the Administrators group.",
            replaces={"log_on": _log_on_as(SYSTEM, _filtered_system)},
        ),
    )
}


# Trouble: what is no fault of a HostProcess container, and turns nothing red.


def _layers_not_ready_once(starts: int) -> None:
    if not starts:
        raise ShimError(
            "failed to mount container storage: hcsshim::PrepareLayer failed in Win32: The device is not ready. (0x15)"
        )


def _no_pause_image() -> str:
    image = "mcr.microsoft.com/oss/kubernetes/pause:3.10.2"
    return (
        f'rpc error: code = NotFound desc = failed to get sandbox image "{image}": failed to pull image "{image}": '
        f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
    )


_LAG = 3.0
"""Seconds; more than any probe stays after its last line."""


def _constrained(token: Token) -> str:
    """
    AppLocker's default rules for scripts: administrators may run any, other accounts only signed ones or none.
    """
    return "FullLanguage" if token.trusted else "ConstrainedLanguage"


TROUBLES = {
    deviation.name: deviation
    for deviation in (
        Deviation(
            "first-start-fails",
            "Windows' storage is not ready when a container is started for the first time; the next time it is.",
            replaces={"mount_layers": _layers_not_ready_once},
        ),
        Deviation(
            "sandbox-image-missing",
            "The image of the pod sandbox is not there for this Windows: no pod starts.",
            replaces={"sandbox_refusal": _no_pause_image},
        ),
        Deviation(
            "output-lost-once",
            "The first time that a container runs, its output is read so late that the shim loses the end of it.",
            OLD_SHIM,
            {"output_lag": lambda starts: 0.0 if starts else _LAG},
        ),
        Deviation(
            "output-lost",
            "The output of containers is read so late that the shim loses the end of it.",
            OLD_SHIM,
            {"output_lag": lambda _: _LAG},
        ),
        Deviation(
            "powershell-constrained",
            "A policy lets only administrators run scripts in PowerShell's full language.",
            replaces={"language_mode": _constrained},
        ),
        Deviation(
            "log-on-locally-denied",
            "A hardened policy: only administrators may log on locally.",
            GROUPS,
            {"log_on_rights": _only_administrators},
        ),
        Deviation(
            "password-policy-refuses",
            "The machine's password policy refuses the password of a new account.",
            GROUPS,
            {"make_account": _password_refused},
        ),
        Deviation(
            "log-on-out-of-resources",
            "Windows lacks the resources for one of the log-ons.",
            replaces={"log_on": _no_resources},
        ),
        Deviation(
            "accounts-not-listed",
            "Windows lists no local users, and says nothing of an error.",
            replaces={"list_users": _no_users},
        ),
    )
}

KNOWN = {**DEVIATIONS, **TROUBLES}
