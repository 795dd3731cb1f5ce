"""From a trained method's log-odds to an ordinary `Segmentation`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.checks import number
from ovam.errors import OptionError
from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions
from ovam.maps.resize import resize
from ovam.maps.result import AttentionMaps
from ovam.maps.words import Fitted, Listed, check_different, entries_of, names_of
from ovam.masks.presence import presences
from ovam.masks.result import Segmentation
from ovam.prompt import Span
from ovam.trace.trace import Trace

_BORDER = 0.5


def asked_of(words: Listed) -> tuple[str | Fitted, ...]:
    """Check listed words and fitted tokens; return the entries.

    Raises:
        EmptyWordsError: there is no word.
        OptionError: an entry is something else, or a word is listed twice.
    """
    entries = entries_of(words)
    check_different(names_of(entries))
    return entries


def inner_share(name: str, value: object) -> float:
    """Return a number between 0 and 1, both excluded.

    Raises:
        OptionError: it is none.
    """
    found = number(name, value, least=0.0, below=1.0)
    if found == 0:
        raise OptionError(f"{name}={value!r}: expected a number between 0 and 1, exclusive")
    return found


def thresholds_of(entries: Sequence[str | Fitted], threshold: float, token_threshold: float) -> list[float]:
    """Return the threshold of each word and of each class of fitted tokens, in order."""
    each = [[threshold] if isinstance(one, str) else [token_threshold] * len(one.classes) for one in entries]
    return [value for values in each for value in values]


def result_of(
    trace: Trace,
    entries: Sequence[str | Fitted],
    log_odds: Float[Tensor, "word grid_height grid_width"],
    thresholds: Sequence[float],
) -> Segmentation:
    """Return the segmentation that follows from the log-odds of each word's mask, at any grid.

    Scores are probabilities, moved by their log-odds so that each word's threshold lies at 0.5. Presence is ovam's own,
    of the plain maps of the same words.
    """
    border = torch.logit(torch.tensor(thresholds, device=log_odds.device))[:, None, None]
    scores = torch.sigmoid(resize(log_odds, trace.size) - border).cpu()
    best, winner = scores.max(0)
    names = names_of(entries)
    maps = AttentionMaps(
        token_maps=log_odds.sigmoid().cpu(),
        tokens=names,
        spans=tuple(Span(name, (i,)) for i, name in enumerate(names)),
        image_size=trace.size,
        kept={},
        prompts=len(names),
        image_png=trace.image_png,
        plain=attention_maps(trace, list(entries), MapOptions()),
    )
    labels = torch.where(best > _BORDER, winner + 1, 0)
    return Segmentation(labels, names, scores, presences(maps), _BORDER, maps)
