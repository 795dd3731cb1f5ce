"""What the joint-attention families share: running a text through the model again, against what was kept of the image.

Text tokens meet the image only in attention, as its keys and values. With these kept, and the vector that modulates
every block (time step, pooled text, embedded guidance), the text stream alone is run again through the model's own
layers, for any text. The vector is the generation's own: a late word's pooled text never enters it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovam.backbones.joint_text import JointText
from ovam.backbones.joint_watch import by_head, normed
from ovam.backbones.no_text import NoText
from ovam.backbones.offload import device_of
from ovam.backbones.sampled import sampled_hash
from ovam.errors import SpaceMismatchError
from ovam.shapes import Embedding, Key
from ovam.tensor_file import type_name
from ovam.trace.as_read import tokens_read
from ovam.trace.calls import Half
from ovam.trace.quantised import named_tensors
from ovam.trace.replay import ImageStream, Replay, TextRows, TextStream
from ovam.trace.text_side import SavedText, Space, TokenEmbedding

_LARGEST = 65504  # of float16; the models clip their streams there


@dataclass(frozen=True)
class Origin:
    """What a run was made with, as far as its words are concerned.

    Attributes:
        space: Where its text vectors come from.
        dtype: Type of the denoiser's weights.
        weights: Hash of them, see `sampled_hash`.
    """

    space: Space
    dtype: torch.dtype
    weights: str


class ReplayedText:
    """Text side of joint attention: a text's keys come from running its stream through the model again.

    The model's layers are used as they stand, not copied: they are half of the model. Weights that were changed since
    the run are noticed and refused.

    Args:
        words: Reads texts.
        denoiser: The model whose layers the text stream passes.
        start: Makes the text stream of vectors (token, width).
    """

    kind: Literal["replayed"] = "replayed"

    def __init__(
        self,
        words: JointText | NoText,
        denoiser: Any,
        start: Callable[[Embedding], TextStream],
    ) -> None:
        self.words, self.denoiser, self.start = words, denoiser, start
        self.replay = Replay()
        self._encoders, self._weights = words.space, sampled_hash(denoiser)  # as they stand now
        self.origin = Origin(self._encoders, denoiser.dtype, self._weights)

    @property
    def space(self) -> Space:
        """Where the vectors of the run come from."""
        return self.origin.space

    def over(self, replay: Replay, origin: "Origin | None" = None) -> "ReplayedText":
        """The same side against another run or a part of it, or against one made by a copy of the model."""
        other = copy(self)
        other.replay, other.origin = replay, origin or self.origin
        return other

    def in_type(self, dtype: torch.dtype) -> "Origin":
        """What a run by a copy of the model in this type would be made with; float16 gives the hashes of float32."""
        return Origin(self.words.space_in(dtype), dtype, sampled_hash(self.denoiser, dtype))

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `JointText.embed`.

        Raises:
            SpaceMismatchError: the text encoders' weights were changed since the run.
        """
        found = self.words.embed(text, as_phrase=as_phrase, padded=padded)
        if found.space != self._encoders:
            raise SpaceMismatchError(
                f"the text encoders were changed since the run, from {self._encoders} to {found.space}: expected the "
                "weights the run was made with; take adapters and training back, or run the pipeline again"
            )
        return replace(found, space=self.space)

    def stream(self, embedding: Embedding) -> TextStream:
        """Start the text stream of vectors (token, width); differentiable in them.

        Raises:
            SpaceMismatchError: the vectors have another width, or the model was changed since the run.
        """
        if embedding.shape[-1] != self.space.width:
            raise SpaceMismatchError(
                f"vectors of width {embedding.shape[-1]} can't enter the text stream, which takes {self.space.width}: "
                "make them with this trace's own text side, trace.text.embed(...)"
            )
        found = sampled_hash(self.denoiser)
        if found != self._weights:
            raise SpaceMismatchError(
                f"the {type(self.denoiser).__name__} was changed since the run, from {self._weights} to {found}: words "
                "are run again through its own layers, expected as they were; take adapters and training back, or run "
                "the pipeline again"
            )
        return self.start(embedding)

    def saved(self, blocks: Iterable[str], texts: Sequence[str]) -> SavedText:
        """The text side of a trace: what is kept of the image, and by which model it is to be read."""
        read = tokens_read(self.words, texts)
        about = {
            "kind": self.kind,
            "space": asdict(self.space),
            **({"read": read} if any(read) else {}),
            "dtype": type_name(self.origin.dtype),
            "projections": "by reference",
            "projections_hash": self.origin.weights,
            "tokens": self.words.length,
            "replay": list(self.replay.blocks),
        }
        stored = {
            f"replay/{half}/{name}/{part}": values
            for name, replayed in self.replay.blocks.items()
            for part, halves in vars(replayed).items()
            for half, values in halves.items()
        }
        tensors = {name: one for key, values in stored.items() for name, one in named_tensors(key, values).items()}
        return SavedText(about, tensors)

    def keys(self, embedding: Embedding, block: str, call: int, half: Half = "cond") -> Key:
        """Keys of the vectors in one block of one denoiser call, float32; those of all blocks cost no more.

        Raises:
            MissingBlockError, MissingStepError, NothingCapturedError: see `Replay.image`.
            SpaceMismatchError: see `stream`.
        """
        return dict(self.replay.rows(self.stream(embedding), [block], call, half))[block].key


