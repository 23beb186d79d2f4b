"""
The stage of a run: its namespaces, the lock in those that are given, the pull secret. ``cleanup`` takes it away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance._suite.cluster import RefusedError
from conformance._suite.errors import TargetError
from conformance._suite.namespaces import ENFORCE_LABEL, LEVELS, LOCK
from conformance._suite.observe.cleanup import CLEAN_UP_SECONDS
from conformance._suite.observe.plan import BusyError
from conformance._suite.waiting import TryAgainError, persistently

if TYPE_CHECKING:
    from conformance._suite.cluster import Cluster
    from conformance._suite.observe.plan import Stage


async def make_namespace(cluster: Cluster, stage: Stage, key: str) -> None:
    """
    Make one of the run's namespaces and wait until pods can be created in it. Raises TargetError.
    """
    labels = {**stage.labels, ENFORCE_LABEL: LEVELS[key]}
    name = stage.namespaces[key]
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    try:
        await cluster.must("POST", "/api/v1/namespaces", body)
    except RefusedError as error:
        raise TargetError(
            f"namespace {name} was refused: {error.answer.message}",
            "the suite needs the right to create and delete namespaces, or --namespace",
        ) from error

    async def account_made() -> None:
        # Without it admission refuses every pod.
        path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        if (await cluster.request("GET", path)).code == 404:
            raise TryAgainError("the namespace has no default service account")

    try:
        await persistently(account_made, CLEAN_UP_SECONDS)
    except TryAgainError as error:
        raise TargetError(str(error), "is the controller manager running?") from error


async def lock(cluster: Cluster, stage: Stage) -> None:
    """
    Keep others out of a given namespace: their objects would have the names of ours. Raises BusyError where somebody
    else is in it, TargetError where that cannot be.
    """
    namespace = stage.namespaces["main"]
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LOCK, "labels": stage.labels}}
    answer = await cluster.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", body)
    if answer.code == 409:
        raise BusyError(
            f"another run uses namespace {namespace}, or one that was killed did",
            f"wait for it; when it is dead, `nox -s cleanup -- --namespace {namespace} --all`, with the "
            "same --kubeconfig",
        )
    if answer.code != 201:
        raise TargetError(f"ConfigMap {LOCK} in namespace {namespace} was refused: {answer.message}")


async def create_pull_secret(cluster: Cluster, stage: Stage, docker_config: str | None) -> None:
    """
    Create the secret that the pods name, out of a Docker ``config.json``. Raises TargetError.
    """
    namespace = stage.namespaces["main"]
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": stage.pull_secret, "namespace": namespace, "labels": stage.labels},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": docker_config},
    }
    answer = await cluster.request("POST", f"/api/v1/namespaces/{namespace}/secrets", secret, repeatable=True)
    if answer.code not in {201, 409}:
        raise TargetError(f"the pull secret was refused: {answer.code} {answer.message}")
