"""
Whom a container runs as, from the token that the model gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.simulated.model.view import View


async def name(view: View) -> str:
    """
    The account's name, with its authority or machine in front.
    """
    return view.token.name


async def sid(view: View) -> str:
    """
    The account's SID.
    """
    return view.token.sid


async def groups(view: View) -> list[str]:
    """
    The SIDs of the token's enabled groups.
    """
    return sorted(view.token.groups)


async def is_administrator(view: View) -> bool:
    """
    What ``WindowsPrincipal.IsInRole(Administrator)`` answers.
    """
    return view.token.administrator


async def host_name(view: View) -> str:
    """
    The machine's name, uncut.
    """
    return view.host_name


FACTS = {
    "name": name,
    "sid": sid,
    "groups": groups,
    "isAdministrator": is_administrator,
    "hostName": host_name,
}


async def after(view: View) -> None:
    """
    Stay alive where the container must not end.
    """
    if view.env.get("STAY"):
        await view.until_stopped()
