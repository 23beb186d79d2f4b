"""
``--target kind``: a kind control plane, and a real Windows machine that is joined to it over WinRM.

kind cannot run Windows nodes: its nodes are Linux containers. The machine is prepared with the containerd build under
test, and put back as it was at the end (``infra.windows``).
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from conformance._suite.errors import SuiteError, TargetError, UsageError
from conformance._suite.files import cache_directory
from infra.kind import api, control_plane, settings
from infra.kind.settings import PASSWORD, Settings, Versions, load_versions
from infra.kind.state import STEPS, State, folder, kubeconfig, load
from infra.target import Target

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from conformance._suite.cluster import Cluster
    from conformance._suite.say import Say
    from infra.windows import Machine, Pace, Plan

Value = TypeVar("Value")

DEFAULT_NAME = "hostprocess-conformance"
PACE: Pace | None = None
"""How long the Windows machine may take; None for its own limits."""
_LOCK_SECONDS = 5.0
_NEEDED = {
    "machine": ("containerd", "kubelet", "kubeadm", "kube-log-runner"),
    "network": ("kube-proxy", "flanneld", "cni-plugins", "windows-cni"),
}
"""The files of ``versions.toml`` that each step brings."""


def add_options(group: argparse._ArgumentGroup) -> None:
    """
    The options of this target.
    """
    add = group.add_argument
    add(
        "--kind-api-address",
        metavar="IP",
        help="this host's IPv4 address, as the Windows machine reaches it (compulsory)",
    )
    add("--kind-api-port", type=int, default=6443, metavar="PORT", help="the API server's port on this host")
    add(
        "--kind-certificate-name", action="append", default=[], metavar="NAME",
        help="one more name or address in the API server's certificate (repeatable)",
    )  # fmt: skip
    add("--kind-name", default=DEFAULT_NAME, metavar="NAME", help=f"the kind cluster's name (default: {DEFAULT_NAME})")
    add(
        "--kind-versions", type=Path, metavar="FILE",
        help="a changed copy of infra/kind/versions.toml: other releases, or mirrors",
    )  # fmt: skip
    add("--windows-host", metavar="HOST", help="the Windows machine that becomes the node (compulsory)")
    add("--windows-port", type=int, default=5986, metavar="PORT", help="where its WinRM listens for https")
    add(
        "--windows-user", default="Administrator", metavar="NAME",
        help=f"an administrator there; the password comes from {PASSWORD}, or is asked for",
    )  # fmt: skip
    add("--windows-transport", default="ntlm", metavar="NAME", help="ntlm (default) or basic")
    add("--windows-ca", type=Path, metavar="FILE", help="the certificate, or authority, to trust the machine by (PEM)")
    add("--windows-no-verify", action="store_true", help="trust any certificate of the machine")
    add(
        "--windows-containerd", metavar="FILE-OR-URL",
        help="the containerd build under test, a release archive (default: the one in versions.toml)",
    )  # fmt: skip
    add(
        "--windows-containerd-sha256", metavar="DIGEST",
        help="its SHA-256: compulsory for a URL, checked where given for a file",
    )  # fmt: skip


def validate(options: argparse.Namespace) -> None:
    """
    Refuse what cannot work, before anything is made. Raises UsageError. Opens no connection.
    """
    settings.read(options, load_versions(options.kind_versions))


def images(options: argparse.Namespace | None = None) -> list[str]:
    """
    Every image that the target pulls, as documented.
    """
    return settings.images(load_versions(options.kind_versions if options is not None else None))


def describe(options: argparse.Namespace) -> str:
    """
    What ``up`` would make, with every version and place. Opens no connection.
    """
    versions = load_versions(options.kind_versions)
    wanted = settings.read(options, versions)
    resolve = settings.resolver(options)
    files = {name: file.url for name, file in versions.files.items()} | {"containerd": wanted.containerd}
    digests = {name: file.sha256 or f"as {file.digest_from} tells" for name, file in versions.files.items()}
    digests["containerd"] = wanted.containerd_sha256 or digests["containerd"]
    checked = "certificate checked" if wanted.verify else "certificate NOT checked"
    lines = [
        f"1. cluster: kind ({versions.oldest_kind} or newer) makes {wanted.name!r}, Kubernetes {versions.kubernetes}:",
        *("     " + line for line in control_plane.configuration(wanted, versions, resolve).splitlines()),
        f"2. machine: {wanted.host}:{wanted.port}, as {wanted.user}, over https ({wanted.transport}, {checked}):",
        "     the feature Containers (Windows restarts), the services containerd and kubelet, a firewall rule, and",
        *(f"     {name}: {files[name]}\n       sha256 {digests[name]}" for name in files),
        "3. join: a bootstrap token that lives for 30 minutes at most, kubeadm join, the token removed",
        "4. network: DaemonSets flannel-linux, flannel-windows and kube-proxy-windows; then the node must be Ready",
        "images:",
        *(f"     {resolve(image)}" for image in settings.images(versions)),
        f"state and kubeconfig: {cache_directory() / 'kind'}; `down` undoes the steps in reverse",
        "Nothing was checked: kind, the machine and the network are only looked at by a real run",
    ]
    return "\n".join(lines)


def up(options: argparse.Namespace, say: Say) -> Target:
    """
    Bring the cluster up, or go on where a run was killed. Raises UsageError and TargetError; what this run had begun is
    then taken away again.
    """
    return _up(options, say)[0]


def down(options: argparse.Namespace, say: Say) -> None:
    """
    Undo what ``up`` made, or what a killed run left. Raises TargetError when something is left, and UsageError when the
    password is missing, or the state file is damaged.
    """
    del options  # the state file knows what there is, and the machine's address
    with _locked():
        state = load()
        if state is None:
            say("--target kind: nothing is up")
            return
        _undo(state, _password(state.settings) if "machine" in state.begun else "", say)


@contextlib.contextmanager
def brought_up(options: argparse.Namespace, say: Say) -> Iterator[Target]:
    """
    The target while the block runs; taken down on every exit.
    """
    target, password = _up(options, say)
    try:
        yield target
    finally:
        with _locked():
            state = load()
            if state is not None:
                _undo(state, password, say)


# -- up


def _up(options: argparse.Namespace, say: Say) -> tuple[Target, str]:
    versions = load_versions(options.kind_versions)
    wanted = settings.read(options, versions)
    with _locked():
        state = load() or State(wanted)
        _require_same(state.settings, wanted)
        password = _password(wanted)
        control_plane.require_own_address(wanted)
        control_plane.require(versions)
        if "cluster" not in state.begun and control_plane.exists(wanted.name):
            raise TargetError(
                f"there is a kind cluster {wanted.name!r} already, and it is not of this program's making",
                f"take another --kind-name, or remove it: kind delete cluster --name {wanted.name}",
            )
        machine = _machine(wanted, password, say)
        # The password, the certificate, whether it can be a node: before anything is made.
        facts = machine.facts()
        state.node = str(facts["hostName"]).lower()
        digests = _digests(state, versions)
        standing = set(state.done) == set(STEPS)
        if state.begun:
            say(f"going on from an earlier run: {', '.join(state.done) or 'nothing'} done")
        try:
            _climb(state, machine, versions, digests, settings.resolver(options), say=say)
        except BaseException as error:
            # A cluster that was complete is the user's; what this run, or a killed one, had only begun is not.
            if not standing:
                say(f"{'interrupted' if isinstance(error, KeyboardInterrupt) else 'that failed'}: taking it away again")
                try:
                    _undo(state, password, say)
                except SuiteError as left:
                    say(str(left))
            raise
    return Target("kind", kubeconfig(), None, simulated=False), password


def _climb(
    state: State,
    machine: Machine,
    versions: Versions,
    digests: Mapping[str, str],
    resolve: Callable[[str], str],
    *,
    say: Say,
) -> None:
    """
    Take the steps that are not done yet.
    """
    wanted = state.settings

    def cluster() -> None:
        say(f"kind makes the cluster {wanted.name}: 1 to 5 minutes")
        control_plane.delete(wanted, kubeconfig())  # what a killed run had made
        control_plane.create(wanted, control_plane.configuration(wanted, versions, resolve), kubeconfig())
        _ask(api.answers)

    def prepare() -> None:
        machine.prepare(_plan(wanted, versions, digests, resolve))

    def join() -> None:
        token = _ask(api.make_token)
        with _explained(machine):
            try:
                machine.join(control_plane.discovery(wanted, kubeconfig()), token, state.node)
            finally:
                _ask(api.remove_tokens)
            _ask(lambda cluster: api.joined(cluster, state.node))

    def network() -> None:
        objects = api.documents(wanted, versions, digests, resolve)
        _ask(lambda cluster: api.put_network(cluster, wanted, objects))
        with _explained(machine):
            _ask(lambda cluster: api.ready(cluster, state.node, say))

    for number, (step, take) in enumerate(zip(STEPS, (cluster, prepare, join, network), strict=True), 1):
        if step in state.done:
            continue
        state.begin(step)
        say(f"step {number} of {len(STEPS)}: {step}")
        take()
        state.end(step)
    if not _ask(lambda cluster: api.is_ready(cluster, state.node)):
        _ask(lambda cluster: api.ready(cluster, state.node, say))
    say(f"{state.node} is Ready; the kubeconfig is {kubeconfig()}")


def _digests(state: State, versions: Versions) -> dict[str, str]:
    """
    The digests of the files that the steps still need, asked for before anything is made.
    """
    names = [name for step, names in _NEEDED.items() if step not in state.done for name in names]
    digests = {name: versions.files[name].digest() for name in names if name != "containerd"}
    if "containerd" in names:
        digests["containerd"] = state.settings.containerd_sha256 or versions.files["containerd"].digest()
    return digests


def _plan(wanted: Settings, versions: Versions, digests: Mapping[str, str], resolve: Callable[[str], str]) -> Plan:
    from infra.windows import Artifact, Plan  # noqa: PLC0415 - pywinrm takes its time, and every command comes by here

    def published(name: str) -> Artifact:
        return Artifact(versions.files[name].url, digests[name])

    build = wanted.containerd if "://" in wanted.containerd else Path(wanted.containerd)
    return Plan(
        containerd=Artifact(build, digests["containerd"]),
        kubelet=published("kubelet"),
        kubeadm=published("kubeadm"),
        log_runner=published("kube-log-runner"),
        pause_image=resolve(versions.images["pause"]),
    )


@contextlib.contextmanager
def _explained(machine: Machine) -> Iterator[None]:
    """
    Add what the machine has logged to a TargetError: its logs go as the machine is put back.
    """
    try:
        yield
    except TargetError as error:
        words = ""
        with contextlib.suppress(SuiteError):
            words = machine.last_errors()
        if not words:
            raise
        raise TargetError(f"{Exception.__str__(error)}; on the machine: {words}", error.hint) from error


# -- down


def _undo(state: State, password: str, say: Say) -> None:
    """
    Undo every step that was begun, the last one first. What cannot be undone stays in the state file, and the steps
    below it are undone all the same. Raises TargetError that names what is left.
    """
    wanted = state.settings

    def take_out() -> None:
        say(f"taking the node {state.node} out of the cluster")
        try:
            _ask(api.answers)
            _ask(api.remove_tokens)
            if not _ask(lambda cluster: api.leave(cluster, state.node)):
                say(f"not all pods on it ended within {api.LEAVE_SECONDS:.0f} s: they end with the machine's kubelet")
        except TargetError as error:
            # The node and the token go with the cluster, and the machine's journal knows all that is on the machine.
            say(f"the control plane does not answer: the node was not taken out in order ({Exception.__str__(error)})")

    def put_back() -> None:
        say(f"putting {wanted.host} back as it was")
        for line in _machine(wanted, password, say).restore():
            say(f"{wanted.host}: {line}")

    def delete() -> None:
        say(f"kind deletes the cluster {wanted.name}")
        control_plane.delete(wanted, kubeconfig())

    undo = {"network": lambda: None, "join": take_out, "machine": put_back, "cluster": delete}
    left: list[SuiteError] = []
    for step in reversed(STEPS):
        if step in state.begun:
            try:
                undo[step]()
                state.undone(step)
            except SuiteError as error:
                left.append(error)
    if left:
        raise TargetError(
            f"not all is undone ({', '.join(state.begun)}): {'; '.join(Exception.__str__(one) for one in left)}",
            f"put that right and run `down` again; what it needs is kept in {folder()}",
        )
    say("all is undone; nothing is left")


# -- what both need


def _require_same(kept: Settings, wanted: Settings) -> None:
    """
    Refuse to go on from a run that was about something else.
    """
    before, now = asdict(kept), asdict(wanted)
    differing = [name for name in before if before[name] != now[name]]
    if "versions_sha256" in differing:  # what comes of it is no difference of its own
        differing = [name for name in differing if name not in {"containerd", "containerd_sha256", "images"}]
    if differing:
        raise UsageError(
            f"an earlier run (cluster {kept.name}, machine {kept.host}) is not undone, and it had another "
            f"{', '.join(settings.OPTIONS[name] for name in differing)}",
            "take it away with `down` first, or repeat its options to go on",
        )


def _machine(wanted: Settings, password: str, say: Say) -> Machine:
    from infra.windows import Address, Machine  # noqa: PLC0415 - as above

    ca = Path(wanted.ca) if wanted.ca is not None else None
    address = Address(wanted.host, wanted.user, wanted.port, wanted.transport, ca, wanted.verify)
    return Machine(address, password, say, PACE)


def _password(wanted: Settings) -> str:
    """
    The machine's password, from the environment or a prompt: it is kept nowhere.
    """
    given = os.environ.get(PASSWORD, "")
    if not given and sys.stdin is not None and sys.stdin.isatty():
        try:
            given = getpass.getpass(f"password of {wanted.user} at {wanted.host}: ")
        except EOFError:
            given = ""
    if not given:
        raise UsageError(
            f"the password of {wanted.user} at {wanted.host} is missing", f"set {PASSWORD}, or run this in a terminal"
        )
    return given


def _ask(question: Callable[[Cluster], Awaitable[Value]]) -> Value:
    """
    Open the cluster, ask, close it.
    """

    async def ask() -> Value:
        async with api.opened(kubeconfig()) as cluster:
            return await question(cluster)

    return asyncio.run(ask())


@contextlib.contextmanager
def _locked() -> Iterator[Any]:
    """
    One ``up`` or ``down`` at a time.
    """
    try:
        with FileLock(folder() / "lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise TargetError("another run is bringing --target kind up or down", "wait for its end") from None


__all__ = ["add_options", "brought_up", "describe", "down", "images", "up", "validate"]
