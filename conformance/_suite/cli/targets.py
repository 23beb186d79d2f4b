"""
The targets by their names, and the one that a command asks for.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from conformance._suite.errors import UsageError
from conformance._suite.kubeconfig import find_kubeconfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from conformance._suite.say import Say
    from infra.target import Target

TARGETS = ("simulated", "existing", "aks", "kind")
PROVISIONED = ("aks", "kind")
"""Those that bring a cluster of their own up: a module below ``infra`` each."""
LARGEST_SIMULATION = 1000


def provider(target: str) -> Any:
    """
    The module of a target that brings a cluster up.
    """
    return importlib.import_module(f"infra.{target}")


def only_described(options: argparse.Namespace, say: Say) -> bool:
    """
    Whether no more was asked for than what would be made, which is told.
    """
    if options.target in PROVISIONED:
        provider(options.target).validate(options)
        if options.dry_run:
            say(provider(options.target).describe(options))
            return True
    elif options.dry_run:
        raise UsageError(f"--dry-run means nothing with --target {options.target}", "it is for aks and kind")
    return False


@contextlib.contextmanager
def brought_up(options: argparse.Namespace, say: Say) -> Iterator[tuple[Target, Callable[[], bool]]]:
    """
    The target, there while the block runs, and whether it has died meanwhile.
    """
    from infra.target import Target  # noqa: PLC0415 - the kernel knows targets only here

    if options.target == "existing":
        path = find_kubeconfig(options.kubeconfig)
        yield Target("existing", path, options.context, simulated=False), lambda: False
        return
    if options.target in PROVISIONED:
        with provider(options.target).brought_up(options, say) as target:
            yield target, lambda: False
        return
    from infra.simulated.cluster import SimulatedCluster, parse_nodes  # noqa: PLC0415
    from infra.simulated.defects import switch_on  # noqa: PLC0415

    nodes, defect = switch_on(parse_nodes(options.sim_nodes), options.sim_defect)
    if len(nodes) > LARGEST_SIMULATION:
        raise UsageError(f"--sim-nodes asks for {len(nodes)} nodes", f"at most {LARGEST_SIMULATION} at once")
    cluster = SimulatedCluster(nodes, say, options.control_plane_bin, [defect] if defect else [])
    with cluster as target:
        wrong = replace(target, kubeconfig=cluster.kubeconfig_for(defect)) if defect else target
        yield wrong, lambda: cluster.died is not None
