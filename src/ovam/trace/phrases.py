"""Embed words and phrases, each as its own attribution prompt, in as few runs of the text encoder as possible."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ovam.trace.text_side import Space, TokenEmbedding


@runtime_checkable
class Reads(Protocol):
    """A text side or a text reader: it turns texts into vectors of its space."""

    @property
    def space(self) -> Space: ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding: ...


@runtime_checkable
class ReadsMany(Protocol):
    """A text side or reader that reads several phrases in one run of its encoder, which reads the weights only once."""

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]: ...


def embed_phrases(text: Reads, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
    """Return `text.embed(phrase, as_phrase=True)` for each phrase, in one run of the encoder if `text` can do that."""
    if isinstance(text, ReadsMany):
        return text.embed_phrases(phrases, padded=padded)
    return [text.embed(phrase, as_phrase=True, padded=padded) for phrase in phrases]
