"""Words of a joined caption are looked for in the picture: those of its own caption are to be found, the other's not.

A denoiser that is shown the picture needs no text to name what it sees, so nothing taught mini's queries and keys to
agree on what a word stands for, though its features told the classes apart. Here captions alone teach it, as in
multiple-instance learning (Fang et al., arXiv:1411.4952): which words belong to a picture, never where they lie in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

FOUND_IN = 16  # a word is found where it has the attention of a 16th of the picture


def mismatch(attentions: Iterable[Tensor], belongs: Tensor, weights: Tensor) -> Tensor:
    """Binary cross entropy of every told token's attention, mean over layers.

    Args:
        attentions: Of each layer the attention, mean of heads, of those samples that are told anything:
            (told sample, pixel, position), in [0, 1].
        belongs: (sample, position): 1 for a token of the picture's own caption alone, -1 for one of the other
            caption alone, 0 for what tells nothing.
        weights: (sample,): how much of the picture is to be seen.
    """
    told = (belongs != 0).any(1)
    if not told.any():
        return weights.new_zeros(())
    belongs, weights = belongs[told], weights[told, None]
    own, other = weights * (belongs > 0), weights * (belongs < 0)
    losses = []
    for attention in attentions:
        found = most(attention).clamp(1e-4, 1 - 1e-4)
        misses = -(found.log() * own).sum() / own.sum().clamp(min=1)
        false_finds = -((1 - found).log() * other).sum() / other.sum().clamp(min=1)
        losses.append(misses + false_finds)
    return torch.stack(losses).mean()


def most(attention: Tensor) -> Tensor:
    """Attention of each token or word, (sample, pixel, position), where it has most: (sample, position)."""
    return attention.topk(max(1, attention.shape[1] // FOUND_IN), dim=1).values.mean(1)


@dataclass
class _Inputs:
    """What a cross attention was last called with: pictures' features, hidden states of the text, mask as a bias."""

    features: Tensor
    text: Tensor
    mask: Tensor | None


class Matching:
    """Reads the cross attention of the UNet's two finer grids on the way up, as it is in the evaluation itself.

    Told to all grids but the finest on the way down, with weight 0.25 for the last 1000 of 10,000 iterations, it put
    the words of the coarsest grid beside their things (docs/mini.md).
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._layers = [block.transformer_blocks[0].attn2 for stage in unet.up_blocks[1:] for block in stage.attentions]
        self._seen: dict[Attention, _Inputs] = {}
        for layer in self._layers:
            layer.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, layer: Attention, args: tuple[Tensor, ...], kwargs: dict[str, Tensor | None]) -> None:
        text = kwargs["encoder_hidden_states"]
        assert text is not None
        self._seen[layer] = _Inputs(args[0], text, kwargs["attention_mask"])

    def loss(self, belongs: Tensor, weights: Tensor) -> Tensor:
        """`mismatch` of the UNet's last evaluation."""
        told = (belongs != 0).any(1)
        return mismatch((self._attention(layer, told) for layer in self._layers), belongs, weights)

    def _attention(self, layer: Attention, told: Tensor) -> Tensor:
        """Mean of heads: (told sample, pixel, position) in [0, 1]."""
        seen = self._seen[layer]
        features, text = seen.features[told], seen.text[told]
        query = layer.head_to_batch_dim(layer.to_q(features))
        key = layer.head_to_batch_dim(layer.to_k(text))
        mask = None if seen.mask is None else layer.prepare_attention_mask(seen.mask[told], text.shape[1], len(text))
        attention = layer.get_attention_scores(query, key, mask).float()
        return attention.unflatten(0, (len(text), layer.heads)).mean(1)
