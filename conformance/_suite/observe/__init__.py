"""
Observing: all workloads are put on all nodes at once (of more than about a hundred nodes, on as many at once), followed
by one watch a namespace, and taken away again; evidence is written as it arrives. Nothing here judges.
"""
