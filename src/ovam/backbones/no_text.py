"""A stand-in for the text reader of pipelines without text encoders, which can be queried only with vectors."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ovam.errors import NoTextEncoderError
from ovam.trace.text_side import Space, TokenEmbedding

ReaderT = TypeVar("ReaderT")


class NoText:
    """A text reader that raises an error for every text.

    Args:
        reason: The error message.
        width: Channels of a vector.
        length: Length of the text sequence, in joint attention.
    """

    limit = 0

    def __init__(self, reason: str, width: int, length: int = 0) -> None:
        self.reason, self.width, self.length = reason, width, length

    @property
    def space(self) -> Space:
        return Space("unknown", "last", self.width)

    def space_in(self, dtype: torch.dtype) -> Space:
        return self.space

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        raise NoTextEncoderError(self.reason)

    def check_length(self, text: str) -> None:
        raise NoTextEncoderError(self.reason)


def reader_or_none(reader: Callable[[], ReaderT], width: Any, length: int | None = None) -> ReaderT | NoText:
    """Return the pipeline's text reader, or a `NoText` if the pipeline lacks text encoders."""
    try:
        return reader()
    except NoTextEncoderError as error:
        return NoText(str(error), int(width), length or 0)
