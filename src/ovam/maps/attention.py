"""Compute summed attention weights from the queries of one block and the keys of attribution prompts.

In this module a row stands for one pixel at one step: it holds the queries of all heads at this pixel and step. To save
memory, rows are handled in pieces.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor

from ovam.errors import SpaceMismatchError
from ovam.shapes import Key
from ovam.trace.quantised import Quantised, Stored

_FLOATS = 3 * 2**19  # floats in a piece on the CPU, queries and scores together: 6 MB, which fits in a cache
_FLOATS_ELSEWHERE = 2**25  # the same on other devices, which are faster with few large pieces

Rows = Float[Tensor, "head row head_dim"]
Unnormalised = Float[Tensor, "head token row"]
"""Attention weights that must still be multiplied by a factor."""


def weight_sums(
    query: Stored,
    key: Key,
    *,
    scale: float,
    lengths: Sequence[int],
    keep_head: bool = False,
    keep_step: bool = False,
    image_key: Stored | None = None,
) -> Float[Tensor, "kept_head kept_step token pixel"]:
    """Return the attention weights of every pixel over each prompt's tokens, summed over heads and steps.

    The softmax is computed in float32, whatever the type of the stored queries. Each prompt has a softmax of its own,
    over its tokens. So for every query the weights of each prompt sum to 1; then they are summed over heads and steps.
    Every query is read once; eight-bit queries become floats piece by piece. The result is differentiable in `key`.

    Args:
        query: Queries of one block and one half.
        key: Keys of all prompts, one prompt after the other on the axis `token`.
        scale: Factor on the dot products of queries and keys, before the softmax; `head_dim ** -0.5` in every
            supported backbone.
        lengths: Number of tokens of each prompt. Their sum is the length of the axis `token` of `key`.
        keep_head: Keep the heads apart instead of summing over them.
        keep_step: Keep the steps apart instead of summing over them.
        image_key: Image keys of the same steps, for a softmax over text and image. Then the tokens of each prompt share
            the attention with all pixels, so that the weights of the tokens sum to less than 1.

    Returns:
        Sums in [0, heads * steps], float32; an axis that was summed over has size 1.

    Raises:
        SpaceMismatchError: keys and queries differ in the number of heads or in the head size.

    Source:
        Marcos-Manchon et al., CVPR 2024 (arXiv:2403.14291): attention maps with the keys of the attribution prompt,
        summed over heads and steps.
    """
    heads, steps, _, head_dim = query.shape
    if (key.shape[0], key.shape[2]) != (heads, head_dim):
        raise SpaceMismatchError(
            f"keys have {key.shape[0]} heads of size {key.shape[2]}, but the queries have {heads} heads of "
            f"size {head_dim}: "
            "the keys were made for another block or model; ask the trace's own text side for them"
        )
    scaled = key.float() * scale
    keep = (keep_head, keep_step)
    if image_key is not None:
        return _joint_sums(query, scaled, image_key, scale, keep, lengths)
    if torch.is_grad_enabled() and (key.requires_grad or _needs_gradients(query)):
        return _sums(query, scaled, keep, lambda rows: _softmax(scaled, rows, lengths))
    relative = _relative_to_first(scaled, lengths)
    prompt_of_token = torch.repeat_interleave(torch.tensor(lengths)).to(key.device)
    prompt_has_token = (prompt_of_token == torch.arange(len(lengths), device=key.device)[:, None]).float()
    scratch = torch.empty(relative[..., 0].numel() * _rows_with_scores(relative), device=key.device)
    sums = _sums(
        query, relative, keep, lambda rows: _exponentials(relative, rows, prompt_of_token, prompt_has_token, scratch)
    )
    if _complete(prompt_has_token @ sums, heads * steps // (sums.shape[0] * sums.shape[1])):
        return sums
    return _sums(query, scaled, keep, lambda rows: _softmax(scaled, rows, lengths))


def add_self_weights(
    mean: Float32[Tensor, "pixel pixel"],
    query: Float[Tensor, "head pixel head_dim"],
    key: Float[Tensor, "head pixel head_dim"],
    *,
    scale: float,
    share: float,
) -> None:
    """Add the self-attention of one block in one denoiser call, averaged over heads, to a running mean.

    Only a part of the pixels is handled at a time, so the new weights of all pixels are never in memory together.

    Args:
        mean: The running mean, which is changed in place: weights in [0, 1]. The first axis is the pixel that attends;
            over the second axis the weights sum to 1.
        query: Queries of the block's pixels.
        key: Keys of the same pixels.
        scale: Factor on the dot products of queries and keys, before the softmax.
        share: Share of the new attention weights in the mean, in (0, 1]; with 1 the new weights replace the mean.
    """
    scaled = key.float() * scale
    first = 0
    for rows in query.split(_rows_with_scores(key), dim=1):
        weights = torch.softmax(rows.float() @ scaled.mT, dim=-1).mean(0).to(mean.device)
        part = mean[first : first + len(weights)]
        if share == 1:
            part.copy_(weights)  # `mean` may be memory that is not initialised yet
        else:
            part.lerp_(weights, share)
        first += len(weights)


def _needs_gradients(query: Stored) -> bool:
    return not isinstance(query, Quantised) and query.requires_grad


def _sums(
    query: Stored, key: Key, keep: tuple[bool, bool], weigh: Callable[[Rows], tuple[Unnormalised, Tensor]]
) -> Tensor:
    """Sum the weights over heads and steps, but not over an axis that is kept apart.

    For a piece of rows, `weigh` returns weights that are not normalised yet, and the factor that normalises them.
    """
    heads, steps, pixels, _ = query.shape
    sums = torch.zeros(heads if keep[0] else 1, steps if keep[1] else 1, key.shape[1], pixels, device=query.device)
    added = [axis for axis, kept in enumerate(keep) if not kept]
    for span, part in pieces(steps, pixels, _rows_with_scores(key)):
        count = len(range(steps)[span])
        unnormalised, factor = weigh(query[:, span, part].float().flatten(1, 2))
        weights = unnormalised.mul_(factor).unflatten(-1, (count, -1)).transpose(1, 2)  # (head, step, token, pixel)
        target = sums[:, span if keep[1] else slice(1), :, part]
        target += weights.sum(added, keepdim=True) if added else weights
    return sums


def _joint_sums(
    query: Stored, key: Key, image_key: Stored, scale: float, keep: tuple[bool, bool], lengths: Sequence[int]
) -> Tensor:
    """Sum as `_sums` does, with text and image in one softmax.

    All image pixels together are one score in the softmax: the logsumexp of their scores. The tokens get exactly the
    weights that they would get if each pixel had its own score.
    """
    heads, steps, pixels, _ = query.shape
    sums = torch.zeros(heads if keep[0] else 1, steps if keep[1] else 1, key.shape[1], pixels, device=query.device)
    at_once = _rows_with_scores(image_key[:1, 0])
    for head, step in itertools.product(range(heads), range(steps)):
        image_scaled = image_key[head, step].float() * scale
        for first in range(0, pixels, at_once):
            rows = query[head, step, first : first + at_once].float()
            image = torch.logsumexp(image_scaled @ rows.T, 0, keepdim=True)
            parts = (key[head] @ rows.T).split(list(lengths))
            weights = torch.cat([torch.softmax(torch.cat([part, image]), 0)[:-1] for part in parts])
            target = sums[head if keep[0] else 0, step if keep[1] else 0, :, first : first + at_once]
            target += weights
    return sums


def pieces(steps: int, pixels: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Cut steps and pixels into pieces of at most `rows` rows: a piece is some whole steps, or a part of one step."""
    at_once = max(1, rows // pixels)
    part = -(-pixels // -(-pixels // rows))  # equal parts, rounded up
    for step in range(0, steps, at_once):
        for pixel in range(0, pixels, part):
            yield slice(step, step + at_once), slice(pixel, pixel + part)


def rows_at_once(heads: int, numbers: int, device: torch.device) -> int:
    """Return how many rows fit in a piece, at least one; `numbers` says how many floats a row takes in each head."""
    return max(1, (_FLOATS if device.type == "cpu" else _FLOATS_ELSEWHERE) // (heads * numbers))


def _rows_with_scores(key: Stored) -> int:
    """Return how many rows fit in a piece together with their scores for all keys."""
    heads, tokens, head_dim = key.shape
    return rows_at_once(heads, tokens + head_dim, key.device)


def _relative_to_first(key: Key, lengths: Sequence[int]) -> Key:
    """Subtract the first key of each prompt from all keys of the prompt; this does not change the softmax.

    The first score becomes 0, so the sum of exponentials is at least 1 and can't underflow. A softmax usually searches
    the largest score and subtracts it from all scores; here this is not needed.
    """
    return torch.cat([part - part[:, :1] for part in key.split(list(lengths), dim=1)], dim=1)


def _exponentials(
    key: Key,
    rows: Rows,
    prompt_of_token: Integer[Tensor, " token"],
    prompt_has_token: Float[Tensor, "prompt token"],
    scratch: Tensor,
) -> tuple[Unnormalised, Tensor]:
    """Return the exponentials of the scores, and the factor that normalises them: 1 / (their sum in each prompt).

    This is 2 to 3 times as fast as a softmax. One matrix product handles all heads: one product for each head would be
    slow, because the matrix of one head's keys is small.

    Args:
        key: Keys relative to the first key of each prompt (`_relative_to_first`).
        rows: Queries of a piece.
        prompt_of_token: For each token the number of its prompt.
        prompt_has_token: 1 where a token belongs to a prompt, otherwise 0.
        scratch: Memory for the exponentials. All pieces use the same memory: new memory would cost 10 % more time.
    """
    shape = (*key.shape[:2], rows.shape[1])
    exponentials = torch.bmm(key, rows.mT, out=scratch[: shape[0] * shape[1] * shape[2]].view(shape)).exp_()
    if len(prompt_has_token) == 1:
        return exponentials, exponentials.sum(1, keepdim=True).reciprocal_()
    return exponentials, (prompt_has_token @ exponentials).reciprocal_().index_select(1, prompt_of_token)


def _complete(totals: Tensor, count: int) -> bool:
    """Return whether the weights of every prompt add up to 1 for every query; `count` queries are summed at each pixel.

    If all numbers are finite, the answer is False only if a score is more than about 80 above the first score of its
    prompt: then its exponential overflows, and a total is NaN. Or only the sum of the exponentials overflows: then all
    weights of a query are 0, and a total is too small by 1 for each such query. The tolerance of 0.5 is far above
    rounding errors.
    """
    return bool(((totals - count).abs() < 0.5).all())


def _softmax(key: Key, rows: Rows, lengths: Sequence[int]) -> tuple[Unnormalised, Tensor]:
    """Return the ordinary softmax of each prompt, which works for all scores and for gradients; the factor is 1."""
    parts = (key @ rows.mT).split(list(lengths), dim=1)
    return torch.cat([torch.softmax(part, 1) for part in parts], dim=1), rows.new_ones(1, 1, 1)
