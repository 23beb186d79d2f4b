"""
Whose pod is whose: a DaemonSet's pod belongs to a node only once it is bound to it.
"""

from __future__ import annotations

from typing import Any

from conformance._suite.observe.seen import Seen


def _pod(name: str, node: str | None, owner: str | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "uid": f"uid-{name}"}
    if owner:
        metadata["ownerReferences"] = [{"name": owner}]
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}}


def test_a_pod_that_is_not_bound_yet_is_no_nodes_pod() -> None:
    seen = Seen()
    seen.pod_changed("ADDED", _pod("sample-1", None, "sample"))
    assert seen.pods_of("sample", "win-1") == []
    seen.pod_changed("MODIFIED", _pod("sample-1", "win-2", "sample"))
    assert seen.pods_of("sample", "win-1") == []
    assert [pod["metadata"]["name"] for pod in seen.pods_of("sample", "win-2")] == ["sample-1"]


def test_the_bell_of_the_node_rings_for_its_pods_only() -> None:
    seen = Seen()
    first, second = seen.bell("sample", "win-1"), seen.bell("sample", "win-2")
    seen.pod_changed("ADDED", _pod("sample-1", "win-1", "sample"))
    assert (first.is_set(), second.is_set()) == (True, False)


def test_a_pod_that_is_deleted_is_gone() -> None:
    seen = Seen()
    seen.pod_changed("ADDED", _pod("plain", "win-1"))
    assert len(seen.pods_of("plain", "win-1")) == 1
    seen.pod_changed("DELETED", _pod("plain", "win-1"))
    assert seen.pods_of("plain", "win-1") == []
