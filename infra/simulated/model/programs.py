"""
The programs of the machine that the simulation has: cmd, Windows PowerShell, ping, whoami, hostname, net, netsh.

What they print follows from the process' view alone. Exit codes are signed 32-bit numbers, as CRI carries them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
import json
import re
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from infra.simulated.model import twins
from infra.simulated.model.accounts import ALREADY_MEMBER, GROUP_NOT_FOUND, NOT_A_MEMBER, SYSTEM
from infra.simulated.model.errors import PATH_NOT_FOUND, WindowsError
from infra.simulated.model.network import Allowed

if TYPE_CHECKING:
    from infra.simulated.model.job import Process
    from infra.simulated.model.view import View

NO_MEMORY = -1073741801
"""0xC0000017, STATUS_NO_MEMORY: how a program ends whose job leaves it too little memory to run at all. Our choice:
programs differ in this, and Windows documents none of it."""
CONTROL_C_EXIT = -1073741510
"""0xC000013A: how a console program ends that does not handle CTRL_SHUTDOWN."""
LONGEST_LINE = 8191
"""cmd's limit on one command line, in characters."""

LINGERS = 0.2
"""Seconds that a bootstrap stays after its last line: a tenth of the real time; a simulated kubelet reads at once."""

Program = Callable[["Call"], Awaitable[int]]


@dataclass(slots=True)
class Call:
    """
    One started program: its process' view, its command line, the same as arguments (the program's own name first),
    and its input.
    """

    view: View
    line: str
    arguments: list[str]
    stdin: asyncio.StreamReader | None = None

    async def read_line(self) -> str | None:
        """
        The next line of input, None at its end.
        """
        data = await self.stdin.readline() if self.stdin is not None else b""
        return data.decode(errors="replace").rstrip("\r\n") if data else None


