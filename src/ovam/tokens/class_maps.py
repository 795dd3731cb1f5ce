"""Attention shares of class rows beside a background row, with a gradient; the queries are read twice in all.

With two rows the attention is a sigmoid of `query . (key 1 - key 0)`; with more rows it is a softmax of such
differences. For the gradient only the shares are kept, one number per query and row. The queries are not copied, and
there is no graph over them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovam.maps.attention import pieces, rows_at_once
from ovam.maps.keys import key_groups, keys_of
from ovam.maps.resize import resize
from ovam.prompt import AttributionPrompt
from ovam.shapes import Embedding, Key
from ovam.trace.calls import Half
from ovam.trace.quantised import Stored, floats
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace

ClassMaps = Float[Tensor, "class grid_height grid_width"]  # `width` is the vectors' axis


def class_maps(trace: Trace, vectors: Embedding, half: Half = "cond") -> ClassMaps:
    """Return the attention maps of all rows except the first, which is the background, as `trace.maps` makes them.

    They are differentiable in the vectors. If keys are replayed, each call is replayed again for the gradient, so only
    one call's image keys are in memory at a time.

    Args:
        trace: Queries of one run.
        vectors: The background's row, then one or more others, in the trace's space.
        half: Half of guidance whose queries are used.

    Returns:
        Maps at the finest grid, in [0, 1]: the mean over all (step, block, head) triples.
    """
    blocks, names = trace.blocks, tuple(trace.blocks)
    prompt = AttributionPrompt("", tuple(f"row {i}" for i in range(len(vectors))), ())

    def of_calls(rows: Embedding, kept_range: slice, call: int) -> tuple[Tensor, ...]:
        keys = keys_of(trace.text, [TokenEmbedding(rows, prompt, trace.text.space)], names, call, half)
        return tuple(share_sums(blocks[name].query[half][:, kept_range], key, blocks[name].scale) for name, key in keys)

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
    """Return the softmax shares of all keys except the first, summed over heads and steps; differentiable in `key`.

    Args:
        query: Queries of one block; they are read once, and once more for the gradient.
        key: Keys of one group's rows. The sums have the type of the keys; float64 allows an exact comparison.
        scale: Factor on the scores.
    """
    difference = (key - key[:, :1]).to(query.device) * scale
    if key.shape[1] == 2:
        difference = difference[:, 1:]
    sums: Tensor = _ShareSums.apply(difference, query)  # type: ignore[no-untyped-call]
    return sums[1 - key.shape[1] :]


class _ShareSums(torch.autograd.Function):
    """Sums of shares: with one row a sigmoid, its share against a score of 0; with several rows a softmax."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, query: Stored) -> Tensor:
        sums, kept = difference.new_zeros(difference.shape[1], query.shape[2]), list[Tensor]()
        for part, count, rows in _by_piece(query, difference):
            shares = _shares(difference, rows)
            sums[:, part] += shares.unflatten(-1, (count, -1)).sum((0, 2))
            kept.append(shares)
        ctx.query = query  # not saved below: it is not always a tensor
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
    """Return shares (head, class, row); for one class `rows @ difference` takes two thirds of the time."""
    if difference.shape[1] == 1:
        return (rows @ difference.mT).mT.sigmoid_()
    return (difference @ rows.mT).softmax(1)


def _slopes_of_scores(shares: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient of the scores from the gradient of the shares."""
    if shares.shape[1] == 1:
        return torch.addcmul(shares, shares, shares, value=-1).mul_(slope)
    slopes = shares * slope
    return slopes.sub_(shares * slopes.sum(1, keepdim=True))


def _by_piece(query: Stored, difference: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield pieces of the queries: pixels, number of steps, and rows (head, step * pixel, head_dim).

    Rows are small copies if the queries have a narrower type, else a view. A view has all rows for one class, which
    reads each row only once. It has some rows for several classes, so that their scores fit in a cache.
    """
    heads, steps, pixels, head_dim = query.shape
    several = difference.shape[1] if difference.shape[1] > 1 else 0
    whole = query.dtype == difference.dtype and not several
    at_once = steps * pixels if whole else rows_at_once(heads, head_dim + several, query.device)
    for span, part in pieces(steps, pixels, at_once):
        rows = floats(query[:, span, part]).to(difference.dtype).flatten(1, 2)
        yield part, len(range(steps)[span]), rows
