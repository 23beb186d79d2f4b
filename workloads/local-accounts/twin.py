"""
Who runs, and which local users there are, from the machine's account database; which ``TASK`` may change.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from infra.simulated.model.view import WindowsError

if TYPE_CHECKING:
    from infra.simulated.model.view import View


async def name(view: View) -> str:
    """
    The account's name.
    """
    return view.token.name


async def sid(view: View) -> str:
    """
    The account's SID.
    """
    return view.token.sid


async def groups(view: View) -> list[str]:
    """
    The SIDs of the token's groups.
    """
    return sorted(view.token.groups)


def _whole(accounts: list[tuple[str, str]], witness: str) -> dict[str, str]:
    if not any(sid.endswith(witness) for _, sid in accounts):
        why = f"the list of accounts is not whole: no SID in it ends with {witness}"
        raise WindowsError(0, why, "System.Management.Automation.RuntimeException")
    return dict(accounts)


def _users(view: View) -> dict[str, str]:
    return _whole(view.local_users(), "-500")


async def log_on_rights(view: View) -> dict[str, list[str]] | None:
    """
    The SIDs of who may, and who may not, log on at the machine, as secedit exports them.
    """
    if view.env.get("TASK") != "make":
        return None
    folder = "C:\\hpc-conformance-" + view.env["LOCAL_GROUP"][4:]
    file = folder + "\\rights.inf"
    view.make_directory(folder)
    try:
        await view.run(["secedit.exe", "/export", "/mergedpolicy", "/areas", "USER_RIGHTS", "/cfg", file])
        text = view.read(file).decode("utf-16")
    finally:
        view.delete(folder)

    def right(name: str) -> list[str]:
        line = re.search(rf"(?m)^{name} *= *(.*)$", text)
        return re.findall(r"\*(S-1-[0-9-]+)", line[1]) if line else []

    return {"allowed": right("SeInteractiveLogonRight"), "denied": right("SeDenyInteractiveLogonRight")}


async def local_users(view: View) -> list[str]:
    """
    The SIDs of all local users, before anything is made or removed; none where there is nothing to do.
    """
    return sorted(_users(view).values()) if view.env.get("TASK") else []


async def group(view: View) -> dict[str, int | str | None] | None:
    """
    ``net localgroup``'s exit code, the number of its error, and the SID that the group then has.
    """
    if not view.env.get("TASK"):
        return None
    option = "/add" if view.env["TASK"] == "make" else "/delete"
    exit_code, said = await view.run(["net.exe", "localgroup", view.env["LOCAL_GROUP"], option])
    numbers = re.findall(r"(?<![\w-])[0-9]{1,5}(?![\w-])", said)
    return {
        "exitCode": exit_code,
        "number": int(numbers[-1]) if exit_code and numbers else None,
        "sid": _whole(view.local_groups(), "-544").get(view.env["LOCAL_GROUP"]),
    }


async def user(view: View) -> dict[str, str | None] | None:
    """
    The SID that the user has after it was made or removed.
    """
    task = view.env.get("TASK")
    if not task:
        return None
    account = view.env["LOCAL_USER"]
    if task == "make":
        view.account_database().add_user(account, secrets.token_urlsafe(24))
    elif account in _users(view):
        view.account_database().delete_user(account)
    return {"sid": _users(view).get(account)}


FACTS = {
    "name": name,
    "sid": sid,
    "groups": groups,
    "logOnRights": log_on_rights,
    "localUsers": local_users,
    "group": group,
    "user": user,
}