def split_arguments(line: str) -> list[str]:
    r"""
    A command line as CommandLineToArgvW splits it: spaces part words, quotes hold them together, ``\"`` is a quote.
    """
    words: list[str] = []
    for found in re.finditer(r'(?:[^\s"]|"(?:\\.|[^"\\])*(?:"|$))+', line):
        word = found[0]
        plain = ""
        index = 0
        while index < len(word):
            slashes = len(word) - index - len(word[index:].lstrip("\\"))
            index += slashes
            if index < len(word) and word[index] == '"':
                plain += "\\" * (slashes // 2) + ('"' if slashes % 2 else "")
                index += 1
            elif index < len(word):
                plain += "\\" * slashes + word[index]
                index += 1
            else:
                plain += "\\" * slashes
        words.append(plain)
    return words


def modelled(path: str) -> bool:
    """
    Whether the simulation has the program at a path.
    """
    return path.rpartition("\\")[2].lower() in PROGRAMS


async def start(view: View, path: str, line: str, process: Process, stdin: asyncio.StreamReader | None = None) -> int:
    """
    Run a modelled program in a process of its own to its end: the exit code. The process ends with it.
    """
    own = view.of_child(process)
    try:
        if not process.begin():
            return NO_MEMORY
        return await PROGRAMS[path.rpartition("\\")[2].lower()](Call(own, line, split_arguments(line), stdin))
    finally:
        own.end()


async def run_line(view: View, line: str, stdin: asyncio.StreamReader | None = None) -> int:
    """
    Run an external program's command line from another program, found as cmd finds it. A missing one gives cmd's two
    lines and 1, one that any Windows has says that the simulation lacks it; both are recorded. It stays in the job
    whatever the rule for children says: in a silo the container's own program is such a child of cmd.
    """
    word = _first_word(line)
    path = find_program(view, word)
    if path is None and word.lower().removesuffix(".exe") not in _OF_WINDOWS.split():
        return _not_recognized(view, word)
    if path is None or not modelled(path):
        return _lacks(view, word)
    process = view.process.job.process(path.rpartition("\\")[2].lower())
    return await start(view, path, line, process, stdin)


def find_program(view: View, word: str) -> str | None:
    """
    The file that a command's first word means: the working directory, then PATH, each name with the extensions of
    PATHEXT, its own first when it has one of them.
    """
    extensions = [extension for extension in view.env.get("PATHEXT", ".COM;.EXE;.BAT;.CMD").split(";") if extension]
    own = word[word.rfind(".") :].lower() if "." in word.rpartition("\\")[2] else ""
    names = [word] if own in {extension.lower() for extension in extensions} else []
    names += [word + extension for extension in extensions]
    folders = [""] if "\\" in word or ":" in word else ["", *view.env.get("PATH", "").split(";")]
    for folder in folders:
        for name in names:
            path = f"{folder.rstrip(chr(92))}\\{name}" if folder else name
            if view.exists(path) and not view.is_directory(path):
                return view.full_path(path)
    return None


def _first_word(line: str) -> str:
    line = line.strip()
    if line.startswith('"'):
        return line[1:].partition('"')[0]
    return re.split(r"[\s,;=]", line, maxsplit=1)[0].replace("/", "\\")


def _not_recognized(view: View, word: str) -> int:
    view.machine.unmodelled.append(word)
    view.write_line(f"'{word}' is not recognized as an internal or external command,", 2)
    view.write_line("operable program or batch file.", 2)
    return 1


def _lacks(view: View, what: str) -> int:
    view.machine.unmodelled.append(what)
    view.write_line(f"The simulated node has no model of this, and a real node may well have it: {what}", 2)
    return 1


_OF_WINDOWS = """
arp attrib bcdedit certutil choice comp cscript curl diskpart dism driverquery fc find findstr fsutil gpresult
icacls ipconfig logman more msiexec net1 netstat nltest nslookup pathping query reg regsvr32 robocopy route rundll32
sc schtasks setx shutdown sort systeminfo takeown tar taskkill tasklist timeout tracert tree typeperf w32tm wevtutil
where wmic wscript xcopy
"""


# cmd.


async def cmd(call: Call) -> int:
    """
    Run, with ``/c``, the first line of what follows; alone, the lines of the input.

    Source: Microsoft's reference of cmd (quotes after /c); containerd issue 9942 (cut at the first newline).
    """
    found = re.match(
        r'\s*(?:"[^"]*"|\S+)((?:\s+/[a-bd-jl-zA-BD-JL-Z]\S*)*)\s*(?:/([ckCK])\s?(.*))?$', call.line, re.DOTALL
    )
    shell = _Shell(call)
    if found is not None and found[2]:
        if len(call.line) > LONGEST_LINE:
            call.view.write_line("The command line is too long.", 2)
            return 1
        await shell.execute(_strip_quotes(call.view, re.split(r"[\r\n]", found[3], maxsplit=1)[0]))
        if found[2] in "cC" or shell.ended:
            return shell.code
    else:
        call.view.write_line(_banner(call.view))
        call.view.write_line("(c) Microsoft Corporation. All rights reserved.")
        call.view.write_line("")
    while not shell.ended:
        call.view.write_bytes(1, f"{call.view.working_directory}>".encode())
        line = await call.read_line()
        if line is None:
            break
        await shell.execute(line)
        call.view.write_line("")
    return shell.code


def _banner(view: View) -> str:
    return f"Microsoft Windows [Version 10.0.{view.windows_build}.{view.ubr}]"


def _strip_quotes(view: View, text: str) -> str:
    """
    Cmd takes the first and the last quote of a line that begins with one, unless these are the only two, there is no
    special character, a space stands between them and they hold a program's name.
    """
    text = text.lstrip()
    if not text.startswith('"'):
        return text
    inner = text[1:].partition('"')[0]
    if (
        text.count('"') == 2
        and not re.search(r"[&<>()@^|]", text)
        and " " in inner
        and find_program(view, inner) is not None
    ):
        return text
    last = text.rfind('"')
    return text[1:last] + text[last + 1 :] if last > 0 else text[1:]


# What stands in quotes is passed over; a digit belongs to the sign only where it stands alone.
_REDIRECTION = re.compile(r'("[^"]*(?:"|$))|(?:(?<![^\s"])([12]))?(>>?)\s*(&[12]|"[^"]+"|[^\s"&>]+)')
_BUILT_IN = """
assoc break call cls color date endlocal for ftype goto if mklink move path pause popd prompt pushd rd ren rename
rmdir setlocal shift start time title verify vol
"""
_NOTHING = frozenset({"nul", "nul:"})


class _Shell:
    """
    One cmd: its last exit code, and whether ``exit`` was said.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.view = call.view
        self.code = 0
        self.ended = False

    async def execute(self, line: str) -> None:
        """
        One line: variables first, then commands parted by ``&``, ``&&`` and ``||``.
        """
        for operator, part in self._commands(self._expand(line)):
            if self.ended or (operator == "&&" and self.code) or (operator == "||" and not self.code):
                continue
            text = part
            command = text.strip().lstrip("@")
            if re.match(r"if(?=[\s(]|$)|\(", command, re.IGNORECASE):
                # All that follows on the line belongs to it.
                found = re.fullmatch(r'if\s+(not\s+)?exist\s+("[^"]*"|[^\s"()]+)\s+([^()]+)', command, re.IGNORECASE)
                if found is None or re.search(r"\belse\b|[*?]", f"{found[2]} {line}", re.IGNORECASE):
                    self.code = _lacks(self.view, f"cmd /c {line}")
                    return
                if self.view.exists(found[2].strip('"')) is bool(found[1]):
                    return
                text = found[3]
            try:
                await self._command(text)
            except WindowsError as error:
                self.view.write_line(str(error), 2)
                self.code = 1

    def _expand(self, line: str) -> str:
        """
        ``%NAME%`` of variables that are set; others stay as they are, as on a command line.
        """
        computed = {"cd": self.view.working_directory, "errorlevel": str(self.code)}

        def value(found: re.Match[str]) -> str:
            name = found[1]
            return self.view.env.get(name, computed.get(name.lower(), found[0]))

        return re.sub(r"%([^%]+)%", value, line)

    @staticmethod
    def _commands(line: str) -> list[tuple[str, str]]:
        """
        The commands of a line with the operator before each; quotes and ``^`` protect.
        """
        commands, operator, text, inside, index = [], "&", "", False, 0
        while index < len(line):
            character = line[index]
            if character == '"':
                inside = not inside
            elif not inside and character == "^" and index + 1 < len(line):
                index += 1
                text += line[index]
                index += 1
                continue
            elif not inside and character == "&" and not text.endswith(">"):
                commands.append((operator, text))
                operator = "&&" if line[index + 1 : index + 2] == "&" else "&"
                text = ""
                index += len(operator)
                continue
            elif not inside and line[index : index + 2] == "||":
                commands.append((operator, text))
                operator, text = "||", ""
                index += 2
                continue
            text += character
            index += 1
        return [*commands, (operator, text)]

    async def _command(self, text: str) -> None:
        """
        One command, with its output sent to a file where ``>`` says so. Pipes and input from files are not modelled.
        """
        bare = re.sub(r'"[^"]*("|$)', "", text)
        if "|" in bare or "<" in bare:
            if "|" in bare:
                self.view.write_line("The syntax of the command is incorrect.", 2)
            self.code = _lacks(self.view, f"cmd /c {text}")
            return
        view = self.view
        if ">" in bare:
            redirections = [found for found in re.findall(_REDIRECTION, text) if not found[0]]
            view = self.view.of_child(self.view.process, self._sinks(redirections))
            text = re.sub(_REDIRECTION, lambda found: found[1] or "", text)
        await self._run(view, text.strip().lstrip("@"))

    def _sinks(self, redirections: list[tuple[str, str, str, str]]) -> Callable[[int, bytes], None]:
        """
        Where a command's output and errors go: to a stream of this shell (``&1``, ``&2``), to a file, to nothing.
        """
        sinks = {1: "&1", 2: "&2"}
        for _, stream, operator, target in redirections:
            sinks[int(stream or 1)] = sinks[int(target[1])] if target.startswith("&") else target.strip('"')
            if operator == ">" and not target.startswith("&") and target.lower() not in _NOTHING:
                self.view.write(target.strip('"'), b"")

        def write(stream: int, data: bytes) -> None:
            sink = sinks[stream]
            if sink.startswith("&"):
                self.view.write_bytes(int(sink[1]), data)
            elif sink.lower() not in _NOTHING:
                self.view.write(sink, (self.view.read(sink) if self.view.exists(sink) else b"") + data)

        return write

    async def _run(self, view: View, text: str) -> None:
        if not text:
            return
        found = re.match(r"[A-Za-z]+(?=$|[\s./\\,;=:(])", text)
        if found is not None and found[0].lower() in _BUILT_IN.split():
            self.code = _lacks(view, f"cmd /c {text}")
            return
        internal = _INTERNAL.get(found[0].lower()) if found is not None else None
        if found is None or internal is None or text[found.end() : found.end() + 1] == ":":
            self.code = await run_line(view, text, self.call.stdin)
            return
        try:
            self.code = internal(self, view, text[found.end() :])
        except WindowsError as error:
            view.write_line(str(error), 2)
            self.code = 1

    def echo(self, view: View, rest: str) -> int:
        """
        ``echo``: print the rest of the line.
        """
        if not rest.strip():
            view.write_line("ECHO is on.")
        elif rest.strip().lower() not in {"on", "off"}:
            view.write_line(rest[1:])
        return self.code

    def leave(self, view: View, rest: str) -> int:
        """
        ``exit`` and ``exit /b``: end with a code, or with the last one.
        """
        del view
        self.ended = True
        number = re.search(r"-?\d+", rest)
        return int(number[0]) if number else self.code

    def variables(self, view: View, rest: str) -> int:
        """
        ``set``: set, remove or list variables.
        """
        rest = rest.strip().strip('"')
        if rest.startswith("/"):
            return _lacks(view, f"cmd /c set {rest}")
        name, assigns, value = rest.partition("=")
        if assigns:
            if value:
                self.view.env[name] = value
            else:
                self.view.env.pop(name, None)
            return 0
        lines = [f"{key}={view.env[key]}" for key in view.env if key.lower().startswith(name.lower())]
        for line in sorted(lines, key=str.lower):
            view.write_line(line)
        if not lines:
            view.write_line(f"Environment variable {name} not defined", 2)
        return int(not lines)

    def version(self, view: View, rest: str) -> int:
        """
        ``ver``: Windows' version.
        """
        del rest
        view.write_line("")
        view.write_line(_banner(view))
        return 0

    def show(self, view: View, rest: str) -> int:
        """
        ``type``: a file's text.
        """
        names, options = _words(rest)
        if len(names) != 1 or options or _pattern(names):
            return _lacks(view, f"cmd /c type{rest}")
        if names[0].lower() not in _NOTHING:
            view.write_bytes(1, view.read(names[0]))
        return 0

    def make(self, view: View, rest: str) -> int:
        """
        ``mkdir``: make folders and those above them.
        """
        names, options = _words(rest)
        if not names or options:
            return _lacks(view, f"cmd /c mkdir{rest}")
        code = 0
        for name in names:
            if view.exists(name):
                view.write_line(f"A subdirectory or file {name} already exists.", 2)
                code = 1
            else:
                view.make_directory(name)
        return code

    def delete(self, view: View, rest: str) -> int:
        """
        ``del``: delete files. One that is not there is no error.
        """
        names, options = _words(rest)
        if not names or options - {"/f", "/q"} or _pattern(names) or any(view.is_directory(name) for name in names):
            return _lacks(view, f"cmd /c del{rest}")
        for name in names:
            if view.exists(name):
                view.delete(name)
            else:
                view.write_line(f"Could Not Find {view.full_path(name)}", 2)
        return 0

    def copy(self, view: View, rest: str) -> int:
        """
        ``copy``: one file, to a name or into a folder. The question about a file that is there is not modelled.
        """
        names, options = _words(rest)
        source, target = (names[0], names[1] if len(names) > 1 else ".") if names else ("", "")
        if view.is_directory(target):
            target = f"{target}\\" + source.replace("/", "\\").rpartition("\\")[2]
        asks = view.exists(target) and "/y" not in options
        if not 1 <= len(names) <= 2 or options - {"/y"} or _pattern(names) or asks or view.is_directory(source):
            return _lacks(view, f"cmd /c copy{rest}")
        view.write(target, b"" if source.lower() in _NOTHING else view.read(source))
        view.write_line("        1 file(s) copied.")
        return 0

    def folder(self, view: View, rest: str) -> int:
        """
        ``dir`` and ``dir /b``: the names in a folder.
        """
        names, options = _words(rest)
        if len(names) > 1 or options - {"/b"} or _pattern(names):
            return _lacks(view, f"cmd /c dir{rest}")
        target, bare = names[0] if names else ".", bool(options)
        if not view.exists(target):
            view.write_line("File Not Found", 2)
            return 1
        full = view.full_path(target)
        names = view.list(full) if view.is_directory(full) else [full.rpartition("\\")[2]]
        if not bare:
            view.write_line(f" Directory of {full}")
            view.write_line("")
        for name in names:
            kind = "" if bare else "<DIR>  " if view.is_directory(f"{full}\\{name}") else "       "
            view.write_line(f"{kind}{name}")
        return 0

    def change(self, view: View, rest: str) -> int:
        """
        ``cd``: print or change the working directory.
        """
        target = re.sub(r"^\s*/[dD]\s", "", rest).strip().strip('"')
        if not target:
            view.write_line(view.working_directory)
            return 0
        if not view.is_directory(target):
            raise WindowsError(PATH_NOT_FOUND)
        self.view.working_directory = view.full_path(target)
        return 0

    def remark(self, view: View, rest: str) -> int:
        """
        ``rem``: nothing.
        """
        del view, rest
        return self.code


def _words(rest: str) -> tuple[list[str], set[str]]:
    """
    What follows a built-in command: names without their quotes, and switches in lower case.
    """
    words = re.findall(r'"[^"]*"|[^\s"]+', rest)
    names = [word.strip('"') for word in words if not word.startswith("/")]
    return names, {word.lower() for word in words if word.startswith("/")}


def _pattern(names: list[str]) -> bool:
    """
    Whether a name stands for several: wildcards, and the signs by which ``copy`` joins files.
    """
    return any(re.search(r"[*?+,]", name) for name in names)


_INTERNAL: dict[str, Callable[[_Shell, View, str], int]] = {
    "cd": _Shell.change,
    "chdir": _Shell.change,
    "copy": _Shell.copy,
    "del": _Shell.delete,
    "dir": _Shell.folder,
    "echo": _Shell.echo,
    "erase": _Shell.delete,
    "exit": _Shell.leave,
    "md": _Shell.make,
    "mkdir": _Shell.make,
    "rem": _Shell.remark,
    "set": _Shell.variables,
    "type": _Shell.show,
    "ver": _Shell.version,
}


# Windows PowerShell.


async def powershell(call: Call) -> int:
    """
    Windows PowerShell 5.1: the bootstrap of a probe, and a handful of statements.
    """
    words = call.arguments[1:]
    while words:
        option = words.pop(0)
        name = option.lower().lstrip("-/")
        if option[0] not in "-/":
            return await _script(call, " ".join([option, *words]))
        if name in {"noprofile", "noninteractive", "nologo", "noexit", "sta", "mta"}:
            continue
        if name in {"executionpolicy", "outputformat", "inputformat", "windowstyle", "version", "ep", "ex"} and words:
            words.pop(0)
        elif name in {"command", "c"} and words:
            return await _script(call, " ".join(words))
        elif name in {"encodedcommand", "e", "ec", "enc"} and words:
            return await _encoded(call, words[0])
        else:
            return _powershell_lacks(call, f"powershell.exe {option}")
    return await _prompt(call)


async def _encoded(call: Call, encoded: str) -> int:
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-16-le")
    except (binascii.Error, UnicodeDecodeError):
        call.view.write_line(
            "Cannot process the command because the value specified with -EncodedCommand is not properly encoded.", 2
        )
        return 1
    if twins.is_bootstrap(call.view.machine.workloads, text):
        return await _bootstrap(call)
    return await _script(call, text)


async def _bootstrap(call: Call) -> int:
    """
    What ``workloads/bootstrap.ps1`` does, line by line, with the twin in place of the script: the twin is that of the
    workload whose probe.ps1 is the very text that the pod carries.
    """
    view = call.view
    ended = 1
    if (mode := view.machine.language_mode(view.token)) != "FullLanguage":
        view.write_line(f"<<<trouble language-mode: {mode} trouble>>>")
        await run_line(view, "whoami.exe /user /groups /fo csv /nh", call.stdin)
        view.write_line("<<<whoami ended>>>")
    else:
        try:
            digest, _, text = view.env.get("PROBE", "").partition(":")
            script = base64.b64decode(text, validate=True)
        except binascii.Error:
            said = "The input is not a valid Base-64 string as it contains a non-base 64 character (FormatException)"
            view.write_line(f"<<<trouble script-damaged: {said} trouble>>>")
        else:
            if sha256(script).hexdigest() == digest.lower():
                ended = await _twin(call, sha256(script).hexdigest())
            else:
                said = "PROBE is not what was sent (PROBE is not what was sent)"
                view.write_line(f"<<<trouble script-damaged: {said} trouble>>>")
    await asyncio.sleep(LINGERS)
    return ended


async def _twin(call: Call, digest: str) -> int:
    view = call.view
    twin = twins.find(view.machine.workloads, digest)
    if twin is None:
        return _powershell_lacks(call, f"a twin of the probe with the digest sha256:{digest}")
    facts: dict[str, Any] = {}
    try:
        for name, collect in twin.FACTS.items():
            try:
                facts[name] = await collect(view)
            except WindowsError as error:
                facts[name] = {"error": str(error), "type": error.type}
        text = json.dumps(facts, separators=(",", ":"))
        view.write_line(f"<<<observation {text} observation>>>")
        if (after := getattr(twin, "after", None)) is not None:
            await after(view)
    except Exception:  # noqa: BLE001 - a fault of a twin is the simulation's, and must be seen as that
        view.write_line(traceback.format_exc(), 2)
        view.machine.unmodelled.append(f"the twin in {twin.__file__} failed")
        return 1
    return 0


async def _prompt(call: Call) -> int:
    script = _Script(call)
    call.view.write_line("Windows PowerShell")
    call.view.write_line("Copyright (C) Microsoft Corporation. All rights reserved.")
    call.view.write_line("")
    while script.exit_code is None:
        call.view.write_bytes(1, f"PS {call.view.working_directory}> ".encode())
        line = await call.read_line()
        if line is None:
            break
        await script.run(line)
    return script.exit_code or 0


async def _script(call: Call, text: str) -> int:
    script = _Script(call)
    await script.run(text)
    return int(script.failed) if script.exit_code is None else script.exit_code


def _powershell_lacks(call: Call, what: str) -> int:
    call.view.machine.unmodelled.append(what)
    call.view.write_line(f"{what} : The term is not recognized: the simulation does not have it.", 2)
    return 1


_IS_ADMINISTRATOR = re.compile(
    r"\(\s*\[(?:System\.)?Security\.Principal\.WindowsPrincipal\]\s*"
    r"\[(?:System\.)?Security\.Principal\.WindowsIdentity\]::GetCurrent\(\)\s*\)\.IsInRole\(\s*"
    r"\[(?:System\.)?Security\.Principal\.WindowsBuiltInRole\]\s*(?:::)?[\"']?Administrator[\"']?\s*\)",
    re.IGNORECASE,
)
_USER_NAME = re.compile(
    r"\(?\[(?:System\.)?Security\.Principal\.WindowsIdentity\]::GetCurrent\(\)\.Name\)?", re.IGNORECASE
)


class _Lacking(Exception):  # noqa: N818 - a step of the interpreter, no failure of this program
    """
    The script says something that the simulation's PowerShell does not know.
    """


class _Script:
    """
    One PowerShell session: variables, and how it ends.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.view = call.view
        self.variables: dict[str, str] = {"true": "True", "false": "False", "null": "", "pshome": self._home()}
        self.exit_code: int | None = None
        self.failed = False

    def _home(self) -> str:
        return self.view.machine.era.powershell

    async def run(self, text: str) -> None:
        """
        The statements of a text, one after the other. One that is not modelled ends the text with an error.
        """
        for statement in _statements(text):
            if self.exit_code is not None:
                return
            self.failed = False
            try:
                await self._statement(statement)
            except _Lacking:
                self.failed = True
                self.exit_code = _powershell_lacks(self.call, f"powershell.exe -Command {statement}")

    async def _statement(self, text: str) -> None:
        if found := re.fullmatch(r"(?:Start-Sleep|sleep)\s+(?:-(s\w*|m\w*)\s+)?(\d+)", text, re.IGNORECASE):
            await asyncio.sleep(int(found[2]) / (1000 if (found[1] or "s").lower().startswith("m") else 1))
        elif found := re.fullmatch(r"while\s*\(\s*(?:\$true|1)\s*\)\s*\{(.*)\}", text, re.IGNORECASE | re.DOTALL):
            while self.exit_code is None:
                await self.run(found[1])
                await asyncio.sleep(0)
        elif found := re.fullmatch(r"exit(?:\s+(-?\d+))?", text, re.IGNORECASE):
            self.exit_code = int(found[1] or 0)
        elif found := re.fullmatch(r"(Write-Host|Write-Output|echo)(?:\s+(.*))?", text, re.IGNORECASE | re.DOTALL):
            said = (found[2] or "").strip()
            words = re.fullmatch(r"(?!-[A-Za-z])[\w.:\\/-]+(?: +(?!-[A-Za-z])[\w.:\\/-]+)*", said)
            if words is None:
                self.view.write_line(self._value(said or '""'))
            elif found[1].lower() == "write-host":
                self.view.write_line(" ".join(said.split()))
            else:
                for word in said.split():
                    self.view.write_line(word)
        elif found := re.fullmatch(r"\$env:(\w+)\s*=\s*(.+)", text, re.IGNORECASE | re.DOTALL):
            self.view.env[found[1]] = self._value(found[2])
        elif found := re.fullmatch(r"\$(\w+)\s*=\s*(.+)", text, re.DOTALL):
            self.variables[found[1].lower()] = self._value(found[2])
        elif re.fullmatch(r"(?:&\s*)?[\w.:\\-]+(?:\s+[^;|<>$(){}]*)?", text) and find_program(
            self.view, _first_word(text.lstrip("& "))
        ):
            self.failed = await run_line(self.view, text.lstrip("& "), self.call.stdin) != 0
        else:
            self.view.write_line(self._value(text))

    def _value(self, text: str) -> str:
        """
        What an expression gives. A bare word is none: it would be a command, which the simulation does not have.
        """
        text = text.strip()
        if re.fullmatch(r'"[^"]*"', text):
            return self._interpolate(text[1:-1])
        if re.fullmatch(r"'[^']*'", text):
            return text[1:-1]
        if re.fullmatch(r"\$(?:env:)?\w+", text):
            return self._interpolate(text)
        if _IS_ADMINISTRATOR.fullmatch(text):
            return str(self.view.token.administrator)
        if _USER_NAME.fullmatch(text):
            return self.view.token.name
        if re.fullmatch(r"-?\d+", text):
            return text
        raise _Lacking

    def _interpolate(self, text: str) -> str:
        """
        A text with its variables; one that nothing was assigned to may be one of PowerShell's own.
        """
        if re.search(r"\$[({?$^]|`", text):
            raise _Lacking

        def value(found: re.Match[str]) -> str:
            if found[1]:
                return self.view.env.get(found[1], "")
            if found[2].lower() not in self.variables:
                raise _Lacking
            return self.variables[found[2].lower()]

        return re.sub(r"\$(?:env:(\w+)|(\w+))", value, text, flags=re.IGNORECASE)


def _statements(text: str) -> list[str]:
    """
    The statements of a script: newlines and semicolons part them outside of quotes and brackets; comments are left out.
    """
    statements, current, depth, quote = [], "", 0, ""
    for character in re.sub(r"(?m)^\s*#.*$", "", text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "({":
            depth += 1
        elif character in ")}":
            depth -= 1
        elif character in ";\n" and depth <= 0:
            statements.append(current)
            current = ""
            continue
        current += character
    return [statement.strip() for statement in [*statements, current] if statement.strip()]


# Small programs.


async def ping(call: Call) -> int:
    """
    Echo requests, one a second: four of them, as many as ``-n`` says, or with ``-t`` without end. Only the node's own
    addresses are modelled, no other machine and no name service.
    """
    view, words = call.view, call.arguments[1:]
    target, count = "", 4
    while words:
        word = words.pop(0)
        option = word[1:].lower() if word[0] in "-/" else ""
        if option == "t":
            count = 0
        elif option == "n" and words and words[0].isdigit() and int(words[0]):
            count = int(words.pop(0))
        elif option == "w" and words and words[0].isdigit():
            words.pop(0)
        elif option == "4":
            continue
        elif option or target:
            return _lacks(view, call.line)
        else:
            target = word
    if not target:
        return _lacks(view, f"{call.line} without a target")
    address = "127.0.0.1" if target.lower() == "localhost" else target
    if target.lower() == view.host_name.lower():
        address = view.interfaces[0]
    if not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", address):
        view.write_line(f"Ping request could not find host {target}. Please check the name and try again.")
        return _lacks(view, f"{call.line}: names of other machines")
    if address not in view.interfaces:
        return _lacks(view, f"{call.line}: other machines")
    view.write_line("")
    view.write_line(f"Pinging {target if target == address else f'{target} [{address}]'} with 32 bytes of data:")
    sent = received = 0
    while not count or sent < count:
        if sent:
            await asyncio.sleep(1)
        sent += 1
        if view.answers_echo(address):
            received += 1
            view.write_line(f"Reply from {address}: bytes=32 time<1ms TTL=128")
        else:
            view.write_line("Request timed out.")
    lost = sent - received
    view.write_line("")
    view.write_line(f"Ping statistics for {address}:")
    view.write_line(f"    Packets: Sent = {sent}, Received = {received}, Lost = {lost} ({lost * 100 // sent}% loss),")
    if received:
        view.write_line("Approximate round trip times in milli-seconds:")
        view.write_line("    Minimum = 0ms, Maximum = 0ms, Average = 0ms")
    return 0 if received else 1


async def whoami(call: Call) -> int:
    """
    The user's name; with ``/user`` its SID too, with ``/groups`` the SIDs of the groups.
    """
    view, options = call.view, {word.lower() for word in call.arguments[1:]}
    accounts, name = view.machine.accounts, view.token.name.lower()
    if not options:
        view.write_line(name)
        return 0
    known = {"/user", "/groups", "/fo", "csv", "table", "/nh"}
    real = known | {"/all", "/priv", "/upn", "/fqdn", "/logonid", "/claims", "/?", "list"}
    if stranger := next((word for word in call.arguments[1:] if word.lower() not in real), None):
        view.write_line(f"ERROR: Invalid argument/option - '{stranger}'.", 2)
        view.write_line('Type "WHOAMI /?" for usage.', 2)
        return 1
    if options - known or not options & {"/user", "/groups"}:
        return _lacks(view, call.line)
    tables: list[list[tuple[str, ...]]] = []
    if "/user" in options:
        tables.append([("User Name", "SID"), (name, view.token.sid)])
    if "/groups" in options:
        enabled = "Mandatory group, Enabled by default, Enabled group"
        groups = [(accounts.name(sid), _kind_of_group(sid), sid, enabled) for sid in view.token.groups]
        level = ("System", 16384) if view.token.sid == SYSTEM else ("High", 12288)
        label = (f"Mandatory Label\\{level[0]} Mandatory Level", "Label", f"S-1-16-{level[1]}", "")
        tables.append([("Group Name", "Type", "SID", "Attributes"), *groups, label])
    for table in tables:
        shown = table[1:] if "/nh" in options else table
        if "csv" in options:
            text = io.StringIO()
            csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(shown)
            for line in text.getvalue().splitlines():
                view.write_line(line)
            continue
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        view.write_line("")
        for index, row in enumerate(shown):
            view.write_line(" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            if index == 0 and "/nh" not in options:
                view.write_line(" ".join("=" * width for width in widths))
    return 0


def _kind_of_group(sid: str) -> str:
    if sid.startswith("S-1-5-32-"):
        return "Alias"
    return "Group" if sid.startswith("S-1-5-21-") else "Well-known group"


async def hostname(call: Call) -> int:
    """
    The machine's DNS host name.
    """
    call.view.write_line(call.view.host_name)
    return 0


async def net(call: Call) -> int:
    """
    ``net localgroup`` and ``net user``: list, show, ``/add``, ``/delete``. Exit code 2 and an error's number and text
    when Windows refuses.
    """
    view = call.view
    words = call.arguments[1:]
    options = {word.lower() for word in words if word.startswith("/")}
    names = [word for word in words if not word.startswith("/")]
    action = {"localgroup": _net_localgroup, "user": _net_user}.get(names[0].lower() if names else "")
    if action is None:
        view.machine.unmodelled.append(" ".join(["net", *words]))
        view.write_line("The syntax of this command is:", 2)
        return 1
    try:
        for line in action(view, names[1:], options):
            view.write_line(line)
    except WindowsError as error:
        if error.code == 5:
            view.write_line("System error 5 has occurred.", 2)
            view.write_line("", 2)
        view.write_line(str(error), 2)
        view.write_line("", 2)
        if error.code != 5:
            view.write_line(f"More help is available by typing NET HELPMSG {error.code}.", 2)
        return 2
    view.write_line("The command completed successfully.")
    view.write_line("")
    return 0


def _net_localgroup(view: View, names: list[str], options: set[str]) -> list[str]:
    accounts = view.machine.accounts
    if not names:
        rule = "-" * 79
        listed = [f"*{name}" for name, _ in view.local_groups()]
        return ["", f"Aliases for \\\\{accounts.machine}", "", rule, *listed]
    group, members = names[0], names[1:]
    if not options & {"/add", "/delete"}:
        sids = accounts.members(group)
        shown = [accounts.name(sid).removeprefix(f"{accounts.machine}\\") for sid in sids]
        return [f"Alias name     {group}", "Comment", "", "Members", "", "-" * 79, *shown]
    database = view.account_database()
    if not members:
        if "/add" in options:
            database.add_group(group)
        else:
            database.delete_group(group)
        return []
    found = database.group(group)
    if found is None:
        raise WindowsError(GROUP_NOT_FOUND, "The specified local group does not exist.")
    for member in members:
        sid = database.lookup(member)
        if "/add" in options and sid not in found.members:
            found.members.append(sid)
        elif "/add" in options:
            raise WindowsError(ALREADY_MEMBER, "The specified account name is already a member of the group.")
        elif sid in found.members:
            found.members.remove(sid)
        else:
            raise WindowsError(NOT_A_MEMBER, "The specified account name is not a member of the group.")
    return []


def _net_user(view: View, names: list[str], options: set[str]) -> list[str]:
    accounts = view.machine.accounts
    if not names:
        rule = "-" * 79
        return ["", f"User accounts for \\\\{accounts.machine}", "", rule, *(name for name, _ in view.local_users())]
    if "/add" in options:
        view.account_database().add_user(names[0], names[1] if len(names) > 1 else "")
        return []
    if "/delete" in options:
        view.account_database().delete_user(names[0])
        return []
    user = accounts.users.get(names[0].lower())
    if user is None:
        raise WindowsError(2221, "The user name could not be found.")
    if len(names) > 1:
        view.account_database()
        user.password = names[1]
        return []
    return [
        f"User name                    {user.name}",
        f"Account active               {'Yes' if user.enabled else 'No'}",
    ]


async def netsh(call: Call) -> int:
    """
    ``netsh advfirewall firewall``: ``add rule`` for what lets TCP in to one port, ``delete rule`` and ``show rule`` by
    name. Exit code 1 when there is no such rule, or when Windows refuses.
    """
    view = call.view
    words = [word.lower() for word in call.arguments[1:5]]
    options = {name.lower(): value for name, _, value in (word.partition("=") for word in call.arguments[5:])}
    action, name = words[2] if words[:2] == ["advfirewall", "firewall"] and words[3:] == ["rule"] else "", ""
    if action in {"add", "delete", "show"}:
        name = options.pop("name", "")
    port, address = options.pop("localport", ""), options.pop("localip", "")
    lets_in = {"dir": "in", "action": "allow", "protocol": "tcp"}
    wanted = lets_in if action == "add" else {}
    if not name or {key: value.lower() for key, value in options.items()} != wanted or port.isdigit() != bool(wanted):
        view.machine.unmodelled.append(call.line)
        view.write_line("A specified value is not valid.")
        return 1
    rules = view.machine.network.firewall
    if action != "show" and not view.token.trusted:
        view.write_line("The requested operation requires elevation (Run as administrator).")
        return 1
    if action == "add":
        rules.append(Allowed(name, address, int(port)))
    else:
        found = [rule for rule in rules if rule.name.lower() == name.lower()]
        if not found:
            view.write_line("No rules match the specified criteria.")
            return 1
        for rule in found:
            if action == "delete":
                rules.remove(rule)
            else:
                view.write_line(f"Rule Name: {rule.name}")
                view.write_line(f"LocalIP: {rule.address or 'Any'}")
                view.write_line(f"LocalPort: {rule.port}")
    view.write_line("Ok.")
    return 0


async def secedit(call: Call) -> int:
    """
    ``secedit /export /areas USER_RIGHTS /cfg FILE``: who may log on at the machine, of all user rights.

    Source: Microsoft's reference of secedit; unverified: the order of the sections.
    """
    view, words = call.view, [word.lower() for word in call.arguments[1:]]
    if words[:1] != ["/export"] or "/cfg" not in words[:-1] or "user_rights" not in words:
        return _lacks(view, call.line)
    if not view.token.trusted:
        view.write_line("Access is denied. Export of security configuration failed.")
        return 1
    rights = view.machine.accounts.rights
    lines = ["[Unicode]", "Unicode=yes", "[Privilege Rights]"]
    for name, sids in (("SeInteractiveLogonRight", rights.allowed), ("SeDenyInteractiveLogonRight", rights.denied)):
        if sids:
            lines.append(f"{name} = {','.join(f'*{sid}' for sid in sids)}")
    text = "\r\n".join([*lines, "[Version]", 'signature="$CHICAGO$"', "Revision=1", ""])
    view.write(call.arguments[words.index("/cfg") + 2], text.encode("utf-16"))
    return 0


PROGRAMS: dict[str, Program] = {
    "cmd.exe": cmd,
    "powershell.exe": powershell,
    "ping.exe": ping,
    "whoami.exe": whoami,
    "hostname.exe": hostname,
    "net.exe": net,
    "netsh.exe": netsh,
    "secedit.exe": secedit,
}
