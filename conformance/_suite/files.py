"""
Where the project keeps things on this machine, and how it writes whole files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from conformance._suite.errors import TargetError


def cache_directory() -> Path:
    """
    This project's directory in the user's cache; it need not exist. Raises TargetError when there is no home.
    """
    try:
        if given := os.environ.get("XDG_CACHE_HOME"):
            caches = Path(given).expanduser().absolute()
        elif sys.platform == "darwin":
            caches = Path.home() / "Library" / "Caches"
        else:
            caches = Path.home() / ".cache"
    except RuntimeError as error:
        raise TargetError("there is no home directory to keep a cache in", "set HOME or XDG_CACHE_HOME") from error
    return caches / "hostprocess-conformance"


def write_text(path: Path, text: str) -> None:
    """
    Write a whole file or none. Half a character pair, which a log can hold, is written as its JSON escape.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(text.encode("utf-8", "backslashreplace"))
    aside.replace(path)


def new_folder(parent: Path, name: str) -> Path:
    """
    A new folder below ``parent``, with a number behind its name where that is taken.
    """
    for number in range(1000):
        folder = parent / (name if not number else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(os.fspath(parent / name))
