"""
The command line: owns the flags, the manual, progress and exit codes. nox only calls it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import re
import secrets
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import conformance
from conformance._suite import catalogue, evidence, plugin, preflight, verdict, workload
from conformance._suite.cluster import Cluster, find_kubeconfig, require_kubeconfig_target
from conformance._suite.display import Display
from conformance._suite.files import new_folder
from conformance._suite.judging import Judging
from conformance._suite.model import Claim, ClusterFacts, SuiteError, TargetError, UsageError
from conformance._suite.observe import Engine, Plan, left_behind
from conformance._suite.report import verdict as report
from conformance._suite.report import write_all
from conformance._suite.report.verdict import Run, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conformance._suite.model import NodeFacts
    from infra.target import Target

TARGETS = ("simulated", "existing", "aks", "kind")
DEFAULT_NODES = "1.6=1,2.3=1"
LARGEST_TIME_SCALE = 100
LARGEST_SIMULATION = 1000
_ROOT = Path(conformance.__file__).parent
_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._/:@-]*")

_MANUAL = """\
Judges whether Windows nodes keep what Kubernetes, containerd and AKS document about HostProcess containers.

Other commands: `judge FOLDER` judges kept evidence again, without a cluster; `up` leaves an embedded cluster running
and prints its kubeconfig, `down` takes it away; `catalogue` writes conformance/catalogue.md and .json.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, "see --help")


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in verdict.EXIT_MEANING.items())
    parser = _Parser(
        prog="nox -s conformance --",
        description=_MANUAL,
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=conformance.__version__)
    parser.add_argument(
        "--target", default="simulated", help="simulated (default: a real control plane with simulated Windows nodes) "
        "or existing (the cluster that a kubeconfig names)",
    )  # fmt: skip
    parser.add_argument(
        "-k", dest="expression", help="judge only the checks whose names match, as in pytest; at best partial"
    )
    parser.add_argument("-n", dest="workers", type=int, default=0, help="judge in this many processes (pytest-xdist)")
    parser.add_argument("--out", type=Path, help="the folder for evidence and reports (default: artifacts/<time>-<id>)")
    parser.add_argument("--time-scale", type=float, default=1.0, help="multiply every deadline, for slow nodes")
    parser.add_argument("--image", default=workload.BASE_IMAGE, help="the HostProcess base image, when it is mirrored")
    existing = parser.add_argument_group("an existing cluster (--target existing)")
    existing.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, ~/.kube/config, the pod's own account")
    existing.add_argument("--context", help="the context in the kubeconfig (default: its current one)")
    existing.add_argument("--node", action="append", default=[], help="test only this node (repeatable)")
    existing.add_argument("--node-selector", default="", help="test only nodes with these labels")
    embedded = parser.add_argument_group("the embedded cluster (--target simulated)")
    _add_embedded(embedded)
    embedded.add_argument("--sim-defect", action="append", default=[], metavar="NAME[@NODE]",
                          help="switch a named defect on, wherever it can be or on one node (repeatable)")  # fmt: skip
    return parser


def _add_embedded(group: Any) -> None:
    group.add_argument("--sim-nodes", default=DEFAULT_NODES, metavar="ERA=COUNT,…",
                       help=f"simulated nodes by containerd era (default: {DEFAULT_NODES})")  # fmt: skip
    group.add_argument("--control-plane-bin", type=Path, metavar="DIR", help="kube-apiserver, kube-controller-manager, "
                       "kube-scheduler and etcd are in this folder")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A shell starts what it puts into the background with SIGINT ignored; this program always has to hear it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # SIGTERM and a terminal that goes away end a run as Ctrl-C does: cleaned up, with its evidence.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    _watch_parent()
    commands = {"judge": _judge, "up": _up, "down": _down, "catalogue": _catalogue}
    try:
        if given and given[0] in commands:
            return commands[given[0]](given[1:])
        return _conformance(given)
    except SuiteError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("conformance: interrupted", file=sys.stderr)
        return verdict.EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - Python's own exit code for it, 1, would say non-conformant
        traceback.print_exc()
        print(f"conformance: {type(error).__name__}: {error} — this is a bug in the suite", file=sys.stderr)
        return verdict.EXIT_TARGET


