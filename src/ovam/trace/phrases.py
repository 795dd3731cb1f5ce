"""Embed words and phrases, each as its own attribution prompt, in as few runs of the text encoder as possible."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ovam.trace.text_side import Space, TokenEmbedding


@runtime_checkable
class Reads(Protocol):
    """Turns texts into vectors of a `Space`.

    This is a `TextReader` (tokenizer and text encoder), or a `TextSide`, which also makes keys of the vectors.
    """

    @property
    def space(self) -> Space: ...

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding: ...


@runtime_checkable
class ReadsMany(Protocol):
    """Can turn several phrases into vectors in one run of the text encoder.

    This is faster, because the encoder's weights are read from memory only once.
    """

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]: ...


def embed_phrases(text: Reads, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
    """Return `text.embed(phrase, as_phrase=True)` for each phrase, in one run of the encoder if `text` can do that."""
    if isinstance(text, ReadsMany):
        return text.embed_phrases(phrases, padded=padded)
    return [text.embed(phrase, as_phrase=True, padded=padded) for phrase in phrases]
