"""Turn embedded words into keys, block by block: static ones for all steps at once, replayed ones call by call."""

from collections.abc import Iterator, Sequence

import torch

from ovam.shapes import Key
from ovam.trace.calls import Call, Half
from ovam.trace.replay import TextRows
from ovam.trace.text_side import ReplayedSide, TextSide, TokenEmbedding


def key_groups(text: TextSide, calls: Sequence[Call]) -> list[tuple[slice, int]]:
    """Group the step entries that share keys, each group with a call index; replayed keys need one group per call."""
    if text.kind == "static":
        return [(slice(None), calls[0].index)]
    return [(slice(i, i + 1), call.index) for i, call in enumerate(calls)]


def keys_of(
    text: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, Key]]:
    """Yield each block's keys of all prompts, one prompt after the other along `token`."""
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
    """Yield each block of joint attention with every prompt's rows in it."""
    assert isinstance(text, ReplayedSide)  # see `check_joint`
    streams = [text.replay.rows(text.stream(prompt.vectors), blocks, call, half) for prompt in prompts]
    for found in zip(*streams, strict=True):
        yield found[0][0], [rows for _, rows in found]
