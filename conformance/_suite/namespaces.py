"""
The names of what the suite has on a cluster: its namespaces, the labels it goes by, the objects that are there once.
"""

from __future__ import annotations

import re

from conformance._suite.errors import UsageError

ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
"""The label of a namespace that says which Pod Security Standard is enforced in it."""
SIMULATED_LABEL = "hostprocess-conformance/simulated"
"""The label of a simulated node; an annotation of this name says the same in words."""
PREFLIGHT = "hpc-preflight"
"""The name of what is only tried, by a dry run."""
LOCK = "hpc-lock"
"""The ConfigMap that says that a run uses a given namespace."""
LEVELS = {"main": "privileged", "baseline": "baseline", "restricted": "restricted"}
"""The Pod Security Standard that is enforced in each of the suite's namespaces."""
ENFORCING = ("baseline", "restricted")
"""The namespaces, by their key, in which Pod Security takes no HostProcess pod."""

NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""What the name of a namespace looks like, but for its length."""
LONGEST_NAMESPACE = 63 - len("-restricted")
"""The length that leaves room for what is put behind a given name."""
_MADE = re.compile(r"hpc-([0-9a-f]{8})(-baseline|-restricted)?")


def require_namespace(namespace: str) -> None:
    """
    Raise UsageError unless the namespace, and the two whose names begin with its own, can exist.
    """
    if not NAMESPACE.fullmatch(namespace) or len(namespace) > LONGEST_NAMESPACE:
        raise UsageError(
            f"--namespace {namespace!r} cannot be a namespace",
            f"lower case letters, digits and dashes, at most {LONGEST_NAMESPACE}: -restricted is put behind it",
        )


def default_namespace(run_id: str) -> str:
    """
    The name of a run's first namespace where none is given.
    """
    return f"hpc-{run_id}"


def namespaces_of(namespace: str) -> dict[str, str]:
    """
    The three namespaces of a run by their key, from the name of the first, which is given or a run's own.
    """
    return {key: namespace if key == "main" else f"{namespace}-{key}" for key in LEVELS}


def maker_of(namespace: str) -> str | None:
    """
    The id of the run that makes a namespace of this name; None for a name that no run gives.
    """
    made = _MADE.fullmatch(namespace)
    return made[1] if made else None


def pull_secret_name(run_id: str) -> str:
    """
    The Secret that a run makes for pulling images.
    """
    return f"hpc-pull-{run_id}"
