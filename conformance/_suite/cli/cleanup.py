"""
``nox -s cleanup``: take away what killed runs left on a cluster and its hosts.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from conformance._suite.cli.asked import choice_of, needs_of, read_images
from conformance._suite.cli.display import Display
from conformance._suite.cli.options import Parser, add_existing, add_images, add_nodes
from conformance._suite.cli.run import End, observe
from conformance._suite.cli.targets import brought_up
from conformance._suite.cluster import Cluster
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.observe.cleanup import left_behind, reap
from conformance._suite.observe.engine import Engine
from conformance._suite.observe.plan import BusyError, Plan
from conformance._suite.preflight.look import look
from conformance._suite.preflight.selection import Expectations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conformance._suite.images import Images
    from conformance._suite.preflight.needs import Needs
    from conformance._suite.preflight.selection import Choice
    from infra.target import Target


def cleanup(arguments: Sequence[str]) -> int:
    """
    Reap on the cluster, then on the hosts. Raises TargetError for what could not be taken away.
    """
    parser = Parser("cleanup", "Take away what killed runs left on a cluster and on its Windows hosts, once it has "
                    "expired, a day after they began.")  # fmt: skip
    parser.set_defaults(expression="")
    parser.add_argument("--target", default="existing", help="existing (default)")
    parser.add_argument("--all", action="store_true", help="also what has not expired, which ends runs under way")
    add_nodes(parser)
    add_images(parser)
    add_existing(parser)
    options = parser.parse(arguments)
    if options.target != "existing":
        raise UsageError(f"--target {options.target} leaves no cluster to clean", "`nox -s down` takes it away")
    places, choice = read_images(options), choice_of(options)
    needs = needs_of(options, places)
    display = Display()
    with brought_up(options, display.say) as (target, died):
        return asyncio.run(_clean(target, died, display, choice, needs, places, everything=options.all))


async def _clean(  # noqa: PLR0917 - what the user asked for
    target: Target,
    died: Callable[[], bool],
    display: Display,
    choice: Choice,
    needs: Needs,
    places: Images,
    *,
    everything: bool,
) -> int:
    async with await Cluster.connect(target.kubeconfig, target.context) as api:
        left = await reap(api, needs.namespace, display.say, everything=everything)
        # A cluster whose nodes cannot be looked at is cleaned all the same; then that is what ends with 3.
        cluster, nodes = await look(
            api, target.name, choice, Expectations(), needs, display.say, simulated=target.simulated
        )
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(
                secrets.token_hex(4), Path(folder), cluster, nodes, (), places, 1.0, needs.namespace, everything
            )
            engine = Engine(api, plan, display.progress, died, display.say)
            try:
                if await observe(engine, target, died, display) is not End.COMPLETE:
                    raise KeyboardInterrupt
                what = "nothing of any run" if everything else "nothing that has expired"
                said = f"{what} is left on the cluster and on {', '.join(node.name for node in nodes)}"
            except BusyError as error:
                said = f"the hosts were not looked at: {error}"
        left += await left_behind(api, engine.going)
    if left:
        raise TargetError(f"not all could be taken away: {'; '.join(left)}")
    display.say(said)
    return 0
