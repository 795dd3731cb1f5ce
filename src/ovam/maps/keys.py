"""Turn embedded words into keys, block by block.

Static keys are the same at all denoiser calls, so they are made once. Replayed keys are made for each call.
"""

from collections.abc import Iterator, Sequence

import torch

from ovam.shapes import Key
from ovam.trace.calls import Call, Half
from ovam.trace.replay import TextRows
from ovam.trace.text_side import ReplayedSide, TextSide, TokenEmbedding


def key_groups(text: TextSide, calls: Sequence[Call]) -> list[tuple[slice, int]]:
    """Group the entries that share keys; return for each group its entries and a call index for `keys_of`.

    Static keys are the same at every call, so there is one group. Replayed keys need one group per call.
    `ovam.trace.calls` explains entries and call indices.
    """
    if text.kind == "static":
        return [(slice(None), calls[0].index)]
    return [(slice(i, i + 1), call.index) for i, call in enumerate(calls)]


def keys_of(
    text: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, Key]]:
    """Yield for each block its name and the keys of all prompts at one call index.

    Along `token` the prompts follow each other in the given order.
    """
    if isinstance(text, ReplayedSide):
        for name, rows in rows_of(text, prompts, blocks, call, half):
            keys = [prompt.taken(each.key) for prompt, each in zip(prompts, rows, strict=True)]
            yield name, torch.cat(keys, dim=1)
        return
    vectors = torch.cat([prompt.vectors for prompt in prompts])
    for name in blocks:
        yield name, text.keys(vectors, name, call)


def rows_of(
    text: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, list[TextRows]]]:
    """Yield for each joint-attention block its name and, per prompt, the keys and outputs of the text in it."""
    assert isinstance(text, ReplayedSide)  # see `check_joint`
    streams = [text.replay.rows(text.stream(prompt.vectors), blocks, call, half) for prompt in prompts]
    for found in zip(*streams, strict=True):
        yield found[0][0], [rows for _, rows in found]
