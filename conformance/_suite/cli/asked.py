"""
What a command line asks for, as values; what cannot be is refused before anything is done.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conformance._suite import images, workload
from conformance._suite.cli.targets import provider
from conformance._suite.errors import UsageError
from conformance._suite.facts import Scope
from conformance._suite.files import new_folder
from conformance._suite.preflight.needs import Needs
from conformance._suite.preflight.selection import Choice, Expectations

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from conformance._suite.images import Images

LARGEST_TIME_SCALE = 100
MOST_WORKERS = 64
KUBELET_PORT = 10250
LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What a run is asked for. ``expression`` is pytest's ``-k``, ``time_scale`` multiplies every deadline, 0 as
    ``listener_port`` is any free one, ``minutes`` is when observing is to end, ``defects`` are the simulation's.
    """

    choice: Choice
    expectations: Expectations
    needs: Needs
    images: Images
    expression: str | None
    workers: int
    time_scale: float
    listener_port: int
    minutes: float | None
    out: Path | None
    defects: tuple[str, ...]
    allure: bool

    @classmethod
    def of(cls, options: argparse.Namespace) -> Asked:
        """
        Read a run's options. Raises UsageError for what can be refused without a cluster.
        """
        if not 0 < options.time_scale <= LARGEST_TIME_SCALE:
            raise UsageError(f"--time-scale must be more than 0 and at most {LARGEST_TIME_SCALE}")
        if options.deadline is not None and not 0 < options.deadline < math.inf:
            raise UsageError("--deadline must be a number of minutes, more than 0")
        if not 0 <= options.listener_port <= LARGEST_PORT:
            raise UsageError(f"--listener-port must be a port: 1 to {LARGEST_PORT}, or 0 for any free one")
        if options.listener_port == KUBELET_PORT:
            raise UsageError(f"--listener-port {KUBELET_PORT} is the kubelet's own", "name another one")
        if sys.flags.optimize:
            raise UsageError("python -O takes the assertions out of the checks", "run without -O and PYTHONOPTIMIZE")
        if not 0 <= options.workers <= MOST_WORKERS:
            raise UsageError(f"-n must not be negative, nor more than {MOST_WORKERS}")
        places = read_images(options)
        choice = choice_of(options)
        expectations = Expectations(
            options.expect_containerd, options.expect_build, options.expect_kubernetes, options.expect_nodes
        )
        refuse_used_folder(options.out)
        return cls(
            choice, expectations, needs_of(options, places), places, options.expression, options.workers,
            options.time_scale, options.listener_port, options.deadline, options.out, tuple(options.sim_defect),
            options.allure,
        )  # fmt: skip


def choice_of(options: argparse.Namespace) -> Choice:
    """
    Which nodes are tested. Raises UsageError for what is no SKU or build.
    """
    return Choice(
        tuple(options.node), options.node_selector, tuple(options.os_sku), tuple(options.windows_build),
        tuple(options.leave_out), stated_versions(options.containerd_version),
    )  # fmt: skip


def stated_versions(given: Sequence[str]) -> dict[str, str]:
    """
    Versions by the node's name, by an empty one for all nodes. Raises UsageError for two about the same.
    """
    stated: dict[str, str] = {}
    for text in given:
        node, _, version = text.rpartition("=")
        if stated.setdefault(node, version) != version:
            raise UsageError(f"--containerd-version states two versions of {node or 'all nodes'}", "state one")
    return stated


def documented_images() -> set[str]:
    """
    The images of all workloads, as documented.
    """
    return {image for name in workload.names() for image in workload.load(name).images}


def read_images(options: argparse.Namespace) -> Images:
    """
    Where images come from. Raises UsageError for a place that cannot be read.
    """
    known = documented_images() | set(provider("kind").images())
    places = images.read(options.registry_prefix, options.images_file, options.image, options.pull_secret, known)
    # The kind target deploys images of its own.
    options.resolve_image = places.resolve
    return places


def needs_of(options: argparse.Namespace, places: Images) -> Needs:
    """
    What the target must offer; a selection is only known later, and needs less.
    """
    whole = options.expression is None
    on_nodes = sum(workload.load(name).scope is Scope.NODE for name in workload.names())
    return Needs(
        namespace=options.namespace, pods=on_nodes if whole else 1, pod_security=whole,
        image=places.resolve(workload.BASE_IMAGE),
    )  # fmt: skip


def refuse_used_folder(given: Path | None) -> None:
    """
    Raise UsageError unless the output folder can be made; None is the default one.
    """
    place = (given or _artifacts()).absolute()
    try:
        used = given is not None and given.exists() and not (given.is_dir() and not any(given.iterdir()))
    except OSError as error:
        raise UsageError(f"the output folder cannot be looked at: {error}", "name another one with --out") from error
    if used:
        raise UsageError(f"{given} is not an empty folder", "name a new folder with --out")
    # Found out now, and not when a cluster has been brought up.
    there = next(one for one in (place, *place.parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise UsageError(f"the output folder cannot be made: {there} is not writable", "name another one with --out")


def _artifacts() -> Path:
    # Prow's name for the folder that it keeps.
    return Path(os.environ.get("ARTIFACTS") or "artifacts")


def output_folder(given: Path | None, name: str) -> Path:
    """
    Make the output folder: the given one, or ``name`` below the default one. Raises UsageError.
    """
    try:
        if given is None:
            return new_folder(_artifacts(), name)
        refuse_used_folder(given)
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the output folder cannot be made: {error}", "name another one with --out") from error
    return given
