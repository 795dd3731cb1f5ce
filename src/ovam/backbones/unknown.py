"""Warn of words that a tokenizer does not know; it reads all of them as the same token."""

import logging
from collections.abc import Collection, Sequence
from typing import Any

from ovam.prompt import Span

log = logging.getLogger("ovam")
_GAP = "▁"
"""The sign for the space before a word, which can be a separate token."""


def meaningless(tokenizer: Any, ids: Sequence[int]) -> tuple[set[int], set[int]]:
    """Return the positions of the unknown token and those of spaces; empty if all bytes are known, as in CLIP."""
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return set(), set()
    gap = tokenizer.convert_tokens_to_ids(_GAP)
    blanks = set() if gap == unknown else {i for i, token in enumerate(ids) if token == gap}
    return {i for i, token in enumerate(ids) if token == unknown}, blanks


def warn_of_unknown(spans: Sequence[Span], unknown: Collection[int], blanks: Collection[int]) -> None:
    """Log a warning that names the words that consist only of unknown tokens and spaces."""
    kinds = [(span.text, {*span.tokens}) for span in spans]
    words = [text for text, tokens in kinds if tokens & {*unknown} and tokens <= {*unknown, *blanks}]
    if words:
        log.warning(
            "the text encoder's tokenizer does not know %s: it reads every such word as the same token, so their maps "
            "are alike and have no meaning; use a language that the model was trained with",
            ", ".join(map(repr, words)),
        )
