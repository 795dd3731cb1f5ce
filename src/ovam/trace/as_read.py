"""A text whose tokens a run has read: the run's own tokens, and where each stands in the text as it was typed.

A pipeline may clean a prompt before it is cut into tokens, exchange names for others, and cut its end off.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from ovam.prompt import AttributionPrompt

Offsets = tuple[int, int]
"""First character of a token in its text, and its end."""
log = logging.getLogger("ovam")
_LONGEST = 4096
"""Most tokens of a prompt in a file: far more than any text encoder reads."""


def own_tokens(tokenizer: Any, read: Sequence[int]) -> list[int]:
    """Of the tokens that an encoder read, those before the padding."""
    pad, end = tokenizer.pad_token_id, len(read)
    while end and read[end - 1] == pad:
        end -= 1
    return [*read[:end], *([pad] if pad == tokenizer.eos_token_id else [])]  # the first of these is the text's end


def places_of(read: Sequence[int], ids: Sequence[int], offsets: Sequence[Offsets]) -> list[Offsets]:
    """Characters of each token that was read, from those of the tokens that the text as typed is cut into.

    Args:
        read: The tokens that were read.
        ids: Those of the text as typed.
        offsets: First character and end of each of these.

    Returns:
        Likewise of those that were read; of some that stand in the place of others the place of all these, and of
        tokens that stand for nothing that was typed no character.
    """
    places = list[Offsets]()
    for kind, start, stop, first, last in SequenceMatcher(None, ids, read, autojunk=False).get_opcodes():
        if kind == "equal":
            places += offsets[start:stop]
        elif kind == "replace":
            places += [(min(begin for begin, _ in offsets[start:stop]), max(end for _, end in offsets[start:stop]))] * (
                last - first
            )
        elif kind == "insert":
            places += [(0, 0)] * (last - first)
    return places


def without_unread(prompt: AttributionPrompt) -> AttributionPrompt:
    """The prompt without the words of which nothing was read, which are told of."""
    unread = [span.text for span in prompt.spans if not span.tokens]
    if not unread:
        return prompt
    log.warning(
        "of the prompt %r the run's text encoder did not read %s, which its pipeline cut off or cleaned away: there "
        "are no maps of it; ask for it by itself, maps([...])",
        prompt.text if len(prompt.text) <= 40 else f"{prompt.text[:40]}...",
        ", ".join(map(repr, unread)),
    )
    return replace(prompt, spans=tuple(span for span in prompt.spans if span.tokens))


def tokens_read(reader: Any, texts: Sequence[str]) -> list[dict[str, list[int]]]:
    """Of each tokenizer of a text reader the tokens that the run read of these texts, without padding.

    Texts of which the tokenizer by itself makes the same are left out.
    """
    found = list[dict[str, list[int]]]()
    for part in _parts(reader):
        own = {text: own_tokens(part.tokenizer, part.read[text]) for text in texts if text in part.read}
        cut = {text: list(part.tokenizer(text, truncation=False, verbose=False).input_ids) for text in own}
        found.append({text: ids for text, ids in own.items() if ids != cut[text]})
    return found


def give_tokens_read(reader: Any, told: Sequence[Mapping[str, Sequence[int]]]) -> None:
    """Let a text reader, which nobody else has, read some texts as a run did, as `tokens_read` tells it.

    Raises:
        ValueError: they are not tokens of its tokenizers.
    """
    parts = _parts(reader)
    if told and len(told) != len(parts):
        raise ValueError(f"{len(told)} tokenizers have read the prompt, the model has {len(parts)}")
    for part, texts in zip(parts, told, strict=False):
        for ids in texts.values():
            count = len(part.tokenizer)
            if not ids or len(ids) > _LONGEST or not all(type(i) is int and 0 <= i < count for i in ids):
                raise ValueError(f"tokens of the prompt are not at most {_LONGEST} whole numbers below {count}")
        part.read = {text: tuple(ids) for text, ids in texts.items()}


def _parts(reader: Any) -> Sequence[Any]:
    """One for each tokenizer; none of a reader that reads no texts, or is of another's making."""
    found = getattr(reader, "parts", None) or getattr(reader, "readers", None) or [reader]
    return [part for part in found if hasattr(part, "read")]
