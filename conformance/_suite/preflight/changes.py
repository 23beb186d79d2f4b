"""
What admission changed in a pod that was sent, and whether that makes another pod of it. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from conformance._suite.versions import comes_before

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from conformance._suite.facts import NodeFacts

_CONTAINER = r"spec\.(?:containers|initContainers|ephemeralContainers)\[[^]]*\]"
_DEFAULTED = re.compile(
    r"metadata\.(uid|namespace|creationTimestamp|generation|resourceVersion|managedFields|selfLink)"
    # What the DaemonSet controller gives the pods that it makes of a template.
    r"|metadata\.(name|generateName|ownerReferences.*|labels\.(controller-revision-hash|pod-template-generation))"
    r"|spec\.(dnsPolicy|serviceAccount|serviceAccountName|schedulerName|priority|preemptionPolicy|enableServiceLinks)"
    r"|spec\.nodeName|spec\.imagePullSecrets(\[.*\])?"
    r"|spec\.tolerations\[node\.kubernetes\.io/.*\]"
    r"|spec\.volumes\[[^]]*\]\.(secret|configMap|projected|downwardAPI)\.defaultMode|.*\.fieldRef\.apiVersion"
    rf"|{_CONTAINER}\.(imagePullPolicy|resizePolicy|terminationMessagePath|terminationMessagePolicy)"
    # The service account's token.
    rf"|(spec\.volumes|{_CONTAINER}\.volumeMounts)\[kube-api-access-[^]]*\]"
    r"|status|status\..*"
)
"""What every API server adds to a pod as the suite's are."""
_DEFAULTS: dict[str, object] = {"spec.restartPolicy": "Always", "spec.terminationGracePeriodSeconds": 30}
_HARMFUL = re.compile(
    rf"{_CONTAINER}"
    rf"|{_CONTAINER}\.(image|command|args|securityContext|workingDir|volumeMounts|volumeDevices|lifecycle|livenessProbe"
    r"|readinessProbe|startupProbe|envFrom|ports|restartPolicy|restartPolicyRules|tty|stdin)\b.*"
    # From which Windows finds programs and PowerShell its modules, what binds PowerShell or loads a profiler into it,
    # where the API server is, and what tells a probe who it is.
    rf"|{_CONTAINER}\.env\[(?i:path|pathext|psmodulepath|comspec|systemroot|systemdrive|windir|temp|tmp|userprofile"
    r"|__pslockdownpolicy|psexecutionpolicypreference|psmoduleanalysiscachepath|cor_[^]]*|coreclr_[^]]*"
    r"|kubernetes_service_host|kubernetes_service_port|container_sandbox_mount_point|probe|role|task|stay|nonce)\].*"
    r"|spec\.(volumes|hostNetwork|hostPID|hostIPC|hostUsers|os|runtimeClassName|securityContext|nodeSelector"
    r"|affinity|schedulingGates|hostAliases|hostname|activeDeadlineSeconds|restartPolicy|shareProcessNamespace|overhead"
    r"|resources|resourceClaims)\b.*"
    # What the runtime, or its shim, takes orders from.
    r"|metadata\.annotations\.(io\.microsoft\.|io\.containerd\.cri\.runtime-handler|microsoft\.com/(hostprocess-|disable-hostprocess-container)).*"
)
"""What, when it is added, makes another pod of it."""
_KIND = re.compile(rf"(adds|takes away) {_CONTAINER}|.*\.(hostNetwork|windowsOptions)\b.*|.* spec\.os\b.*")
_HARMLESS = re.compile(rf"{_CONTAINER}\.resources\.requests\b.*|spec\.automountServiceAccountToken")
"""
What may even be changed: a request is the scheduler's, no limit; and the token is looked for by where it is mounted.
"""
_LEAVES = re.compile(
    rf"metadata\.(labels|annotations)|{_CONTAINER}\.resources(\.(limits|requests))?|(.*\.)?securityContext"
    r"|spec\.nodeSelector"
)
"""What is looked at key by key even where nothing was sent."""
_SELECTOR = "spec.nodeSelector."
_MEMORY_LIMIT = re.compile(rf"{_CONTAINER}\.resources\.limits\.memory")
_ROOMY = 256 * 2**20
"""A memory limit that leaves a container room; PowerShell takes 60 to 100 MiB, and a probe has to work in it."""
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)(?:([KMGTPE]i|[kMGTPE])|[eE]([+-]?\d+))?")
_UNITS = {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", 1)} | {
    unit: 1000**power for power, unit in enumerate("kMGTPE", 1)
}
_IMAGE = re.compile(r"(.+?)(?::([\w.-]+))?(?:@(sha256:[0-9a-f]{64}))?")
"""Repository, tag, digest."""
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


