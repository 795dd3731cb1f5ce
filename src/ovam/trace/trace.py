"""A trace: what is kept of one image's run, so that words can be asked of it later.

Nothing here knows a model. A trace answers through its `TextSide`, which turns words into keys. The
methods `maps`, `segment`, `save` and `load` are doors to functions of later stages, imported when called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image

from ovam.errors import ImageInputError, NothingCapturedError
from ovam.keywords import of_two
from ovam.maps.options import MapOptions
from ovam.maps.words import Listed, Words
from ovam.masks.options import SegmentOptions
from ovam.shapes import Grid
from ovam.trace.blocks import BlockChoice, choose_blocks
from ovam.trace.calls import Call, Half, StepChoice, choose_steps
from ovam.trace.quantised import Stored
from ovam.trace.replay import Replay
from ovam.trace.text_side import ReplayedSide, TextSide

if TYPE_CHECKING:
    from ovam.maps.result import AttentionMaps
    from ovam.masks.masks import Segmentation


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """Queries of one attention block.

    Attributes:
        name: Module path in the pipeline's denoiser.
        grid: Height and width of the block's pixels.
        scale: Factor on the scores.
        query: Per half (head, step, pixel, head_dim), contiguous; `ovam.trace.quantised` tells of eight bits.
        output: Likewise what attention gave the pixels, before any projection of it; of joint attention alone, and
            only where the capture was asked for it.
    """

    name: str
    grid: Grid
    scale: float
    query: Mapping[Half, Stored] = field(repr=False)
    output: Mapping[Half, Stored] = field(default_factory=dict, repr=False)

    @property
    def heads(self) -> int:
        return next(iter(self.query.values())).shape[0]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*self.query.values(), *self.output.values()))

    def at(self, entries: Sequence[int]) -> "BlockTrace":
        """Some entries of the step axis."""
        index = torch.tensor(entries)
        query, output = ({half: part[:, index] for half, part in kept.items()} for kept in (self.query, self.output))
        return replace(self, query=query, output=output)


@dataclass(frozen=True, eq=False)
class BlockPart:
    """A further tensor that was kept of a block, such as which of its pixels attend to which.

    Attributes:
        name: Module path in the pipeline's denoiser.
        grid: Height and width of the block's pixels.
        values: Per half. Of "self_attention" weights (pixel, pixel) in [0, 1], the mean over heads and denoiser calls;
            the row is the pixel that attends, and each row sums to 1.
        averaged: Whether it is the mean over the denoiser calls; else they are an axis, behind the heads if any.
    """

    name: str
    grid: Grid
    values: Mapping[Half, Stored] = field(repr=False)
    averaged: bool = True

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self.values.values())

    def at(self, entries: Sequence[int]) -> "BlockPart":
        """Some denoiser calls of a part that has each call's own."""
        index = torch.tensor(entries)
        values = {half: part[:, index] if part.ndim == 4 else part[index] for half, part in self.values.items()}
        return replace(self, values=values)


