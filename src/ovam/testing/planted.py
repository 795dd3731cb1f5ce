"""A planted token: fit a token to a mask that is made from a token's own map, so that a good fit must exist."""

import torch

from ovam.shapes import Mask
from ovam.tokens.objective import start_of
from ovam.tokens.optimize import optimize_tokens
from ovam.trace.trace import Trace

REACHED = 0.9  # measured over 8 tiny pipelines: 0.93 to 1.00; the word's own map at its best threshold: 0.30 to 0.38
EVALUATIONS = 200
DISTANCE = 0.01  # attention of a contract's pipelines is sharp; a fit that starts from uniform attention is easier
_CONTRAST = 0.05  # distance of the planted token from its background, in spreads of a word; gives soft maps, 0.3 to 0.7
_SHARE = 0.3  # share of the image in the mask, where the planted map is strongest


def assert_recovered(trace: Trace, word: str) -> None:
    """Fit tokens to the mask of a random token, starting from a word; assert that they find that mask again."""
    mask = planted_mask(trace, word)
    tokens = optimize_tokens(
        trace, {word: mask}, against=(), rows=1, evaluations=EVALUATIONS, pull=0.0, distance=DISTANCE
    )
    found = trace.segment(tokens)[word]
    overlap = float((found & mask).sum() / (found | mask).sum())
    fit = tokens.groups[0].fit
    assert overlap >= REACHED, (
        f"the mask of a planted token was found with an IoU of {overlap:.3f}, expected at least {REACHED:g}: the loss "
        f"went from {fit.losses[0]:.3f} to {fit.loss:.3f} in {len(fit.losses)} evaluations ({fit.stopped}); either "
        "the gradients from keys to vectors or the maps of vectors are wrong"
    )


def planted_mask(trace: Trace, word: str) -> Mask:
    """Return the mask, at the image's size, of the pixels where a random token gets most attention.

    The token lies in a random direction from the initial background vector.
    """
    rows, spread = start_of(trace, [word])
    away = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0))
    maps = trace.maps(torch.stack([rows[0], rows[0] + _CONTRAST * spread * away])).resized()
    planted = maps.token_maps[1]
    return planted > planted.quantile(1 - _SHARE)
