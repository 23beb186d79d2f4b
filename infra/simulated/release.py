"""
Which Kubernetes and which etcd the embedded cluster is: the control plane's, and the simulated kubelets'.
"""

from __future__ import annotations

KUBERNETES = "1.37.2"
ETCD = "3.7.3"
