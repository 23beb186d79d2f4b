"""
The kernel of the suite. A page needs none of it: it imports from ``conformance``.
"""
