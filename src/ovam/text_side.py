"""From text to keys: what a trace's text side promises, and the vectors and spaces it speaks of."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ovam.calls import Half
from ovam.prompt import AttributionPrompt
from ovam.replay import Replay, TextStream
from ovam.shapes import Embedding, Key


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
