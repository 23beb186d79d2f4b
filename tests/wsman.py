"""
A loopback peer that speaks WS-Man over https as Windows does, and a model of the Windows machine behind it.

Windows PowerShell does not run here: for each script of infra/windows/scripts there is a twin in Python, which does to
the model what the script does to Windows. A twin runs only for the very bytes of its script, sent in the way that cmd
and Windows PowerShell take, and knows the parameters that were sent and the model, nothing else.
"""

from __future__ import annotations

import base64
import copy
import datetime as dt
import hashlib
import http.server
import io
import ipaddress
import json
import os
import queue
import re
import signal
import ssl
import tarfile
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import spnego
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.windows import Address, Artifact, Machine, Pace, Plan
from infra.windows.connection import SCRIPTS, script_text

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

USER = "Administrator"
PASSWORD = "Correct-Horse-7"
TOKEN = "abcdef.0123456789abcdef"
SERVER = "https://192.0.2.10:6443"
ROOT = r"C:\ProgramData\hostprocess-conformance"
JOURNAL = ROOT + r"\journal.json"
NODE_CONF = (r"C:\etc\kubernetes\kubelet.conf", r"C:\etc\kubernetes\bootstrap-kubelet.conf")
RULE = "hostprocess-conformance-kubelet"
NETWORK = "flannel.4096"
MACHINE_PATH = r"C:\Windows\system32;C:\Program Files\containerd"
COMMAND_LIMIT = 8191  # of cmd itself: not asked of the code that must keep to it


