"""
The entries of ``conformance/hints.toml``: likely causes, and what is known of versions. The head of that file says what
an entry is made of.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import Unknown
from conformance._suite.versions import Version, in_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE = Path(__file__).parent.parent / "hints.toml"
PLACES = frozenset({"status", "event", "log", "api", "seen", "command", "stop"})
SURE = frozenset({"documented", "fixed", "reported", "read"})
_VERSIONS = frozenset({"containerd", "shim", "kubelet", "build"})
_KNOWN: Mapping[str, type] = {"name": str, "when": dict, "says": str, "see": list}
_HINT: Mapping[str, type] = {
    "name": str, "text": str, "in": list, "rows": list, "every": bool, "when": dict, "not": str, "cause": str,
    "remedy": str, "see": list, "sure": str, "trouble": bool, "windows_words": bool, "example": str,
}  # fmt: skip
_SEARCHED = 8 * 1024
"""Characters of a text that are searched: some expressions take time as the square of a line's length."""
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class When:
    """
    Conditions on a node, all of which hold: ranges of versions by what has the version, and values of probes' facts by
    ``workload/step/container/fact``.
    """

    versions: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Hint:
    """
    A cause that is likely where ``text`` is found in one of ``places`` and ``unless`` in none of them.
    """

    name: str
    text: re.Pattern[str]
    cause: str
    remedy: str
    see: tuple[str, ...]
    sure: str
    example: str
    places: frozenset[str]
    rows: tuple[str, ...]
    when: When
    unless: re.Pattern[str] | None
    every: bool
    trouble: bool
    windows_words: bool


@dataclass(frozen=True, slots=True)
class Known:
    """
    What is known of a version, whatever a run shows.
    """

    name: str
    when: When
    says: str
    see: tuple[str, ...]


@cache
def load(path: Path = FILE) -> tuple[tuple[Hint, ...], tuple[Known, ...]]:
    """
    The hints and what is known, in the order of the file. Raises ValueError, naming the entry, for one that is not of
    the documented form.
    """
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    if not data.keys() <= {"hint", "known"}:
        raise ValueError(f"{path.name}: unknown tables: {', '.join(sorted(data.keys() - {'hint', 'known'}))}")
    entries: list[Hint | Known] = []
    for kind, read in (("hint", _hint), ("known", _known)):
        for number, entry in enumerate(data.get(kind, ()), 1):
            try:
                entries.append(read(entry))
            except (ValueError, re.error, Unknown) as error:
                raise ValueError(f"{path.name}: {entry.get('name', f'{kind} {number}')}: {error}") from error
    names = [entry.name for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path.name}: names that are used twice: {', '.join(sorted(twice))}")
    hints = tuple(entry for entry in entries if isinstance(entry, Hint))
    return hints, tuple(entry for entry in entries if isinstance(entry, Known))


def of_stop(text: str) -> Hint | None:
    """
    The first hint that fits what a run said that could not test its target; nothing is known of any node then.
    """
    asked = (hint for hint in load()[0] if "stop" in hint.places and not hint.every and hint.when == When())
    return next((hint for hint in asked if search(hint, [text]) == (True, False)), None)


def search(hint: Hint, texts: Iterable[str]) -> tuple[bool, bool]:
    """
    Whether an entry's text, and what rules the entry out, is in one of the texts; of a long one, at its beginning or
    its end.
    """
    texts = [
        text if len(text) <= _SEARCHED else f"{text[: _SEARCHED // 2]}\n{text[-_SEARCHED // 2 :]}" for text in texts
    ]
    rules_out = hint.unless is not None and any(hint.unless.search(text) for text in texts)
    return any(hint.text.search(text) for text in texts), rules_out


def _hint(entry: Mapping[str, Any]) -> Hint:
    _require_form(entry, _HINT, {"name", "text", "cause", "remedy", "see", "sure", "example"})
    places = frozenset(entry.get("in", PLACES - {"log", "command"}))
    if not places <= PLACES or entry["sure"] not in SURE:
        raise ValueError(f"`in` or `sure` is none of {sorted(PLACES)}, {sorted(SURE)}")
    return Hint(
        name=entry["name"],
        text=re.compile(entry["text"], re.MULTILINE),
        cause=entry["cause"],
        remedy=entry["remedy"],
        see=tuple(entry["see"]),
        sure=entry["sure"],
        example=entry["example"],
        places=places,
        rows=tuple(entry.get("rows", ("*",))),
        when=_when(entry.get("when", {})),
        unless=re.compile(entry["not"], re.MULTILINE) if "not" in entry else None,
        every=entry.get("every", False),
        trouble=entry.get("trouble", False),
        windows_words=entry.get("windows_words", False),
    )


def _known(entry: Mapping[str, Any]) -> Known:
    _require_form(entry, _KNOWN, set(_KNOWN))
    return Known(entry["name"], _when(entry["when"]), entry["says"], tuple(entry["see"]))


def _require_form(entry: Mapping[str, Any], keys: Mapping[str, type], needed: set[str]) -> None:
    wrong = {key for key in entry.keys() | needed if key not in keys or not isinstance(entry.get(key), keys[key])}
    if wrong := wrong | {key for key in needed if not entry.get(key)}:
        raise ValueError(f"unknown, missing, empty or of another kind: {', '.join(sorted(wrong))}")
    if not _NAME.fullmatch(entry["name"]):
        raise ValueError("its name is not lower case with dashes")
    for link in entry["see"]:
        if not str(link).startswith("https://"):
            raise ValueError(f"{link} is not an https link")


def _when(when: Mapping[str, Any]) -> When:
    versions = {key: value for key, value in when.items() if key != "fact"}
    facts = when.get("fact", {})
    if not versions.keys() <= _VERSIONS or not all(path.count("/") == 3 for path in facts):
        raise ValueError(f"unknown conditions in `when`: {dict(when)}")
    for wanted in versions.values():
        in_range(Version.parse("1.0"), wanted)
    return When(tuple(versions.items()), tuple(facts.items()))
