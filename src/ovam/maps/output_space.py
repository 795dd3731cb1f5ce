"""Maps in the output space of joint attention: compare each pixel's attention output with the outputs of the words.

In joint attention, pixels and words attend to the same values: the values of image and text together. So the attention
outputs of pixels and words can be compared by dot products, if the outputs are taken before any projection.
ConceptAttention does this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.prompt import Span
from ovam.shapes import Key, Query

_NUMBERS = 2**24  # maximum number of floats in a piece of the pixels' outputs


def word_outputs(output: Key, spans: Sequence[Span]) -> Float[Tensor, "head word head_dim"]:
    """Return one vector per word: the mean of the attention outputs of its tokens."""
    return torch.stack([output[:, list(span.tokens)].mean(1) for span in spans], dim=1)


def output_shares(
    image: Query, words: Float[Tensor, "head word head_dim"], *, keep_step: bool = False
) -> Float[Tensor, "1 kept_step word pixel"]:
    """Return the share of each word in every pixel, summed over steps.

    At each step, the score of a word at a pixel is the dot product of both outputs over the channels of all heads,
    without a scale. A softmax over the words, in float32, turns the scores of a pixel into shares. The result is
    differentiable in `words`.

    Args:
        image: Attention outputs of one block's pixels, before the block's output projection.
        words: Attention outputs of the words, see `word_outputs`.
        keep_step: Keep the steps apart instead of summing over them.

    Returns:
        Sums in [0, steps], float32; at each pixel the sums of all words add up to the number of steps.

    Source:
        Helbling et al., "ConceptAttention: Diffusion Transformers Learn Highly Interpretable Features", ICML 2025
        (arXiv:2502.04320): saliency maps in the output space of attention. There a concept is one token, and concepts
        attend to each other. Here each attribution prompt is read alone, and a word is the mean of its tokens.
    """
    vectors = words.float().transpose(0, 1).flatten(1)  # (word, head * head_dim)
    sums = []
    for step in range(image.shape[1]):
        parts = image[:, step].split(max(1, _NUMBERS // vectors.shape[1]), dim=1)
        outputs = (part.float().transpose(0, 1).flatten(1) for part in parts)  # (pixel, head * head_dim)
        sums.append(torch.cat([torch.softmax(vectors @ output.T, 0) for output in outputs], dim=1))
    shares = torch.stack(sums)  # (step, word, pixel)
    return (shares if keep_step else shares.sum(0, keepdim=True))[None]


def words_alone(spans: Sequence[Span]) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """Return tokens and spans for maps in which each word is one token."""
    return tuple(span.text for span in spans), tuple(Span(span.text, (i,)) for i, span in enumerate(spans))