class Failed(Exception):  # noqa: N818 - what a script throws
    """
    A script ends with this error, and this remedy.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class Cut(BaseException):
    """
    A script is ended in the middle, without a word.
    """


@dataclass
class WindowsModel:
    """
    A Windows Server: what is on it, and what can happen to it.
    """

    build: int = 20348
    installation: str = "Server Core"
    administrator: bool = True
    feature: str = "Disabled"
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"C:", r"C:\ProgramData", r"C:\Program Files", r"C:\Windows"})
    rules: set[str] = field(default_factory=set)
    hns: set[str] = field(default_factory=lambda: {"nat"})
    """Networks of the Host Networking Service."""
    policies: dict[str, str] = field(default_factory=lambda: {"mine": "nat"})
    """Its policy lists, and the network of each."""
    owner: str = "S-1-5-32-544"
    """Who owns the program's folder."""
    address: str = "192.0.2.20"
    web: dict[str, bytes] = field(default_factory=dict)
    """What the machine can download."""
    token: str = TOKEN
    """What the cluster accepts."""

    restart_key: bool = False
    restart_in: int | None = None
    """Requests until the restart that was ordered."""
    stuck: bool = False
    """Whether a pending feature stays pending."""
    restarts: int = 0
    changes: int = 0
    cut_at: int | None = None
    """The change, counted from 1, at which the running script is ended."""
    cut_restarts: bool = False
    """Whether the power goes as well."""
    ran: list[tuple[str, str]] = field(default_factory=list)
    """Every script and its task that ran, to its end or not."""
    changed: Counter[str] = field(default_factory=Counter)
    """How often each kind of change was made."""

    def state(self) -> dict[str, Any]:
        """
        All that restoring must bring back.
        """
        names = ("feature", "services", "files", "folders", "rules", "restart_key", "hns", "policies")
        return copy.deepcopy({name: getattr(self, name) for name in names})

    def change(self, what: str) -> None:
        """
        Something is about to change; here a script may be ended.
        """
        self.changes += 1
        if self.changes == self.cut_at:
            raise Cut
        self.changed[what] += 1

    def restart(self) -> None:
        """
        What a start of Windows does.
        """
        self.restarts += 1
        self.restart_key, self.restart_in = False, None
        if not self.stuck:
            self.feature = {"EnablePending": "Enabled", "DisablePending": "Disabled"}.get(self.feature, self.feature)
        for service in self.services.values():
            service["running"] = False
        for name, service in self.services.items():
            if service["start"] == "Auto":
                self.start(name)

    # Files

    def exists(self, folder: str) -> bool:
        return folder in self.folders

    def make(self, folder: str) -> None:
        parts = folder.split("\\")
        for length in range(1, len(parts) + 1):
            path = "\\".join(parts[:length])
            if path not in self.folders:
                self.change("folder")
                self.folders.add(path)

    def write(self, path: str, content: bytes) -> None:
        assert path.rpartition("\\")[0] in self.folders, f"no folder for {path}"
        self.change("file")
        self.files[path] = content

    def delete(self, path: str) -> None:
        if path in self.files:
            self.change("file")
            del self.files[path]

    def remove(self, folder: str) -> None:
        """
        Deepest first, one by one, as rd does: it can be cut anywhere.
        """
        below = folder + "\\"
        holders = [name for name, one in self.services.items() if one["running"] and below in one["command"]]
        if holders and folder in self.folders:
            raise Failed(f"the folder {folder} cannot be removed: something in it is in use")
        for path in sorted((one for one in self.files if one.startswith(below)), reverse=True):
            self.delete(path)
        for path in sorted((one for one in self.folders if one == folder or one.startswith(below)), reverse=True):
            self.change("folder")
            self.folders.remove(path)

    def digest(self, path: str) -> str | None:
        return hashlib.sha256(self.files[path]).hexdigest() if path in self.files else None

    def text(self, path: str) -> str | None:
        return self.files[path].decode() if path in self.files else None

    def version(self, program: str) -> str | None:
        """
        Programs of this world say their first line.
        """
        return self.files[program].decode().splitlines()[0] if program in self.files else None

    # Services

    def service(self, name: str) -> dict[str, Any] | None:
        found = self.services.get(name)
        return {key: found.get(key) for key in ("command", "start", "running", "environment")} if found else None

    def start(self, name: str) -> None:
        service = self.services[name]
        for needed in service["needs"]:
            if needed not in self.services:
                return
            self.start(needed)
        if service["running"]:
            return
        self.change("service")
        service["running"] = True
        # What the programs make by themselves, whatever becomes of the script.
        made: tuple[str, ...] = ()
        if name == "containerd" and ROOT in service["command"]:
            made = (CONTAINERD + r"\root\io.containerd.metadata", r"C:\Program Files\containerd\opt\bin")
            self.files[CONTAINERD + r"\containerd.log"] = b"level=info msg=started"
        if name == "kubelet" and r"C:\var\lib\kubelet\config.yaml" in self.files:
            made = (r"C:\var\lib\kubelet\pods\uid", r"C:\var\log\pods\ns_pod_uid", r"C:\var\log\containers")
            self.run_network()
        for folder in made:
            parts = folder.split("\\")
            self.folders |= {"\\".join(parts[:length]) for length in range(1, len(parts) + 1)}

    def run_network(self) -> None:
        """
        What the pods of the network make on a node: HNS keeps it when they and their control plane are gone.
        """
        self.hns.add(NETWORK)
        self.policies["kube-proxy"] = NETWORK
        for folder in (r"\network", r"\cni\bin", r"\cni\net.d", r"\cni\networks\flannel.4096"):
            parts = (ROOT + folder).split("\\")
            self.folders |= {"\\".join(parts[:length]) for length in range(1, len(parts) + 1)}
        self.files[ROOT + r"\network\flanneld.exe"] = self.files[ROOT + r"\cni\net.d\10-flannel.conf"] = b""

    def stop(self, name: str) -> None:
        for other, service in self.services.items():
            if name in service["needs"] and service["running"]:
                self.stop(other)
        if self.services[name]["running"]:
            self.change("service")
            self.services[name]["running"] = False

    def set_service(self, name: str, wanted: dict[str, Any] | None, needs: tuple[str, ...] = ()) -> None:
        if name in self.services:
            self.stop(name)
        elif wanted is None:
            return
        if wanted is None:
            self.change("service")
            del self.services[name]
            return
        if name not in self.services:
            self.change("service")
            made = {"command": wanted["command"], "start": "Manual", "running": False, "needs": list(needs)}
            self.services[name] = {**made, "environment": None}
        self.change("service")
        self.services[name].update(command=wanted["command"], start=wanted["start"])
        self.change("environment")
        self.services[name]["environment"] = wanted.get("environment")
        if wanted["running"]:
            self.start(name)

    # The journal

    def read_journal(self) -> list[dict[str, str]]:
        if JOURNAL not in self.files:
            return []
        try:
            read = json.loads(self.files[JOURNAL])
            if read["version"] != 1:
                raise ValueError  # noqa: TRY301 - the same end
        except (ValueError, TypeError, KeyError):
            raise Failed(
                f"the journal {JOURNAL} is cut, or another version of this program wrote it",
                "take the node down with the version that brought it up, or put the machine back by hand and delete the"
                " journal",
            ) from None
        entries: list[dict[str, str]] = read["entries"]
        return entries

    def write_journal(self, entries: list[dict[str, str]]) -> None:
        text = json.dumps({"version": 1, "entries": entries}).encode()
        self.write(JOURNAL + ".part", text)
        self.change("journal")
        del self.files[JOURNAL + ".part"]
        self.files[JOURNAL] = text


# The twins, in the order of the scripts' names. Each gets the model, the task, the parameters and the lines of data.

Given = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """
    The twin of a script that calls Step: the same four parts; and what the script calls and compares with in each, as
    tests/powershell.py tells it.
    """

    calls: tuple[str, str, str, str]
    look: Callable[[WindowsModel, Given], Given]
    wanted: Callable[[WindowsModel, Given, Given], bool]
    change: Callable[[WindowsModel, Given, Given], None]
    back: Callable[[WindowsModel, Given], None]

    def run(self, name: str, machine: WindowsModel, task: str, given: Given) -> Given:
        def as_text(state: Given) -> str:
            return json.dumps(state, separators=(",", ":"))

        def pending(state: Given) -> bool:
            return str(state.get("feature", "")).endswith("Pending")

        entries = machine.read_journal()
        entry = next((one for one in entries if one["step"] == name), None)
        changed = False
        state = self.look(machine, given)
        if task == "apply" and not pending(state) and not self.wanted(machine, given, state):
            if entry is None:
                machine.write_journal([*entries, {"step": name, "before": as_text(state)}])
            self.change(machine, given, state)
            changed = True
            state = self.look(machine, given)
            if not pending(state) and not self.wanted(machine, given, state):
                raise Failed("it was changed, and is not as wanted: " + as_text(state))
        if task == "undo" and entry is not None:
            changed = True
            if as_text(state) != entry["before"]:
                self.back(machine, json.loads(entry["before"]))
                state = self.look(machine, given)
            if as_text(state) == entry["before"]:
                machine.write_journal([one for one in entries if one["step"] != name])
            elif not pending(state):
                raise Failed("it was put back, and is not as it was: " + as_text(state))
        return {"step": name, "changed": changed, "rebootNeeded": pending(state), "state": state}


