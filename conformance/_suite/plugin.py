"""
The only module with pytest hooks: one test per (check × node), and one verdict per test.

In the process that owns the run a ``Controller`` is registered as a plug-in too; it observes when it is known what
was selected, and gathers the results. Under pytest-xdist the workers get all they need in ``workerinput``.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance._suite import catalogue as catalogue_of_pages
from conformance._suite import evidence, verdict, workload
from conformance._suite.errors import SuiteError, Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts, Scope
from conformance._suite.judging import Judging
from conformance._suite.observation import Observation
from conformance._suite.redact import redact
from conformance._suite.report.allure import allure_labels
from conformance._suite.requirement import Check, Level, excluded_by
from conformance._suite.result import CLUSTER, EvidenceReference, Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

_PROPERTY = "hostprocess-conformance"


@cache
def pages() -> catalogue_of_pages.Catalogue:
    """
    The catalogue, loaded once a process.
    """
    return catalogue_of_pages.load()


class Controller:
    """
    Owns the run inside pytest: observes what was selected, gathers the results.
    """

    def __init__(self, judging: Judging, observe: Callable[[set[str]], None] | None) -> None:
        self.judging = judging
        self.results: dict[tuple[str, str | None], Result] = {}
        self.trouble: SuiteError | None = None
        self.selected: set[tuple[str, str | None]] = set()
        self._observe = observe
        self._observed = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """
        Hand a worker what it needs.
        """
        node.workerinput[_PROPERTY] = self.judging.to_data()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """
        The first worker that has collected tells what was selected; no test starts before this returns.
        """
        self._begin(_cell_of(nodeid) for nodeid in ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """
        Without workers this is where it is known what was selected.
        """
        if session.items:
            self._begin(_cell_of(item.nodeid) for item in session.items)

    def _begin(self, cells: Iterable[tuple[Check, str | None]]) -> None:
        if self._observed:
            return
        self._observed = True
        found = list(cells)
        self.selected = {(check.requirement.id, node) for check, node in found}
        if self._observe is not None:
            needed = {name for check, node in found if self.applies(check, node) for name in check.reads}
            try:
                self._observe(needed)
            except SuiteError as error:
                self.trouble = error
                pytest.exit(str(error), returncode=error.exit_code)

    def applies(self, check: Check, node: str | None) -> bool:
        """
        Whether the requirement's versions include this node, as far as that can be told: in doubt it is observed.
        """
        try:
            return excluded_by(check.requirement, facts_of(self.judging, node)) is None
        except Unknown:
            return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """
        Gather what the workers (or this process) found; the phases of one test merge by the one rule.
        """
        for name, value in report.user_properties:
            if name == _PROPERTY:
                result = result_from_json(str(value))
                key = (result.requirement, result.node)
                before = self.results.get(key)
                if before is None or verdict.merge([before.verdict, result.verdict]) is not before.verdict:
                    self.results[key] = result

    def complete(self) -> list[Result]:
        """
        Every cell of the matrix, sorted: what was not selected, or was lost with its worker, is not-proven.
        """
        results = dict(self.results)
        for check in pages().checks.values():
            for node in rows(check, self.judging):
                key = (check.requirement.id, node)
                if key not in results:
                    results[key] = self._missing(check, node, chosen=key in self.selected)
        return [results[key] for key in sorted(results, key=lambda key: (key[0], key[1] or ""))]

    def _missing(self, check: Check, node: str | None, *, chosen: bool) -> Result:
        try:
            excluded = excluded_by(check.requirement, facts_of(self.judging, node))
        except Unknown:
            excluded = None
        if excluded:
            return Result(
                check.requirement.id, node, check.requirement.level, Verdict.NOT_APPLICABLE, "version", excluded
            )
        code, reason = (
            ("no-result", "the check ended without a result: its worker died or the run was interrupted")
            if chosen
            else ("not-selected", "left out by the selection")
        )
        return Result(check.requirement.id, node, check.requirement.level, Verdict.NOT_PROVEN, code, reason)


def facts_of(judging: Judging, node: str | None) -> NodeFacts | ClusterFacts:
    """
    The facts that gate a row: the node's, or the cluster's.
    """
    return next((one for one in judging.nodes if one.name == node), judging.cluster)


def rows(check: Check, judging: Judging) -> list[str | None]:
    """
    The rows of a check: the nodes under test, or the cluster.
    """
    return [None] if check.requirement.scope is Scope.CLUSTER else [node.name for node in judging.nodes]


def _cell_of(nodeid: str) -> tuple[Check, str | None]:
    path, _, name = nodeid.partition("::")
    function, _, node = name.removesuffix("]").partition("[")
    page = ".".join(Path(path).with_suffix("").parts[-2:])
    check = next(
        one
        for one in pages().checks.values()
        if one.name == function and one.function.__module__ == f"conformance.{page}"
    )
    return check, None if node == CLUSTER else node


# -- in every process


_JUDGING = pytest.StashKey[Judging]()
_STATED = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """
    Find out what to judge: from the controller in this process, or from the one that started this worker.
    """
    controller = config.pluginmanager.get_plugin("conformance-controller")
    if isinstance(controller, Controller):
        config.stash[_JUDGING] = controller.judging
    elif hasattr(config, "workerinput"):
        config.stash[_JUDGING] = Judging.from_data(config.workerinput[_PROPERTY])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    One test per node, or one for the cluster, in the order of the node names.
    """
    check = catalogue_of_pages.check_of(metafunc.function)
    if check is not None and _JUDGING in metafunc.config.stash:
        names = sorted(node or CLUSTER for node in rows(check, metafunc.config.stash[_JUDGING]))
        metafunc.parametrize("observation", names, indirect=True, ids=names)


