"""The numeric heart: from one block's queries and an attribution prompt's keys to summed attention weights."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import SpaceMismatchError
from ovam.shapes import Key, Query

_ROWS = 4096  # rows of scores at a time: with 77 tokens 1.3 MB in float32, which stays in a core's second-level cache


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
    heads, steps, pixels, head_dim = query.shape
    if (key.shape[0], key.shape[2]) != (heads, head_dim):
        raise SpaceMismatchError(
            f"keys have {key.shape[0]} heads of size {key.shape[2]}, the queries {heads} of size {head_dim}: "
            "the keys were made for another block or model; ask the trace's own text side for them"
        )
    scaled = key.float() * scale
    sums = torch.zeros(heads if keep_head else 1, steps if keep_step else 1, key.shape[1], pixels, device=query.device)
    at_once = max(1, _ROWS // pixels)
    for head in range(heads):
        total = sums[head if keep_head else 0]
        for start in range(0, steps, at_once):
            rows = query[head, start : start + at_once].reshape(-1, head_dim).float()
            weights = _softmax_by_prompt(scaled[head] @ rows.T, lengths).unflatten(1, (-1, pixels))
            if keep_step:
                total[start : start + at_once] += weights.transpose(0, 1)
            else:
                total[0] += weights.sum(1) if at_once > 1 else weights[:, 0]
    return sums


def _softmax_by_prompt(scores: Float[Tensor, "token row"], lengths: Sequence[int]) -> Float[Tensor, "token row"]:
    if len(lengths) == 1:
        return torch.softmax(scores, 0)
    return torch.cat([torch.softmax(part, 0) for part in scores.split(list(lengths))])