CONTAINERD = ROOT + r"\containerd"
CONTAINERD_COMMAND = (
    rf'"{CONTAINERD}\bin\containerd.exe" --run-service --config "{CONTAINERD}\config.toml"'
    rf' --log-file "{CONTAINERD}\containerd.log"'
)


def _look_at_containerd(machine: WindowsModel, _: Given) -> Given:
    return {
        "service": machine.service("containerd"),
        "archive": machine.text(CONTAINERD + r"\unpacked"),
        "config": machine.text(CONTAINERD + r"\config.toml"),
        "version": machine.version(CONTAINERD + r"\bin\containerd.exe"),
        "containerd": machine.digest(CONTAINERD + r"\bin\containerd.exe"),
        "shim": machine.digest(CONTAINERD + r"\bin\containerd-shim-runhcs-v1.exe"),
    }


def _wants_containerd(_: WindowsModel, given: Given, now: Given) -> bool:
    service = now["service"] or {}
    return (
        now["archive"] == given["sha256"]
        and now["config"] == given["config"]
        and {**service, "environment": None}
        == {"command": CONTAINERD_COMMAND, "start": "Auto", "running": True, "environment": None}
        and any(one.startswith(rf"PATH={CONTAINERD}\bin;") for one in service.get("environment") or ())
    )


def _change_containerd(machine: WindowsModel, given: Given, now: Given) -> None:
    archive = f"{ROOT}\\{given['archive']}"
    if machine.digest(archive) != given["sha256"]:
        raise Failed(f"{archive} is not what it was: nothing was replaced")
    if "containerd" in machine.services:
        machine.stop("containerd")
    machine.delete(CONTAINERD + r"\unpacked")
    machine.remove(CONTAINERD + r"\bin")
    machine.make(CONTAINERD + r"\bin")
    with tarfile.open(fileobj=io.BytesIO(machine.files[archive])) as unpacked:
        for member in unpacked.getmembers():
            content = unpacked.extractfile(member)
            if content is not None:
                machine.write(CONTAINERD + "\\" + member.name.replace("/", "\\"), content.read())
    if CONTAINERD + r"\bin\containerd.exe" not in machine.files:
        raise Failed(f"there is no bin/containerd.exe in {archive}")
    machine.write(CONTAINERD + r"\config.toml", given["config"].encode())
    machine.write(CONTAINERD + r"\unpacked", given["sha256"].encode())
    environment = [one for one in (now["service"] or {}).get("environment") or () if not one.startswith("PATH=")]
    environment.append(rf"PATH={CONTAINERD}\bin;{MACHINE_PATH}")
    wanted = {"command": CONTAINERD_COMMAND, "start": "Auto", "running": True, "environment": environment}
    machine.set_service("containerd", wanted)


def _put_containerd_back(machine: WindowsModel, before: Given) -> None:
    if "containerd" in machine.services:
        machine.stop("containerd")
    machine.set_service("containerd", before["service"])
    machine.remove(CONTAINERD)


def _change_feature(machine: WindowsModel, _: Given, __: Given) -> None:
    machine.change("feature")
    machine.feature = "EnablePending"


def _put_feature_back(machine: WindowsModel, _: Given) -> None:
    if machine.feature != "DisablePending":
        machine.change("feature")
        machine.feature = "DisablePending"


def _facts(machine: WindowsModel, _: str, given: Given, __: list[bytes]) -> Given:
    emptied = (r"C:\etc\kubernetes\manifests", r"C:\etc\kubernetes\pki", r"C:\var\lib\kubelet")
    there = {*machine.files, *machine.folders}
    return {
        "build": machine.build,
        "ubr": 2700,
        "product": "Windows Server 2022 Datacenter",
        "edition": "ServerDatacenter",
        "installation": machine.installation,
        "administrator": machine.administrator,
        "hostName": "WIN-MODEL",
        "feature": machine.feature if machine.administrator else None,
        "containerd": machine.service("containerd"),
        "kubelet": machine.service("kubelet"),
        "joined": NODE_CONF[0] in machine.files,
        "occupied": [folder for folder in emptied if any(one.startswith(folder + "\\") for one in there)],
        "address": machine.address if given.get("server") else None,
    }


