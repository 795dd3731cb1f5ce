"""A word's map as OVAM's authors read it: the last token of an attribution prompt that ends with the word."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import OptionError
from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions
from ovam.maps.words import OptimisedTokens
from ovam.prompt import synonyms_of
from ovam.shapes import Map
from ovam.trace.trace import Trace

PHOTOGRAPH = "A photograph of a {}"
"""Attribution prompt of the simpler of the two sets that OVAM's authors evaluate, VOC-sim."""


def last_token_maps(
    trace: Trace, entries: Sequence[str | OptimisedTokens], template: str, options: MapOptions
) -> Float[Tensor, "word grid_height grid_width"]:
    """Return the map of each word and each class of fitted tokens, in order, at the finest grid, in [0, 1].

    Args:
        trace: The run; its middle block is left out.
        entries: Words and fitted tokens. If a word has synonyms, each pixel gets the greatest of their values. Tokens
            are evaluated as they were fitted.
        template: Attribution prompt, with the word at its end.
        options: How maps are made. The softmax runs over the prompt's own tokens.
    """
    trace = without_middle(trace)
    maps = list[Map]()
    for entry in entries:
        if isinstance(entry, str):
            synonyms = [_last_token_map(trace, template.format(word), options) for word in synonyms_of(entry)]
            maps.append(torch.stack(synonyms).amax(0))
        else:
            found = attention_maps(trace, entry, options)
            maps += [found[name] for name in entry.classes]
    return torch.stack(maps)


def _last_token_map(trace: Trace, text: str, options: MapOptions) -> Map:
    found = attention_maps(trace, text, options)
    return found.token_maps[found.spans[-1].tokens[-1]]


def checked_template(template: object) -> str:
    """Check a template: an attribution prompt that ends with a place for the word, "{}".

    Raises:
        OptionError: the value is not such a template.
    """
    if not isinstance(template, str) or template.count("{}") != 1 or not template.endswith("{}"):
        raise OptionError(
            f"template={template!r}: expected a text that ends with the word's place, such as 'a cup of {{}}'"
        )
    return template


def without_middle(trace: Trace) -> Trace:
    """Return the trace without its middle block, if it has others; the published methods leave it out as too coarse."""
    names = [name for name in trace.blocks if not name.startswith("mid_block")]
    return trace.select(blocks=names) if names and len(names) < len(trace.blocks) else trace
