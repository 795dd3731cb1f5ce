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

    One run is faster than several runs, because the encoder's weights are read from memory only once.
    """

    def embed_phrases(self, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]: ...


def embed_phrases(reader: Reads, phrases: Sequence[str], *, padded: bool = False) -> list[TokenEmbedding]:
    """Return `reader.embed(phrase, as_phrase=True)` for each phrase.

    If the reader is a `ReadsMany`, the text encoder runs only once.
    """
    if isinstance(reader, ReadsMany):
        return reader.embed_phrases(phrases, padded=padded)
    return [reader.embed(phrase, as_phrase=True, padded=padded) for phrase in phrases]
