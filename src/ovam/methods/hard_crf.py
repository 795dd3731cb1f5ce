"""A dense CRF on hard labels, as OVAM's authors use it: it is given a mask, not the scores behind it."""

import numpy as np
import torch
from jaxtyping import UInt8

from ovam.refine.crf import dense_crf
from ovam.refine.crf_options import CrfChoice, CrfOptions, crf_choice
from ovam.shapes import Mask

CERTAIN = 0.99
"""Probability that a hard label stands for: SimpleCRF moves probabilities into [0.01, 0.99]."""

PUBLISHED_CRF = CrfOptions(
    iterations=5, smooth_width=3.0, smooth_weight=3.0, reach=80.0, colour_width=13.0, colour_weight=10.0, scaled=True
)
"""The numbers of OVAM's evaluation, for pictures of 512 pixels; the widths are scaled with other pictures."""


def hard_crf(mask: Mask, picture: UInt8[np.ndarray, "height width 3"], options: CrfOptions) -> Mask:
    """Return the mask after a dense CRF of word and background, in which each pixel's label has a probability of 0.99.

    Args:
        mask: Where the word is.
        picture: The picture, at the mask's size.
        options: See `CrfOptions`; widths are scaled with the picture if `scaled` says so.

    Source:
        HiLab-git/SimpleCRF, `densecrf`, as the evaluation of vpulab/ovam calls it; it returns the label of the highest
        probability.
    """
    if not mask.any():
        return mask  # nothing could make a word of it
    word = torch.where(mask.cpu(), CERTAIN, 1 - CERTAIN)
    found = dense_crf(torch.stack([1 - word, word]), picture, options.at(picture.shape[:2]))
    return found[1] > found[0]


def hard_crf_choice(value: CrfChoice) -> CrfOptions | None:
    """Return the options of a method's CRF, or None for no CRF; True means the published numbers.

    Raises:
        OptionError: `value` is neither a boolean nor `CrfOptions`.
    """
    return PUBLISHED_CRF if value is True else crf_choice(value)
