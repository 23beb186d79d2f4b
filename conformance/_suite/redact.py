"""
Takes secrets out of whatever is about to be written: evidence, reports, terminal.

What is only *about* secrets stays readable (paths of token files, hashes, SIDs, "the password is incorrect"), because a
verdict is judged again from the same text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MARK = "[redacted]"

# `pwd` is a working directory more often than a password, and `secret` a kind of volume: neither is a secret's name.
_NAME = (
    r"[\w.-]*(?:password|passwd|passphrase)|client-key-data|[\w-]*client[_-]?secret|(?:access|refresh|id)[_-]token"
    r"|[\w-]*account[_-]?key|shared[_-]?access[_-]?(?:key|signature)|[\w-]*api[_-]?key|[\w-]*private[_-]?key"
)
# A JSON string; one inside another JSON string, which ends where it began: at as many backslashes; or a bare word.
_VALUE = (
    r""""(?:[^"\\\n]|\\.)*"?|(?P<quote>\\+")(?:(?!(?<!\\)(?P=quote))[^\n])*(?:(?P=quote))?"""
    r"""|'[^'\n]*'?|[^\s,;&"'<>{}\[\]\\]+"""
)
_HASH = r"(?:sha256:)?(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})"
_OPAQUE = r"(?=[A-Za-z_.~+=-]*\d)[A-Za-z0-9_.~+=-]{16,}"
# Base64 of "-----BEGIN … PRIVATE KEY"; that of a certificate begins in another way.
_ENCODED_KEY = r"LS0tLS1CRUdJTi(?:BQUklWQV|BSU0EgUFJJVk|BFQyBQUklW|BFTkNSWVBU|BPUEVOU1NI)[A-Za-z0-9+/=]*"

_WHOLE = re.compile(
    rf"""
      \beyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]{{8,}}(?:\.+[A-Za-z0-9_-]+)*   # a signed or encrypted JSON web token
    | -----BEGIN\ (?P<kind>[A-Z ]*PRIVATE\ KEY)-----
      (?:[\sA-Za-z0-9+/=\\:,.]|-(?!-))*(?:-----END\ (?P=kind)-----)?       # to its end, or to where it was cut
    | {_ENCODED_KEY}
    """,
    re.VERBOSE,
)
# A pattern is tried only where one of its signs is in the text, in lower case: most texts have none.
_NAMES_SIGNS = ("passw", "passphrase", "client", "_token", "-token", "key", "signature")
_TAIL = tuple(
    (signs, re.compile(pattern, re.IGNORECASE | re.MULTILINE))
    for signs, pattern in (
        (
            ("authorization",),
            r"(?P<head>\bauthorization\\*[\"']?\s*[:=]\s*\\*[\"']?(?:bearer|basic|negotiate)\s+)[^\s\"'\\,]+",
        ),
        (
            ("bearer",),
            r"(?P<head>\bbearer\s+)(?=\S*\d)[A-Za-z0-9._~+/=-]{16,}",
        ),
        # `name=value` anywhere; `name: value` where YAML or JSON has it, for prose has colons too.
        (
            _NAMES_SIGNS,
            rf"(?P<head>(?<![\w.-])(?:{_NAME})\\*[\"']?(?:\s*=>?\s*|:(?!\s)))(?:{_VALUE})",
        ),
        (
            _NAMES_SIGNS,
            rf"(?P<head>(?:^[ \t-]*|[{{,]\s{{0,40}}|[\"'])(?<![\w.-])(?:{_NAME})\\*[\"']?\s*:\s*)(?:{_VALUE})",
        ),
        (
            ("token", *_NAMES_SIGNS),
            rf"(?P<head>(?<![\w-])--?(?:{_NAME}|token)[ =]\s*)(?:{_VALUE})",
        ),
        (
            ("token",),
            rf"(?P<head>(?<![\w.-])token\\*[\"']?\s*[:=]\s*\\*[\"']?)(?!{_HASH}\b)(?!\d{{4}}-\d\d-\d\d){_OPAQUE}",
        ),
        (
            ("sig=",),
            r"(?P<head>[?&;]sig=)[A-Za-z0-9%+/=_-]{16,}",
        ),
        (
            (" user ",),
            r"(?P<head>\bnet1?(?:\.exe)?\s+user\s+(?:\"[^\"]+\"|\S+)\s+)(?!/)\S+(?=[^\n]{0,200}/add)",
        ),
        (
            ("://",),
            r"(?P<head>\b[a-z][a-z0-9+-]{0,30}://[^\s/:@\"']*:)[^\s/@\"']+(?=@)",
        ),
    )
)
_REPEATED = 16 * 1024
"""Longer texts than this, in characters, are logs: none comes twice."""
_NAMED = re.compile(_NAME, re.IGNORECASE)
_TOKEN = re.compile(_OPAQUE)
_DIGEST = re.compile(_HASH)


def redact(text: str) -> str:
    """
    Return the text with every secret in it replaced by ``[redacted]``: tokens, private keys, passwords, signatures.

    A quoted value keeps its quotes, so that JSON inside the text stays JSON.
    """
    return _redact_again(text) if len(text) <= _REPEATED else _redact(text)


def _redact(text: str) -> str:
    text = _WHOLE.sub(MARK, text)
    lower = text.lower()
    for signs, pattern in _TAIL:
        if any(sign in lower for sign in signs):
            text = pattern.sub(_without_value, text)
    return text


_redact_again = lru_cache(maxsize=2048)(_redact)
"""Most texts of a run's evidence are in it many times: names, images, the probe."""


def _without_value(found: re.Match[str]) -> str:
    value = found[0][len(found["head"]) :]
    if MARK in value:
        return found[0]
    quoted = re.fullmatch(r"""(\\*["']).*?(\1)?""", value, re.DOTALL)
    return f"{found['head']}{quoted[1]}{MARK}{quoted[2] or ''}" if quoted else f"{found['head']}{MARK}"


def redact_json(value: Any) -> Any:
    """
    Return a JSON value with every secret replaced; what an object's key, or an environment variable's name, calls a
    password goes even when its text looks like any other.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        return [redact_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if isinstance(name, str) and isinstance(value.get("value"), str) and _is_secret(name, value["value"]):
        value = {**value, "value": MARK}
    return {
        key: MARK if isinstance(item, str) and item and _is_secret(key, item) else redact_json(item)
        for key, item in value.items()
    }


def _is_secret(name: str, text: str) -> bool:
    if name.lower() == "token":
        return bool(_TOKEN.fullmatch(text)) and not _DIGEST.fullmatch(text)
    return _is_named_secret(name)


@lru_cache(maxsize=2048)
def _is_named_secret(name: str) -> bool:
    return bool(_NAMED.fullmatch(name))
