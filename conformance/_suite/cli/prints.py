"""
The commands that only print or write texts: ``catalogue``, ``rbac``, ``images``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import conformance
from conformance._suite import catalogue as pages
from conformance._suite import images as places
from conformance._suite import workload
from conformance._suite.cli.asked import read_images
from conformance._suite.cli.options import Parser, add_images
from conformance._suite.cli.targets import provider
from conformance._suite.preflight import rbac as rights

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(conformance.__file__).parent


def catalogue(arguments: Sequence[str]) -> int:
    """
    Write the catalogue from the pages, or verify that it is up to date: 1 when it is not.
    """
    parser = Parser("catalogue", "Write the flat catalogue, or verify it.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when it is not up to date")
    options = parser.parse(arguments)
    found = pages.load()
    texts = {
        _ROOT / "catalogue.md": pages.markdown(found),
        _ROOT / "catalogue.json": json.dumps(found.entries(), indent=1, ensure_ascii=False) + "\n",
    }
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"conformance: {path.name} is not up to date — run `nox -s catalogue`", file=sys.stderr)
        else:
            path.write_text(texts[path], encoding="utf-8")
            print(f"wrote {path.name}")
    return 1 if stale and options.check else 0


def rbac(arguments: Sequence[str]) -> int:
    """
    Print the least rights that a run needs.
    """
    parser = Parser("rbac", "Print the least rights that a run needs, as manifests: with the right to create "
                     "namespaces, or, with --namespace, without it.")  # fmt: skip
    parser.add_argument("--namespace", help="the namespace that runs are to use, with --namespace NAME")
    parser.add_argument(
        "--account", default=rights.ACCOUNT, metavar="NAMESPACE/NAME", help=f"default: {rights.ACCOUNT}"
    )
    parser.add_argument("--openshift", action="store_true", help="grant the use of the security context constraint "
                        "`privileged` as well; with --namespace")  # fmt: skip
    options = parser.parse(arguments)
    print(rights.manifests(options.namespace, options.account, openshift=options.openshift), end="")
    return 0


def images(arguments: Sequence[str]) -> int:
    """
    Print every image, where it comes from, and what needs it.
    """
    parser = Parser("images", "List every image: where it is pulled from, its digest where known, and what needs it.")
    add_images(parser)
    resolved = read_images(parser.parse(arguments))
    used: dict[str, list[str]] = {}
    for name in workload.names():
        for image in workload.load(name).images:
            used.setdefault(image, []).append(name)
    for image in provider("kind").images():
        used.setdefault(image, []).append("target-kind")
    rows = [("SOURCE", "PULLED-FROM", "DIGEST", "NEEDED-BY")]
    for image, users in used.items():
        place = resolved.resolve(image)
        rows.append((image, place, places.digest_of(place) or "not-pinned", ",".join(users)))
    for row in rows:
        print("  ".join(row))
    return 0
