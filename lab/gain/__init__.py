"""Where a token's gain over its word comes from: step by step, pixel by pixel, part by part.

`python -m lab.gain` measures, and writes docs/results/tokens/gain.json and docs/tokens-gain.md.
"""
