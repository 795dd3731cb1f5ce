"""Vectors of words and fitted tokens, as trained modules read them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.maps.words import OptimisedTokens, embed_words
from ovam.prompt import parse, synonyms_of
from ovam.shapes import Embedding
from ovam.trace.text_side import TextSide, TokenEmbedding

Vector = Float[Tensor, " width"]


@dataclass(frozen=True, eq=False)
class Named:
    """A word, one of the synonyms of a word, or a class of fitted tokens.

    Attributes:
        name: The word or class as it was asked; synonyms share it.
        text: What to write into a prompt.
        token: Vector of a fitted token, None for a word.
    """

    name: str
    text: str
    token: Vector | None = None


def named(text: TextSide, entries: Sequence[str | OptimisedTokens]) -> list[Named]:
    """Return the words with their synonyms, and the classes of fitted tokens, in order.

    A class with several rows gets their mean.

    Raises:
        SpaceMismatchError: tokens belong to another text encoder.
    """
    found = list[Named]()
    for entry in entries:
        if isinstance(entry, str):
            found += [Named(entry, word) for word in synonyms_of(entry)]
        else:
            found += [
                Named(span.text, span.text, group.vectors[list(span.tokens)].mean(0))
                for group in embed_words(text, entry)
                for span in group.prompt.spans
            ]
    return found


def word_rows(text: TextSide, template: str, word: str, *, padded: bool = False) -> tuple[TokenEmbedding, list[int]]:
    """Return the vectors of a prompt that ends with a word, and the positions of the word's tokens in it."""
    embedded = text.embed(template.format(word), padded=padded)
    before = template.removesuffix("{}")
    own = embedded.prompt.spans[len(parse(before)[1]) if before.strip() else 0 :]
    return embedded, list(range(own[0].tokens[0], own[-1].tokens[-1] + 1))


def word_vector(text: TextSide, template: str, word: str) -> Vector:
    """Return the mean of a word's rows in a prompt that ends with it."""
    embedded, rows = word_rows(text, template, word)
    return embedded.vectors[rows].float().mean(0)


def padded_mean(text: TextSide, word: str) -> Vector:
    """Return the mean of a word's vectors over all positions of the padded text, as in DatasetDM."""
    return text.embed(word, as_phrase=True, padded=True).vectors.float().mean(0)


def with_token(embedded: TokenEmbedding, rows: list[int], token: Vector) -> TokenEmbedding:
    """Return a prompt's vectors with the word's rows replaced by a fitted token."""
    vectors: Embedding = embedded.vectors.clone()
    vectors[rows] = token.to(vectors)
    return replace(embedded, vectors=vectors)


def greatest(parts: Sequence[Named], scores: Float[Tensor, "part height width"]) -> Float[Tensor, "word height width"]:
    """Return for each word the greatest score of its synonyms."""
    names = list(dict.fromkeys(one.name for one in parts))
    return torch.stack([scores[[i for i, one in enumerate(parts) if one.name == name]].amax(0) for name in names])
