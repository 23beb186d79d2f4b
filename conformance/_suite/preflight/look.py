"""
Looks at a target before anything is put on it, and says all that is missing at once: rights, nodes, what is expected of
them, free pod slots, Pod Security, webhooks that change pods, clocks.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.namespaces import (
    ENFORCE_LABEL,
    ENFORCING,
    LEVELS,
    SIMULATED_LABEL,
    namespaces_of,
    require_namespace,
)
from conformance._suite.preflight import selection
from conformance._suite.preflight.selection import problem
from conformance._suite.workload import BASE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from conformance._suite.cluster import Answer, Cluster
    from conformance._suite.preflight.selection import Choice, Expectations
    from conformance._suite.say import Say

LOOK_SECONDS = 8
"""How long an API server may take to answer the first questions."""
DRY_RUN_SECONDS = 20
"""How long it may take to say what it would do with an object: admission webhooks have their say, 10 s each."""
SKEW_NOTICE, SKEW_LIMIT = 10.0, 300.0
"""Seconds two clocks may differ without a word, and at all; not normative, tokens and logs get confusing."""

_CREATING, _GIVEN = "creating", "given"


@dataclass(frozen=True, slots=True)
class Right:
    """
    One right the engine uses and why. ``resource`` is written as RBAC does, ``pods/log``. ``places`` are namespaces by
    their key, or ``cluster``. ``only`` says with which flavour it is needed: where the suite creates its namespaces, or
    where they are given to it; empty for both.
    """

    resource: str
    verbs: tuple[str, ...]
    why: str
    places: tuple[str, ...] = ("main",)
    group: str = ""
    only: str = ""


_ALL = tuple(LEVELS)

RIGHTS = (
    Right("nodes", ("list", "watch"), "which nodes there are, and whether one goes", ("cluster",)),
    Right("namespaces", ("create", "delete", "get", "list"), "the run's own, and those that a killed run left",
          ("cluster",), only=_CREATING),
    Right("namespaces", ("get",), "the Pod Security labels of this one", _ALL, only=_GIVEN),
    Right("serviceaccounts", ("get",), "the default account that pods need is there", _ALL, only=_CREATING),
    Right("pods", ("create", "list", "watch", "delete", "deletecollection"), "the probes"),
    Right("pods", ("create", "list", "watch", "deletecollection"), "dry runs, and a DaemonSet whose pods are refused",
          ENFORCING),
    Right("pods/log", ("get",), "what a probe has found"),
    Right("pods/proxy", ("get",), "whether a listener in a pod answers"),
    Right("pods/ephemeralcontainers", ("patch",), "admission of ephemeral containers"),
    Right("events", ("list", "watch"), "what the kubelet and the controllers say", _ALL),
    Right("configmaps", ("create",), "a volume"),
    Right("secrets", ("create",), "a volume, and the pull secret"),
    Right("configmaps", ("list", "deletecollection"), "clean-up by label", _ALL, only=_GIVEN),
    Right("secrets", ("list", "deletecollection"), "clean-up by label", _ALL, only=_GIVEN),
    Right("daemonsets", ("create",), "the documented samples, and admission of their pods", ("main", "baseline"),
          "apps"),
    Right("daemonsets", ("deletecollection",), "clean-up", _ALL, "apps"),
    Right("daemonsets", ("list",), "clean-up", _ALL, "apps", _GIVEN),
)  # fmt: skip
"""Exactly what the engine does; the manifests that ``rbac`` prints are made from it, too."""

COUNTING = Right("pods", ("list",), "free pod slots; without it they are not counted", ("cluster",))
"""Useful where the namespaces are given, and nothing more."""


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One rule of a role: the rights on one resource in one place.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Needs:
    """
    What the plan needs: ``namespace`` where its three namespaces are given, so many pods on one node at once, whether
    Pod Security is judged, and the image that pods name. Raises UsageError for a namespace that cannot be.
    """

    namespace: str | None = None
    pods: int = 1
    pod_security: bool = True
    image: str = BASE_IMAGE

    def __post_init__(self) -> None:
        if self.namespace is not None:
            require_namespace(self.namespace)


def rules(namespace: str | None) -> dict[str | None, list[Rule]]:
    """
    The rules by the namespace they are for, None for the whole cluster: each resource once in a place.
    """
    flavour = _CREATING if namespace is None else _GIVEN
    given = namespaces_of(namespace) if namespace else {}
    merged: dict[str | None, dict[tuple[str, str], Rule]] = {}
    for right in RIGHTS:
        if right.only not in {"", flavour}:
            continue
        for place in right.places:
            found = merged.setdefault(given.get(place), {})
            key = (right.group, right.resource)
            before = found.get(key, Rule(*key, (), ""))
            verbs = dict.fromkeys([*before.verbs, *right.verbs])
            reasons = dict.fromkeys([*filter(None, before.why.split("; ")), right.why])
            found[key] = Rule(*key, tuple(verbs), "; ".join(reasons))
    return {place: list(found.values()) for place, found in merged.items()}


def told(problems: Sequence[str]) -> str:
    """
    All problems in one message: one stays one line, several get a line each.
    """
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} things are in the way:", *(f"  - {one}" for one in problems)])


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
    is wrong, UsageError for a selector that is none.
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
    problems = _told_clock(answer, asked, say)
    missing = await missing_rights(cluster, needs.namespace)
    if missing:
        problems.append(_told_rights(missing, needs.namespace))
    chosen = await _choose(cluster, choice)
    for line in chosen.left_out:
        say(f"left out, {line}")
    # A missing right to list nodes is told as such.
    if "list nodes" not in missing.get(None, ()):
        problems += chosen.problems
    nodes = tuple(_facts(item) for item in chosen.nodes)
    problems += selection.breaches(expectations, server, nodes)
    problems += await _full(cluster, chosen.nodes, needs, say)
    # What may not be done is not tried.
    if needs.namespace is not None:
        tried = {
            key: name
            for key, name in namespaces_of(needs.namespace).items()
            if not {"create pods", "get namespaces"} & set(missing.get(name, ()))
        }
        problems += await _given_namespaces(cluster, tried, nodes, needs, say)
    elif "create namespaces" not in missing.get(None, ()):
        problems += await _namespaces_admitted(cluster, needs)
    if problems:
        raise TargetError(told(problems))
    played = any(node.labels.get(SIMULATED_LABEL) == "true" for node in nodes)
    return ClusterFacts(target, server, simulated or played, chosen.left_out), nodes


async def look_inside(
    cluster: Cluster, namespaces: Mapping[str, str], nodes: Sequence[NodeFacts], needs: Needs, say: Say
) -> list[str]:
    """
    Try, by dry runs, what admission does to pods in the run's namespaces (by key): whether it refuses a HostProcess pod
    in ``main`` or changes it, and whether Pod Security applies to this user in the others. Returns what is wrong;
    a namespace that has lost its label, and a refusal in the name of ``privileged``, are left to the checks.
    """
    problems = await _host_process_pod(cluster, namespaces["main"], nodes, needs, say) if "main" in namespaces else []
    if needs.pod_security:
        for key in ENFORCING:
            if key in namespaces:
                problems += await _canary(cluster, key, namespaces[key], needs, say)
    return problems


# -- rights


async def missing_rights(cluster: Cluster, namespace: str | None) -> dict[str | None, list[str]]:
    """
    What this user may not do, ``list nodes``, by namespace, None for the whole cluster.
    """
    questions = [
        (place, rule, verb) for place, found in rules(namespace).items() for rule in found for verb in rule.verbs
    ]
    answers = await asyncio.gather(*(_allowed(cluster, *question) for question in questions))
    missing: dict[str | None, list[str]] = {}
    for (place, rule, verb), allowed in zip(questions, answers, strict=True):
        if not allowed:
            missing.setdefault(place, []).append(f"{verb} {rule.resource}")
    return missing


async def _allowed(cluster: Cluster, place: str | None, rule: Rule | Right, verb: str) -> bool:
    resource, _, subresource = rule.resource.partition("/")
    attributes = {
        "group": rule.group,
        "resource": resource,
        "subresource": subresource,
        "verb": verb,
        "namespace": place,
        "name": place if resource == "namespaces" else None,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    try:
        answer = await cluster.must("POST", path, body, repeatable=True)
    except RefusedError as error:
        raise TargetError(
            f"rights cannot be asked for: {error.answer.code} {error.answer.message}",
            "check the user in the kubeconfig",
        ) from error
    return bool(answer["status"]["allowed"])


def _told_rights(missing: Mapping[str | None, Sequence[str]], namespace: str | None) -> str:
    """
    ``rights are missing: create/delete namespaces; get pods/log; in namespace x: …``.
    """
    parts = []
    for place, found in missing.items():
        verbs: dict[str, list[str]] = {}
        for verb, resource in (text.split(" ") for text in found):
            verbs.setdefault(resource, []).append(verb)
        listed = "; ".join(f"{'/'.join(each)} {resource}" for resource, each in verbs.items())
        parts.append(listed if place is None else f"in namespace {place}: {listed}")
    option = f" -- --namespace {namespace}" if namespace else ""
    return problem(f"rights are missing: {'; '.join(parts)}", f"`nox -s rbac{option}` prints what grants them")


# -- nodes


async def _choose(cluster: Cluster, choice: Choice) -> selection.Chosen:
    list_nodes = partial(cluster.must, "GET", "/api/v1/nodes", seconds=LOOK_SECONDS)
    try:
        items = (await list_nodes())["items"]
        selected = None
        if choice.selector:
            matching = await list_nodes(query={"labelSelector": choice.selector})
            selected = {item["metadata"]["name"] for item in matching["items"]}
    except RefusedError as error:
        if error.answer.code == 400 and choice.selector:
            raise UsageError(f"--node-selector {choice.selector!r}: {error.answer.message}") from error
        refused = problem(f"the nodes cannot be listed: {_words(error.answer)}", "check the user in the kubeconfig")
        return selection.Chosen((), (), (refused,))
    except (TypeError, KeyError) as error:
        raise TargetError(f"{cluster.url} does not answer like a Kubernetes API server") from error
    return selection.choose(items, choice, selected)


def _facts(node: dict[str, Any]) -> NodeFacts:
    metadata, status = node["metadata"], node["status"]
    addresses = {kind: [one["address"] for one in group] for kind, group in itertools.groupby(
        sorted(status.get("addresses", ()), key=lambda one: one["type"]), key=lambda one: one["type"])}  # fmt: skip
    info = status["nodeInfo"]
    return NodeFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        internal_ip=(addresses.get("InternalIP") or [""])[0],
        host_name=(addresses.get("Hostname") or [metadata["name"]])[0],
        container_runtime=info["containerRuntimeVersion"],
        kubelet=info["kubeletVersion"],
        os_image=info["osImage"],
        kernel=info["kernelVersion"],
        capacity_cpu=int(status["capacity"]["cpu"]),
        taints=tuple({"key": taint["key"], "effect": taint["effect"]} for taint in node["spec"].get("taints", ())),
        labels=dict(metadata.get("labels", {})),
    )


async def _full(cluster: Cluster, items: Sequence[dict[str, Any]], needs: Needs, say: Say) -> list[str]:
    """
    A problem when nodes have not enough free pod slots, naming each.
    """
    if not items:
        return []
    # A kubelet counts what is bound to its node and has not ended.
    running = "status.phase!=Succeeded,status.phase!=Failed"

    async def free(item: Mapping[str, Any]) -> int:
        query = {"fieldSelector": f"spec.nodeName={item['metadata']['name']},{running}", "resourceVersion": "0"}
        listing = await cluster.must("GET", "/api/v1/pods", query=query)
        return int(item["status"].get("allocatable", {}).get("pods", needs.pods)) - len(listing["items"])

    try:
        slots = await asyncio.gather(*(free(item) for item in items))
    except RefusedError as error:
        if error.answer.code != 403:
            return [problem(f"the pods on the nodes cannot be counted: {_words(error.answer)}", "try again")]
        # Where the suite creates its namespaces the right is missed already.
        if needs.namespace is not None:
            say("free pod slots were not counted: that needs the right to list pods in all namespaces")
        return []
    full = [f"{item['metadata']['name']} has {left}" for item, left in zip(items, slots, strict=True)
            if left < needs.pods]  # fmt: skip
    if not full:
        return []
    return [
        problem(
            f"the run needs {needs.pods} free pod slots on each node: {', '.join(full)}",
            "take pods from there, raise the kubelet's maxPods, or choose nodes with --node",
        )
    ]


# -- namespaces


async def _namespaces_admitted(cluster: Cluster, needs: Needs) -> list[str]:
    """
    What the API server has against the namespaces that will be made; said once where it is the same for all.
    """
    refusals: dict[str, None] = {}
    for key in LEVELS if needs.pod_security else ("main",):
        labels = {ENFORCE_LABEL: LEVELS[key]}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hpc-preflight", "labels": labels}}
        answer = await _dry_run(cluster, "/api/v1/namespaces", body)
        if answer.code not in {201, 409}:
            refusals[f"a namespace labelled {ENFORCE_LABEL}={LEVELS[key]} would be refused: {_words(answer)}"] = None
    remedy = "allow it, or make the namespaces yourself and name them with --namespace"
    return [problem(refusal, remedy) for refusal in refusals]


async def _given_namespaces(
    cluster: Cluster, namespaces: Mapping[str, str], nodes: Sequence[NodeFacts], needs: Needs, say: Say
) -> list[str]:
    problems = []
    usable = {}
    for key, name in namespaces.items():
        answer = await cluster.request("GET", f"/api/v1/namespaces/{name}")
        if answer.code != 200:
            remedy = f"`nox -s rbac -- --namespace {needs.namespace}` prints what has to be there"
            problems.append(problem(f"namespace {name} cannot be used: {_words(answer)}", remedy))
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
        usable[key] = name
    return problems + await look_inside(cluster, usable, nodes, needs, say)


# -- what admission does


async def _dry_run(cluster: Cluster, path: str, body: object) -> Answer:
    # A 500 is a webhook's answer as well: it is to be told, not tried again.
    passing = frozenset({429, 502, 503, 504})
    return await cluster.request(
        "POST", path, body, query={"dryRun": "All"}, seconds=DRY_RUN_SECONDS, passing=passing, repeatable=True
    )


def _words(answer: Answer) -> str:
    return f"{answer.code} {' '.join(answer.message.split()) or 'no reason given'}"


def host_process_pod(node: NodeFacts | None, image: str) -> dict[str, Any]:
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
    if node is not None:
        spec["nodeName"] = node.name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hpc-preflight"}, "spec": spec}


async def _host_process_pod(
    cluster: Cluster, namespace: str, nodes: Sequence[NodeFacts], needs: Needs, say: Say
) -> list[str]:
    sent = host_process_pod(nodes[0] if nodes else None, needs.image)
    answer = await _dry_run(cluster, f"/api/v1/namespaces/{namespace}/pods", sent)
    if answer.code == 201:
        harmful, harmless = changes(sent, answer.body)
        if harmless:
            say(f"admission in namespace {namespace} changes pods: {', '.join(harmless)}")
        if not harmful:
            return []
        return [
            problem(
                f"admission in namespace {namespace} makes other pods of the suite's: {', '.join(harmful)}",
                "exempt the namespace from the webhook or policy that does it",
            )
        ]
    # That privileged refuses is what a check is about.
    if 'violates PodSecurity "privileged:' in answer.message:
        return []
    return [
        problem(
            f"a HostProcess pod in namespace {namespace} would be refused: {_words(answer)}",
            "exempt the namespace from the webhook or policy that says so",
        )
    ]


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
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hpc-preflight"}, "spec": spec}
    answer = await _dry_run(cluster, f"/api/v1/namespaces/{namespace}/pods", pod)
    if f'violates PodSecurity "{LEVELS[key]}:' in answer.message:
        return []
    judged = "so Pod Security cannot be judged"
    if answer.code != 201:
        return [
            problem(
                f"not Pod Security but another refuses a pod with hostNetwork in namespace {namespace}, {judged}: "
                f"{_words(answer)}",
                "exempt the namespace from what says so",
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


_DEFAULTED = re.compile(
    r"metadata\.(uid|namespace|creationTimestamp|generation|resourceVersion|managedFields|selfLink)"
    r"|spec\.(dnsPolicy|serviceAccount|serviceAccountName|schedulerName|priority|preemptionPolicy|enableServiceLinks)"
    r"|spec\.imagePullSecrets(\[.*\])?"
    r"|spec\.tolerations\[node\.kubernetes\.io/(not-ready|unreachable)\]"
    r"|spec\.containers\[[^]]*\]\.(imagePullPolicy|terminationMessagePath|terminationMessagePolicy)"
    r"|status"
)
"""What every API server adds to a pod as the suite's are."""
_HARMFUL = re.compile(
    r"spec\.((containers|initContainers|ephemeralContainers)\[[^]]*\]"
    r"|containers\[[^]]*\]\.(image|command|args|securityContext|workingDir|volumeMounts|volumeDevices|lifecycle"
    r"|livenessProbe|readinessProbe|startupProbe|envFrom|restartPolicy)\b.*"
    r"|(volumes|hostNetwork|hostPID|hostIPC|hostUsers|nodeName|os|runtimeClassName|securityContext|nodeSelector|affinity"
    r"|schedulingGates|hostAliases|hostname|activeDeadlineSeconds)\b.*)"
)
"""What, when it is added, makes another pod of it."""