def _watch_parent() -> None:
    """
    When nox is killed nobody waits for this run any more: end it as Ctrl-C would.
    """
    parent = os.environ.get("HOSTPROCESS_CONFORMANCE_PARENT")
    if not parent or int(parent) != os.getppid():
        return

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == int(parent):
            pause.wait(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


# -- commands


def _conformance(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.target not in TARGETS:
        raise UsageError(f"unknown target {options.target!r}", f"one of {', '.join(TARGETS)}")
    require_kubeconfig_target(options.target)
    if not 0 < options.time_scale <= LARGEST_TIME_SCALE:
        raise UsageError(f"--time-scale must be more than 0 and at most {LARGEST_TIME_SCALE}")
    if not _IMAGE.fullmatch(options.image):
        raise UsageError(f"--image {options.image!r} is not an image reference")
    if sys.flags.optimize:
        raise UsageError("python -O takes the assertions out of the checks", "run without -O and PYTHONOPTIMIZE")
    if options.workers < 0:
        raise UsageError("-n must not be negative")
    _refuse_foreign_options(options)
    _refuse_used_folder(options.out)
    if options.expression:
        _require_readable(options.expression)
    display = Display()
    with _target(options, display.say) as (target, died):
        started = datetime.now(UTC)
        run_id = secrets.token_hex(4)
        cluster, nodes = asyncio.run(_look(target, options))
        if options.expression:
            _require_selection(Judging(Path(), run_id, "", cluster, nodes), options.expression)
        out = _output_folder(options.out, f"{started:%Y%m%dT%H%M%SZ}-{run_id}")
        judging = Judging(out.resolve(), run_id, started.isoformat(), cluster, nodes)
        evidence.write_json(out / "run.json", {
            "suite": conformance.__version__, "started": started.isoformat(),
            "judging": replace(judging, out=Path()).to_data(), "expression": options.expression,
            "defects": options.sim_defect, "image": options.image,
        })  # fmt: skip
        display.header(cluster, nodes, out)

        going: list[str] = []

        def observe(workloads: set[str]) -> None:
            plan = Plan(run_id, out, cluster, nodes, tuple(workload.load(name) for name in sorted(workloads)),
                        options.image, options.time_scale)  # fmt: skip
            asyncio.run(_observe(target, plan, display, going, died))

        try:
            run = _judge_and_report(judging, observe, options.expression, options.workers, started=started,
                                    display=display, defects=tuple(options.sim_defect))  # fmt: skip
        finally:
            try:
                for left in [] if died() else asyncio.run(_left_behind(target, going)):
                    display.say(f"left behind: {left}")
            except KeyboardInterrupt:
                display.say(f"left behind, unless they are gone by now: namespaces {', '.join(going)}")
        display.verdict(run)
        return run.exit_code


def _refuse_foreign_options(options: argparse.Namespace) -> None:
    defaults = _parser().parse_args([])
    foreign = {
        "existing": ("sim_nodes", "sim_defect", "control_plane_bin"),
        "simulated": ("kubeconfig", "context"),
    }[options.target]
    for name in foreign:
        if getattr(options, name) != getattr(defaults, name):
            raise UsageError(f"--{name.replace('_', '-')} means nothing with --target {options.target}", "see --help")


@contextlib.contextmanager
def _target(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[tuple[Target, Callable[[], bool]]]:
    """
    The target, there while the block runs, and whether it has died meanwhile.
    """
    from infra.target import Target  # noqa: PLC0415 - the kernel knows targets only here

    if options.target == "existing":
        path = find_kubeconfig(options.kubeconfig)
        yield Target("existing", path, options.context, simulated=False), lambda: False
        return
    from infra.simulated.cluster import SimulatedCluster, parse_nodes  # noqa: PLC0415
    from infra.simulated.defects import switch_on  # noqa: PLC0415

    nodes, defect = switch_on(parse_nodes(options.sim_nodes), options.sim_defect)
    if len(nodes) > LARGEST_SIMULATION:
        raise UsageError(f"--sim-nodes asks for {len(nodes)} nodes", f"at most {LARGEST_SIMULATION} at once")
    cluster = SimulatedCluster(nodes, say, options.control_plane_bin, [defect] if defect else [])
    with cluster as target:
        wrong = replace(target, kubeconfig=cluster.kubeconfig_for(defect)) if defect else target
        yield wrong, lambda: cluster.died is not None


async def _look(target: Target, options: argparse.Namespace) -> tuple[Any, tuple[NodeFacts, ...]]:
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        return await preflight.look(
            cluster, target.name, simulated=target.simulated, names=options.node, selector=options.node_selector
        )


async def _observe(target: Target, plan: Plan, display: Display, going: list[str], died: Callable[[], bool]) -> None:
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        engine = Engine(cluster, plan, display.progress, died)
        task = asyncio.current_task()
        times = 0

        def interrupt() -> None:
            nonlocal times
            times += 1
            if died() and task is not None:
                task.cancel()
            elif times == 1 and task is not None:
                display.say("interrupted: cleaning up, at most two minutes; Ctrl-C twice more to leave it")
                task.cancel()
            elif times == 3:
                display.say(f"left behind: namespaces {', '.join(engine.namespaces.values())}")
                os._exit(verdict.EXIT_INTERRUPTED)

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        try:
            await engine.observe()
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            display.progress_ended()
            going.extend(engine.going)
            for untidy in engine.untidy:
                display.say(f"left behind: {untidy}")


async def _left_behind(target: Target, going: list[str]) -> list[str]:
    if not going:
        return []
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        return await left_behind(cluster, going)


def _refuse_used_folder(given: Path | None) -> None:
    if given is not None and given.exists() and not (given.is_dir() and not any(given.iterdir())):
        raise UsageError(f"{given} is not an empty folder", "name a new folder with --out")


def _output_folder(given: Path | None, name: str) -> Path:
    try:
        if given is None:
            return new_folder(Path("artifacts"), name)
        _refuse_used_folder(given)
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the output folder cannot be made: {error}", "name another one with --out") from error
    return given


def _judge(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="nox -s judge --", description="Judge kept evidence again, without a cluster.")
    parser.add_argument("folder", type=Path, help="an output folder of an earlier run")
    parser.add_argument("--out", type=Path, help="where the new reports go (default: FOLDER/judged-<time>)")
    options = parser.parse_args(arguments)
    import json  # noqa: PLC0415

    try:
        kept = json.loads((options.folder / "run.json").read_text(encoding="utf-8"))
        judging = Judging.from_data(kept["judging"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{options.folder} is not the output folder of a run: no run.json that can be read",
            "name a folder below artifacts/",
        ) from error
    started = datetime.now(UTC)
    out = _output_folder(options.out or options.folder / f"judged-{started:%Y%m%dT%H%M%SZ}", "")
    display = Display()
    rejudged = replace(judging, out=options.folder.resolve(), same_digest=False, digests=_reported(options.folder))
    run = _judge_and_report(rejudged, None, kept.get("expression"), 0, started=started, display=display,
                            defects=tuple(kept.get("defects", ())), reports=out)  # fmt: skip
    display.verdict(run)
    return run.exit_code


def _reported(folder: Path) -> dict[str, str]:
    """
    The sums of the evidence that the report in this folder was made from; nothing where there is no report.
    """
    try:
        document = report.load(folder / report.NAME)
    except UsageError:
        return {}
    return {one["path"]: one["sha256"] for result in document["results"] for one in result["evidence"]}


def _catalogue(arguments: Sequence[str]) -> int:
    import json  # noqa: PLC0415

    parser = _Parser(prog="nox -s catalogue --", description="Write the flat catalogue, or verify it.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when it is not up to date")
    options = parser.parse_args(arguments)
    pages = catalogue.load()
    texts = {
        _ROOT / "catalogue.md": catalogue.markdown(pages),
        _ROOT / "catalogue.json": json.dumps(pages.entries(), indent=1, ensure_ascii=False) + "\n",
    }
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"conformance: {path.name} is not up to date — run `nox -s catalogue`", file=sys.stderr)
        else:
            path.write_text(texts[path], encoding="utf-8")
            print(f"wrote {path.name}")
    return 1 if stale and options.check else 0


def _up(arguments: Sequence[str]) -> int:
    from infra.simulated import cluster  # noqa: PLC0415

    parser = _Parser(prog="nox -s up --", description="Leave an embedded cluster running; `nox -s down` takes it away.")
    _add_embedded(parser)
    options = parser.parse_args(arguments)
    display = Display()
    kubeconfig = cluster.up(cluster.parse_nodes(options.sim_nodes), display.say, options.control_plane_bin)
    display.say(f"the simulated nodes have {workload.BASE_IMAGE}")
    print(f"export KUBECONFIG={kubeconfig}")
    return 0


def _down(arguments: Sequence[str]) -> int:
    from infra.simulated import cluster  # noqa: PLC0415

    _Parser(prog="nox -s down --", description="Take away the cluster that `nox -s up` left.").parse_args(arguments)
    cluster.down(Display().say)
    return 0


# -- judging


@dataclass(slots=True)
class _Outcome:
    code: int
    complaint: str


def _require_readable(expression: str) -> None:
    """
    Refuse an expression that cannot be read, before a cluster is brought up for it.
    """
    nobody = Judging(Path(), "", "", ClusterFacts("", "v1.0.0", simulated=False), ())
    outcome = _run_pytest(plugin.Controller(nobody, None), ["--collect-only", "-k", expression], Path(os.devnull))
    if outcome.code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError(plugin.usage_message(outcome.complaint), "see --help")


def _require_selection(judging: Judging, expression: str) -> None:
    """
    Refuse a selection that matches nothing, before anything is put on the cluster.
    """
    arguments = ["--collect-only", "-k", expression]
    outcome = _run_pytest(plugin.Controller(judging, None), arguments, Path(os.devnull))
    if outcome.code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UsageError(f"-k {expression!r} matches no check", "names are listed in conformance/catalogue.md")


def _run_pytest(controller: plugin.Controller, options: Sequence[str], log: Path) -> _Outcome:
    arguments = [
        str(_ROOT), f"--rootdir={_ROOT.parent}", "-c", os.devnull, "--import-mode=importlib", "-s",
        "--assert=rewrite", "-p", "xdist", "-p", "allure_pytest", "-p", "conformance._suite.plugin",
        "-p", "no:cacheprovider", *options,
    ]  # fmt: skip
    # What is judged, and how, is decided here alone; workers inherit this.
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    complaint = io.StringIO()
    controller_name = "conformance-controller"

    class _Register:
        """
        Registers the controller under its name before any other hook runs.
        """

        @staticmethod
        @pytest.hookimpl(tryfirst=True)
        def pytest_configure(config: pytest.Config) -> None:
            config.pluginmanager.register(controller, controller_name)

    # What pytest itself prints goes to a log: the terminal is for progress and for the verdict.
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        with contextlib.redirect_stderr(complaint):
            code = int(pytest.main(arguments, plugins=[_Register()]))
        file.write(complaint.getvalue())
    return _Outcome(code, complaint.getvalue())


def _judge_and_report(
    judging: Judging,
    observe: Callable[[set[str]], None] | None,
    expression: str | None,
    workers: int,
    *,
    started: datetime,
    display: Display,
    defects: tuple[str, ...],
    reports: Path | None = None,
) -> Run:
    controller = plugin.Controller(judging, observe)
    out = reports or judging.out
    options = [f"--alluredir={out / 'allure-results'}"]
    if expression:
        options += ["-k", expression]
    if workers:
        options += ["-n", str(workers)]
    outcome = _run_pytest(controller, options, out / "pytest.log")
    if controller.trouble is not None:
        raise controller.trouble
    interrupted = outcome.code == pytest.ExitCode.INTERRUPTED
    if outcome.code == pytest.ExitCode.INTERNAL_ERROR and not controller.results:
        raise TargetError("the suite broke while judging", f"this is a bug in the suite; see {out / 'pytest.log'}")
    results = controller.complete()
    full = expression is None and not interrupted
    claimed = verdict.claim(results, [node.name for node in judging.nodes], full=full)
    code = verdict.EXIT_INTERRUPTED if interrupted else verdict.EXIT_CODES[claimed]
    run = Run(
        suite_version=conformance.__version__,
        catalogue_digest=plugin.pages().digest(),
        run_id=judging.run_id,
        started=started,
        ended=datetime.now(UTC),
        cluster=judging.cluster,
        nodes=judging.nodes,
        node_subjects=_subjects(judging),
        selection=Selection(full=full, expression=expression),
        claim=Claim(claimed),
        exit_code=code,
        results=tuple(results),
        defects=defects,
        requirements=plugin.pages().requirements,
        out=out,
        evidence=judging.out,
    )
    # Judging is done: what is reported now is the verdict, and it is reported whole.
    before = signal.signal(signal.SIGINT, lambda *_: display.say("the verdict is there; writing the reports"))
    try:
        write_all(run, display.say)
    finally:
        signal.signal(signal.SIGINT, before)
    return run


def _subjects(judging: Judging) -> dict[str, dict[str, Any]]:
    """
    What the facts workload read on each node: shim, digests, build. Missing where it was not observed.
    """
    subjects = {}
    for node in judging.nodes:
        with contextlib.suppress(SuiteError):
            facts = evidence.load(judging, workload.load("node-facts"), node)
            (probe,) = facts.data["steps"][0]["probe"].values()
            subjects[node.name] = dict(probe or {})
    return subjects


if __name__ == "__main__":
    sys.exit(main())
