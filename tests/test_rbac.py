"""
The printed manifests are enough and nothing more: the whole suite passes under them, and each rule is missed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from conformance._suite.cluster import Cluster
from conformance._suite.errors import TargetError, UsageError
from conformance._suite.preflight.look import look
from conformance._suite.preflight.needs import Needs
from conformance._suite.preflight.rbac import manifests
from conformance._suite.preflight.rights import missing_rights, rules
from conformance._suite.preflight.selection import Choice, Expectations
from conformance._suite.waiting import TryAgainError, persistently
from infra.simulated.cluster import SimulatedCluster, parse_nodes
from tests.conftest import ROOT, Finished, control_plane, run_program

if TYPE_CHECKING:
    from collections.abc import Iterator

GIVEN = "team"
NODE, CORDONED = "win-containerd-2-3-1", "win-containerd-1-7-1"
FLAVOURS = {"creating": None, "given": GIVEN}
ACCOUNTS = {"creating": "hostprocess-conformance/conformance", "given": "ci/suite"}


def documents(flavour: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(manifests(FLAVOURS[flavour], ACCOUNTS[flavour])))


# -- what is printed


def test_on_openshift_the_use_of_a_constraint_is_granted_in_the_given_namespaces() -> None:
    printed = list(yaml.safe_load_all(manifests(GIVEN, "ci/suite", openshift=True)))
    places = ["team", "team-baseline", "team-restricted"]
    roles = [one for one in printed if one["kind"] == "Role" and one["metadata"]["name"].endswith("-scc")]
    assert [role["metadata"]["namespace"] for role in roles] == places
    rule = {
        "apiGroups": ["security.openshift.io"], "resources": ["securitycontextconstraints"],
        "resourceNames": ["privileged"], "verbs": ["use"],
    }  # fmt: skip
    assert all(role["rules"] == [rule] for role in roles)
    bindings = [one for one in printed if one["kind"] == "RoleBinding" and one["roleRef"]["name"].endswith("-scc")]
    for binding, place in zip(bindings, places, strict=True):
        accounts = [(one["namespace"], one["name"]) for one in binding["subjects"]]
        assert (binding["metadata"]["namespace"], accounts) == (place, [("ci", "suite"), (place, "default")])
    others = [one for one in printed if one not in roles and one not in bindings]
    for one in others:
        # Or its controller would take the labels away.
        if one["kind"] == "Namespace":
            assert one["metadata"]["labels"].pop("security.openshift.io/scc.podSecurityLabelSync") == "false"
            assert one["metadata"].pop("annotations") == {"openshift.io/node-selector": ""}
    assert others == documents("given")


def test_on_openshift_the_namespaces_have_to_be_given() -> None:
    with pytest.raises(UsageError, match="--openshift needs --namespace NAME"):
        manifests(None, openshift=True)


def test_each_flavour_has_what_it_takes_and_no_wildcard() -> None:
    kinds = {
        flavour: [
            (one["kind"], one["metadata"]["name"], one["metadata"].get("namespace")) for one in documents(flavour)
        ]
        for flavour in FLAVOURS
    }
    suite = "hostprocess-conformance"
    assert kinds["creating"] == [
        ("Namespace", suite, None),
        ("ServiceAccount", "conformance", suite),
        ("ClusterRole", suite, None),
        ("ClusterRoleBinding", f"{suite}-{suite}-conformance", None),
    ]
    assert kinds["given"] == [
        ("Namespace", "team", None),
        ("Namespace", "team-baseline", None),
        ("Namespace", "team-restricted", None),
        ("ServiceAccount", "suite", "ci"),
        ("ClusterRole", f"{suite}-nodes", None),
        ("ClusterRoleBinding", f"{suite}-nodes-ci-suite", None),
        *(
            (kind, suite, namespace)
            for namespace in ("team", "team-baseline", "team-restricted")
            for kind in ("Role", "RoleBinding")
        ),
    ]
    for flavour, namespace in FLAVOURS.items():
        assert "*" not in manifests(namespace)
        granted = {right for one in documents(flavour) for rule in one.get("rules", ()) for right in rule["verbs"]}
        assert granted <= {"create", "get", "list", "watch", "delete", "deletecollection", "patch"}
        assert "exec" not in manifests(namespace)


def test_without_the_right_to_create_namespaces_the_whole_cluster_is_only_asked_for_its_nodes() -> None:
    (role,) = [one for one in documents("given") if one["kind"] == "ClusterRole"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]
    assert '  # - apiGroups: [""]\n  #   resources: [pods]\n  #   verbs: [list]\n' in manifests(GIVEN)
    labels = {one["metadata"]["name"]: one["metadata"].get("labels") for one in documents("given")[:3]}
    assert labels == {
        "team": {"pod-security.kubernetes.io/enforce": "privileged"},
        "team-baseline": {"pod-security.kubernetes.io/enforce": "baseline"},
        "team-restricted": {"pod-security.kubernetes.io/enforce": "restricted"},
    }


def test_the_grants_go_without_the_namespaces() -> None:
    """
    A namespace that an account lives in is not this program's to make, and with it to delete.
    """
    for flavour in FLAVOURS:
        for one in documents(flavour):
            labels = one["metadata"].get("labels", {})
            granting = one["kind"] in {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
            assert ("app.kubernetes.io/part-of" in labels) == granting, one
    assert "-l app.kubernetes.io/part-of=hostprocess-conformance\n" in manifests(GIVEN)


def test_a_name_stays_a_name_whatever_yaml_would_take_it_for() -> None:
    found = list(yaml.safe_load_all(manifests("123", "on/no")))
    assert [one["metadata"]["name"] for one in found[:4]] == ["123", "123-baseline", "123-restricted", "no"]
    assert found[-1]["subjects"] == [{"kind": "ServiceAccount", "name": "no", "namespace": "on"}]
    assert found[-1]["metadata"]["namespace"] == "123-restricted"


@pytest.mark.parametrize("account", ["suite", "/suite", "ci/", "CI/suite", "ci/suite/x", "ci/a b", f"ci/{'x' * 64}"])
def test_an_account_that_is_none(account: str) -> None:
    with pytest.raises(UsageError, match="is not a service account"):
        manifests(None, account)


@pytest.mark.parametrize("namespace", ["", "Team", "a b", "team-", "x" * 53])
def test_a_namespace_that_cannot_be(namespace: str) -> None:
    with pytest.raises(UsageError, match="cannot be a namespace"):
        manifests(namespace)
    with pytest.raises(UsageError, match="cannot be a namespace"):
        Needs(namespace=namespace)


# -- on a cluster


class Granted:
    """
    A cluster on which an administrator has applied both flavours, and the kubeconfigs of their accounts.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self.accounts: dict[str, Path] = {}
        for flavour, namespace in FLAVOURS.items():
            if namespace:
                self.kubectl("create", "namespace", ACCOUNTS[flavour].partition("/")[0])
            self.kubectl("apply", "-f", "-", given=manifests(namespace, ACCOUNTS[flavour]))
            config = yaml.safe_load(kubeconfig.read_text())
            for user in config["users"]:
                user["user"] = {"token": self.token(flavour)}
            self.accounts[flavour] = folder / f"{flavour}.kubeconfig"
            self.accounts[flavour].write_text(json.dumps(config))

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            capture_output=True, text=True, input=given, check=True, timeout=60,
            env={**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])},
        )  # fmt: skip
        return done.stdout

    def token(self, flavour: str) -> str:
        home, name = ACCOUNTS[flavour].split("/")
        return self.kubectl("create", "token", name, "-n", home, "--duration=1h").strip()


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Granted]:
    with SimulatedCluster(parse_nodes("2.3=1,1.7=1"), print, control_plane()) as target:
        assert target.kubeconfig is not None
        cluster = Granted(target.kubeconfig, tmp_path_factory.mktemp("accounts"))
        cluster.kubectl("cordon", CORDONED)
        cluster.kubectl("taint", "node", CORDONED, "os=windows:NoSchedule")
        yield cluster


