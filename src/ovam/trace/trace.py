"""A trace: the stored queries of one image's run, from which maps of any words can be made later.

The code here does not depend on any model family. The text side of a trace (`TextSide`) turns words into keys. The
methods `maps`, `segment`, `save` and `load` use `ovam.maps`, `ovam.masks` and `ovam.trace.file`. Each method imports
the function that it needs when the method is called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image

from ovam.errors import NothingCapturedError
from ovam.keywords import options_as_keywords
from ovam.maps.options import MapOptions
from ovam.maps.words import Listed, Words
from ovam.masks.options import SegmentOptions
from ovam.shapes import Grid
from ovam.stored_picture import decoded
from ovam.trace.blocks import BlockChoice, choose_blocks
from ovam.trace.calls import Call, Half, StepChoice, choose_steps
from ovam.trace.quantised import Stored
from ovam.trace.replay import Replay
from ovam.trace.text_side import ReplayedSide, TextSide

if TYPE_CHECKING:
    from ovam.maps.result import AttentionMaps
    from ovam.masks.result import Segmentation


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """Queries of one attention block.

    Attributes:
        name: Module path in the pipeline's denoiser.
        grid: Height and width of the block's grid of pixels (`ovam.shapes`).
        scale: Factor on the dot products of queries and keys, before the softmax.
        query: The queries of each half of guidance (`ovam.trace.calls.Half`): contiguous tensors of shape (head, step,
            pixel, head_dim). They may be stored in eight bits (`ovam.trace.quantised`).
        output: The attention outputs of the pixels in each half of guidance, of shape (head, step, pixel, head_dim),
            before the block's output projection. Outputs are stored only for models with joint attention (image and
            text tokens in one attention, as in SD3 and FLUX), and only if the capture had `outputs=True`.
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

    def at(self, kept_indices: Sequence[int]) -> "BlockTrace":
        """Return the block with only the data of the calls with these kept indices (`ovam.trace.calls`)."""
        index = torch.tensor(kept_indices)
        query, output = ({half: part[:, index] for half, part in kept.items()} for kept in (self.query, self.output))
        return replace(self, query=query, output=output)


@dataclass(frozen=True, eq=False)
class BlockPart:
    """A stored tensor other than queries and outputs, such as self-attention.

    The tensor belongs to one block, or is the mean over all blocks that have the same grid.

    Attributes:
        name: Module path in the pipeline's denoiser; or the name of a grid, such as "32x32", if `values` are the mean
            over blocks of this grid.
        grid: Height and width of the grid of pixels.
        values: The tensor of each half of guidance. For "self_attention" these are attention weights in [0, 1], of
            shape (pixel, pixel), the mean over blocks, heads and denoiser calls, or every n-th of these. The first axis
            is the pixel that attends; over the second axis the weights sum to 1. For "features" they are outputs of a
            layer, (channel, height, width).
        averaged: Whether `values` are the mean over the denoiser calls. If `averaged` and `last` are both False,
            `values` have a step axis with one entry for each call. The step axis is the second axis if the first axis
            is the heads; otherwise it is the first axis.
        last: Whether `values` come only from the last kept denoiser call. Then they have no step axis.
    """

    name: str
    grid: Grid
    values: Mapping[Half, Stored] = field(repr=False)
    averaged: bool = True
    last: bool = False

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self.values.values())

    def at(self, kept_indices: Sequence[int]) -> "BlockPart":
        """Return the part with only the data of the calls with these kept indices (`ovam.trace.calls`).

        The part must not be an average. A part of the last call is returned unchanged.
        """
        if self.last:
            return self
        index = torch.tensor(kept_indices)
        values = {half: part[:, index] if part.ndim == 4 else part[index] for half, part in self.values.items()}
        return replace(self, values=values)


