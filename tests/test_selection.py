"""
Which nodes are tested, why the others are not, and expectations: every sentence a user reads about it.
"""

from __future__ import annotations

from typing import Any

import pytest

from conformance._suite.errors import UsageError
from conformance._suite.facts import NodeFacts
from conformance._suite.preflight.selection import (
    Choice,
    Expectations,
    breaches,
    build,
    choose,
    os_sku,
    with_stated,
)
from conformance._suite.versions import meets


def node(name: str, **given: Any) -> dict[str, Any]:
    """
    A node as the API gives it: ready, Windows Server 2022.
    """
    labels = {"kubernetes.io/os": given.get("os", "windows"), **given.get("labels", {})}
    ready = {"type": "Ready", "status": given.get("ready", "True"), "message": given.get("message", "")}
    return {
        "metadata": {"name": name, "labels": {key: value for key, value in labels.items() if value}},
        "spec": given.get("spec", {}),
        "status": {
            "capacity": {"cpu": "4"},
            "conditions": [{"type": "DiskPressure", "status": "False"}, ready],
            "nodeInfo": {
                "osImage": given.get("image", "Windows Server 2022 Datacenter"),
                "kernelVersion": given.get("kernel", "10.0.20348.2700"),
            },
        },
    }


def names(chosen: Any) -> list[str]:
    return [item["metadata"]["name"] for item in chosen.nodes]


POOL = [
    node("b"),
    node("a", spec={"taints": [{"key": "os", "value": "windows", "effect": "NoSchedule"}]}),
    node("older", image="Windows Server 2019 Datacenter", kernel="10.0.17763.6293"),
    node("cordoned", spec={"unschedulable": True}),
    node("down", ready="Unknown", message="Kubelet stopped\nposting node status."),
    *(node(f"system-{number}", os="linux") for number in range(5)),
]


def test_all_windows_nodes_that_are_ready_are_tested_and_a_taint_keeps_none_out() -> None:
    chosen = choose(POOL, Choice())
    assert names(chosen) == ["a", "b", "older"]
    assert chosen.problems == ()
    assert chosen.left_out == ("not Windows but linux: 5 nodes (system-0, system-1, system-2 and 2 more)",)
    assert chosen.untested == {"cordoned": "cordoned", "down": "not ready: Kubelet stopped posting node status."}


def test_nodes_that_the_user_leaves_out_are_not_missed() -> None:
    chosen = choose(POOL, Choice(leave_out=("down", "cordoned", "b")))
    assert names(chosen) == ["a", "older"]
    assert chosen.problems == ()
    assert chosen.untested == {}
    assert "by --leave-out: 3 nodes (b, cordoned, down)" in chosen.left_out
    (problem,) = choose(POOL, Choice(leave_out=("nobody",))).problems
    assert problem.startswith("no node is called nobody — the Windows nodes are: a, b,")


@pytest.mark.parametrize(
    "choice", [Choice(os_skus=("Windows2022",)), Choice(builds=("20348",)), Choice(selector="pool=x")]
)
def test_a_chosen_kind_misses_only_nodes_that_may_be_of_it(choice: Choice) -> None:
    never = {"metadata": {"name": "new", "labels": {"kubernetes.io/os": "windows"}}, "spec": {}, "status": {}}
    down = node("down-2019", ready="False", image="Windows Server 2019 Datacenter", kernel="10.0.17763.6293")
    chosen = choose([*POOL, never, down], choice, {"a", "new"} if choice.selector else None)
    missed = {"new"} if choice.selector else {"cordoned", "down", "new"}
    assert set(chosen.untested) == missed


def stated(versions: dict[str, str], *nodes: NodeFacts) -> list[str | None]:
    return [one.stated_containerd for one in with_stated(nodes, Choice(stated=versions))]


def test_a_version_is_stated_only_of_nodes_that_report_none() -> None:
    commit, known = facts("commit", "containerd://abcdef0.m"), facts("known", "containerd://1.7.28-k3s1")
    assert stated({"": "1.7.28"}, commit, known) == ["1.7.28", None]
    assert stated({"commit": "2.0.1", "": "1.7"}, commit, known) == ["2.0.1", None]
    assert stated({}, commit) == [None]
    for versions in ({"": "1.6"}, {"known": "1.7.27"}):
        with pytest.raises(UsageError, match=r"contradicts node known, which reports containerd://1\.7\.28-k3s1"):
            stated(versions, commit, known)
    with pytest.raises(UsageError, match="contradicts node docker"):
        stated({"": "1.7.28"}, facts("docker", "docker://20.10.9"))
    (problem,) = choose(POOL, Choice(stated={"nobody": "1.7.28"})).problems
    assert problem.startswith("no node is called nobody")
    assert breaches(Expectations("1.7"), "v1.34.0", with_stated([commit], Choice(stated={"": "1.7.28"}))) == []


