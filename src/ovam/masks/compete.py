"""Change the scores of words according to what competes with them: contrast words, or, in a CRF, the background and all
other words.

Contrast words are the words of the option `against`. `contested` lowers the scores where a contrast word is stronger.
`after_crf` applies a CRF (conditional random field) to the background and all words together, contrast words included.

Scores in [0, 1] are turned into log-odds: the difference of two log-odds says how much stronger one word is than the
other.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ovam.refine.crf import dense_crf
from ovam.refine.crf_options import CrfOptions

Scores = Float[Tensor, "word height width"]
ContrastScores = Float[Tensor, "contrast_word height width"]
_LEAST = 1e-4  # scores are clamped this far from 0 and 1, where log-odds would be infinite


def contested(scores: Scores, contrast: ContrastScores, threshold: float) -> Scores:
    """Return the scores of the words, lowered where contrast words are strong.

    At pixels where the score of a contrast word is above the threshold, the scores of the words are lowered. Afterwards
    a word is above the threshold there only if its score was higher than the scores of all contrast words.

    Args:
        scores: Scores of the words.
        contrast: Scores of the contrast words; there may be none.
        threshold: Score of the background, in (0, 1).
    """
    if not len(contrast):
        return scores
    border = torch.logit(torch.tensor(threshold))
    ahead = (_log_odds(contrast).amax(0) - border).clamp_min(0)
    return torch.where(ahead > 0, torch.sigmoid(_log_odds(scores) - ahead), scores)


def after_crf(
    scores: Scores, contrast: ContrastScores, threshold: float, picture: np.ndarray, options: CrfOptions
) -> tuple[Scores, ContrastScores]:
    """Return the scores of words and contrast words after a CRF on the picture.

    The classes of the CRF are the background and all words whose score exceeds the threshold at some pixel; other words
    keep their scores. The odds of a word against the background are the odds of its score, divided by the odds of the
    threshold.

    Args:
        scores: Scores of the words.
        contrast: Scores of the contrast words.
        threshold: Score of the background, in (0, 1).
        picture: (height, width, 3) uint8, at the size of the scores.
        options: See `CrfOptions`.

    Raises:
        The errors of `ovam.refine.crf.dense_crf`.
    """
    every = torch.cat([scores, contrast])
    exceeds: Bool[Tensor, " word"] = (every > threshold).flatten(1).any(1)
    if not exceeds.any():
        return scores, contrast
    border = torch.logit(torch.tensor(threshold))
    odds = _log_odds(every[exceeds]) - border
    classes = torch.cat([torch.zeros_like(odds[:1]), odds]).softmax(0)
    probabilities = dense_crf(classes, picture, options.at(picture.shape[:2]))
    logs = probabilities.clamp_min(options.clip).log()
    changed = every.clone()
    changed[exceeds] = torch.sigmoid(logs[1:] - logs[:1] + border)
    return changed[: len(scores)], changed[len(scores) :]


def _log_odds(scores: Tensor) -> Tensor:
    return torch.logit(scores.clamp(_LEAST, 1 - _LEAST))
