"""Merge the maps of synonyms: "dog|puppy" in a list is one word with one map."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ovam.maps.result import AttentionMaps
from ovam.prompt import BAR, Span


def merged(maps: AttentionMaps, names: Sequence[tuple[str, ...]], *, summed: bool) -> AttentionMaps:
    """Return the maps with one map per word, for all synonyms of the word together.

    Args:
        maps: Maps whose spans are the synonyms of all words, in the order of `names` (`ovam.maps.words`).
        names: For each word all its names; the names of one word are synonyms. Most words have only one name.
        summed: Whether the maps of the synonyms are added. This is right for the strategy "output", in which the values
            of all words at a pixel sum to 1. If False, each pixel gets the largest value among the synonyms.
    """
    if all(len(synonyms) == 1 for synonyms in names):
        return maps
    token_maps, tokens, spans = [*maps.token_maps.unbind(-3)], [*maps.tokens], list[Span]()
    position = 0  # in the spans, which have the same order as the names
    for synonyms in names:
        given = maps.spans[position : position + len(synonyms)]
        position += len(synonyms)
        if len(synonyms) == 1:
            spans += given
            continue
        each = torch.stack([maps.token_maps[..., list(span.tokens), :, :].sum(-3) for span in given])
        spans.append(Span(BAR.join(synonyms), (len(token_maps),)))
        token_maps.append(each.sum(0) if summed else each.amax(0))
        tokens.append(BAR.join(synonyms))
    return replace(maps, token_maps=torch.stack(token_maps, dim=-3), tokens=tuple(tokens), spans=tuple(spans))
