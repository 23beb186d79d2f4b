"""
What carries a script to a Windows machine runs it whole or not at all, and says its own trouble in one line.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from conformance._suite import evidence
from conformance._suite.errors import SuiteError, Unknown
from conformance._suite.workload import VARIABLE_LIMIT, pack
from infra.windows.connection import SCRIPTS, standard_input
from tests.powershell import ENGINE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

BOOTSTRAPS = (ROOT / "workloads" / "bootstrap.ps1", SCRIPTS / "bootstrap.ps1")
SCRIPT = b"[Console]::Out.WriteLine('<<<observation {} observation>>>')\n'the end'\n"
WHOLE = pack(SCRIPT)

needs_an_engine = pytest.mark.skipif(not ENGINE.exists(), reason=f"no PowerShell at {ENGINE}")


def run(command: list[str], *, stdin: bytes = b"", **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(ENGINE), *command],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def encoded(text: str) -> list[str]:
    return ["-NoProfile", "-NonInteractive", "-EncodedCommand", base64.b64encode(text.encode("utf-16-le")).decode()]


def probe(text: str, packed: str) -> tuple[int, str, str]:
    return run(encoded(text.replace("-Seconds 2", "-Milliseconds 1")), PROBE=packed)


def reason(log: str) -> tuple[str, str]:
    with pytest.raises(Unknown) as told:
        evidence.parse_output(log)
    return told.value.code, str(told.value)


BOOTSTRAP = BOOTSTRAPS[0].read_text(encoding="ascii")
SHORT = BOOTSTRAP.replace("-Seconds 2", "-Milliseconds 1")


@needs_an_engine
def test_a_whole_script_is_run_and_the_process_stays_two_seconds_longer() -> None:
    assert probe(BOOTSTRAP, WHOLE) == (0, "<<<observation {} observation>>>\nthe end\n", "")
    assert BOOTSTRAP.endswith("Start-Sleep -Seconds 2\nexit $ended\n")


@needs_an_engine
@pytest.mark.parametrize(
    "packed",
    ["", WHOLE[:64], WHOLE[:-1], WHOLE[:-4], WHOLE[:-40], WHOLE[65:], WHOLE[:70] + "AAAA" + WHOLE[74:], WHOLE + "AAAA"],
)
def test_one_that_is_empty_cut_or_altered_is_not_run(packed: str) -> None:
    code, output, error = probe(BOOTSTRAP, packed)
    assert (code, error, output.count("\n")) == (1, "", 1)
    assert output.isascii()
    assert reason(output)[0] == "script-damaged"


@needs_an_engine
@pytest.mark.parametrize("text", ["throw '\u00e4rger <x>\ntwo'", "Get-Item x:/none; 'more'", "if ("])
def test_one_that_fails_says_why_in_one_line_of_ascii(text: str) -> None:
    code, output, error = probe(BOOTSTRAP, pack(text.encode()))
    assert (code, error, output.count("\n"), output.isascii()) == (1, "", 1, True)
    assert reason(output)[0] == "script-failed"


@needs_an_engine
@pytest.mark.parametrize("path", BOOTSTRAPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_another_language_mode_is_said_first(path: Path) -> None:
    text = path.read_text(encoding="ascii")
    code, output, _ = probe("$ExecutionContext.SessionState.LanguageMode = 'ConstrainedLanguage'\n" + text, WHOLE)
    assert code == 1
    assert output.splitlines()[0] == "<<<trouble language-mode: ConstrainedLanguage trouble>>>"
    assert "observation" not in output
    assert reason(output) == (
        "language-mode",
        "a policy of the node keeps PowerShell from running the probe's script: ConstrainedLanguage",
    )
    assert len(output.splitlines()[0]) < 80  # no console breaks it


@needs_an_engine
@pytest.mark.parametrize("cut", [0, 30, 65, -1, -8])
def test_a_step_of_a_machine_is_run_whole_or_not_at_all(cut: int) -> None:
    lines = standard_input("journal", "check", {}, [b"data"]).split(b"\r\n")
    text = BOOTSTRAPS[1].read_text(encoding="ascii")
    sent = b"\n".join([lines[0], lines[1][:cut]])
    code, output, _ = run(encoded(text), stdin=sent)
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("<<<trouble script-damaged: ")


@needs_an_engine
def test_a_step_of_a_machine_gets_its_parameters_and_its_data() -> None:
    body = b'param($task, $given, $data) "$task $($given.path) $($data.Count) $($data[0])"'
    parts = [pack(body).encode(), pack(b'{"task": "check", "given": {"path": "x"}}').encode(), b"ZGF0YQ==", b"Zg=="]
    text = BOOTSTRAPS[1].read_text(encoding="ascii")
    assert run(encoded(text), stdin=b"\r\n".join(parts) + b"\r\n") == (0, "check x 2 ZGF0YQ==\n", "")


@needs_an_engine
@pytest.mark.parametrize(
    ("workload", "call", "fact"),
    [
        ("node-facts", "[Microsoft.Win32.Registry]::GetValue($key, 'UBR', $null)", "windows"),
        ("identity", "[Net.Dns]::GetHostName()", "hostName"),
        ("host-network", "[Net.Dns]::GetHostName()", "hostName"),
    ],
)
def test_what_windows_always_has_and_does_not_tell_is_an_error(workload: str, call: str, fact: str) -> None:
    text = (ROOT / "workloads" / workload / "probe.ps1").read_text(encoding="ascii")
    without = re.sub(r"\[Microsoft\.Win32\.Registry\]::GetValue\(.*?\)", "'1'", text.replace(call, "$null"))
    assert call in text
    _, output, _ = run(encoded(SHORT), PROBE=pack(without.encode()), ROLE="listen", HOST_IP="127.0.0.1")
    assert "null where there must be a value" in evidence.parse_output(output)[fact]["error"]


def test_errors_that_windows_powershell_writes_as_clixml_are_read() -> None:
    error = (
        '#< CLIXML\r\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
        '<S S="Error">This script contains malicious content &amp; was blocked._x000D__x000A_</S>'
        '<S S="Error">    + FullyQualifiedErrorId : ScriptContainedMaliciousContent_x000D__x000A_</S></Objs>'
    )
    code, said = reason(error)
    assert code == "output-missing"
    assert "malicious content & was blocked.\\r\\n    + FullyQualifiedErrorId : ScriptContained" in said
    assert "_x000D_" not in said


def test_what_fits_into_no_environment_variable_is_refused() -> None:
    assert len(pack(b"x" * 24000)) < VARIABLE_LIMIT
    with pytest.raises(SuiteError, match="does not fit"):
        pack(b"x" * 25000)


@pytest.mark.parametrize("path", sorted((ROOT / "workloads").glob("*/probe.ps1")), ids=lambda path: path.parent.name)
def test_no_probe_ends_before_the_bootstrap_does(path: Path) -> None:
    assert not re.search(r"(?m)^\s*exit\b|[;{]\s*exit\b|\[Environment\]::Exit", path.read_text(encoding="ascii"))
