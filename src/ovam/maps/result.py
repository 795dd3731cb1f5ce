"""Attention maps: one map for every token and word."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovam.checks import integer, listed, size_of
from ovam.errors import AmbiguousWordError, NothingCapturedError, OptionError, UnknownWordError
from ovam.keywords import options_as_keywords
from ovam.maps.calibration import Calibration
from ovam.maps.gains import WordGains, checked_gains
from ovam.maps.resize import resize
from ovam.maps.thresholds import Thresholds
from ovam.masks.options import MaskOptions
from ovam.prompt import Span, is_name
from ovam.refine.options import RefineOptions
from ovam.shapes import Axis, Grid, Map, TokenMaps
from ovam.stored_picture import decoded

if TYPE_CHECKING:
    from ovam.masks.result import Segmentation

SPECIAL = ("<start>", "<end>", "<pad>")
"""Names of the special tokens, which belong to no word."""


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """Mean self-attention of the image's pixels in one block, or over several blocks of one grid.

    Attributes:
        grid: Height and width of the grid of pixels.
        weights: Attention weights in [0, 1], of shape (pixel, pixel). The first axis is the pixel that attends; over
            the second axis the weights sum to 1.
    """

    grid: Grid
    weights: Float[Tensor, "pixel pixel"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """How much every grid position attends to each token and word.

    `maps["lawn"]` and `maps[0]` return the map of a word. It is the sum of the maps of the word's tokens, so each value
    is the part of the attention that goes to the word. A word may have any number of tokens.

    Attributes:
        token_maps: (*kept, token, height, width), float32, in [0, 1].
        tokens: The tokens in order; special ones are `<start>`, `<end>` and `<pad>`.
        spans: The words and phrases in the given order, each with the positions of its tokens.
        image_size: (height, width) of the image.
        kept: For each axis that was not averaged (option `keep`), by its name: the label of each position on this axis,
            such as the names of the blocks.
        prompts: Number of attribution prompts: one for a string, one per entry for a list.
        calibrations: Calibrations of those words that are classes of optimised tokens.
        self_attention: Self-attention of the same run, for refining the maps. The keys are module paths or grid names.
        image_png: The run's picture as PNG, or None if the run returned latents instead of a picture.
        plain: The maps from which `refine` or `only` made this object: not refined, of the same words in the same
            order, and with all tokens of each word. Presence (the probability that the picture shows a word,
            `ovam.masks.presence`) is computed from these maps. None if neither `refine` nor `only` was used.
        thresholds: Thresholds of those words that are classes of optimised tokens, if the classes have thresholds.
        refined: Whether self-attention has refined the maps.
        gains: Word gains of the same picture, which change masks and presence; None without.
    """

    token_maps: TokenMaps
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    image_size: tuple[int, int]
    kept: Mapping[Axis, tuple[object, ...]]
    prompts: int = 1
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    self_attention: Mapping[str, SelfAttention] = field(default_factory=dict)
    image_png: bytes | None = field(default=None, repr=False)
    plain: "AttentionMaps | None" = field(default=None, repr=False)
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    refined: bool = False
    gains: WordGains | None = field(default=None, repr=False)
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @property
    def words(self) -> tuple[str, ...]:
        """The words and phrases, in the given order."""
        return tuple(span.text for span in self.spans)

    @property
    def grid(self) -> Grid:
        """Height and width of the maps."""
        return (self.token_maps.shape[-2], self.token_maps.shape[-1])

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str | int) -> Map:
        """Return the map of a word, by its text or position, or the map of `<start>`, `<end>` or `<pad>`.

        Raises:
            UnknownWordError: the word is not in the attribution prompt.
            AmbiguousWordError: the word occurs more than once; use its position. Or it is a special token, and each of
                several attribution prompts has such a token.
        """
        return self.token_maps[..., list(self._positions(word)), :, :].sum(-3)

    def _positions(self, word: str | int) -> Sequence[int]:
        number = integer(word)
        if number is not None:
            if not -len(self.spans) <= number < len(self.spans):
                raise UnknownWordError(f"there is no word number {number}: the prompt has {len(self.spans)} words")
            return self.spans[number].tokens
        if not isinstance(word, str):
            raise UnknownWordError(f"{word!r} is neither a word nor the number of one: expected maps['dog'] or maps[0]")
        places = [i for i, span in enumerate(self.spans) if is_name(word, span.text)]
        if len(places) > 1:
            raise AmbiguousWordError(
                f"word {word!r} stands {len(places)} times in the prompt: ask by position, "
                f"{' or '.join(f'maps[{i}]' for i in places)}"
            )
        if places:
            return self.spans[places[0]].tokens
        special = [i for i, token in enumerate(self.tokens) if token == word and token.startswith("<")]
        if special and self.prompts > 1:
            raise AmbiguousWordError(
                f"{word!r} stands in each of the {self.prompts} attribution prompts of this list: "
                "for special tokens, ask for the maps of one prompt as a string"
            )
        if not special and word in SPECIAL:
            there = [name for name in SPECIAL if name in self.tokens]
            raise UnknownWordError(
                f"{word!r} is no token of these maps: they have {', '.join(there) or 'no special tokens'}; "
                "<pad> needs softmax_over='padded' or 'joint', and a model that attends to padding; T5 has no <start>; "
                "strategy='output' makes only maps of words"
            )
        if not special:
            raise UnknownWordError(
                f"word {word!r} is not in these maps: they have {', '.join(map(repr, self.words))}; "
                f"ask the trace for it, trace.maps([{word!r}]), which needs no new run of the model"
            )
        return special

    def stacked(self) -> Float[Tensor, "*kept word height width"]:
        """Return the maps of all words, in order."""
        return torch.stack([self[i] for i in range(len(self))], dim=-3)

    def numpy(self) -> Float[np.ndarray, "*kept word height width"]:
        """Return the maps of all words, in order, as one array."""
        return self.stacked().cpu().numpy()

    def image(self, word: str | int, *, opacity: float = 0.7) -> Image.Image:
        """Return the picture with a word's map drawn over it in colours; see `ovam.pictures.overlay`.

        The map is stretched by its own minimum and maximum.

        Raises:
            NothingCapturedError: there is no picture, because the run returned latents.
            OptionError: the maps keep axes apart, or the opacity lies outside [0, 1].
            The errors of `maps[word]`.
        """
        from ovam.pictures import overlay

        return overlay(self.picture(), self[word].cpu(), opacity=opacity)

    def picture(self) -> Image.Image:
        """Return the run's picture, RGB.

        Raises:
            NothingCapturedError: there is no picture, because the run returned latents.
            ImageInputError: the picture is damaged.
        """
        if self.image_png is None:
            raise NothingCapturedError(
                "these maps have no picture: the pipeline was run with output_type='latent'; run it with 'pil', 'np' "
                "or 'pt', or lay maps[word] over a picture of yours with ovam.pictures.overlay(image, maps[word])"
            )
        return decoded(self.image_png, self.image_size)

    def resized(self, size: tuple[int, int] | None = None) -> "AttentionMaps":
        """Return the maps resized bilinearly to (height, width), by default to the image's size; values stay in [0, 1].

        Raises:
            OptionError: `size` is not two whole numbers of at least 1.
        """
        found = self.image_size if size is None else size_of("size", size)
        return replace(self, token_maps=resize(self.token_maps, found))

    def only(self, words: Sequence[str | int]) -> "AttentionMaps":
        """Return the maps of some words or special tokens, in this order.

        In the result each word has only one token map: the sum of the maps of its tokens.

        `plain` keeps the maps as they were before, with all tokens: presence needs the number of tokens of each word.

        Raises:
            The errors of `maps[word]`.
        """
        if not listed("words", words):
            raise UnknownWordError("the list of words is empty: expected at least one of these maps' words")
        chosen = torch.stack([self[word] for word in words], dim=-3)  # an unknown word is an error
        names = tuple(word if isinstance(word, str) else self.words[int(word)] for word in words)
        spans = tuple(Span(name, (i,)) for i, name in enumerate(names))
        before = self.plain or self
        whole = tuple(Span(name, self._plain_tokens(word)) for name, word in zip(names, words, strict=True))
        here = {name: self._name_here(word) for name, word in zip(names, words, strict=True)}
        of_words: dict[str, Any] = {
            "calibrations": {name: self.calibrations[one] for name, one in here.items() if one in self.calibrations},
            "thresholds": {name: self.thresholds[one] for name, one in here.items() if one in self.thresholds},
        }
        plain = replace(before, spans=whole, plain=None, **of_words)
        return replace(self, token_maps=chosen, tokens=names, spans=spans, plain=plain, **of_words)

    def _name_here(self, word: str | int) -> str:
        """Return a word as these maps spell it: maps of "cat" also accept the name "Cat"."""
        tokens = tuple(self._positions(word))
        return next((span.text for span in self.spans if span.tokens == tokens), str(word))

    def _plain_tokens(self, word: str | int) -> tuple[int, ...]:
        """Return the positions of a word's tokens in the maps from which presence is computed."""
        tokens, before = tuple(self._positions(word)), self.plain or self
        pairs = zip(self.spans, before.spans, strict=True)
        return next((plain.tokens for span, plain in pairs if span.tokens == tokens), tokens)

    def with_gains(self, gains: WordGains) -> "AttentionMaps":
        """Return these maps with word gains of the same picture; do this before the maps are refined.

        Raises:
            OptionError: the maps are refined already, which would leave the gains unrefined, or `gains` are not word
                gains.
        """
        if self.refined:
            raise OptionError("these maps are refined already: add the gains first, maps.with_gains(gains).refine()")
        checked_gains(gains)
        return replace(self, gains=gains, plain=self.plain and replace(self.plain, gains=gains))

    @options_as_keywords(RefineOptions)
    def refine(self, options: RefineOptions) -> "AttentionMaps":
        """Return refined maps: pixels that attend to each other get similar values.

        See `ovam.refine.self_attention.refined`.
        """
        from ovam.refine.self_attention import refined

        return refined(self, options)

    @options_as_keywords(MaskOptions)
    def segment(self, options: MaskOptions) -> "Segmentation":
        """Return masks and a label map of the words; see `ovam.masks.masks.segment`."""
        from ovam.masks.masks import segment

        return segment(self, options)

    def _repr_png_(self) -> bytes | None:
        """Return the maps over the picture for a notebook, or None if there is no picture or an axis was kept."""
        from ovam.notebook import maps_png

        return maps_png(self)

    def __repr__(self) -> str:
        height, width = self.grid
        apart = f", apart by {' and '.join(self.kept)}" if self.kept else ""
        return f"AttentionMaps({', '.join(map(repr, self.words))}; {height} x {width}{apart})"
