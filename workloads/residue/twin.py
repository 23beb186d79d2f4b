"""
Takes away what runs that were killed left on the host, as the model shows it.
"""

from __future__ import annotations

import ntpath
import re
from typing import TYPE_CHECKING

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from infra.simulated.model.view import View

    Reaped = list[dict[str, str]]

PARENTS = (r"C:\hpc-conformance", r"C:\hpc-conformance-slashes")


async def _reaped(
    view: View, shape: str, find: Callable[[], list[str]], remove: Callable[[str], Awaitable[int]]
) -> Reaped:
    found = []
    for name in sorted({name for name in find() if re.fullmatch(f"{shape}[0-9a-f]{{11}}", name)}):
        outcome = "kept"
        if int(name[-11:-6], 16) < int(view.env.get("REAP_BEFORE", "0")):
            failure: int | str
            try:
                failure = await remove(name)
            except WindowsError as error:
                failure = error.type.rpartition(".")[2]
            outcome = f"left: {failure}" if failure and name in find() else "reaped"
        found.append({"name": name, "outcome": outcome})
    return found


def _whole(accounts: list[tuple[str, str]], witness: str) -> list[str]:
    if not any(sid.endswith(witness) for _, sid in accounts):
        why = f"the list of accounts is not whole: no SID in it ends with {witness}"
        raise WindowsError(0, why, "System.Management.Automation.RuntimeException")
    return [name for name, _ in accounts]


async def _exit_code(view: View, *command: str) -> int:
    code, _ = await view.run([*command])
    return code


def _parents(view: View) -> list[str]:
    return [path for path in PARENTS if view.is_directory(path) and not view.is_link(path)]


def _directories(view: View, path: str) -> list[str]:
    below = (ntpath.join(path, name) for name in view.list(path))
    return [one for one in below if view.is_directory(one)]


def _remove_tree(view: View, path: str) -> None:
    if view.is_directory(path) and not view.is_link(path):
        for name in view.list(path):
            _remove_tree(view, ntpath.join(path, name))
    view.delete(path)


async def groups(view: View) -> Reaped:
    """
    The local groups of the suite's, and what became of each.
    """
    return await _reaped(
        view,
        "hpc-",
        lambda: _whole(view.local_groups(), "-544"),
        lambda name: _exit_code(view, "net.exe", "localgroup", name, "/delete"),
    )


async def users(view: View) -> Reaped:
    """
    The local users of the suite's, and what became of each.
    """
    return await _reaped(
        view,
        "hpc-user-",
        lambda: _whole(view.local_users(), "-500"),
        lambda name: _exit_code(view, "net.exe", "user", name, "/delete"),
    )


async def folders(view: View) -> Reaped:
    """
    The folders of the suite's, links in them not followed, and what became of each; then the parents that are gone.
    """

    async def remove(path: str) -> int:
        _remove_tree(view, path)
        return 0

    found = await _reaped(
        view,
        r"C:\\hpc-conformance(-|\\|-slashes\\)",
        lambda: [one for path in ("C:\\", *_parents(view)) for one in _directories(view, path)],
        remove,
    )
    for parent in _parents(view):
        if not view.list(parent):
            view.delete(parent)
            found.append({"name": parent, "outcome": "reaped"})
    return found


async def firewall_rules(view: View) -> Reaped:
    """
    The firewall's rules of the suite's, and what became of each.
    """
    return await _reaped(
        view,
        "hpc-conformance-",
        view.firewall_rules,
        lambda name: _exit_code(view, "netsh.exe", "advfirewall", "firewall", "delete", "rule", f"name={name}"),
    )


FACTS = {"groups": groups, "users": users, "folders": folders, "firewallRules": firewall_rules}
