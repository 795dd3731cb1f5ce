"""The numeric heart: from one block's queries and an attribution prompt's keys to summed attention weights."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import SpaceMismatchError
from ovam.shapes import Key, Query

_FLOATS = 2**19  # queries and scores handled at a time: 2 MB, so that two cores keep them in their second-level caches
_FLOATS_ELSEWHERE = 2**25  # other devices want few large pieces

Keys = Float[Tensor, "token head_dim"]
Rows = Float[Tensor, "row head_dim"]
Weighing = Callable[[Keys, Rows], tuple[Tensor, Tensor]]
"""Keys and queries of one head to two factors of the weights: (token, row), and one that broadcasts to it."""


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
    kept = (heads if keep_head else 1, steps if keep_step else 1)
    if not (torch.is_grad_enabled() and (key.requires_grad or query.requires_grad)):
        owner = torch.repeat_interleave(torch.tensor(lengths)).to(key.device)
        members = (owner == torch.arange(len(lengths), device=key.device)[:, None]).float()
        sums = _sums(query, _relative(scaled, lengths), _exponentials(owner, members), kept)
        if _complete(members @ sums, heads * steps // (kept[0] * kept[1])):
            return sums
    return _sums(query, scaled, _softmaxes(lengths), kept)


def _sums(query: Query, key: Key, weigh: Weighing, kept: tuple[int, int]) -> Tensor:
    """Add up the weights of all heads and steps, or of those that are not kept apart."""
    heads, steps, pixels, head_dim = query.shape
    sums = torch.zeros(*kept, key.shape[1], pixels, device=query.device)
    for head in range(heads):
        for span, part in _pieces(query.shape[1:], key.shape[1], query.device):
            rows = query[head, span, part].reshape(-1, head_dim).float()
            size = (len(range(steps)[span]), -1)
            factors = [factor.unflatten(1, size) for factor in weigh(key[head], rows)]
            for i, step in enumerate(range(steps)[span]):
                total = sums[head % kept[0], step % kept[1], :, part]
                total.addcmul_(factors[0][:, i], factors[1][:, i])
    return sums


def _pieces(shape: Sequence[int], tokens: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut (step, pixel, head_dim) into pieces that fit the cache: some whole steps, or a part of one."""
    steps, pixels, head_dim = shape
    rows = max(1, (_FLOATS if device.type == "cpu" else _FLOATS_ELSEWHERE) // (tokens + head_dim))
    at_once = max(1, rows // pixels)
    part = -(-pixels // -(-pixels // rows))  # equal parts, rounded up
    for step in range(0, steps, at_once):
        for pixel in range(0, pixels, part):
            yield slice(step, step + at_once), slice(pixel, pixel + part)


def _relative(key: Key, lengths: Sequence[int]) -> Key:
    """Each prompt's keys less its first key, which changes no softmax.

    The first score becomes 0 and the sum of exponentials at least 1, so that the usual search for the
    greatest score, a third of a softmax's time, is not needed against underflow.
    """
    return torch.cat([part - part[:, :1] for part in key.split(list(lengths), dim=1)], dim=1)


def _exponentials(owner: Tensor, members: Tensor) -> Weighing:
    """Exponentials and, for each, one over the sum of its prompt's: two to three times as fast as a softmax."""

    def weigh(key: Keys, rows: Rows) -> tuple[Tensor, Tensor]:
        powers = (key @ rows.T).exp_()
        shares = (members @ powers).reciprocal_()
        return powers, shares if len(shares) == 1 else shares.index_select(0, owner)

    return weigh


def _complete(totals: Tensor, count: int) -> bool:
    """Whether every prompt's weights add up to 1 at every pixel.

    They do unless a score is more than about 80 above its prompt's first one, out of an exponential's range:
    then a sum lacks a whole weight or is NaN. Half of one is far above rounding.
    """
    return bool(((totals - count).abs() < 0.5).all())


def _softmaxes(lengths: Sequence[int]) -> Weighing:
    """The ordinary softmax of each prompt, for any scores and for gradients."""

    def weigh(key: Keys, rows: Rows) -> tuple[Tensor, Tensor]:
        weights = torch.cat([torch.softmax(part, 0) for part in (key @ rows.T).split(list(lengths))])
        return weights, torch.ones_like(weights[:1])

    return weigh
