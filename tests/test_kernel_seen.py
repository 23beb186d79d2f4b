"""
Whose pod is whose, and whom an event wakes: a DaemonSet's pod belongs to a node only once it is bound to it.
"""

from __future__ import annotations

from typing import Any

from conformance._suite.observe.seen import Seen, kept_of_event, kept_of_node, kept_of_pod


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


def _event(uid: str, about: str, second: int = 0) -> dict[str, Any]:
    metadata = {"uid": uid, "creationTimestamp": f"2026-01-01T00:00:{second:02}Z", "managedFields": [{}]}
    return {
        "metadata": metadata, "involvedObject": {"kind": "Pod", "name": about, "fieldPath": "spec"}, "type": "Normal",
        "reason": uid, "message": f"message {uid}", "source": {"component": "kubelet"},
    }  # fmt: skip


def test_an_event_wakes_only_whom_it_concerns() -> None:
    seen = Seen()
    for number in (1, 2):
        seen.pod_changed("ADDED", _pod(f"sample-{number}", f"win-{number}", "sample"))
    bells = {
        key: seen.bell(*key) for key in (("sample", "win-1"), ("sample", "win-2"), ("sample", ""), ("other", "win-1"))
    }

    def rung_by(about: str) -> set[tuple[str, str]]:
        for bell in bells.values():
            bell.clear()
        seen.event_changed("ADDED", _event(f"about-{about}", about))
        return {key for key, bell in bells.items() if bell.is_set()}

    assert rung_by("sample-1") == {("sample", "win-1"), ("sample", "")}
    assert rung_by("sample") == {("sample", "win-1"), ("sample", "win-2"), ("sample", "")}
    assert rung_by("other") == {("other", "win-1")}
    assert rung_by("nobody") == set()


def test_a_pod_that_moves_or_goes_is_found_nowhere_else() -> None:
    seen = Seen()
    seen.pod_changed("ADDED", _pod("sample-1", None, "sample"))
    seen.pod_changed("MODIFIED", _pod("sample-1", "win-1", "sample"))
    seen.pod_changed("MODIFIED", _pod("sample-1", "win-1", "sample"))
    assert (len(seen.pods_of("sample", "")), len(seen.pods_of("sample", "win-1")), seen.count) == (1, 1, 1)
    seen.pod_changed("DELETED", _pod("sample-1", "win-1", "sample"))
    assert seen.pods_of("sample", "") == seen.pods_of("sample", "win-1") == []
    assert (seen.pods, seen.pod_of("sample", "win-1"), seen.count) == ({}, None, 1)


def test_a_pod_on_its_way_out_comes_last() -> None:
    seen = Seen()
    leaving = _pod("a", "win-1", "sample")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen.pod_changed("MODIFIED", leaving)
    seen.pod_changed("ADDED", _pod("b", "win-1", "sample"))
    assert [pod["metadata"]["name"] for pod in seen.pods_of("sample", "win-1")] == ["b", "a"]


def test_events_come_oldest_first_and_as_evidence_needs_them() -> None:
    seen = Seen()
    for uid, second in (("late", 9), ("early", 1), ("same", 9)):
        seen.event_changed("ADDED", kept_of_event(_event(uid, "plain", second)))
    seen.event_changed("ADDED", kept_of_event(_event("foreign", "other", 1)))
    seen.event_changed("MODIFIED", kept_of_event({**_event("late", "plain", 9), "count": 3}))
    found = seen.events_of({"plain"})
    assert [(one["reason"], one["count"]) for one in found] == [("early", 1), ("late", 3), ("same", 1)]
    assert found[0] == {
        "type": "Normal", "reason": "early", "message": "message early", "object": "Pod/plain", "count": 1,
    }  # fmt: skip


def test_no_more_is_kept_than_is_needed() -> None:
    pod = _pod("plain", "win-1")
    pod["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    assert kept_of_pod(pod) == _pod("plain", "win-1")
    assert kept_of_node({"metadata": {"name": "n", "uid": "u", "labels": {}}, "status": {}}) == {
        "metadata": {"name": "n", "uid": "u"}
    }
    assert kept_of_event(_event("one", "plain")).keys() == {
        "metadata", "involvedObject", "type", "reason", "message", "count",
    }  # fmt: skip


def test_events_of_one_second_come_in_the_order_in_which_they_were_seen() -> None:
    seen = Seen()
    for uid, about in (("first", "sample"), ("second", "a-pod"), ("third", "sample")):
        seen.event_changed("ADDED", _event(uid, about))
    seen.event_changed("MODIFIED", _event("first", "sample"))
    assert [one["reason"] for one in seen.events_of({"a-pod", "sample"})] == ["first", "second", "third"]
