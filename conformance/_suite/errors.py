"""
Trouble that is nobody's non-conformance, and the exit codes it ends with.
"""

from __future__ import annotations


class SuiteError(Exception):
    """
    Trouble that is nobody's non-conformance. ``hint`` says what the user can do about it.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} — {self.hint}" if self.hint else message


class UsageError(SuiteError):
    """
    The command line or the configuration is wrong: exit 2.
    """

    exit_code = 2


class TargetError(SuiteError):
    """
    The target cannot be tested: exit 3.
    """


class Unknown(SuiteError):  # noqa: N818 - the word of the design: a fact that could not be found out
    """
    A check asked for a fact that could not be found out: not-proven. ``code`` becomes the result's ``reasonCode``.
    """

    def __init__(self, message: str, code: str = "unknown") -> None:
        super().__init__(message)
        self.code = code
