"""
The machine's own accounts: users and groups with their SIDs, and the tokens that a log-on gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from infra.simulated.model.errors import (
    ACCOUNT_DISABLED,
    LOGON_FAILURE,
    LOGON_TYPE_NOT_GRANTED,
    NONE_MAPPED,
    WindowsError,
)

SYSTEM = "S-1-5-18"
LOCAL_SERVICE = "S-1-5-19"
NETWORK_SERVICE = "S-1-5-20"
ADMINISTRATORS = "S-1-5-32-544"
BACKUP_OPERATORS = "S-1-5-32-551"
USERS = "S-1-5-32-545"
EVERYONE = "S-1-1-0"
AUTHENTICATED_USERS = "S-1-5-11"
INTERACTIVE = "S-1-5-4"
SERVICE = "S-1-5-6"

GROUP_NOT_FOUND = 1376
USER_NOT_FOUND = 2221
GROUP_EXISTS = 1379
USER_EXISTS = 2224
ALREADY_MEMBER = 1378
NOT_A_MEMBER = 1377

_WELL_KNOWN = {
    SYSTEM: ("NT AUTHORITY", "SYSTEM", ("LocalSystem",)),
    LOCAL_SERVICE: ("NT AUTHORITY", "LOCAL SERVICE", ("LocalService",)),
    NETWORK_SERVICE: ("NT AUTHORITY", "NETWORK SERVICE", ("NetworkService",)),
    INTERACTIVE: ("NT AUTHORITY", "INTERACTIVE", ()),
    SERVICE: ("NT AUTHORITY", "SERVICE", ()),
    AUTHENTICATED_USERS: ("NT AUTHORITY", "Authenticated Users", ()),
    EVERYONE: ("", "Everyone", ()),
}


@dataclass(frozen=True, slots=True)
class Token:
    r"""
    Who a process runs as: ``name`` as ``DOMAIN\user``, ``groups`` as SIDs, and whether the token counts as an
    administrator's.
    """

    name: str
    sid: str
    groups: tuple[str, ...]

    @property
    def administrator(self) -> bool:
        """
        Whether the Administrators group is enabled in the token.
        """
        return ADMINISTRATORS in self.groups

    @property
    def trusted(self) -> bool:
        """
        Whether the machine lets it change accounts and Windows' own folders: administrators and the system itself.
        """
        return self.administrator or self.sid == SYSTEM


@dataclass(frozen=True, slots=True)
class LogOnRights:
    """
    The machine's policy about interactive log-ons, as SIDs: "Allow log on locally" and "Deny log on locally".

    Source of the defaults: Microsoft's reference of security policy settings (a server that is no domain controller).
    """

    allowed: tuple[str, ...] = (ADMINISTRATORS, USERS, BACKUP_OPERATORS)
    denied: tuple[str, ...] = ()

    def grant(self, token: Token) -> bool:
        """
        Whether who has this token may log on at the machine.
        """
        sids = {token.sid, *token.groups}
        return bool(sids & {*self.allowed}) and not sids & {*self.denied}


@dataclass(slots=True)
class User:
    """
    A local user. ``password`` empty means that it has none.
    """

    name: str
    sid: str
    password: str = ""
    enabled: bool = True


@dataclass(slots=True)
class Group:
    """
    A local group and the SIDs of its members.
    """

    name: str
    sid: str
    members: list[str] = field(default_factory=list)


class Accounts:
    """
    The account database of one machine. ``machine`` is its name as Windows prints it before a user's name.
    """

    def __init__(self, machine: str, seed: str, rights: LogOnRights | None = None) -> None:
        self.rights = rights or LogOnRights()
        digest = sha256(seed.encode()).digest()
        parts = [int.from_bytes(digest[at : at + 4], "big") for at in (0, 4, 8)]
        self.machine = machine
        self.machine_sid = f"S-1-5-21-{parts[0]}-{parts[1]}-{parts[2]}"
        self._next = 1001
        self.users: dict[str, User] = {}
        self.groups: dict[str, Group] = {}
        for name, rid, enabled in (("Administrator", 500, True), ("DefaultAccount", 503, False), ("Guest", 501, False)):
            password = "set at installation" if rid == 500 else ""
            self.users[name.lower()] = User(name, f"{self.machine_sid}-{rid}", password, enabled)
        for name, rid in (("Administrators", 544), ("Guests", 546), ("Remote Desktop Users", 555), ("Users", 545)):
            self.groups[name.lower()] = Group(name, f"S-1-5-32-{rid}")
        self.groups["administrators"].members.append(f"{self.machine_sid}-500")
        self.groups["guests"].members.append(f"{self.machine_sid}-501")
        self.groups["users"].members.extend([INTERACTIVE, AUTHENTICATED_USERS])

    def group(self, name: str) -> Group | None:
        """
        A local group by its exact name, in any case.
        """
        return self.groups.get(name.lower())

    def add_user(self, name: str, password: str) -> User:
        """
        Make a local user. Raises WindowsError 2224 when there is one.
        """
        if name.lower() in self.users:
            raise WindowsError(USER_EXISTS, "The account already exists.")
        user = User(name, self._sid(), password)
        self.users[name.lower()] = user
        return user

    def delete_user(self, name: str) -> None:
        """
        Delete a local user and its memberships. Raises WindowsError 2221 when there is none.
        """
        user = self.users.pop(name.lower(), None)
        if user is None:
            raise WindowsError(USER_NOT_FOUND, "The user name could not be found.")
        for group in self.groups.values():
            if user.sid in group.members:
                group.members.remove(user.sid)

    def add_group(self, name: str) -> Group:
        """
        Make a local group. Raises WindowsError 1379 when there is one.
        """
        if name.lower() in self.groups:
            raise WindowsError(GROUP_EXISTS, "The specified local group already exists.")
        group = Group(name, self._sid())
        self.groups[name.lower()] = group
        return group

    def delete_group(self, name: str) -> None:
        """
        Delete a local group. Raises WindowsError 1376 when there is none.
        """
        if self.groups.pop(name.lower(), None) is None:
            raise WindowsError(GROUP_NOT_FOUND, "The specified local group does not exist.")

    def members(self, name: str) -> list[str]:
        """
        The SIDs of a group's members. Raises WindowsError 1376 when there is no such group.
        """
        group = self.group(name)
        if group is None:
            raise WindowsError(GROUP_NOT_FOUND, "The specified local group does not exist.")
        return list(group.members)

    def lookup(self, name: str) -> str:
        """
        The SID of an account's or group's name, with or without a domain. Raises WindowsError 1332 for an unknown one.
        """
        domain, _, short = name.rpartition("\\")
        if not domain or domain.lower() in {self.machine.lower(), ".", "builtin"}:
            for entry in (self.users.get(short.lower()), self.groups.get(short.lower())):
                if entry is not None:
                    return entry.sid
        if sid := well_known(domain, short):
            return sid
        raise WindowsError(NONE_MAPPED, "Some or all identity references could not be translated.")

    def name(self, sid: str) -> str:
        """
        What Windows prints for a SID; the SID itself when nobody has it.
        """
        if sid in _WELL_KNOWN:
            domain, name, _ = _WELL_KNOWN[sid]
            return f"{domain}\\{name}" if domain else name
        for user in self.users.values():
            if user.sid == sid:
                return f"{self.machine}\\{user.name}"
        for group in self.groups.values():
            if group.sid == sid:
                return f"{'BUILTIN' if sid.startswith('S-1-5-32-') else self.machine}\\{group.name}"
        return sid

    def service_token(self, sid: str) -> Token:
        """
        The token of one of the three accounts of Windows' own services.
        """
        if sid == SYSTEM:
            return Token(self.name(sid), sid, (ADMINISTRATORS, EVERYONE, AUTHENTICATED_USERS))
        return Token(self.name(sid), sid, (EVERYONE, USERS, SERVICE, AUTHENTICATED_USERS))

    def user_token(self, user: User) -> Token:
        """
        The token of a local user that logged on: everyone's groups, then those it is a member of.
        """
        own = tuple(group.sid for group in self.groups.values() if user.sid in group.members)
        everyone = (EVERYONE, USERS, INTERACTIVE, AUTHENTICATED_USERS, "S-1-5-113", f"{self.machine_sid}-513")
        return Token(f"{self.machine}\\{user.name}", user.sid, everyone + tuple(sid for sid in own if sid != USERS))

    def log_on(self, domain: str, name: str, password: str | None, *, service: bool) -> Token:
        """
        LogonUser: a null password suits only the accounts of Windows' services, asked for as a service. Raises
        WindowsError 1326, 1331, or 1385 where the machine's policy lets nobody of this user's groups log on.
        Unverified: which of the first two an account without a password gets.
        """
        sid = well_known(domain, name) if domain.upper() == "NT AUTHORITY" else ""
        if sid in {SYSTEM, LOCAL_SERVICE, NETWORK_SERVICE} and service:
            return self.service_token(sid)
        user = self.users.get(name.lower()) if domain.lower() in {"", ".", self.machine.lower()} else None
        if user is None:
            raise WindowsError(LOGON_FAILURE)
        if not user.enabled:
            raise WindowsError(ACCOUNT_DISABLED)
        if not password or password != user.password:
            raise WindowsError(LOGON_FAILURE)
        token = self.user_token(user)
        if not self.rights.grant(token):
            raise WindowsError(LOGON_TYPE_NOT_GRANTED)
        return token

    def _sid(self) -> str:
        self._next += 1
        return f"{self.machine_sid}-{self._next - 1}"


def well_known(domain: str, name: str) -> str:
    """
    The SID of an account that every Windows has, empty for any other name. Names are compared without case.
    """
    for sid, (own_domain, own_name, others) in _WELL_KNOWN.items():
        names = {own_name.lower(), *(other.lower() for other in others)}
        if domain.lower() in {own_domain.lower(), ""} and name.lower() in names:
            return sid
    return ""
