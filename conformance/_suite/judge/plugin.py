"""
The only module with pytest hooks: one test per (check × node), and one verdict per test.

In the process that owns the run a ``Controller`` is registered as a plug-in too; it gathers the results. Under
pytest-xdist the workers get all they need in ``workerinput``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite import evidence, workload
from conformance._suite.catalogue import check_of
from conformance._suite.errors import Unknown
from conformance._suite.facts import Scope
from conformance._suite.judge.matrix import Cell, cell_of, rows
from conformance._suite.judge.outcome import Compared, not_applicable, result_from_json, result_of, result_to_json
from conformance._suite.judging import Judging
from conformance._suite.observation import Observation
from conformance._suite.redact import redact
from conformance._suite.report.allure import allure_labels
from conformance._suite.requirement import excluded_by
from conformance._suite.result import CLUSTER
from conformance._suite.verdict import merge
from conformance._suite.versions import meets, said_version

if TYPE_CHECKING:
    from collections.abc import Generator

    from conformance._suite.facts import NodeFacts
    from conformance._suite.result import Result

_PROPERTY = "hostprocess-conformance"
_JUDGING = pytest.StashKey[Judging]()
_STATED = pytest.StashKey[str]()


class Controller:
    """
    In the process that owns the run: hands workers what to judge, and gathers what was collected and what was found.
    """

    def __init__(self, judging: Judging) -> None:
        self.judging = judging
        self.collected: set[Cell] = set()
        self.results: dict[Cell, Result] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """
        Say what to judge before any other hook asks for it.
        """
        config.stash[_JUDGING] = self.judging

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """
        Hand a worker what it needs.
        """
        node.workerinput[_PROPERTY] = self.judging.to_data()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """
        Note which cells there are, or which ones ``-k`` left.
        """
        for item in session.items:
            check, node = cell_of(item.nodeid)
            self.collected.add((check.requirement.id, node))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """
        Gather what the workers (or this process) found; the phases of one test merge by the one rule.
        """
        for name, value in report.user_properties:
            if name == _PROPERTY:
                result = result_from_json(str(value))
                key = (result.requirement, result.node)
                before = self.results.get(key)
                if before is None or merge([before.verdict, result.verdict]) is not before.verdict:
                    self.results[key] = result


# -- in every process


def pytest_configure(config: pytest.Config) -> None:
    """
    A worker finds out what to judge from the process that started it.
    """
    if hasattr(config, "workerinput"):
        config.stash[_JUDGING] = Judging.from_data(config.workerinput[_PROPERTY])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    One test per node, or one for the cluster, in the order of the node names.
    """
    check = check_of(metafunc.function)
    if check is not None and _JUDGING in metafunc.config.stash:
        names = sorted(node or CLUSTER for node in rows(check, metafunc.config.stash[_JUDGING]))
        metafunc.parametrize("observation", names, indirect=True, ids=names)


def pytest_itemcollected(item: pytest.Item) -> None:
    """
    Let ``-k`` match the requirement's id, as the catalogue lists it, besides the name of the check.
    """
    check = check_of(getattr(item, "function", None))
    if check is not None:
        item.extra_keyword_matches.add(check.requirement.id)


@pytest.fixture
def observation(request: pytest.FixtureRequest) -> Observation:
    """
    The evidence that the check reads. What is missing or foreign raises Unknown.
    """
    judging = request.config.stash[_JUDGING]
    check = check_of(request.function)
    if check is None:
        raise Unknown(f"{request.node.nodeid} decides no requirement", "check-broken")
    node = judging.by_name.get(request.param)
    if node and node.stated_containerd:
        _compare_stated(judging, node)
    if excluded := excluded_by(check.requirement, node or judging.cluster):
        request.node.stash[_STATED] = excluded
        pytest.skip(excluded)
    found = {}
    for name in check.reads:
        loaded = workload.load(name)
        found[name] = evidence.load(judging, loaded, node if loaded.scope is Scope.NODE else None)
    return Observation(found, judging.cluster, node)


def _compare_stated(judging: Judging, node: NodeFacts) -> None:
    """
    Raise Unknown where containerd.exe itself says another version than the user stated: no gate can be trusted then.
    """
    try:
        facts = evidence.load(judging, workload.load("node-facts"), node).data["steps"][0]["probe"]["reader"]
        found = said_version((facts or {}).get("containerdVersion"))
    except Unknown:
        return
    if not meets(str(found), str(node.stated_containerd)):
        reason = f"containerd {node.stated_containerd} is stated, and containerd.exe says {found}"
        raise Unknown(f"{reason}: leave --containerd-version away, or state what runs", "stated-otherwise")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """
    Run the check; what it returns is what it says it saw.
    """
    if check_of(pyfuncitem.function) is None:
        return None
    _CURRENT.clear()
    stated = pyfuncitem.function(observation=pyfuncitem.funcargs["observation"])
    if isinstance(stated, str):
        pyfuncitem.stash[_STATED] = redact(stated)
    return True


_CURRENT: list[Compared] = []
"""The comparison that failed last in this process; tests run one after another in it."""


def pytest_assertrepr_compare(op: str, left: object, right: object) -> None:
    """
    Remember both sides of the comparison that failed: what was seen stands left, what was expected right.
    """
    _CURRENT[:] = [(op, left, right)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """
    Label the test for Allure before its fixture can fail.
    """
    check = check_of(getattr(item, "function", None))
    if check is not None and _JUDGING in item.config.stash:
        _, node = cell_of(item.nodeid)
        allure_labels(check.requirement, node, simulated=item.config.stash[_JUDGING].cluster.simulated)
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    Turn the outcome into a result that travels with the report, and let a failure speak in the documented order.
    """
    report = yield
    check = check_of(getattr(item, "function", None))
    if check is None or _JUDGING not in item.config.stash:
        return report
    error = call.excinfo.value if call.excinfo else None
    if call.when != "call" and error is None:
        return report
    _, node = cell_of(item.nodeid)
    stated, compared = item.stash.get(_STATED, None), _CURRENT[-1] if _CURRENT else None
    if isinstance(error, pytest.skip.Exception) and call.when == "setup" and stated:
        found = not_applicable(check, node, stated)
    else:
        found = result_of(item.config.stash[_JUDGING], check, node, call.when, error, stated, compared)
    result = replace(found, duration=round(call.duration, 4))
    report.user_properties.append((_PROPERTY, result_to_json(result)))
    report.sections.append(("Documented behaviour", f"{check.requirement.sentence}\n{check.requirement.source}"))
    if result.expected is not None:
        report.sections.append(("Expected", result.expected))
        report.sections.append(("Seen", result.seen or ""))
    report.sections.append(("Evidence", "\n".join(reference.path for reference in result.evidence) or "none"))
    return report