def _rules() -> list[tuple[str, str | None, int]]:
    return [
        (flavour, place, number)
        for flavour, namespace in FLAVOURS.items()
        for place, found in rules(namespace).items()
        for number in range(len(found))
    ]


@pytest.mark.cluster
@pytest.mark.parametrize(("flavour", "place", "number"), _rules())
def test_without_one_rule_exactly_its_rights_are_missing(
    granted: Granted, flavour: str, place: str | None, number: int
) -> None:
    kind = "ClusterRole" if place is None else "Role"
    (role,) = [
        one for one in documents(flavour) if one["kind"] == kind and one["metadata"].get("namespace") == place
    ]  # fmt: skip
    rule = role["rules"][number]
    expected = {place: [f"{verb} {resource}" for resource in rule["resources"] for verb in rule["verbs"]]}
    base = f"/apis/rbac.authorization.k8s.io/v1/{f'namespaces/{place}/' if place else ''}{kind.lower()}s"
    path = f"{base}/{role['metadata']['name']}"
    poorer = {**role, "rules": [one for one in role["rules"] if one is not rule]}

    async def run() -> None:
        async with (
            await Cluster.connect(granted.kubeconfig) as administrator,
            await Cluster.connect(granted.accounts[flavour]) as account,
        ):

            async def until(wanted: dict[str | None, list[str]]) -> None:
                found = await missing_rights(account, FLAVOURS[flavour])
                if found != wanted:
                    # The authorizer hears of a changed role a moment later.
                    raise TryAgainError(f"missing are {found}, not {wanted}")

            await administrator.must("PUT", path, poorer)
            try:
                await persistently(partial(until, expected), 10)
            finally:
                await administrator.must("PUT", path, role)
            await persistently(partial(until, {}), 10)

    asyncio.run(run())


