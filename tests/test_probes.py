"""
Probes run where no test can: under Windows PowerShell 5.1. What can be held without it is held here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tree_sitter_pwsh
from tree_sitter import Language, Parser

from conformance._suite.workload import bootstrap_command, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node

ROOT = Path(__file__).parent.parent
BOOTSTRAP = ROOT / "workloads" / "bootstrap.ps1"
PROBES = sorted((ROOT / "workloads").glob("*/probe.ps1"))
COMMANDS = Path(
    os.environ.get("POWERSHELL_COMMANDS") or ROOT.parent / "shared" / "data" / "windows-powershell-5.1-commands.json"
)

COMMON_PARAMETERS = {"erroraction", "warningaction", "verbose", "debug", "errorvariable", "outvariable", "outbuffer"}
SINCE_POWERSHELL_7 = {
    "ternary_expression",
    "ternary_argument_expression",
    "null_coalesce_expression",
    "null_coalesce_argument_expression",
    "pipeline_chain_tail",
    "??=",
}
PACKED_LIMIT = 8 * 1024
"""A quarter of what an environment variable holds."""


@dataclass(frozen=True)
class Command:
    """
    One call in a script, in lower case: its name, and the parameters it names.
    """

    name: str
    parameters: tuple[str, ...]
    strings: tuple[str, ...]
    """Its literal arguments, as written between the quotes."""


@dataclass(frozen=True)
class Script:
    """
    What tree-sitter finds in a script.
    """

    broken: bool
    kinds: frozenset[str]
    commands: tuple[Command, ...]
    functions: dict[str, frozenset[str]]
    """Its own functions' names, and their parameters, in lower case."""

    @property
    def facts(self) -> list[str]:
        return [command.strings[0] for command in self.commands if command.name == "fact"]


@cache
def script(path: Path) -> Script:
    root = Parser(Language(tree_sitter_pwsh.language())).parse(path.read_bytes()).root_node
    nodes = list(_walk(root))
    functions = {}
    for node in nodes:
        if node.type == "function_statement":
            name = next(child for child in node.children if child.type == "function_name")
            declared = [one for one in _walk(node) if one.type == "script_parameter"]
            functions[_text(name).lower()] = frozenset(
                _text(next(child for child in one.children if child.type == "variable")).lstrip("$").lower()
                for one in declared
            )
    return Script(
        root.has_error,
        frozenset(node.type for node in nodes),
        tuple(_command(node) for node in nodes if node.type == "command"),
        functions,
    )


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _command(node: Node) -> Command:
    name = node.child_by_field_name("command_name")
    elements = node.child_by_field_name("command_elements")
    arguments = list(elements.children) if elements is not None else []
    return Command(
        _text(name).lower() if name is not None and name.type == "command_name" else "",
        tuple(_text(one).lstrip("-").rstrip(":").lower() for one in arguments if one.type == "command_parameter"),
        tuple(
            re.sub(r"^@?'\n?|\n?'@?$", "", _text(literal))
            for one in arguments
            if one.type == "unary_expression"
            for literal in _walk(one)
            if literal.type in {"verbatim_string_characters", "verbatim_here_string_characters"}
        ),
    )


def twin(probe: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"twin_of_{probe.parent.name}", probe.with_name("twin.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


every_script = pytest.mark.parametrize("path", [*PROBES, BOOTSTRAP], ids=lambda path: path.parent.name)
every_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda path: path.parent.name)


def test_there_are_probes() -> None:
    assert PROBES


@every_script
def test_it_parses_and_says_nothing_that_only_powershell_7_understands(path: Path) -> None:
    assert not script(path).broken
    assert script(path).kinds & SINCE_POWERSHELL_7 == set()


@every_script
def test_it_is_ascii_with_plain_line_ends(path: Path) -> None:
    assert path.read_bytes().isascii()
    assert b"\r" not in path.read_bytes()


@every_script
def test_it_calls_only_what_windows_powershell_5_1_has(path: Path) -> None:
    if not COMMANDS.exists():
        pytest.skip("the list of Windows PowerShell 5.1's commands is not here (POWERSHELL_COMMANDS names it)")
    listed = json.loads(COMMANDS.read_text(encoding="utf-8"))["commands"]
    known = {name.lower(): {one.lower() for one in entry["parameters"]} for name, entry in listed.items()}
    known.update({name: set(parameters) for name, parameters in script(path).functions.items()})
    for command in script(path).commands:
        # A computed name (`& $collect`) and a program of Windows (`net.exe`) are in no list.
        if command.name and not command.name.endswith(".exe"):
            assert command.name in known
            assert set(command.parameters) - known[command.name] - COMMON_PARAMETERS == set(), command.name


@every_probe
def test_its_facts_are_its_twins(probe: Path) -> None:
    facts = script(probe).facts
    assert facts == list(twin(probe).FACTS)
    assert len(facts) == len(set(facts))


@every_probe
def test_it_fits_into_an_environment_variable(probe: Path) -> None:
    assert len(pack(probe.read_bytes())) < PACKED_LIMIT


def test_the_bootstrap_fits_into_a_command_line() -> None:
    assert bootstrap_command()[0] == "powershell.exe"


@every_probe
def test_it_prints_one_observation_and_no_secret(probe: Path) -> None:
    text = probe.read_text(encoding="ascii")
    assert len(re.findall(r"WriteLine\('<<<observation ' \+ \$json \+ ' observation>>>'\)", text)) == 1
    assert {command.name for command in script(probe).commands} & {"write-host", "write-output", "out-host"} == set()
    assert not re.findall(r"WriteLine\([^\n]*\$\w*(?:token|password|secret)", text, re.IGNORECASE)


@every_probe
def test_its_c_sharp_compiles(probe: Path, tmp_path: Path) -> None:
    sources = [source for command in script(probe).commands if command.name == "add-type" for source in command.strings]
    compiler = shutil.which("mcs")
    if sources and compiler is None:
        pytest.skip("no mcs (mono) on PATH")
    for number, source in enumerate(sources):
        file = tmp_path / f"{number}.cs"
        file.write_text(source, encoding="ascii")
        command = [str(compiler), "-langversion:5", "-target:library", f"-out:{file}.dll", str(file)]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        assert compiled.returncode == 0, compiled.stdout + compiled.stderr
