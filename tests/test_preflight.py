"""
What is said before anything is put on a cluster: nodes, slots, clocks, Pod Security, and webhooks that change pods.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from conformance._suite.cli import program
from conformance._suite.cluster import Answer, Cluster
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.facts import NodeFacts
from conformance._suite.preflight.admission import host_process_pod, look_inside
from conformance._suite.preflight.changes import changes
from conformance._suite.preflight.clocks import clock_notice, clock_skew
from conformance._suite.preflight.look import look, told
from conformance._suite.preflight.needs import Needs
from conformance._suite.preflight.rights import Rule, rules
from conformance._suite.preflight.selection import Choice, Expectations
from conformance._suite.waiting import TryAgainError, persistently
from infra.simulated.certificates import Authority
from infra.simulated.cluster import SimulatedCluster, parse_nodes
from tests.conftest import ROOT, control_plane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

ENFORCE = "pod-security.kubernetes.io/enforce"
NEW, MIDDLE, OLD = "win-containerd-2-3-1", "win-containerd-1-7-1", "win-containerd-1-6-1"


# -- the page


def test_the_page_names_only_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["rbac"], ["cleanup"]):
        with pytest.raises(SystemExit):
            program.main([*command, "--help"])
    there = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    lines = (ROOT / "docs" / "existing.md").read_text(encoding="utf-8").splitlines()
    named = {
        option for line in lines if "nox -s" in line or line.startswith("| `--") or "args: [" in line
        for option in re.findall(r"--[a-z-]*[a-z](?![a-z-])", line)
    }  # fmt: skip
    assert "--expect-containerd" in named
    assert named <= there


# -- rights


def test_each_resource_is_named_once_in_a_place() -> None:
    for namespace in (None, "team"):
        for found in rules(namespace).values():
            keys = [(rule.group, rule.resource) for rule in found]
            assert len(keys) == len(set(keys))
            assert all(len(rule.verbs) == len(set(rule.verbs)) for rule in found)
    assert set(rules(None)) == {None}
    assert set(rules("team")) == {None, "team", "team-baseline", "team-restricted"}


def test_what_both_flavours_need_is_merged() -> None:
    by_resource = {rule.resource: rule for rule in rules("team")["team"]}
    assert by_resource["secrets"] == Rule(
        "", "secrets", ("create", "list", "deletecollection"), "a volume, and the pull secret; clean-up by label"
    )


def test_one_problem_is_one_line_and_several_are_a_line_each() -> None:
    assert told(["a — b"]) == "a — b"
    assert told(["a — b", "c — d"]) == "2 things are in the way:\n  - a — b\n  - c — d"


# -- what admission did to a pod


def admitted(sent: dict[str, Any]) -> dict[str, Any]:
    """
    What a Kubernetes 1.37 API server without webhooks makes of the suite's pod.
    """
    pod = copy.deepcopy(sent)
    pod["metadata"] |= {"uid": "u", "namespace": "x", "creationTimestamp": "2026-11-23T01:30:21Z", "generation": 1}
    pod["spec"] |= {
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0, "schedulerName": "default-scheduler", "serviceAccount": "default",
        "serviceAccountName": "default",
        "tolerations": [
            {"effect": "NoExecute", "key": f"node.kubernetes.io/{why}", "operator": "Exists", "tolerationSeconds": 300}
            for why in ("not-ready", "unreachable")
        ],
    }  # fmt: skip
    pod["spec"]["containers"][0] |= {
        "imagePullPolicy": "IfNotPresent", "resources": {}, "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }  # fmt: skip
    return {**pod, "status": {"phase": "Pending", "qosClass": "BestEffort"}}


def _put(pod: dict[str, Any], path: list[Any], value: Any) -> None:
    *way, last = path
    place: Any = pod
    for step in way:
        place = place[step]
    if last == "+":
        place.append(value)
    elif value is None:
        del place[last]
    else:
        place[last] = value


MAIN = ["spec", "containers", 0]
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ([*MAIN, "image"], "mirror/x:1", "changes spec.containers[main].image"),
        ([*MAIN, "command"], ["other.exe"], "changes spec.containers[main].command[0]"),
        ([*MAIN, "args"], None, "takes away spec.containers[main].args"),
        ([*MAIN, "securityContext"], {"windowsOptions": {"hostProcess": False}},
         "adds spec.containers[main].securityContext.windowsOptions"),
        ([*MAIN, "volumeMounts"], [{"name": "v", "mountPath": "/v"}], "adds spec.containers[main].volumeMounts[v]"),
        ([*MAIN, "env", 0, "value"], "changed", "changes spec.containers[main].env[PROBE].value"),
        (["spec", "hostNetwork"], False, "changes spec.hostNetwork"),
        (["spec", "nodeName"], None, "takes away spec.nodeName"),
        (["spec", "nodeSelector"], {"a": "b"}, "adds spec.nodeSelector.a"),
        (["spec", "runtimeClassName"], "x", "adds spec.runtimeClassName"),
        (["spec", "securityContext", "windowsOptions", "runAsUserName"], "ContainerUser",
         "changes spec.securityContext.windowsOptions.runAsUserName"),
        (["spec", "securityContext", "runAsNonRoot"], True, "adds spec.securityContext.runAsNonRoot"),
        (["spec", "containers", "+"], {"name": "sidecar"}, "adds spec.containers[sidecar]"),
        (["spec", "initContainers"], [{"name": "first"}], "adds spec.initContainers[first]"),
        (["spec", "volumes"], [{"name": "v", "emptyDir": {}}], "adds spec.volumes[v]"),
        (["metadata", "labels", "ours"], "theirs", "changes metadata.labels.ours"),
        (["metadata", "annotations"], {"io.microsoft.container.processdumplocation": "C:\\d"},
         "adds metadata.annotations.io.microsoft.container.processdumplocation"),
        (["metadata", "annotations"], {"microsoft.com/hostprocess-inherit-user": "true"},
         "adds metadata.annotations.microsoft.com/hostprocess-inherit-user"),
        (["metadata", "annotations"], {"microsoft.com/disable-hostprocess-container": "true"},
         "adds metadata.annotations.microsoft.com/disable-hostprocess-container"),
        ([*MAIN, "resources"], {"limits": {"memory": "64Mi"}}, "adds spec.containers[main].resources.limits.memory"),
        ([*MAIN, "env", "+"], {"name": "Path", "value": "C:\\x"}, "adds spec.containers[main].env[Path]"),
        *(([*MAIN, "env", "+"], {"name": name, "value": "x"}, f"adds spec.containers[main].env[{name}]") for name in (
            "__PSLockdownPolicy", "PSExecutionPolicyPreference", "PSModuleAnalysisCachePath", "COR_ENABLE_PROFILING",
            "CORECLR_PROFILER", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
        )),
        (["metadata", "annotations"], {"io.containerd.cri.runtime-handler": "x"},
         "adds metadata.annotations.io.containerd.cri.runtime-handler"),
        ([*MAIN, "image"], f"mirror/x:1@{DIGEST}", "changes spec.containers[main].image"),
        ([*MAIN, "image"], f"x:2@{DIGEST}", "changes spec.containers[main].image"),
        *(([*MAIN, "resources"], {"limits": {"memory": small}}, "adds spec.containers[main].resources.limits.memory")
          for small in ("1e8", "0.1Gi", "200000k", "100m", "-1")),
        ([*MAIN, "ports"], [{"containerPort": 80}], "adds spec.containers[main].ports"),
        (["spec", "overhead"], {"memory": "1Gi"}, "adds spec.overhead"),
        (["spec", "resources"], {"limits": {"memory": "1Gi"}}, "adds spec.resources"),
        (["spec", "restartPolicy"], "Always", "changes spec.restartPolicy"),
        (["spec", "os"], None, "takes away spec.os"),
    ],
)  # fmt: skip
def test_a_change_that_makes_another_pod_of_it(path: list[Any], value: Any, said: str) -> None:
    sent = host_process_pod("x:1")
    sent["spec"]["nodeName"] = "a"
    sent["metadata"]["labels"] = {"ours": "ours"}
    answered = admitted(sent)
    assert changes(sent, answered) == ([], [])
    _put(answered, path, value)
    assert changes(sent, answered) == ([said], [])


@pytest.mark.parametrize(
    ("server", "excused"), [("v1.23.17-eks-1", True), ("v1.24.0", False), ("v1.37.2", False), ("unknown", False)]
)
def test_only_an_api_server_that_does_not_know_the_field_may_drop_it(server: str, excused: bool) -> None:
    sent = host_process_pod("x:1")
    answered = admitted(sent)
    del answered["spec"]["os"]
    assert changes(sent, answered, server) == ([] if excused else ["takes away spec.os"], [])


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["metadata", "labels"], {"a": "b"}, "adds metadata.labels.a"),
        (["metadata", "annotations"], {"a": "b"}, "adds metadata.annotations.a"),
        ([*MAIN, "env", "+"], {"name": "PROXY", "value": "x"}, "adds spec.containers[main].env[PROXY]"),
        ([*MAIN, "resources"], {"limits": {"cpu": "1"}}, "adds spec.containers[main].resources.limits.cpu"),
        ([*MAIN, "resources"], {"limits": {"memory": "256Mi"}}, "adds spec.containers[main].resources.limits.memory"),
        *(([*MAIN, "resources"], {"limits": {"memory": roomy}}, "adds spec.containers[main].resources.limits.memory")
          for roomy in ("1e9", "1E9", "1Ei", "1Pi", "1P", "1.5Gi", ".5G")),
        ([*MAIN, "image"], f"x:1@{DIGEST}", "pins spec.containers[main].image"),
        ([*MAIN, "image"], f"x@{DIGEST}", "pins spec.containers[main].image"),
        ([*MAIN, "env", "+"], {"name": "CORE", "value": "x"}, "adds spec.containers[main].env[CORE]"),
        ([*MAIN, "resources"], {"requests": {"cpu": "1"}}, "adds spec.containers[main].resources.requests.cpu"),
        (["spec", "tolerations", "+"], {"key": "os", "operator": "Exists"}, "adds spec.tolerations[os]"),
    ],
)  # fmt: skip
def test_a_change_that_does_not(path: list[Any], value: Any, said: str) -> None:
    sent = host_process_pod("x:1")
    answered = admitted(sent)
    _put(answered, path, value)
    assert changes(sent, answered) == ([], [said])


def test_what_is_added_beside_something_of_the_same_name_takes_nothing_away() -> None:
    """
    GKE adds a toleration for Windows nodes' taint, with another operator, to every pod that selects Windows.
    """
    sent = host_process_pod("x:1")
    sent["spec"]["tolerations"] = [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]
    sent["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/a"}]
    answered = admitted(sent)
    answered["spec"]["tolerations"] += [
        *sent["spec"]["tolerations"],
        {"key": "a", "operator": "Equal", "value": "windows", "effect": "NoSchedule"},
    ]
    assert changes(sent, answered) == ([], ["adds spec.tolerations[a Equal windows NoSchedule]"])
    mounts = answered["spec"]["containers"][0]["volumeMounts"]
    mounts.append({"name": "v", "mountPath": "/b"})
    assert changes(sent, answered)[0] == ["adds spec.containers[main].volumeMounts[v /b]"]
    del mounts[0]
    assert changes(sent, answered)[0] == [
        "takes away spec.containers[main].volumeMounts[v /a]",
        "adds spec.containers[main].volumeMounts[v /b]",
    ]
    answered["spec"]["tolerations"].remove(sent["spec"]["tolerations"][0])
    assert "takes away spec.tolerations[a Exists NoSchedule]" in changes(sent, answered)[0]


def test_of_variables_of_one_name_the_last_one_counts() -> None:
    sent = host_process_pod("x:1")
    sent["spec"]["containers"][0]["env"] *= 2
    answered = admitted(sent)
    assert changes(sent, answered) == ([], [])
    answered["spec"]["containers"][0]["env"].append({"name": "PROBE", "value": "other"})
    assert changes(sent, answered) == (["changes spec.containers[main].env[PROBE].value"], [])


def test_a_node_selector_that_every_node_meets_may_be_added() -> None:
    """
    PodNodeSelector, OpenShift and others give every pod of a namespace one.
    """
    sent = host_process_pod(Needs().image)
    answered = admitted(sent)
    answered["spec"]["nodeSelector"] = {"pool": "windows"}
    met = NodeFacts("a", "u", "", "", "", "", "", "", 4, labels={"pool": "windows"})
    unmet = replace(met, name="b", labels={"pool": "linux"})
    assert changes(sent, answered, nodes=[met]) == ([], ["adds spec.nodeSelector.pool"])
    assert changes(sent, answered, nodes=[met, unmet]) == (["adds spec.nodeSelector.pool (not met by b)"], [])
    sent["spec"]["nodeSelector"] = {"pool": "linux"}
    assert changes(sent, answered, nodes=[met]) == (["changes spec.nodeSelector.pool"], [])
    del sent["spec"]["nodeSelector"]
    answer = {"POST /api/v1/namespaces/x/pods": Answer(201, answered)}
    no_standard = Needs(pod_security=False)
    assert seen_inside(answer, no_standard, [met]) == (
        [],
        ["admission in namespace x changes pods: adds spec.nodeSelector.pool"],
    )
    (problem,), _ = seen_inside(answer, no_standard, [met, unmet])
    assert "makes other pods of the suite's: adds spec.nodeSelector.pool (not met by b) — " in problem


def test_an_image_that_is_pinned_may_lose_its_tag_and_not_its_digest() -> None:
    sent = host_process_pod(f"registry:5000/x:1@{DIGEST}")
    answered = admitted(sent)
    _put(answered, [*MAIN, "image"], f"registry:5000/x@{DIGEST}")
    assert changes(sent, answered) == ([], ["pins spec.containers[main].image"])
    for other in (f"registry:5000/x:1@{DIGEST[:-1]}1", "registry:5000/x:1"):
        _put(answered, [*MAIN, "image"], other)
        assert changes(sent, answered) == (["changes spec.containers[main].image"], [])


def test_the_token_that_a_pod_asks_for_has_to_be_mounted() -> None:
    """
    Whatever became of the field that asks for it: a policy may set it after the token has been mounted.
    """
    sent = host_process_pod("x:1")
    sent["spec"]["automountServiceAccountToken"] = True
    answered = admitted(sent)
    lost = "takes away spec.containers[main].volumeMounts[the account's token]"
    assert changes(sent, answered)[0] == [lost]
    volume = {"name": "kube-api-access-x7f2p"}
    answered["spec"]["volumes"] = [{**volume, "projected": {"sources": []}}]
    mount = {**volume, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
    answered["spec"]["containers"][0]["volumeMounts"] = [mount]
    assert changes(sent, answered) == ([], [])
    answered["spec"]["automountServiceAccountToken"] = False
    assert changes(sent, answered) == ([], ["changes spec.automountServiceAccountToken"])


def test_what_a_daemonsets_controller_and_the_scheduler_add_is_no_change() -> None:
    template = host_process_pod("x:1")
    template["metadata"] = {"labels": {"app": "a"}}
    template["spec"]["restartPolicy"] = "Always"
    pod = admitted(template)
    pod["metadata"] |= {
        "name": "a-x7f2p",
        "generateName": "a-",
        "ownerReferences": [{"kind": "DaemonSet", "name": "a"}],
    }
    pod["metadata"]["labels"] |= {"controller-revision-hash": "5", "pod-template-generation": "1"}
    pod["spec"]["nodeName"] = "win-1"
    pod["spec"]["tolerations"].append({"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"})
    assert changes({"kind": "DaemonSet", "spec": {"template": template}}, pod) == ([], [])
    pod["metadata"]["annotations"] = {"microsoft.com/hostprocess-rootfs-location": "C:\\x"}
    assert changes({"kind": "DaemonSet", "spec": {"template": template}}, pod)[0] == [
        "adds metadata.annotations.microsoft.com/hostprocess-rootfs-location"
    ]


def test_the_limits_of_a_range_are_no_other_pod_unless_they_are_small_or_replace_others() -> None:
    sent = host_process_pod("x:1")
    sent["spec"]["containers"].append({"name": "limited", "image": "x:1", "resources": {"limits": {"memory": "512Mi"}}})
    answered = admitted(sent)
    main, limited = answered["spec"]["containers"]
    main["resources"] = {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi", "cpu": "100m"}}
    limited["resources"] |= {"requests": {"memory": "512Mi"}}
    assert changes(sent, answered) == ([], [
        "adds spec.containers[main].resources.limits.memory", "adds spec.containers[main].resources.requests.cpu",
    ])  # fmt: skip
    limited["resources"]["limits"] = {"memory": "1Gi"}
    assert changes(sent, answered)[0] == ["changes spec.containers[limited].resources.limits.memory"]


# -- clocks

NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)


def pod_started(created: str, **moments: str) -> dict[str, Any]:
    state = {"terminated": moments} if "finishedAt" in moments else {"running": moments}
    return {
        "metadata": {"creationTimestamp": created},
        "status": {"containerStatuses": [{"name": "main", "state": state}]},
    }


@pytest.mark.parametrize(
    ("created", "moments", "skew"),
    [
        ("2026-11-23T12:00:00Z", {"startedAt": "2026-11-23T12:00:05Z"}, 0.0),
        ("2026-11-23T12:00:00Z", {"startedAt": "2026-11-23T12:00:00Z", "finishedAt": "2026-11-23T12:00:31Z"}, 0.0),
        ("2026-11-23T12:00:00Z", {"startedAt": "2026-11-23T11:59:59Z"}, 0.0),
        ("2026-11-23T12:00:00Z", {"startedAt": "2026-11-23T12:00:20Z", "finishedAt": "2026-11-23T12:01:31Z"}, 60.0),
        ("2026-11-23T12:00:00Z", {"startedAt": "2026-11-23T11:00:00Z"}, -3599.0),
        ("2026-11-23T12:00:00Z", {"startedAt": "2026-11-23T11:59:00Z", "finishedAt": "2026-11-23T12:00:01Z"}, -59.0),
    ],
)  # fmt: skip
def test_a_nodes_clock_is_wrong_by_what_cannot_be_otherwise(created: str, moments: dict[str, str], skew: float) -> None:
    assert clock_skew(pod_started(created, **moments), NOW) == skew


def test_a_pod_that_has_not_started_says_nothing_about_clocks() -> None:
    created = {"metadata": {"creationTimestamp": "2026-11-23T12:00:00Z"}, "status": {}}
    assert clock_skew(created, NOW) is None
    waiting = {"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
    assert clock_skew({**created, "status": waiting}, NOW) is None
    terminated = {"terminated": {"exitCode": 1, "reason": "ContainerCannotRun", "startedAt": None}}
    assert (
        clock_skew({**created, "status": {"containerStatuses": [{"name": "main", "state": terminated}]}}, NOW) is None
    )


def test_only_a_clock_that_is_noticeably_wrong_is_noticed() -> None:
    assert clock_notice("a", 9.0) is None
    assert clock_notice("a", 61.0) == "the clock of a is at least 61 s ahead of the API server's"
    assert clock_notice("a", -3599.0) == "the clock of a is at least 3599 s behind the API server's"


# -- a cluster that answers what a test says


class Played:
    """
    In the place of a Cluster: answers by method and path; what is not among them is admitted, or an empty list.
    """

    url = "https://played"

    def __init__(self, answers: dict[str, Answer], date: datetime | None = None) -> None:
        self._answers = answers
        self._date = date
        self.asked: list[str] = []

    async def request(self, method: str, path: str, body: Any = None, **_: Any) -> Answer:
        self.asked.append(f"{method} {path}")
        if path.endswith("selfsubjectaccessreviews"):
            return Answer(201, {"status": {"allowed": True}})
        if path == "/version":
            return Answer(200, {"gitVersion": "v1.33.4"}, date=self._date)
        found = self._answers.get(f"{method} {path}")
        return found or (Answer(201, body) if method == "POST" else Answer(200, {"items": []}))

    async def must(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        return (await self.request(method, path, body, **options)).body

    def cluster(self) -> Cluster:
        return cast("Cluster", self)


def refusal(message: str, code: int = 403) -> Answer:
    return Answer(code, {"kind": "Status", "message": message, "code": code})


PSA = 'pods "hpc-preflight" is forbidden: violates PodSecurity "{level}:latest": host namespaces (hostNetwork=true)'
INSIDE = {"main": "x", "baseline": "x-baseline", "restricted": "x-restricted"}
LEVELS = ("baseline", "restricted")
FAITHFUL = {f"POST /api/v1/namespaces/x-{level}/pods": refusal(PSA.format(level=level)) for level in LEVELS}


def seen_inside(
    answers: dict[str, Answer], needs: Needs | None = None, nodes: Sequence[NodeFacts] = ()
) -> tuple[list[str], list[str]]:
    said: list[str] = []
    cluster, needs = Played({**FAITHFUL, **answers}).cluster(), needs or Needs()
    return asyncio.run(look_inside(cluster, INSIDE, (), needs, said.append, server="v1.33.4", nodes=nodes)), said


def test_a_faithful_cluster_has_no_problem() -> None:
    assert seen_inside({}) == ([], [])


def test_a_user_who_is_exempt_from_pod_security_cannot_judge_it() -> None:
    exempt = {
        "POST /api/v1/namespaces/x-baseline/pods": Answer(201, {}),
        "GET /api/v1/namespaces/x-baseline": Answer(200, {"metadata": {"labels": {ENFORCE: "baseline"}}}),
    }
    (problem,), said = seen_inside(exempt)
    assert problem.startswith("namespace x-baseline enforces baseline, and a pod with hostNetwork would be admitted")
    assert "the user or the namespace is exempt, or the plug-in is off — " in problem
    assert said == []
    # Who judges no Pod Security need not mind.
    assert seen_inside(exempt, Needs(pod_security=False)) == ([], [])


def test_a_webhook_that_comes_before_pod_security_hides_it() -> None:
    words = 'admission webhook "guard.example" denied the request: no host network here'
    problems, _ = seen_inside({"POST /api/v1/namespaces/x-restricted/pods": refusal(words)})
    ordinary, host_network = problems
    assert ordinary.startswith("an ordinary pod in namespace x-restricted would be refused: ")
    assert host_network.startswith("not Pod Security but another refuses a pod with hostNetwork in namespace x-restr")
    assert all(words in problem for problem in problems)


def test_a_policy_that_knows_the_same_standards_hides_pod_security() -> None:
    words = (
        "admission webhook \"validate.kyverno.svc-fail\" denied the request: Validation rule 'standard' failed. "
        'It violates PodSecurity "{}:latest": host namespaces (hostNetwork=true)'
    )
    answers = {
        "POST /api/v1/namespaces/x/pods": refusal(words.format("privileged")),
        "POST /api/v1/namespaces/x-baseline/pods": refusal(words.format("baseline")),
    }
    problems, _ = seen_inside(answers)
    assert [problem.partition(" namespace x")[0] for problem in problems] == [
        "a HostProcess pod in",
        "an ordinary pod in",
        "not Pod Security but another refuses a pod with hostNetwork in",
    ]
    # The same words with another code are not its own either.
    (problem,), _ = seen_inside({"POST /api/v1/namespaces/x/pods": refusal(PSA.format(level="privileged"), 400)})
    assert problem.startswith("a HostProcess pod in namespace x would be refused: 400 ")


def test_a_webhook_that_takes_no_dry_run_is_named() -> None:
    words = 'admission webhook "old.example" does not support dry run'
    (problem,), _ = seen_inside({"POST /api/v1/namespaces/x/pods": refusal(words, 400)})
    assert problem.startswith(f"a HostProcess pod in namespace x would be refused: 400 {words} — exempt the namespace")


def test_what_the_checks_judge_is_left_to_them() -> None:
    """
    An API server that refuses HostProcess pods under privileged is non-conformant, not untestable.
    """
    answer = {"POST /api/v1/namespaces/x/pods": refusal(PSA.format(level="privileged"))}
    assert seen_inside(answer) == ([], [])
    (problem,), _ = seen_inside({"POST /api/v1/namespaces/x/pods": refusal(PSA.format(level="restricted"))})
    assert problem.startswith(
        'a HostProcess pod in namespace x would be refused: 403 pods "hpc-preflight" is forbidden'
    )


def clocked(ahead: float) -> tuple[str, list[str]]:
    said: list[str] = []
    cluster = Played({}, datetime.now(UTC) - timedelta(seconds=ahead)).cluster()
    with pytest.raises(TargetError) as refused:
        asyncio.run(look(cluster, "existing", Choice(), Expectations(), Needs(), said.append, simulated=False))
    return str(refused.value), said


def test_a_clock_that_is_somewhat_wrong_is_noted_and_a_very_wrong_one_is_a_problem() -> None:
    problem, said = clocked(0)
    assert (problem.count("\n"), said) == (0, [])
    problem, said = clocked(-60)
    assert (problem.count("\n"), said) == (0, ["this machine's clock is 60 s behind the API server's"])
    problem, said = clocked(3600)
    assert said == []
    assert problem.startswith(
        "2 things are in the way:\n  - this machine's clock is 3600 s ahead of the API server's — "
    )


def test_an_api_server_that_refuses_namespaces_is_told_in_its_words() -> None:
    denied = refusal('admission webhook "naming.example" denied the request: call it team-*')
    cluster = Played({"POST /api/v1/namespaces": denied}).cluster()
    with pytest.raises(TargetError) as refused:
        asyncio.run(look(cluster, "existing", Choice(), Expectations(), Needs(), print, simulated=False))
    assert (
        "a namespace labelled pod-security.kubernetes.io/enforce=baseline would be refused: 403 admission webhook"
        in (str(refused.value))
    )
    assert "name them with --namespace" in str(refused.value)


@pytest.mark.parametrize("answer", [Answer(200, "<html>"), Answer(200, []), Answer(200, {})])
def test_what_is_no_api_server(answer: Answer) -> None:
    class Odd(Played):
        async def request(self, *_: Any, **__: Any) -> Answer:
            return answer

    with pytest.raises(TargetError, match="does not answer like a Kubernetes API server"):
        asyncio.run(look(Odd({}).cluster(), "existing", Choice(), Expectations(), Needs(), print, simulated=False))


# -- the embedded cluster


class Pools:
    """
    A cluster with more than the nodes that are tested, as its administrator sees it.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, given: object = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            capture_output=True, text=True, input=json.dumps(given) if given else None, check=True, timeout=60,
            env={**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])},
        )  # fmt: skip
        return done.stdout

    def run(self, use: Callable[[Cluster], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            async with await Cluster.connect(self.kubeconfig) as cluster:
                return await use(cluster)

        return asyncio.run(connected())

    def look(
        self, choice: Choice | None = None, expectations: Expectations | None = None, needs: Needs | None = None
    ) -> tuple[list[str], list[str]]:
        said: list[str] = []

        async def ask(cluster: Cluster) -> list[str]:
            facts, nodes = await look(
                cluster, "existing", choice or Choice(), expectations or Expectations(), needs or Needs(), said.append,
                simulated=False,
            )  # fmt: skip
            assert facts.simulated
            return [node.name for node in nodes]

        return self.run(ask), said

    def refused(self, *given: Any, **options: Any) -> str:
        with pytest.raises(TargetError) as refused:
            self.look(*given, **options)
        return str(refused.value)


@pytest.fixture(scope="module")
def pools() -> Iterator[Pools]:
    with SimulatedCluster(parse_nodes("2.3=1,1.7=1,1.6=1"), print, control_plane()) as target:
        assert target.kubeconfig is not None
        found = Pools(target.kubeconfig)
        found.kubectl("cordon", OLD)
        found.kubectl("taint", "node", MIDDLE, "os=windows:NoSchedule")
        nodes = [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": system}}}
            for name, system in (("linux-1", "linux"), ("linux-2", "linux"), ("win-new", "windows"))
        ]
        found.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": nodes})
        yield found


@pytest.mark.cluster
def test_a_mixed_pool(pools: Pools) -> None:
    nodes, said = pools.look()
    assert nodes == [MIDDLE, NEW]
    advice = " — `--leave-out NODE` leaves a node out on purpose"
    assert said[:2] == [
        "left out, not Windows but linux: 2 nodes (linux-1, linux-2)",
        f"NOT LOOKED AT, cordoned: {OLD}{advice}",
    ]
    # Depending on when the node controller has looked at it: never reported, or unreachable.
    assert [line.removesuffix(advice).rpartition(": ")[2] for line in said[2:]] == ["win-new"]
    assert "ready" in said[2] or "unreachable" in said[2]


@pytest.mark.cluster
def test_the_choice_of_nodes(pools: Pools) -> None:
    assert pools.look(Choice(names=(OLD,)))[0] == [OLD]
    assert pools.look(Choice(selector="kubernetes.io/hostname in (win-containerd-1-7-1,linux-1)"))[0] == [MIDDLE]
    assert pools.look(Choice(os_skus=("Windows2025",)))[0] == [NEW]
    assert pools.look(Choice(builds=("20348",)))[0] == [MIDDLE]
    assert "no node is called nobody — the Windows nodes are" in pools.refused(Choice(names=("nobody",)))
    assert "node win-new cannot be tested: " in pools.refused(Choice(names=(NEW, "win-new")))
    assert "not matched by --node-selector no=such: 4 nodes" in pools.refused(Choice(selector="no=such"))
    with pytest.raises(UsageError, match="--node-selector 'a in b'"):
        pools.look(Choice(selector="a in b"))


@pytest.mark.cluster
def test_expectations_and_slots_are_told_together(pools: Pools) -> None:
    lines = pools.refused(None, Expectations("1.7", None, "1.36"), Needs(pods=111)).splitlines()
    assert lines[0] == "3 things are in the way:"
    assert f"--expect-containerd 1.7 is not met: {NEW} has 2.3" in lines[1]
    assert "--expect-kubernetes 1.36 is not met: the API server has v1.37" in lines[2]
    assert f"the run needs 111 free pod slots on each node: {MIDDLE} has 110, {NEW} has 110 — " in lines[3]
    assert pools.look(None, Expectations(None, None, "1.37"), Needs(pods=110))[0] == [MIDDLE, NEW]


@pytest.mark.cluster
def test_a_pod_takes_a_slot_until_it_has_ended(pools: Pools) -> None:
    pod = host_process_pod("mcr.microsoft.com/x:1")
    pod["spec"]["nodeName"] = NEW
    pools.kubectl("create", "-n", "default", "-f", "-", given=pod)
    try:
        assert f"on each node: {NEW} has 109 — " in pools.refused(None, None, Needs(pods=110))
    finally:
        pools.kubectl("delete", "pod", "-n", "default", "hpc-preflight", "--now")


def namespaces(pools: Pools, name: str, **labels: dict[str, str]) -> None:
    wanted = {name: "main", f"{name}-baseline": "baseline", f"{name}-restricted": "restricted"}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one, "labels": labels.get(key, {
            ENFORCE: "privileged" if key == "main" else key})}}
        for one, key in wanted.items()
    ]  # fmt: skip
    pools.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
    for one in wanted:
        pools.kubectl("wait", "--for=create", "serviceaccount/default", "-n", one, "--timeout=30s")


