"""Where a token's gain over its word comes from: step by step, pixel by pixel, part by part.

`python -m benchmarks.gain` measures, and writes docs/results/tokens/gain.json and docs/tokens-gain.md.
"""
