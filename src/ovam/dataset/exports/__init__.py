"""Exports of a data set to other formats, one file each; `run.py` has the table of them."""
