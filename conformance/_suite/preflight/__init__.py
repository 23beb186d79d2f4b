"""
What is asked of a target before anything is put on it, and what is said when something is missing.
"""
