"""Words that textual inversion adds to a tokenizer: one name, one or more tokens."""

from typing import Any

Offsets = tuple[int, int]
"""Position of a token in its text: first character and end (exclusive); equal for special tokens."""


def added_names(tokenizer: Any) -> tuple[str, ...]:
    """Return the added names that a user types, such as `<cat-toy>`, without the tokens of their further vectors."""
    added = set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens)
    further = {sibling for name in added for sibling in _siblings(name, added)}
    return tuple(sorted(added - further))


def with_all_vectors(tokenizer: Any, plain: str, encoded: Any) -> tuple[list[int], list[Offsets]]:
    """Return the tokens of a text and their positions; an added name becomes all of its tokens, at the same position.

    Diffusers loads further vectors as tokens `<name>_1`, `<name>_2`... Its pipelines insert them after `<name>`, but
    only if the name has the spelling of the tokenizer. CLIP's tokenizer ignores case, so it also finds `<Name>`, which
    stays one token.

    Args:
        tokenizer: The tokenizer.
        plain: The text.
        encoded: The tokenizer's output for the text, with offsets.
    """
    added = tokenizer.get_added_vocab()
    pairs = list[tuple[int, Offsets]]()
    for number, (start, stop), name in zip(encoded.input_ids, encoded.offset_mapping, encoded.tokens(), strict=True):
        typed = name in added and plain[start:stop].strip() == name
        further = [added[sibling] for sibling in _siblings(name, added)] if typed else []
        pairs += [(each, (start, stop)) for each in (number, *further)]
    return [number for number, _ in pairs], [place for _, place in pairs]


def _siblings(name: str, added: Any) -> list[str]:
    found = list[str]()
    while f"{name}_{len(found) + 1}" in added:
        found.append(f"{name}_{len(found) + 1}")
    return found
