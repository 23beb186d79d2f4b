"""
What was begun and is not undone yet: written before each step, so that a killed run leaves what ``down`` needs.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conformance._suite.errors import UsageError
from conformance._suite.files import cache_directory
from infra.kind.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
STEPS = ("cluster", "machine", "join", "network")


def folder() -> Path:
    """
    Where the state, its lock and the kubeconfig lie; only its owner may enter it.
    """
    path = cache_directory() / "kind"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def kubeconfig() -> Path:
    """
    Where the administrator's kubeconfig lies while the cluster is up.
    """
    return folder() / "kubeconfig"


def write_secret(path: Path, text: str) -> None:
    """
    Write a whole file or none; only its owner may read it.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


@dataclass(slots=True)
class State:
    """
    ``begun`` are the steps of which something may be there, ``done`` those that ended well; ``node`` is the Windows
    node's name, once the machine told its own.
    """

    settings: Settings
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    node: str = ""

    def begin(self, step: str) -> None:
        """
        Say that a step is about to be taken.
        """
        if step not in self.begun:
            self.begun.append(step)
        self.write()

    def end(self, step: str) -> None:
        """
        Say that a step ended well.
        """
        self.done.append(step)
        self.write()

    def undone(self, step: str) -> None:
        """
        Say that nothing of a step is left.
        """
        self.begun.remove(step)
        self.done = [one for one in self.done if one != step]
        self.write()

    def write(self) -> None:
        """
        Keep it; remove it when nothing is left to undo.
        """
        if not self.begun:
            path().unlink(missing_ok=True)
            return
        data = {
            "version": VERSION,
            "settings": self.settings.to_data(),
            "begun": self.begun,
            "done": self.done,
            "node": self.node,
        }
        write_secret(path(), json.dumps(data, indent=1))


def path() -> Path:
    """
    The state file.
    """
    return folder() / "state.json"


def load() -> State | None:
    """
    Read what a run left; None when nothing is. Raises UsageError for a file that is cut, or of another version.
    """
    file = path()
    remedy = (
        "remove a cluster that `kind get clusters` shows with `kind delete cluster --name NAME`; then remove this "
        "file, and do `up` and `down` once with the same machine, which puts that back"
    )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data["version"]
        if version != VERSION:
            raise UsageError(
                f"{file} is of version {version!r}, this program knows {VERSION}",
                "run `down` with the version of the suite that wrote it",
            )
        state = State(Settings.from_data(data["settings"]), data["begun"], data["done"], data["node"])
        if not {*state.begun, *state.done} <= set(STEPS) or not isinstance(state.node, str):
            raise ValueError("unknown steps, or no name")  # noqa: TRY301 - told like all else that can be wrong with it
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"the state file {file} is cut or damaged", remedy) from error
    return state