@pytest.mark.cluster
def test_what_is_missing_is_told_with_the_command_that_prints_it(granted: Granted) -> None:
    """
    The account of the one flavour tries the other, with another expectation that is not met: all is told at once.
    """

    async def tried(account: str, needs: Needs) -> str:
        async with await Cluster.connect(granted.accounts[account]) as cluster:
            with pytest.raises(TargetError) as refused:
                await look(cluster, "existing", Choice(), Expectations("1.7"), needs, print, simulated=False)
        return str(refused.value)

    lines = asyncio.run(tried("given", Needs())).splitlines()
    assert lines[0] == "2 things are in the way:"
    assert lines[1].startswith("  - rights are missing: create/delete/get/list namespaces; get serviceaccounts; ")
    assert lines[1].endswith("create/deletecollection daemonsets — `nox -s rbac` prints what grants them")
    assert "--expect-containerd 1.7 is not met: win-containerd-2-3-1 has 2." in lines[2]
    line = asyncio.run(tried("creating", Needs(namespace=GIVEN))).splitlines()[1]
    assert "in namespace team: list/deletecollection configmaps; list/deletecollection secrets; list daemonsets" in line
    assert "in namespace team-restricted: list/deletecollection configmaps" in line
    assert line.endswith("— `nox -s rbac -- --namespace team` prints what grants them")


IN_CLUSTER = """\
import sys
import kubernetes.aio.config.incluster_config as mounted
mounted.SERVICE_TOKEN_FILENAME, mounted.SERVICE_CERT_FILENAME = sys.argv[1:3]
from conformance._suite.cli.program import main
sys.exit(main(sys.argv[3:]))
"""


def run_in_cluster(granted: Granted, folder: Path) -> Finished:
    """
    Run a selection with no kubeconfig anywhere: address from the environment, token and authority from files, as in a
    pod.
    """
    folder.mkdir()
    (cluster,) = yaml.safe_load(granted.kubeconfig.read_text())["clusters"]
    (folder / "token").write_text(granted.token("creating"))
    (folder / "ca.crt").write_bytes(base64.b64decode(cluster["cluster"]["certificate-authority-data"]))
    host, port = cluster["cluster"]["server"].removeprefix("https://").split(":")
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    mounted = [str(folder / "token"), str(folder / "ca.crt")]
    ended = subprocess.run(
        [sys.executable, "-c", IN_CLUSTER, *mounted, "--target", "existing", "-k", "cpu_limit", "--out", "out"],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        env={**environment, "HOME": str(folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1",
             "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
    )  # fmt: skip
    return Finished(ended.returncode, ended.stdout + ended.stderr, folder / "out")


def kept(granted: Granted) -> list[str]:
    """
    What there is in the given namespaces.
    """
    kinds = "secrets,configmaps,pods,daemonsets"
    return [
        granted.kubectl("get", kinds, "-n", f"{GIVEN}{end}", "-o", "name") for end in ("", "-baseline", "-restricted")
    ]


@dataclass(frozen=True)
class Runs:
    creating: Finished
    given: Finished
    in_cluster: Finished
    before: list[str]
    after: list[str]


@pytest.fixture(scope="module")
def runs(granted: Granted, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """
    Three runs at once, which mostly wait: with each flavour's account, and inside the cluster.
    """
    folder = tmp_path_factory.mktemp("runs")
    existing = ("--target", "existing", "--kubeconfig")
    granted.kubectl("create", "configmap", "somebody-elses", "-n", GIVEN)
    before = kept(granted)
    with ThreadPoolExecutor(3) as pool:
        creating = pool.submit(
            run_program, folder / "creating" / "out", *existing, str(granted.accounts["creating"]),
            "--node", NODE, "--node", CORDONED,
        )  # fmt: skip
        given = pool.submit(
            run_program, folder / "given" / "out", *existing, str(granted.accounts["given"]), "--namespace", GIVEN,
            "--leave-out", CORDONED,
        )  # fmt: skip
        in_cluster = pool.submit(run_in_cluster, granted, folder / "in-cluster")
        return Runs(creating.result(), given.result(), in_cluster.result(), before, kept(granted))


@pytest.mark.cluster
def test_the_whole_suite_passes_under_the_printed_rights_alone(granted: Granted, runs: Runs) -> None:
    """
    On two nodes, one of which is cordoned and tainted.
    """
    assert runs.creating.code == 0, runs.creating.output
    assert {node for _, node in runs.creating.verdicts()} == {NODE, CORDONED, None}
    assert "left behind" not in runs.creating.output
    assert "hpc-" not in granted.kubectl("get", "namespaces", "-o", "name")


@pytest.mark.cluster
def test_the_whole_suite_passes_in_given_namespaces_and_leaves_them_as_they_were(runs: Runs) -> None:
    assert runs.given.code == 0, runs.given.output
    assert {node for _, node in runs.given.verdicts()} == {NODE, None}
    assert "free pod slots were not counted" in runs.given.output
    assert "left behind" not in runs.given.output
    assert runs.after == runs.before


@pytest.mark.cluster
def test_inside_the_cluster_the_mounted_service_account_is_used(runs: Runs) -> None:
    # A selection is at best partial.
    assert runs.in_cluster.code == 4, runs.in_cluster.output
    conformant = [key for key, verdict in runs.in_cluster.verdicts().items() if verdict == "conformant"]
    assert conformant == [("resources/cpu/limit-is-the-jobs", NODE)]