def _file(machine: WindowsModel, task: str, given: Given, data: list[bytes]) -> Given:
    path = f"{ROOT}\\{given['path']}"
    part = f"{path}.{given['sha256']}.part"
    changed = False
    if task == "apply" and machine.digest(path) != given["sha256"]:
        machine.make(path.rpartition("\\")[0])
        if given["url"]:
            if given["url"] not in machine.web:
                raise Failed("curl.exe ended with code 22: curl: (22) The requested URL returned error: 404")
            machine.write(part, machine.web[given["url"]])
        else:
            written = machine.files.get(part, b"")
            if len(written) >= given["offset"]:
                machine.write(part, written[: given["offset"]] + b"".join(data))
        if given["url"] or len(machine.files[part]) == given["size"]:
            found = machine.digest(part)
            if found != given["sha256"]:
                machine.delete(part)
                raise Failed(
                    f"{given['path']} has the SHA-256 digest {found}, and {given['sha256']} was wanted",
                    "nothing was replaced; check where it comes from, and the digest that was given",
                )
            content = machine.files[part]
            machine.delete(path)
            machine.change("file")
            del machine.files[part]
            machine.files[path] = content
        changed = True
    present = machine.digest(path) == given["sha256"]
    return {"step": "file", "changed": changed, "present": present, "written": len(machine.files.get(part, b""))}


def _look_at_firewall(machine: WindowsModel, _: Given) -> Given:
    return {"rule": RULE in machine.rules}


def _change_firewall(machine: WindowsModel, _: Given, __: Given) -> None:
    machine.change("rule")
    machine.rules.add(RULE)


def _put_firewall_back(machine: WindowsModel, _: Given) -> None:
    machine.change("rule")
    machine.rules.discard(RULE)


def _look_at_folders(machine: WindowsModel, given: Given) -> Given:
    return {"paths": list(given["paths"]), "there": [machine.exists(path) for path in given["paths"]]}


def _change_folders(machine: WindowsModel, given: Given, _: Given) -> None:
    for path in given["make"]:
        machine.make(path)


def _put_folders_back(machine: WindowsModel, before: Given) -> None:
    for path, there in reversed(list(zip(before["paths"], before["there"], strict=True))):
        if not there:
            machine.remove(path)


def _look_at_join(machine: WindowsModel, _: Given) -> Given:
    return {
        "service": machine.service("kubelet"),
        "joined": NODE_CONF[0] in machine.files,
        "begun": NODE_CONF[1] in machine.files or ROOT + r"\discovery.conf" in machine.files,
    }


def _joined(_: WindowsModel, given: Given, now: Given) -> bool:
    service = now["service"]
    return now["joined"] and not now["begun"] and service["command"] == given["command"] and service["running"]


def _reset(machine: WindowsModel) -> None:
    if ROOT + r"\kubernetes\kubeadm.exe" in machine.files:
        if "kubelet" in machine.services:
            machine.stop("kubelet")
        for folder in (r"C:\etc\kubernetes", r"C:\var\lib\kubelet"):
            for path in [one for one in machine.files if one.startswith(folder + "\\")]:
                machine.delete(path)


def _kubeadm_join(machine: WindowsModel, discovery: str, node: str) -> None:
    """
    What kubeadm does, as far as it can be seen from here.
    """
    if not (machine.service("containerd") or {}).get("running"):
        raise Failed("kubeadm.exe ended with code 1: [ERROR CRI]: container runtime is not running")
    if NODE_CONF[0] in machine.files:
        raise Failed(f"kubeadm.exe ended with code 1: [ERROR FileAvailable]: {NODE_CONF[0]} already exists")
    config = json.loads(discovery)
    token = config["users"][0]["user"]["token"]
    if config["clusters"][0]["cluster"]["server"] != SERVER or token != machine.token:
        raise Failed(f"kubeadm.exe ended with code 1: could not use the token {token}: Unauthorized")
    machine.make(r"C:\var\lib\kubelet\pki")
    machine.make(r"C:\etc\kubernetes\pki")
    machine.write(r"C:\etc\kubernetes\pki\ca.crt", b"authority")
    machine.write(NODE_CONF[1], token.encode())
    machine.write(r"C:\var\lib\kubelet\config.yaml", b"kind: KubeletConfiguration")
    machine.start("kubelet")
    machine.write(NODE_CONF[0], node.encode())
    machine.delete(NODE_CONF[1])


def _change_join(machine: WindowsModel, given: Given, now: Given) -> None:
    if now["joined"] and not now["begun"] and now["service"]["command"] == given["command"]:
        machine.start("kubelet")
        return
    if now["joined"] or now["begun"]:
        _reset(machine)
    machine.set_service("kubelet", {"command": given["command"], "start": "Auto", "running": False})
    discovery = ROOT + r"\discovery.conf"
    try:
        (config,) = given["data"]
        machine.write(discovery, config)
        _kubeadm_join(machine, config.decode(), given["node"])
        machine.delete(discovery)
    except Failed:
        machine.delete(discovery)
        raise
    machine.start("kubelet")


def _put_join_back(machine: WindowsModel, before: Given) -> None:
    machine.delete(ROOT + r"\discovery.conf")
    if "kubelet" in machine.services:
        machine.stop("kubelet")
    _reset(machine)
    machine.set_service("kubelet", before["service"])


def _put_network_back(machine: WindowsModel, _: Given) -> None:
    for name in [name for name, network in machine.policies.items() if network == NETWORK]:
        machine.change("policy")
        del machine.policies[name]
    if NETWORK in machine.hns:
        machine.change("network")
        machine.hns.remove(NETWORK)


