"""How pixels divide their attention between a background row and class rows, with the gradient: two reads in all.

The attention of two rows is a sigmoid of `query . (key 1 - key 0)`; of more it is a softmax of such differences and 0.
For the gradient only the shares are kept, one number for each query: no copy of the queries, and no graph over them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovam.aggregate import resize
from ovam.attention import pieces
from ovam.maps import key_groups, keys_of
from ovam.prompt import AttributionPrompt
from ovam.quantised import Stored, floats
from ovam.shapes import Embedding, Key
from ovam.trace import Half, TokenEmbedding, Trace

_COPIED = 2**20  # floats at a time: 4 MB, which stay in a cache

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
    difference = (key[:, 1:] - key[:, :1]).to(query.device) * scale
    sums: Tensor = _ShareSums.apply(difference, query)  # type: ignore[no-untyped-call]
    return sums


class _ShareSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, difference: Tensor, query: Stored) -> Tensor:
        heads, steps, pixels, _ = query.shape
        shares = difference.new_empty(heads, difference.shape[1], steps, pixels)
        for span, part, rows in _by_piece(query, difference.dtype):
            piece = shares[:, :, span, part]
            piece.copy_(_against_zero(_scores(difference, rows)).view_as(piece))
        ctx.query = query  # no output of this function, and not always a tensor
        ctx.save_for_backward(shares)
        return shares.sum((0, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        query, (shares,), grad = ctx.query, ctx.saved_tensors, grads[0][:, None]  # (class, 1, pixel)
        found = shares.new_zeros(query.shape[0], shares.shape[1], query.shape[-1])
        for span, part, rows in _by_piece(query, shares.dtype):
            share, slope = shares[:, :, span, part], grad[..., part]
            found += (share * (slope - (share * slope).sum(1, keepdim=True))).flatten(2) @ rows
        return found, None


def _scores(difference: Tensor, rows: Tensor) -> Tensor:
    """Dot products, (head, class, row); one class from the rows' side, which takes two thirds of the time."""
    return (rows @ difference.mT).mT if difference.shape[1] == 1 else difference @ rows.mT


def _by_piece(query: Stored, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor]]:
    """Steps, pixels and their rows (head, step * pixel, head_dim): a view, or small copies where narrow."""
    heads, steps, pixels, head_dim = query.shape
    at_once = steps * pixels if query.dtype == dtype else max(1, _COPIED // (heads * head_dim))
    for span, part in pieces(steps, pixels, at_once):
        yield span, part, floats(query[:, span, part]).to(dtype).flatten(1, 2)


def _against_zero(scores: Tensor) -> Tensor:
    """Softmax over the classes and one score of 0."""
    if scores.shape[1] == 1:
        return scores.sigmoid()
    return torch.cat([scores, torch.zeros_like(scores[:, :1])], 1).softmax(1)[:, :-1]
