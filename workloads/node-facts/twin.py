"""
What the simulated node is made of.
"""

from __future__ import annotations

import ntpath
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from infra.simulated.model.view import View

SHIM = "containerd-shim-runhcs-v1"


def _containerd(view: View) -> str:
    path = view.process_path("containerd")
    if path is None:
        raise WindowsError(
            0,
            'Cannot find a process with the name "containerd". Verify the process name and call the cmdlet again.',
            "Microsoft.PowerShell.Commands.ProcessCommandException",
        )
    return path


def _shim(view: View) -> str:
    return view.process_path(SHIM) or ntpath.join(ntpath.dirname(_containerd(view)), f"{SHIM}.exe")


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
    return _binary(view, _containerd(view))


async def containerd_version(view: View) -> str:
    """
    What ``containerd --version`` prints.
    """
    return f"containerd github.com/containerd/containerd v{view.file_version(_containerd(view))}"


async def shim(view: View) -> dict[str, str]:
    """
    Path, digest and version of the shim that runs, or of the one beside containerd.
    """
    return _binary(view, _shim(view))


async def shim_version(view: View) -> str:
    """
    What the shim prints for ``--version``.
    """
    return f"containerd-shim-runhcs-v1 version {view.file_version(_shim(view))}"


FACTS = {
    "windows": windows,
    "bindFilter": bind_filter,
    "processors": processors,
    "containerd": containerd,
    "containerdVersion": containerd_version,
    "shim": shim,
    "shimVersion": shim_version,
}
