"""
The runtime's words reach the reader whole: what stands before them is dropped, and what has to be short keeps its end.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from conformance import Observation, Unknown
from conformance._suite.facts import ClusterFacts, NodeFacts
from conformance._suite.judge.matrix import pages
from conformance._suite.judge.outcome import result_of
from conformance._suite.judging import Judging
from conformance._suite.observation import Evidence
from conformance._suite.report import wording
from conformance._suite.words import plain, shortened
from conformance.operation.test_aks_daemonset import test_what_the_older_script_prints as older_script

TASK = "0123456789abcdef" * 4
CAUSE = "failed to create user process token: failed to logon user: Access is denied.: unknown"
ENCODED = "powershell.exe -NoProfile -EncodedCommand " + "JABzAD0A" * 100
HIDDEN = "powershell.exe -NoProfile -EncodedCommand …"


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (f'failed to start containerd task "{TASK}": {CAUSE}', CAUSE),
        (f'Failed: Error: failed to start containerd task "powershell": {CAUSE}', f"Failed: Error: {CAUSE}"),
        ("failed to create containerd task: failed to create shim task: hcsshim::x: unknown", "hcsshim::x: unknown"),
        ("failed to create containerd task: failed to create shim: hcsshim::x", "hcsshim::x"),
        (
            f'failed to generate container "{TASK}" spec: failed to generate spec: no command specified',
            "failed to generate spec: no command specified",
        ),
        (f'"{ENCODED}": failed to find "{ENCODED}"', f'"{HIDDEN}": failed to find "{HIDDEN}"'),
        ("-EncodedCommand ZQB4AGkAdAA=", "-EncodedCommand ZQB4AGkAdAA="),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_what_says_nothing_is_dropped(said: str, read: str) -> None:
    assert plain(said) == read
    assert json.loads(plain(json.dumps({"it": said}))) == {"it": read}, "the words stand in JSON too"


def test_what_is_long_is_cut_in_the_middle() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 50 + "z" * 50, 20) == "aaaaaaaa … zzzzzzzzz"
    assert wording.one_line(f"x\n{'x' * 3000} {CAUSE}", 200).endswith(CAUSE[-90:])
    long = wording.cut("\n".join([*map(str, range(100)), CAUSE]))
    assert long.startswith("0\n1\n")
    assert long.endswith(f"\n99\n{CAUSE}")
    assert "more characters: see the evidence" in long


def test_a_result_has_the_runtimes_words_whole(tmp_path: Any) -> None:
    cluster = ClusterFacts("existing", "v1.37.2", simulated=False)
    node = NodeFacts("win", "u", "10.0.0.4", "win", "containerd://2.3.4", "v1.37.2", "Windows", "10.0.26100.1", 4)
    judging = Judging(tmp_path, "r", "2026-11-22T10:00:00", cluster, (node,))
    check = pages().checks["operation/aks-daemonset/running-on-each-node"]
    said = f'failed to start containerd task "{TASK}": "{ENCODED}" {"and " * 60}{CAUSE}'
    compared = ("==", {"powershell": f"ended: {said}"}, {"powershell": "running"})
    result = result_of(judging, check, "win", "call", AssertionError("assert x"), None, compared)
    unknown = result_of(judging, check, "win", "call", Unknown(said + " " * 3000 + CAUSE, "not-started"), None, None)
    assert TASK not in f"{result}{unknown}"
    assert "JABz" not in f"{result}{unknown}"
    assert str(result.seen).endswith(f'{CAUSE}"}}')
    assert unknown.reason.endswith(CAUSE)
    assert len(unknown.reason) <= 2000
    assert HIDDEN in str(result.seen)
    assert CAUSE in str(wording.comparison(result))
    assert CAUSE[-30:] in str(wording.comparison(result, 300))


def older(log: str | None, terminated: dict[str, Any] | None, *, bind_filter: object = True) -> Observation:
    """
    What the older script's container left, on a node with, without or with nobody knows which bind filter.
    """
    state = {"terminated": terminated} if terminated else {"running": {}}
    status = {"name": "powershell", "ready": not terminated, "state": state}
    pod = {"metadata": {}, "status": {"phase": "Running", "containerStatuses": [status]}}
    kubernetes = {"pod": pod, "logs": {} if log is None else {"powershell": log}}
    step = {"name": "run", "met": True, "trouble": None, "kubernetes": kubernetes}
    facts = {"name": "read", "met": True, "trouble": None, "probe": {"reader": {"bindFilter": bind_filter}}}
    evidence = {
        "aks-daemonset-older": Evidence({"workload": "aks-daemonset-older", "steps": [step]}),
        "node-facts": Evidence({"workload": "node-facts", "steps": [facts]}),
    }
    return Observation(evidence, ClusterFacts("simulated", "v1.37.2", simulated=True))


ENDED = {"reason": "Completed", "exitCode": 0}


@pytest.mark.parametrize("answer", ["True", "False"])
def test_the_older_scripts_answer_is_true_or_false(answer: str) -> None:
    assert older_script(older(f"Process has admin rights: {answer}\n", None)) == f"It printed the answer: {answer}."


@pytest.mark.parametrize(
    "log", ['Write-Host \\"Process has admin rights: $AdminRights\\"\nwhile', "Process has admin rights: \n", "'x' is"]
)
def test_what_is_no_answer_is_not_called_one(log: str) -> None:
    said = older_script(older(log, None))
    assert said.startswith("It printed no answer, but ")
    assert "WindowsPrincipal" not in said, "nobody read that"


def test_what_the_page_itself_shows_is_explained() -> None:
    log = "Unable to find type [Security.Principal.WindowsPrincipal].\nProcess has admin rights: \n"
    assert "so it asked nobody" in older_script(older(log, None))


@pytest.mark.parametrize(
    ("terminated", "bind_filter"),
    [
        ({"reason": "StartError", "exitCode": 128, "message": CAUSE}, True),
        ({"reason": "Error", "exitCode": 1}, True),
        (ENDED, False),
        (ENDED, {"error": "it could not look"}),
    ],
)
def test_the_newline_is_blamed_only_where_it_was_read(terminated: dict[str, Any], bind_filter: object) -> None:
    said = older_script(older(None, terminated, bind_filter=bind_filter))
    assert re.match(rf"It printed nothing\. The container: (?:ended|not started): {terminated['reason']}", said)
    assert "cmd /c" not in said


def test_the_newline_is_blamed_where_it_was_read() -> None:
    assert "cuts it at the first newline" in older_script(older(None, ENDED))
