"""The numeric heart: from one block's queries and an attribution prompt's keys to summed attention weights."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import SpaceMismatchError
from ovam.shapes import Key, Query

_FLOATS = 2**19  # queries and scores handled at a time: 2 MB, which stay in a core's second-level cache
_FLOATS_ELSEWHERE = 2**25  # other devices want few large pieces

Rows = Float[Tensor, "head row head_dim"]
Weights = Float[Tensor, "head token row"]


def weight_sums(
    query: Query,
    key: Key,
    *,
    scale: float,
    lengths: Sequence[int],
    keep_head: bool = False,
    keep_step: bool = False,
) -> Float[Tensor, "kept_head kept_step token pixel"]:
    """Attention weights of every pixel over each attribution prompt's tokens, summed over heads and steps.

    The softmax runs in float32 whatever the storage dtype, over the tokens of one prompt at a time, so that
    the weights of each prompt sum to 1 at every pixel before they are added up. Every query is read once.
    Differentiable in `key`.

    Args:
        query: Queries of one block and one half.
        key: Keys of all prompts, one after the other along `token`.
        scale: Factor on the scores, `head_dim ** -0.5` in every supported backbone.
        lengths: Number of tokens of each prompt; they add up to the keys' `token`.
        keep_head: Leave the heads apart instead of summing over them.
        keep_step: Leave the steps apart instead of summing over them.

    Returns:
        Sums in [0, heads * steps], float32; an axis that was summed over has size 1.

    Raises:
        SpaceMismatchError: the keys have other heads or another head size than the queries.

    Source:
        Marcos-Manchon et al., CVPR 2024 (arXiv:2403.14291), the sums over heads and steps of its
        attention maps with the keys of the attribution prompt.
    """
    heads, steps, _, head_dim = query.shape
    if (key.shape[0], key.shape[2]) != (heads, head_dim):
        raise SpaceMismatchError(
            f"keys have {key.shape[0]} heads of size {key.shape[2]}, the queries {heads} of size {head_dim}: "
            "the keys were made for another block or model; ask the trace's own text side for them"
        )
    scaled = key.float() * scale
    keep = (keep_head, keep_step)
    if torch.is_grad_enabled() and (key.requires_grad or query.requires_grad):
        return _sums(query, scaled, keep, lambda rows: _softmax(scaled, rows, lengths))
    relative = _relative(scaled, lengths)
    owner = torch.repeat_interleave(torch.tensor(lengths)).to(key.device)
    members = (owner == torch.arange(len(lengths), device=key.device)[:, None]).float()
    sums = _sums(query, scaled, keep, lambda rows: _exponentials(relative, rows, owner, members))
    if _complete(members @ sums, heads * steps // (sums.shape[0] * sums.shape[1])):
        return sums
    return _sums(query, scaled, keep, lambda rows: _softmax(scaled, rows, lengths))


def _sums(query: Query, key: Key, keep: tuple[bool, bool], weigh: Callable[[Rows], Weights]) -> Tensor:
    """Add up the weights over heads and steps, or over those of the two that are not kept apart."""
    heads, steps, pixels, _ = query.shape
    sums = torch.zeros(heads if keep[0] else 1, steps if keep[1] else 1, key.shape[1], pixels, device=query.device)
    added = [axis for axis, kept in ((0, keep[0]), (2, keep[1])) if not kept]
    for span, part in _pieces(query.shape, key.shape[1], query.device):
        rows = query[:, span, part].flatten(1, 2).float()
        weights = weigh(rows).unflatten(2, (len(range(steps)[span]), -1))
        total = weights.sum(added, keepdim=True) if added else weights
        sums[:, span if keep[1] else slice(None), :, part] += total.transpose(1, 2)
    return sums


def _pieces(shape: Sequence[int], tokens: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut (head, step, pixel, head_dim) into pieces that fit the cache: some whole steps, or a part of one."""
    heads, steps, pixels, head_dim = shape
    floats = _FLOATS if device.type == "cpu" else _FLOATS_ELSEWHERE
    rows = max(1, floats // (heads * (tokens + head_dim)))
    at_once = max(1, rows // pixels)
    part = -(-pixels // -(-pixels // rows))  # equal parts, rounded up
    for step in range(0, steps, at_once):
        for pixel in range(0, pixels, part):
            yield slice(step, step + at_once), slice(pixel, pixel + part)


def _relative(key: Key, lengths: Sequence[int]) -> Key:
    """Each prompt's keys less its first key, which changes no softmax.

    The first score becomes 0 and the sum of exponentials at least 1, so that the usual search for the
    greatest score is not needed against underflow.
    """
    return torch.cat([part - part[:, :1] for part in key.split(list(lengths), dim=1)], dim=1)


def _exponentials(key: Key, rows: Rows, owner: Tensor, members: Tensor) -> Weights:
    """Weights by exponentials of relative scores, in place: two to three times as fast as a softmax."""
    powers = (key @ rows.mT).exp_()
    if len(members) == 1:
        return powers.mul_(powers.sum(1, keepdim=True).reciprocal_())
    return powers.mul_((members @ powers).reciprocal_().index_select(1, owner))


def _complete(totals: Tensor, count: int) -> bool:
    """Whether every prompt's weights add up to 1 at every pixel.

    They do unless a score is more than about 80 above its prompt's first one, out of an exponential's range:
    then a sum lacks a whole weight or is NaN. Half of one is far above rounding.
    """
    return bool(((totals - count).abs() < 0.5).all())


def _softmax(key: Key, rows: Rows, lengths: Sequence[int]) -> Weights:
    """The ordinary softmax of each prompt, for any scores and for gradients."""
    return torch.cat([torch.softmax(part, 1) for part in (key @ rows.mT).split(list(lengths), dim=1)], dim=1)
