"""
The manifests that grant what the suite needs and nothing else, for whoever administers the cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance._suite.errors import UsageError
from conformance._suite.namespaces import ENFORCE_LABEL, LEVELS, NAMESPACE, namespaces_of, require_namespace
from conformance._suite.preflight.rights import COUNTING, Right, Rule, rules

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "hostprocess-conformance"
ACCOUNT = f"{NAME}/conformance"
"""The service account that the manifests make where no other is asked for."""


PART_OF = f"app.kubernetes.io/part-of: {NAME}"


def manifests(namespace: str | None, account: str = ACCOUNT, *, openshift: bool = False) -> str:
    """
    YAML for ``kubectl apply``: a service account (``NAMESPACE/NAME``), and its roles with or, where ``namespace`` names
    the given one, without the right to create namespaces; on OpenShift also the use of a security context constraint.
    Raises UsageError for names that cannot be.
    """
    if openshift and namespace is None:
        raise UsageError(
            "--openshift needs --namespace NAME",
            "the grant is to the account `default` of namespaces, and those that a run creates are not known before",
        )
    home, name = _account(account)
    if namespace is None:
        made: dict[str, str | None] = {}
        granted = [_role("ClusterRole", NAME, None, rules(None)[None]), _binding(NAME, None, home, name)]
        first = _CREATING
    else:
        require_namespace(namespace)
        places = namespaces_of(namespace)
        made = {place: LEVELS[key] for key, place in places.items()}
        nodes, *others = rules(namespace).items()
        own = f"{NAME}-nodes"
        granted = [_role("ClusterRole", own, None, nodes[1], COUNTING), _binding(own, None, home, name)]
        for place, found in others:
            granted += [_role("Role", NAME, place, found), _binding(NAME, place, home, name)]
            if openshift and place:
                granted += [_SCC_ROLE.format(place=place), _scc_binding(place, home, name)]
        first = _GIVEN.format(namespace=namespace)
    if account == ACCOUNT:
        made = {home: None, **made}  # any other account's namespace is there
    created = [_namespace(place, level, openshift=openshift) for place, level in made.items()]
    documents = [*created, _service_account(home, name), *granted]
    note = _NAMESPACES if made else ""
    return first + _WHAT_IT_MEANS + note + "".join(f"---\n{document}" for document in documents)


_CREATING = """\
# What the conformance suite for HostProcess containers needs where it creates its own namespaces (hpc-<run>,
# hpc-<run>-baseline, hpc-<run>-restricted) and deletes them at the end. Their names are not known before, so the rights
# inside them are granted in all namespaces; `--namespace NAME` needs no such thing.
"""
_GIVEN = """\
# What the conformance suite for HostProcess containers needs where it is given its namespaces:
# --namespace {namespace}. It creates and deletes nothing but its own objects in these three.
"""
_WHAT_IT_MEANS = """\
# Whoever may create pods where `privileged` is enforced can be SYSTEM on every Windows node: keep tokens short-lived.
"""
_NAMESPACES = f"""\
# The namespaces below are made where they are not there, and given their labels where they are; take some for this
# alone. `kubectl delete -f` would delete them with all that is in them; the grants alone go with
#   kubectl delete clusterroles,clusterrolebindings,roles,rolebindings -A -l {PART_OF.replace(": ", "=")}
"""


_SCC = f"{NAME}-scc"
_SCC_ROLE = f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {_SCC}
  namespace: "{{place}}"
  labels:
    {PART_OF}
rules:
  # For pods that do not name their system: documented samples, and what is asked of admission. OpenShift leaves alone
  # those that say `windows`. This constraint lets a pod have the host's network and changes nothing in it.
  - apiGroups: ["security.openshift.io"]
    resources: [securitycontextconstraints]
    resourceNames: [privileged]
    verbs: [use]
"""


def _scc_binding(place: str, home: str, name: str) -> str:
    """
    To the account, and to the one that pods have whom a DaemonSet's controller creates: either's right is enough.
    """
    binding = _binding(_SCC, place, home, name)
    return binding + f'  - kind: ServiceAccount\n    name: default\n    namespace: "{place}"\n'


def _account(account: str) -> tuple[str, str]:
    home, _, name = account.partition("/")
    if not all(NAMESPACE.fullmatch(part) and len(part) <= 63 for part in (home, name)):
        raise UsageError(f"--account {account!r} is not a service account", f"write NAMESPACE/NAME, like {ACCOUNT}")
    return home, name


# Names that a user chose are quoted: `on` and `123` are names, too.
def _namespace(name: str, level: str | None, *, openshift: bool) -> str:
    labels = f"  labels:\n    {ENFORCE_LABEL}: {level}\n" if level else ""
    if labels and openshift:
        labels += '    security.openshift.io/scc.podSecurityLabelSync: "false"\n'
        # A cluster's default would be put into the pods, and may name nodes of another system.
        labels += '  annotations:\n    openshift.io/node-selector: ""\n'
    return f'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "{name}"\n{labels}'


def _service_account(home: str, name: str) -> str:
    return f'apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: "{name}"\n  namespace: "{home}"\n'


def _role(kind: str, name: str, namespace: str | None, found: Iterable[Rule], optional: Right | None = None) -> str:
    lines = [*_head(kind, name, namespace), "rules:"]
    for rule in found:
        lines += _rule(rule)
    if optional is not None:
        why, *commented_out = _rule(optional)
        lines += [f"{why}:", *(f"  # {line[2:]}" for line in commented_out)]
    return "\n".join(lines) + "\n"


def _rule(rule: Rule | Right) -> list[str]:
    return [
        f"  # {rule.why}",
        f'  - apiGroups: ["{rule.group}"]',
        f"    resources: [{rule.resource}]",
        f"    verbs: [{', '.join(rule.verbs)}]",
    ]


def _binding(role: str, namespace: str | None, home: str, name: str) -> str:
    scope = "" if namespace else "Cluster"
    # Cluster-wide, each account has a binding of its own.
    own = role if namespace else f"{role}-{home}-{name}"
    return "\n".join(
        [
            *_head(f"{scope}RoleBinding", own, namespace),
            "roleRef:",
            "  apiGroup: rbac.authorization.k8s.io",
            f"  kind: {scope}Role",
            f"  name: {role}",
            "subjects:",
            "  - kind: ServiceAccount",
            f'    name: "{name}"',
            f'    namespace: "{home}"',
            "",
        ]
    )


def _head(kind: str, name: str, namespace: str | None) -> list[str]:
    where = [f'  namespace: "{namespace}"'] if namespace else []
    metadata = [f"  name: {name}", *where, "  labels:", f"    {PART_OF}"]
    return ["apiVersion: rbac.authorization.k8s.io/v1", f"kind: {kind}", "metadata:", *metadata]