def changes(sent: Mapping[str, Any], answered: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """
    What admission did to a pod, by JSON path: what makes another pod of it, and what does not. Whatever was sent and
    came back otherwise makes another pod of it.
    """
    harmful: list[str] = []
    harmless: list[str] = []
    for sign, path, value in _differences("", sent, answered):
        # Nothing in it, nothing added; and before Kubernetes 1.24 spec.os is not known.
        if (sign == "adds" and (value == {} or _DEFAULTED.fullmatch(path))) or (sign, path) == (
            "takes away",
            "spec.os",
        ):
            continue
        (harmful if sign != "adds" or _HARMFUL.fullmatch(path) else harmless).append(f"{sign} {path}")
    return harmful, harmless


def _differences(path: str, sent: Any, answered: Any) -> Iterator[tuple[str, str, Any]]:
    """
    Each difference: what was done, where, and the value now. Items of a list are known by their name or key.
    """
    if isinstance(sent, list) and isinstance(answered, list) and _named(sent + answered):
        sent, answered = ({_name(item): item for item in items} for items in (sent, answered))
        step = "{}[{}]".format
    else:
        step = ("{}.{}" if path else "{}{}").format
    if not (isinstance(sent, dict) and isinstance(answered, dict)):
        if sent != answered:
            yield "changes", path, answered
        return
    for key in [*sent, *(key for key in answered if key not in sent)]:
        below, now = step(path, key), answered.get(key)
        if key in sent and key in answered:
            yield from _differences(below, sent[key], now)
        elif key in sent:
            yield "takes away", below, None
        elif isinstance(now, list) and now and _named(now):
            yield from _differences(below, [], now)
        else:
            yield "adds", below, now


def _named(items: Sequence[Any]) -> bool:
    return all(isinstance(item, dict) and ("name" in item or "key" in item) for item in items)


def _name(item: Mapping[str, Any]) -> str:
    return str(item["name"] if "name" in item else item["key"])


# -- clocks


def _told_clock(answer: Answer, now: datetime, say: Say) -> list[str]:
    """
    Tell how far this machine's clock, which said ``now`` when the answer came, is from the API server's.
    """
    if answer.date is None:
        return []
    ahead = (now - answer.date).total_seconds()
    if abs(ahead) <= SKEW_NOTICE:
        return []
    line = f"this machine's clock is {_apart(ahead)} the API server's"
    if abs(ahead) > SKEW_LIMIT:
        return [problem(line, "set it by a time server")]
    say(line)
    return []


def _apart(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"


def clock_skew(pod: Mapping[str, Any], now: datetime) -> float | None:
    """
    By how many seconds a node's clock is at least ahead of the API server's (negative: behind), from a pod as it was
    there at ``now`` by the server's clock; 0 where the times allow that both are right, None where nothing has started.

    A container starts after its pod is created, which the server stamps, and before ``now``; all stamps are to the
    second, so that a second either way says nothing.
    """
    status = pod.get("status", {})
    stamps = [
        datetime.fromisoformat(state[moment])
        for entry in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        for place in ("state", "lastState")
        for state in (entry.get(place) or {}).values()
        for moment in ("startedAt", "finishedAt")
        if state.get(moment)
    ]
    if not stamps:
        return None
    second = timedelta(seconds=1)
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    if (ahead := max(stamps) - now - second) > timedelta():
        return ahead.total_seconds()
    if (behind := min(stamps) + second - created) < timedelta():
        return behind.total_seconds()
    return 0.0


def clock_notice(node: str, seconds: float) -> str | None:
    """
    What to say about a node's clock; None where it is right, as far as can be told.
    """
    if abs(seconds) <= SKEW_NOTICE:
        return None
    return f"the clock of {node} is at least {_apart(seconds)} the API server's"
