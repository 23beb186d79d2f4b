"""
From a pod's spec to what the runtime is asked for.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from infra.simulated.node import spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", Fraction(1)),
        ("500m", Fraction(1, 2)),
        ("64Mi", Fraction(64 * 2**20)),
        ("1.5Gi", Fraction(3 * 2**29)),
        ("2e3", Fraction(2000)),
        ("3k", Fraction(3000)),
        (2, Fraction(2)),
        ("1E", Fraction(10**18)),
    ],
)
def test_quantities(text: str | int, value: Fraction) -> None:
    assert spec.quantity(text) == value


@pytest.mark.parametrize("text", ["", "abc", "1Q", "1 Mi", "."])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|literal"):
        spec.quantity(text)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(NOPE)", "$(NOPE)"),
        ("$$(A)", "$(A)"),
        ("$$", "$"),
        ("$", "$"),
        ("$A ${A} $env:A %A%", "$A ${A} $env:A %A%"),
        ("$(A", "$(A"),
    ],
)
def test_expansion_is_the_kubelets(text: str, expanded: str) -> None:
    assert spec.expand(text, {"A": "1", "B": "2"}) == expanded


def test_the_containers_security_goes_over_the_pods_field_by_field() -> None:
    pod = {"securityContext": {"runAsNonRoot": True, "windowsOptions": {"hostProcess": True, "runAsUserName": "a"}}}
    container = {"securityContext": {"windowsOptions": {"runAsUserName": "b"}}}
    assert spec.security(pod, container) == spec.Security(user="b", host_process=True, run_as_non_root=True)
    assert spec.security(pod, {}) == spec.Security(user="a", host_process=True, run_as_non_root=True)
    assert spec.security({}, {}) == spec.Security(user=None, host_process=False, run_as_non_root=False)


@pytest.mark.parametrize(
    ("pod", "refusal"),
    [
        ({"containers": [{"name": "a"}]}, None),
        (
            {
                "hostNetwork": True,
                "containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": True}}}],
            },
            None,
        ),
        (
            {"containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": True}}}]},
            "hostNetwork is required",
        ),
        (
            {
                "hostNetwork": True,
                "containers": [
                    {"name": "a", "securityContext": {"windowsOptions": {"hostProcess": True}}},
                    {"name": "b"},
                ],
            },
            "both HostProcess and non-HostProcess",
        ),
        (
            {
                "hostNetwork": True,
                "securityContext": {"windowsOptions": {"hostProcess": False}},
                "containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": True}}}],
            },
            "is set to false",
        ),
    ],
)
def test_the_sandbox_is_refused_in_the_kubelets_words(pod: dict[str, Any], refusal: str | None) -> None:
    said = spec.sandbox_refusal(pod)
    assert said is None if refusal is None else refusal in (said or "")


def test_a_pod_for_another_system_is_not_admitted() -> None:
    assert spec.admission_refusal({"metadata": {}, "spec": {"os": {"name": "windows"}}}) is None
    assert spec.admission_refusal({"metadata": {}, "spec": {}}) is None
    refused = spec.admission_refusal({"metadata": {}, "spec": {"os": {"name": "linux"}}})
    assert refused == ("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    labelled = spec.admission_refusal({"metadata": {"labels": {"kubernetes.io/os": "linux"}}, "spec": {}})
    assert labelled is not None
    assert labelled[0] == "PodOSSelectorNodeLabelDoesNotMatch"


@pytest.mark.parametrize(
    ("user", "image_user", "refused"),
    [
        ("NT AUTHORITY\\SYSTEM", "", False),
        ("containeradministrator", "", True),
        (None, "ContainerAdministrator", True),
        (None, "", False),
    ],
)
def test_one_name_only_counts_as_root(user: str | None, image_user: str, refused: bool) -> None:
    options = {"runAsUserName": user} if user else {}
    pod = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"securityContext": {"runAsNonRoot": True, "windowsOptions": options}},
    }
    said = spec.non_root_refusal(pod, {"name": "c"}, image_user)
    assert (said is not None) == refused
    if said:
        assert said.endswith('will break non-root policy (pod: "p_n(u)", container: c)')


@pytest.mark.parametrize(
    ("limit", "processors", "maximum"),
    [("1", 4, 2500), ("500m", 2, 2500), ("100", 4, 10000), ("1m", 64, 1), ("0", 4, None), (None, 4, None)],
)
def test_cpu_limits_are_shares_of_the_nodes_processors(limit: str | None, processors: int, maximum: int | None) -> None:
    container = {"resources": {"limits": {"cpu": limit}}} if limit is not None else {}
    assert spec.cpu_maximum(container, processors) == maximum


def test_memory_limits_are_bytes() -> None:
    assert spec.memory_limit({"resources": {"limits": {"memory": "64Mi"}}}) == 64 * 2**20
    assert spec.memory_limit({}) is None


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("/var/run", "c:/var/run"),
        ("\\data", "c:\\data"),
        ("data", "c:\\data"),
        ("C:\\data", "C:\\data"),
        ("D:/data", "D:/data"),
        ("\\\\.\\pipe\\x", "\\\\.\\pipe\\x"),
    ],
)
def test_paths_get_a_drive(path: str, absolute: str) -> None:
    assert spec.absolute_path(path) == absolute


def _service(namespace: str, name: str, address: str, port_name: str = "") -> dict[str, Any]:
    port = {"port": 443, "protocol": "TCP"} | ({"name": port_name} if port_name else {})
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": address, "ports": [port]}}


def test_service_variables() -> None:
    services = [
        _service("default", "kubernetes", "10.0.0.1", "https"),
        _service("default", "other", "10.0.0.2"),
        _service("mine", "my-own", "10.0.0.3"),
        _service("mine", "headless", "None"),
    ]
    without = spec.service_environment(services, "mine", links=False)
    assert without == {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.0.0.1",
    }
    linked = spec.service_environment(services, "mine", links=True)
    assert linked["MY_OWN_SERVICE_HOST"] == "10.0.0.3"
    assert not any(name.startswith(("OTHER", "HEADLESS")) for name in linked)


def test_downward_fields() -> None:
    pod = {
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "u",
            "labels": {"b": "2", "a": 'say "1"'},
            "annotations": {"k": "v"},
        },
        "spec": {"nodeName": "node", "serviceAccountName": "default"},
    }
    addresses = {"hostIP": "10.240.0.4", "podIP": "10.240.0.5"}
    said = {
        path: spec.field(pod, path, addresses)
        for path in ("metadata.name", "metadata.labels", "metadata.annotations['k']", "spec.nodeName", "status.podIP")
    }
    assert said == {
        "metadata.name": "p",
        "metadata.labels": 'a="say \\"1\\""\nb="2"',
        "metadata.annotations['k']": "v",
        "spec.nodeName": "node",
        "status.podIP": "10.240.0.5",
    }
    with pytest.raises(ValueError, match="unsupported"):
        spec.field(pod, "spec.priority", addresses)


def test_resource_fields() -> None:
    container = {"resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}
    allocatable = {"cpu": "4", "memory": "8Gi"}
    assert spec.resource(container, {"resource": "limits.memory", "divisor": "1Mi"}, allocatable) == "64"
    assert spec.resource(container, {"resource": "limits.cpu"}, allocatable) == "4"
    assert spec.resource(container, {"resource": "requests.cpu"}, allocatable) == "1"
    assert spec.resource(container, {"resource": "requests.cpu", "divisor": "1m"}, allocatable) == "250"


def _pod(requests: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "resources": {"requests": requests or {}}}], **more}


def test_a_pods_requests() -> None:
    pod = _pod({"cpu": "500m", "memory": "1Gi"}, overhead={"cpu": "100m"})
    assert spec.requests(pod) == {"cpu": 600, "memory": 2**30, "ephemeral-storage": 0}
    sidecar = {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
    ordinary = {"name": "i", "resources": {"requests": {"cpu": "2"}}}
    assert spec.requests({**pod, "initContainers": [sidecar, ordinary]})["cpu"] == 3100
    assert spec.requests({**pod, "initContainers": [ordinary, sidecar]})["cpu"] == 2100
    assert spec.requests({**pod, "resources": {"requests": {"cpu": "4"}}})["cpu"] == 4100


@pytest.mark.parametrize(
    ("pod", "others", "refused"),
    [
        (_pod(), 0, None),
        (_pod({"cpu": "4", "memory": "8Gi"}), 0, None),
        (_pod({"cpu": "5"}), 0, ("OutOfcpu", "cpu, requested: 5000, used: 0, capacity: 4000")),
        (_pod({"cpu": "1"}), 2, ("OutOfcpu", "cpu, requested: 1000, used: 4000, capacity: 4000")),
        (_pod({"memory": "9Gi"}), 1, ("OutOfmemory", "memory, requested: 9663676416, used: 0, capacity: 8589934592")),
        (_pod(), 3, ("OutOfpods", "pods, requested: 1, used: 3, capacity: 3")),
        (_pod({"memory": "1"}), 2, None),
    ],
)
def test_a_node_that_is_full_refuses(pod: dict[str, Any], others: int, refused: tuple[str, str] | None) -> None:
    allocatable = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "1Gi", "pods": "3"}
    said = spec.resource_refusal(pod, [_pod({"cpu": "2"})] * others, allocatable)
    assert said == (refused and (refused[0], f"Node didn't have enough resource: {refused[1]}"))


def _affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return _pod(affinity={"nodeAffinity": required})


def _term(operator: str, *values: str, key: str = "k", kind: str = "matchExpressions") -> dict[str, Any]:
    return {kind: [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("pod", "taken"),
    [
        (_pod(), True),
        (_pod(nodeSelector={"k": "5"}), True),
        (_pod(nodeSelector={"k": "5", "l": ""}), False),
        (_affinity(_term("In", "4", "5")), True),
        (_affinity(_term("NotIn", "4", "5")), False),
        (_affinity(_term("NotIn", "5", key="none")), True),
        (_affinity(_term("Exists", key="none"), _term("DoesNotExist", key="none")), True),
        (_affinity(_term("Gt", "4")), True),
        (_affinity(_term("Lt", "4")), False),
        (_affinity(_term("Gt", "4", key="word")), False),
        (_affinity({}), False),
        (_affinity(_term("In", "win", key="metadata.name", kind="matchFields")), True),
        (_affinity(_term("In", "other", key="metadata.name", kind="matchFields")), False),
    ],
)
def test_a_pod_for_other_nodes_is_refused(pod: dict[str, Any], taken: bool) -> None:
    node = {"metadata": {"name": "win", "labels": {"k": "5", "word": "five"}}}
    refused = ("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
    assert spec.affinity_refusal(pod, node) == (None if taken else refused)


def test_only_labels_have_to_be_asked_for() -> None:
    assert spec.asks_for_labels(_pod(nodeSelector={"k": "5"}))
    assert spec.asks_for_labels(_affinity(_term("Exists")))
    assert not spec.asks_for_labels(_affinity(_term("In", "win", key="metadata.name", kind="matchFields")))
