"""ConceptAttention's maps (helblazer811/ConceptAttention) of a FLUX run, with the same numbers.

A concept is the first T5 vector of its word. All concepts pass the text layers together, against the image, and attend
to each other. The maps are the shares of the concepts in the output space of the two-stream blocks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from ovam.backbones.flux import FluxBackbone
from ovam.backbones.registry import backbone_of
from ovam.errors import OptionError
from ovam.maps.result import AttentionMaps
from ovam.prompt import AttributionPrompt, Span, list_of_words
from ovam.trace.blocks import BlockChoice
from ovam.trace.replay import Replay
from ovam.trace.text_side import ReplayedSide, TokenEmbedding
from ovam.trace.trace import Trace

Pooled = Literal["zeros", "prompt"]


def concept_maps(
    trace: Trace,
    pipe: Any,
    concepts: Sequence[str],
    *,
    pooled: Pooled = "zeros",
    blocks: BlockChoice = "transformer_blocks",
) -> AttentionMaps:
    """Return the share of each concept in every pixel.

    Args:
        trace: Trace of a FLUX run, captured with `outputs=True`.
        pipe: The pipeline of the run.
        concepts: Two or more words, in the prompt or not.
        pooled: Pooled vector that modulates the concepts' layers, besides the time step: "zeros", as in
            ConceptAttention, or "prompt", the prompt's pooled CLIP vector, as in the rest of this library.
        blocks: By default all two-stream blocks.

    Returns:
        Maps of the concepts, in [0, 1]: the mean over steps and blocks. All concepts sum to 1 in each pixel.

    Raises:
        OptionError: the pipeline is not FLUX, `pooled` is neither of the two, or the run's prompt is unknown.
        EmptyWordsError: there is no concept.
        The errors of `Trace.maps`.
    """
    text = trace.text
    if not isinstance(backbone_of(pipe), FluxBackbone) or not isinstance(text, ReplayedSide):
        raise OptionError(
            f"concept maps of a {type(pipe).__name__}: expected FLUX.1, since they are made in its layers"
        )
    if pooled not in ("zeros", "prompt"):
        raise OptionError(f"pooled={pooled!r}: expected 'zeros' or 'prompt'")
    names = list_of_words(concepts)
    vectors = torch.stack([text.embed(name, as_phrase=True).vectors[0] for name in names])
    spans = tuple(Span(name, (i,)) for i, name in enumerate(names))
    embedded = TokenEmbedding(vectors, AttributionPrompt(", ".join(names), names, spans), text.space)
    seen = trace if pooled == "prompt" else _without_pooled(trace, text, pipe)
    return seen.maps(embedded, strategy="output", blocks=blocks)


def _without_pooled(trace: Trace, text: ReplayedSide, pipe: Any) -> Trace:
    """Return the trace with zeros in place of the prompt's pooled vector, for the replay of words."""
    if trace.source.prompt is None:
        raise OptionError(
            "pooled='zeros' with a run from embeddings: expected a run from a prompt, because the prompt is encoded "
            "again to replace its pooled vector by zeros; pooled='prompt' keeps the run's pooled vector"
        )
    read = pipe.transformer.time_text_embed.text_embedder
    with torch.no_grad():
        vector = pipe.encode_prompt(trace.source.prompt, None)[1].to(pipe.transformer.dtype)
        change = (read(torch.zeros_like(vector)) - read(vector))[0].float().cpu()
    blocks = {
        name: replace(block, conditioning={half: rows + change for half, rows in block.conditioning.items()})
        for name, block in trace.replay.blocks.items()
    }
    return replace(trace, text=text.with_replay(Replay(blocks, trace.calls)))
