"""A trace: what is kept of one image's run, so that words can be asked of it later.

Nothing here knows a model. A trace answers through its `TextSide`, which turns words into keys. The
methods `maps`, `segment`, `save` and `load` are doors to functions of later stages, imported when called.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor

from ovam.calibration import Calibration
from ovam.calls import Call as Call
from ovam.calls import Half as Half
from ovam.calls import choose_steps
from ovam.errors import ImageInputError, MissingBlockError, NothingCapturedError, OptionError
from ovam.prompt import AttributionPrompt
from ovam.quantised import Stored
from ovam.replay import Replay, TextStream
from ovam.shapes import Embedding, Key

if TYPE_CHECKING:
    from ovam.masks import Segmentation
    from ovam.word_maps import AttentionMaps

Grid = tuple[int, int]
"""Height and width of a block's lattice of pixels."""


@dataclass(frozen=True)
class Space:
    """Names the exact input of the key path: vectors of two different spaces must never be mixed.

    Attributes:
        encoder: Class of the text encoder and a hash of its weights.
        layer: Which of its outputs, `last` or with CLIP's skipped layers `skip-N`.
        width: Channels of a vector.
    """

    encoder: str
    layer: str
    width: int

    def __str__(self) -> str:
        return f"{self.encoder}, layer {self.layer}, width {self.width}"

    @property
    def skips(self) -> bool:
        """Whether layers were left out, as `clip_skip` does; `hidden-2` is what some families read by themselves."""
        kind, _, depth = self.layer.partition("-")
        return bool(depth) and int(depth) > (2 if kind == "hidden" else 0)


@dataclass(frozen=True, eq=False)
class TokenEmbedding:
    """The vectors of an attribution prompt in a named space.

    Attributes:
        vectors: What enters the key path, one vector a token.
        prompt: The text and its tokens.
        space: Where the vectors come from.
        own: Positions of the vectors that `prompt.tokens` names; None where those are all of them. Joint attention
            always runs the padded text, as the model does, and leaves the padding out only where weights are taken.
    """

    vectors: Embedding
    prompt: AttributionPrompt
    space: Space
    own: tuple[int, ...] | None = None

    def taken_rows(self) -> Embedding:
        """Of the vectors, those of the prompt's tokens."""
        return self.vectors if self.own is None else self.vectors[list(self.own)]

    def taken(self, key: Key) -> Float[Tensor, "head own head_dim"]:
        """Of the keys of all vectors, those of the prompt's tokens."""
        return key if self.own is None else key[:, list(self.own)]


@runtime_checkable
class Fitted(Protocol):
    """What stands wherever words do and brings attribution prompts of its own: a `TokenSet`."""

    @property
    def space(self) -> Space: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes, in the order of the prompts."""
        ...

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """From map to score, of the classes that were fitted with one."""
        ...

    def prompts(self) -> tuple[TokenEmbedding, ...]: ...

    def notes(self, trace: "Trace") -> tuple[str, ...]:
        """What differs between the fit and a trace, in words."""
        ...


TextKind = Literal["static", "replayed"]


@runtime_checkable
class TextSide(Protocol):
    """From text to the keys a trace's queries are compared with.

    `kind` tells what is promised: `static` keys depend on the text alone (UNet, PixArt), so late words are
    exact; `replayed` keys are made by running the text stream again against stored image keys and values
    (SD3, FLUX), exact for the generation prompt.
    """

    @property
    def kind(self) -> TextKind: ...

    @property
    def space(self) -> Space: ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Tokens of a text as the key path takes them; `as_phrase` makes the whole text one unit."""
        ...

    def keys(self, embedding: Embedding, block: str, call: int, half: Half = "cond") -> Key:
        """Keys of an embedding in one block at one denoiser call, float32; static sides need neither call nor half."""
        ...


