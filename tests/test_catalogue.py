"""
The catalogue is whole, well-formed, and generated.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance._suite import catalogue, workload
from conformance._suite.cli import program
from conformance._suite.facts import Scope
from conformance._suite.requirement import Defect, Requirement
from conformance._suite.versions import Containerd
from conformance._suite.workload import RESIDUE
from conformance.storage.test_volumes import KINDS

PAGES = catalogue.load()
SOURCES = (
    "https://kubernetes.io/docs/",
    "https://github.com/kubernetes/enhancements/",
    "https://github.com/kubernetes/kubernetes/",
    "https://github.com/microsoft/hcsshim/",
    "https://learn.microsoft.com/",
)


@pytest.mark.parametrize("requirement", PAGES.requirements.values(), ids=lambda one: one.id)
def test_a_requirement_is_whole(requirement: Requirement) -> None:
    check = PAGES.checks[requirement.id]
    page = Path(str(check.function.__module__).replace(".", "/"))
    area, topic, _ = requirement.id.split("/")
    assert page.parent.name == area
    assert requirement.sentence.endswith(".")
    assert requirement.source.startswith(SOURCES)
    assert page.name.startswith("test_")
    assert topic
    for name in check.reads:
        workload.load(name)
    if requirement.scope is Scope.CLUSTER:
        assert not any(isinstance(bound, Containerd) for bound in (*requirement.since, *requirement.until))


def test_every_workload_is_read_by_a_check_and_explained() -> None:
    read = {RESIDUE} | {name for check in PAGES.checks.values() for name in check.reads}
    assert read == set(workload.names())
    assert [name for name in sorted(read) if not (workload.FOLDER / name / "README.md").is_file()] == []


def test_every_step_on_a_node_has_the_time_that_a_busy_node_takes() -> None:
    """
    A dozen containers with PowerShell start at once, on two processors; a deadline that is met costs nothing.
    """
    loaded = [workload.load(name) for name in workload.names()]
    steps = [(one.name, step) for one in loaded if one.scope is Scope.NODE for step in one.steps]
    assert [f"{name}: {step.name}" for name, step in steps if step.deadline < 240] == []


def test_the_kinds_of_volume_are_those_of_the_page() -> None:
    assert sorted(workload.load("volumes").markers) == sorted(KINDS)


def test_check_names_are_unique() -> None:
    names = [check.name for check in PAGES.checks.values()]
    assert sorted(names) == sorted(set(names))


def test_the_generated_catalogue_is_up_to_date() -> None:
    assert program.main(["catalogue", "--check"]) == 0


@pytest.mark.parametrize(
    ("identity", "source"),
    [
        ("area/topic", "https://x"),
        ("Area/topic/it", "https://x"),
        ("area/topic/it", "http://x"),
        ("a b/c/d", "https://x"),
    ],
)
def test_a_malformed_requirement_is_refused(identity: str, source: str) -> None:
    with pytest.raises(ValueError, match="requirement"):
        Requirement(identity, "It does.", source=source)


def test_a_malformed_defect_is_refused() -> None:
    some = next(iter(PAGES.requirements.values()))
    with pytest.raises(ValueError, match="lower case"):
        Defect("Bad Name", "It is wrong.", breaks=[some])
    with pytest.raises(ValueError, match="at least one"):
        Defect("good-name", "It is wrong.", breaks=[])
