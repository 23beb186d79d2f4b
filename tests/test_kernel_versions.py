"""
Version gates, by table: Kubernetes gates are proven here and nowhere else.
"""

from __future__ import annotations

import pytest

from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.requirement import Requirement, excluded_by
from conformance._suite.versions import Containerd, Kubernetes, Version


def _node(runtime: str = "containerd://1.7.28", kubelet: str = "v1.37.2") -> NodeFacts:
    return NodeFacts("win-1", "uid", "10.0.0.1", "win-1", runtime, kubelet, "Windows", "10.0.20348", 2)


def _requirement(**bounds: object) -> Requirement:
    return Requirement("area/topic/behaviour", "It does.", source="https://example.org/#it", **bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.6.39", "1.7.0"),
        ("1.7.0-rc.1", "1.7.0"),
        ("1.7.0-beta.2", "1.7.0-rc.0"),
        ("1.7.0-rc.2", "1.7.0-rc.10"),
        ("1.7", "1.7.1"),
        ("v1.9.0", "v1.10.0"),
    ],
)
def test_order(lower: str, higher: str) -> None:
    assert Version.parse(lower) < Version.parse(higher)


def test_build_metadata_does_not_count() -> None:
    assert Version.parse("1.6.21+azure") == Version.parse("1.6.21")


@pytest.mark.parametrize("text", ["", "docker", "1", "1.x", "latest"])
def test_unreadable(text: str) -> None:
    with pytest.raises(Unknown):
        Version.parse(text)


@pytest.mark.parametrize(
    ("runtime", "since", "until", "excluded"),
    [
        ("containerd://1.6.39", "1.7", None, "holds since containerd 1.7"),
        ("containerd://1.7.0", "1.7", None, None),
        ("containerd://2.3.4", "1.7", None, None),
        ("containerd://1.7.0-rc.1", "1.7", None, "holds since containerd 1.7"),
        ("containerd://1.6.39+azure", None, "1.7", None),
        ("containerd://1.7.34", None, "1.7", "holds until containerd 1.7"),
    ],
)
def test_containerd_gate(runtime: str, since: str | None, until: str | None, excluded: str | None) -> None:
    requirement = _requirement(since=[Containerd(since)] if since else [], until=[Containerd(until)] if until else [])
    assert excluded_by(requirement, _node(runtime)) == excluded


def test_another_runtime_is_unknown() -> None:
    with pytest.raises(Unknown):
        excluded_by(_requirement(since=[Containerd("1.7")]), _node("docker://20.10"))


def test_kubernetes_gates_read_the_kubelet_on_a_node_and_the_server_on_the_cluster() -> None:
    requirement = _requirement(since=[Kubernetes("1.28")])
    assert excluded_by(requirement, _node(kubelet="v1.27.9")) == "holds since Kubernetes 1.28"
    assert excluded_by(requirement, ClusterFacts("existing", "v1.28.0", simulated=False)) is None
