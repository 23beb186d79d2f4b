"""
Looks at a target before anything is put on it, and says all that is missing at once: rights, nodes, what is expected of
them, free pod slots, Pod Security, webhooks that change pods, clocks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from conformance._suite.errors import TargetError
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.namespaces import SIMULATED_LABEL, namespaces_of
from conformance._suite.preflight.admission import given_namespaces, namespaces_admitted
from conformance._suite.preflight.clocks import told_clock
from conformance._suite.preflight.needs import LOOK_SECONDS
from conformance._suite.preflight.nodes import choose, full, node_facts
from conformance._suite.preflight.rights import missing_rights, told_rights
from conformance._suite.preflight.selection import breaches, by_reason, with_stated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance._suite.cluster import Cluster
    from conformance._suite.preflight.needs import Needs
    from conformance._suite.preflight.selection import Choice, Expectations
    from conformance._suite.say import Say


async def look(  # noqa: PLR0917 - what the user asked for, in its order
    cluster: Cluster,
    target: str,
    choice: Choice,
    expectations: Expectations,
    needs: Needs,
    say: Say,
    *,
    simulated: bool,
) -> tuple[ClusterFacts, tuple[NodeFacts, ...]]:
    """
    Read the server's version and the Windows nodes under test, sorted by name, and ask for everything the run will
    need; ``say`` gets a line for whatever is left out and for what is worth knowing. Raises TargetError with all that
    is wrong, UsageError for a selector that is none and for a stated version that contradicts a node's.
    """
    answer = await cluster.request("GET", "/version", seconds=LOOK_SECONDS)
    asked = datetime.now(UTC)
    if answer.code != 200:
        reason = answer.message or "no reason given"
        raise TargetError(f"{cluster.url} refuses: {answer.code} {reason}", "check the user in the kubeconfig")
    try:
        server = str(answer.body["gitVersion"])
    except (TypeError, KeyError) as error:
        raise TargetError(f"{cluster.url} does not answer like a Kubernetes API server") from error
    problems = told_clock(answer, asked, say)
    missing = await missing_rights(cluster, needs.namespace)
    if missing:
        problems.append(told_rights(missing, needs.namespace))
    chosen = await choose(cluster, choice)
    for line in chosen.left_out:
        say(f"left out, {line}")
    for line in by_reason(chosen.untested):
        say(f"NOT LOOKED AT, {line} — `--leave-out NODE` leaves a node out on purpose")
    # A missing right to list nodes is told as such.
    if "list nodes" not in missing.get(None, ()):
        problems += chosen.problems
    nodes = with_stated((node_facts(item) for item in chosen.nodes), choice)
    problems += breaches(expectations, server, nodes)
    problems += await full(cluster, chosen.nodes, needs, say)
    # What may not be done is not tried.
    if needs.namespace is not None:
        tried = {
            key: name
            for key, name in namespaces_of(needs.namespace).items()
            if not {"create pods", "get namespaces"} & set(missing.get(name, ()))
        }
        problems += await given_namespaces(cluster, tried, needs, say)
    elif "create namespaces" not in missing.get(None, ()):
        problems += await namespaces_admitted(cluster, needs)
    if problems:
        raise TargetError(told(problems))
    played = any(node.labels.get(SIMULATED_LABEL) == "true" for node in nodes)
    return ClusterFacts(target, server, simulated or played, chosen.left_out, dict(chosen.untested)), nodes


def told(problems: Sequence[str]) -> str:
    """
    All problems in one message: one stays one line, several get a line each.
    """
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} things are in the way:", *(f"  - {one}" for one in problems)])
