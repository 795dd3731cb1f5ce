"""DAAM's maps of a word and of all tokens of a prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovam.compat.daam.errors import WordNotFoundError
from ovam.compat.daam.plot import laid_over, show
from ovam.maps.result import SPECIAL
from ovam.prompt import Span, folded


@dataclass(frozen=True, eq=False)
class WordHeatMap:
    """Map of one word.

    Attributes:
        heatmap: Mean of its tokens' maps, not their sum as in `ovam.AttentionMaps`.
        word: The word as it was given.
        word_idx: Number of its token, if it was selected by number.
    """

    heatmap: Float[Tensor, "height width"]
    word: str
    word_idx: int | None = None

    @property
    def value(self) -> Float[Tensor, "height width"]:
        """The map."""
        return self.heatmap

    def expand_as(
        self,
        image: Image.Image,
        absolute: bool = False,
        threshold: float | None = None,
        plot: bool = False,
        **plot_options: Any,
    ) -> Float[Tensor, "rows columns"]:
        """Return the map at the image's size, by bicubic interpolation.

        Args:
            image: The image.
            absolute: Keep the values; by default they are stretched to [0, 1].
            threshold: Return 1 above it and 0 below, instead of the values.
            plot: Also call `plot_overlay`.
            plot_options: Options of `plot_overlay`.
        """
        size = (image.height, image.width)
        values = F.interpolate(self.heatmap[None, None], size, mode="bicubic")[0, 0]
        if not absolute:
            values = (values - values.min()) / (values.max() - values.min() + 1e-8)
        if plot:
            self.plot_overlay(image, **plot_options)
        return values if threshold is None else (values > threshold).float()

    def overlay(self, image: Image.Image, color_normalize: bool = True, **expand_options: Any) -> Image.Image:
        """Return a picture of the map in colours over the image; arguments as in `plot_overlay`."""
        return laid_over(image, self.expand_as(image, **expand_options), normalize=color_normalize)

    def plot_overlay(
        self,
        image: Image.Image,
        out_file: str | Path | None = None,
        color_normalize: bool = True,
        ax: Any = None,
        **expand_options: Any,
    ) -> None:
        """Show the map in colours over the image, in matplotlib's current figure (if matplotlib is used) or a notebook.

        Args:
            image: The picture.
            out_file: File to write the picture to, for example a PNG.
            color_normalize: Spread the colours over the map's own range, not over [0, 1].
            ax: Axes of matplotlib to draw on.
            expand_options: Options of `expand_as`: `absolute` and `threshold`.
        """
        show(self.overlay(image, color_normalize, **expand_options), self.word, out_file=out_file, axes=ax)


@dataclass(frozen=True, eq=False)
class GlobalHeatMap:
    """Maps of all tokens of a prompt.

    Attributes:
        heat_maps: (token, height, width): the start token, the prompt's own tokens, the end token.
        prompt: The prompt.
        tokens: The tokens as readable text.
        words: The prompt's words with their positions in `heat_maps`.
    """

    heat_maps: Float[Tensor, "token height width"]
    prompt: str
    tokens: tuple[str, ...]
    words: tuple[Span, ...]

    def compute_word_heat_map(self, word: str, word_idx: int | None = None, offset_idx: int = 0) -> WordHeatMap:
        """Return the map of a word, or of several consecutive words, at all their places in the prompt.

        The text may also be a sequence of tokens: "," and the "dog" of "dog's" are found.

        Args:
            word: The word; case is ignored.
            word_idx: Number of a token to use instead; 0 is the first one after the start token.
            offset_idx: Added to the position of every token that was found.

        Raises:
            WordNotFoundError: the prompt does not contain the word.
        """
        first = int(self.tokens[:1] == SPECIAL[:1])
        places = self._places(word) if word_idx is None else {first + word_idx}
        rows = sorted(place + offset_idx if word_idx is None else place for place in places)
        if not rows or rows[0] < 0 or rows[-1] >= len(self.tokens):
            raise WordNotFoundError(
                f"word {word!r} is not in the prompt {self.prompt!r} (word_idx={word_idx}, offset_idx={offset_idx}): "
                f"expected some of {', '.join(span.text for span in self.words)}; for other words, call "
                "compute_global_heat_map(prompt='...') with any text, without a new run"
            )
        return WordHeatMap(self.heat_maps[rows].mean(0), word, word_idx)

    def _places(self, word: str) -> set[int]:
        """Return the tokens of a word: those of equal words in the prompt, and consecutive tokens that spell it."""
        parts = [folded(part) for part in word.split()]
        typed = [folded(span.text) for span in self.words]
        places = set[int]()
        for i in range(len(typed)):
            if parts and typed[i : i + len(parts)] == parts:
                places |= {token for span in self.words[i : i + len(parts)] for token in span.tokens}
        return places | self._written("".join(parts))

    def _written(self, letters: str) -> set[int]:
        """Return all tokens in consecutive runs that spell these letters."""
        written = ["\0" if token in SPECIAL else folded(token) for token in self.tokens]  # no word contains \0
        places = set[int]()
        for start in range(len(written) if letters else 0):
            stop = start + 1
            while stop < len(written) and len("".join(written[start:stop])) < len(letters):
                stop += 1
            if "".join(written[start:stop]) == letters:
                places |= set(range(start, stop))
        return places
