"""A trace: what is kept of one image's run, and the way from text to keys."""