@pytest.mark.parametrize("text", ["", "1", "latest", "abcdef0.m", "2.0.0+unknown"])
def test_a_stated_version_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--containerd-version .* is not a version — write 1\.7\.28, or NODE="):
        Choice(stated={"a": text})


def test_a_node_that_says_nothing_of_itself_is_missed() -> None:
    silent, empty = node("silent"), node("empty")
    del silent["status"]["capacity"]
    # So the API server completes what a kubelet does not send.
    empty["status"]["nodeInfo"] = {"osImage": "", "kernelVersion": "", "containerRuntimeVersion": ""}
    chosen = choose([*POOL, silent, empty], Choice())
    assert names(chosen) == ["a", "b", "older"]
    for name in ("silent", "empty"):
        assert chosen.untested[name] == "says nothing of its capacity or its software"


@pytest.mark.parametrize("label", [None, "linux"])
@pytest.mark.parametrize("by", ["status", "label"])
def test_a_windows_node_without_the_label_is_missed(label: str | None, by: str) -> None:
    odd = node("odd", os=label, labels={"beta.kubernetes.io/os": "windows"} if by == "label" else {})
    if by == "status":
        odd["status"]["nodeInfo"]["operatingSystem"] = "windows"
    chosen = choose([*POOL, odd], Choice())
    assert names(chosen) == ["a", "b", "older"]
    assert chosen.untested["odd"] == "a Windows node without the label kubernetes.io/os=windows"
    (problem,) = choose([*POOL, odd], Choice(names=("odd",))).problems
    assert problem.startswith("node odd cannot be tested: a Windows node without the label")
    assert choose([*POOL, odd], Choice(leave_out=("odd", "cordoned", "down"))).untested == {}


def test_the_number_of_nodes_is_expected_too() -> None:
    (line,) = breaches(Expectations(nodes=2), "v1.34.0", [])
    assert line.startswith("--expect-nodes 2 is not met: there are 0")


def test_a_cordoned_node_that_is_named_is_tested() -> None:
    chosen = choose(POOL, Choice(names=("cordoned", "a")))
    assert names(chosen) == ["a", "cordoned"]
    assert chosen.problems == ()
    assert "not named by --node: 3 nodes (b, down, older)" in chosen.left_out
    assert chosen.untested == {}


def test_every_named_node_that_cannot_be_tested_is_told() -> None:
    cannot, remedy = "cannot be tested", "name another --node, or leave the other option away"
    chosen = choose(POOL, Choice(names=("a", "nobody", "down", "system-1", "older"), os_skus=("Windows2022",)))
    assert chosen.problems == (
        f"node down {cannot}: not ready: Kubelet stopped posting node status. — `kubectl describe node` says why",
        f"node older {cannot}: OS SKU Windows2019, not Windows2022 — {remedy}",
        f"node system-1 {cannot}: not Windows but linux — {remedy}",
        "no node is called nobody — the Windows nodes are: a, b, cordoned, down, older",
    )


def test_by_selector() -> None:
    chosen = choose(POOL, Choice(selector="pool=x"), {"b", "system-0"})
    assert names(chosen) == ["b"]
    assert "not matched by --node-selector pool=x: 4 nodes (a, cordoned, down and 1 more)" in chosen.left_out


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(os_skus=("windows2019",)), ["older"]),
        (Choice(os_skus=("Windows2019", "Windows2022")), ["a", "b", "older"]),
        (Choice(builds=("20348",)), ["a", "b"]),
        (Choice(builds=("20348.2700", "17763.6293")), ["a", "b", "older"]),
        (Choice(builds=("10.0.17763",)), ["older"]),
        (Choice(builds=("20348.27",)), []),
        (Choice(builds=("2034",)), []),
        (Choice(os_skus=("Windows2022",), builds=("17763",)), []),
    ],
)
def test_by_os_sku_and_build(choice: Choice, expected: list[str]) -> None:
    chosen = choose(POOL, choice)
    assert names(chosen) == expected
    assert bool(chosen.problems) == (not expected)


