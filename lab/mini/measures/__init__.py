"""What the embedded model can do, measured; `python -m lab.mini report` puts it together."""
