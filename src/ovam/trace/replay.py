"""Replay for joint attention: run only the text layers again, with the stored image keys and values.

Joint attention is one attention over the tokens of image and text together (SD3, FLUX). There the keys of a word depend
on the image, block by block. But all that a text token needs from the image is the image's keys and values. If these
are stored, the text stream (the text tokens on their way through the blocks) can be run again without the image stream,
for any words. The image stream stays as it was in the run. Late words, which are words that are asked for after the
run, never change the image stream.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import MissingBlockError, MissingStepError, NothingCapturedError
from ovam.shapes import Key
from ovam.trace.calls import Call, Half, ranges
from ovam.trace.quantised import Stored, floats


@dataclass(frozen=True, eq=False)
class ImageStream:
    """Image keys and values of one joint-attention block at one denoiser call, of one image or a batch.

    Attributes:
        key: Image keys, after normalisation and rotary embedding.
        value: Image values.
        conditioning: Vector from which the block computes its scales, shifts and gates. The model makes this vector
            from the time step, the pooled text embedding (one vector for the whole prompt) and, in FLUX, the guidance.
    """

    key: Float[Tensor, "*batch head pixel head_dim"]
    value: Float[Tensor, "*batch head pixel head_dim"]
    conditioning: Float[Tensor, "*batch channel"]


@dataclass(frozen=True, eq=False)
class TextKeysAndOutputs:
    """Keys and attention outputs of a text's tokens in one joint-attention block, float32.

    Attributes:
        key: Keys of the tokens.
        output: Attention outputs of the tokens, head by head, before the block's output projection. The attention is
            over text and image.
    """

    key: Key
    output: Float[Tensor, "head token head_dim"]


@runtime_checkable
class TextStream(Protocol):
    """The text tokens of one attribution prompt on their way through the denoiser."""

    def enter(self, block: str, image: ImageStream) -> TextKeysAndOutputs:
        """Run all tokens through the next block; blocks must be entered in the order in which the model runs them."""
        ...


@dataclass(frozen=True, eq=False)
class BlockReplay:
    """The stored image data that is needed to run a text's tokens through one joint-attention block again.

    Attributes:
        key: For each half of guidance the image keys, of shape (head, step, pixel, head_dim), after normalisation and
            rotary embedding.
        value: For each half of guidance the image values, of shape (head, step, pixel, head_dim).
        conditioning: For each half of guidance the vectors of `ImageStream.conditioning`, of shape (step, channel),
            float32. The model made them in the run, with the pooled text embedding of the text of this half (for
            "cond", the prompt of the run). The same vectors are used for late words.
    """

    key: Mapping[Half, Stored] = field(repr=False)
    value: Mapping[Half, Stored] = field(repr=False)
    conditioning: Mapping[Half, Float[Tensor, "step channel"]] = field(repr=False)

    def at(self, kept_index: int, half: Half) -> ImageStream:
        """Return the image stream at one kept index (`ovam.trace.calls`)."""
        key, value = (floats(part[half][:, kept_index]) for part in (self.key, self.value))
        return ImageStream(key, value, self.conditioning[half][kept_index])

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for part in (self.key, self.value, self.conditioning) for t in part.values())


@dataclass(frozen=True, eq=False)
class Replay:
    """Image keys and values of all blocks from the model's first block to the last kept block.

    Attributes:
        blocks: Image data by module path, in the order in which the model runs the blocks, without a gap.
        calls: The kept denoiser calls. The replay of a text at one call needs no data of other calls, so a capture may
            keep any subset of the calls.
    """

    blocks: Mapping[str, BlockReplay] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())

    def image(self, block: str, call: int, half: Half) -> ImageStream:
        """Return the image stream in one block at one denoiser call; `call` is a call index (`ovam.trace.calls`).

        Raises:
            MissingBlockError: the block comes after the last kept block.
            MissingStepError: the call was not kept.
            NothingCapturedError: this half of guidance was not kept.
        """
        indices = [kept.index for kept in self.calls]
        if block not in self.blocks:
            raise MissingBlockError(
                f"block {block!r} can't be replayed: the run kept image keys and values of {len(self.blocks)} blocks, "
                f"up to {next(reversed(list(self.blocks)), None)!r}; capture with blocks=[{block!r}], or with a later "
                "block"
            )
        if call not in indices:
            raise MissingStepError(
                f"denoiser call {call} can't be replayed: expected a call from these: {ranges(indices)}; "
                "capture with steps=None to keep every step"
            )
        if half not in self.blocks[block].key:
            raise NothingCapturedError(
                f"the image keys of the half {half!r} were not kept: capture with guidance='both' to have both halves"
            )
        return self.blocks[block].at(indices.index(call), half)

    def select(self, names: Iterable[str], kept_indices: Sequence[int] | None) -> "Replay":
        """Return a `Replay` with only the data that a text needs in these blocks, at these kept indices.

        To reach a block, a text must first run through all earlier blocks. So the image data of all blocks up to the
        last named block stays. If `kept_indices` is None, the data of all calls stays.
        """
        order = list(self.blocks)
        last = max((order.index(name) for name in names if name in order), default=-1)
        kept = {name: self.blocks[name] for name in order[: last + 1]}
        if kept_indices is None:
            return Replay(kept, self.calls)
        index = torch.tensor(kept_indices)
        fewer = {
            name: BlockReplay(
                {half: key[:, index] for half, key in block.key.items()},
                {half: value[:, index] for half, value in block.value.items()},
                {half: vectors[index] for half, vectors in block.conditioning.items()},
            )
            for name, block in kept.items()
        }
        return Replay(fewer, tuple(self.calls[i] for i in kept_indices))

    def keys_and_outputs(
        self, stream: TextStream, blocks: Iterable[str], call: int, half: Half
    ) -> Iterator[tuple[str, TextKeysAndOutputs]]:
        """Run a text through the kept blocks once, at one call index.

        For each block in `blocks`, yield its name and the keys and outputs of the text there, in the order in which the
        model runs the blocks.

        Raises:
            MissingBlockError, MissingStepError, NothingCapturedError: see `image`.
        """
        remaining = set(blocks)
        for name in [*self.blocks, *sorted(remaining - set(self.blocks))]:
            if not remaining:
                return
            found = stream.enter(name, self.image(name, call, half))
            if name in remaining:
                remaining.discard(name)
                yield name, found
