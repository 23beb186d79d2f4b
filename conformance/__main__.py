"""
The command line: owns the flags, the manual, progress and exit codes. nox only calls it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import secrets
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import conformance
from conformance._suite import catalogue, cleanup, evidence, images, judge, preflight, rbac, verdict, workload
from conformance._suite.cluster import Cluster, find_kubeconfig
from conformance._suite.display import Display
from conformance._suite.files import new_folder
from conformance._suite.judging import Judging
from conformance._suite.model import Scope, SuiteError, TargetError, UsageError
from conformance._suite.observe import BusyError, Engine, Plan
from conformance._suite.report import verdict as report
from conformance._suite.selection import Choice, Expectations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conformance._suite.model import ClusterFacts, NodeFacts
    from infra.target import Target

TARGETS = ("simulated", "existing", "aks", "kind")
PROVISIONED = ("aks", "kind")
"""Those that bring a cluster of their own up: a module below ``infra`` each."""
DEFAULT_NODES = "1.6=1,2.3=1"
LARGEST_TIME_SCALE = 100
LARGEST_SIMULATION = 1000
MOST_WORKERS = 64
_ROOT = Path(conformance.__file__).parent

_MANUAL = """\
Judges whether Windows nodes keep what Kubernetes, containerd and AKS document about HostProcess containers.

