"""
What the kubelet asks of the runtime: a container's specification, and the images that the simulated registry has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.simulated.model.errors import ImageNotFound, OtherBuild

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """
    The part of an image's configuration that a container starts from. ``reference`` is what it was asked for by.
    """

    reference: str
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """
    A mount of the CRI request; ``container_path`` as the kubelet sends it.
    """

    host_path: str
    container_path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """
    The CRI request for one container. ``env`` holds what the kubelet made of the pod's variables (already expanded,
    services included), ``user`` the effective runAsUserName, ``memory_limit`` bytes, ``cpu_maximum`` 1 to 10000.
    """

    id: str
    name: str
    pod_name: str
    namespace: str
    pod_uid: str
    image: ImageConfig
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    host_process: bool = True
    pod_host_process: bool = True
    mounts: tuple[Mount, ...] = ()
    memory_limit: int | None = None
    cpu_maximum: int | None = None
    tty: bool = False
    stdin: bool = False


_PROGRAM_FILES = r"C:\Program Files"
_NANOSERVER_ENV = {
    "ProgramFiles": _PROGRAM_FILES,
    "WindowsPATH": r"C:\Windows\system32;C:\Windows",
    "PSCORE": rf"{_PROGRAM_FILES}\PowerShell\pwsh.exe",
    "PATH": rf"C:\Windows\system32;C:\Windows;{_PROGRAM_FILES}\PowerShell;",
}
_BASE = re.compile(r"(?:.*/)?windows-host-process-containers-base-image(?::v1\.0\.0)?(?:@sha256:[0-9a-f]{64})?")
_POWERSHELL = re.compile(
    r"(?:.*/)?powershell(?::lts-nanoserver-(?:1809|ltsc2022)(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})"
)
_NANO_SERVER = re.compile(r"(?:.*/)?nanoserver:(ltsc2019|ltsc2022)(?:@sha256:[0-9a-f]{64})?")
_BUILDS = {"ltsc2019": 17763, "ltsc2022": 20348}
_STABLE = 20348
"""The build since which a container of an earlier one runs, from this one on (Windows Server 2022)."""


def image(reference: str, build: int) -> ImageConfig:
    """
    The configuration of an image, by its name behind any registry's, with a tag, a digest or both, as a node of this
    Windows build pulls it. Raises ImageNotFound, with containerd's text, for what the simulated registry does not have,
    OtherBuild for what is of a build that does not run there.

    Sources: microsoft/windows-host-process-containers-base-image (no user, no environment, no build);
    PowerShell/PowerShell-Docker (nanoserver: user ContainerUser, a PATH without Windows PowerShell); Nano Server itself
    has user ContainerUser and no environment, its PATH is in its registry, which the host does not read
    (github.com/moby/buildkit/pull/5446), its tags name lists with a build in them; which builds match:
    containerd/platforms (checkHostAndContainerCompat).
    """
    if _BASE.fullmatch(reference):
        return ImageConfig(reference, cmd=(r"c:\windows\system32\cmd.exe",), size=4_096)
    if _POWERSHELL.fullmatch(reference):
        return ImageConfig(reference, "ContainerUser", _NANOSERVER_ENV, cmd=("pwsh.exe",), size=175_000_000)
    if nano := _NANO_SERVER.fullmatch(reference):
        its = _BUILDS[nano[1]]
        if its != build and not (its >= _STABLE and its <= build):
            raise OtherBuild(
                f'failed to pull and unpack image "{reference}": no match for platform in manifest: not found'
            )
        return ImageConfig(reference, "ContainerUser", cmd=(r"c:\windows\system32\cmd.exe",), size=120_000_000)
    raise ImageNotFound(
        f'failed to pull and unpack image "{reference}": '
        f'failed to resolve reference "{reference}": {reference}: not found'
    )
