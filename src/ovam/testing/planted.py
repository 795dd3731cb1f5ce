"""A planted token: a mask that a fit is known to be able to reach, since it is made of a token's own map."""

import torch

from ovam.shapes import Mask
from ovam.tokens.objective import start_of
from ovam.tokens.optimize import optimize_tokens
from ovam.trace.trace import Trace

REACHED = 0.9  # measured over 8 tiny pipelines: 0.93 to 1.00; the word's own map at its best threshold: 0.30 to 0.38
EVALUATIONS = 200
DISTANCE = 0.01  # attention of a contract's pipelines is sharp, and a fit that begins even is easier there
_CONTRAST = 0.05  # of the planted token with its background, in units of a word's spread: its map is soft, 0.3 to 0.7
_SHARE = 0.3  # of the image, where the planted map is strongest


def assert_recovered(trace: Trace, word: str) -> None:
    """Fit tokens to the mask of a random token, beginning at a word, and compare what they find with that mask."""
    mask = planted_mask(trace, word)
    tokens = optimize_tokens(
        trace, {word: mask}, against=(), rows=1, evaluations=EVALUATIONS, pull=0.0, distance=DISTANCE
    )
    found = trace.segment(tokens)[word]
    overlap = float((found & mask).sum() / (found | mask).sum())
    fit = tokens.groups[0].fit
    assert overlap >= REACHED, (
        f"the mask of a planted token was found with an IoU of {overlap:.3f}, expected at least {REACHED:g}: the loss "
        f"went from {fit.losses[0]:.3f} to {fit.loss:.3f} in {len(fit.losses)} evaluations ({fit.stopped}); gradients "
        "on the way from a vector to its keys, or the maps of vectors, are not right"
    )


def planted_mask(trace: Trace, word: str) -> Mask:
    """Where a token in a random direction from the background's start attracts most attention, at the image's size."""
    rows, spread = start_of(trace, [word])
    away = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0))
    maps = trace.maps(torch.stack([rows[0], rows[0] + _CONTRAST * spread * away])).resized()
    planted = maps.token_maps[1]
    return planted > planted.quantile(1 - _SHARE)
