"""
What admission has against the run's namespaces and does to its pods, tried by dry runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance._suite.namespaces import ENFORCE_LABEL, ENFORCING, LEVELS, PREFLIGHT
from conformance._suite.preflight.changes import changes
from conformance._suite.preflight.needs import words
from conformance._suite.preflight.selection import problem
from conformance._suite.transient import NOT_A_WEBHOOKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conformance._suite.cluster import Answer, Cluster
    from conformance._suite.facts import NodeFacts
    from conformance._suite.preflight.needs import Needs
    from conformance._suite.say import Say

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


async def given_namespaces(
    cluster: Cluster, namespaces: Mapping[str, str], nodes: Sequence[NodeFacts], needs: Needs, say: Say
) -> list[str]:
    """
    What is wrong with the namespaces that are given (by key), and with what admission does to pods in them.
    """
    problems = []
    usable = {}
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
        usable[key] = name
    return problems + await look_inside(cluster, usable, nodes, needs, say)


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
            f"a HostProcess pod in namespace {namespace} would be refused: {words(answer)}",
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
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PREFLIGHT}, "spec": spec}
    answer = await _dry_run(cluster, f"/api/v1/namespaces/{namespace}/pods", pod)
    if f'violates PodSecurity "{LEVELS[key]}:' in answer.message:
        return []
    judged = "so Pod Security cannot be judged"
    if answer.code != 201:
        return [
            problem(
                f"not Pod Security but another refuses a pod with hostNetwork in namespace {namespace}, {judged}: "
                f"{words(answer)}",
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
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PREFLIGHT}, "spec": spec}


async def _dry_run(cluster: Cluster, path: str, body: object) -> Answer:
    return await cluster.request(
        "POST", path, body, query={"dryRun": "All"}, seconds=DRY_RUN_SECONDS, passing=NOT_A_WEBHOOKS, repeatable=True
    )
