"""
What a page imports. See ``conformance/README.md`` for how to read and how to write one.
"""

from conformance._suite.catalogue import check
from conformance._suite.errors import Unknown
from conformance._suite.facts import Scope
from conformance._suite.observation import Observation
from conformance._suite.requirement import Defect, Level, Requirement
from conformance._suite.trouble import Cause, cause
from conformance._suite.versions import Containerd, Kubernetes, Version, said_version

__version__ = "0.1.0"

__all__ = [
    "Cause",
    "Containerd",
    "Defect",
    "Kubernetes",
    "Level",
    "Observation",
    "Requirement",
    "Scope",
    "Unknown",
    "Version",
    "cause",
    "check",
    "said_version",
]
