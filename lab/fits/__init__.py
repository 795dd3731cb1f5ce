"""How far tokens that were fitted to one annotation carry: every class of mini, on scenes that the fit never saw.

`python -m lab.fits tune` chooses, on validation scenes and ten classes, what the rivals need chosen;
`python -m lab.fits` measures, and writes docs/results/tokens/<split>.json and docs/tokens-measured.md.
"""
