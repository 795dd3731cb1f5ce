"""Words that were added to a tokenizer, as textual inversion does: one name, one or more tokens."""

from typing import Any

Offsets = tuple[int, int]
"""First character of a token and its end; equal for special tokens."""


def added_names(tokenizer: Any) -> tuple[str, ...]:
    """Names that were added and are typed as words, such as `<cat-toy>`; those of further vectors are left out."""
    added = set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens)
    further = {sibling for name in added for sibling in _siblings(name, added)}
    return tuple(sorted(added - further))


def with_all_vectors(tokenizer: Any, plain: str, encoded: Any) -> tuple[list[int], list[Offsets]]:
    """Tokens of a text with a name of several vectors as all of its tokens, which stand where the name does.

    Diffusers loads further vectors as tokens `<name>_1`, `<name>_2`..., and its pipelines put them behind `<name>`
    where it is typed as the tokenizer spells it: CLIP's knows no capitals and finds `<Name>` as well, which stays one
    token.

    Args:
        tokenizer: The tokenizer.
        plain: The text.
        encoded: What the tokenizer made of it, with offsets.
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