def _logs(machine: WindowsModel, _: str, __: Given, ___: list[bytes]) -> Given:
    def last(name: str) -> list[str]:
        lines = (machine.text(f"{ROOT}\\{name}") or "").splitlines()
        return [line for line in lines if re.match(r"[EF]\d{4} ", line) or re.search("level=(error|fatal)", line)][-2:]

    return {"kubelet": last("kubelet.log"), "containerd": last(r"containerd\containerd.log")}


def _journal(machine: WindowsModel, task: str, _: Given, __: list[bytes]) -> Given:
    if machine.exists(ROOT) and machine.owner not in {"S-1-5-18", "S-1-5-32-544"}:
        raise Failed(
            f"the folder {ROOT} belongs to {machine.owner}, and not to SYSTEM or the administrators",
            "somebody else has put it there: look into it, and remove it",
        )
    entries = machine.read_journal()
    changed = False
    if task == "apply" and JOURNAL not in machine.files:
        machine.make(ROOT)
        machine.write_journal([])
        changed = True
    if task == "undo" and machine.exists(ROOT):
        if entries:
            raise Failed("the journal still has steps to undo")
        for folder in sorted(machine.folders):
            if folder.startswith(ROOT + "\\") and folder.count("\\") == ROOT.count("\\") + 1:
                machine.remove(folder)
        for path in sorted(machine.files):
            if path.startswith(ROOT + "\\") and path != JOURNAL:
                machine.delete(path)
        machine.delete(JOURNAL)
        machine.remove(ROOT)
        changed = True
    return {"step": "journal", "changed": changed, "exists": machine.exists(ROOT), "entries": entries}


def _reboot(machine: WindowsModel, task: str, given: Given, _: list[bytes]) -> Given:
    changed = False
    if task == "apply" and not given["order"]:
        machine.change("restart key")
        changed = machine.restart_key = True
    if task == "apply" and given["order"] and machine.restart_key:
        if machine.restart_in is None:
            machine.change("restart")
            machine.restart_in = 9
        changed = True
    return {"step": "reboot", "changed": changed, "pending": machine.restart_key}


def _wants_kubelet(_: WindowsModel, given: Given, now: Given) -> bool:
    return now["service"] is not None and now["service"]["command"].startswith(given["command"])


def _change_kubelet(machine: WindowsModel, given: Given, _: Given) -> None:
    wanted = {"command": given["command"], "start": "Manual", "running": False}
    machine.set_service("kubelet", wanted, ("containerd",))


STEPS = {
    "containerd": Step(
        (
            "get-settledservice exists readalltext exists readalltext get-version get-digest get-digest combine",
            "-eq -and -ceq -and -eq -and -eq -and -and -like",
            (
                "combine get-digest -ne get-servicestate stop-service stop-shim remove-file remove-folder "
                "createdirectory invoke-program -not exists writealltext writealltext where-object -and -notlike "
                "getenvironmentvariable set-servicestate"
            ),
            (
                "combine get-servicestate -eq -and invoke-program -split invoke-program stop-service stop-shim "
                "set-servicestate remove-folder"
            ),
        ),
        _look_at_containerd,
        _wants_containerd,
        _change_containerd,
        _put_containerd_back,
    ),
    "containers-feature": Step(
        (
            "get-windowsoptionalfeature -replace",
            "-eq",
            "enable-windowsoptionalfeature",
            "get-windowsoptionalfeature -ne disable-windowsoptionalfeature",
        ),
        lambda machine, _: {"feature": machine.feature},
        lambda _, __, now: now["feature"] == "Enabled",
        _change_feature,
        _put_feature_back,
    ),
    "firewall": Step(
        (
            "get-netfirewallrule",
            "",
            "new-netfirewallrule",
            "remove-netfirewallrule",
        ),
        _look_at_firewall,
        lambda _, __, now: now["rule"],
        _change_firewall,
        _put_firewall_back,
    ),
    "folders": Step(
        (
            "foreach-object exists",
            "-not where-object -not exists",
            "createdirectory",
            "-ge -not remove-folder",
        ),
        _look_at_folders,
        lambda machine, given, _: all(machine.exists(path) for path in given["make"]),
        _change_folders,
        _put_folders_back,
    ),
    "join": Step(
        (
            "get-servicestate exists exists -or exists",
            "-and -not -and -eq -and",
            (
                "-and -not -and -eq start-service -or reset-node set-servicestate writeallbytes frombase64string "
                "invoke-program remove-file start-service"
            ),
            "remove-file get-servicestate stop-service reset-node set-servicestate",
        ),
        _look_at_join,
        _joined,
        _change_join,
        _put_join_back,
    ),
    "network": Step(
        (
            "get-hnsnetwork where-object -eq",
            "read-journal where-object -eq",
            "",
            (
                "get-hnsendpoint where-object -eq foreach-object get-hnspolicylist where-object -replace "
                "where-object -contains remove-hnspolicylist get-hnsnetwork where-object -eq remove-hnsnetwork"
            ),
        ),
        lambda machine, _: {"network": NETWORK in machine.hns},
        lambda machine, _, __: any(one["step"] == "network" for one in machine.read_journal()),
        lambda *_: None,
        _put_network_back,
    ),
    "kubelet-service": Step(
        (
            "get-servicestate",
            "-and startswith",
            "set-servicestate",
            "set-servicestate",
        ),
        lambda machine, _: {"service": machine.service("kubelet")},
        _wants_kubelet,
        _change_kubelet,
        lambda machine, before: machine.set_service("kubelet", before["service"]),
    ),
}
OTHERS = {"facts": _facts, "file": _file, "logs": _logs, "journal": _journal, "reboot": _reboot}


