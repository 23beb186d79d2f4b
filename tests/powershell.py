"""
What can be read from a PowerShell script without Windows: its syntax, the commands it calls, the names it uses.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import tree_sitter_pwsh
from tree_sitter import Language, Parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node

ROOT = Path(__file__).parent.parent
COMMANDS = Path(
    os.environ.get("POWERSHELL_COMMANDS") or ROOT.parent / "shared" / "data" / "windows-powershell-5.1-commands.json"
)
ENGINE = ROOT.parent / "shared" / "tools" / "powershell"
"""PowerShell 7 for this machine, where somebody has put one: the nearest to 5.1 that runs off Windows."""
COMMON_PARAMETERS = {"erroraction", "warningaction", "verbose", "debug", "errorvariable", "outvariable", "outbuffer"}
SINCE_POWERSHELL_7 = {
    "ternary_expression",
    "ternary_argument_expression",
    "null_coalesce_expression",
    "null_coalesce_argument_expression",
    "pipeline_chain_tail",
    "??=",
}


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
    tables: tuple[tuple[str, ...], ...]
    """The keys of its hash literals, in their order."""
    steps: tuple[tuple[str, ...], ...]
    """The script blocks that it hands to `Step`: what each calls and compares with, in lower case."""
    bodies: dict[str, str]
    """The same of each of its functions."""

    @property
    def facts(self) -> list[str]:
        return [command.strings[0] for command in self.commands if command.name == "fact"]


@cache
def script(path: Path) -> Script:
    root = Parser(Language(tree_sitter_pwsh.language())).parse(path.read_bytes()).root_node
    nodes = list(_walk(root))
    functions, bodies = {}, {}
    for node in nodes:
        if node.type == "function_statement":
            name = next(child for child in node.children if child.type == "function_name")
            declared = [one for one in _walk(node) if one.type == "script_parameter"]
            bodies[_text(name).lower()] = _words(node)
            functions[_text(name).lower()] = frozenset(
                _text(next(child for child in one.children if child.type == "variable")).lstrip("$").lower()
                for one in declared
            )
    return Script(
        root.has_error,
        frozenset(node.type for node in nodes),
        tuple(_command(node) for node in nodes if node.type == "command"),
        functions,
        tuple(
            tuple(
                _text(entry.children[0])
                for entry in _walk(node)
                if entry.type == "hash_entry" and _table(entry) == node
            )
            for node in nodes
            if node.type == "hash_literal_expression"
        ),
        tuple(
            tuple(_words(block) for block in _outermost(node, "script_block_expression"))
            for node in nodes
            if node.type == "command" and _command(node).name == "step"
        ),
        bodies,
    )


def _words(node: Node) -> str:
    """
    Commands, operators and .NET methods, in their order.
    """
    return " ".join(
        _text(one).lower()
        for one in _walk(node)
        if one.type == "command_name"
        or (not one.children and re.fullmatch("-[a-z]+", one.type))
        or (one.type == "member_name" and one.parent is not None and one.parent.type == "invocation_expression")
    )


def _outermost(node: Node, kind: str) -> Iterator[Node]:
    for child in node.children:
        if child.type == kind:
            yield child
        else:
            yield from _outermost(child, kind)


def _table(entry: Node) -> Node | None:
    """
    The hash literal that an entry is of.
    """
    node = entry.parent
    while node is not None and node.type != "hash_literal_expression":
        node = node.parent
    return node


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
