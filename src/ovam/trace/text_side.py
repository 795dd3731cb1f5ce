"""The interface of a text side: the part of a trace that turns text into keys.

A text is first turned into vectors (`TokenEmbedding`). `Space` says which text encoder and layer they come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.prompt import AttributionPrompt
from ovam.shapes import Embedding, Key
from ovam.trace.calls import Half
from ovam.trace.replay import Replay, TextStream


@dataclass(frozen=True)
class Space:
    """Identifies the kind of vectors that keys are made from. Vectors of two different spaces must never be mixed.

    Attributes:
        encoder: Class of the text encoder and a hash of its weights.
        layer: Layer of the encoder whose output is read: `last`; `skip-N`, if CLIP's last N layers are skipped; or
            `hidden-N`, the N-th hidden state from the end.
        width: Number of channels of a vector.
    """

    encoder: str
    layer: str
    width: int

    def __str__(self) -> str:
        return f"{self.encoder}, layer {self.layer}, width {self.width}"

    @property
    def skips(self) -> bool:
        """Whether `clip_skip` skipped layers.

        For `hidden-2` this is False: some families always read this layer, without `clip_skip`.
        """
        kind, _, depth = self.layer.partition("-")
        return bool(depth) and int(depth) > (2 if kind == "hidden" else 0)


@dataclass(frozen=True, eq=False)
class TokenEmbedding:
    """The vectors of an attribution prompt (a text for which maps are made), and the `Space` that they belong to.

    Attributes:
        vectors: What keys are made from: one vector per token.
        prompt: The text and its tokens.
        space: Space of the vectors.
        own: For each token in `prompt.tokens`, the position of its vector in `vectors`; None if `vectors` has one
            vector for each of these tokens, in the same order, and no others. In joint attention (image and text
            tokens in one attention) the model always runs the padded text, so `vectors` include the padding. After the
            model has run, `taken` removes the padding from the keys or outputs. With `padded=True`, the padding belongs
            to `prompt.tokens`: `own` is None, and nothing is removed.
    """

    vectors: Embedding
    prompt: AttributionPrompt
    space: Space
    own: tuple[int, ...] | None = None

    def taken_rows(self) -> Embedding:
        """Remove the padding from the vectors: return one vector for each of the prompt's tokens."""
        return self.vectors if self.own is None else self.vectors[list(self.own)]

    def taken(self, key: Key) -> Float[Tensor, "head own head_dim"]:
        """Remove the padding from the keys of all vectors: return one key for each of the prompt's tokens.

        This works for attention outputs, too.
        """
        return key if self.own is None else key[:, list(self.own)]


TextKind = Literal["static", "replayed"]


@runtime_checkable
class TextSide(Protocol):
    """Turns text into the keys that a trace's queries are compared with.

    Late words are words that are asked for after the run. `kind` says how exact their keys are. `static` keys depend on
    the text alone (UNet, PixArt), so the keys of late words are exact. For `replayed` keys (SD3, FLUX), the text tokens
    run through the blocks again, with the stored image keys and values (`ovam.trace.replay`). For the generation
    prompt, which is the prompt of the run, this gives the keys of the run. For other words, this gives the keys that
    the blocks compute for these words while the image stays as it was in the run.
    """

    @property
    def kind(self) -> TextKind: ...

    @property
    def space(self) -> Space: ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Return the vectors of a text, from which its keys are made.

        With `as_phrase` the whole text is one phrase, which gets one map; otherwise each of its words gets a map. With
        `padded` the text is padded as the pipeline does it.
        """
        ...

    def keys(self, embedding: Embedding, block: str, call: int, half: Half = "cond") -> Key:
        """Return the keys of an embedding in one block at one denoiser call, in float32.

        `call` is a call index (`ovam.trace.calls`). Static text sides ignore `call` and `half`.
        """
        ...


@runtime_checkable
class ReplayedSide(TextSide, Protocol):
    """A text side for joint attention: it runs text tokens through the blocks again, with the stored image data."""

    @property
    def replay(self) -> Replay: ...

    def with_replay(self, replay: Replay) -> "ReplayedSide":
        """Return the same text side with another replay, for example with a replay of fewer blocks."""
        ...

    def stream(self, embedding: Embedding) -> TextStream:
        """Return a new text stream of an embedding, which has not entered any block yet."""
        ...


@runtime_checkable
class TextReader(Protocol):
    """Tokenizers and text encoders of a pipeline: they turn a text into the vectors that the denoiser reads."""

    @property
    def limit(self) -> int:
        """Maximum number of tokens of a text, special tokens included, that the text encoder reads."""
        ...

    @property
    def space(self) -> Space: ...

    def space_in(self, dtype: torch.dtype) -> Space:
        """Return the space that this reader would have if its weights were rounded to `dtype`.

        float32 and float16 give the same space, because the hash is computed from the weights as float16.
        """
        ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Return the vectors of a text, with those of special tokens, of shape (token, width), in float32.

        With `padded`, the text is padded as the pipeline does it.

        Raises:
            EmptyWordsError: the text has no word.
            PromptTooLongError: the text has more tokens than the encoder reads. A text is never cut silently.
        """
        ...

    def check_length(self, text: str) -> None:
        """Check that the encoder reads the whole text.

        Raises:
            PromptTooLongError: the encoder would cut off the end of the text.
        """
        ...


@dataclass(frozen=True)
class SavedText:
    """A text side as stored in a trace file.

    Attributes:
        about: Content of the header's `text`, for JSON; its `kind` selects a reader in `ovam.trace.file.READERS`.
        tensors: Tensors by their name in the file.
    """

    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@runtime_checkable
class SavesItself(TextSide, Protocol):
    """A text side that can be stored in a file."""

    def saved(self, blocks: Iterable[str], texts: Sequence[str]) -> SavedText:
        """Return the text side of a trace as it is stored in a file.

        Args:
            blocks: Names of the trace's blocks.
            texts: Prompt and negative prompt of the run, if known.
        """
        ...


@dataclass(frozen=True)
class TextFile:
    """A trace file from which a text side is read.

    Attributes:
        path: Path of the file, for error messages.
        header: Header of the file.
        tensors: Tensors of the file, by name.
        text_encoder: The model whose text encoder reads late words, as the user gave it: a pipeline, a folder, a model
            name, or None.
    """

    path: Path
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    text_encoder: object

    @property
    def about(self) -> Mapping[str, Any]:
        """The header's `text`, as the text side wrote it."""
        found: Mapping[str, Any] = self.header["text"]
        return found
