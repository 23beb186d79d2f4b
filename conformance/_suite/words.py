"""
The words of a runtime and of a node as people read them: whole, but for what says nothing. Pure.
"""

from __future__ import annotations

import re

# Which call failed stands in front of why; containers are named by 64 digits that nobody knows, or by their names.
_PREFIXES = re.compile(
    r'failed to start containerd task \\*"[^"\\]*\\*": |'
    r"failed to create containerd task: (?:failed to create shim(?: task)?: )?|"
    r'failed to generate container \\*"[0-9a-f]{64}\\*" spec: '
)
# The runtime quotes the command that it cannot start, twice; most of it is the suite's own script.
_ENCODED = re.compile(r"(-EncodedCommand\s+)[A-Za-z0-9+/=]{41,}", re.IGNORECASE)


def plain(text: str) -> str:
    """
    A text, or JSON of texts, without what stands before the runtime's own words, and with ``…`` for an encoded
    command of more than 40 characters.
    """
    return _ENCODED.sub(r"\1…", _PREFIXES.sub("", text))


def shortened(text: str, width: int) -> str:
    """
    The text cut in its middle to ``width`` characters: an error of Go ends with its cause.
    """
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return f"{text[:head]} … {text[head + 3 - width :]}"
