"""
A pseudo console between a terminal and a program: it echoes what is typed and hands over whole lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from infra.simulated.model.view import Write

_INTERRUPT = 0x03
_BACKSPACES = frozenset({0x08, 0x7F})
_ENDS = frozenset({0x0A, 0x0D})


async def feed(typed: asyncio.StreamReader, lines: asyncio.StreamReader, write: Write) -> None:
    """
    Pass on what is typed, line by line, until its end or Ctrl-C; either ends the program's input.
    """
    line = bytearray()
    while data := await typed.read(1):
        character = data[0]
        if character == _INTERRUPT:
            write(1, b"^C\r\n")
            break
        if character in _ENDS:
            write(1, b"\r\n")
            lines.feed_data(bytes(line) + b"\n")
            line.clear()
        elif character in _BACKSPACES:
            if line:
                line.pop()
                write(1, b"\b \b")
        else:
            line.append(character)
            write(1, data)
    lines.feed_eof()
