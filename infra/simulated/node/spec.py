"""
From a pod's spec to what the runtime is asked for. Pure: nothing here waits or talks to anyone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_QUANTITY = re.compile(r"([+-]?[0-9.]+)([eE][+-]?[0-9]+)?([A-Za-z]*)")
_REFERENCE = re.compile(r"\$\$|\$\(([^()]*)\)")


def quantity(text: str | float) -> Fraction:
    """
    The value of a ``resource.Quantity``. Raises ValueError.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if not match or match[3] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity")
    return Fraction(match[1]) * Fraction(10) ** int((match[2] or "e0")[1:]) * _SUFFIXES[match[3]]


def rounded_up(value: Fraction) -> int:
    """
    The smallest integer that is not less.
    """
    return -(-value.numerator // value.denominator)


def expand(text: str, known: Mapping[str, str]) -> str:
    """
    The kubelet's own expansion: ``$(NAME)`` of known names, ``$$`` is a dollar sign, everything else stays.
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return known.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


@dataclass(frozen=True, slots=True)
class Security:
    """
    A container's effective Windows security: its own fields over the pod's, one by one.
    """

    user: str | None
    host_process: bool
    run_as_non_root: bool


def security(pod_spec: dict[str, Any], container: dict[str, Any]) -> Security:
    """
    Merge both levels.
    """
    outer = pod_spec.get("securityContext") or {}
    inner = container.get("securityContext") or {}
    windows = {**(outer.get("windowsOptions") or {}), **(inner.get("windowsOptions") or {})}
    return Security(
        user=windows.get("runAsUserName") or None,
        host_process=bool(windows.get("hostProcess")),
        run_as_non_root=bool(inner.get("runAsNonRoot", outer.get("runAsNonRoot"))),
    )


def all_containers(pod_spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """
    Every container with the name of the list it stands in.
    """
    return [
        (kind, c) for kind in ("initContainers", "containers", "ephemeralContainers") for c in pod_spec.get(kind) or ()
    ]


def pod_host_process(pod_spec: dict[str, Any], *, of_containers: bool = True) -> bool:
    """
    Whether the sandbox is a HostProcess one: any container is. Without ``of_containers`` only what the pod itself says
    counts, as for the kubelets before kubernetes#110140.
    """
    if not of_containers:
        return security(pod_spec, {}).host_process
    return any(security(pod_spec, container).host_process for _, container in all_containers(pod_spec))


def sandbox_refusal(pod_spec: dict[str, Any]) -> str | None:
    """
    The kubelet's own check of HostProcess pods that an API server let through, None when there is nothing to refuse.
    """
    values = {security(pod_spec, container).host_process for _, container in all_containers(pod_spec)}
    if True not in values:
        return None
    windows = (pod_spec.get("securityContext") or {}).get("windowsOptions") or {}
    if windows.get("hostProcess") is False:
        return "pod must not contain any HostProcess containers if Pod's WindowsOptions.HostProcess is set to false"
    if False in values:
        return "pod must not contain both HostProcess and non-HostProcess containers"
    if not pod_spec.get("hostNetwork"):
        return "hostNetwork is required if Pod contains HostProcess containers"
    return None


def admission_refusal(pod: dict[str, Any]) -> tuple[str, str] | None:
    """
    Reason and message when a Windows kubelet does not take the pod at all.
    """
    label = (pod["metadata"].get("labels") or {}).get("kubernetes.io/os")
    if label not in {None, "windows"}:
        return (
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    if (pod["spec"].get("os") or {}).get("name", "windows") != "windows":
        return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
    return None


_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def requests(pod_spec: dict[str, Any]) -> dict[str, int]:
    """
    What a pod takes of its node: ``cpu`` in thousandths of a processor, the others in bytes.

    Source: kubernetes component-helpers resource/helpers.go (PodRequests).
    """
    total = dict.fromkeys(_RESOURCES, Fraction())
    for container in pod_spec.get("containers") or ():
        total = {name: value + _request(container, name) for name, value in total.items()}
    sidecars = dict.fromkeys(_RESOURCES, Fraction())
    peak = dict.fromkeys(_RESOURCES, Fraction())
    for container in pod_spec.get("initContainers") or ():
        needs = {name: value + _request(container, name) for name, value in sidecars.items()}
        if container.get("restartPolicy") == "Always":
            sidecars = needs
        peak = {name: max(value, needs[name]) for name, value in peak.items()}
    overhead = pod_spec.get("overhead") or {}
    made = {}
    for name in _RESOURCES:
        value = max(total[name] + sidecars[name], peak[name])
        of_pod = ((pod_spec.get("resources") or {}).get("requests") or {}).get(name)
        value = quantity(of_pod) if of_pod is not None else value
        value += quantity(overhead.get(name, 0))
        made[name] = rounded_up(value * 1000 if name == "cpu" else value)
    return made


def _request(container: dict[str, Any], name: str) -> Fraction:
    return quantity(((container.get("resources") or {}).get("requests") or {}).get(name, 0))


def resource_refusal(
    pod_spec: dict[str, Any], others: Iterable[dict[str, Any]], allocatable: Mapping[str, str]
) -> tuple[str, str] | None:
    """
    Reason and message when the node is too full for the pod; ``others`` are the specs of the pods that are on it.

    Source: kubernetes pkg/kubelet/lifecycle/predicate.go, pkg/scheduler/framework/plugins/noderesources/fit.go.
    """
    others = list(others)
    wanted = {"pods": 1, **requests(pod_spec)}
    used = {"pods": len(others), **dict.fromkeys(_RESOURCES, 0)}
    for other in others:
        for name, value in requests(other).items():
            used[name] += value
    for name, value in wanted.items():
        capacity = rounded_up(quantity(allocatable[name]) * (1000 if name == "cpu" else 1))
        if value and value > capacity - used[name]:
            text = f"requested: {value}, used: {used[name]}, capacity: {capacity}"
            return f"OutOf{name}", f"Node didn't have enough resource: {name}, {text}"
    return None


def asks_for_labels(pod_spec: dict[str, Any]) -> bool:
    """
    Whether the pod says anything about the node's labels; a DaemonSet's says only its name.
    """
    terms = _node_terms(pod_spec) or ()
    return bool(pod_spec.get("nodeSelector")) or any(term.get("matchExpressions") for term in terms)


def affinity_refusal(pod_spec: dict[str, Any], node: dict[str, Any]) -> tuple[str, str] | None:
    """
    Reason and message when the pod does not want this node: nodeSelector and required node affinity.

    Source: kubernetes pkg/kubelet/lifecycle/predicate.go, component-helpers scheduling/corev1/nodeaffinity.
    """
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    selected = all(labels.get(key) == value for key, value in (pod_spec.get("nodeSelector") or {}).items())
    terms = _node_terms(pod_spec)
    if selected and (terms is None or any(_term_matches(term, labels, fields) for term in terms)):
        return None
    text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    return "NodeAffinity", text


def _node_terms(pod_spec: dict[str, Any]) -> list[dict[str, Any]] | None:
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return list(required.get("nodeSelectorTerms") or ()) if required else None


def _term_matches(term: dict[str, Any], labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    expressions, names = term.get("matchExpressions") or [], term.get("matchFields") or []
    return bool(expressions or names) and (
        all(_matches(one, labels) for one in expressions) and all(_matches(one, fields) for one in names)
    )


def _matches(expression: dict[str, Any], known: Mapping[str, str]) -> bool:
    value, values = known.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    try:
        number, limit = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > limit if expression["operator"] == "Gt" else number < limit


def non_root_refusal(pod: dict[str, Any], container: dict[str, Any], image_user: str | None) -> str | None:
    """
    What the kubelet says of ``runAsNonRoot`` on Windows, where one name only counts as root.
    """
    merged = security(pod["spec"], container)
    if not merged.run_as_non_root:
        return None
    metadata = pod["metadata"]
    where = f'(pod: "{metadata["name"]}_{metadata["namespace"]}({metadata["uid"]})", container: {container["name"]})'
    if merged.user is not None:
        if merged.user.lower() != "containeradministrator":
            return None
        return (
            f"container's runAsUserName ({merged.user}) which will be regarded as root identity "
            f"and will break non-root policy {where}"
        )
    if (image_user or "").lower() == "containeradministrator":
        return (
            f"container's runAsUser ({image_user}) which will be regarded as root identity "
            f"and will break non-root policy {where}"
        )
    return None


def cpu_maximum(container: dict[str, Any], processors: int) -> int | None:
    """
    The share of the node's processors in hundredths of a per cent, 1 to 10000; None without a limit.
    """
    limit = ((container.get("resources") or {}).get("limits") or {}).get("cpu")
    if limit is None or not quantity(limit):
        return None
    milli = rounded_up(quantity(limit) * 1000)
    return max(1, min(10000, 10 * milli // processors))


def memory_limit(container: dict[str, Any]) -> int | None:
    """
    Bytes, None without a limit.
    """
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return rounded_up(quantity(limit)) if limit is not None and quantity(limit) else None


def absolute_path(path: str) -> str:
    """
    A path as the kubelet hands it to a Windows runtime: a drive is added when there is none.
    """
    if ":" in path or path.startswith(("\\\\", "//")):
        return path
    return "c:" + path if path.startswith(("/", "\\")) else "c:\\" + path


def service_environment(services: Iterable[dict[str, Any]], namespace: str, *, links: bool) -> dict[str, str]:
    """
    The variables about services: the ``kubernetes`` one always, those of the pod's namespace when ``links`` is set.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        if spec.get("clusterIP") in {None, "", "None"}:
            continue
        if metadata["namespace"] == "default" and metadata["name"] == "kubernetes":
            chosen.setdefault("kubernetes", service)
        if links and metadata["namespace"] == namespace:
            chosen[metadata["name"]] = service
    made: dict[str, str] = {}
    for name, service in sorted(chosen.items()):
        prefix = name.upper().replace("-", "_")
        address = service["spec"]["clusterIP"]
        ports = service["spec"].get("ports") or []
        if not ports:
            continue
        first = ports[0]
        made[f"{prefix}_SERVICE_HOST"] = address
        made[f"{prefix}_SERVICE_PORT"] = str(first["port"])
        made[f"{prefix}_PORT"] = f"{first.get('protocol', 'TCP').lower()}://{address}:{first['port']}"
        for port in ports:
            if port.get("name"):
                made[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
            protocol = port.get("protocol", "TCP")
            link = f"{prefix}_PORT_{port['port']}_{protocol}"
            made[link] = f"{protocol.lower()}://{address}:{port['port']}"
            made[f"{link}_PROTO"] = protocol.lower()
            made[f"{link}_PORT"] = str(port["port"])
            made[f"{link}_ADDR"] = address
    return made


_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


def field(pod: dict[str, Any], path: str, addresses: Mapping[str, str]) -> str:
    """
    What the downward API says of a pod; ``addresses`` has ``hostIP`` and ``podIP``. Raises ValueError.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    match path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata[path.removeprefix("metadata.")])
        case "metadata.labels" | "metadata.annotations":
            mapping = metadata.get(path.removeprefix("metadata.")) or {}
            return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(mapping.items()))
        case "spec.nodeName":
            return str(spec.get("nodeName", ""))
        case "spec.serviceAccountName":
            return str(spec.get("serviceAccountName", ""))
        case "status.hostIP" | "status.hostIPs":
            return addresses["hostIP"]
        case "status.podIP" | "status.podIPs":
            return addresses["podIP"]
    raise ValueError(f"unsupported fieldPath: {path}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def resource(container: dict[str, Any], selector: dict[str, Any], allocatable: Mapping[str, str]) -> str:
    """
    What a resourceFieldRef gives: a missing limit is the node's allocatable. Raises ValueError.
    """
    kind, _, name = selector["resource"].partition(".")
    resources = container.get("resources") or {}
    value = (resources.get(kind) or {}).get(name)
    if value is None:
        value = allocatable.get(name, "0") if kind == "limits" else "0"
    divisor = quantity(selector.get("divisor") or "0") or Fraction(1)
    return str(rounded_up(quantity(value) / divisor))


def restarts(policy: str, code: int) -> bool:
    """
    Whether a container that ended with ``code`` is started again.
    """
    return policy == "Always" or (policy == "OnFailure" and code != 0)
