"""
One Windows machine: what it is, prepared, joined, and put back from the journal that lies on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import ntpath
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from conformance._suite.errors import TargetError, UsageError
from conformance._suite.redact import MARK, redact
from infra.windows.connection import Connection, Pace, ScriptError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from conformance._suite.say import Say
    from infra.windows.connection import Address

OLDEST_BUILD = 17763  # Windows Server 2019: the first one that Kubernetes supports and that has curl and tar
ROOT = r"C:\ProgramData\hostprocess-conformance"
_PIECE_BYTES = 4 * 1024 * 1024  # one run of Windows PowerShell holds so much, base64, in memory
_LINE_BYTES = 48 * 1024
_REBOOTS = 3
# What a node leaves on a machine, each with what is above it.
_LEFT = (
    r"C:\C",
    r"C:\hpc",
    r"C:\etc",
    r"C:\etc\kubernetes",
    r"C:\etc\kubernetes\manifests",
    r"C:\etc\kubernetes\pki",
    r"C:\usr",
    r"C:\usr\libexec",
    r"C:\usr\libexec\kubernetes",
    r"C:\var",
    r"C:\var\lib",
    r"C:\var\lib\kubelet",
    r"C:\var\log",
    r"C:\var\log\containers",
    r"C:\var\log\pods",
    r"C:\Program Files\containerd",
    r"C:\Program Files\containerd\opt",
    r"C:\ProgramData\containerd",
)
_MADE = (r"C:\etc\kubernetes\manifests", r"C:\etc\kubernetes\pki", r"C:\var\lib\kubelet", r"C:\var\log\pods")
_UNDONE = {
    "join": "the node was reset (kubeadm reset)",
    "network": "the network of flannel was removed",
    "firewall": "the firewall rule for the kubelet was removed",
    "kubelet-service": "the service kubelet was removed",
    "containerd": "the containerd build under test was removed, and the service containerd is what it was",
    "folders": "the node's folders were removed",
    "containers-feature": "the feature Containers was turned off",
}


@dataclass(frozen=True, slots=True)
class Artifact:
    """
    A file for the machine: a URL that it downloads itself, or a local file that is uploaded; and its SHA-256 digest.
    """

    source: str | Path
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise UsageError(f"{self.sha256!r} is no SHA-256 digest", "write its 64 hexadecimal digits")
        if isinstance(self.source, str) and not re.fullmatch(r"https?://[^\s\"'`]+", self.source):
            raise UsageError(f"{self.source!r} is no URL", "write http(s)://…, or give a local file")

    def check(self) -> None:
        """
        Raise UsageError or TargetError unless a local file is there and has the digest.
        """
        if isinstance(self.source, str):
            return
        try:
            with self.source.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(f"{self.source} cannot be read: {error.strerror}", "name a file that is there") from None
        if found != self.sha256.lower():
            raise TargetError(
                f"{self.source} has the SHA-256 digest {found}, and {self.sha256.lower()} was wanted",
                "nothing was changed; check the file and the digest",
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What is to be on the machine. ``containerd`` is a release archive (``bin/containerd.exe`` …); ``log_runner`` is
    kube-log-runner.exe (1.33 or newer), without which a kubelet that runs as a service writes no log.
    """

    containerd: Artifact
    kubelet: Artifact
    kubeadm: Artifact
    log_runner: Artifact | None = None
    pause_image: str = "registry.k8s.io/pause:3.10"
    cni_bin: str = rf"{ROOT}\cni\bin"
    cni_conf: str = rf"{ROOT}\cni\net.d"

    def __post_init__(self) -> None:
        for folder in (self.cni_bin, self.cni_conf):
            if not re.fullmatch(r"[A-Za-z]:(\\[^\\/:*?\"<>|'%&^]+)+", folder):
                raise UsageError(f"{folder!r} is no folder on Windows", r"write it like C:\opt\cni\bin")
        if not re.fullmatch(r"[\w./:@-]+", self.pause_image):
            raise UsageError(f"{self.pause_image!r} is no image", "write it like registry.k8s.io/pause:3.10")

    def files(self) -> dict[str, Artifact]:
        """
        The artifacts by their path below the program's folder on the machine.
        """
        files = {
            r"downloads\containerd.tar.gz": self.containerd,
            r"kubernetes\kubelet.exe": self.kubelet,
            r"kubernetes\kubeadm.exe": self.kubeadm,
        }
        if self.log_runner is not None:
            files[r"kubernetes\kube-log-runner.exe"] = self.log_runner
        return files

    def steps(self) -> dict[str, dict[str, Any]]:
        """
        The steps after the files are there, in their order, each with what it is given.
        """
        made = [*_MADE, self.cni_bin, self.cni_conf]
        folder = rf"{ROOT}\containerd"
        config = "\n".join(
            (
                "version = 2",  # 1.6 and later read it; 2.x carries it over by itself
                rf"root = '{folder}\root'",
                rf"state = '{folder}\state'",
                "[plugins.'io.containerd.grpc.v1.cri']",
                f"  sandbox_image = '{self.pause_image}'",
                "[plugins.'io.containerd.grpc.v1.cri'.cni]",
                f"  bin_dir = '{self.cni_bin}'",
                f"  conf_dir = '{self.cni_conf}'",
                "",
            )
        )
        return {
            "containers-feature": {},
            "folders": {"make": made, "paths": sorted({*_LEFT, *(one for path in made for one in _upwards(path))})},
            "containerd": {
                "archive": r"downloads\containerd.tar.gz",
                "sha256": self.containerd.sha256.lower(),
                "config": config,
            },
            "kubelet-service": {"command": _kubelet(self.log_runner is not None)},
            "firewall": {},
            "network": {},
        }