@pytest.mark.cluster
def test_namespaces_that_are_given(pools: Pools) -> None:
    missing = pools.refused(needs=Needs(namespace="nowhere")).splitlines()
    assert len(missing) == 4
    assert "namespace nowhere-baseline cannot be used: 404 " in missing[2]
    assert "`nox -s rbac -- --namespace nowhere` prints what has to be there" in missing[2]

    namespaces(pools, "wrong", baseline={}, restricted={ENFORCE: "baseline"})
    wrong = pools.refused(needs=Needs(namespace="wrong")).splitlines()[1:]
    remedies = [f"`kubectl label --overwrite namespace wrong-{level} {ENFORCE}={level}`" for level in LEVELS]
    assert wrong == [
        f"  - namespace wrong-baseline has no label {ENFORCE}; it is to enforce baseline — {remedies[0]}",
        f"  - namespace wrong-restricted enforces baseline; it is to enforce restricted — {remedies[1]}",
    ]

    namespaces(pools, "right", baseline={ENFORCE: "baseline", f"{ENFORCE}-version": "v1.30"})
    nodes, said = pools.look(needs=Needs(namespace="right"))
    assert nodes == [MIDDLE, NEW]
    assert "namespace right-baseline enforces baseline as of v1.30" in said


@pytest.mark.cluster
def test_a_namespace_that_lost_its_label_is_left_to_the_checks(pools: Pools) -> None:
    namespaces(pools, "lost", baseline={})
    said: list[str] = []
    inside = {"main": "lost", "baseline": "lost-baseline", "restricted": "lost-restricted"}
    assert pools.run(lambda cluster: look_inside(cluster, inside, (), Needs(), said.append, server="v1.37.2")) == []
    assert said == [f"namespace lost-baseline has lost its label {ENFORCE}=baseline"]