def pytest_itemcollected(item: pytest.Item) -> None:
    """
    Let ``-k`` match the requirement's id, as the catalogue lists it, besides the name of the check.
    """
    check = catalogue_of_pages.check_of(getattr(item, "function", None))
    if check is not None:
        item.extra_keyword_matches.add(check.requirement.id)


@pytest.fixture
def observation(request: pytest.FixtureRequest) -> Observation:
    """
    The evidence that the check reads. What is missing or foreign raises Unknown.
    """
    judging = request.config.stash[_JUDGING]
    check = catalogue_of_pages.check_of(request.function)
    if check is None:
        raise Unknown(f"{request.node.nodeid} decides no requirement", "check-broken")
    node = next((one for one in judging.nodes if one.name == request.param), None)
    if excluded := excluded_by(check.requirement, node or judging.cluster):
        request.node.stash[_STATED] = excluded
        pytest.skip(excluded)
    found = {}
    for name in check.reads:
        loaded = workload.load(name)
        found[name] = evidence.load(judging, loaded, node if loaded.scope is Scope.NODE else None)
    return Observation(found, judging.cluster, node)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """
    Run the check; what it returns is what it says it saw.
    """
    if catalogue_of_pages.check_of(pyfuncitem.function) is None:
        return None
    _CURRENT.clear()
    stated = pyfuncitem.function(observation=pyfuncitem.funcargs["observation"])
    if isinstance(stated, str):
        pyfuncitem.stash[_STATED] = redact(stated)
    return True


_CURRENT: list[tuple[str, object, object]] = []
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
    check = catalogue_of_pages.check_of(getattr(item, "function", None))
    if check is not None and _JUDGING in item.config.stash:
        _, node = _cell_of(item.nodeid)
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
    check = catalogue_of_pages.check_of(getattr(item, "function", None))
    if check is None or _JUDGING not in item.config.stash:
        return report
    error = call.excinfo.value if call.excinfo else None
    if call.when != "call" and error is None:
        return report
    result = _result(item, check, call, error)
    report.user_properties.append((_PROPERTY, result_to_json(result)))
    report.sections.append(("Documented behaviour", f"{check.requirement.sentence}\n{check.requirement.source}"))
    if result.expected is not None:
        report.sections.append(("Expected", result.expected))
        report.sections.append(("Seen", result.seen or ""))
    report.sections.append(("Evidence", "\n".join(reference.path for reference in result.evidence) or "none"))
    return report


def _result(item: pytest.Item, check: Check, call: pytest.CallInfo[None], error: BaseException | None) -> Result:
    judging = item.config.stash[_JUDGING]
    _, node = _cell_of(item.nodeid)
    requirement = check.requirement
    stated = item.stash.get(_STATED, None)
    if isinstance(error, pytest.skip.Exception) and call.when == "setup" and stated:
        return Result(requirement.id, node, requirement.level, Verdict.NOT_APPLICABLE, "version", stated)
    found, code = verdict.of_outcome(call.when, error)
    expected = seen = None
    reason = stated or "as documented"
    if error is not None:
        reason = _first_paragraph(error)
    if found is Verdict.NON_CONFORMANT and _CURRENT:
        operator, left, right = _CURRENT[-1]
        seen, expected = _shown(left), ("" if operator == "==" else f"{operator} ") + _shown(right)
        reason = _claim_of(error) or _difference(seen, expected)
    if requirement.level is Level.OBSERVED and found is Verdict.NON_CONFORMANT:
        # Observed behaviour is shown, never judged: a check of this level has no business asserting.
        found, code = Verdict.NOT_PROVEN, "observed-asserts"
    return Result(
        requirement.id,
        node,
        requirement.level,
        found,
        code,
        redact(reason),
        redact(expected) if expected is not None else None,
        redact(seen) if seen is not None else None,
        _references(judging, check, node),
        round(call.duration, 4),
    )


def _first_paragraph(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, (AssertionError, Unknown)):
        text = f"{type(error).__name__}: {text}"
    return text.split("\n\n")[0][:2000]


def _claim_of(error: BaseException | None) -> str | None:
    """
    The message that the check's author gave the assertion, without pytest's explanation of the comparison.
    """
    message = str(error or "").split("\nassert ")[0].strip()
    return None if message.startswith("assert ") or not message else message[:500]


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    except (TypeError, ValueError):
        return repr(value)


def _difference(seen: str, expected: str) -> str:
    if len(seen) + len(expected) > 200:
        return "what was seen is not what is documented"
    return f"seen {seen}, expected {expected}"


def _references(judging: Judging, check: Check, node: str | None) -> tuple[EvidenceReference, ...]:
    found = []
    for name in check.reads:
        owner = node if workload.load(name).scope is Scope.NODE else None
        path = evidence.relative_path(name, owner)
        if (judging.out / path).is_file():
            found.append(EvidenceReference(path.as_posix(), evidence.digest(judging.out / path)))
    return tuple(found)


def result_to_json(result: Result) -> str:
    """
    A result as text, to travel from a worker.
    """
    return json.dumps(asdict(result))


def result_from_json(text: str) -> Result:
    """
    The inverse of ``result_to_json``.
    """
    data = json.loads(text)
    return Result(
        **{
            **data,
            "level": Level(data["level"]),
            "verdict": Verdict(data["verdict"]),
            "evidence": tuple(EvidenceReference(**reference) for reference in data["evidence"]),
        }
    )


def usage_message(text: str) -> str:
    """
    The one line of pytest's own complaint that says what is wrong with a selection.
    """
    lines = [re.sub(r"^ERROR: ", "", line).strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line), "pytest refused its arguments")