def _upwards(path: str) -> list[str]:
    found = []
    while ntpath.basename(path):
        found.append(path)
        path = ntpath.dirname(path)
    return found


def _kubelet(logged: bool) -> str:
    """
    The kubelet's command line, up to the node's name. Windows PowerShell's and sc's quoting never see it.
    """
    folder = rf"{ROOT}\kubernetes"
    parts = [rf"{folder}\kubelet.exe", "--windows-service"]
    if logged:
        log = (rf"-log-file={ROOT}\kubelet.log", "-log-file-size=10M", "-log-file-age=24h", "-flush-interval=5s")
        parts = [rf"{folder}\kube-log-runner.exe", *log, *parts]
    # kubeadm writes the rest into a file for a shell to read. What is empty here is for Linux alone.
    parts += [
        r"--cert-dir=C:\var\lib\kubelet\pki",
        r"--config=C:\var\lib\kubelet\config.yaml",
        r"--bootstrap-kubeconfig=C:\etc\kubernetes\bootstrap-kubelet.conf",
        r"--kubeconfig=C:\etc\kubernetes\kubelet.conf",
        "--container-runtime-endpoint=npipe:////./pipe/containerd-containerd",
        "--cgroups-per-qos=false",
        "--enforce-node-allocatable=",
        "--resolv-conf=",
    ]
    return " ".join(parts)


