"""Words and phrases, each an attribution prompt of its own, read in as few runs of the text encoder as can be."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ovam.trace.text_side import Space, TokenEmbedding


@runtime_checkable
class Reads(Protocol):
    """A text side or a text reader: it makes vectors of texts, in its space."""

    @property
    def space(self) -> Space: ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding: ...


@runtime_checkable
class ReadsMany(Protocol):
    """One that reads several phrases in one run of its encoder, whose weights are then fetched once."""

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]: ...


def embed_phrases(text: Reads, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
    """`text.embed(phrase, as_phrase=True)` of each phrase, at once where the text side can."""
    if isinstance(text, ReadsMany):
        return text.embed_phrases(phrases, padded=padded)
    return [text.embed(phrase, as_phrase=True, padded=padded) for phrase in phrases]