Other commands, each with its own --help: `judge FOLDER` judges kept evidence again, without a cluster; `up` and `down`
leave a cluster running and take it away; `cleanup` takes away what killed runs left; `rbac` prints the rights that a
run needs, `images` the images; `catalogue` writes conformance/catalogue.md and .json.
"""


class _Parser(argparse.ArgumentParser):
    def __init__(self, name: str, description: str, **more: Any) -> None:
        super().__init__(prog=f"nox -s {name} --", description=description, allow_abbrev=False, **more)
        self.own: dict[str, str] = {}
        """For which target alone an option is, by the name of its value."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, "see --help")

    def add_target(self, title: str, target: str) -> Any:
        """
        A group of options for one target.
        """
        parser = self

        class Group:
            def __init__(self) -> None:
                self._group = parser.add_argument_group(f"{title} (--target {target})")

            def add_argument(self, *names: str, **how: Any) -> Any:
                action = self._group.add_argument(*names, **how)
                parser.own[action.dest] = target
                return action

        return Group()

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Parse, and refuse what means nothing for the target.
        """
        options = self.parse_args(arguments)
        target = getattr(options, "target", None)
        if target is not None and target not in TARGETS:
            raise UsageError(f"unknown target {target!r}", f"one of {', '.join(TARGETS)}")
        for name, owner in self.own.items():
            if target != owner and getattr(options, name) != self.get_default(name):
                option = next(one.option_strings[0] for one in self._actions if one.dest == name)
                raise UsageError(f"{option} means nothing with --target {target}", "see --help")
        return options


def _parser() -> _Parser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in verdict.EXIT_MEANING.items())
    parser = _Parser(
        "conformance", _MANUAL, epilog=f"exit codes:\n{codes}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=conformance.__version__)
    _add_target(parser)
    parser.add_argument(
        "-k", dest="expression", help="judge only the checks whose names match, as in pytest; at best partial"
    )
    parser.add_argument("-n", dest="workers", type=int, default=0, help="judge in this many processes (pytest-xdist)")
    parser.add_argument("--out", type=Path, help="the folder for evidence and reports (default: <time>-<id> below "
                        "$ARTIFACTS, or below artifacts)")  # fmt: skip
    _add_reports(parser)
    parser.add_argument("--time-scale", type=float, default=1.0, help="multiply every deadline, for slow nodes")
    _add_nodes(parser)
    _add_expectations(parser)
    _add_images(parser)
    _add_existing(parser)
    _add_embedded(parser).add_argument(
        "--sim-defect", action="append", default=[], metavar="NAME[@NODE]",
        help="switch a named defect on, wherever it can be or on one node (repeatable)",
    )  # fmt: skip
    _add_provisioned(parser)
    _add_dry_run(parser)
    return parser


def _add_reports(parser: _Parser) -> None:
    parser.add_argument("--no-allure", dest="allure", action="store_false",
                        help="write neither allure-results nor its page")  # fmt: skip


def _add_target(parser: _Parser) -> None:
    parser.add_argument(
        "--target", default="simulated", help="simulated (default: a real control plane with simulated Windows nodes), "
        "existing (the cluster that a kubeconfig names), aks or kind (bring one up, and take it away again)",
    )  # fmt: skip


def _add_nodes(parser: _Parser) -> None:
    group = parser.add_argument_group("nodes (default: every Windows node that is ready and not cordoned)")
    group.add_argument("--node", action="append", default=[], help="test only this node (repeatable)")
    group.add_argument("--node-selector", default="", help="test only nodes with these labels")
    group.add_argument("--os-sku", action="append", default=[], help="test only this OS SKU: Windows2022 (repeatable)")
    group.add_argument("--windows-build", action="append", default=[],
                       help="test only this build: 20348, or 20348.2700 (repeatable)")  # fmt: skip


def _add_expectations(parser: _Parser) -> None:
    group = parser.add_argument_group("what is expected to be there, or exit 3")
    group.add_argument("--expect-nodes", type=int, metavar="N", help="so many nodes are tested")
    group.add_argument("--expect-containerd", metavar="VERSION", help="every node has it; 1.7 stands for every 1.7.x")
    group.add_argument("--expect-build", metavar="BUILD", help="the same for the Windows build: 20348.2700")
    group.add_argument("--expect-kubernetes", metavar="VERSION", help="the same for the API server and the kubelets")


def _add_images(parser: _Parser) -> None:
    group = parser.add_argument_group("images, when they come from a mirror; `nox -s images` lists them")
    group.add_argument("--image", default=workload.BASE_IMAGE, help="the HostProcess base image")
    group.add_argument("--registry-prefix", default="", metavar="REGISTRY", help="pull everything from this registry")
    group.add_argument("--images-file", type=Path, metavar="FILE", help="YAML, `reference: replacement` in each line")
    group.add_argument("--pull-secret", type=Path, metavar="FILE", help="a Docker config.json for the registry")


def _add_existing(parser: _Parser) -> Any:
    group = parser.add_target("an existing cluster", "existing")
    group.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, ~/.kube/config, the pod's own account")
    group.add_argument("--context", help="the context in the kubeconfig (default: its current one)")
    group.add_argument("--namespace", metavar="NAME", help="create no namespaces: use NAME, NAME-baseline and "
                       "NAME-restricted, which `nox -s rbac -- --namespace NAME` describes")  # fmt: skip
    return group


def _add_embedded(parser: _Parser) -> Any:
    group = parser.add_target("the embedded cluster", "simulated")
    group.add_argument("--sim-nodes", default=DEFAULT_NODES, metavar="ERA=COUNT,…",
                       help=f"simulated nodes by containerd era (default: {DEFAULT_NODES})")  # fmt: skip
    group.add_argument("--control-plane-bin", type=Path, metavar="DIR", help="kube-apiserver, kube-controller-manager, "
                       "kube-scheduler and etcd are in this folder")  # fmt: skip
    return group


def _add_provisioned(parser: _Parser) -> None:
    titles = {"aks": "Azure Kubernetes Service", "kind": "kind with a Windows machine"}
    for target in PROVISIONED:
        _module(target).add_options(parser.add_target(titles[target], target))


def _add_dry_run(parser: _Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="aks, kind: only print what would be made")


def _module(target: str) -> Any:
    """
    The module of a target that brings a cluster up.
    """
    return importlib.import_module(f"infra.{target}")


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
    commands = {
        "judge": _judge, "up": _up, "down": _down, "catalogue": _catalogue, "cleanup": _cleanup, "rbac": _rbac,
        "images": _images,
    }  # fmt: skip
    try:
        if given and given[0] in commands:
            return commands[given[0]](given[1:])
        return _conformance(given)
    except SuiteError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return verdict.EXIT_TARGET
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
    options = _parser().parse(arguments)
    if not 0 < options.time_scale <= LARGEST_TIME_SCALE:
        raise UsageError(f"--time-scale must be more than 0 and at most {LARGEST_TIME_SCALE}")
    if sys.flags.optimize:
        raise UsageError("python -O takes the assertions out of the checks", "run without -O and PYTHONOPTIMIZE")
    if not 0 <= options.workers <= MOST_WORKERS:
        raise UsageError(f"-n must not be negative, nor more than {MOST_WORKERS}")
    places = _read_images(options)
    choice = _choice(options)
    expectations = Expectations(
        options.expect_containerd, options.expect_build, options.expect_kubernetes, options.expect_nodes
    )
    _refuse_used_folder(options.out)
    if options.expression:
        judge.require_readable(options.expression)
    display = Display()
    if _only_described(options, display):
        return 0
    with _target(options, display.say) as (target, died):
        started = datetime.now(UTC)
        run_id = secrets.token_hex(4)
        needs = _needs(options, places)
        cluster, nodes = asyncio.run(_look(target, choice, expectations, needs, display))
        if options.expression:
            judge.require_selection(Judging(Path(), run_id, "", cluster, nodes), options.expression)
        for left in asyncio.run(_reap(target, needs.namespace, display)):
            display.say(f"left behind by an earlier run: {left}")
        out = _output_folder(options.out, f"{started:%Y%m%dT%H%M%SZ}-{run_id}")
        judging = Judging(out.resolve(), run_id, started.isoformat(), cluster, nodes)
        evidence.write_json(out / "run.json", {
            "suite": conformance.__version__, "started": started.isoformat(),
            "judging": replace(judging, out=Path()).to_data(), "expression": options.expression,
            "defects": options.sim_defect,
            "images": {one: places.resolve(one) for one in sorted(_documented_images())},
        })  # fmt: skip
        display.header(cluster, nodes, out)

        going: list[cleanup.Going] = []

        def observe(workloads: set[str]) -> None:
            plan = Plan(run_id, out, cluster, nodes, tuple(workload.load(name) for name in sorted(workloads)),
                        places, options.time_scale, needs.namespace)  # fmt: skip
            asyncio.run(_observe(target, plan, display, going, died))

        try:
            run = judge.judge(judging, observe, options.expression, options.workers, started=started,
                              display=display, defects=tuple(options.sim_defect), allure=options.allure)  # fmt: skip
        finally:
            try:
                for left in [] if died() else asyncio.run(_left_behind(target, going)):
                    display.say(f"left behind: {left}")
            except KeyboardInterrupt:
                display.say(f"left behind, unless it is gone by now: {', '.join(map(str, going))}")
        display.verdict(run)
        return run.exit_code


def _choice(options: argparse.Namespace) -> Choice:
    return Choice(
        tuple(options.node), options.node_selector, tuple(options.os_sku), tuple(options.windows_build)
    )  # fmt: skip


def _documented_images() -> set[str]:
    return {image for name in workload.names() for image in workload.load(name).images}


def _read_images(options: argparse.Namespace) -> images.Images:
    known = _documented_images() | set(_module("kind").images())
    places = images.read(options.registry_prefix, options.images_file, options.image, options.pull_secret, known)
    # The kind target deploys images of its own.
    options.resolve_image = places.resolve
    return places


def _needs(options: argparse.Namespace, places: images.Images) -> preflight.Needs:
    """
    What the target must offer; a selection is only known later, and needs less.
    """
    whole = options.expression is None
    on_nodes = sum(workload.load(name).scope is Scope.NODE for name in workload.names())
    return preflight.Needs(
        namespace=options.namespace, pods=on_nodes if whole else 1, pod_security=whole,
        image=places.resolve(workload.BASE_IMAGE),
    )  # fmt: skip


def _only_described(options: argparse.Namespace, display: Display) -> bool:
    """
    Whether no more was asked for than what would be made, which is told.
    """
    if options.target in PROVISIONED:
        _module(options.target).validate(options)
        if options.dry_run:
            display.say(_module(options.target).describe(options))
            return True
    elif options.dry_run:
        raise UsageError(f"--dry-run means nothing with --target {options.target}", "it is for aks and kind")
    return False


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
    if options.target in PROVISIONED:
        with _module(options.target).brought_up(options, say) as target:
            yield target, lambda: False
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


async def _look(
    target: Target, choice: Choice, expectations: Expectations, needs: preflight.Needs, display: Display
) -> tuple[ClusterFacts, tuple[NodeFacts, ...]]:
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        return await preflight.look(
            cluster, target.name, choice, expectations, needs, display.say, simulated=target.simulated
        )


async def _reap(target: Target, namespace: str | None, display: Display, *, everything: bool = False) -> list[str]:
    """
    Take away what earlier runs left on the cluster.
    """
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        return await cleanup.reap(cluster, namespace, display.say, everything=everything)


async def _observe(
    target: Target, plan: Plan, display: Display, going: list[cleanup.Going], died: Callable[[], bool]
) -> None:
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        engine = Engine(cluster, plan, display.progress, died, display.say)
        task = asyncio.current_task()
        times = 0

        def interrupt() -> None:
            nonlocal times
            times += 1
            if died() and task is not None:
                task.cancel()
            elif times == 1 and task is not None:
                display.say("interrupted: cleaning up, at most five minutes; Ctrl-C twice more to leave it")
                task.cancel()
            elif times == 3 and target.name in PROVISIONED and task is not None:
                task.cancel()  # the whole cluster is taken down now
            elif times == 3:
                left = ", ".join(map(str, engine.going))
                display.say(f"left behind: {left}, and what is on the hosts; `nox -s cleanup -- --all` takes it away")
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


async def _left_behind(target: Target, going: list[cleanup.Going]) -> list[str]:
    if not going:
        return []
    async with await Cluster.connect(target.kubeconfig, target.context) as cluster:
        return await cleanup.left_behind(cluster, going)


def _refuse_used_folder(given: Path | None) -> None:
    place = (given or _artifacts()).absolute()
    try:
        used = given is not None and given.exists() and not (given.is_dir() and not any(given.iterdir()))
    except OSError as error:
        raise UsageError(f"the output folder cannot be looked at: {error}", "name another one with --out") from error
    if used:
        raise UsageError(f"{given} is not an empty folder", "name a new folder with --out")
    # Found out now, and not when a cluster has been brought up.
    there = next(one for one in (place, *place.parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise UsageError(f"the output folder cannot be made: {there} is not writable", "name another one with --out")


def _artifacts() -> Path:
    # Prow's name for the folder that it keeps.
    return Path(os.environ.get("ARTIFACTS") or "artifacts")


def _output_folder(given: Path | None, name: str) -> Path:
    try:
        if given is None:
            return new_folder(_artifacts(), name)
        _refuse_used_folder(given)
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the output folder cannot be made: {error}", "name another one with --out") from error
    return given


def _judge(arguments: Sequence[str]) -> int:
    parser = _Parser("judge", "Judge kept evidence again, without a cluster.")
    parser.add_argument("folder", type=Path, help="an output folder of an earlier run")
    parser.add_argument("--out", type=Path, help="where the new reports go (default: FOLDER/judged-<time>)")
    _add_reports(parser)
    options = parser.parse(arguments)
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
    run = judge.judge(rejudged, None, kept.get("expression"), 0, started=started, display=display,
                      defects=tuple(kept.get("defects", ())), reports=out, allure=options.allure)  # fmt: skip
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
    parser = _Parser("catalogue", "Write the flat catalogue, or verify it.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when it is not up to date")
    options = parser.parse(arguments)
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
    parser = _Parser("up", "Leave a cluster running; `nox -s down` takes it away.")
    _add_target(parser)
    _add_embedded(parser)
    _add_images(parser)
    _add_provisioned(parser)
    _add_dry_run(parser)
    options = parser.parse(arguments)
    display = Display(sys.stderr)  # so that `eval "$(nox -s up)"` does what it looks like
    if options.target == "existing":
        raise UsageError("an existing cluster is up already", "--target simulated, aks or kind")
    _read_images(options)
    if _only_described(options, display):
        return 0
    if options.target in PROVISIONED:
        kubeconfig = _module(options.target).up(options, display.say).kubeconfig
    else:
        from infra.simulated import cluster  # noqa: PLC0415

        kubeconfig = cluster.up(cluster.parse_nodes(options.sim_nodes), display.say, options.control_plane_bin)
        display.say(f"the simulated nodes have {workload.BASE_IMAGE}")
    print(f"export KUBECONFIG={kubeconfig}")
    return 0


def _down(arguments: Sequence[str]) -> int:
    parser = _Parser("down", "Take away the cluster that `nox -s up`, or a run that was killed, left.")
    _add_target(parser)
    _add_provisioned(parser)
    options = parser.parse(arguments)
    display = Display()
    if options.target == "existing":
        raise UsageError("an existing cluster is not taken away", "`nox -s cleanup` takes away what runs left on it")
    if options.target in PROVISIONED:
        _module(options.target).down(options, display.say)
    else:
        from infra.simulated import cluster  # noqa: PLC0415

        if not cluster.down(display.say):
            display.say("nothing is up")
    return 0


def _cleanup(arguments: Sequence[str]) -> int:
    parser = _Parser("cleanup", "Take away what killed runs left on a cluster and on its Windows hosts, once it has "
                     "expired, a day after they began.")  # fmt: skip
    parser.set_defaults(expression="")
    parser.add_argument("--target", default="existing", help="existing (default)")
    parser.add_argument("--all", action="store_true", help="also what has not expired, which ends runs under way")
    _add_nodes(parser)
    _add_images(parser)
    _add_existing(parser)
    options = parser.parse(arguments)
    if options.target != "existing":
        raise UsageError(f"--target {options.target} leaves no cluster to clean", "`nox -s down` takes it away")
    places, choice = _read_images(options), _choice(options)
    needs = _needs(options, places)
    display = Display()
    with _target(options, display.say) as (target, died), tempfile.TemporaryDirectory() as folder:
        left = asyncio.run(_reap(target, needs.namespace, display, everything=options.all))
        # A cluster whose nodes cannot be looked at is cleaned all the same; then that is what ends with 3.
        cluster, nodes = asyncio.run(_look(target, choice, Expectations(), needs, display))
        plan = Plan(secrets.token_hex(4), Path(folder), cluster, nodes, (), places, 1.0, needs.namespace, options.all)
        going: list[cleanup.Going] = []
        try:
            asyncio.run(_observe(target, plan, display, going, died))
            what = "nothing of any run" if options.all else "nothing that has expired"
            said = f"{what} is left on the cluster and on {', '.join(node.name for node in nodes)}"
        except BusyError as error:
            said = f"the hosts were not looked at: {error}"
        left += asyncio.run(_left_behind(target, going))
    if left:
        raise TargetError(f"not all could be taken away: {'; '.join(left)}")
    display.say(said)
    return 0


def _rbac(arguments: Sequence[str]) -> int:
    parser = _Parser("rbac", "Print the least rights that a run needs, as manifests: with the right to create "
                     "namespaces, or, with --namespace, without it.")  # fmt: skip
    parser.add_argument("--namespace", help="the namespace that runs are to use, with --namespace NAME")
    parser.add_argument("--account", default=rbac.ACCOUNT, metavar="NAMESPACE/NAME", help=f"default: {rbac.ACCOUNT}")
    options = parser.parse(arguments)
    print(rbac.manifests(options.namespace, options.account), end="")
    return 0


def _images(arguments: Sequence[str]) -> int:
    parser = _Parser("images", "List every image: where it is pulled from, its digest where known, and what needs it.")
    _add_images(parser)
    places = _read_images(parser.parse(arguments))
    used: dict[str, list[str]] = {}
    for name in workload.names():
        for image in workload.load(name).images:
            used.setdefault(image, []).append(name)
    for image in _module("kind").images():
        used.setdefault(image, []).append("target-kind")
    rows = [("SOURCE", "PULLED-FROM", "DIGEST", "NEEDED-BY")]
    for image, users in used.items():
        place = places.resolve(image)
        rows.append((image, place, images.digest_of(place) or "not-pinned", ",".join(users)))
    for row in rows:
        print("  ".join(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