@dataclass(frozen=True)
class Source:
    """Where a trace comes from. This is information only: no map depends on it."""

    model: str
    pipeline: str
    kind: Literal["generated", "encoded"]
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trace:
    """The queries of one image of a run, its picture, and the text side that turns words into keys.

    Glossary:
        text side: the part of a trace that turns text into keys (`ovam.trace.text_side`).
        generation prompt: the prompt that the picture was made with.
        attribution prompt: a text for which maps are made. At each pixel the attention is divided among
            the tokens of this text.
        late words: words that are asked for after the run.
        half of guidance: "cond", the pass of the denoiser with the prompt, or "uncond", the pass with the negative or
            empty prompt.
        joint attention: one attention over the tokens of image and text together, as in SD3 and FLUX.
        contrast words: the words of the option `against`. Pixels where a contrast word is stronger become background.
        presence: the probability that the picture shows a word at all (`ovam.masks.presence`).

    Shapes (`ovam.shapes` explains the axes):
        blocks[name].query[half]: (head, step, pixel, head_dim).
        blocks[name].output[half]: (head, step, pixel, head_dim), joint attention only.
        replay.blocks[name].key[half], .value[half]: (head, step, pixel, head_dim), joint attention only.
        self_attention[name].values[half]: (pixel, pixel).
        features[name].values[half]: (channel, height, width), UNets only.
        text.embed(words).vectors: (token, width).
        text.keys(vectors, name, call): (head, token, head_dim).
        maps(words).token_maps: (token, height, width), at the finest grid.
        segment(words).labels: (height, width), at the image's size.

    Example:
        >>> import ovam
        >>> pipe = ovam.load("mini")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> with ovam.capture(pipe) as traces:
        ...     _ = pipe("a cat on the grass", num_inference_steps=2)
        >>> trace = traces[0]
        >>> maps = trace.maps(["cat", "sky"])
        >>> maps.words, tuple(maps["sky"].shape) == maps.grid
        (('cat', 'sky'), True)

    Attributes:
        blocks: Blocks by module path, in the order in which the model runs them.
        calls: The kept denoiser calls; the `step` axis of every query has one entry for each.
        text: Turns words into keys.
        source: Model, prompt, seed.
        size: (height, width) of the image in pixels.
        image_png: The picture as PNG, or None if the run returned latents instead of a picture.
        parts: More stored tensors: `parts[kind][name]`, where `kind` is, for example, "self_attention", and `name` is a
            `BlockPart.name`, which is a module path or the name of a grid; see `ovam.tracing.parts`.
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
            NothingCapturedError: the run returned latents, so no picture was decoded.
            ImageInputError: the picture in the trace's file is damaged.
        """
        if self.image_png is None:
            raise NothingCapturedError(
                "this trace has no picture: the pipeline was run with output_type='latent'; "
                "run it with 'pil', 'np' or 'pt' to keep one"
            )
        return decoded(self.image_png, self.size)

    @property
    def halves(self) -> tuple[Half, ...]:
        """The halves of guidance that were kept."""
        first = next(iter(self.blocks.values()), None)
        return () if first is None else tuple(first.query)

    @property
    def dtype(self) -> torch.dtype | None:
        """Storage type of the queries; None if there are no queries."""
        return next((query.dtype for block in self.blocks.values() for query in block.query.values()), None)

    @property
    def replay(self) -> Replay:
        """Image keys and values, for joint attention only; empty if the keys of words depend on the text alone."""
        return self.text.replay if isinstance(self.text, ReplayedSide) else Replay()

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors: queries, attention outputs, image keys and values, self-attention, features."""
        further = sum(part.nbytes for blocks in self.parts.values() for part in blocks.values())
        return sum(block.nbytes for block in self.blocks.values()) + further + self.replay.nbytes

    @property
    def self_attention(self) -> Mapping[str, BlockPart]:
        """The stored self-attention by `BlockPart.name`: a module path, or a grid such as "32x32"."""
        return self.parts.get("self_attention", {})

    @property
    def features(self) -> Mapping[str, BlockPart]:
        """Outputs of a UNet's layers by module path, if they were kept: (channel, height, width) for each half."""
        return self.parts.get("features", {})

    def select(self, *, blocks: BlockChoice = None, steps: StepChoice = None) -> "Trace":
        """Return the trace with fewer blocks or steps; nothing is copied if `steps` is None.

        Parts such as self-attention stay, whatever blocks are chosen. But an average was computed over all kept
        denoiser calls. If you choose only some of these calls, the returned trace has no averages. Features stay if the
        last call stays.

        Args:
            blocks: Module paths or their beginnings, grid heights (16), grids ([(16, 24)]), or sizes relative to the
                finest grid, which is the grid with the most pixels: "1/4" means that each side is 1/4 as long. "all"
                leaves out the blocks in a UNet's coarse "mid_block". None keeps all blocks.
            steps: One step number, several of them, or "middle" for the middle step; None keeps all steps.

        Raises:
            MissingBlockError: a name or grid fits no block.
            MissingStepError: a step is not in the trace.
            OptionError: `blocks` is a tuple of two numbers that could be one grid or two grid heights.
        """
        names = choose_blocks({name: block.grid for name, block in self.blocks.items()}, blocks)
        kept = {name: self.blocks[name] for name in names}
        if steps is None:
            return replace(self, blocks=kept, text=self._text_of(names, None))
        kept_indices = choose_steps(self.calls, steps)
        fewer = {name: block.at(kept_indices) for name, block in kept.items()}
        calls, text = tuple(self.calls[i] for i in kept_indices), self._text_of(names, kept_indices)
        parts = self.parts if calls == self.calls else _parts_at(self.parts, kept_indices, len(self.calls) - 1)
        return replace(self, blocks=fewer, calls=calls, text=text, parts=parts)

    def _text_of(self, names: Sequence[str], kept_indices: Sequence[int] | None) -> TextSide:
        """Return the text side of a selection, without the image keys and values that it does not need."""
        if not isinstance(self.text, ReplayedSide):
            return self.text
        return self.text.with_replay(self.text.replay.select(names, kept_indices))

    @options_as_keywords(MapOptions)
    def maps(self, words: Words, options: MapOptions) -> "AttentionMaps":
        """Return attention maps of any words; see `ovam.maps.compute.attention_maps`."""
        from ovam.maps.compute import attention_maps

        return attention_maps(self, words, options)

    @options_as_keywords(SegmentOptions)
    def segment(self, words: Listed, options: SegmentOptions) -> "Segmentation":
        """Return masks and a label map of a list of words; see `ovam.masks.masks.segment`.

        Each entry is its own attribution prompt, so the words do not share the attention. Each word may occur only
        once, in `words` or in `against`.
        """
        from ovam.masks.masks import segment_words

        return segment_words(self, words, options)

    def save(self, path: str | Path) -> None:
        """Write the trace to one safetensors file; see `ovam.trace.file.save_trace`."""
        from ovam.trace.file import save_trace

        save_trace(self, path)

    @staticmethod
    def load(path: str | Path, text: object = None) -> "Trace":
        """Read a trace from a file. `text` is the model whose text encoder reads new words: a pipeline, the folder of a
        pipeline, or a model name such as "mini"; see `ovam.trace.file.load_trace`.
        """
        from ovam.trace.file import load_trace

        return load_trace(path, text)

    def _repr_png_(self) -> bytes | None:
        """Return the picture for a notebook, or None if there is no picture."""
        from ovam.notebook import trace_png

        return trace_png(self)

    def __repr__(self) -> str:
        height, width = self.size
        prompt = f"{self.source.prompt!r}, " if self.source.prompt else ""
        mebibytes = self.nbytes / 2**20
        return (
            f"Trace({prompt}{height} x {width} pixels, {len(self.blocks)} blocks, {len(self.calls)} denoiser calls, "
            f"{mebibytes:.1f} MiB)"
        )


def _parts_at(
    parts: Mapping[str, Mapping[str, BlockPart]], kept_indices: Sequence[int], last: int
) -> dict[str, dict[str, BlockPart]]:
    """Return the parts with only the data of the calls with these kept indices (`ovam.trace.calls`).

    A kind of parts is left out if its values are averages over all calls. It is also left out if its values come from
    the last call, whose kept index is `last`, and this call is not chosen.
    """
    left_out = {
        kind
        for kind, blocks in parts.items()
        if any(part.averaged or (part.last and last not in kept_indices) for part in blocks.values())
    }
    kept = {kind: blocks for kind, blocks in parts.items() if kind not in left_out}
    return {kind: {name: part.at(kept_indices) for name, part in blocks.items()} for kind, blocks in kept.items()}
