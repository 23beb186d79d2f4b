"""
``nox -s up`` and ``nox -s down``: a cluster that outlives the command.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from conformance._suite import workload
from conformance._suite.cli.asked import read_images
from conformance._suite.cli.display import Display
from conformance._suite.cli.options import Parser, add_dry_run, add_embedded, add_images, add_provisioned, add_target
from conformance._suite.cli.targets import PROVISIONED, only_described, provider
from conformance._suite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def up(arguments: Sequence[str]) -> int:
    """
    Bring a cluster up and print its kubeconfig's path.
    """
    parser = Parser("up", "Leave a cluster running; `nox -s down` takes it away.")
    add_target(parser)
    add_embedded(parser)
    add_images(parser)
    add_provisioned(parser)
    add_dry_run(parser)
    options = parser.parse(arguments)
    display = Display(sys.stderr)  # so that `eval "$(nox -s up)"` does what it looks like
    if options.target == "existing":
        raise UsageError("an existing cluster is up already", "--target simulated, aks or kind")
    read_images(options)
    if only_described(options, display.say):
        return 0
    if options.target in PROVISIONED:
        kubeconfig = provider(options.target).up(options, display.say).kubeconfig
    else:
        from infra.simulated import cluster  # noqa: PLC0415

        kubeconfig = cluster.up(cluster.parse_nodes(options.sim_nodes), display.say, options.control_plane_bin)
        display.say(f"the simulated nodes have {workload.BASE_IMAGE}")
        display.say("and mcr.microsoft.com/windows/nanoserver:ltsc2019 (Windows Server 2019), :ltsc2022 (later ones)")
    display.say("`nox -s down` takes it away")
    print(f"export KUBECONFIG={kubeconfig}")
    return 0


def down(arguments: Sequence[str]) -> int:
    """
    Take away what ``up``, or a run that was killed, left.
    """
    parser = Parser("down", "Take away the cluster that `nox -s up`, or a run that was killed, left.")
    add_target(parser)
    add_provisioned(parser)
    options = parser.parse(arguments)
    display = Display()
    if options.target == "existing":
        raise UsageError("an existing cluster is not taken away", "`nox -s cleanup` takes away what runs left on it")
    if options.target in PROVISIONED:
        provider(options.target).down(options, display.say)
    else:
        from infra.simulated import cluster  # noqa: PLC0415

        if not cluster.down(display.say):
            display.say("nothing is up")
    return 0
