"""
What admission has against the run's namespaces and does to its pods, tried by dry runs.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conformance._suite import expiry
from conformance._suite.cluster import JSON
from conformance._suite.namespaces import ENFORCE_LABEL, ENFORCING, LEVELS, PREFLIGHT
from conformance._suite.pod_security import refusing_level
from conformance._suite.preflight.changes import changes, kind_changes
from conformance._suite.preflight.needs import words
from conformance._suite.preflight.selection import problem
from conformance._suite.transient import NOT_A_WEBHOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from conformance._suite.cluster import Answer, Cluster
    from conformance._suite.facts import NodeFacts
    from conformance._suite.preflight.needs import Needs
    from conformance._suite.say import Say

HOST_PROCESS_POD, ORDINARY_POD = "a HostProcess pod", "an ordinary pod"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
_EXEMPT = f"exempt the namespace (those that a run makes have the label {expiry.RUN_LABEL})"
_OBJECT = re.compile(r'^\S+ "[^"]*" is (forbidden|invalid): ')
_NAME = re.compile(r"(?<=ontainers)\[[^]]*\]")
DRY_RUN_SECONDS = 20
"""How long it may take to say what it would do with an object: admission webhooks have their say, 10 s each."""


async def namespaces_admitted(cluster: Cluster, needs: Needs) -> list[str]:
    """
    What the API server has against the namespaces that will be made; said once where it is the same for all.
    """
    refusals: dict[str, None] = {}
    for key in LEVELS if needs.pod_security else ("main",):
        labels = {ENFORCE_LABEL: LEVELS[key]}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PREFLIGHT, "labels": labels}}
        answer = await _dry_run(cluster, "/api/v1/namespaces", body)
        if answer.code not in {201, 409}:
            refusals[f"a namespace labelled {ENFORCE_LABEL}={LEVELS[key]} would be refused: {words(answer)}"] = None
    remedy = "allow it, or make the namespaces yourself and name them with --namespace"
    return [problem(refusal, remedy) for refusal in refusals]


async def given_namespaces(cluster: Cluster, namespaces: Mapping[str, str], needs: Needs, say: Say) -> list[str]:
    """
    What is wrong with the namespaces that are given (by key).
    """
    problems = []
    for key, name in namespaces.items():
        answer = await cluster.request("GET", f"/api/v1/namespaces/{name}")
        if answer.code != 200:
            remedy = f"`nox -s rbac -- --namespace {needs.namespace}` prints what has to be there"
            problems.append(problem(f"namespace {name} cannot be used: {words(answer)}", remedy))
            continue
        if answer.body.get("status", {}).get("phase") == "Terminating":
            problems.append(problem(f"namespace {name} is being deleted", "wait until it is gone and make it again"))
            continue
        labels = answer.body["metadata"].get("labels") or {}
        if labels.get(ENFORCE_LABEL) != LEVELS[key]:
            # Without a label the privileged standard holds, but a cluster may have another default.
            has = f"enforces {labels[ENFORCE_LABEL]}" if ENFORCE_LABEL in labels else f"has no label {ENFORCE_LABEL}"
            remedy = f"`kubectl label --overwrite namespace {name} {ENFORCE_LABEL}={LEVELS[key]}`"
            problems.append(problem(f"namespace {name} {has}; it is to enforce {LEVELS[key]}", remedy))
            continue
        if (version := labels.get(f"{ENFORCE_LABEL}-version", "latest")) != "latest":
            say(f"namespace {name} enforces {LEVELS[key]} as of {version}")
    return problems


async def look_inside(
    cluster: Cluster,
    namespaces: Mapping[str, str],
    trials: Sequence[Trial],
    needs: Needs,
    say: Say,
    *,
    server: str,
    nodes: Sequence[NodeFacts] = (),
) -> list[str]:
    """
    Try, by dry runs that are sent at once, what admission does to what the run will send (``trials``), to a HostProcess
    pod in ``main``, and, where Pod Security is judged, to an ordinary pod in each of the run's namespaces (by key), and
    whether Pod Security applies to this user. Returns what is wrong; a namespace that has lost its label, and a
    refusal by a standard that is judged, are left to the checks. ``server`` is the API server's version; ``nodes`` are
    those under test.
    """
    asked = [*trials]
    if "main" in namespaces:
        pod = host_process_pod(needs.image)
        asked.insert(0, Trial(HOST_PROCESS_POD, namespaces["main"], _pods(namespaces["main"]), pod))
    canaries = []
    if needs.pod_security:
        pod = ordinary_pod(needs.image)
        asked += [Trial(ORDINARY_POD, name, _pods(name), pod, kind_only=True) for name in namespaces.values()]
        canaries = [_canary(cluster, key, namespaces[key], needs, say) for key in ENFORCING if key in namespaces]
    answers, found = await asyncio.gather(
        asyncio.gather(*(one.ask(cluster) for one in asked)), asyncio.gather(*canaries)
    )
    tried = list(zip(asked, answers, strict=True))
    levels = {name: LEVELS[key] for key, name in namespaces.items()}
    return [
        *_refused(tried, levels),
        *_changed(tried, server, nodes, say),
        *(one for problems in found for one in problems),
    ]


@dataclass(frozen=True, slots=True)
class Trial:
    """
    One request that is tried by a dry run: whose it is, its namespace, where it goes. ``first`` is created, and stays,
    for a patch to be tried on. With ``kind_only`` only changes count that make another kind of pod of it.
    """

    whose: str
    namespace: str
    path: str
    document: Mapping[str, Any]
    first: tuple[str, Mapping[str, Any]] | None = None
    kind_only: bool = False

    async def ask(self, cluster: Cluster) -> Answer:
        """
        The API server's answer.
        """
        if self.first is None:
            return await _dry_run(cluster, self.path, self.document)
        path, document = self.first
        created = await cluster.request("POST", path, document, seconds=DRY_RUN_SECONDS, passing=NOT_A_WEBHOOKS)
        if created.code != 201:
            return created
        return await _dry_run(cluster, self.path, self.document, "PATCH", STRATEGIC_MERGE_PATCH)


def _refused(tried: Sequence[tuple[Trial, Answer]], levels: Mapping[str, str]) -> list[str]:
    """
    A problem for each reason for which something would be refused, in the words of whoever says so, with all whose it
    is.
    """
    reasons: dict[tuple[str, str], list[tuple[Trial, Answer]]] = {}
    for trial, answer in tried:
        # 409: it passed admission. What the namespace's own standard refuses is what the checks are about.
        judged = refusing_level(answer.message, answer.code) == levels[trial.namespace]
        if answer.code not in {200, 201, 409} and not judged:
            reason = _OBJECT.sub("", answer.message) or str(answer.code)
            reasons.setdefault((trial.namespace, reason), []).append((trial, answer))
    return [
        problem(
            f"{_whose(one for one, _ in those)} in namespace {namespace} would be refused: {words(those[0][1])}",
            f"{_EXEMPT} from the webhook or policy that says so",
        )
        for (namespace, _), those in reasons.items()
    ]


def _changed(tried: Sequence[tuple[Trial, Answer]], server: str, nodes: Sequence[NodeFacts], say: Say) -> list[str]:
    """
    A problem for each namespace in which admission makes other pods of what is sent; other changes are only said.
    """
    harmful: dict[str, dict[str, list[tuple[Trial, str]]]] = {}
    harmless: dict[str, dict[str, list[tuple[Trial, str]]]] = {}
    for trial, answer in tried:
        if answer.code not in {200, 201} or "spec" not in trial.document or "spec" not in answer.body:
            continue
        bad, good = changes(trial.document, answer.body, server, nodes)
        if trial.kind_only:
            bad, good = kind_changes(bad), []
        for found, into in ((bad, harmful), (good, harmless)):
            for change in found:
                # One webhook does the same to each container.
                same = into.setdefault(trial.namespace, {}).setdefault(_NAME.sub("[*]", change), [])
                same.append((trial, change))
    for namespace, there in harmless.items():
        say(f"admission in namespace {namespace} changes pods: {_listed(there, whose=False)}")
    return [
        problem(
            f"admission in namespace {namespace} makes other pods of the suite's: {_listed(there, whose=True)}",
            f"{_EXEMPT} from the webhook or policy that does it",
        )
        for namespace, there in harmful.items()
    ]


def _listed(found: Mapping[str, Sequence[tuple[Trial, str]]], *, whose: bool) -> str:
    """
    Changes (by what they are in any container, with each as it was made), and, in brackets, what they are made to.
    """
    by_whose: dict[str, list[str]] = {}
    for starred, same in found.items():
        shown = same[0][1] if len({one for _, one in same}) == 1 else starred
        by_whose.setdefault(_whose(one for one, _ in same), []).append(shown)
    return ", ".join(
        ", ".join(shown) + (f" ({those})" if whose and those != HOST_PROCESS_POD else "")
        for those, shown in by_whose.items()
    )


def _whose(trials: Iterable[Trial]) -> str:
    """
    Where it is about any HostProcess pod, that; else all whose it is.
    """
    names = list(dict.fromkeys(one.whose for one in trials))
    if HOST_PROCESS_POD in names:
        return HOST_PROCESS_POD
    workloads = [name for name in names if name != ORDINARY_POD]
    named = [ORDINARY_POD] * (ORDINARY_POD in names) + ["objects of " + ", ".join(workloads)] * bool(workloads)
    return " and ".join(named)


async def _canary(cluster: Cluster, key: str, namespace: str, needs: Needs, say: Say) -> list[str]:
    """
    An ordinary Linux pod with the host's network: Pod Security refuses it to everybody but those who are exempt.
    """
    spec = {
        "os": {"name": "linux"},
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": needs.image}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PREFLIGHT}, "spec": spec}
    answer = await _dry_run(cluster, f"/api/v1/namespaces/{namespace}/pods", pod)
    if refusing_level(answer.message, answer.code) == LEVELS[key]:
        return []
    judged = "so Pod Security cannot be judged"
    if answer.code != 201:
        return [
            problem(
                f"not Pod Security but another refuses a pod with hostNetwork in namespace {namespace}, {judged}: "
                f"{words(answer)}",
                f"{_EXEMPT} from what says so",
            )
        ]
    there = await cluster.request("GET", f"/api/v1/namespaces/{namespace}")
    labels = (there.body["metadata"].get("labels") or {}) if there.code == 200 else {ENFORCE_LABEL: LEVELS[key]}
    if labels.get(ENFORCE_LABEL) != LEVELS[key]:
        say(f"namespace {namespace} has lost its label {ENFORCE_LABEL}={LEVELS[key]}")
        return []
    return [
        problem(
            f"namespace {namespace} enforces {LEVELS[key]}, and a pod with hostNetwork would be admitted, {judged}: "
            "the user or the namespace is exempt, or the plug-in is off",
            "use a user that is not exempt, or change the API server's PodSecurityConfiguration",
        )
    ]


def ordinary_pod(image: str) -> dict[str, Any]:
    """
    An ordinary pod without the host's network that every Pod Security Standard takes.
    """
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": image,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PREFLIGHT}, "spec": spec}


def host_process_pod(image: str) -> dict[str, Any]:
    """
    A HostProcess pod as the suite's own are, with everything set that admission might change.
    """
    spec = {
        "os": {"name": "windows"},
        "hostNetwork": True,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        # No token, so that the service account plug-in adds no volume.
        "automountServiceAccountToken": False,
        "securityContext": {"windowsOptions": {"hostProcess": True, "runAsUserName": "NT AUTHORITY\\SYSTEM"}},
        "containers": [
            {
                "name": "main",
                "image": image,
                "command": ["cmd.exe"],
                "args": ["/c", "ver"],
                "env": [{"name": "PROBE", "value": "none"}],
            }
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PREFLIGHT}, "spec": spec}


def _pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


async def _dry_run(cluster: Cluster, path: str, body: object, method: str = "POST", content_type: str = JSON) -> Answer:
    return await cluster.request(
        method, path, body, query={"dryRun": "All"}, seconds=DRY_RUN_SECONDS, passing=NOT_A_WEBHOOKS, repeatable=True,
        content_type=content_type,
    )  # fmt: skip
