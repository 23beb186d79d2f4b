"""
What a container reads from its volumes, by every documented path, through the files that the model shows it.
"""

from __future__ import annotations

import base64
import json
import ntpath
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from infra.simulated.model.view import View

    Fact = Callable[[View], Awaitable[Any]]

KINDS = ("empty-dir", "host-path", "config-map", "secret", "downward-api", "projected")
ACCOUNT = r"var\run\secrets\kubernetes.io\serviceaccount"
NO_FILE = {2, 3, 5, 15, 123, 161, 206, 267, 448, 1920, 1921, 4390, 4391, 4392, 4393}
"""Windows' numbers for a path that leads to no file; any other one is trouble."""


def _in_role(role: str, collect: Fact) -> Fact:
    async def fact(view: View) -> Any:
        return await collect(view) if view.env.get("ROLE") == role else None

    return fact


def _found(collect: Callable[[], Any]) -> Any:
    try:
        return collect()
    except WindowsError as error:
        return {"error": str(error), "type": error.type}


def _volumes(view: View) -> str:
    return rf"hpc-conformance\{view.env['NONCE']}"


def _below_mount_point(view: View, path: str) -> str | None:
    mount_point = view.env.get("CONTAINER_SANDBOX_MOUNT_POINT")
    return ntpath.join(mount_point, path) if mount_point else None


def _read_file(view: View, path: str | None) -> str:
    if not path:
        return "(variable not set)"
    try:
        return view.read(path).decode()
    except WindowsError as error:
        files = error.type.startswith("System.IO.") or error.type == "System.UnauthorizedAccessException"
        if not files or error.code not in NO_FILE:
            raise
        return f"(win32 {error.code})"


def _read_markers(view: View, template: str | None) -> dict[str, Any]:
    def read(kind: str) -> str:
        return _read_file(view, template and template.replace("{0}", kind))

    return {kind: _found(partial(read, kind)) for kind in KINDS}


def _read_token(view: View, path: str | None) -> str | dict[str, str | None]:
    text = _read_file(view, path)
    if text.startswith("("):
        return text
    try:
        payload = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        uid = claims.get("kubernetes.io", {}).get("pod", {}).get("uid")
    except (AttributeError, IndexError, ValueError):
        return "(not a token)"
    return {"sha256": sha256(text.encode()).hexdigest(), "podUid": uid}


def _write_marker(view: View, folders: Sequence[str | None], text: str) -> str | None:
    for folder in folders:
        if folder and view.is_directory(folder):
            view.write(ntpath.join(folder, "marker"), text.encode())
            return folder
    return None


def _remove_folder(view: View, folder: str) -> str:
    if not view.is_directory(folder):
        return "absent"
    try:
        marker = ntpath.join(folder, "marker")
        if view.exists(marker):
            view.delete(marker)
        if view.list(folder):
            return "left: The directory is not empty."
        view.delete(folder)
    except WindowsError as error:
        return f"left: {error}"
    return "removed"


async def written(view: View) -> dict[str, str | None]:
    """
    Where the writer put the markers of emptyDir and hostPath.
    """
    own = rf"{_volumes(view)}\empty-dir"
    folders = (rf"C:\{own}", _below_mount_point(view, own), rf".\{own}")
    return {
        "empty-dir": _write_marker(view, folders, view.env["EMPTY_DIR_MARKER"]),
        "host-path": _write_marker(view, [rf"C:\hpc-conformance-{view.env['NONCE']}"], view.env["HOST_PATH_MARKER"]),
    }


async def sandbox_mount_point(view: View) -> dict[str, Any]:
    """
    The variable, and whether it names a folder.
    """
    value = view.env.get("CONTAINER_SANDBOX_MOUNT_POINT")
    return {"value": value, "isDirectory": bool(value) and view.is_directory(value or "")}


async def working_directory(view: View) -> str:
    """
    Where the process was started.
    """
    return view.working_directory


async def below_sandbox_mount_point(view: View) -> dict[str, Any]:
    """
    The markers below the variable.
    """
    return _read_markers(view, _below_mount_point(view, rf"{_volumes(view)}\{{0}}\marker"))


