"""
The target ``aks``: an AKS cluster with Windows pools, made for one run and removed with it (docs/aks.md).

Importing this needs no Azure SDK; using it does (the extra ``aks``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from infra.aks import provisioning
from infra.aks.plan import Plan, add_options, describe_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from conformance._suite.say import Say
    from infra.target import Target


def validate(options: argparse.Namespace) -> None:
    """
    Refuse what can be refused without a connection: UsageError.
    """
    Plan.of(options).require_tested(options)


def describe(options: argparse.Namespace) -> str:
    """
    All that `up` would create. Opens no connection, so names that only Azure knows are not checked.
    """
    return describe_plan(Plan.of(options, run_id="<id>"))


def up(options: argparse.Namespace, say: Say) -> Target:
    """
    Bring the cluster up and leave it. On any failure what was begun is removed again.
    """
    with provisioning.brought_up(Plan.of(options), say, leave=True) as target:
        return target


def down(options: argparse.Namespace, say: Say) -> None:
    """
    Remove what `up`, or a run that was killed, left in the subscription: this owner's, and what is expired.
    """
    provisioning.down(Plan.of(options), say)


@contextlib.contextmanager
def brought_up(options: argparse.Namespace, say: Say) -> Iterator[Target]:
    """
    The cluster while the block runs; removed however that ends.
    """
    with provisioning.brought_up(Plan.of(options), say) as target:
        yield target


__all__ = ["add_options", "brought_up", "describe", "down", "up", "validate"]
