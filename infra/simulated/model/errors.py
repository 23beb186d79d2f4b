"""
What the model raises: errors of Windows, as a process sees them, and errors of containerd, as the kubelet gets them.
"""

from __future__ import annotations

FILE_NOT_FOUND = 2
PATH_NOT_FOUND = 3
ACCESS_DENIED = 5
WRITE_PROTECT = 19
ALREADY_EXISTS = 183
DIRECTORY = 267
LOGON_FAILURE = 1326
LOGON_TYPE_NOT_GRANTED = 1385
NO_SYSTEM_RESOURCES = 1450
PASSWORD_TOO_SHORT = 2245
ACCOUNT_DISABLED = 1331
NONE_MAPPED = 1332
COMMITMENT_LIMIT = 1455
CANT_RESOLVE_FILENAME = 1921
ADDRESS_IN_USE = 10048
ADDRESS_NOT_AVAILABLE = 10049
TIMED_OUT = 10060
CONNECTION_REFUSED = 10061

TEXTS = {
    FILE_NOT_FOUND: "The system cannot find the file specified.",
    PATH_NOT_FOUND: "The system cannot find the path specified.",
    ACCESS_DENIED: "Access is denied.",
    WRITE_PROTECT: "The media is write protected.",
    ALREADY_EXISTS: "Cannot create a file when that file already exists.",
    DIRECTORY: "The directory name is invalid.",
    LOGON_FAILURE: "The user name or password is incorrect.",
    LOGON_TYPE_NOT_GRANTED: ("Logon failure: the user has not been granted the requested logon type at this computer."),
    NO_SYSTEM_RESOURCES: "Insufficient system resources exist to complete the requested service.",
    PASSWORD_TOO_SHORT: (
        "The password does not meet the password policy requirements. Check the minimum password length, password "
        "complexity and password history requirements."
    ),
    ACCOUNT_DISABLED: "This user can't sign in because this account is currently disabled.",
    NONE_MAPPED: "No mapping between account names and security IDs was done.",
    COMMITMENT_LIMIT: "The paging file is too small for this operation to complete.",
    CANT_RESOLVE_FILENAME: "The name of the file cannot be resolved by the system.",
    ADDRESS_IN_USE: "Only one usage of each socket address (protocol/network address/port) is normally permitted.",
    ADDRESS_NOT_AVAILABLE: "The requested address is not valid in its context.",
    TIMED_OUT: "A connection attempt failed because the other side did not answer in time.",
    CONNECTION_REFUSED: "No connection could be made because the target machine actively refused it.",
}

_DOTNET = {
    FILE_NOT_FOUND: "System.IO.FileNotFoundException",
    PATH_NOT_FOUND: "System.IO.DirectoryNotFoundException",
    ACCESS_DENIED: "System.UnauthorizedAccessException",
    WRITE_PROTECT: "System.IO.IOException",
    ALREADY_EXISTS: "System.IO.IOException",
    DIRECTORY: "System.IO.IOException",
    NONE_MAPPED: "System.Security.Principal.IdentityNotMappedException",
    CANT_RESOLVE_FILENAME: "System.IO.IOException",
    ADDRESS_IN_USE: "System.Net.Sockets.SocketException",
    ADDRESS_NOT_AVAILABLE: "System.Net.Sockets.SocketException",
    TIMED_OUT: "System.Net.Sockets.SocketException",
    CONNECTION_REFUSED: "System.Net.Sockets.SocketException",
}


class WindowsError(Exception):
    """
    An error that Windows gives a process: ``code`` is the Win32 (or Winsock) number, ``type`` the .NET exception that
    a script sees for it.
    """

    def __init__(self, code: int, text: str = "", kind: str = "") -> None:
        super().__init__(text or TEXTS[code])
        self.code = code
        self.type = kind or _DOTNET.get(code, "System.ComponentModel.Win32Exception")


class CreateError(Exception):
    """
    CreateContainer failed; the text is containerd's whole answer.
    """


class StartError(Exception):
    """
    StartContainer (or an exec) failed; the text is containerd's whole answer.
    """


class ImageNotFound(Exception):  # noqa: N818 - named as containerd names it
    """
    The registry does not have the image; the text is containerd's whole answer.
    """


class OtherBuild(ImageNotFound):
    """
    The registry has the image, but not for this build of Windows.
    """


class ShimError(Exception):
    """
    The shim refused; containerd wraps the text by the phase it happened in.
    """
