"""Measurements behind docs/performance.md: `python -m lab.performance`.

Nothing here imports `ovam` before it is needed: the peer's package has the same name, and each side is
measured in a process of its own.
"""