@dataclass(frozen=True)
class Source:
    """Where a trace comes from; for people and for files, no answer depends on it."""

    model: str
    pipeline: str
    kind: Literal["generated", "encoded"]
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trace:
    """The queries of one image's run, its picture, and the way from words to keys.

    Attributes:
        blocks: By module path, in the order the model runs them.
        calls: The kept denoiser calls; the `step` axis of every query has one entry for each.
        text: Turns words into keys.
        source: Model, prompt, seed.
        size: (height, width) of the image in pixels.
        image_png: The picture as PNG, or None where the run ended with latents.
        parts: What else was kept, by kind and module path: "self_attention", see `ovam.tracing.parts`.
    """

    blocks: Mapping[str, BlockTrace]
    calls: tuple[Call, ...]
    text: TextSide
    source: Source
    size: tuple[int, int]
    image_png: bytes | None = field(default=None, repr=False)
    parts: Mapping[str, Mapping[str, BlockPart]] = field(default_factory=dict)

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB.

        Raises:
            NothingCapturedError: the run ended with latents and no picture was decoded.
            ImageInputError: the picture in the trace's file is damaged.
        """
        if self.image_png is None:
            raise NothingCapturedError(
                "this trace has no picture: the pipeline was run with output_type='latent'; "
                "run it with 'pil', 'np' or 'pt' to keep one"
            )
        height, width = self.size
        try:
            picture = Image.open(BytesIO(self.image_png), formats=["PNG"])
            if picture.size != (width, height):  # before a pixel is decoded: the file may claim a picture of gigabytes
                raise ValueError(f"it has {picture.height} x {picture.width} pixels")
            return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageInputError(
                f"the trace's picture is damaged ({error}): expected a PNG of {height} x {width} pixels"
            ) from error

    @property
    def halves(self) -> tuple[Half, ...]:
        """The halves of guidance that were kept."""
        first = next(iter(self.blocks.values()), None)
        return () if first is None else tuple(first.query)

    @property
    def dtype(self) -> torch.dtype | None:
        """Type that the queries are stored in; None where there are none."""
        return next((query.dtype for block in self.blocks.values() for query in block.query.values()), None)

    @property
    def replay(self) -> Replay:
        """Image keys and values, of joint attention only; empty where keys depend on the text alone."""
        return self.text.replay if isinstance(self.text, ReplayedSide) else Replay()

    @property
    def nbytes(self) -> int:
        """Bytes of all queries, and of image outputs, keys and values and self-attention where there are any."""
        further = sum(part.nbytes for blocks in self.parts.values() for part in blocks.values())
        return sum(block.nbytes for block in self.blocks.values()) + further + self.replay.nbytes

    @property
    def self_attention(self) -> Mapping[str, BlockPart]:
        """Which pixels of a block attend to which, by module path; of the blocks for which it was kept."""
        return self.parts.get("self_attention", {})

    def select(self, *, blocks: BlockChoice = None, steps: StepChoice = None) -> "Trace":
        """The same trace with fewer blocks or steps; nothing is copied where all steps stay.

        Parts such as self-attention stay as they are, whatever blocks are chosen. Averages are of all steps together:
        a selection of fewer denoiser calls has none.

        Args:
            blocks: Module paths, their beginnings, grid heights (16) or grids ([(16, 24)]); None keeps all.
            steps: Step numbers or one, or "middle" for the one in the middle; None keeps all.

        Raises:
            MissingBlockError: a name or grid fits no block.
            MissingStepError: a step is not in the trace.
            OptionError: two numbers in a tuple of their own could be a grid or two heights.
        """
        names = choose_blocks({name: block.grid for name, block in self.blocks.items()}, blocks)
        kept = {name: self.blocks[name] for name in names}
        if steps is None:
            return replace(self, blocks=kept, text=self._text_of(names, None))
        entries = choose_steps(self.calls, steps)
        fewer = {name: block.at(entries) for name, block in kept.items()}
        calls, text = tuple(self.calls[i] for i in entries), self._text_of(names, entries)
        parts = self.parts if calls == self.calls else _parts_at(self.parts, entries)
        return replace(self, blocks=fewer, calls=calls, text=text, parts=parts)

    def _text_of(self, names: Sequence[str], entries: Sequence[int] | None) -> TextSide:
        """The text side of a selection, without the image keys and values that it has no use for."""
        if not isinstance(self.text, ReplayedSide):
            return self.text
        return self.text.over(self.text.replay.select(names, entries))

    @of_two(MapOptions)
    def maps(self, words: Words, options: MapOptions) -> "AttentionMaps":
        """Attention maps of any words; see `ovam.maps.compute.attention_maps`."""
        from ovam.maps.compute import attention_maps

        return attention_maps(self, words, options)

    @of_two(SegmentOptions)
    def segment(self, words: Listed, options: SegmentOptions) -> "Segmentation":
        """Masks and a label map of listed words: their maps, and `ovam.masks.masks.segment` of these.

        Each entry is an attribution prompt of its own, and each word may be there once, in `words` or in `against`.
        """
        from ovam.masks.masks import segment_words

        return segment_words(self, words, options)

    def save(self, path: str | Path) -> None:
        """Write the trace to one safetensors file; see `ovam.trace.file.save_trace`."""
        from ovam.trace.file import save_trace

        save_trace(self, path)

    @staticmethod
    def load(path: str | Path, text: object = None) -> "Trace":
        """Read a trace back; see `ovam.trace.file.load_trace`."""
        from ovam.trace.file import load_trace

        return load_trace(path, text)

    def __repr__(self) -> str:
        height, width = self.size
        what = f"{self.source.prompt!r}, " if self.source.prompt else ""
        mebibytes = self.nbytes / 2**20
        return (
            f"Trace({what}{height} x {width} pixels, {len(self.blocks)} blocks, {len(self.calls)} denoiser calls, "
            f"{mebibytes:.1f} MiB)"
        )


def _parts_at(parts: Mapping[str, Mapping[str, BlockPart]], entries: Sequence[int]) -> dict[str, dict[str, BlockPart]]:
    """Parts of some denoiser calls; an average over all of them is left out."""
    each = {kind: blocks for kind, blocks in parts.items() if not any(part.averaged for part in blocks.values())}
    return {kind: {name: part.at(entries) for name, part in blocks.items()} for kind, blocks in each.items()}
