"""
The options of every command, and the manual.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import conformance
from conformance._suite import verdict, workload
from conformance._suite.cli.targets import PROVISIONED, TARGETS, provider
from conformance._suite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_NODES = "1.6=1,2.3=1"

_MANUAL = """\
Judges whether Windows nodes keep what Kubernetes, containerd and AKS document about HostProcess containers.

Other commands, each with its own --help: `judge FOLDER` judges kept evidence again, without a cluster; `up` and `down`
leave a cluster running and take it away; `cleanup` takes away what killed runs left; `rbac` prints the rights that a
run needs, `images` the images; `catalogue` writes conformance/catalogue.md and .json.
"""


class Parser(argparse.ArgumentParser):
    """
    A parser whose errors are UsageError, and which knows options that belong to one target.
    """

    def __init__(self, name: str, description: str, **more: Any) -> None:
        super().__init__(prog=f"nox -s {name} --", description=description, allow_abbrev=False, **more)
        self.own: dict[str, str] = {}
        """For which target alone an option is, by the name of its value."""

    def error(self, message: str) -> NoReturn:
        """
        Raise UsageError.
        """
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


def run_parser() -> Parser:
    """
    The options of the main command.
    """
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in verdict.EXIT_MEANING.items())
    parser = Parser(
        "conformance", _MANUAL, epilog=f"exit codes:\n{codes}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=conformance.__version__)
    add_target(parser)
    parser.add_argument(
        "-k", dest="expression", help="judge only the checks whose names match, as in pytest; at best partial"
    )
    parser.add_argument("-n", dest="workers", type=int, default=0, help="judge in this many processes (pytest-xdist)")
    parser.add_argument("--out", type=Path, help="the folder for evidence and reports (default: <time>-<id> below "
                        "$ARTIFACTS, or below artifacts)")  # fmt: skip
    add_reports(parser)
    parser.add_argument("--time-scale", type=float, default=1.0, help="multiply every deadline, for slow nodes")
    parser.add_argument(
        "--deadline", type=float, metavar="MINUTES", help="stop observing so long after the target is up; what was not "
        "seen is not proven, clean-up (five minutes at most) and reports come then",
    )  # fmt: skip
    parser.add_argument("--listener-port", type=int, default=0, metavar="N", help="the port of each node that the API "
                        "server asks, so that a firewall can let it through (default: any free one)")  # fmt: skip
    add_nodes(parser)
    add_expectations(parser)
    add_images(parser)
    add_existing(parser)
    add_embedded(parser).add_argument(
        "--sim-defect", action="append", default=[], metavar="NAME[@NODE]",
        help="switch a named defect, or a trouble, on, wherever it can be or on one node (repeatable)",
    )  # fmt: skip
    add_provisioned(parser)
    add_dry_run(parser)
    return parser


def add_reports(parser: Parser) -> None:
    """
    Which reports are written.
    """
    parser.add_argument("--no-allure", dest="allure", action="store_false",
                        help="write neither allure-results nor its page")  # fmt: skip


def add_target(parser: Parser) -> None:
    """
    Which target, and so which of the other options.
    """
    parser.add_argument(
        "--target", default="simulated", help="simulated (default: a real control plane with simulated Windows nodes), "
        "existing (the cluster that a kubeconfig names), aks or kind (bring one up, and take it away again)",
    )  # fmt: skip


def add_nodes(parser: Parser) -> None:
    """
    Which of its nodes are tested.
    """
    group = parser.add_argument_group(
        "nodes (default: every Windows node; one that is not ready or is cordoned makes the run partial)"
    )
    group.add_argument("--node", action="append", default=[], help="test only this node (repeatable)")
    group.add_argument("--node-selector", default="", help="test only nodes with these labels")
    group.add_argument("--os-sku", action="append", default=[], help="test only this OS SKU: Windows2022 (repeatable)")
    group.add_argument("--windows-build", action="append", default=[],
                       help="test only this build: 20348, or 20348.2700 (repeatable)")  # fmt: skip
    group.add_argument("--leave-out", action="append", default=[], metavar="NODE",
                       help="do not test this node, nor miss it (repeatable)")  # fmt: skip
    group.add_argument("--containerd-version", action="append", default=[], metavar="[NODE=]VERSION",
                       help="state the version where a node reports none that can be read (repeatable)")  # fmt: skip


def add_expectations(parser: Parser) -> None:
    """
    What has to be there.
    """
    group = parser.add_argument_group("what is expected to be there, or exit 3")
    group.add_argument("--expect-nodes", type=int, metavar="N", help="so many nodes are tested")
    group.add_argument("--expect-containerd", metavar="VERSION", help="every node has it; 1.7 stands for every 1.7.x")
    group.add_argument("--expect-build", metavar="BUILD", help="the same for the Windows build: 20348.2700")
    group.add_argument("--expect-kubernetes", metavar="VERSION", help="the same for the API server and the kubelets")


def add_images(parser: Parser) -> None:
    """
    Where images come from.
    """
    group = parser.add_argument_group("images, when they come from a mirror; `nox -s images` lists them")
    group.add_argument("--image", default=workload.BASE_IMAGE, help="the HostProcess base image")
    group.add_argument("--registry-prefix", default="", metavar="REGISTRY", help="pull everything from this registry")
    group.add_argument("--images-file", type=Path, metavar="FILE", help="YAML, `reference: replacement` in each line")
    group.add_argument("--pull-secret", type=Path, metavar="FILE", help="a Docker config.json for the registry")


def add_existing(parser: Parser) -> Any:
    """
    How an existing cluster is reached; returns the group.
    """
    group = parser.add_target("an existing cluster", "existing")
    group.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, ~/.kube/config, the pod's own account")
    group.add_argument("--context", help="the context in the kubeconfig (default: its current one)")
    group.add_argument("--namespace", metavar="NAME", help="create no namespaces: use NAME, NAME-baseline and "
                       "NAME-restricted, which `nox -s rbac -- --namespace NAME` describes")  # fmt: skip
    return group


def add_embedded(parser: Parser) -> Any:
    """
    What is simulated; returns the group.
    """
    group = parser.add_target("the embedded cluster", "simulated")
    group.add_argument("--sim-nodes", default=DEFAULT_NODES, metavar="ERA=COUNT,…",
                       help=f"simulated nodes by containerd era (default: {DEFAULT_NODES})")  # fmt: skip
    group.add_argument("--control-plane-bin", type=Path, metavar="DIR", help="kube-apiserver, kube-controller-manager, "
                       "kube-scheduler and etcd are in this folder")  # fmt: skip
    return group


def add_provisioned(parser: Parser) -> None:
    """
    The options of the targets that bring a cluster up.
    """
    titles = {"aks": "Azure Kubernetes Service", "kind": "kind with a Windows machine"}
    for target in PROVISIONED:
        provider(target).add_options(parser.add_target(titles[target], target))


def add_dry_run(parser: Parser) -> None:
    """
    Only say what would be made.
    """
    parser.add_argument("--dry-run", action="store_true", help="aks, kind: only print what would be made")