async def relative_path(view: View) -> dict[str, Any]:
    """
    The markers from the working directory.
    """
    return _read_markers(view, rf".\{_volumes(view)}\{{0}}\marker")


async def mount_path_with_drive(view: View) -> dict[str, Any]:
    """
    The markers at the mount paths that have a drive.
    """
    return _read_markers(view, rf"C:\{_volumes(view)}\{{0}}\marker")


async def mount_path_with_slashes(view: View) -> dict[str, Any]:
    """
    The markers at the mount paths that have forward slashes.
    """
    return _read_markers(view, f"/hpc-conformance-slashes/{view.env['NONCE']}/{{0}}/marker")


async def service_account(view: View) -> dict[str, Any]:
    """
    The token's digest and whose it is, by each documented path.
    """
    paths = {
        "relativePath": rf".\{ACCOUNT}\token",
        "belowSandboxMountPoint": _below_mount_point(view, rf"{ACCOUNT}\token"),
        "mountPathWithDrive": rf"c:\{ACCOUNT}\token",
        "mountPathWithSlashes": "/var/run/secrets/kubernetes.io/serviceaccount/token",
    }
    return {name: _found(partial(_read_token, view, path)) for name, path in paths.items()}


async def review(view: View) -> dict[str, Any]:
    """
    Whom the API server takes the bearer of the token for.
    """
    folders = (rf".\{ACCOUNT}", _below_mount_point(view, ACCOUNT), rf"c:\{ACCOUNT}")
    folder = next((one for one in folders if one and view.exists(ntpath.join(one, "token"))), None)
    if folder is None:
        return {"code": None, "userName": None, "podName": None, "podUid": None, "failed": []}
    view.read(ntpath.join(folder, "ca.crt"))
    headers = {
        "Authorization": f"Bearer {view.read(ntpath.join(folder, 'token')).decode()}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    body = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
    failed = []
    for prefix in ("KUBERNETES_SERVICE", "API"):
        host, port = view.env.get(f"{prefix}_HOST"), view.env.get(f"{prefix}_PORT", "")
        if not host:
            continue
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        try:
            code, answer = await view.https("POST", host, int(port), path, headers, body)
        except WindowsError as error:
            failed.append(f"{host} port {port}: {error}")
            continue
        status = json.loads(answer).get("status")
        user = status.get("userInfo", {}) if isinstance(status, dict) else {}
        extra = user.get("extra") or {}
        return {
            "code": code,
            "userName": user.get("username"),
            "podName": next(iter(extra.get("authentication.kubernetes.io/pod-name", ())), None),
            "podUid": next(iter(extra.get("authentication.kubernetes.io/pod-uid", ())), None),
            "failed": failed,
        }
    text = f"no API server answered. {'; '.join(failed)}"
    raise WindowsError(0, text, "System.Management.Automation.RuntimeException")


async def removed(view: View) -> dict[str, str]:
    """
    What the run had left on the host, and what became of it.
    """
    nonce = view.env["NONCE"]
    folders = [
        path for top in (r"C:\hpc-conformance", r"C:\hpc-conformance-slashes") for path in (rf"{top}\{nonce}", top)
    ]
    return {folder: _remove_folder(view, folder) for folder in [*folders, rf"C:\hpc-conformance-{nonce}"]}


async def residue(view: View) -> dict[str, bool]:
    """
    Which of the runtime's folders stand on the host.
    """
    folders = (r"C:\C", r"C:\hpc", r"C:\dev", r"C:\var\run\secrets\kubernetes.io", rf"C:\{ACCOUNT}")
    return {folder: view.is_directory(folder) for folder in folders}


FACTS = {
    "written": _in_role("write", written),
    "sandboxMountPoint": _in_role("read", sandbox_mount_point),
    "workingDirectory": _in_role("read", working_directory),
    "belowSandboxMountPoint": _in_role("read", below_sandbox_mount_point),
    "relativePath": _in_role("read", relative_path),
    "mountPathWithDrive": _in_role("read", mount_path_with_drive),
    "mountPathWithSlashes": _in_role("read", mount_path_with_slashes),
    "serviceAccount": _in_role("read", service_account),
    "review": _in_role("read", review),
    "removed": _in_role("tidy", removed),
    "residue": _in_role("tidy", residue),
}