class Machine:
    """
    The Windows machine at an address. The password is used to log on, and kept nowhere. Every method can be called
    again after any interruption, from any machine; each raises TargetError with one clear line for what goes wrong.
    """

    def __init__(self, address: Address, password: str, say: Say, pace: Pace | None = None) -> None:
        self._address = address
        self._password = password
        self._say = say
        self._pace = pace or Pace()

    def _connect(self) -> Connection:
        return Connection(self._address, self._password, self._say, self._pace)

    def facts(self) -> dict[str, Any]:
        """
        Raise TargetError for a machine that cannot become the node. What it is: ``build``, ``ubr``, ``product``,
        ``edition``, ``installation`` (Server, Server Core), ``administrator``, ``hostName``, ``feature`` (the state of
        Containers), ``joined``, and the services ``containerd`` and ``kubelet`` (``command``, ``start``, ``running``,
        ``environment``) or None; and ``prepared``: the steps in its journal.
        """
        self._say(f"reaching {self._address}")
        with self._connect() as connection:
            return self._facts(connection)

    def _facts(self, connection: Connection, **given: Any) -> dict[str, Any]:
        facts = connection.run("facts", "check", given)
        if facts["build"] < OLDEST_BUILD or not str(facts["installation"]).startswith("Server"):
            raise TargetError(
                f"{self._address} is {facts['product']} ({facts['installation']}, build {facts['build']})",
                "a node needs Windows Server 2019 (build 17763) or newer",
            )
        if not facts["administrator"]:
            raise TargetError(
                f"user {self._address.user!r} is no elevated administrator on {self._address}",
                "take the built-in Administrator, or set LocalAccountTokenFilterPolicy to 1 there",
            )
        done = [entry["step"] for entry in connection.run("journal", "check", {})["entries"]]
        if (facts["kubelet"] and "kubelet-service" not in done) or (facts["joined"] and "join" not in done):
            raise TargetError(
                f"{self._address} already is a node: it has a kubelet that this program did not install",
                "take a machine that is none, or run `kubeadm reset` there and remove the service kubelet",
            )
        if facts["occupied"] and "folders" not in done:
            raise TargetError(
                f"{self._address} has files of another node in {', '.join(facts['occupied'])}",
                "empty what is there, for putting the machine back would empty it; or take another machine",
            )
        return {**facts, "prepared": done}

    def prepare(self, plan: Plan) -> None:
        """
        Bring everything onto the machine that a node needs, restarting it where Windows wants that. What is there
        already is left alone; a digest that is wrong is found before anything is replaced.
        """
        for artifact in plan.files().values():
            artifact.check()
        with self._connect() as connection:
            facts = self._facts(connection)
            self._say(f"{self._address} is {facts['product']}, build {facts['build']}.{facts['ubr']}")
            connection.run("journal", "apply", {})
            try:
                for path, artifact in plan.files().items():
                    self._deliver(connection, path, artifact)
            except ScriptError:
                if not facts["prepared"]:
                    connection.run("journal", "undo", {})
                raise
            for name, given in plan.steps().items():
                state = self._step(connection, name, "apply", given)["state"]
                if name == "containerd":
                    self._say(f"{state['version']}; containerd.exe sha256:{state['containerd']}")
                    self._say(f"containerd-shim-runhcs-v1.exe sha256:{state['shim']}")

    def join(self, discovery: str, token: str, node_name: str) -> None:
        """
        Make the prepared machine a node of the cluster that the kubeconfig text ``discovery`` is about, with a
        bootstrap token. Returns when the kubelet runs as that node; whether it becomes ready is seen in the cluster.
        """
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", node_name):
            raise UsageError(f"{node_name!r} is no node name", "write at most 63 lower-case letters, digits, - and .")
        config = _with_token(discovery, token)
        server = urlsplit(config["clusters"][0]["cluster"]["server"])
        with self._connect() as connection:
            facts = self._facts(connection, server=server.hostname, port=server.port or 443)
            if "kubelet-service" not in facts["prepared"] or not facts["kubelet"]:
                raise TargetError(f"{self._address} is not prepared", "prepare it first")
            command = re.sub(r" --hostname-override=.*", "", facts["kubelet"]["command"])
            given = {
                "node": node_name,
                # Left to itself, the kubelet takes the machine's first address, wherever that leads.
                "command": f"{command} --hostname-override={node_name} --node-ip={facts['address']}",
            }
            try:
                # A line of data, not a parameter: Windows may log those.
                self._step(connection, "join", "apply", given, [json.dumps(config).encode()])
            except ScriptError as error:
                raise ScriptError(Exception.__str__(error).replace(token, MARK), error.hint) from None

    def last_errors(self) -> str:
        """
        The last lines that the kubelet and containerd have logged as errors, in one; empty where there are none.
        """
        with self._connect() as connection:
            found = connection.run("logs", "check", {})
        return redact("; ".join(f"{name}.log: {line[:300]}" for name in found for line in found[name]))

    def restore(self) -> list[str]:
        """
        Undo in reverse whatever the machine's journal says was begun, and remove the journal last. Returns what was
        done, in words; nothing where there was nothing.
        """
        self._say(f"reaching {self._address}")
        done = []
        with self._connect() as connection:
            found = connection.run("journal", "check", {})
            try:
                entries = [(_UNDONE[one["step"]], one["step"], json.loads(one["before"])) for one in found["entries"]]
            except (LookupError, TypeError, ValueError):
                raise TargetError(
                    rf"the journal {ROOT}\journal.json has a step that this version does not know",
                    "take the node down with the version that brought it up",
                ) from None
            for words, name, before in reversed(entries):
                self._step(connection, name, "undo", before)
                done.append(words)
            if found["exists"]:
                connection.run("journal", "undo", {})
                done.append(f"{ROOT} was removed")
        return done

    def _step(
        self, connection: Connection, name: str, task: str, given: Mapping[str, Any], lines: Sequence[bytes] = ()
    ) -> dict[str, Any]:
        """
        One step, with as many restarts of Windows as it needs.
        """
        changed = False
        for _ in range(_REBOOTS + 1):
            result = connection.run(name, task, given, lines)
            changed = changed or result["changed"]
            if not result["rebootNeeded"]:
                if changed:
                    self._say(f"{name}: {'done' if task == 'apply' else 'undone'}")
                return result
            self._reboot(connection)
        raise TargetError(
            f"{name} on {self._address} still waits for a restart after {_REBOOTS}",
            "look at C:\\Windows\\Logs\\CBS\\CBS.log there",
        )

    def _reboot(self, connection: Connection) -> None:
        self._say(f"{self._address} restarts")
        end = time.monotonic() + self._pace.reboot
        connection.run("reboot", "apply", {"order": False})
        # It may go away before it has answered.
        with contextlib.suppress(TargetError):
            connection.run("reboot", "apply", {"order": True})
        while True:
            try:
                if not connection.run("reboot", "check", {})["pending"]:
                    self._say(f"{self._address} is back")
                    return
                trouble = "it does not restart"
            except TargetError as error:
                trouble = str(error)
            connection.close()
            if time.monotonic() >= end:
                raise TargetError(
                    f"{self._address} did not come back from its restart: {trouble}", "look at its console"
                )
            threading.Event().wait(self._pace.pause)

    def _deliver(self, connection: Connection, path: str, artifact: Artifact) -> None:
        given: dict[str, Any] = {"path": path, "sha256": artifact.sha256.lower(), "url": None}
        if connection.run("file", "check", given)["present"]:
            return
        if isinstance(artifact.source, str):
            self._say(f"downloading {artifact.source}")
            connection.run("file", "apply", {**given, "url": artifact.source}, seconds=self._pace.transfer)
            return
        self._say(f"uploading {artifact.source}")
        if not self._upload(connection, given, artifact.source):
            # What a run that broke off had left was not what it had sent: the machine has thrown it away.
            self._upload(connection, given, artifact.source)

    def _upload(self, connection: Connection, given: Mapping[str, Any], source: Path) -> bool:
        """
        Send a file in pieces, from where an earlier run broke off. Returns whether it is there; False only if one did.
        """
        end = time.monotonic() + self._pace.transfer
        size = source.stat().st_size
        resumed = at = connection.run("file", "check", given)["written"]
        with source.open("rb") as file:
            while True:
                file.seek(at)
                piece = file.read(_PIECE_BYTES)
                lines = [piece[start : start + _LINE_BYTES] for start in range(0, len(piece), _LINE_BYTES)]
                given = {**given, "offset": at, "size": size}
                try:
                    result = connection.run("file", "apply", given, lines, seconds=end - time.monotonic())
                except ScriptError:
                    if resumed and at + len(piece) >= size:
                        return False
                    raise
                if result["present"]:
                    return True
                at = result["written"]


def _with_token(discovery: str, token: str) -> dict[str, Any]:
    """
    The kubeconfig with the bootstrap token as its only user: kubeadm takes it from there, so that it is in no command
    line. Raises UsageError for a text that names no cluster.
    """
    try:
        cluster = yaml.safe_load(discovery)["clusters"][0]["cluster"]
        kept = {key: cluster[key] for key in ("server", "certificate-authority-data")}
    except (yaml.YAMLError, LookupError, TypeError):
        raise UsageError(
            "the discovery file is no kubeconfig with a server and its authority", "take kubeadm's cluster-info"
        ) from None
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": kept}],
        "users": [{"name": "bootstrap", "user": {"token": token}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": "kubernetes", "user": "bootstrap"}}],
        "current-context": "bootstrap",
    }
