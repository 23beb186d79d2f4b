"""
The runtimes that the simulation can play: containerd, shim, bind filter and Windows build together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from conformance._suite.versions import Version


class MountMode(StrEnum):
    """
    How a node shows a container its volumes.
    """

    BIND = "bind"
    """Bound by the bind filter, seen by the container's silo alone (shim 0.10 and later)."""
    FALLBACK = "fallback"
    """The same shims on a machine without the bind filter: links below a folder on the host."""
    LINKS = "links"
    """Shims before 0.10: links below a folder on the host."""


@dataclass(frozen=True, slots=True)
class Era:
    """
    One combination of versions. Versions are written as their projects do; ``ubr`` is the fourth part of Windows'
    version; ``runs_as_system`` is false where an administrator runs containerd as an ordinary account.
    """

    name: str
    containerd: str
    shim: str
    bind_filter: bool
    windows_build: int
    ubr: int
    os_image: str
    runs_as_system: bool = True

    @property
    def kernel_version(self) -> str:
        """
        As a node reports it: ``10.0.<build>.<ubr>``.
        """
        return f"10.0.{self.windows_build}.{self.ubr}"

    @property
    def powershell(self) -> str:
        """
        The folder of Windows PowerShell 5.1.
        """
        return r"C:\Windows\System32\WindowsPowerShell\v1.0"

    def containerd_since(self, text: str) -> bool:
        """
        Whether containerd is at least this version.
        """
        return Version.parse(self.containerd) >= Version.parse(text)

    def shim_since(self, text: str) -> bool:
        """
        Whether the shim is at least this version.
        """
        return Version.parse(self.shim) >= Version.parse(text)

    @property
    def mount_mode(self) -> MountMode:
        """
        The shim's version decides first, then whether bindfltapi.dll is there; the Windows build decides nothing.

        Source: hcsshim@0.11.7 internal/jobcontainers/jobcontainer.go (Create); hcsshim@0.9.12 the same file.
        """
        if not self.shim_since("0.10.0-rc.0"):
            return MountMode.LINKS
        return MountMode.BIND if self.bind_filter else MountMode.FALLBACK


_2019 = "Windows Server 2019 Datacenter"
_2022 = "Windows Server 2022 Datacenter"
_2025 = "Windows Server 2025 Datacenter"

ERAS = {
    era.name: era
    for era in (
        Era("1.6", "1.6.39", "0.9.12", bind_filter=True, windows_build=17763, ubr=7792, os_image=_2019),
        Era("1.7", "1.7.34", "0.11.7", bind_filter=True, windows_build=20348, ubr=4297, os_image=_2022),
        Era("2.2", "2.2.7", "0.14.1", bind_filter=True, windows_build=20348, ubr=4297, os_image=_2022),
        Era("2.3", "2.3.4", "0.15.0-rc.3", bind_filter=True, windows_build=26100, ubr=6899, os_image=_2025),
        Era("1.7-no-bind-filter", "1.7.34", "0.11.7", bind_filter=False, windows_build=17763, ubr=2928, os_image=_2019),
    )
}
