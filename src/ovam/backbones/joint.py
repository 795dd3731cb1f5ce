"""Replay for families with joint attention: run a text through the model again, with the stored image keys and values.

In joint attention, text and image tokens share one attention, and a text token needs only the keys and values of the
image. A trace stores the image keys and values. It also stores the vector from which each block computes its scales,
shifts and gates (made from the time step, the pooled text embedding and the guidance). With these tensors, any text can
run through the model's own text layers again. The vector is that of the run: it never
contains the pooled embedding of the new text.
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
from ovam.trace.replay import ImageStream, Replay, TextKeysAndOutputs, TextStream
from ovam.trace.text_side import SavedText, Space, TokenEmbedding

_LARGEST = 65504  # largest float16; the models clip their streams there


@dataclass(frozen=True)
class Origin:
    """Text encoders and denoiser that a run was made with.

    Attributes:
        space: Space of the text vectors.
        dtype: Type of the denoiser's weights.
        weights: Hash of the denoiser's weights, see `sampled_hash`.
    """

    space: Space
    dtype: torch.dtype
    weights: str


class ReplayedText:
    """Text side of joint attention: keys of a text come from running it through the model's text layers again.

    It uses the model's own layers, not copies, since they are half of the model. If weights have changed since the run,
    it raises an error.

    Args:
        words: Text reader.
        denoiser: The model whose layers are used.
        start: Starts a text stream from vectors (token, width).
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
        self._encoders, self._weights = words.space, sampled_hash(denoiser)  # the current weights
        self.origin = Origin(self._encoders, denoiser.dtype, self._weights)

    @property
    def space(self) -> Space:
        """Space of the run's text vectors."""
        return self.origin.space

    def with_replay(self, replay: Replay, origin: "Origin | None" = None) -> "ReplayedText":
        """Return this text side for another replay: another run, a part of it, or a run of a copy of the model."""
        other = copy(self)
        other.replay, other.origin = replay, origin or self.origin
        return other

    def in_type(self, dtype: torch.dtype) -> "Origin":
        """Return the origin of a run with the model in this type; float16 gives the hashes of float32."""
        return Origin(self.words.space_in(dtype), dtype, sampled_hash(self.denoiser, dtype))

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """See `JointText.embed`.

        Raises:
            SpaceMismatchError: the text encoders' weights have changed since the run.
        """
        found = self.words.embed(text, as_phrase=as_phrase, padded=padded)
        if found.space != self._encoders:
            raise SpaceMismatchError(
                f"the text encoders were changed since the run, from {self._encoders} to {found.space}: expected the "
                "weights the run was made with; undo training, remove adapters, or run the pipeline again"
            )
        return replace(found, space=self.space)

    def stream(self, embedding: Embedding) -> TextStream:
        """Start a text stream from vectors (token, width); differentiable with respect to them.

        Raises:
            SpaceMismatchError: the vectors have another width, or the model has changed since the run.
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
                "run through its own layers, so expected the weights of the run; undo training, remove adapters, or "
                "run the pipeline again"
            )
        return self.start(embedding)

    def saved(self, blocks: Iterable[str], texts: Sequence[str]) -> SavedText:
        """Return header and tensors for a trace file: the stored image keys and values, and the hashes of the model."""
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
        """Return keys of the vectors in one block and one denoiser call, in float32.

        Raises:
            MissingBlockError, MissingStepError, NothingCapturedError: see `Replay.image`.
            SpaceMismatchError: see `stream`.
        """
        return dict(self.replay.keys_and_outputs(self.stream(embedding), [block], call, half))[block].key


class JointStream:
    """A text on its way through a model's blocks, in the model's own layers; its results are float32.

    Args:
        denoiser: The model.
        embedding: Text vectors as the pipeline would pass them, (token, width).
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

    def enter(self, block: str, image: ImageStream) -> TextKeysAndOutputs:
        """Run the next block."""
        assert self.hidden is not None  # only the last block returns no text
        owner = self.denoiser.get_submodule(block.removesuffix(".attn"))
        here = ImageStream(*(part.to(self.hidden.device, self.hidden.dtype)[None] for part in vars(image).values()))
        with self._grad():
            key, output, self.hidden = self.advance(owner, self.hidden, here)
        return TextKeysAndOutputs(key[0].float(), output[0].float())

    @contextmanager
    def _grad(self) -> Iterator[None]:
        """Enable gradients only if the vectors require them; the model's weights may require them too."""
        with torch.set_grad_enabled(self.differentiable):
            yield


Passed = tuple[Tensor, Tensor, Tensor | None]
"""A text's keys and attention outputs in one block, both (1, head, token, head_dim), and the hidden state after it."""


def through_double(owner: Any, hidden: Tensor, image: ImageStream, *, text_first: bool) -> Passed:
    """Run the text's half of a block with two streams, as `JointTransformerBlock` and `FluxTransformerBlock` do."""
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
    """Return the text's attention output over text and image, (batch, head, token, head_dim).

    `text_first` is the model's own order of keys.
    """
    keys, values = (key, image.key), (value, image.value)
    if not text_first:
        keys, values = keys[::-1], values[::-1]
    return F.scaled_dot_product_attention(query, torch.cat(keys, dim=2), torch.cat(values, dim=2))


def joined(rows: Tensor) -> Tensor:
    """Reshape (batch, head, row, head_dim) to (batch, row, head * head_dim)."""
    return rows.transpose(1, 2).flatten(2)


def clipped(hidden: Tensor) -> Tensor:
    """Clip float16 values to the type's range, as FLUX does after every block."""
    return hidden.clip(-_LARGEST, _LARGEST) if hidden.dtype == torch.float16 else hidden