def run_script(machine: WindowsModel, stdin: bytes) -> tuple[bytes, bytes, int]:
    """
    What the bootstrap and the script print for this standard input: standard output, error, and the exit code.
    """
    lines = [line for line in stdin.split(b"\r\n") if line]
    parts = [line.partition(b":") for line in lines[:2]]
    whole = [(digest, base64.b64decode(text, validate=True)) for digest, _, text in parts]
    if len(whole) < 2 or any(hashlib.sha256(part).hexdigest().encode() != digest for digest, part in whole):
        return b"<<<trouble script-damaged: this is not what was sent trouble>>>\r\n", b"", 1
    script, parameters = (part for _, part in whole)
    names = [name for name in (*STEPS, *OTHERS) if script_text(name) == script]
    if not names:
        return b"", b"the script that was sent is not one of the project's", 1
    sent = json.loads(parameters)
    name, task, given = names[0], sent["task"], sent["given"]
    data = [base64.b64decode(line, validate=True) for line in lines[2:]]
    machine.ran.append((name, task))
    result: Given
    try:
        if name in STEPS:
            result = STEPS[name].run(name, machine, task, {**given, "data": data})
        else:
            result = OTHERS[name](machine, task, given, data)
    except Failed as failed:
        result = {"error": str(failed), "remedy": failed.remedy}
    except Cut:
        if machine.cut_restarts:
            machine.restart_in = 0
        return b"", b"", 1
    return f"<<<step {json.dumps(result)} step>>>\r\n".encode(), b"", 0


# The peer

NAMESPACES = (
    'xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
    'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" '
    'xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell" '
    'xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer"'
)
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
OPERATION_TIMEOUT = 2150858793
NO_SUCH_SHELL = 2150858843
QUOTA = 153600
ENCRYPTED = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'


@dataclass
class Command:
    """
    One command of a shell; its output once its standard input has ended.
    """

    line: str
    stdin: bytes = b""
    output: tuple[bytes, bytes, int] | None = None


