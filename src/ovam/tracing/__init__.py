"""Watching a run of a pipeline, and keeping of it what is to be asked later."""
