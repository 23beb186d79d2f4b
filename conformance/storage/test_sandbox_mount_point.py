"""
``CONTAINER_SANDBOX_MOUNT_POINT``: where a container finds its own volume.
"""

from __future__ import annotations

import re

from conformance import (
    Containerd,
    Defect,
    Level,
    Observation,
    Requirement,
    Unknown,
    Version,
    check,
    said_version,
)

BINDING_SHIM = Version.parse("0.10.0-rc.0")

SET_AND_ABSOLUTE = Requirement(
    "storage/sandbox-mount-point/set-and-absolute",
    "CONTAINER_SANDBOX_MOUNT_POINT is set in every container, to the absolute path of the folder that is its volume.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#containerd-v1-6",
    since=[Containerd("1.6")],
)


@check(SET_AND_ABSOLUTE, reads="volumes")
def test_the_variable_is_an_absolute_path_to_a_folder(observation: Observation) -> None:
    """
    Absolute as Windows means it: with a drive, and from its root.
    """
    mount_point = observation.step("read").probe("reader")["sandboxMountPoint"]
    value = mount_point["value"]
    seen = {
        "value": value,
        "absolute": bool(re.match(r"[A-Za-z]:\\", value or "")),
        "is a folder": mount_point["isDirectory"],
    }
    assert seen == {"value": value, "absolute": True, "is a folder": True}


LOCATION = Requirement(
    "storage/sandbox-mount-point/location",
    r"The container's volume is at C:\C\<container id>\ with containerd 1.6 and at C:\hpc\ with later versions; where "
    "those find no bind filter in Windows, it is in a folder that has the container's id for a name, as before.",
    source="https://github.com/kubernetes/enhancements/blob/master/keps/sig-windows/"
    "1981-windows-privileged-container-support/README.md#container-mounts",
    level=Level.SHOULD,
    since=[Containerd("1.6")],
)


def older_shim(observation: Observation) -> bool:
    """
    Whether the node's shim is known to be older than the first that can bind volumes to their mount paths.
    """
    try:
        return said_version(observation.of("node-facts").step("read").probe("reader")["shimVersion"]) < BINDING_SHIM
    except Unknown:
        return False


@check(LOCATION, reads=("volumes", "node-facts"))
def test_the_volume_is_where_the_runtime_puts_it(observation: Observation) -> None:
    r"""
    Which it is follows from the versions and the files of the node, never from what is judged here. Without the bind
    filter the document has ``C:\C`` for a parent and the released shims have ``C:\hpc``; here either will do. It is the
    shim that puts it there: 1.6 may come with a later one than its own, which puts it where later versions do.
    """
    reading = observation.of("volumes").step("read")
    seen = reading.probe("reader")["sandboxMountPoint"]["value"]
    own = str(reading.container("reader").status["containerID"]).removeprefix("containerd://")
    expected = f"C:\\C\\{own}\\"
    if Containerd("1.7.0-alpha.1").reached_by(observation.node):
        if observation.of("node-facts").step("read").probe("reader")["bindFilter"]:
            expected = "C:\\hpc\\"
        elif seen == f"C:\\hpc\\{own}\\":
            expected = seen
    elif seen == "C:\\hpc\\" and not older_shim(observation):
        expected = seen
    assert seen == expected


LOCATION_WITHOUT_BIND_FILTER = Requirement(
    "storage/sandbox-mount-point/location-without-bind-filter",
    r"Where Windows has no bind filter, containerd 1.7 and later put the container's volume at C:\hpc\<container id>\.",
    source="https://github.com/microsoft/hcsshim/blob/v0.11.7/internal/jobcontainers/jobcontainer.go",
    level=Level.OBSERVED,
    since=[Containerd("1.7.0-alpha.1")],
)


@check(LOCATION_WITHOUT_BIND_FILTER, reads=("volumes", "node-facts"))
def test_where_the_volume_is_without_the_bind_filter(observation: Observation) -> str:
    """
    Recorded, never judged: the shim's source says so, and the document names another folder.
    """
    seen = observation.of("volumes").step("read").probe("reader")["sandboxMountPoint"]["value"]
    if observation.of("node-facts").step("read").probe("reader")["bindFilter"]:
        return "Windows has the bind filter here."
    return f"Windows has no bind filter here; the volume is at {seen or 'no place that the container was told'}."


WITHOUT_DRIVE = Defect(
    "sandbox-mount-point-without-drive",
    r"The variable's value is \hpc\: a path from the root of whatever drive is the current one.",
    breaks=[SET_AND_ABSOLUTE, LOCATION],
)
