"""
Probes, and the steps that prepare a machine, run where no test can: under Windows PowerShell 5.1. What can be held
without it is held here.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from conformance._suite.workload import VARIABLE_LIMIT, bootstrap_command, pack
from tests.powershell import COMMANDS, COMMON_PARAMETERS, ROOT, SINCE_POWERSHELL_7, script

if TYPE_CHECKING:
    from pathlib import Path

BOOTSTRAP = ROOT / "workloads" / "bootstrap.ps1"
PROBES = sorted((ROOT / "workloads").glob("*/probe.ps1"))
STEPS = sorted((ROOT / "infra" / "windows" / "scripts").glob("*.ps1"))
NETWORK = sorted((ROOT / "infra" / "kind" / "manifests").glob("*.ps1"))
HNS = {"get-hnsnetwork", "get-hnsendpoint", "get-hnspolicylist", "remove-hnsnetwork", "remove-hnspolicylist"}
"""Of the module HostNetworkingService, which comes with the feature Containers and is in no list; used without any
parameters."""


def twin(probe: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"twin_of_{probe.parent.name}", probe.with_name("twin.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


every_script = pytest.mark.parametrize(
    "path", [*PROBES, BOOTSTRAP, *STEPS, *NETWORK], ids=lambda path: str(path.relative_to(ROOT))
)
every_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda path: path.parent.name)


def test_there_are_probes() -> None:
    assert PROBES
    assert STEPS
    assert NETWORK


@every_script
def test_it_parses_and_says_nothing_that_only_powershell_7_understands(path: Path) -> None:
    assert not script(path).broken
    assert script(path).kinds & SINCE_POWERSHELL_7 == set()


@every_script
def test_it_is_ascii_with_plain_line_ends(path: Path) -> None:
    assert path.read_bytes().isascii()
    assert b"\r" not in path.read_bytes()


@every_script
def test_it_calls_only_what_windows_powershell_5_1_has(path: Path) -> None:
    if not COMMANDS.exists():
        pytest.skip("the list of Windows PowerShell 5.1's commands is not here (POWERSHELL_COMMANDS names it)")
    listed = json.loads(COMMANDS.read_text(encoding="utf-8"))["commands"]
    known = {name.lower(): {one.lower() for one in entry["parameters"]} for name, entry in listed.items()}
    known.update({name: set() for name in HNS})
    # The prelude is sent ahead of each step.
    for one in (path, *(step for step in STEPS if step.name == "prelude.ps1" and path in STEPS)):
        known.update({name: set(parameters) for name, parameters in script(one).functions.items()})
    for command in script(path).commands:
        # A computed name (`& $collect`) and a program of Windows (`net.exe`) are in no list.
        if command.name and not command.name.endswith(".exe"):
            assert command.name in known
            assert set(command.parameters) - known[command.name] - COMMON_PARAMETERS == set(), command.name


@pytest.mark.parametrize("path", NETWORK, ids=lambda path: path.stem)
def test_what_it_downloads_has_its_digest_checked_before_it_gets_its_name(path: Path) -> None:
    names = [command.name for command in script(path).commands]
    # Fetched aside, looked at, compared, moved: nothing else, and nothing in between.
    for at in (number for number, name in enumerate(names) if name == "invoke-webrequest"):
        assert names[at : at + 3] == ["invoke-webrequest", "get-filehash", "move-item"]
    text = path.read_text(encoding="ascii")
    checked = re.findall(
        r"""-OutFile "\$path\.part"
 *\$found = \(Get-FileHash -Path "\$path\.part" -Algorithm SHA256\)\.Hash
 *if \(\$found -ne \$digest\) \{ throw [^}]*\}
 *Move-Item -Force -Path "\$path\.part" -Destination \$path
""",
        text,
    )
    assert len(checked) == names.count("invoke-webrequest") == text.count("-OutFile") == 1


@every_probe
def test_its_facts_are_its_twins(probe: Path) -> None:
    facts = script(probe).facts
    assert facts == list(twin(probe).FACTS)
    assert len(facts) == len(set(facts))


def test_what_windows_says_of_a_path_without_a_file_is_told_from_trouble() -> None:
    """
    Whatever is not in the list is an error of that entry: a number that says nothing about mounts is no finding.
    """
    probe = ROOT / "workloads" / "volumes" / "probe.ps1"
    (listed,) = re.findall(r"\$noFile = ([\d, ]+)\n", probe.read_text(encoding="ascii"))
    numbers = {int(number) for number in listed.split(",")}
    assert numbers == twin(probe).NO_FILE
    trouble = {8, 14, 21, 23, 31, 32, 33, 112, 170, 225, 226, 303, 1117, 1224, 1392, 1393, 1450, 1453, 1455}
    assert numbers & trouble == set()


def test_the_script_that_asks_the_job_is_one_line_that_parses(tmp_path: Path) -> None:
    pod = yaml.safe_load((ROOT / "workloads" / "job-limits" / "pod.yaml").read_text(encoding="ascii"))
    given = {
        one["value"]
        for container in pod["spec"]["containers"]
        for one in container["env"]
        if one["name"] == "QUERY_JOB"
    }
    (text,) = given
    assert len(pod["spec"]["containers"]) == 3
    assert "\n" not in text
    # Neither the kubelet nor the shim has anything to put in.
    assert "$(" not in text
    path = tmp_path / "query-job.ps1"
    path.write_text(text, encoding="ascii")
    assert not script(path).broken
    assert script(path).kinds & SINCE_POWERSHELL_7 == set()
    assert script(path).commands == ()


@every_probe
def test_it_fits_into_an_environment_variable(probe: Path) -> None:
    assert len(pack(probe.read_bytes())) < VARIABLE_LIMIT * 2 / 3


def test_the_bootstrap_fits_into_a_command_line() -> None:
    assert bootstrap_command()[0] == "powershell.exe"


@every_probe
def test_it_prints_one_observation_and_no_secret(probe: Path) -> None:
    text = probe.read_text(encoding="ascii")
    assert len(re.findall(r"WriteLine\('<<<observation ' \+ \$json \+ ' observation>>>'\)", text)) == 1
    assert {command.name for command in script(probe).commands} & {"write-host", "write-output", "out-host"} == set()
    assert not re.findall(r"WriteLine\([^\n]*\$\w*(?:token|password|secret)", text, re.IGNORECASE)


@every_script
def test_its_c_sharp_compiles(path: Path, tmp_path: Path) -> None:
    sources = [source for command in script(path).commands if command.name == "add-type" for source in command.strings]
    compiler = shutil.which("mcs")
    if sources and compiler is None:
        pytest.skip("no mcs (mono) on PATH")
    for number, source in enumerate(sources):
        file = tmp_path / f"{number}.cs"
        file.write_text(source, encoding="ascii")
        command = [str(compiler), "-langversion:5", "-target:library", f"-out:{file}.dll", str(file)]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        assert compiled.returncode == 0, compiled.stdout + compiled.stderr
