"""The tokens that a run's text encoder really read, and their positions in the text as typed.

The tokens that were read can differ from those of the text as typed: a pipeline may clean a prompt, replace the name of
a textual inversion by several tokens, or cut off the end of the prompt.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from ovam.prompt import AttributionPrompt

Offsets = tuple[int, int]
"""Position of a token in its text: the index of its first character, and the index after its last character."""
log = logging.getLogger("ovam")
_LONGEST = 4096
"""Maximum number of tokens of a prompt in a file; far more than any text encoder reads."""


def without_padding(tokenizer: Any, read: Sequence[int]) -> list[int]:
    """Return the tokens that an encoder read, without the padding."""
    pad, end = tokenizer.pad_token_id, len(read)
    while end and read[end - 1] == pad:
        end -= 1
    # Some tokenizers use the end token as padding. Then the list closes with several equal tokens: the first of them is
    # the end token of the text, and the others are padding.
    return [*read[:end], *([pad] if pad == tokenizer.eos_token_id else [])]


def positions_as_typed(read: Sequence[int], ids: Sequence[int], offsets: Sequence[Offsets]) -> list[Offsets]:
    """Return the position, in the text as typed, of each token that was read.

    Args:
        read: The tokens that were read.
        ids: The tokens of the text as typed.
        offsets: The position of each token in `ids`.

    Returns:
        One position for each token in `read`. A token that replaces other tokens gets the range of all of them. An
        added token gets the empty range (0, 0).
    """
    positions = list[Offsets]()
    for kind, start, stop, first, last in SequenceMatcher(None, ids, read, autojunk=False).get_opcodes():
        if kind == "equal":
            positions += offsets[start:stop]
        elif kind == "replace":
            begin, end = min(begin for begin, _ in offsets[start:stop]), max(end for _, end in offsets[start:stop])
            positions += [(begin, end)] * (last - first)
        elif kind == "insert":
            positions += [(0, 0)] * (last - first)
    return positions


def only_words_read(prompt: AttributionPrompt) -> AttributionPrompt:
    """Return the prompt with only the words that the text encoder read. A warning names the other words."""
    unread = [span.text for span in prompt.spans if not span.tokens]
    if not unread:
        return prompt
    log.warning(
        "prompt %r: the run's text encoder did not read %s. The pipeline cut these words off or removed them, so they "
        "have no maps here. Ask for them in a list, maps([...])",
        prompt.text if len(prompt.text) <= 40 else f"{prompt.text[:40]}...",
        ", ".join(map(repr, unread)),
    )
    return replace(prompt, spans=tuple(span for span in prompt.spans if span.tokens))


def tokens_read(reader: Any, texts: Sequence[str]) -> list[dict[str, list[int]]]:
    """Return the tokens that the run read, without padding: one dictionary per tokenizer, from text to token numbers.

    A text is left out if the tokenizer itself, called without the pipeline, gives the tokens that the run read.
    """
    found = list[dict[str, list[int]]]()
    for part in _tokenizer_parts(reader):
        read_by_run = {text: without_padding(part.tokenizer, part.read[text]) for text in texts if text in part.read}
        without_pipeline = {
            text: list(part.tokenizer(text, truncation=False, verbose=False).input_ids) for text in read_by_run
        }
        found.append({text: ids for text, ids in read_by_run.items() if ids != without_pipeline[text]})
    return found


def set_tokens_read(reader: Any, recorded: Sequence[Mapping[str, Sequence[int]]]) -> None:
    """Give a text reader the tokens that a run read for some texts; `recorded` is what `tokens_read` returned.

    This changes the reader itself, so give a reader that no other object uses.

    Raises:
        ValueError: `recorded` does not fit the reader's tokenizers.
    """
    parts = _tokenizer_parts(reader)
    if recorded and len(recorded) != len(parts):
        raise ValueError(f"the file has tokens of {len(recorded)} tokenizers, but the model has {len(parts)}")
    for part, texts in zip(parts, recorded, strict=False):
        for ids in texts.values():
            count = len(part.tokenizer)
            if not ids or len(ids) > _LONGEST or not all(type(i) is int and 0 <= i < count for i in ids):
                raise ValueError(f"the prompt's tokens: expected 1 to {_LONGEST} whole numbers below {count}")
        part.read = {text: tuple(ids) for text, ids in texts.items()}


def _tokenizer_parts(reader: Any) -> Sequence[Any]:
    """Return the parts of the reader, one per tokenizer; a reader that is not ovam's own may have no parts."""
    found = getattr(reader, "parts", None) or getattr(reader, "readers", None) or [reader]
    return [part for part in found if hasattr(part, "read")]
