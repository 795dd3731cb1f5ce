"""Joint attention as it is trained: some text is kept out of it, alike rows are carried once, and words are matched.

Stable Diffusion 3's pipeline hands its denoiser 256 rows of zeros where T5 is missing or blank. Text has no place in
joint attention, so that alike rows stay alike in every block: in training one stands for all, with as much weight.
"""

import math

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

from ovam.backbones.joint_watch import by_head, normed
from ovam.mini.training.matching import mismatch

T5_ROWS = 256  # the pipeline's own max_sequence_length


def column_bias(attended: Tensor, pixels: int) -> Tensor:
    """What is added to the scores of image and text: (sample, 1, 1, pixel + position + 1), float32.

    Args:
        attended: Which CLIP positions may be attended, (sample, position). Where the last of them may not, nothing but
            words may, and the row that stands for T5's may not either.
        pixels: Number of image tokens.
    """
    text = torch.zeros(attended.shape, device=attended.device).masked_fill(~attended, -math.inf)
    rows = torch.where(attended[:, -1:], math.log(T5_ROWS), -math.inf)
    return F.pad(torch.cat([text, rows], dim=1), (pixels, 0))[:, None, None]


class BiasedAttention:
    """Attention processor: image and text attend to each other, with a bias on what is attended.

    Attributes:
        query: Image queries of the last evaluation, (sample, head, pixel, head_dim), after normalisation.
        key: Text keys of the same, (sample, head, position, head_dim).
    """

    def __init__(self) -> None:
        self.query, self.key = torch.empty(0), torch.empty(0)

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        image = [by_head(layer(hidden_states), attn.heads) for layer in (attn.to_q, attn.to_k, attn.to_v)]
        added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text = [by_head(layer(encoder_hidden_states), attn.heads) for layer in added]
        self.query, image_key = normed(attn.norm_q, image[0]), normed(attn.norm_k, image[1])
        text_query, self.key = normed(attn.norm_added_q, text[0]), normed(attn.norm_added_k, text[1])
        query, key = torch.cat([self.query, text_query], dim=2), torch.cat([image_key, self.key], dim=2)
        value = torch.cat([image[2], text[2]], dim=2)
        bias = attention_mask.to(value.dtype)
        found = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, attn_mask=bias)
        rows = found.transpose(1, 2).flatten(2)
        seen, told = rows.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[0](seen), told if attn.context_pre_only else attn.to_add_out(told)


class JointMatching:
    """Words are looked for by image queries and text keys; see `matching`.

    In the later half of the blocks: told to all but the first, the loss stayed for 1700 iterations where it is when
    nothing is known of a word, and for 175 more with ten times the weight. It came down where the later blocks alone
    were told, the pictures were nearly clean and the rate was half; which of the three did it was not tried.
    """

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        transformer.set_attn_processor(
            {name: BiasedAttention() for name in transformer.attn_processors}  # one each: each keeps what it saw
        )
        blocks = transformer.transformer_blocks
        self._layers = [block.attn for block in blocks[len(blocks) // 2 :]]

    def loss(self, belongs: Tensor, bias: Tensor, weights: Tensor) -> Tensor:
        """`mismatch` of the last evaluation.

        Args:
            belongs: See `mismatch`.
            bias: See `column_bias`.
            weights: See `mismatch`.
        """
        told = (belongs != 0).any(1)
        return mismatch((self._attention(layer, told, bias) for layer in self._layers), belongs, weights)

    def _attention(self, layer: Attention, told: Tensor, bias: Tensor) -> Tensor:
        """Over the text alone, as in maps; mean of heads, without the row of T5: (told sample, pixel, position)."""
        query, key = layer.processor.query[told], layer.processor.key[told]
        scores = (query @ key.transpose(2, 3)).float() * layer.scale + bias[told][..., -key.shape[2] :]
        return scores.softmax(-1).mean(1)[..., :-1]
