"""
The Windows side of one simulated node: files, accounts, network, and the runtime that makes containers on it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from infra.simulated.model import deviations as wrong
from infra.simulated.model import files as paths
from infra.simulated.model import runtime, spec
from infra.simulated.model.accounts import Accounts
from infra.simulated.model.container import Container
from infra.simulated.model.errors import CONNECTION_REFUSED, TIMED_OUT, CreateError, WindowsError
from infra.simulated.model.files import FileSystem
from infra.simulated.model.network import LOOPBACK, Network
from infra.simulated.model.rules import Rules

if TYPE_CHECKING:
    from infra.simulated.model.eras import Era
    from infra.simulated.model.spec import ContainerSpec, ImageConfig
    from infra.simulated.model.view import ApiServer

WORKLOADS = Path(__file__).parents[3] / "workloads"
GIB = 1024**3


class Host:
    """
    One Windows machine. ``name`` is the node's name, ``address`` its InternalIP; ``deviations`` are names of
    ``deviations.DEVIATIONS`` that fit the era. ``processors`` is a count, ``memory`` bytes. Raises ValueError for a
    deviation that is unknown, does not fit, or collides with another.

    The kubelet sets ``api_server``, which answers the processes' requests to the ``kubernetes`` service and to
    ``api_address``, the API server's own host and port. With ``service_unreachable`` nothing gets through to the
    service, as on a node whose kube-proxy is not there (yet).
    """

    def __init__(
        self,
        era: Era,
        name: str,
        address: str,
        deviations: frozenset[str] = frozenset(),
        *,
        workloads: Path = WORKLOADS,
    ) -> None:
        self.era = era
        self.name = name
        self.address = address
        self.host_name = name.title()
        self.processors = 4
        self.memory = 16 * GIB
        self.workloads = workloads
        self.deviations = deviations
        self.rules: Rules = wrong.apply(Rules(), era, deviations)
        self.files = machine_files(era)
        for path, data in self.rules.left_before().items():
            self.files.write(path, data)
        self.accounts = Accounts(self.host_name[:15].upper(), name, self.rules.log_on_rights())
        self.network = Network((address, LOOPBACK), self.rules.find_listener)
        self.api_server: ApiServer | None = None
        self.api_address = ("", 0)
        self.service_unreachable = False
        self.containers: dict[str, Container] = {}
        self.starts: Counter[tuple[str, ...]] = Counter()
        """How often a container was to be started, by its name, command and arguments."""

    def deviates(self, name: str) -> bool:
        """
        Whether this node has the named deviation. Raises ValueError for a name that nobody declared.
        """
        if name not in wrong.KNOWN:
            raise ValueError(f"no deviation is called {name!r}")
        return name in self.deviations

    def image(self, reference: str) -> ImageConfig:
        """
        "Pull" an image: its configuration. Raises ImageNotFound.
        """
        return spec.image(reference, self.era.windows_build)

    def api_server_at(self, address: tuple[str, int], service: tuple[str, int]) -> ApiServer:
        """
        The API server, for a process that connects to a host and port; ``service`` is the service's. Raises
        WindowsError 10060 or 10061.
        """
        if address == service and self.service_unreachable:
            raise WindowsError(TIMED_OUT)
        if self.api_server is None or address not in {service, self.api_address}:
            raise WindowsError(CONNECTION_REFUSED)
        return self.api_server

    def create(self, request: ContainerSpec) -> Container:
        """
        CreateContainer. Raises CreateError with containerd's text.
        """
        runtime.refuse_mixed_flags(self.era, request)
        if not request.pod_host_process:
            raise CreateError(
                f'failed to generate container "{request.id}" spec: the simulation has only HostProcess containers'
            )
        line = runtime.command_line(self.rules, request)
        container = Container(self, request, runtime.cri_mounts(request, self.files), line)
        self.containers[request.id] = container
        return container


def machine_files(era: Era) -> FileSystem:
    """
    The files of a freshly installed node, as far as anything looks at them. Contents are stable for an era, so that
    their digests are.
    """
    files = FileSystem()
    windows = f"{era.kernel_version} (WinBuild.160101.0800)"
    programs = ["cmd.exe", "PING.EXE", "whoami.exe", "HOSTNAME.EXE", "net.exe", "netsh.exe", "SecEdit.exe"]
    if era.bind_filter:
        programs.append("bindfltapi.dll")
    for name in programs:
        _program(files, rf"{runtime.SYSTEM32}\{name}", windows)
    _program(files, rf"{era.powershell}\powershell.exe", windows)
    _program(files, runtime.CONTAINERD, era.containerd)
    _program(files, rf"{paths.parent(runtime.CONTAINERD)}\{runtime.SHIM}.exe", era.shim)
    for folder in (
        r"C:\Windows\TEMP",
        r"C:\ProgramData",
        r"C:\Users\Default",
        r"C:\Users\Public",
        r"C:\Windows\System32\Wbem",
    ):
        files.make_directory(folder)
    return files


def _program(files: FileSystem, path: str, version: str) -> None:
    files.write(path, f"MZ\0 {path.rpartition(chr(92))[2]} {version}\n".encode(), version=version)
