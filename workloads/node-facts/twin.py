"""
What the simulated node is made of.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from infra.simulated.model.view import View

# The model has no list of processes to find it by.
CONTAINERD = r"C:\Program Files\containerd\containerd.exe"
SHIM = r"C:\Program Files\containerd\containerd-shim-runhcs-v1.exe"


def _binary(view: View, path: str) -> dict[str, str]:
    return {"path": path, "sha256": sha256(view.read(path)).hexdigest(), "fileVersion": view.file_version(path)}


async def windows(view: View) -> dict[str, Any]:
    """
    Build, update revision and names, as the registry has them.
    """
    return {
        "build": view.windows_build,
        "ubr": view.ubr,
        "product": view.machine.era.os_image,
        "edition": "ServerDatacenter",
    }


async def bind_filter(view: View) -> bool:
    """
    Whether the library of the bind filter is there.
    """
    return view.exists(r"C:\Windows\System32\bindfltapi.dll")


async def processors(view: View) -> int:
    """
    How many processors there are.
    """
    count = view.env.get("NUMBER_OF_PROCESSORS")
    if count is None:
        raise WindowsError(203, "The system could not find the environment option that was entered.")
    return int(count)


async def containerd(view: View) -> dict[str, str]:
    """
    Path, digest and version of the running containerd.
    """
    return _binary(view, CONTAINERD)


async def containerd_version(view: View) -> str:
    """
    What ``containerd --version`` prints.
    """
    return f"containerd github.com/containerd/containerd v{view.file_version(CONTAINERD)}"


async def shim(view: View) -> dict[str, str]:
    """
    Path, digest and version of the shim beside it.
    """
    return _binary(view, SHIM)


async def shim_version(view: View) -> str:
    """
    What the shim prints for ``--version``.
    """
    return f"containerd-shim-runhcs-v1 version {view.file_version(SHIM)}"


FACTS = {
    "windows": windows,
    "bindFilter": bind_filter,
    "processors": processors,
    "containerd": containerd,
    "containerdVersion": containerd_version,
    "shim": shim,
    "shimVersion": shim_version,
}