class JointStream:
    """A text on its way through a model's blocks, by the model's own layers; float32 rows come out.

    Args:
        denoiser: The model.
        embedding: What the pipeline would hand it, (token, width).
        advance: Runs one block: from (module, hidden, image) to `Passed`.
    """

    def __init__(
        self,
        denoiser: Any,
        embedding: Embedding,
        advance: "Callable[[Any, Tensor, ImageStream], Passed]",
    ) -> None:
        self.denoiser, self.advance = denoiser, advance
        self.differentiable = torch.is_grad_enabled() and embedding.requires_grad
        with self._grad():
            vectors = embedding.to(device_of(denoiser), denoiser.dtype)[None]
            self.hidden: Tensor | None = denoiser.context_embedder(vectors)

    def enter(self, block: str, image: ImageStream) -> TextRows:
        """Pass the next block."""
        assert self.hidden is not None  # only the last block gives no text on
        owner = self.denoiser.get_submodule(block.removesuffix(".attn"))
        here = ImageStream(*(part.to(self.hidden.device, self.hidden.dtype)[None] for part in vars(image).values()))
        with self._grad():
            key, output, self.hidden = self.advance(owner, self.hidden, here)
        return TextRows(key[0].float(), output[0].float())

    @contextmanager
    def _grad(self) -> Iterator[None]:
        """Gradients only for vectors that ask for them: the model's own weights would ask as well."""
        with torch.set_grad_enabled(self.differentiable):
            yield


Passed = tuple[Tensor, Tensor, Tensor | None]
"""Of a text in one block: keys, attention outputs, both (1, head, token, head_dim), and the hidden state behind it."""


def through_double(owner: Any, hidden: Tensor, image: ImageStream, *, text_first: bool) -> Passed:
    """The text's side of a block with two streams, as `JointTransformerBlock` and `FluxTransformerBlock` run it."""
    attn = owner.attn
    last = bool(getattr(owner, "context_pre_only", False))
    if last:
        rows = owner.norm1_context(hidden, image.conditioning)
    else:
        rows, gate, shift, scale, gate_mlp = owner.norm1_context(hidden, emb=image.conditioning)
    query, key, value = (
        by_head(layer(rows), attn.heads) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    query, key = normed(attn.norm_added_q, query), normed(attn.norm_added_k, key)
    output = attended(query, key, value, image, text_first=text_first)
    if last:
        return key, output, None
    hidden = hidden + gate.unsqueeze(1) * attn.to_add_out(joined(output))
    rows = owner.norm2_context(hidden) * (1 + scale[:, None]) + shift[:, None]
    return key, output, hidden + gate_mlp.unsqueeze(1) * owner.ff_context(rows)


def attended(query: Tensor, key: Tensor, value: Tensor, image: ImageStream, *, text_first: bool) -> Tensor:
    """What the text takes from itself and the image: (batch, head, token, head_dim). Order as the model has it."""
    keys, values = (key, image.key), (value, image.value)
    if not text_first:
        keys, values = keys[::-1], values[::-1]
    return F.scaled_dot_product_attention(query, torch.cat(keys, dim=2), torch.cat(values, dim=2))


def joined(rows: Tensor) -> Tensor:
    """(batch, head, row, head_dim) as (batch, row, head * head_dim)."""
    return rows.transpose(1, 2).flatten(2)


def clipped(hidden: Tensor) -> Tensor:
    """Kept within float16's range, where that is the type, as FLUX does behind every block."""
    return hidden.clip(-_LARGEST, _LARGEST) if hidden.dtype == torch.float16 else hidden