def test_where_nothing_is_left_the_reasons_are_in_the_one_line() -> None:
    (problem,) = choose([], Choice()).problems
    assert problem.startswith("the cluster has no Windows node that is ready — a node counts by its label")
    (problem,) = choose([POOL[3], POOL[-1]], Choice(builds=("26100",))).problems
    reasons = "(Windows build 20348.2700, not 26100: cordoned; not Windows but linux: system-4)"
    assert problem.startswith(f"the cluster has no Windows node that is ready and is asked for {reasons}")


def test_unreachable_unlabelled_and_mute_nodes() -> None:
    items = [
        node("gone", spec={"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}),
        node("nameless", os=""),
        {"metadata": {"name": "new", "labels": {"kubernetes.io/os": "windows"}}, "spec": {}, "status": {}},
        node("silent", ready="False"),
    ]
    chosen = choose(items, Choice())
    assert names(chosen) == []
    assert chosen.left_out == ("without the label kubernetes.io/os: nameless",)
    assert chosen.untested == {
        "gone": "unreachable: its kubelet has not reported for a while",
        "new": "not ready: its kubelet has never reported",
        "silent": "not ready: Ready is False",
    }


def test_the_label_of_the_os_sku_comes_before_the_image_and_the_kernel_before_the_label_of_the_build() -> None:
    assert os_sku(node("x", labels={"kubernetes.azure.com/os-sku": "WindowsAnnual"})) == "WindowsAnnual"
    assert os_sku(node("x", image="Windows Server Datacenter")) == ""
    label = {"node.kubernetes.io/windows-build": "10.0.20348"}
    assert build(node("x", labels=label)) == "20348.2700"
    assert build(node("x", labels=label, kernel="")) == "20348"
    assert build(node("x", kernel="6.8.0-1021-azure")) == ""


@pytest.mark.parametrize(
    ("found", "expected", "met"),
    [
        ("1.7.28", "1.7", True),
        ("1.70", "1.7", False),
        ("1.7", "1.7.0", False),
        ("1.6.21+azure", "1.6.21", True),
        ("2.3.0-rc.1", "2.3", False),
        ("2.3.0-rc.1", "2.3.0-rc.1", True),
        ("2.3.0", "2.3.0-rc.1", False),
        ("v1.33.4-gke.1350000", "1.33", True),
        ("v1.33.4", "v1.33.4", True),
        ("20348.2700", "10.0.20348", True),
        ("unknown", "1", False),
        ("", "1", False),
    ],
)
def test_a_version_meets_an_expectation_by_its_components(found: str, expected: str, met: bool) -> None:
    assert meets(found, expected) is met


def facts(name: str, runtime: str, kubelet: str = "v1.33.4", kernel: str = "10.0.20348.2700") -> NodeFacts:
    return NodeFacts(name, f"uid-{name}", "10.0.0.1", name, runtime, kubelet, "Windows Server 2022", kernel, 4)


def test_a_breach_names_every_node_and_what_it_has() -> None:
    nodes = [
        facts("right", "containerd://1.7.28"),
        facts("old", "containerd://1.6.21+azure", "v1.32.1"),
        facts("docker", "docker://20.10.9", kernel="10.0.17763.6293"),
    ]
    found = breaches(Expectations("1.7.28", "20348.2700", "1.33"), "v1.34.0", nodes)
    assert [problem.partition(" — ")[0] for problem in found] == [
        "--expect-containerd 1.7.28 is not met: old has 1.6.21+azure, docker has docker://20.10.9",
        "--expect-build 20348.2700 is not met: docker has 17763.6293",
        "--expect-kubernetes 1.33 is not met: the API server has v1.34.0, old has v1.32.1",
    ]
    (line,) = breaches(Expectations("2.0"), "v1.34.0", [facts("untagged", "containerd://v2.0.0+unknown")])
    assert line.startswith("--expect-containerd 2.0 is not met: untagged has v2.0.0+unknown")
    assert breaches(Expectations(), "v1.34.0", nodes) == []
    assert breaches(Expectations("1.7", "20348", "1.33.4"), "v1.33.4", nodes[:1]) == []


@pytest.mark.parametrize("text", ["latest", "1.x", "v", "1.7.", " ", "containerd://1.7"])
@pytest.mark.parametrize("component", ["containerd", "build", "kubernetes"])
def test_an_expectation_that_is_no_version(component: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--expect-{component} .* is not a version"):
        Expectations(**{component: text})  # type: ignore[arg-type]


def test_a_choice_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="--windows-build '20H2' is not a build"):
        Choice(builds=("20H2",))
    with pytest.raises(UsageError, match="--os-sku '2022' is not an OS SKU"):
        Choice(os_skus=("2022",))
