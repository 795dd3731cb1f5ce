"""Merge the maps of synonyms: "dog|puppy" in a list is one word with one map, so synonyms don't compete for pixels."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ovam.maps.result import AttentionMaps
from ovam.prompt import BAR, Span


def merged(maps: AttentionMaps, names: Sequence[tuple[str, ...]], *, summed: bool) -> AttentionMaps:
    """Return the maps with one map for all synonyms of a word.

    Args:
        maps: Its spans are the synonyms of all words, in order.
        names: Synonyms of each word; one name alone for most.
        summed: Whether synonyms share each pixel, so that their maps add up. If not, they had attribution prompts of
            their own, and each pixel takes the greatest of their values.
    """
    if all(len(own) == 1 for own in names):
        return maps
    token_maps, tokens, spans = [*maps.token_maps.unbind(-3)], [*maps.tokens], list[Span]()
    before = 0
    for own in names:
        given = maps.spans[before : before + len(own)]
        before += len(own)
        if len(own) == 1:
            spans += given
            continue
        each = torch.stack([maps.token_maps[..., list(span.tokens), :, :].sum(-3) for span in given])
        spans.append(Span(BAR.join(own), (len(token_maps),)))
        token_maps.append(each.sum(0) if summed else each.amax(0))
        tokens.append(BAR.join(own))
    return replace(maps, token_maps=torch.stack(token_maps, dim=-3), tokens=tuple(tokens), spans=tuple(spans))
