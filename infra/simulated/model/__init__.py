"""
A model of a Windows node's container runtime for HostProcess containers: what containerd and its shim do to a
container, and what a process in it then sees. Rules by version, no network, no Kubernetes.

Each rule is a small function that names its source as ``repository@version path``. "Unverified" marks what follows
from reading the source and was never seen confirmed on a Windows machine.
"""
