"""
Who runs, and which local users there are, from the machine's account database; which ``TASK`` may change.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

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


async def local_users(view: View) -> list[str]:
    """
    The SIDs of all local users, before anything is made or removed; none where there is nothing to do.
    """
    return sorted(sid for _, sid in view.local_users()) if view.env.get("TASK") else []


async def group(view: View) -> dict[str, int | str | None] | None:
    """
    ``net localgroup``'s exit code, and the SID that the group then has.
    """
    option = {"make": "/add", "remove": "/delete"}.get(view.env.get("TASK", ""))
    if option is None:
        return None
    exit_code, _ = await view.run(["net.exe", "localgroup", view.env["LOCAL_GROUP"], option])
    return {"exitCode": exit_code, "sid": dict(view.local_groups()).get(view.env["LOCAL_GROUP"])}


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
    elif account in dict(view.local_users()):
        view.account_database().delete_user(account)
    return {"sid": dict(view.local_users()).get(account)}


FACTS = {"name": name, "sid": sid, "groups": groups, "localUsers": local_users, "group": group, "user": user}
