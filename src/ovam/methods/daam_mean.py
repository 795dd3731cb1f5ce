"""DAAM's mean: each head's map is enlarged to one grid (bicubic), clamped at 0, and all heads have equal weight."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions
from ovam.shapes import Grid
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace


def daam_mean(
    trace: Trace,
    prompt: TokenEmbedding,
    rows: Sequence[int],
    *,
    blocks: Sequence[str],
    size: Grid,
    head: int | None = None,
) -> Float[Tensor, "token height width"]:
    """Return the mean over the heads of all blocks and over denoiser calls, at least 0.

    Args:
        trace: Trace of one run.
        prompt: An attribution prompt, padded if its attention is to be shared with padding, as in DAAM.
        rows: Positions of the tokens to return.
        blocks: Names of the blocks.
        size: Height and width of the maps.
        head: The head to use; None for all.

    Source:
        castorini/daam at 09564e0, `compute_global_heat_map`, which adds up the denoiser calls instead.
    """
    total = torch.zeros(len(rows), *size)
    own, count = list(rows), 0
    as_they_are = [name for name in blocks if trace.blocks[name].grid == size and head is None]
    if as_they_are:  # nothing to enlarge, so the mean over heads is enough and needs far less memory
        count = sum(trace.blocks[name].heads for name in as_they_are)
        total += count * attention_maps(trace, prompt, MapOptions(blocks=as_they_are)).token_maps[own]
    for name in blocks:
        if name in as_they_are:
            continue
        of_heads = attention_maps(trace, prompt, MapOptions(blocks=[name], keep="head")).token_maps[:, own]
        of_heads = of_heads if head is None else of_heads[head : head + 1]
        total += F.interpolate(of_heads, size, mode="bicubic").clamp(min=0).sum(0)
        count += len(of_heads)
    return total / count