class Fault(Exception):  # noqa: N818 - SOAP's word
    """
    The answer is this WS-Man fault.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Dropped(Exception):  # noqa: N818 - the connection ends without an answer
    """
    No answer is sent.
    """


class Peer:
    """
    Listens on the loopback interface while a ``with`` block runs. ``faults`` says what happens at the n-th request
    that is authenticated, counted from 1: ``drop`` (before it is done), ``lose`` (its answer), ``close`` (the
    connection, after the answer), ``shell`` (the shell is gone), ``slow`` (OperationTimeout).
    """

    def __init__(
        self, machine: WindowsModel, certificates: Path, transport: str = "basic", host: str = "127.0.0.1"
    ) -> None:
        self.machine = machine
        self.transport = transport
        self.faults: dict[int, str] = {}
        self.kill_at_cut = False
        """Whether the client is killed where a script is cut."""
        self.kill_after_script: int | None = None
        """The number of the script after which the client is killed."""
        self.client = queue.SimpleQueue[int]()
        """The process to kill."""
        self.requests = 0
        self.actions: Counter[str] = Counter()
        self.refusing = 0
        """Connections that are refused from now on, as while Windows starts."""
        self.refuse_after_restart = 3
        self.refuse_after_fault = 0
        self.lines: list[str] = []
        """All command lines."""
        self.endless = False
        """Whether commands never end."""
        self.silent = False
        """Whether nothing is answered at all."""
        self.late = 0
        """Receives that are answered with OperationTimeout, for each command."""
        self.close_next = False
        self.encrypted = 0
        self.unreadable = 0
        self.shells: dict[str, dict[str, Command]] = {}
        self._lock = threading.Lock()
        self.released = threading.Event()
        self.ca = make_certificate(certificates, host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, certificates / "key.pem")
        self._server = _Server(self, context)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, envelope: bytes) -> str:
        """
        The SOAP answer to one SOAP request. Raises Fault and Dropped.
        """
        if self.silent:
            self.released.wait()
            raise Dropped
        with self._lock:
            return self._answer(envelope)

    def _answer(self, envelope: bytes) -> str:
        self.requests += 1
        fault = self.faults.pop(self.requests, "")
        if self.machine.restart_in is not None:
            self.machine.restart_in -= 1
            if self.machine.restart_in < 0:
                self._restart()
        if fault == "drop":
            self.refusing = self.refuse_after_fault
            raise Dropped
        if fault == "shell":
            self.shells.clear()
        if fault == "slow":
            raise Fault(OPERATION_TIMEOUT, "The WS-Management service cannot complete the operation within the time.")
        assert len(envelope) <= QUOTA
        root = ET.fromstring(envelope)
        found = {one.tag.rpartition("}")[2]: one for one in root.iter()}
        action = (found["Action"].text or "").rpartition("/")[2]
        self.actions[action] += 1
        body = getattr(self, f"_do_{action.lower()}")(found)
        if self.machine.restart_in is not None and self.machine.restart_in <= 0:
            self._restart()
        if fault == "lose":
            raise Dropped
        self.close_next = fault == "close"
        relates = escape(found["MessageID"].text or "")
        return envelope_of(f"<a:RelatesTo>{relates}</a:RelatesTo>", body)

    def _kill(self) -> None:
        os.kill(self.client.get(timeout=60), signal.SIGKILL)
        raise Dropped

    def _restart(self) -> None:
        self.machine.restart()
        self.shells.clear()
        self.refusing = self.refuse_after_restart
        raise Dropped

    def _shell(self, found: dict[str, Any]) -> dict[str, Command]:
        shell = self.shells.get(found["Selector"].text or "")
        if shell is None:
            raise Fault(
                NO_SUCH_SHELL, "The request for the Windows Remote Shell with ShellId failed: it was not found."
            )
        return shell

    def _do_create(self, found: dict[str, Any]) -> str:
        assert found["InputStreams"].text == "stdin"
        identifier = str(uuid.uuid4()).upper()
        self.shells[identifier] = {}
        selector = f'<w:Selector Name="ShellId">{identifier}</w:Selector>'
        return (
            f"<x:ResourceCreated><a:Address>http://windows</a:Address><a:ReferenceParameters><w:SelectorSet>{selector}"
            "</w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>"
        )

    def _do_command(self, found: dict[str, Any]) -> str:
        shell = self._shell(found)
        arguments = found["Arguments"].text if "Arguments" in found else ""
        command = Command(f"{found['Command'].text} {arguments or ''}".strip())
        self.lines.append(command.line)
        name, _, encoded = command.line.rpartition(" -EncodedCommand ")
        if len(f"cmd /c {command.line}") > COMMAND_LIMIT:
            command.output = (b"", b"The command line is too long.\r\n", 1)
        elif not name.startswith("powershell.exe -NoProfile -NonInteractive"):
            program = command.line.split()[0]
            command.output = (b"", f"'{program}' is not recognized as an internal or external command".encode(), 1)
        elif base64.b64decode(encoded).decode("utf-16-le") != (SCRIPTS / "bootstrap.ps1").read_text(encoding="ascii"):
            command.output = (b"", b"this is not the bootstrap", 1)
        identifier = str(uuid.uuid4()).upper()
        shell[identifier] = command
        return f"<rsp:CommandResponse><rsp:CommandId>{identifier}</rsp:CommandId></rsp:CommandResponse>"

    def _command(self, found: dict[str, Any], holder: str) -> Command:
        command = self._shell(found).get(found[holder].attrib["CommandId"])
        if command is None:
            raise Fault(NO_SUCH_SHELL, "The command was not found in this shell.")
        return command

    def _do_send(self, found: dict[str, Any]) -> str:
        command = self._command(found, "Stream")
        command.stdin += base64.b64decode(found["Stream"].text or "")
        if found["Stream"].attrib["End"] == "true" and command.output is None and not self.endless:
            command.output = run_script(self.machine, command.stdin)
            if self.kill_at_cut and self.machine.cut_at is not None and self.machine.changes >= self.machine.cut_at:
                if self.machine.cut_restarts:
                    self.machine.restart()
                    self.shells.clear()
                self.machine.cut_at = None
                self._kill()
            if len(self.machine.ran) == self.kill_after_script:
                self._kill()
        return "<rsp:SendResponse/>"

    def _do_receive(self, found: dict[str, Any]) -> str:
        command = self._command(found, "DesiredStream")
        identifier = found["DesiredStream"].attrib["CommandId"]
        self.late, late = max(self.late - 1, 0), self.late
        if command.output is None or late:
            self.released.wait(0.01)
            raise Fault(OPERATION_TIMEOUT, "The WS-Management service cannot complete the operation within the time.")
        out, error, code = command.output
        streams = "".join(
            f'<rsp:Stream Name="{name}" CommandId="{identifier}">{base64.b64encode(data).decode()}</rsp:Stream>'
            for name, data in (("stdout", out), ("stderr", error))
        )
        return (
            f'<rsp:ReceiveResponse>{streams}<rsp:CommandState CommandId="{identifier}" '
            f'State="{SHELL}/CommandState/Done">'
            f"<rsp:ExitCode>{code}</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>"
        )

    def _do_signal(self, found: dict[str, Any]) -> str:
        self._command(found, "Signal")
        del self._shell(found)[found["Signal"].attrib["CommandId"]]
        return "<rsp:SignalResponse/>"

    def _do_delete(self, found: dict[str, Any]) -> str:
        self._shell(found)
        del self.shells[found["Selector"].text or ""]
        return ""


def envelope_of(header: str, body: str) -> str:
    return f"<s:Envelope {NAMESPACES}><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"


def fault_of(fault: Fault) -> str:
    detail = f'<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="{fault.code}"/>'
    return envelope_of(
        "",
        "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:TimedOut</s:Value></s:Subcode></s:Code>"
        f'<s:Reason><s:Text xml:lang="en-US">{escape(str(fault))}</s:Text></s:Reason>'
        f"<s:Detail>{detail}</s:Detail></s:Fault>",
    )


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, peer: Peer, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.peer = peer
        self.context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.peer.refusing:
            self.peer.refusing -= 1
            connection.close()
            raise OSError("refused")
        # The handshake is made by the thread that serves the connection.
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """
        Clients are cut off here on purpose.
        """


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _context: Any = None
    _sealed = False

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - its name in http.server
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._authenticated():
            return
        if "multipart/encrypted" in self.headers.get("Content-Type", ""):
            self.server.peer.encrypted += 1
            try:
                body = self._unsealed(body)
            except spnego.exceptions.SpnegoError:
                # Sealed for a connection that is gone.
                self.server.peer.unreadable += 1
                self._respond(400 + self.server.peer.unreadable % 2, b"")
                return
            self._sealed = True
        elif self.server.peer.transport == "ntlm" and body:
            self._respond(500, b"unencrypted")
            return
        if not body:
            self._respond(200, b"")
            return
        try:
            self._respond(200, self.server.peer.answer(body).encode())
            self.close_connection = self.close_connection or self.server.peer.close_next
        except Fault as fault:
            self._respond(500, fault_of(fault).encode())
        except Dropped:
            self.close_connection = True

    def _authenticated(self) -> bool:
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        if self.server.peer.transport == "basic":
            if kind == "Basic" and base64.b64decode(given).decode() == f"{USER}:{PASSWORD}":
                return True
            self._refuse("Basic realm=WSMAN")
            return False
        if self._context is not None and self._context.complete and not given:
            return True
        if not given:
            self._refuse("Negotiate")
            return False
        if self._context is None:
            self._context = spnego.server(protocol="ntlm")
        try:
            token = self._context.step(base64.b64decode(given))
        except spnego.exceptions.SpnegoError:
            self._context = None
            self._refuse("Negotiate")
            return False
        if self._context.complete:
            return True
        self._refuse(f"Negotiate {base64.b64encode(token).decode()}")
        return False

    def _unsealed(self, body: bytes) -> bytes:
        payload = body.split(b"\tContent-Type: application/octet-stream\r\n", 1)[1].rpartition(
            b"--Encrypted Boundary--"
        )[0]
        length = int.from_bytes(payload[:4], "little")
        return bytes(self._context.unwrap_winrm(payload[4 : 4 + length], payload[4 + length :]))

    def _sealing(self, text: bytes) -> bytes:
        sealed = self._context.wrap_winrm(text)
        head = (
            b"--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n--Encrypted Boundary\r\n"
            b"\tContent-Type: application/octet-stream\r\n" % len(text)
        )
        size = len(sealed.header).to_bytes(4, "little")
        return bytes(head + size + sealed.header + sealed.data + b"--Encrypted Boundary--\r\n")

    def _refuse(self, challenge: str) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _respond(self, code: int, text: bytes) -> None:
        sealed = self._sealed and bool(text)
        body = self._sealing(text) if sealed else text
        self.send_response(code)
        self.send_header("Content-Type", ENCRYPTED if sealed else "application/soap+xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_certificate(folder: Path, host: str = "127.0.0.1") -> Path:
    """
    A self-signed certificate for a loopback address, as cert.pem, with key.pem beside it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "WIN-MODEL")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem"


