"""
Where a container finds the volumes that are mounted into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance import Containerd, Defect, Observation, Requirement, Unknown, check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conformance._suite.observation import Facts

PAGE = "https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/"


def looked_at(found: Facts, names: Iterable[str]) -> tuple[dict[str, Any], Unknown | None]:
    """
    The entries that the probe could look at, and why it could not look at another one, if there is one.
    """
    seen: dict[str, Any] = {}
    trouble = None
    for name in names:
        try:
            seen[name] = found[name]
        except Unknown as error:
            trouble = error
    return seen, trouble


def markers_read(observation: Observation, by: str) -> dict[str, Any]:
    """
    What was read from each kind of volume by one way of naming paths. Raises Unknown when the markers of emptyDir and
    hostPath could not be written, which would say nothing about reading, and when the probe could not look at one kind
    and found nothing wrong with the others.
    """
    step = observation.step("read")
    _ = step.probe("writer")["written"]
    markers = observation.parameters["markers"]
    seen, trouble = looked_at(step.probe("reader")[by], markers)
    if trouble is not None and seen == {name: markers[name] for name in seen}:
        raise trouble
    return seen


BELOW_SANDBOX_MOUNT_POINT = Requirement(
    "storage/volumes/below-sandbox-mount-point",
    "Every kind of volume is readable below $CONTAINER_SANDBOX_MOUNT_POINT, at its mountPath without the drive.",
    source=f"{PAGE}#containerd-v1-6",
    since=[Containerd("1.6")],
)


@check(BELOW_SANDBOX_MOUNT_POINT, reads="volumes")
def test_volumes_are_below_the_sandbox_mount_point(observation: Observation) -> None:
    """
    Each kind of volume carries a marker that is random for the run.
    """
    assert markers_read(observation, "belowSandboxMountPoint") == observation.parameters["markers"]


RELATIVE_PATH = Requirement(
    "storage/volumes/relative-path",
    "Every kind of volume is readable by its mountPath taken relative to the default working directory.",
    source=f"{PAGE}#containerd-v1-6",
    since=[Containerd("1.6")],
)


@check(RELATIVE_PATH, reads="volumes")
def test_volumes_are_at_their_relative_paths(observation: Observation) -> None:
    """
    The pod sets no workingDir and neither does its image: the runtime's default is what makes the path work.
    """
    assert markers_read(observation, "relativePath") == observation.parameters["markers"]


AT_MOUNT_PATH_WITH_DRIVE = Requirement(
    "storage/volumes/at-mount-path-with-drive",
    r"Every kind of volume is readable at its mountPath, as in C:\etc\settings.",
    source=f"{PAGE}#containerd-v1-7-and-greater",
    since=[Containerd("1.7")],
)


@check(AT_MOUNT_PATH_WITH_DRIVE, reads="volumes")
def test_volumes_are_at_a_mount_path_with_a_drive(observation: Observation) -> None:
    """
    The path is the manifest's, letter for letter.
    """
    assert markers_read(observation, "mountPathWithDrive") == observation.parameters["markers"]


AT_MOUNT_PATH_WITH_SLASHES = Requirement(
    "storage/volumes/at-mount-path-with-slashes",
    "Every kind of volume is readable at its mountPath where that has forward slashes and no drive, as in "
    "/etc/settings.",
    source=f"{PAGE}#containerd-v1-7-and-greater",
    since=[Containerd("1.7")],
)


@check(AT_MOUNT_PATH_WITH_SLASHES, reads="volumes")
def test_volumes_are_at_a_mount_path_with_slashes(observation: Observation) -> None:
    """
    The same volumes, mounted a second time: manifests that serve Linux and Windows write paths this way.
    """
    assert markers_read(observation, "mountPathWithSlashes") == observation.parameters["markers"]


CONFIG_MAP_NOT_MOUNTED = Defect(
    "config-map-not-mounted",
    "The kubelet leaves volumes that are config maps out of what it asks the runtime to mount.",
    breaks=[BELOW_SANDBOX_MOUNT_POINT, RELATIVE_PATH, AT_MOUNT_PATH_WITH_DRIVE, AT_MOUNT_PATH_WITH_SLASHES],
)
