"""
Where a container finds the volumes that are mounted into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance import Cause, Containerd, Defect, Observation, Requirement, Unknown, cause, check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conformance._suite.observation import Facts, Step

KINDS = ("config-map", "downward-api", "empty-dir", "host-path", "projected", "secret")
"""Every kind of volume that is looked at; what saw fewer of them proves nothing about every kind."""

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


def not_mounted(step: Step, container: str, what: str = "") -> dict[str, Any]:
    """
    The runtime's words, by the container's name, where it did not start a container because a volume could not be
    mounted (``what`` is in the words where only one of them matters); else nothing. That is a finding, and no trouble:
    the container has none of its volumes.
    """
    said = step.container(container).refusal if step.data["probe"].get(container) is None else None
    refused = said is not None and cause(said) is Cause.MOUNT and what in said
    return {container: f"not started: {said}"} if refused else {}


def markers_of(observation: Observation) -> dict[str, str]:
    """
    The text that was put into each kind of volume. Raises Unknown when a kind is missing.
    """
    markers: dict[str, str] = observation.parameters["markers"]
    if missing := [kind for kind in KINDS if not markers.get(kind)]:
        raise Unknown(f"nothing was put into volumes of the kind {', '.join(missing)}", "kinds-missing")
    return markers


def markers_read(observation: Observation, by: str) -> dict[str, Any]:
    """
    What was read from each kind of volume by one way of naming paths, or why the container has none. Raises Unknown
    when the markers of emptyDir and hostPath could not be written, which would say nothing about reading, and when the
    probe could not look at one kind and found nothing wrong with the others.
    """
    step = observation.step("read")
    if refused := not_mounted(step, "writer") or not_mounted(step, "reader"):
        return refused
    _ = step.probe("writer")["written"]
    markers = markers_of(observation)
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
    assert markers_read(observation, "belowSandboxMountPoint") == markers_of(observation)


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
    assert markers_read(observation, "relativePath") == markers_of(observation)


AT_MOUNT_PATH_WITH_DRIVE = Requirement(
    "storage/volumes/at-mount-path-with-drive",
    r"Every kind of volume is readable at its mountPath, as in C:\etc\settings.",
    source=f"{PAGE}#containerd-v1-7-and-greater",
    since=[Containerd("1.7.0-alpha.1")],
)


@check(AT_MOUNT_PATH_WITH_DRIVE, reads="volumes")
def test_volumes_are_at_a_mount_path_with_a_drive(observation: Observation) -> None:
    """
    The path is the manifest's, letter for letter.
    """
    assert markers_read(observation, "mountPathWithDrive") == markers_of(observation)


AT_MOUNT_PATH_WITH_SLASHES = Requirement(
    "storage/volumes/at-mount-path-with-slashes",
    "Every kind of volume is readable at its mountPath where that has forward slashes and no drive, as in "
    "/etc/settings.",
    source=f"{PAGE}#containerd-v1-7-and-greater",
    since=[Containerd("1.7.0-alpha.1")],
)


@check(AT_MOUNT_PATH_WITH_SLASHES, reads="volumes")
def test_volumes_are_at_a_mount_path_with_slashes(observation: Observation) -> None:
    """
    The same volumes, mounted a second time: manifests that serve Linux and Windows write paths this way.
    """
    assert markers_read(observation, "mountPathWithSlashes") == markers_of(observation)


CONFIG_MAP_NOT_MOUNTED = Defect(
    "config-map-not-mounted",
    "The kubelet leaves volumes that are config maps out of what it asks the runtime to mount.",
    breaks=[BELOW_SANDBOX_MOUNT_POINT, RELATIVE_PATH, AT_MOUNT_PATH_WITH_DRIVE, AT_MOUNT_PATH_WITH_SLASHES],
)