# -- webhooks, real ones: the API server calls them over https


@contextlib.contextmanager
def webhook(pools: Pools, folder: Path, namespace: str, answer: dict[str, Any]) -> Iterator[None]:
    """
    Let a server on the loopback interface decide about pods in one namespace; ``answer`` is its ``response``.
    """
    authority = Authority(folder)
    identity = authority.issue("webhook", "webhook", addresses=["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.certificate, identity.key)

    class Decide(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            review["response"] = {"uid": review["request"]["uid"], **answer}
            body = json.dumps(review).encode()
            self.send_response(200 if answer else 500)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Decide)
    server.daemon_threads = False
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "changes-pods"},
        "webhooks": [
            {
                "name": "changes.pods.example",
                "clientConfig": {
                    "url": f"https://127.0.0.1:{server.server_port}/",
                    "caBundle": base64.b64encode(authority.certificate.read_bytes()).decode(),
                },
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 5,
            }
        ],
    }
    pools.kubectl("create", "-f", "-", given=configuration)
    try:
        yield
    finally:
        pools.kubectl("delete", "mutatingwebhookconfiguration", "changes-pods")
        server.shutdown()
        thread.join()
        server.server_close()


def patched(*operations: dict[str, Any]) -> dict[str, Any]:
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": patch}


