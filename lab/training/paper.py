"""Figures of others, in points of mIoU on real photographs of Pascal VOC 2012, to stand beside ours."""

CLAIM = 6.9
"""Most that synthetic data added to real data in the paper, by a digest of it: the released code has no training."""

FIELD: tuple[tuple[str, str, float], ...] = (
    ("Mask2Former R50", "real", 77.3),
    ("Mask2Former R50", "DiffuMask, synthetic alone", 57.4),
    ("Mask2Former R50", "Dataset Diffusion, synthetic alone", 60.2),
    ("Mask2Former R50", "JoDiffusion, synthetic alone", 74.5),
    ("Mask2Former R50", "DiffuMask, with real", 77.5),
    ("Mask2Former R50", "Dataset Diffusion, with real", 78.2),
    ("Mask2Former R50", "JoDiffusion, with real", 79.4),
)
"""Segmenter, data, mIoU: the table of JoDiffusion (AAAI 2026)."""
