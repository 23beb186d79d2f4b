"""
The rights that the engine uses, each with its reason, and which of them a user lacks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.namespaces import ENFORCING, LEVELS, namespaces_of
from conformance._suite.preflight.selection import problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conformance._suite.cluster import Cluster

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


def told_rights(missing: Mapping[str | None, Sequence[str]], namespace: str | None) -> str:
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
