"""
What a runtime's or a kubelet's words about a container that was not started are about: the container itself, or the
machine. Pure.

A cause is named positively, by words of the shim, of containerd or of the kubelet, which nobody translates; Windows'
own words are in the language of the machine, its numbers are not. What is not named is no finding about anything.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Cause(StrEnum):
    """
    What about the container itself was refused.
    """

    EXECUTABLE = "executable"
    USER = "user"
    DIRECTORY = "directory"
    MOUNT = "mount"
    HOST_PROCESS = "host-process"
    """It was not taken for a HostProcess container, or its flag and its pod's differ."""


def _numbered(*numbers: int) -> str:
    """
    A pattern for Win32's numbers in whatever form they are written: in hexadecimal, as an HRESULT, by Go.
    """
    return "|".join(rf"\b0x(?:8007)?0*{number:x}\b|winapi error #{number}\b" for number in numbers)


# Source of the words: hcsshim internal/jobcontainers (jobcontainer.go, logon.go, mounts.go, path.go), the same from 0.9
# to 0.15; internal/hcs (a job container is none of HCS' compute systems); containerd's container_create_windows.go;
# kubernetes pkg/kubelet/kuberuntime/security_context_windows.go.
_MOUNT = (
    r"failed to bind (?:target|rootfs)|failed to setup mount for job container|"
    r"failed to make directory for job container mount"
)
_MOUNT_BY_SHIM = r"job is not a silo|named pipe mounts not supported|a mount must have both source and a destination"
# Windows' words for what it never mounts: no such file, denied, a wrong parameter; of the filter manager: not at this
# volume, no such filter, no such volume. Any others may be about the machine.
_MOUNT_REFUSED = (
    r"cannot find the (?:file|path)|Access is denied|parameter is incorrect|Do not attach the filter|"
    rf"could not find the (?:filter|volume)|\b0x801f00(?:0f|13|14)\b|{_numbered(2, 3, 5, 87)}"
)
# What is said of a log-on has one of these, whatever a version makes of the rest of the sentence.
LOG_ON = r"(?i:user process token|log ?on user|logonuser|local account|user ?name|user string)"
# The shim's own words, and Windows' for a log-on that this machine always refuses, because of who asks for whom.
_LOG_ON_REFUSED = (
    r"empty user|invalid user string|Access is denied|(?:user name or password|username or password) is incorrect|"
    r"currently disabled|(?:account|user|user name) does not exist|No mapping between account names|"
    rf"{_numbered(5, 1317, 1326, 1331, 1332)}"
)
_POLICY = re.compile(
    r"not been granted the requested logon type|password policy|account restrictions|logon (?:hours|time)|"
    rf"{_numbered(1327, 1328, 1385, 2245)}",
    re.IGNORECASE,
)
_NO_SUCH_PROGRAM = rf"cannot find the (?:file|path)|not a valid Win32|{_numbered(2, 3, 193)}"
_CAUSES = (
    (Cause.HOST_PROCESS, r"must have the HostProcess field set|hcs::CreateComputeSystem"),
    (Cause.MOUNT, rf"(?:{_MOUNT}).*(?i:{_MOUNT_REFUSED})|{_MOUNT_BY_SHIM}"),
    (Cause.USER, rf"{LOG_ON}.*(?i:{_LOG_ON_REFUSED})|will break non-root policy"),
    (Cause.EXECUTABLE, r"failed to get application name from commandline|failed to find executable"),
    (Cause.DIRECTORY, rf"failed to create process: .*(?i:directory name is invalid|{_numbered(267)})"),
    (Cause.EXECUTABLE, rf"failed to create process: .*(?i:{_NO_SUCH_PROGRAM})"),
)

WIN32 = {
    8: "not enough (?:memory|storage)",
    14: "not enough (?:memory|storage)",
    21: "device is not ready",
    32: "used by another process",
    33: "another process has locked",
    39: "disk is full",
    112: "not enough space",
    121: "semaphore timeout period has expired",
    170: "requested resource is in use",
    258: "wait operation timed out",
    995: "I/O operation has been aborted",
    1075: "dependency service does not exist",
    1115: "shutdown is in progress",
    1117: "I/O device error",
    1130: "not enough (?:server storage|memory)",
    1311: "no logon servers|domain isn.t available",
    1312: "logon session does not exist",
    1355: "domain either does not exist or could not be contacted",
    1450: "insufficient system resources",
    1451: "insufficient system resources",
    1452: "insufficient system resources",
    1453: "insufficient quota",
    1454: "insufficient quota",
    1455: "paging file is too small",
    1460: "timeout period expired",
    1722: "RPC server is unavailable",
    1723: "RPC server is too busy",
    1726: "remote procedure call failed",
    1816: "not enough quota",
}
"""Win32's numbers for trouble of the machine, each with what is in Windows' English sentence for it: the shim mostly
has the sentence alone."""
# NTSTATUS: no memory, disk full, insufficient resources, I/O timed out, shutting down, commitment limit.
_NTSTATUS = frozenset({0xC0000017, 0xC000007F, 0xC000009A, 0xC00000B5, 0xC00002FE, 0xC000012D})
_NUMBER = re.compile(r"\b0x([0-9a-f]{1,8})\b|winapi error #(\d+)", re.IGNORECASE)
_WORDS = re.compile(
    # The machine's storage driver: layers of any image, of any kind of container.
    r"hcsshim::\w*Layer|Hcs\w*Layer|\b(?:Prepare|Unprepare|Activate|Deactivate|Create(?:Sandbox|Scratch))Layer\b|"
    r"context deadline exceeded|context canceled|DeadlineExceeded|code = Unavailable|ttrpc: closed|"
    r"failed to reserve (?:container|sandbox) name|"
    rf"insufficient disk space|no space left|{'|'.join(WIN32.values())}",
    re.IGNORECASE,
)

STOPPED_CODES = frozenset({0xC000013A, 0xC0000142, 0x40010004, 0xC000026B, *_NTSTATUS})
"""
Exit codes (unsigned) of a process that did not end by itself or could not begin: CTRL_SHUTDOWN and the like, as a
reboot or a stopped service sends it, a desktop without room, a session or a machine that shuts down, and what a machine
without memory gives.
"""


def is_trouble(message: str) -> bool:
    """
    Whether the words or a number in them say that the machine or its runtime was in trouble.
    """
    return bool(_WORDS.search(message)) or any(
        _is_troubles(int(code, 16) if code else int(decimal)) for code, decimal in _NUMBER.findall(message)
    )


def _is_troubles(number: int) -> bool:
    # An HRESULT of facility Win32 carries its number in the lower half.
    return number in _NTSTATUS or (number & 0xFFFF if number >> 16 == 0x8007 else number) in WIN32


def is_policy(message: str) -> bool:
    """
    Whether the words about a log-on say that the machine's own policy refused it.
    """
    return _POLICY.search(message) is not None


def cause(message: str) -> Cause | None:
    """
    What of the container was refused, and always will be; None for trouble, for a policy of the machine, and for what
    nobody named, none of which shows anything.
    """
    if is_trouble(message) or is_policy(message):
        return None
    return next((found for found, words in _CAUSES if re.search(words, message, re.DOTALL)), None)
