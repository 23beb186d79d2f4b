"""
``junit.xml`` for pipelines: one suite per node and one for the cluster, one case per requirement.

A pipeline that reads JUnit must fail exactly where the claim does. So only a ``must`` becomes ``<failure>``
(non-conformant) or ``<error>`` (not-proven); a ``should`` or an observation with such a verdict becomes ``<skipped>``
with the verdict in its message: it is seen, it is not green, and it breaks nothing. The property ``verdict`` of each
case holds the verdict itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from conformance._suite.files import write_text
from conformance._suite.report.wording import comparison, cut, headline, one_line, printable, runtime
from conformance._suite.requirement import Level
from conformance._suite.result import CLUSTER, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from conformance._suite.facts import NodeFacts
    from conformance._suite.report.verdict import Run
    from conformance._suite.result import Result

NAME = "junit.xml"
_ELEMENTS = {
    Verdict.NON_CONFORMANT: "failure",
    Verdict.NOT_PROVEN: "error",
    Verdict.NOT_APPLICABLE: "skipped",
}


def write(run: Run) -> Path:
    """
    Write ``junit.xml`` into the output folder and return its path.
    """
    results: dict[str | None, list[Result]] = {}
    for result in run.results:
        results.setdefault(result.node, []).append(result)
    facts = {node.name: node for node in run.nodes}
    suites = [_suite(run, node, results.get(node, []), facts.get(node or "")) for node in run.places]
    root = ET.Element("testsuites", {"name": f"HostProcess conformance: {headline(run)}", **_totals(suites)})
    root.extend(suites)
    ET.indent(root, " ")
    path = run.out / NAME
    write_text(path, '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n")
    return path


def _suite(run: Run, node: str | None, results: Sequence[Result], facts: NodeFacts | None) -> ET.Element:
    cases = [_case(run, result) for result in results]
    suite = ET.Element(
        "testsuite",
        name=printable(node or CLUSTER),
        timestamp=run.started.strftime("%Y-%m-%dT%H:%M:%S"),
        tests=str(len(cases)),
        failures=_number(cases, "failure"),
        errors=_number(cases, "error"),
        skipped=_number(cases, "skipped"),
        time=f"{sum(result.duration for result in results):.3f}",
    )
    properties = {
        "simulated": str(run.cluster.simulated).lower(),
        "runId": run.run_id,
        "suiteVersion": run.suite_version,
        "target": run.cluster.target,
        "serverVersion": run.cluster.server_version,
        "claim": str(run.claim),
    }
    if run.notes:
        properties["notes"] = "; ".join(run.notes)
    if run.defects:
        properties["simulatedDefects"] = ", ".join(run.defects)
    if facts is not None:
        properties |= {
            "containerRuntime": runtime(facts),
            "kubelet": facts.kubelet,
            "osImage": facts.os_image,
            "kernel": facts.kernel,
        }
    suite.append(_properties(properties))
    suite.extend(cases)
    return suite


def _case(run: Run, result: Result) -> ET.Element:
    area = result.requirement.split("/")[0]
    case = ET.Element("testcase", classname=area, name=result.requirement, time=f"{result.duration:.3f}")
    case.append(_properties({"verdict": str(result.verdict), "level": str(result.level), "source": run.source(result)}))
    element = _ELEMENTS.get(result.verdict)
    if element is not None:
        message = one_line(result.reason)
        if result.level is not Level.MUST and element != "skipped":
            element, message = "skipped", f"{result.level}, {result.verdict}: {message}"
        outcome = ET.SubElement(case, element, message=message, type=result.reason_code or str(result.verdict))
        sides = [f"{name}: {text}" for name, text in comparison(result)]
        cause = [f"likely cause: {cause}"] if (cause := run.likely_cause(result)) else []
        outcome.text = "\n".join([cut(result.reason), *sides, *cause])
    lines = [run.sentence(result), run.source(result), *(f"evidence: {one.path}" for one in result.evidence)]
    ET.SubElement(case, "system-out").text = printable("\n".join(line for line in lines if line))
    return case


def _properties(values: dict[str, str]) -> ET.Element:
    properties = ET.Element("properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=printable(value))
    return properties


def _number(cases: Iterable[ET.Element], element: str) -> str:
    return str(sum(case.find(element) is not None for case in cases))


def _totals(suites: list[ET.Element]) -> dict[str, str]:
    return {
        name: str(sum(int(suite.get(name, "0")) for suite in suites))
        for name in ("tests", "failures", "errors", "skipped")
    }
