"""
The kubelet of simulated Windows nodes: one asyncio process that speaks the real protocol to a real API server for any
number of nodes, and runs their containers on the model in ``infra.simulated.model``.

``python -m infra.simulated.node CONFIG.json`` starts it.
"""
