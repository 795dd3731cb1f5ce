"""What follows the picture's edges best, from a coarse and noisy map: judged on rendered scenes.

`python -m lab.refine.compare` compares, and writes docs/results/refine.json.
"""
