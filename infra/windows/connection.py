"""
Runs the scripts beside this file on a Windows machine, by WS-Man over https (pywinrm).

A script never travels in a command line, which cmd cuts at 8191 characters: a bootstrap of fixed length does, and reads
the script, its parameters (JSON) and any data from its standard input, as WS-Man ``Send`` messages. Nothing has to be
put on the machine's disk first, so nothing has to be taken away from it when the connection breaks.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import queue
import re
import ssl
import threading
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import requests
from winrm.exceptions import AuthenticationError, WinRMError, WinRMOperationTimeoutError, WinRMTransportError
from winrm.protocol import Protocol

from conformance._suite.errors import TargetError, UsageError
from conformance._suite.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from conformance._suite.say import Say

Value = TypeVar("Value")

SCRIPTS = Path(__file__).parent / "scripts"
COMMAND_LIMIT = 8191
"""Characters that cmd takes in one line, with the ``cmd /c`` that WinRM puts ahead of it."""
_SEND_BYTES = 64 * 1024  # base64 once more, this stays below the 153600 bytes of pywinrm's envelopes
_NO_SUCH_SHELL = 2150858843
_DENIED = 5
_RESULT = re.compile(r"<<<step (\{.*\}) step>>>")
_IDLE = "PT900.000S"  # a shell whose client is gone ends by itself, and what runs in it
_TRIES_WITHOUT_RESULT = 3
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where a Windows machine listens for WS-Man over https, and as whom to speak to it. ``ca`` is a file with the
    certificate, or the authority, to trust; without one the public authorities are. ``verify=False`` trusts anybody.
    """

    host: str
    user: str
    port: int = 5986
    transport: Literal["ntlm", "basic"] = "ntlm"
    ca: Path | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.transport not in {"ntlm", "basic"}:
            raise UsageError(f"unknown WinRM transport {self.transport!r}", "known are ntlm and basic")
        if not self.user:
            raise UsageError("no user to log on to the Windows machine as", "name one that is an administrator there")
        if not re.fullmatch(r"[A-Za-z0-9._:-]+", self.host) or not 0 < self.port < 65536:
            raise UsageError(f"{self.host!r} port {self.port} is no address", "write the machine's name or IP address")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """
        The WS-Man endpoint.
        """
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/wsman"


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Limits in seconds.
    """

    step: float = 900.0
    """One script, from its first request to its result, with every reconnection."""
    transfer: float = 3600.0
    """One file that is downloaded or uploaded."""
    reach: float = 120.0
    """How long a machine that cannot be reached is tried again."""
    reboot: float = 1800.0
    request: float = 45.0
    """One request; the machine answers that nothing came yet after 20."""
    pause: float = 2.0
    """Between two tries."""


class ScriptError(TargetError):
    """
    A script ran and says that it failed.
    """


class _LostError(Exception):
    """
    The connection or the shell is gone. What the script did is not known; scripts may run twice.
    """


@cache
def encoded_bootstrap() -> str:
    """
    The command line that runs any script from its standard input.
    """
    text = (SCRIPTS / "bootstrap.ps1").read_text(encoding="ascii")
    encoded = base64.b64encode(text.encode("utf-16-le")).decode()
    line = f"powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -EncodedCommand {encoded}"
    assert len(f"cmd /c {line}") <= COMMAND_LIMIT
    return line


@cache
def script_text(name: str) -> bytes:
    """
    What is sent for the script ``name``: the prelude, then the script.
    """
    return (SCRIPTS / "prelude.ps1").read_bytes() + (SCRIPTS / f"{name}.ps1").read_bytes()


def standard_input(name: str, task: str, given: Mapping[str, Any], lines: Sequence[bytes]) -> bytes:
    """
    What the bootstrap reads, to run the script ``name``.
    """
    parameters = json.dumps({"task": task, "given": given}).encode()
    whole = [
        hashlib.sha256(part).hexdigest().encode() + b":" + base64.b64encode(part)
        for part in (script_text(name), parameters)
    ]
    return b"".join(part + b"\r\n" for part in [*whole, *map(base64.b64encode, lines)])


class Connection:
    """
    One machine, reconnected to as often as it takes. Use as a context manager: the shell is closed at its end.
    """

    def __init__(self, address: Address, password: str, say: Say, pace: Pace) -> None:
        self._address = address
        self._password = password
        self._say = say
        self._told: set[str] = set()
        self._pace = pace
        self._protocol: Protocol | None = None
        self._shell: str | None = None
        self._reached = 0.0
        if address.verify and address.ca is not None:
            try:
                ssl.create_default_context(cafile=address.ca)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(
                    f"{address.ca} holds no certificate to trust: {error}", "a PEM file is needed"
                ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the shell, if the machine still answers.
        """
        protocol, shell = self._protocol, self._shell
        if protocol is not None and shell is not None:
            with contextlib.suppress(Exception):
                _bounded(lambda: protocol.close_shell(shell), _CLOSE_SECONDS)
        self._forget()

    def _forget(self) -> None:
        if self._protocol is not None:
            self._protocol.transport.close_session()
        self._protocol = self._shell = None

    def run(
        self,
        name: str,
        task: str,
        given: Mapping[str, Any],
        lines: Sequence[bytes] = (),
        *,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """
        Run one script to its end and return its result; a connection that breaks is made again, and the script run
        again. Raises ScriptError when it says that it failed, TargetError when the machine refuses or time is up.
        """
        self._reached = time.monotonic()
        end = self._reached + (self._pace.step if seconds is None else seconds)
        silent = 0
        while True:
            try:
                output = self._once(name, task, given, lines, end)
            except (_LostError, WinRMOperationTimeoutError) as error:
                reason = str(error) or "it takes too long to answer"
                now = time.monotonic()
                if now + self._pace.pause >= end:
                    self.close()
                    raise TargetError(
                        f"{name} did not end on {self._address} in time: {reason}",
                        "look at what the machine is busy with, and try again",
                    ) from None
                self._forget()
                if now - self._reached >= self._pace.reach:
                    raise TargetError(
                        f"the Windows machine {self._address} cannot be reached: {reason}",
                        "is it up, and does WinRM listen there for https? (winrm enumerate winrm/config/listener)",
                    ) from None
                if reason not in self._told:
                    self._told.add(reason)
                    self._say(f"{self._address}: {reason}; trying again")
                threading.Event().wait(self._pace.pause)
                continue
            found = _RESULT.search(output.text)
            if found:
                return self._result(name, json.loads(found[1]))
            silent += 1
            constrained = output.complaint.startswith("language-mode: ")
            if constrained or silent == _TRIES_WITHOUT_RESULT:
                raise TargetError(
                    f"{name} ended on {self._address} with code {output.code} and without a result: {output.complaint}",
                    "a policy (AppLocker, WDAC) keeps PowerShell from running scripts in its full language: exempt "
                    f"{self._address.user!r}, or take another machine"
                    if constrained
                    else "is it a Windows Server with Windows PowerShell 5.1, and is nothing ending processes there?",
                )

    def _result(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        if result.get("error"):
            said = redact(str(result["error"]).splitlines()[0])
            remedy = str(
                result.get("remedy") or "put that right and run it again; taking it down puts the machine back"
            )
            raise ScriptError(f"{name} failed on {self._address}: {said}", remedy)
        return result

    def _once(self, name: str, task: str, given: Mapping[str, Any], lines: Sequence[bytes], end: float) -> _Output:
        protocol, shell = self._open(end)
        text = standard_input(name, task, given, lines)
        command = self._ask(end, lambda: protocol.run_command(shell, encoded_bootstrap(), (), console_mode_stdin=False))
        for at in range(0, len(text), _SEND_BYTES):
            piece, last = text[at : at + _SEND_BYTES], at + _SEND_BYTES >= len(text)
            self._ask(end, partial(protocol.send_command_input, shell, command, piece, last))
        output = _Output()
        while not output.finished():
            with contextlib.suppress(WinRMOperationTimeoutError):
                output.add(*self._ask(end, lambda: protocol.get_command_output_raw(shell, command)))
            if time.monotonic() >= end and not output.finished():
                raise _LostError("it is still at work")
        with contextlib.suppress(_LostError):
            self._ask(end, lambda: protocol.cleanup_command(shell, command))
        return output

    def _open(self, end: float) -> tuple[Protocol, str]:
        if self._protocol is None or self._shell is None:
            self._protocol, self._shell = self._ask(end, self._connect)
        return self._protocol, self._shell

    def _connect(self) -> tuple[Protocol, str]:
        address = self._address
        protocol = Protocol(
            address.url,
            address.transport,
            address.user,
            self._password,
            server_cert_validation="validate" if address.verify else "ignore",
            ca_trust_path=str(address.ca) if address.ca else None,  # type: ignore[arg-type]  # None: certifi's
            message_encryption="never",  # begun below, once the environment's proxies are out of the way
            proxy=None,
        )
        session = protocol.transport.build_session()
        session.trust_env = False
        session.proxies = {}
        if address.transport == "ntlm":
            # Inside TLS, too: whoever sits in between without a valid certificate reads nothing.
            protocol.transport.setup_encryption(session)
        return protocol, protocol.open_shell(noprofile=True, codepage=65001, idle_timeout=_IDLE)

    def _ask(self, end: float, call: Callable[[], Value]) -> Value:
        """
        One request, with what can go wrong sorted: _LostError may pass, TargetError does not.
        """
        address = self._address
        seconds = min(self._pace.request, end - time.monotonic())
        try:
            value = _bounded(call, seconds)
            self._reached = time.monotonic()
            return value  # noqa: TRY300 - an else would be far away
        except WinRMOperationTimeoutError:
            self._reached = time.monotonic()
            raise
        except AuthenticationError:
            if self._protocol is not None:
                # It was let in before: NTLM's keys went with a connection that the machine closed meanwhile.
                raise _LostError("its connection was closed") from None
            raise TargetError(
                f"{address} refuses user {address.user!r} with this password over {address.transport}",
                "check both, that the user is an administrator, and that WinRM's service allows this transport",
            ) from None
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                found = re.search(r"verify failed: ([^(]+)", str(error))
                reason = found[1].strip() if found else "it is unknown"
                raise TargetError(
                    f"the certificate of {address} is not trusted: {reason}",
                    "name the machine as its certificate does"
                    if "mismatch" in reason
                    else "give the file of its certificate or authority: --windows-ca",
                ) from None
            if "WRONG_VERSION_NUMBER" in str(error):
                raise TargetError(
                    f"{address} does not speak https", "name the port of WinRM's https listener"
                ) from None
            raise _LostError(_short(error)) from None
        except WinRMError as error:
            code = getattr(error, "wsman_fault_code", None)
            if code == _NO_SUCH_SHELL:
                raise _LostError("its shell is gone") from None
            if code == _DENIED:
                raise TargetError(
                    f"{address} lets user {address.user!r} log on, but run nothing", "it must be an administrator"
                ) from None
            raise TargetError(
                f"{address} answered: {redact(str(getattr(error, 'reason', error)).strip())}",
                "see the event log Microsoft-Windows-WinRM/Operational there",
            ) from None
        except WinRMTransportError as error:
            if error.code < 500 and self._protocol is None:
                raise TargetError(f"{address} answered HTTP {error.code}", "is WinRM what listens there?") from None
            raise _LostError(f"HTTP {error.code}") from None
        except (requests.RequestException, OSError, AssertionError, StopIteration, SyntaxError) as error:
            # The last three: pywinrm's on an answer that was cut (ElementTree's ParseError is a SyntaxError).
            raise _LostError(_short(error)) from None


class _Output:
    """
    What a command has printed so far.
    """

    def __init__(self) -> None:
        self._out = b""
        self._error = b""
        self.code = -1
        self._done = False

    def add(self, out: bytes, error: bytes, code: int, done: bool) -> None:
        """
        Take in one answer to Receive.
        """
        self._out += out
        self._error += error
        self.code, self._done = code, done

    def finished(self) -> bool:
        """
        Whether the command has ended.
        """
        return self._done

    @property
    def text(self) -> str:
        """
        The standard output.
        """
        return self._out.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """
        What the bootstrap says is wrong; else the first line of what went to the standard error, without CLIXML, or
        what came instead of a result.
        """
        error = self._error.decode("utf-8", "replace")
        strings = re.findall(r"<<<trouble (.*?) trouble>>>", self.text)
        strings += re.findall(r'<S S="Error">(.*?)(?:_x000D_|_x000A_|</S>)', error)
        lines = [line for line in (strings or [*error.splitlines(), *self.text.splitlines()]) if line.strip()]
        return redact(lines[0].strip()[:300]) if lines else "it said nothing"


def _short(error: BaseException) -> str:
    """
    The innermost reason of what requests raises, without addresses of objects.
    """
    reason: BaseException = error
    while reason.args and isinstance(reason.args[-1], BaseException):
        reason = reason.args[-1]
    inner = getattr(reason, "reason", None)
    text = str(inner if isinstance(inner, BaseException) else reason) or type(reason).__name__
    return re.sub(r"<[^<>]*object at 0x[0-9a-f]+>[:,]? *", "", text).splitlines()[0][:200]


def _bounded(call: Callable[[], Value], seconds: float) -> Value:
    """
    ``call()``, given up after so many seconds: name resolution and a peer that sends a byte now and then know no
    time-out. Raises _LostError then; the thread that is left dies with the process.
    """
    outcome: queue.SimpleQueue[tuple[Value | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever waits
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = outcome.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise _LostError("it does not answer") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
