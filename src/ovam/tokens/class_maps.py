"""How pixels divide their attention between a background row and class rows, with the gradient: two reads in all.

The attention of two rows is a sigmoid of `query . (key 1 - key 0)`; of more it is a softmax of such differences. For
the gradient only the shares are kept, a number for each query and row: no copy of the queries, no graph over them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovam.maps.aggregate import resize
from ovam.maps.attention import pieces, rows_at_once
from ovam.maps.compute import key_groups, keys_of
from ovam.prompt import AttributionPrompt
from ovam.shapes import Embedding, Key
from ovam.trace.calls import Half
from ovam.trace.quantised import Stored, floats
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace

ClassMaps = Float[Tensor, "class grid_height grid_width"]  # width is that of vectors


def class_maps(trace: Trace, vectors: Embedding, half: Half = "cond") -> ClassMaps:
    """Attention maps of all rows but the first, the background's, as `trace.maps` gives them.

    Differentiable in the vectors. Where keys are replayed each denoiser call is run again for the gradient, so that
    the image's keys are held of one call at a time.

    Args:
        trace: Queries of one run.
        vectors: The background's row, then one or more others, in the trace's space.
        half: Which half's queries.

    Returns:
        Maps at the finest grid, in [0, 1]: the mean over all (step, block, head) triples.
    """
    blocks, names = trace.blocks, tuple(trace.blocks)
    prompt = AttributionPrompt("", tuple(f"row {i}" for i in range(len(vectors))), ())

    def of_calls(rows: Embedding, entries: slice, call: int) -> tuple[Tensor, ...]:
        keys = keys_of(trace.text, [TokenEmbedding(rows, prompt, trace.text.space)], names, call, half)
        return tuple(share_sums(blocks[name].query[half][:, entries], key, blocks[name].scale) for name, key in keys)

    groups = key_groups(trace.text, trace.calls)
    if len(groups) > 1 and torch.is_grad_enabled() and vectors.requires_grad:
        parts = [checkpoint(of_calls, vectors, *group, use_reentrant=False) for group in groups]
    else:
        parts = [of_calls(vectors, *group) for group in groups]
    finest = max((block.grid for block in blocks.values()), key=lambda grid: grid[0] * grid[1])
    total = torch.zeros(len(vectors) - 1, *finest)
    for block, sums in zip(blocks.values(), zip(*parts, strict=True), strict=True):
        total = total + resize(sum(sums[1:], sums[0]).unflatten(-1, block.grid), finest).cpu()
    return total / (sum(block.heads for block in blocks.values()) * len(trace.calls))


def share_sums(query: Stored, key: Key, scale: float) -> Float[Tensor, "class pixel"]:
    """Softmax shares of all keys but the first, summed over heads and steps; differentiable in the keys.

    Args:
        query: Queries of one block; read once, and once more for the gradient.
        key: Keys of one group's rows; the sums have their type, float64 for an exact comparison.
        scale: Factor on the scores.
    """
    difference = (key - key[:, :1]).to(query.device) * scale
    if key.shape[1] == 2:
        difference = difference[:, 1:]
    sums: Tensor = _ShareSums.apply(difference, query)  # type: ignore[no-untyped-call]
    return sums[1 - key.shape[1] :]


class _ShareSums(torch.autograd.Function):
    """Of one row its share against a score of 0, by a sigmoid; of several the share of each, by a softmax."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, query: Stored) -> Tensor:
        sums, kept = difference.new_zeros(difference.shape[1], query.shape[2]), list[Tensor]()
        for part, count, rows in _by_piece(query, difference):
            shares = _shares(difference, rows)
            sums[:, part] += shares.unflatten(-1, (count, -1)).sum((0, 2))
            kept.append(shares)
        ctx.query = query  # no output of this function, and not always a tensor
        ctx.save_for_backward(difference, *kept)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        difference, *kept = ctx.saved_tensors
        found = torch.zeros_like(difference)
        for shares, (part, count, rows) in zip(kept, _by_piece(ctx.query, difference), strict=True):
            slope = grads[0][:, None, part].expand(-1, count, -1).flatten(1)  # (class, row)
            found += _slopes_of_scores(shares, slope) @ rows
        return found, None


def _shares(difference: Tensor, rows: Tensor) -> Tensor:
    """(head, class, row); one class is multiplied from the rows' side, which takes two thirds of the time."""
    if difference.shape[1] == 1:
        return (rows @ difference.mT).mT.sigmoid_()
    return (difference @ rows.mT).softmax(1)


def _slopes_of_scores(shares: Tensor, slope: Tensor) -> Tensor:
    """What slopes of shares are as slopes of the scores."""
    if shares.shape[1] == 1:
        return torch.addcmul(shares, shares, shares, value=-1).mul_(slope)
    slopes = shares * slope
    return slopes.sub_(shares * slopes.sum(1, keepdim=True))


def _by_piece(query: Stored, difference: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
    """Pixels, a number of steps, and their rows (head, step * pixel, head_dim).

    Rows are small copies where queries are narrow, else a view: of all for one class, which is done with them as soon
    as they are read, of some for several, whose scores then stay in a cache.
    """
    heads, steps, pixels, head_dim = query.shape
    several = difference.shape[1] if difference.shape[1] > 1 else 0
    whole = query.dtype == difference.dtype and not several
    at_once = steps * pixels if whole else rows_at_once(heads, head_dim + several, query.device)
    for span, part in pieces(steps, pixels, at_once):
        rows = floats(query[:, span, part]).to(difference.dtype).flatten(1, 2)
        yield part, len(range(steps)[span]), rows