# The cluster, and what a user brings along.

DISCOVERY = f"""
apiVersion: v1
kind: Config
clusters:
- name: ""
  cluster: {{server: "{SERVER}", certificate-authority-data: QUJD}}
"""
KUBELET_URL = "https://dl.example/kubelet.exe"
KUBEADM_URL = "https://dl.example/kubeadm.exe"
QUICK = Pace(pause=0.01)


def containerd_archive(version: str = "2.2.1", padding: int = 0) -> bytes:
    """
    A release of containerd as this world has them, with so many bytes that cannot be compressed.
    """
    contents = {
        "bin/containerd.exe": f"containerd github.com/containerd/containerd/v2 v{version}\n".encode(),
        "bin/containerd-shim-runhcs-v1.exe": b"shim " + version.encode() + os.urandom(padding),
        "bin/ctr.exe": b"ctr",
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def plan_for(machine: WindowsModel, archive: Path) -> Plan:
    """
    A plan with a local containerd archive, and the rest where the machine can download it.
    """
    machine.web.setdefault(KUBELET_URL, b"Kubernetes v1.37.0\n")
    machine.web.setdefault(KUBEADM_URL, b"kubeadm v1.37.0\n")
    kubelet, kubeadm = (
        Artifact(url, hashlib.sha256(machine.web[url]).hexdigest()) for url in (KUBELET_URL, KUBEADM_URL)
    )
    return Plan(Artifact(archive, hashlib.sha256(archive.read_bytes()).hexdigest()), kubelet, kubeadm)


def prepare_and_join(address: Address, plan: Plan) -> None:
    """
    What a process does that is killed in the middle.
    """
    machine = Machine(address, PASSWORD, lambda _: None, QUICK)
    machine.prepare(plan)
    machine.join(DISCOVERY, TOKEN, "win-1")
