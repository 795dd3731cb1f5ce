"""Word gains: how much better the denoiser predicts a picture's noise when it reads a word.

Attention says where a word would be; it says little about whether the word is there at all. The denoiser itself knows
more: where the picture shows a dog, it predicts the noise better if it reads "dog" than if it reads nothing, or "cat".
`ovam.word_gains` measures this. Masks add the gains to the maps, and presence is computed from them.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.defaults import CHOSEN
from ovam.errors import OptionError, UnknownWordError
from ovam.prompt import is_name
from ovam.shapes import Map

_STRONGEST = 0.04
"""The lead is averaged over this share of the places, those with the greatest lead."""
_WIDTH = 1 / 16
"""Width of the Gaussian that smooths gains before they are compared, as a share of the shorter side."""
_SCALE, _OFFSET = CHOSEN["gains"]["scale"], CHOSEN["gains"]["offset"]

GainMaps = Float[Tensor, "word height width"]


@dataclass(frozen=True, eq=False)
class WordGains:
    """How much better the denoiser predicts a picture's noise, at each place, when it reads a word.

    Attributes:
        words: The words, and after them the words that they are compared with.
        maps: (word, height, width), float32, at the latent's grid. A value is the decrease of the squared error when
            the denoiser reads the word instead of nothing, divided by the mean squared error with nothing. It is at
            most 1 where errors are like the mean, often near 0, and below 0 where the word makes the prediction worse.
        looks: Number of noisy latents over which the values are averaged.
    """

    words: tuple[str, ...]
    maps: GainMaps = field(repr=False)
    looks: int = 0

    def __getitem__(self, word: str) -> Map:
        """Return the gains of a word.

        Raises:
            UnknownWordError: the word was not measured.
        """
        return self.maps[self.place(word)]

    def place(self, word: str) -> int:
        """Return the position of a word.

        Raises:
            UnknownWordError: the word was not measured.
        """
        for place, name in enumerate(self.words):
            if is_name(word, name):
                return place
        raise UnknownWordError(
            f"word {word!r} has no gains: they were measured for {', '.join(map(repr, self.words))}; measure this word "
            f"too, ovam.word_gains(pipe, picture, [..., {word!r}])"
        )

    def presence(self, word: str) -> float:
        """Return the probability, in [0, 1], that the picture shows a word.

        A scale and an offset, which were chosen on validation scenes, turn the word's lead into a probability.

        Raises:
            UnknownWordError: the word was not measured.
        """
        return float(torch.tensor(_SCALE * self.lead(word) + _OFFSET, dtype=torch.float64).sigmoid())

    def lead(self, word: str) -> float:
        """Return how far a word is ahead of all others, over the 4 % of the places where it is furthest ahead.

        At each place, the word's lead is its gain less the greatest gain of the other words, or less 0 if none of them
        has a gain. Gains are smoothed first, because a single place is noisy.

        Raises:
            UnknownWordError: the word was not measured.
        """
        place, smooth = self.place(word), _smoothed(self.maps)
        others = torch.cat([smooth[:place], smooth[place + 1 :], torch.zeros_like(smooth[:1])]).amax(0)
        ahead = (smooth[place] - others).flatten()
        return float(ahead.topk(max(1, int(_STRONGEST * ahead.numel()))).values.mean())


def checked_gains(gains: object) -> WordGains:
    """Check that a value is word gains.

    Raises:
        OptionError: it is something else.
    """
    if not isinstance(gains, WordGains):
        raise OptionError(
            f"gains are a {type(gains).__name__}: expected word gains, ovam.word_gains(pipe, picture, words)"
        )
    return gains


def _smoothed(maps: GainMaps) -> GainMaps:
    from scipy.ndimage import gaussian_filter

    width = _WIDTH * min(maps.shape[-2:])
    return torch.from_numpy(gaussian_filter(maps.numpy(), sigma=(0, width, width)))
