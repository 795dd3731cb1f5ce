"""From text to keys: what a trace's text side promises, and the vectors and spaces it speaks of."""

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


@runtime_checkable
class TextReader(Protocol):
    """Tokenizers and text encoders of a pipeline: from a text to the vectors that its denoiser reads."""

    @property
    def limit(self) -> int:
        """Most tokens of a text that are read, special ones included."""
        ...

    @property
    def space(self) -> Space: ...

    def space_in(self, dtype: torch.dtype) -> Space:
        """The space of a copy whose weights are rounded to `dtype`; float32 and float16 give the same."""
        ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        """Vectors (token, width) of a text, float32, special tokens included; `padded` as the pipeline itself pads.

        Raises:
            EmptyWordsError: the text has no word.
            PromptTooLongError: it has more tokens than are read; nothing is cut silently.
        """
        ...

    def check_length(self, text: str) -> None:
        """Whether the whole text is read.

        Raises:
            PromptTooLongError: it is not.
        """
        ...


@dataclass(frozen=True)
class SavedText:
    """A text side as a trace's file has it.

    Attributes:
        about: What the header's `text` holds, JSON; `kind` names who reads it (`ovam.trace.file.READERS`).
        tensors: By name in the file.
    """

    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@runtime_checkable
class SavesItself(TextSide, Protocol):
    """A text side that a file can hold."""

    def saved(self, blocks: Iterable[str], texts: Sequence[str]) -> SavedText:
        """The text side of a trace.

        Args:
            blocks: Of the trace.
            texts: The run's own prompts.
        """
        ...


@dataclass(frozen=True)
class TextFile:
    """What a text side is read from.

    Attributes:
        path: Of the trace's file, for errors.
        header: Of the file.
        tensors: Of the file.
        text: What the user gave to read late words with: a pipeline, a folder, a model's name, or None.
    """

    path: Path
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    text: object

    @property
    def about(self) -> Mapping[str, Any]:
        """What the text side wrote of itself."""
        found: Mapping[str, Any] = self.header["text"]
        return found
