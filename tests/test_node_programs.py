"""
What the programs of a simulated node say of what is not modelled: nothing that Windows would not, unless it says so.
"""

from __future__ import annotations

import asyncio

import pytest

from infra.simulated.model.container import ContainerSpec
from infra.simulated.model.eras import ERAS
from infra.simulated.model.host import Host

LACKS = "The simulated node has no model of this, and a real node may well have it: "


def ran(*command: str) -> tuple[int, list[str], list[str]]:
    """
    Exit code, output, and what is recorded as lacking.
    """

    async def run() -> tuple[int, list[str], list[str]]:
        host = Host(ERAS["1.6"], "win-node", "10.240.0.4")
        image = host.image("windows-host-process-containers-base-image:v1.0.0")
        user = "NT AUTHORITY\\SYSTEM"
        made = host.create(ContainerSpec("a" * 64, "c", "p", "n", "u", image, command=command, user=user))
        await made.start()
        code = await asyncio.wait_for(made.wait(), 5)
        return code, [line.text for line in made.log.lines], made.unmodelled

    return asyncio.run(run())


@pytest.mark.parametrize(
    "script",
    [
        "ipconfig",
        "nonsense",
        "ls C:\\",
        "$x = ipconfig",
        "$env:X = foo",
        "$PSVersionTable",
        '"$PID"',
        '"a`nb"',
        "Write-Host -NoNewline foo",
        "Write-Host $(hostname)",
    ],
)
def test_powershell_does_not_repeat_what_it_does_not_know(script: str) -> None:
    code, output, unmodelled = ran("powershell", "-Command", script)
    assert code == 1
    assert all("the simulation" in line or "simulated" in line for line in output)
    assert unmodelled


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        ("Write-Host a  b", 0, ["a b"]),
        ("Write-Output a b", 0, ["a", "b"]),
        ("Write-Output 'a b'", 0, ["a b"]),
        ("'quoted'; 5", 0, ["quoted", "5"]),
        ("$x = 'a'; $x", 0, ["a"]),
        ("$env:X = 'a'; echo $env:X", 0, ["a"]),
        ("cmd /c exit 3", 1, []),
        ("cmd /c exit 3; hostname", 0, ["Win-Node"]),
    ],
)
def test_powershell(script: str, code: int, output: list[str]) -> None:
    assert ran("powershell", "-Command", script) == (code, output, [])


@pytest.mark.parametrize(
    ("line", "code", "output"),
    [
        ("mkdir C:\\m\\n & cd C:\\m\\n & cd", 0, ["C:\\m\\n"]),
        ("md C:\\Windows", 1, ["A subdirectory or file C:\\Windows already exists."]),
        ("echo x>C:\\a & copy C:\\a C:\\b & type C:\\b", 0, ["        1 file(s) copied.", "x"]),
        ("echo x>C:\\a & copy C:\\a C:\\ProgramData >nul & type C:\\ProgramData\\a", 0, ["x"]),
        ("copy C:\\none C:\\b", 1, ["The system cannot find the file specified."]),
        ("copy nul C:\\b & type C:\\b", 0, ["        1 file(s) copied."]),
        ("echo x>C:\\a & del /q C:\\a & type C:\\a", 1, ["The system cannot find the file specified."]),
        ("del C:\\none", 0, ["Could Not Find C:\\none"]),
        ("type nul", 0, []),
        ("type C:\\none 2>nul & echo after", 1, ["after"]),
        ("echo no>nul & echo yes", 0, ["yes"]),
        ("echo to1>C:\\a & type C:\\a", 0, ["to1"]),
        ("if exist C:\\Windows echo yes & echo too", 0, ["yes", "too"]),
        ("if exist C:\\none echo no & echo neither", 0, []),
        ("if not exist C:\\none echo yes", 0, ["yes"]),
        ("IF NOT EXIST C:\\Windows echo no", 0, []),
        ("echo off", 0, []),
        ("whoami /nonsense", 1, ["ERROR: Invalid argument/option - '/nonsense'.", 'Type "WHOAMI /?" for usage.']),
    ],
)
def test_cmd(line: str, code: int, output: list[str]) -> None:
    assert ran("cmd", "/c", line) == (code, output, [])


@pytest.mark.parametrize(
    "line",
    [
        "for %i in (a b) do echo %i",
        "if 1==1 echo yes",
        "if exist C:\\Windows (echo yes) else (echo no)",
        "if exist C:\\Windows if exist C:\\none echo x",
        "(echo a)",
        "rmdir C:\\x",
        "move a b",
        "set /a 1+1",
        "copy C:\\Windows\\*.exe C:\\",
        "del *.txt",
        "dir /s",
        "type a b",
        "whoami < C:\\x",
        "ipconfig /all",
        "findstr x C:\\y",
        "whoami /all",
        "whoami /priv",
        "ping",
        "ping -l 100 127.0.0.1",
        "ping 10.240.0.5",
    ],
)
def test_what_cmd_has_and_the_simulation_lacks_says_so(line: str) -> None:
    code, output, unmodelled = ran("cmd", "/c", line)
    assert code == 1
    assert len(output) == 1
    assert output[0].startswith(LACKS)
    assert len(unmodelled) == 1


def test_ping_of_a_name() -> None:
    code, output, unmodelled = ran("ping", "somewhere")
    assert code == 1
    assert output[0] == "Ping request could not find host somewhere. Please check the name and try again."
    assert output[1].startswith(LACKS)
    assert unmodelled
