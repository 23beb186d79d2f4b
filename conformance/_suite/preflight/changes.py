"""
What admission changed in a pod that was sent, and whether that makes another pod of it. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