def seen_under(pools: Pools, folder: Path, answer: dict[str, Any]) -> tuple[list[str], list[str]]:
    """
    The problems and the notices while such a webhook is there.
    """
    namespaces(pools, "hooked")

    async def attempt(cluster: Cluster) -> tuple[list[str], list[str]]:
        said: list[str] = []
        problems = await look_inside(cluster, {"main": "hooked"}, (), Needs(), said.append, server="v1.37.2")
        if not problems and not said:
            # Configurations reach the API server's admission a moment later.
            raise TryAgainError("the webhook has not been asked yet")
        return problems, said

    with webhook(pools, folder, "hooked", answer):
        found: tuple[list[str], list[str]] = pools.run(lambda cluster: persistently(partial(attempt, cluster), 20))
    return found


HOOK = '"changes.pods.example"'
REFUSED = "a HostProcess pod in namespace hooked would be refused"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            patched({"op": "replace", "path": "/spec/containers/0/image", "value": "mirror.example/x:1"}),
            "admission in namespace hooked makes other pods of the suite's: changes spec.containers[main].image — ",
        ),
        (
            patched({"op": "add", "path": "/spec/containers/-", "value": {"name": "mesh", "image": "mesh:1"}}),
            "admission in namespace hooked makes other pods of the suite's: adds spec.containers[mesh] — ",
        ),
        (
            {"allowed": False, "status": {"code": 403, "message": "nothing as SYSTEM here"}},
            f"{REFUSED}: 403 admission webhook {HOOK} denied the request: nothing as SYSTEM here — ",
        ),
        ({}, f"{REFUSED}: 500 Internal error occurred: failed calling webhook {HOOK}: "),
    ],
    ids=["image", "sidecar", "denial", "broken"],
)
def test_a_webhook_that_makes_another_pod(pools: Pools, tmp_path: Path, answer: dict[str, Any], expected: str) -> None:
    (problem,), said = seen_under(pools, tmp_path, answer)
    assert problem.startswith(expected)
    assert said == []


@pytest.mark.cluster
def test_a_webhook_that_adds_a_label_is_only_mentioned(pools: Pools, tmp_path: Path) -> None:
    label = patched({"op": "add", "path": "/metadata/labels", "value": {"seen-by": "webhook"}})
    assert seen_under(pools, tmp_path, label) == (
        [],
        ["admission in namespace hooked changes pods: adds metadata.labels.seen-by"],
    )
