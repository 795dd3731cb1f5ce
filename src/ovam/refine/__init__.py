"""Refine maps: spread them over the image by its self-attention, and fit them to its colours by a CRF."""
