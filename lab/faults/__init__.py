"""Kills of a data set's generation, and whether nothing is lost, doubled or torn after it goes on.

`python -m lab.faults` kills 20 runs, each once or more, and compares what they end with to a run that nobody stopped.
"""
