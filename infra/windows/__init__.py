"""
A Windows machine over WinRM: prepared with the containerd build under test, joined to a cluster, put back.

Each step is a script in ``scripts``; what it changes is written down on the machine before it changes it. The
connection is tested against a loopback peer, the steps against a model of Windows (``tests/wsman.py``): not on Windows.
"""

from infra.windows.connection import Address, Pace
from infra.windows.machine import Artifact, Machine, Plan

__all__ = ["Address", "Artifact", "Machine", "Pace", "Plan"]
