"""
The service account's token: at every documented path, and good for the API server. The defects of mounting stand here,
because they break the other pages of this area as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance import Containerd, Defect, Kubernetes, Observation, Requirement, Unknown, check
from conformance.storage.test_sandbox_mount_point import LOCATION, SET_AND_ABSOLUTE
from conformance.storage.test_volumes import (
    AT_MOUNT_PATH_WITH_DRIVE,
    AT_MOUNT_PATH_WITH_SLASHES,
    BELOW_SANDBOX_MOUNT_POINT,
    RELATIVE_PATH,
    looked_at,
    not_mounted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = "https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"
OWN = "this pod's token"


def tokens_found(observation: Observation, paths: Iterable[str]) -> dict[str, str]:
    """
    What is at each path: ``this pod's token``, another pod's, or the reason in round brackets why there is none. The
    probe reports of a token its digest and the pod it was issued for: on the host an earlier one may lie about. Raises
    Unknown when the probe could not look at one path and found nothing wrong at the others.
    """
    step = observation.step("read")
    uid = step.pod["metadata"]["uid"]
    if refused := not_mounted(step, "reader", "serviceaccount"):
        return refused
    found, trouble = looked_at(step.probe("reader")["serviceAccount"], paths)
    seen = {path: one if isinstance(one, str) else _whose(one["podUid"], uid) for path, one in found.items()}
    if trouble is not None and set(seen.values()) <= {OWN}:
        raise trouble
    return seen


def _whose(issued_for: str | None, uid: str) -> str:
    if issued_for == uid:
        return OWN
    return f"a token of pod {issued_for}, not of {uid}" if issued_for else "a token that names no pod"


OLDER_PATHS = Requirement(
    "storage/service-account-token/older-paths",
    r"The pod's token is at .\var\run\secrets\kubernetes.io\serviceaccount, from the default working directory, and "
    r"at the same path below $CONTAINER_SANDBOX_MOUNT_POINT; later versions of containerd keep both.",
    source=f"{PAGE}#containerd-v1-6",
    since=[Containerd("1.6")],
)


@check(OLDER_PATHS, reads="volumes")
def test_the_token_is_at_the_older_paths(observation: Observation) -> None:
    """
    The two paths that hold on every version.
    """
    paths = ("relativePath", "belowSandboxMountPoint")
    assert tokens_found(observation, paths) == dict.fromkeys(paths, OWN)


AT_MOUNT_PATH = Requirement(
    "storage/service-account-token/at-mount-path",
    r"The pod's token is at c:\var\run\secrets\kubernetes.io\serviceaccount, and the same path with forward slashes "
    "and no drive leads to it.",
    source=f"{PAGE}#containerd-v1-7-and-greater",
    since=[Containerd("1.7.0-alpha.1")],
)


@check(AT_MOUNT_PATH, reads="volumes")
def test_the_token_is_at_its_mount_path(observation: Observation) -> None:
    """
    Client libraries open the path with forward slashes; without it there is no in-cluster configuration.
    """
    paths = ("mountPathWithDrive", "mountPathWithSlashes")
    assert tokens_found(observation, paths) == dict.fromkeys(paths, OWN)


AUTHENTICATES = Requirement(
    "storage/service-account-token/authenticates",
    "The API server takes the bearer of the mounted token for this pod.",
    source="https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/"
    "#bound-service-account-tokens",
    since=[Containerd("1.6"), Kubernetes("1.28")],
)


@check(AUTHENTICATES, reads="volumes")
def test_the_token_names_this_pod(observation: Observation) -> None:
    """
    The container posts a SelfSubjectReview with the token it found at any of the paths; the answer names a pod and
    its uid. Only 201 and 401 say something about the token.
    """
    step = observation.step("read")
    review = step.probe("reader")["review"]
    if review["code"] not in {None, 201, 401}:
        raise Unknown(f"the API server answered the SelfSubjectReview with {review['code']}", "api-trouble")
    seen = {"code": review["code"], "pod": review["podName"], "uid": review["podUid"]}
    pod = step.pod["metadata"]
    assert seen == {"code": 201, "pod": pod["name"], "uid": pod["uid"]}


SANDBOX_MOUNT_POINT_UNSET = Defect(
    "sandbox-mount-point-unset",
    "The runtime does not set CONTAINER_SANDBOX_MOUNT_POINT.",
    breaks=[SET_AND_ABSOLUTE, LOCATION, BELOW_SANDBOX_MOUNT_POINT, OLDER_PATHS],
)

ROOTFS_ELSEWHERE = Defect(
    "rootfs-elsewhere",
    r"The runtime puts every container's volume at C:\containers\rootfs\<container id>\, and containers still start in "
    r"C:\hpc.",
    breaks=[LOCATION, RELATIVE_PATH, OLDER_PATHS],
)

COMPATIBILITY_LINKS_MISSING = Defect(
    "compatibility-links-missing",
    "The runtime binds volumes to their mount paths and leaves out the links below the container's own volume, which "
    "keep older manifests working.",
    breaks=[BELOW_SANDBOX_MOUNT_POINT, RELATIVE_PATH, OLDER_PATHS],
    story="https://github.com/Azure/azure-container-networking/pull/2622",
)

WORKING_DIRECTORY_ELSEWHERE = Defect(
    "working-directory-elsewhere",
    r"A container whose pod and image name no working directory starts in C:\Windows\System32.",
    breaks=[RELATIVE_PATH, OLDER_PATHS],
    story="https://github.com/Azure/AKS/issues/4196",
)

VOLUMES_NOT_BOUND = Defect(
    "volumes-not-bound",
    "Although Windows has the bind filter, nothing appears at the mount paths.",
    breaks=[AT_MOUNT_PATH_WITH_DRIVE, AT_MOUNT_PATH_WITH_SLASHES, AT_MOUNT_PATH],
)

HOST_PATH_NOT_BOUND = Defect(
    "host-path-not-bound",
    "A container that mounts a folder of the host is not started: Windows does not bind the folder.",
    breaks=[BELOW_SANDBOX_MOUNT_POINT, RELATIVE_PATH, AT_MOUNT_PATH_WITH_DRIVE, AT_MOUNT_PATH_WITH_SLASHES],
    story="https://github.com/microsoft/hcsshim/issues/1699",
)

DRIVE_LETTER_NOT_ADDED = Defect(
    "drive-letter-not-added",
    "A mount path without a drive is handed down as it is, and bound nowhere.",
    breaks=[AT_MOUNT_PATH_WITH_SLASHES, AT_MOUNT_PATH],
)

STALE_TOKEN_ON_THE_HOST = Defect(
    "stale-token-on-the-host",
    "The token's volume is not bound to its mount path, where an earlier pod's token lies on the host.",
    breaks=[AT_MOUNT_PATH],
)

TOKEN_NOT_MOUNTED = Defect(
    "token-not-mounted",
    "The kubelet leaves the service account's volume out of what it asks the runtime to mount.",
    breaks=[OLDER_PATHS, AT_MOUNT_PATH, AUTHENTICATES],
)

TOKEN_GARBLED = Defect(
    "token-garbled",
    "The token in the volume is not the one that was issued: its signature is wrong.",
    breaks=[AUTHENTICATES],
)
