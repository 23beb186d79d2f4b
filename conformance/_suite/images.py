"""
Which images the suite uses, and where they come from: a mirror, a file, or their documented place.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from conformance._suite.errors import UsageError
from conformance._suite.workload import BASE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# The grammar of github.com/distribution/reference.
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?::[0-9]+)?"
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PREFIX = re.compile(rf"{_HOST}(?:/{_PATH})*")
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_PATH}(?:/{_PATH})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?", re.ASCII
)
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class Images:
    """
    Where images come from: ``replaced`` by reference, all others below ``prefix`` (a registry's host, with or without a
    path) instead of their own registry. ``pull_secret`` is the text of a Docker ``config.json``, or None.
    """

    prefix: str = ""
    replaced: Mapping[str, str] = field(default_factory=dict)
    pull_secret: str | None = field(default=None, repr=False)

    def resolve(self, reference: str) -> str:
        """
        The reference that is pulled in the place of a documented one.
        """
        if reference in self.replaced:
            return self.replaced[reference]
        if not self.prefix:
            return reference
        registry, slash, path = reference.partition("/")
        # The first part is a registry only when it looks like a host; Docker Hub's is left out.
        named = slash and (set(registry) & set(".:") or registry == "localhost")
        return f"{self.prefix}/{path if named else reference}"


def digest_of(reference: str) -> str | None:
    """
    The digest that a reference names, or None.
    """
    found = _DIGEST.search(reference)
    return found[1] if found else None


def require_reference(reference: str, option: str) -> str:
    """
    Return the reference. Raises UsageError when it cannot be one.
    """
    if not _REFERENCE.fullmatch(reference):
        raise UsageError(f"{option} {reference!r} is not an image reference")
    return reference


def read(prefix: str, file: Path | None, base: str, pull_secret: Path | None, known: Iterable[str]) -> Images:
    """
    The images that the options ask for. ``file`` is YAML: documented reference to replacement, out of ``known``.
    Raises UsageError for anything that cannot be meant.
    """
    replaced = _read_file(file, set(known)) if file else {}
    if require_reference(base, "--image") != BASE_IMAGE:
        if BASE_IMAGE in replaced:
            raise UsageError(f"--image and --images-file {file} both say where the base image is", "leave one away")
        replaced[BASE_IMAGE] = base
    prefix = prefix.rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"--registry-prefix {prefix!r} is not a registry", "write it like registry.example:5000/mirror"
        )
    return Images(prefix, replaced, _read_secret(pull_secret) if pull_secret else None)


def _read_file(file: Path, known: set[str]) -> dict[str, str]:
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--images-file {file} cannot be read: {reason}", "YAML: `reference: replacement`") from error
    if not isinstance(content, dict):
        raise UsageError(f"--images-file {file} holds no mapping", "YAML: `reference: replacement`, one a line")
    # A digest may be left out on the left: it says nothing that the tag does not.
    meant = {written: one for one in known for written in (one, one.partition("@")[0])}
    for reference, replacement in content.items():
        if reference not in meant:
            raise UsageError(
                f"--images-file {file} names {reference}, which the suite does not use", "`nox -s images` lists them"
            )
        require_reference(str(replacement), f"--images-file {file}:")
    return {meant[reference]: str(replacement) for reference, replacement in content.items()}


def _read_secret(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        entries = json.loads(text)["auths"].values()
        usable = [one for one in entries if one.get("auth") or (one.get("username") and one.get("password"))]
    except OSError as error:
        raise UsageError(
            f"--pull-secret {file} cannot be read: {error.strerror}", "name a Docker config.json"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        # The content is a secret: the error's own words, which may quote it, are left out.
        usable = []
    if not usable:
        raise UsageError(
            f"--pull-secret {file} holds no credential: there is none in `auths`",
            "`docker login` without a credential helper writes one",
        )
    return text
