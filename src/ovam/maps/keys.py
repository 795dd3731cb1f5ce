"""Turn embedded words into keys, block by block.

Static keys are the same at all denoiser calls, so they are made once. Replayed keys are made for each call.
"""

from collections.abc import Iterator, Sequence

import torch

from ovam.shapes import Key
from ovam.trace.calls import Call, Half
from ovam.trace.replay import TextKeysAndOutputs
from ovam.trace.text_side import ReplayedSide, TextSide, TokenEmbedding


def key_groups(side: TextSide, calls: Sequence[Call]) -> list[tuple[slice, int]]:
    """Group the calls that share keys; return for each group its kept indices, and a call index for `keys_of`.

    Static keys are the same at every call, so there is one group. Replayed keys need one group per call.
    `ovam.trace.calls` explains kept indices and call indices.
    """
    if side.kind == "static":
        return [(slice(None), calls[0].index)]
    return [(slice(i, i + 1), call.index) for i, call in enumerate(calls)]


def keys_of(
    side: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, Key]]:
    """Yield for each block its name and the keys of all prompts at one call index.

    Along the axis `token`, the keys of one prompt follow those of another, in the given order of the prompts.
    """
    if isinstance(side, ReplayedSide):
        for name, found in keys_and_outputs_of(side, prompts, blocks, call, half):
            keys = [prompt.taken(each.key) for prompt, each in zip(prompts, found, strict=True)]
            yield name, torch.cat(keys, dim=1)
        return
    vectors = torch.cat([prompt.vectors for prompt in prompts])
    for name in blocks:
        yield name, side.keys(vectors, name, call)


def keys_and_outputs_of(
    side: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, list[TextKeysAndOutputs]]]:
    """Yield for each joint-attention block its name, and the keys and outputs of each prompt in this block."""
    assert isinstance(side, ReplayedSide)  # see `check_joint`
    replays = [side.replay.keys_and_outputs(side.stream(prompt.vectors), blocks, call, half) for prompt in prompts]
    for of_block in zip(*replays, strict=True):
        yield of_block[0][0], [found for _, found in of_block]
