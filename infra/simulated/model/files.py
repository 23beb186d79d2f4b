"""
A Windows file system: case-insensitive, with links, volumes without a letter, and bindings that only one silo sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.simulated.model.errors import (
    ACCESS_DENIED,
    ALREADY_EXISTS,
    CANT_RESOLVE_FILENAME,
    DIRECTORY,
    FILE_NOT_FOUND,
    PATH_NOT_FOUND,
    WRITE_PROTECT,
    WindowsError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_VOLUME = "\\\\?\\Volume{"
_HOPS = 63


@dataclass(slots=True)
class File:
    """
    A file: its bytes, and the version that its version resource tells (empty: it has none).
    """

    data: bytes
    version: str = ""


@dataclass(slots=True)
class Link:
    """
    A symbolic link or a mounted folder.
    """

    target: str


@dataclass(slots=True)
class Directory:
    """
    Children by lower-case name; each keeps the name it was made with.
    """

    children: dict[str, tuple[str, Node]] = field(default_factory=dict)


Node = File | Link | Directory


@dataclass(frozen=True, slots=True)
class Binding:
    """
    What the bind filter does for one silo: ``root`` shows what is at ``target``.
    """

    root: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """
    Where a path leads: the node there, if any, and the folder that holds it (none for a drive or a volume).
    """

    node: Node | None
    parent: Directory | None
    name: str
    read_only: bool


def full_path(path: str, working_directory: str = "C:\\") -> str:
    r"""
    The absolute path, as Windows' GetFullPathName makes it: slashes turned, ``.`` and ``..`` taken out, relative
    parts joined to the working directory, the drive in upper case, no backslash at the end but that of a drive.
    """
    path = path.replace("/", "\\")
    if path.startswith(_VOLUME):
        volume, _, rest = path.removeprefix("\\\\?\\").partition("\\")
        return _join(f"\\\\?\\{volume}", rest)
    if path.startswith("\\\\"):
        return path
    if path[1:2] == ":":
        drive, rest = path[:2].upper(), path[2:]
        if not rest.startswith("\\"):
            same = working_directory[:2].upper() == drive
            rest = f"{working_directory[2:] if same else ''}\\{rest}"
        return _join(drive, rest)
    if path.startswith("\\"):
        root, _ = split(working_directory)
        return _join(root, path)
    root, parts = split(working_directory)
    return _join(root, "\\".join([*parts, path]))


def split(path: str) -> tuple[str, list[str]]:
    r"""
    A full path as its root (``C:`` or ``\\?\Volume{…}``) and its names.
    """
    if path.startswith(_VOLUME):
        volume, _, rest = path.removeprefix("\\\\?\\").partition("\\")
        return f"\\\\?\\{volume}", [part for part in rest.split("\\") if part]
    return path[:2].upper(), [part for part in path[2:].split("\\") if part]


def parent(path: str) -> str:
    """
    The folder that holds a full path.
    """
    root, parts = split(path)
    return _join(root, "\\".join(parts[:-1]))


def _join(root: str, rest: str) -> str:
    kept: list[str] = []
    for part in rest.split("\\"):
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part.rstrip(" .") or part)
    return f"{root}\\" + "\\".join(kept)


class FileSystem:
    """
    A view of the machine's files: the host's own has no bindings, that of a silo has its own.

    ``protected`` is false where the one who looks may write below the folders of Windows; the model's access lists
    say no more than that administrators may and others may not.
    """

    def __init__(
        self,
        roots: dict[str, Directory] | None = None,
        bindings: Sequence[Binding] = (),
        *,
        administrator: bool = True,
    ) -> None:
        self._roots = {"c:": Directory()} if roots is None else roots
        self.bindings = tuple(bindings)
        self._administrator = administrator

    def view(self, bindings: Sequence[Binding], *, administrator: bool) -> FileSystem:
        """
        The same files as a process sees them.
        """
        return FileSystem(self._roots, bindings, administrator=administrator)

    def exists(self, path: str) -> bool:
        """
        Whether a file or a folder is there, at the end of all links.
        """
        return self._seen(path) is not None

    def is_directory(self, path: str) -> bool:
        """
        Whether a folder is there, at the end of all links.
        """
        return isinstance(self._seen(path), Directory)

    def is_link(self, path: str) -> bool:
        """
        Whether the path itself is a link.
        """
        try:
            return isinstance(self._find(path, follow=False).node, Link)
        except WindowsError:
            return False

    def read(self, path: str) -> bytes:
        """
        A file's bytes. Raises WindowsError 2, 3 or 5 as Windows does.
        """
        return self._file(path).data

    def file_version(self, path: str) -> str:
        """
        The file's version resource, empty when it has none.
        """
        return self._file(path).version

    def write(self, path: str, data: bytes, *, version: str = "", parents: bool = True) -> None:
        """
        Make or replace a file; its folder too, unless ``parents`` is false (then WindowsError 3).
        """
        full = full_path(path)
        if parents and not self.exists(parent(full)):
            self.make_directory(parent(full))
        place = self._find(full)
        if place.parent is None or isinstance(place.node, Directory):
            raise WindowsError(ACCESS_DENIED)
        self._refuse_write(full, place)
        kept = place.parent.children.get(place.name.lower(), (place.name, None))[0]
        place.parent.children[place.name.lower()] = (kept, File(data, version))

    def make_directory(self, path: str) -> None:
        """
        Make a folder and those above it; one that is there already is left as it is.
        """
        full = full_path(path)
        if self.is_directory(full):
            return
        _, parts = split(full)
        if not parts:
            raise WindowsError(PATH_NOT_FOUND)
        self.make_directory(parent(full))
        self._put(full, Directory())

    def link(self, path: str, target: str) -> None:
        """
        Make a symbolic link; its folder must be there. Raises WindowsError 183 when the name is taken.
        """
        self._put(full_path(path), Link(target.replace("/", "\\")))

    def target(self, path: str) -> str:
        """
        Where a link points to, as written; empty when the path is no link.
        """
        node = self._find(path, follow=False).node
        return node.target if isinstance(node, Link) else ""

    def delete(self, path: str) -> None:
        """
        Delete a file, a link (not what it points to) or a folder with all below it.
        """
        full = full_path(path)
        place = self._find(full, follow=False)
        if place.node is None:
            raise WindowsError(FILE_NOT_FOUND)
        if place.parent is None:
            raise WindowsError(ACCESS_DENIED)
        self._refuse_write(full, place)
        del place.parent.children[place.name.lower()]

    def list(self, path: str) -> list[str]:
        """
        The names in a folder, sorted without regard to case.
        """
        full = full_path(path)
        node = self._find(full).node
        if node is None:
            raise WindowsError(PATH_NOT_FOUND)
        if not isinstance(node, Directory):
            raise WindowsError(DIRECTORY)
        names = {key: name for key, (name, _) in node.children.items()}
        for binding in self.bindings:
            if parent(binding.root).lower() == full.lower() and split(binding.root)[1]:
                name = split(binding.root)[1][-1]
                names.setdefault(name.lower(), name)
        return [names[key] for key in sorted(names)]

    def real_path(self, path: str) -> str:
        """
        The path with each link on the way replaced by what it points to.
        """
        full = full_path(path)
        for _ in range(_HOPS):
            root, parts = split(full)
            for depth in range(1, len(parts) + 1):
                at = _join(root, "\\".join(parts[:depth]))
                if target := self.target(at):
                    full = full_path("\\".join([full_path(target, parent(at)), *parts[depth:]]))
                    break
            else:
                return full
        raise WindowsError(CANT_RESOLVE_FILENAME)

    def walk(self, path: str = "C:\\") -> Iterator[str]:
        """
        Every path below a folder, links not followed.
        """
        for name in self.list(path):
            below = path.rstrip("\\") + "\\" + name
            yield below
            if not self.is_link(below) and self.is_directory(below):
                yield from self.walk(below)

    def add_volume(self, path: str) -> None:
        r"""
        Make an empty volume without a drive letter, at ``\\?\Volume{…}``.
        """
        self._roots[split(path)[0].lower()] = Directory()

    def drop_volume(self, path: str) -> None:
        """
        Forget a volume with all that is on it.
        """
        self._roots.pop(split(path)[0].lower(), None)

    def _seen(self, path: str) -> Node | None:
        try:
            return self._find(path).node
        except WindowsError:
            return None

    def _file(self, path: str) -> File:
        node = self._find(path).node
        if node is None:
            raise WindowsError(FILE_NOT_FOUND)
        if not isinstance(node, File):
            raise WindowsError(ACCESS_DENIED)
        return node

    def _put(self, full: str, node: Node) -> None:
        place = self._find(full, follow=False)
        if place.node is not None or place.parent is None:
            raise WindowsError(ALREADY_EXISTS)
        self._refuse_write(full, place)
        place.parent.children[place.name.lower()] = (place.name, node)

    def _refuse_write(self, full: str, place: _Place) -> None:
        if place.read_only:
            raise WindowsError(WRITE_PROTECT)
        guarded = ("c:\\windows\\", "c:\\program files\\", "c:\\programdata\\containerd\\")
        if not self._administrator and full.lower().startswith(guarded):
            raise WindowsError(ACCESS_DENIED)

    def _bound(self, full: str) -> Binding | None:
        """
        The innermost binding that a path lies at or below.
        """
        lower = full.lower() + "\\"
        inside = [binding for binding in self.bindings if lower.startswith(binding.root.lower().rstrip("\\") + "\\")]
        return max(inside, key=lambda binding: len(binding.root), default=None)

    def _find(self, path: str, *, follow: bool = True) -> _Place:
        """
        Follow a path through bindings, folders and links. Raises WindowsError 3 when a folder on the way is missing.
        """
        full = full_path(path)
        for _ in range(_HOPS):
            found = self._step(full, follow=follow)
            if isinstance(found, _Place):
                return found
            full = found
        raise WindowsError(CANT_RESOLVE_FILENAME)

    def _step(self, full: str, *, follow: bool) -> _Place | str:
        """
        Where a path leads without passing a link, or, at the first link, the path to go on with.
        """
        binding = self._bound(full)
        if binding is None:
            root, parts = split(full)
            inside, read_only = 0, False
        else:
            beyond = split(full)[1][len(split(binding.root)[1]) :]
            root, parts = split(full_path(binding.target))
            inside, read_only = len(parts), binding.read_only
            parts = [*parts, *beyond]
        directory = self._roots.get(root.lower())
        if directory is None:
            raise WindowsError(PATH_NOT_FOUND)
        if not parts:
            return _Place(directory, None, root, read_only)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            child = directory.children.get(part.lower(), (part, None))[1]
            if isinstance(child, Link) and (follow or not last):
                if binding is None or index < inside:
                    at = _join(root, "\\".join(parts[:index]))
                else:
                    at = _join(split(binding.root)[0], "\\".join([*split(binding.root)[1], *parts[inside:index]]))
                return full_path("\\".join([full_path(child.target, at), *parts[index + 1 :]]))
            if last:
                return _Place(child, directory, part, read_only)
            if not isinstance(child, Directory):
                raise WindowsError(PATH_NOT_FOUND)
            directory = child
        raise AssertionError("the loop always returns")