def changes(
    sent: Mapping[str, Any], answered: Mapping[str, Any], server: str = "", nodes: Sequence[NodeFacts] = ()
) -> tuple[list[str], list[str]]:
    """
    What admission did to a pod (a DaemonSet's template, ephemeral containers that are patched into a pod), by JSON
    path: what makes another pod of it, and what does not. Whatever was sent and came back otherwise makes another pod
    of it. ``answered`` is the API's object; of a DaemonSet it may be a pod. ``server`` is the API server's version.
    What all of ``nodes`` have may be added to the node selector.
    """
    sent, answered = _pod(sent), _pod(answered)
    if sent.keys() == {"spec"}:  # a patch
        answered = {"spec": {key: answered["spec"].get(key) for key in sent["spec"]}}
    harmful: list[str] = []
    harmless: list[str] = []
    for sign, path, value in _differences("", sent, answered):
        if (sign == "adds" and _is_default(path, value, answered)) or _is_unknown(sign, path, server):
            continue
        selected = sign == "adds" and path.startswith(_SELECTOR)
        unmet = [one.name for one in nodes if one.labels.get(path.removeprefix(_SELECTOR)) != value] if selected else []
        if _is_harmful(sign, path, value) and not (selected and nodes and not unmet):
            harmful.append(f"{sign} {path}" + (f" (not met by {unmet[0]})" if unmet else ""))
        else:
            harmless.append(f"{sign} {path}")
    if sent["spec"].get("automountServiceAccountToken"):
        harmful += [
            f"takes away spec.containers[{container['name']}].volumeMounts[the account's token]"
            for container in answered["spec"]["containers"]
            if TOKEN_PATH not in {mount["mountPath"] for mount in container.get("volumeMounts") or ()}
        ]
    return harmful, harmless


def kind_changes(harmful: Sequence[str]) -> list[str]:
    """
    Those of the harmful changes that bear on whether it is a HostProcess pod, and a valid one: whole containers, whose
    network it has, and what its security contexts say of Windows.
    """
    return [one for one in harmful if _KIND.fullmatch(one)]


def _pod(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    A pod as it is; of a DaemonSet the pod that its template describes.
    """
    template = document["spec"].get("template")
    return template if isinstance(template, dict) else document


def _is_default(path: str, value: Any, answered: Mapping[str, Any]) -> bool:
    """
    Whether an API server adds this to every pod that says nothing else.
    """
    if path in _DEFAULTS:
        return bool(_DEFAULTS[path] == value)
    if path.endswith(".hostPath.type"):
        return not value
    # A request that is not there is the limit's.
    container, request, resource = path.partition(".resources.requests.")
    if request:
        for one in [*answered["spec"].get("initContainers", ()), *answered["spec"].get("containers", ())]:
            if container.endswith(f"[{one['name']}]") and one["resources"].get("limits", {}).get(resource) == value:
                return True
    return value in ({}, None) or _DEFAULTED.fullmatch(path) is not None


def _is_unknown(sign: str, path: str, server: str) -> bool:
    """
    Whether the API server does not know the field yet.
    """
    return (sign, path) == ("takes away", "spec.os") and comes_before(server, "1.24")


def _is_harmful(sign: str, path: str, value: Any) -> bool:
    if _HARMLESS.fullmatch(path):
        return False
    if _MEMORY_LIMIT.fullmatch(path) and sign == "adds":
        read = _QUANTITY.fullmatch(str(value))
        return read is None or float(f"{read[1]}e{read[3] or 0}") * _UNITS.get(read[2], 1) < _ROOMY
    return sign != "pins" and (sign != "adds" or _HARMFUL.fullmatch(path) is not None)


def _differences(path: str, sent: Any, answered: Any) -> Iterator[tuple[str, str, Any]]:
    """
    Each difference: what was done, where, and the value now. Items of a list are known by their name or key, or, where
    they have none and are as many as before, by their place.
    """
    step = ("{}.{}" if path else "{}{}").format
    if isinstance(sent, list) and isinstance(answered, list):
        step = "{}[{}]".format
        if _named(sent + answered):
            names = _names(sent + answered)
            answered = dict(zip(names[len(sent) :], answered, strict=True))
            sent = dict(zip(names, sent, strict=False))
        elif len(sent) == len(answered):
            sent, answered = dict(enumerate(sent)), dict(enumerate(answered))
    if not (isinstance(sent, dict) and isinstance(answered, dict)):
        if sent != answered:
            yield "pins" if path.endswith(".image") and _pins(sent, answered) else "changes", path, answered
        return
    for key in [*sent, *(key for key in answered if key not in sent)]:
        below, now = step(path, key), answered.get(key)
        if key in sent and key in answered:
            yield from _differences(below, sent[key], now)
        elif key in sent:
            yield "takes away", below, None
        elif isinstance(now, list) and now and _named(now):
            yield from _differences(below, [], now)
        elif isinstance(now, dict) and _LEAVES.fullmatch(below):
            yield from _differences(below, {}, now)
        else:
            yield "adds", below, now


def _pins(sent: object, answered: object) -> bool:
    """
    Whether it is the same image, by its digest.
    """
    one, other = _IMAGE.fullmatch(str(sent)), _IMAGE.fullmatch(str(answered))
    if one is None or other is None or one[1] != other[1] or other[3] is None:
        return False
    return other[2] in {None, one[2]} and one[3] in {None, other[3]}


def _named(items: Sequence[Any]) -> bool:
    return all(isinstance(item, dict) and item.keys() & {"name", "key", "operator"} for item in items)


def _names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """
    A name for each item of both sides, the same for the same one: a toleration is all that it tolerates, a volume's
    mount is also where it is. That is told where the name is not enough.
    """
    names = [str(item.get("name", item.get("key", "*"))) for item in items]
    wholes: dict[str, set[str]] = {}
    for name, item in zip(names, items, strict=True):
        wholes.setdefault(name, set()).add(_whole(name, item))
    return [name if len(wholes[name]) == 1 else _whole(name, item) for name, item in zip(names, items, strict=True)]


def _whole(name: str, item: Mapping[str, Any]) -> str:
    keys = ("mountPath",) if "name" in item else ("operator", "value", "effect")
    return " ".join([name, *(str(item[key]) for key in keys if key in item)])
