"""Dataset Diffusion: all class names share the attention of one prompt, and self-attention spreads their maps."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovam.checks import number, whole
from ovam.errors import MissingBlockError, NothingCapturedError, OptionError, UnsupportedPipelineError
from ovam.maps.compute import attention_maps, half_of
from ovam.maps.options import MapOptions
from ovam.maps.words import Listed, OptimisedTokens
from ovam.masks.result import Segmentation
from ovam.methods.base import Method, capture_line, checked_words, thresholds_of
from ovam.methods.last_token import without_middle
from ovam.methods.placed_words import PaddedPrompts, placed_tokens
from ovam.methods.result import WordScores, segmentation_of
from ovam.precision import float32
from ovam.prompt import synonyms_of
from ovam.shapes import Map
from ovam.trace.blocks import ALL, finest_of, share_of
from ovam.trace.quantised import floats
from ovam.trace.trace import BlockPart, Trace

SHARES = ("1/1", "1/2", "1/4", "1/8")
"""Sizes of a grid relative to the finest grid."""


@dataclass(frozen=True, kw_only=True)
class DatasetDiffusion(Method):
    """Dataset Diffusion: masks of all classes of a picture at once.

    The class names alone form one padded prompt, the class prompt, so that they share the attention of the run's
    conditional queries. A class's map at `words_at` of the finest grid is resized to `pixels_at`, multiplied by the
    fourth power of the mean self-attention there, and stretched to [0, 1]. The greatest map wins a pixel where it
    reaches the threshold. Optimised tokens keep the attribution prompt in which they were fitted.

    Attributes:
        threshold: Least value of a word; published is "at least", not "above".
        token_threshold: The same for fitted tokens, for which none was published.
        band: Width of the range of values below the threshold whose pixels get the label 255, undecided: 0.1, so values
            from 0.5 to 0.6.
        products: Number of products with the self-attention.
        any_self_attention: Whether the mean over the blocks on the way up, which captures keep by default, is enough.
            Published is the mean over the blocks on both ways, for which `requires` asks.
        words_at: Size of the grid at which the attention to the words is read, relative to the finest grid: "1/1",
            "1/2", "1/4" or "1/8". Published is 16 x 16 where the finest grid is 64 x 64. On a model whose finest grid
            is 16 x 16, such as mini, "1/1" has as many places.
        pixels_at: The same for the self-attention. Published is 32 x 32.

    Source:
        Nguyen et al., NeurIPS 2023 (arXiv:2309.14303); numbers of VinAIResearch/Dataset-Diffusion at 00866c4.
    """

    name: ClassVar[str] = "dataset-diffusion"
    threshold: float = 0.6
    token_threshold: float = 0.6
    band: float = 0.1
    products: int = 4
    any_self_attention: bool = False
    words_at: str = "1/4"
    pixels_at: str = "1/2"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "band", number("band", self.band, least=0.0, below=1.0))
        object.__setattr__(self, "products", whole("products", self.products, least=1))
        if self.band >= min(self.threshold, self.token_threshold):
            raise OptionError(f"band={self.band!r}: expected less than the threshold, {self.threshold!r}")
        for name in ("words_at", "pixels_at"):
            if getattr(self, name) not in SHARES:
                allowed = ", ".join(map(repr, SHARES))
                raise OptionError(f"{name}={getattr(self, name)!r}: expected one of {allowed}, of the finest grid")

    @property
    def requires(self) -> Mapping[str, Any]:
        """All blocks, and self-attention at `pixels_at` of the finest grid, each block by itself."""
        return {"blocks": ALL} | ({} if self.any_self_attention else {"self_attention": self.pixels_at})

    @float32()
    def segment(self, trace: Trace, words: Listed) -> Segmentation:
        """Return masks and a label map; see `Method.segment`.

        Raises:
            UnsupportedPipelineError: the trace is of joint attention, or its grids are not halved as a UNet's.
        """
        entries = checked_words(words)
        half_of(trace, "cond")
        maps = self.maps(trace, entries)
        values = F.interpolate(maps[None], trace.size, mode="bicubic")[0]
        found = WordScores(maps, values, tuple(map(_just_below, thresholds_of(entries, self))))
        return segmentation_of(trace, entries, found, band=self.band)

    def maps(self, trace: Trace, entries: Sequence[str | OptimisedTokens]) -> Float[Tensor, "word height width"]:
        """Return the map of each word and each class of fitted tokens, at `pixels_at` of the finest grid, in [0, 1]."""
        of_words = self._of_words(trace)
        parts = self._self_attention(trace)
        grid = parts[0].grid
        # in float64: products bring values close to each other, and stretching magnifies what rounding made of them
        weights = functools.reduce(torch.add, [floats(part.values["cond"]).double() for part in parts]) / len(parts)
        columns = _resized(_class_maps(of_words, entries), grid).flatten(1).T.to(weights)
        for _ in range(self.products):
            columns = weights @ columns
        low, high = columns.amin(0), columns.amax(0)
        scaled = (columns - low) / (high - low).clamp_min(torch.finfo(columns.dtype).tiny)
        return scaled.T.unflatten(1, grid).float().cpu()

    def _of_words(self, trace: Trace) -> Trace:
        """Return the trace with the blocks at `words_at` of the finest grid.

        Raises:
            UnsupportedPipelineError: there are none, or the trace is of joint attention.
        """
        try:
            if trace.text.kind == "static":
                return without_middle(trace).select(blocks=self.words_at)
        except MissingBlockError:
            pass
        grids = ", ".join(f"{height}x{width}" for height, width in sorted({b.grid for b in trace.blocks.values()}))
        kind = "joint attention of image and text" if trace.text.kind == "replayed" else f"the grids {grids}"
        shares = " and ".join(dict.fromkeys((self.pixels_at, self.words_at)))
        raise UnsupportedPipelineError(
            f"method {self.name!r} on a trace of {trace.source.pipeline} with {kind}: expected cross attention "
            f"at {shares} of the finest grid, as in a UNet of Stable Diffusion 1 or 2, with all blocks captured; use "
            f"{self._capture_line()} on such a model, or another method, such as 'daam'"
        )

    def _self_attention(self, trace: Trace) -> list[BlockPart]:
        """Return the parts at `pixels_at` of the finest grid, of blocks on both ways unless any will do.

        Raises:
            NothingCapturedError: there are none.
        """
        finest, share = finest_of(block.grid for block in trace.blocks.values()), int(self.pixels_at[2:])
        there = [part for part in trace.self_attention.values() if share_of(part.grid, finest) == share]
        kept = {part.name: part for part in there if "cond" in part.values and not part.name.startswith("mid_block")}
        both = [part for name, part in kept.items() if name.startswith(("down_blocks", "up_blocks"))]
        ways = {part.name.partition(".")[0] for part in both}
        if len(ways) == 2 or (both and self.any_self_attention):
            return both
        if kept and self.any_self_attention:
            return list(kept.values())
        named = "only the mean over the blocks on the way up" if kept else "none of it"
        raise NothingCapturedError(
            f"method {self.name!r} needs the self-attention of {self.pixels_at} of the finest grid, of the blocks on "
            f"the way down and on the way up, and this trace has {named}: use {self._capture_line()}, and keep all "
            "steps" + (f"; or use what this trace has: {self._call('any_self_attention=True')}" if kept else "")
        )

    def _capture_line(self) -> str:
        """Return the line that captures what the method needs; it names the grids that are not the published ones."""
        if self.pixels_at == DatasetDiffusion.pixels_at:
            return capture_line(self)
        return f"ovam.capture(pipe, **{self._call()}.requires)"

    def _call(self, *more: str) -> str:
        """Return the line that makes the method with its grids, and with more arguments."""
        grids = [
            f"{name}={getattr(self, name)!r}"
            for name in ("words_at", "pixels_at")
            if getattr(self, name) != getattr(DatasetDiffusion, name)
        ]
        return f"ovam.methods.DatasetDiffusion({', '.join([*grids, *more])})"


def _class_maps(trace: Trace, entries: Sequence[str | OptimisedTokens]) -> Float[Tensor, "word height width"]:
    """Return the mean map of each entry's tokens: words share one padded prompt, tokens keep their own."""
    words = [word for entry in entries if isinstance(entry, str) for word in synonyms_of(entry)]
    of_words = iter(_in_class_prompt(trace, words) if words else ())
    maps = list[Map]()
    for entry in entries:
        if isinstance(entry, str):
            maps.append(torch.stack([next(of_words) for _ in synonyms_of(entry)]).amax(0))
        else:
            placed = placed_tokens(trace.text, entry)
            token_maps = (attention_maps(trace, one.prompt, MapOptions()).token_maps for one in placed)
            maps += [each[list(one.places)].mean(0) for one, each in zip(placed, token_maps, strict=True)]
    return torch.stack(maps)


def _in_class_prompt(trace: Trace, words: Sequence[str]) -> list[Map]:
    """Return the mean map of each word's tokens in the prompt of all words."""
    together = PaddedPrompts(trace.text).in_a_row(words)
    token_maps = attention_maps(trace, together[0].prompt, MapOptions()).token_maps
    return [token_maps[list(one.places)].mean(0) for one in together]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps at another grid: bicubic where it is finer, the mean of the places where it is coarser."""
    if maps[0].numel() > math.prod(size):
        return F.interpolate(maps[None], size, mode="area")[0]
    return F.interpolate(maps[None], size, mode="bicubic")[0]


def _just_below(threshold: float) -> float:
    """Return the number that exactly the values of at least a threshold exceed, in float32."""
    return float(torch.nextafter(torch.tensor(threshold), torch.tensor(0.0)))
