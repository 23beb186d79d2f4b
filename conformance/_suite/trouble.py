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


# Source of the words: hcsshim internal/jobcontainers (jobcontainer.go, logon.go, mounts.go, path.go), the same from 0.9
# to 0.15; internal/hcs (a job container is none of HCS' compute systems); containerd's container_create_windows.go;
# kubernetes pkg/kubelet/kuberuntime/security_context_windows.go.
_MOUNT = (
    r"failed to bind (?:target|rootfs)|failed to setup mount for job container|job is not a silo|"
    r"failed to make directory for job container mount|named pipe mounts not supported|"
    r"a mount must have both source and a destination"
)
# What is said of a log-on has one of these, whatever a version makes of the rest of the sentence.
LOG_ON = r"(?i:user process token|log ?on user|logonuser|local account|user ?name|user string)"
_NO_SUCH_PROGRAM = r"cannot find the (?:file|path)|\b0x(?:2|3|c1)\b|not a valid Win32"
_CAUSES = (
    (Cause.HOST_PROCESS, r"must have the HostProcess field set|hcs::CreateComputeSystem"),
    (Cause.MOUNT, _MOUNT),
    (Cause.USER, rf"{LOG_ON}|will break non-root policy"),
    (Cause.EXECUTABLE, r"failed to get application name from commandline|failed to find executable"),
    (Cause.DIRECTORY, r"failed to create process: .*(?:directory name is invalid|\b0x10b\b)"),
    (Cause.EXECUTABLE, rf"failed to create process: .*(?:{_NO_SUCH_PROGRAM})"),
)

# Win32: not enough memory (8, 14), not ready, in use (32, 33, 170), disk full (39, 112), timed out (121, 258, 1460),
# aborted (995), shutting down (1115), I/O (1117), no log-on server (1311), resources, quota and commit (1450 to 1455,
# 1816), the RPC server (1722, 1723, 1726).
_WIN32 = frozenset({
    8, 14, 21, 32, 33, 39, 112, 121, 170, 258, 995, 1115, 1117, 1311, 1450, 1451, 1452, 1453, 1454, 1455, 1460, 1722,
    1723, 1726, 1816,
})  # fmt: skip
# NTSTATUS: no memory, disk full, insufficient resources, I/O timed out, shutting down, commitment limit.
_NTSTATUS = frozenset({0xC0000017, 0xC000007F, 0xC000009A, 0xC00000B5, 0xC00002FE, 0xC000012D})
_NUMBER = re.compile(r"\b0x([0-9a-f]{1,8})\b|winapi error #(\d+)", re.IGNORECASE)
_WORDS = re.compile(
    # The machine's storage driver: layers of any image, of any kind of container.
    r"hcsshim::\w*Layer|Hcs\w*Layer|\b(?:Prepare|Unprepare|Activate|Deactivate|Create(?:Sandbox|Scratch))Layer\b|"
    r"context deadline exceeded|context canceled|DeadlineExceeded|code = Unavailable|ttrpc: closed|"
    r"failed to reserve (?:container|sandbox) name|"
    r"not enough (?:space|memory|storage|quota)|insufficient (?:system resources|disk space)|no space left|"
    r"paging file is too small|device is not ready|shutdown is in progress|used by another process|"
    r"no logon servers|RPC server is (?:unavailable|too busy)",
    re.IGNORECASE,
)

STOPPED_CODES = frozenset({0xC000013A, 0xC0000142, *_NTSTATUS})
"""
Exit codes (unsigned) of a process that did not end by itself or could not begin: CTRL_SHUTDOWN and the like, as a
reboot or a stopped service sends it, a desktop without room, and what a machine without memory gives.
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
    return number in _NTSTATUS or (number & 0xFFFF if number >> 16 == 0x8007 else number) in _WIN32


def cause(message: str) -> Cause | None:
    """
    What of the container was refused; None for trouble, and for what nobody named, neither of which shows anything.
    """
    if is_trouble(message):
        return None
    return next((found for found, words in _CAUSES if re.search(words, message, re.DOTALL)), None)
