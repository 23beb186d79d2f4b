"""
Each defect turns red exactly what it says it breaks, on its node only; and every requirement can fail on its own.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from conformance._suite import catalogue
from conformance._suite.facts import Scope
from conformance._suite.requirement import Level
from infra.simulated.api_defects import API_DEFECTS
from infra.simulated.model.deviations import DEVIATIONS
from tests.conftest import run_program

if TYPE_CHECKING:
    from tests.conftest import Finished, Matrix

PAGES = catalogue.load()
NODE_DEFECTS = sorted(name for name, defect in PAGES.defects.items() if defect.on is Scope.NODE)
API_SERVER_DEFECTS = sorted(name for name, defect in PAGES.defects.items() if defect.on is Scope.CLUSTER)

# What cannot be looked at any more because of the defect; it is not red, and not green either.
LEFT_OPEN: dict[str, set[str]] = {
    # No group is made, so no container can run as one, and no user either.
    "group-not-made": {
        "accounts/local-group/account-removed",
        "accounts/local-group/ephemeral-account",
        "accounts/local-user/with-password",
    },
    # Nothing starts, so nothing else can be looked at.
    "containerd-is-not-the-system": {one.id for one in PAGES.requirements.values() if one.scope is Scope.NODE},
    # What its administrator may do says nothing about what the system may.
    "local-system-logs-on-as-administrator": {"accounts/local-group/made-in-a-container"},
    # No account is made, so none can be seen to go.
    "group-runs-as-system": {"accounts/local-group/account-removed"},
    # The API server finds no way to an address that nobody has: that says nothing about the listener.
    "pod-ip-from-cni": {"network/host-network/reached-from-outside"},
    # Nothing listens that could be reached.
    "network-compartment-of-its-own": {"network/host-network/reached-from-outside"},
    # Nothing is known of what does not need the folder that was not bound: its container was not started.
    "host-path-not-bound": {
        "storage/sandbox-mount-point/location",
        "storage/sandbox-mount-point/location-without-bind-filter",
        "storage/sandbox-mount-point/set-and-absolute",
        "storage/service-account-token/at-mount-path",
        "storage/service-account-token/authenticates",
        "storage/service-account-token/older-paths",
    },
}


def _breaks(name: str) -> set[str]:
    return {requirement.id for requirement in PAGES.defects[name].breaks}


@pytest.mark.cluster
@pytest.mark.parametrize("name", NODE_DEFECTS)
def test_a_defect_breaks_exactly_what_it_says(matrix: Matrix, name: str) -> None:
    node = matrix.wrong[name]
    assert matrix.run.red(node) == _breaks(name)
    left_open = {key[0] for key, found in matrix.run.verdicts().items() if key[1] == node and found == "not-proven"}
    assert left_open <= LEFT_OPEN.get(name, set())


@pytest.fixture(scope="module")
def api_server_runs(matrix: Matrix, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """
    One run against each wrong API server, several at once: they mostly wait.
    """

    def run(name: str) -> Finished:
        kubeconfig = str(matrix.cluster.kubeconfig_for(name))
        out = tmp_path_factory.mktemp(name) / "out"
        return run_program(
            out, "--target", "existing", "--kubeconfig", kubeconfig, "--node", matrix.faithful["2.3"], "-k", "admission"
        )

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(API_SERVER_DEFECTS, pool.map(run, API_SERVER_DEFECTS), strict=True))


@pytest.mark.cluster
@pytest.mark.parametrize("name", API_SERVER_DEFECTS)
def test_a_defect_of_the_api_server_breaks_exactly_what_it_says(
    matrix: Matrix, api_server_runs: dict[str, Finished], name: str
) -> None:
    run = api_server_runs[name]
    assert run.red(None) == _breaks(name), run.output[-3000:]
    assert run.red(matrix.faithful["2.3"]) == set()
    assert run.code == 1


def test_pages_and_simulation_know_the_same_defects() -> None:
    assert set(NODE_DEFECTS) == set(DEVIATIONS)
    assert set(API_SERVER_DEFECTS) == set(API_DEFECTS)


def test_every_requirement_that_is_judged_has_a_defect() -> None:
    broken = {one for name in PAGES.defects for one in _breaks(name)}
    judged = {one.id for one in PAGES.requirements.values() if one.level is not Level.OBSERVED}
    assert judged == broken


# Of what is only expected, and fails no run.
BREAK_NO_MUST = {"host-port-not-reachable", "no-user-logs-on-as-system", "unknown-user-logs-on-as-system"}


@pytest.mark.parametrize("name", sorted(PAGES.defects))
def test_every_defect_makes_a_run_fail(name: str) -> None:
    levels = {one.level for one in PAGES.defects[name].breaks}
    assert (Level.MUST in levels) == (name not in BREAK_NO_MUST)


def test_no_two_requirements_have_the_same_set_of_defects() -> None:
    by_defects: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for entry in PAGES.entries():
        if entry["defects"]:
            by_defects[tuple(entry["defects"])].append(entry["id"])  # type: ignore[arg-type]
    assert [ids for ids in by_defects.values() if len(ids) > 1] == []
