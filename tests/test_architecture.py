"""
The shape of the code below ``conformance/``: small modules, small classes, no circle of imports.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

from tests.conftest import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "conformance").rglob("*.py")
}
MOST_LINES, MOST_METHODS = 400, 25


def imported(name: str) -> set[str]:
    """
    The modules that a module imports, those inside functions and under TYPE_CHECKING too.
    """
    return named(MODULES[name].read_text(encoding="utf-8"), set(MODULES)) - {name}


def named(code: str, modules: set[str]) -> set[str]:
    """
    Those of the modules that the code imports.
    """
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be a module of it.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names | ({node.module} if names - modules else set())
    return found & modules


def test_no_circle_of_imports() -> None:
    sorter = TopologicalSorter({name: imported(name) for name in MODULES})
    try:
        sorter.prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(reversed(error.args[1]))) from None


def test_the_walk_finds_imports_of_every_kind() -> None:
    run = imported("conformance._suite.cli.run")
    assert {"conformance._suite.observe.engine", "conformance._suite.cluster", "conformance"} <= run
    assert "conformance._suite.observe.plan" in imported("conformance._suite.cli.display")  # under TYPE_CHECKING
    assert {"a.b", "a"} <= named("from a import b, c", {"a", "a.b"})
    assert named("def f():\n    import a.b", {"a.b"}) == {"a.b"}  # inside a function


def test_no_module_and_no_class_is_too_large() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
    methods = {
        f"{name}.{node.name}": sum(isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) for part in node.body)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: count for name, count in methods.items() if count > MOST_METHODS} == {}
