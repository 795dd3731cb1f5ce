"""Words that a tokenizer does not know: it reads all of them as the same token."""

import logging
from collections.abc import Collection, Sequence
from typing import Any

from ovam.prompt import Span

log = logging.getLogger("ovam")
_GAP = "▁"
"""The sign for the blank before a word, which can be a token of its own."""


def meaningless(tokenizer: Any, ids: Sequence[int]) -> tuple[set[int], set[int]]:
    """Positions of the token for whatever is not known, and of blanks; none where every byte is known, as in CLIP."""
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return set(), set()
    gap = tokenizer.convert_tokens_to_ids(_GAP)
    blanks = set() if gap == unknown else {i for i, token in enumerate(ids) if token == gap}
    return {i for i, token in enumerate(ids) if token == unknown}, blanks


def tell_of_unknown(spans: Sequence[Span], unknown: Collection[int], blanks: Collection[int]) -> None:
    """Log a warning that names the words of which nothing but unknown tokens and blanks is there."""
    kinds = [(span.text, {*span.tokens}) for span in spans]
    words = [text for text, tokens in kinds if tokens & {*unknown} and tokens <= {*unknown, *blanks}]
    if words:
        log.warning(
            "the text encoder's tokenizer does not know %s: it reads every such word as the same token, so that their "
            "maps are alike and say nothing of them; ask in a language that the model was trained with",
            ", ".join(map(repr, words)),
        )
