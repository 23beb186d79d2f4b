"""
Judging: a pytest run over finished evidence. Nothing here observes, and nothing calls back.
"""
