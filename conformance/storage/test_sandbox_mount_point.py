"""
``CONTAINER_SANDBOX_MOUNT_POINT``: where a container finds its own volume.
"""

from __future__ import annotations

import re

from conformance import Containerd, Defect, Level, Observation, Requirement, check

SET_AND_ABSOLUTE = Requirement(
    "storage/sandbox-mount-point/set-and-absolute",
    "CONTAINER_SANDBOX_MOUNT_POINT is set in every container, to the absolute path of the folder that is its volume.",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#containerd-v1-6",
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
    r"The container's volume is at C:\C\<container id>\ with containerd 1.6, at C:\hpc\ with later versions, and at "
    r"C:\hpc\<container id>\ where those find no bind filter in Windows.",
    source="https://github.com/kubernetes/enhancements/blob/master/keps/sig-windows/"
    "1981-windows-privileged-container-support/README.md#container-mounts",
    level=Level.SHOULD,
)


@check(LOCATION, reads=("volumes", "node-facts"))
def test_the_volume_is_where_the_runtime_puts_it(observation: Observation) -> None:
    """
    Which of the three it is follows from the versions and the files of the node, never from what is judged here.
    """
    reading = observation.of("volumes").step("read")
    own = str(reading.container("reader").status["containerID"]).removeprefix("containerd://")
    if not Containerd("1.7").reached_by(observation.node):
        expected = f"C:\\C\\{own}\\"
    elif observation.of("node-facts").step("read").probe("reader")["bindFilter"]:
        expected = "C:\\hpc\\"
    else:
        expected = f"C:\\hpc\\{own}\\"
    assert reading.probe("reader")["sandboxMountPoint"]["value"] == expected


WITHOUT_DRIVE = Defect(
    "sandbox-mount-point-without-drive",
    r"The variable's value is \hpc\: a path from the root of whatever drive is the current one.",
    breaks=[SET_AND_ABSOLUTE, LOCATION],
)

ROOTFS_ELSEWHERE = Defect(
    "rootfs-elsewhere",
    r"The runtime puts every container's volume at C:\containers\rootfs\<container id>\.",
    breaks=[LOCATION],
)
