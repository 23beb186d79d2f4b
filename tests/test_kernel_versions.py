"""
Version gates, by table: Kubernetes gates are proven here and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance._suite import catalogue
from conformance._suite.errors import Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts, Scope
from conformance._suite.requirement import Requirement, excluded_by
from conformance._suite.versions import Containerd, Kubernetes, Version, meets, said_version, unreadable


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
        ("1.7.23~rc1", "1.7.23"),
        ("1.7.0", "1.7.0-12-gabc"),
        ("v1.7.0-12-gabcdef0", "1.7.1-alpha.1"),
        ("2.0.0-rc.1", "2.0.0-rc.1-5-gabcdef0"),
        ("2.0.0-rc.1-5-gabcdef0", "2.0.0-rc.2"),
        ("1.7.27.0", "1.7.28-k3s1"),
    ],
)
def test_order(lower: str, higher: str) -> None:
    assert Version.parse(lower) < Version.parse(higher)


VENDORS = [
    "{}", "v{}", "{}+azure", "{}-azure.1", "{}-gke.1000", "{}-gke.1350000", "{}-k3s1", "{}-k3s1.32", "{}+rke2r1",
    "{}-eks-94953ac", "{}+29c95f3", "{}~ds1", "{}-0ubuntu1~22.04.1", "{}-1.el8", "{}m1", "{}.m",
]  # fmt: skip
"""How vendors and distributions write a release."""


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("release", ["1.6.21", "1.7.0", "1.28.0", "2.3.0"])
def test_a_vendors_suffix_makes_no_difference(vendor: str, release: str) -> None:
    found = Version.parse(vendor.format(release))
    assert found == Version.parse(release)
    assert not found.pre_release
    assert meets(vendor.format(release), release.rpartition(".")[0])


@pytest.mark.parametrize(
    "text",
    [
        "1.7.0-rc.1", "1.7.0-rc.1.gke.2", "1.7.0-rc_1", "1.7.0_rc1", "1.7.0-RC1", "1.7.0.RC1", "1.7.0-Rc.1-1",
        "1.7.0-rc1eks", "1.7.0-1.rc1.el9", "1.7.0-0.1.rc1.fc38", "1.7.0~rc1~ds1", "1.7.0-rc.1_k3s1",
        "v1.7.0-rc.1.gke.2+azure",
    ],
)  # fmt: skip
def test_a_vendors_suffix_makes_no_release_of_a_candidate(text: str) -> None:
    found = Version.parse(text)
    assert found == Version.parse("1.7.0-rc.1")
    assert found.pre_release
    assert not meets(text, "1.7")


def test_a_candidate_of_a_moment_is_none_of_a_release() -> None:
    assert Version.parse("1.7.0-rc.20230411123456") < Version.parse("1.7.0")


def test_a_file_version_has_four_parts() -> None:
    assert Version.parse("1.7.28.0") == Version.parse("1.7.28")
    assert Version.parse("10.0.20348.2700") > Version.parse("10.0.20348")


@pytest.mark.parametrize(
    "text",
    [
        None, "", "docker", "1", "1.x", "latest", "main", "Unknown", "2.0.0+unknown", "abcdef0", "abcdef0.m", "1234567",
        "1234567.m", "1abc234", "1abc234.m", "1.7.x", "v", "1.7.", "1.7.x-rc.1",
        "0.0.0", "0.0.0-dev", "v0.0.0-master+abcdef0",
    ],
)  # fmt: skip
def test_unreadable(text: str | None) -> None:
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


def _sides(bound: Containerd | Kubernetes) -> tuple[list[str], list[str]]:
    """
    Versions on either side of a bound, as vendors write them: those that do not reach it, and those that do.
    """
    major, minor = Version.parse(bound.version).numbers[:2]
    first = f"{major}.{minor}.0"
    before = [vendor.format(f"{major}.{minor - 1}.99") for vendor in VENDORS]
    reached = [vendor.format(release) for vendor in VENDORS for release in (first, f"{major}.{minor}.28", "2.3.4")]
    candidates = [f"{first}-rc.1", f"{first}~rc1", f"{first}-beta.0+azure"]
    # Where the promise begins with the first pre-release, every one has to keep it.
    early = Version.parse(f"{first}-beta.0") >= Version.parse(bound.version)
    return (before, [*reached, *candidates]) if early else ([*before, *candidates], reached)


@pytest.mark.parametrize("requirement", catalogue.load().requirements.values(), ids=lambda one: one.id)
def test_both_sides_of_every_gate(requirement: Requirement) -> None:
    assert requirement.since
    for bounds, keeps in ((requirement.since, False), (requirement.until, True)):
        for bound in bounds:
            assert isinstance(bound, Containerd | Kubernetes)
            only = replace(requirement, since=[] if keeps else [bound], until=[bound] if keeps else [])
            before, reached = _sides(bound)
            for holds, texts in ((keeps, before), (not keeps, reached)):
                for text in texts:
                    if isinstance(bound, Containerd):
                        facts: NodeFacts | ClusterFacts = _node(f"containerd://{text}")
                    elif requirement.scope is Scope.CLUSTER:
                        facts = ClusterFacts("existing", text, simulated=False)
                    else:
                        facts = _node(kubelet=text)
                    assert (excluded_by(only, facts) is None) is holds, text


def test_what_is_of_1_7_is_promised_from_its_first_pre_release() -> None:
    gates = [bound for one in catalogue.load().requirements.values() for bound in (*one.since, *one.until)]
    assert {str(gate) for gate in gates} == {
        "containerd 1.6", "containerd 1.7.0-alpha.1", "Kubernetes 1.23", "Kubernetes 1.28",
    }  # fmt: skip


def test_a_stated_version_stands_in_for_one_that_cannot_be_read() -> None:
    node = _node("containerd://abcdef0.m")
    assert unreadable(node) is not None
    stated = replace(node, stated_containerd="1.7.28")
    assert unreadable(stated) is None
    assert excluded_by(_requirement(since=[Containerd("1.7")]), stated) is None
    assert unreadable(replace(_node("docker://20.10"), stated_containerd="1.7.28")) is not None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd-shim-runhcs-v1 version 0.11.7", "0.11.7"),
        ("containerd-shim-runhcs-v1.exe version 0.12.0-rc.1\ncommit: abc\nspec: 1.0.2", "0.12.0-rc.1"),
        ("shim:\n  Version:  v1.7.28\n", "1.7.28"),
        ("containerd github.com/containerd/containerd/v2 v2.3.4 0123abc", "2.3.4"),
        ("containerd-shim-runhcs-v1 version spec: 1.2.0", None),
        ("containerd-shim-runhcs-v1.exe version \ncommit: abc\nspec: 1.0.2", None),
        (None, None),
    ],
)
def test_what_a_program_says_of_its_version(text: str | None, version: str | None) -> None:
    if version is None:
        with pytest.raises(Unknown):
            said_version(text)
    else:
        assert said_version(text) == Version.parse(version)


def test_another_runtime_is_unknown() -> None:
    with pytest.raises(Unknown):
        excluded_by(_requirement(since=[Containerd("1.7")]), _node("docker://20.10"))


def test_kubernetes_gates_read_the_kubelet_on_a_node_and_the_server_on_the_cluster() -> None:
    requirement = _requirement(since=[Kubernetes("1.28")])
    assert excluded_by(requirement, _node(kubelet="v1.27.9")) == "holds since Kubernetes 1.28"
    assert excluded_by(requirement, ClusterFacts("existing", "v1.28.0", simulated=False)) is None