@runtime_checkable
class ReplayedSide(TextSide, Protocol):
    """A text side of joint attention: the text stream is run again, against what was kept of the image."""

    @property
    def replay(self) -> Replay: ...

    def over(self, replay: Replay) -> "ReplayedSide":
        """The same side against another part of the run."""
        ...

    def stream(self, embedding: Embedding) -> TextStream:
        """Start the text stream of an embedding."""
        ...


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """Queries of one attention block.

    Attributes:
        name: Module path in the pipeline's denoiser.
        grid: Height and width of the block's pixels.
        scale: Factor on the scores.
        query: Per half (head, step, pixel, head_dim), contiguous; see `ovam.quantised` for those kept in eight bits.
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
class SelfAttention:
    """Which pixels of a block attend to which, averaged over its heads and the trace's denoiser calls.

    Attributes:
        name: Module path in the pipeline's denoiser.
        grid: Height and width of the block's pixels.
        weights: Per half, in [0, 1]; the row is the pixel that attends, and each row sums to 1.
    """

    name: str
    grid: Grid
    weights: Mapping[Half, Float32[Tensor, "pixel pixel"]] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return sum(weights.nbytes for weights in self.weights.values())


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
        self_attention: By module path, of the blocks for which the capture was asked to keep it.
    """

    blocks: Mapping[str, BlockTrace]
    calls: tuple[Call, ...]
    text: TextSide
    source: Source
    size: tuple[int, int]
    image_png: bytes | None = field(default=None, repr=False)
    self_attention: Mapping[str, SelfAttention] = field(default_factory=dict)

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
        averages = sum(part.nbytes for part in self.self_attention.values())
        return sum(block.nbytes for block in self.blocks.values()) + averages + self.replay.nbytes

    def select(self, *, blocks: "BlockChoice" = None, steps: int | Iterable[int] | None = None) -> "Trace":
        """The same trace with fewer blocks or steps; nothing is copied where all steps stay.

        Self-attention stays as it is, whatever blocks are chosen. It is of all steps together: a selection of fewer
        denoiser calls has none.

        Args:
            blocks: Module paths, their beginnings, grid heights (16) or grids ([(16, 24)]); None keeps all.
            steps: Step numbers or one; None keeps all.

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
        averages = self.self_attention if calls == self.calls else {}
        return replace(self, blocks=fewer, calls=calls, text=text, self_attention=averages)

    def _text_of(self, names: Sequence[str], entries: Sequence[int] | None) -> TextSide:
        """The text side of a selection, without the image keys and values that it has no use for."""
        if not isinstance(self.text, ReplayedSide):
            return self.text
        return self.text.over(self.text.replay.select(names, entries))

    def maps(self, words: "Words", **options: "Any") -> "AttentionMaps":
        """Attention maps of any words; see `ovam.maps.attention_maps`."""
        from ovam.maps import attention_maps

        return attention_maps(self, words, **options)

    def segment(self, words: "Listed", **options: "Any") -> "Segmentation":
        """Masks and a label map of a list of words; see `ovam.masks.segment`."""
        from ovam.masks import segment

        return segment(self, words, **options)

    def save(self, path: str | Path) -> None:
        """Write the trace to one safetensors file; see `ovam.trace_file.save_trace`."""
        from ovam.trace_file import save_trace

        save_trace(self, path)

    @staticmethod
    def load(path: str | Path, text: object = None) -> "Trace":
        """Read a trace back; see `ovam.trace_file.load_trace`."""
        from ovam.trace_file import load_trace

        return load_trace(path, text)


Words = str | Sequence[str | Fitted] | Fitted | TokenEmbedding | Embedding
"""What can be asked: a prompt, a list of words, phrases and fitted tokens, these alone, or vectors of the space."""

Listed = str | Sequence[str | Fitted] | Fitted
"""What can be segmented: words and phrases, fitted tokens, or both in one list."""

BlockChoice = str | int | Iterable[str | int | Grid] | None
"""Blocks by module path or its beginning, by grid height, or, within a list, by grid (height, width)."""


def choose_blocks(grids: Mapping[str, Grid], choice: BlockChoice) -> tuple[str, ...]:
    """Names of the blocks that `choice` asks for, in the order of `grids`.

    Raises:
        MissingBlockError: an entry fits no block, or there is no entry.
        OptionError: two numbers in a tuple of their own could be a grid or two heights.
    """
    if choice is None:
        return tuple(grids)
    entries = _entries_of(grids, choice)
    fitting = [{name for name, grid in grids.items() if _fits(entry, name, grid)} for entry in entries]
    if not all(fitting) or not entries:
        missing = [entry for entry, names in zip(entries, fitting, strict=True) if not names]
        sizes = ", ".join(f"{h}x{w}" for h, w in sorted(set(grids.values()), reverse=True))
        names = ", ".join(list(grids)[:5])
        raise MissingBlockError(
            f"block {missing[0] if missing else entries!r} fits none of the {len(grids)} blocks here: expected a grid "
            f"({sizes}) or a module path or its beginning ({names}, ...)"
        )
    chosen = set().union(*fitting)
    return tuple(name for name in grids if name in chosen)


def repeatable(choice: BlockChoice) -> BlockChoice:
    """The same choice; an iterator, which could be read once only, as a list."""
    return choice if choice is None or isinstance(choice, str | int | tuple) else list(choice)


def _entries_of(grids: Mapping[str, Grid], choice: str | int | Iterable[str | int | Grid]) -> list[str | int | Grid]:
    """Entries of a choice; two numbers in a tuple of their own are a grid or two heights, whichever is there.

    Raises:
        OptionError: both are there, and are different blocks.
    """
    if isinstance(choice, str | int):
        return [choice]
    entries = list(choice)
    if not isinstance(choice, tuple) or len(entries) != 2 or not all(isinstance(entry, int) for entry in entries):
        return entries
    as_grid = {name for name, grid in grids.items() if grid == choice}
    as_heights = {name for name, grid in grids.items() if grid[0] in entries}
    if not as_grid:
        return entries
    if as_grid != as_heights and {grid[0] for grid in grids.values()}.issuperset(entries):
        raise OptionError(
            f"blocks {choice} are both a grid and two grid heights here, which have different blocks: write "
            f"[{choice}] for the grid, {entries} for the heights"
        )
    return [choice]


def _fits(entry: str | int | Grid, name: str, grid: Grid) -> bool:
    if isinstance(entry, int):
        return grid[0] == entry
    if isinstance(entry, str):
        return name == entry or name.startswith(entry.rstrip(".") + ".")
    return grid == tuple(entry)
