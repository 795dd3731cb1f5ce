"""ConceptAttention's maps (helblazer811/ConceptAttention) of a FLUX run, with its numbers.

A concept is the first T5 vector of its word; all concepts are run through the text's layers together, against the
image, and read each other; the maps are shares of the concepts in the output space of the blocks of two streams.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from ovam.backbones.flux import FluxBackbone
from ovam.backbones.registry import backbone_of
from ovam.errors import OptionError
from ovam.maps.result import AttentionMaps
from ovam.prompt import AttributionPrompt, Span, listed
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
    """How the concepts share every pixel.

    Args:
        trace: Of a run of FLUX, captured with `outputs=True`.
        pipe: The pipeline of the run.
        concepts: Words, two or more, whether they are in the prompt or not.
        pooled: What modulates the concepts' layers besides the time step: "zeros", as in ConceptAttention, or the
            prompt's pooled CLIP vector, as everywhere else in this library.
        blocks: By default all of two streams.

    Returns:
        Maps whose words are the concepts, in [0, 1]: the mean over steps and blocks. Those of all concepts sum to 1.

    Raises:
        OptionError: the pipeline is no FLUX, `pooled` is another one, or the run's prompt is not known.
        EmptyWordsError: there is no concept.
        The errors of `Trace.maps`.
    """
    text = trace.text
    if not isinstance(backbone_of(pipe), FluxBackbone) or not isinstance(text, ReplayedSide):
        raise OptionError(
            f"concept maps were asked of a {type(pipe).__name__}: expected FLUX.1, whose layers they are made in"
        )
    if pooled not in ("zeros", "prompt"):
        raise OptionError(f"pooled={pooled!r}: expected 'zeros' or 'prompt'")
    names = listed(concepts)
    vectors = torch.stack([text.embed(name, as_phrase=True).vectors[0] for name in names])
    spans = tuple(Span(name, (i,)) for i, name in enumerate(names))
    asked = TokenEmbedding(vectors, AttributionPrompt(", ".join(names), names, spans), text.space)
    seen = trace if pooled == "prompt" else _without_pooled(trace, text, pipe)
    return seen.maps(asked, strategy="output", blocks=blocks)


def _without_pooled(trace: Trace, text: ReplayedSide, pipe: Any) -> Trace:
    """The trace with zeros in place of the prompt's pooled vector, where late words are run through the layers."""
    if trace.source.prompt is None:
        raise OptionError(
            "pooled='zeros' of a run from embeddings: expected a run from a prompt, whose pooled vector is taken out; "
            "pooled='prompt' leaves it in"
        )
    read = pipe.transformer.time_text_embed.text_embedder
    with torch.no_grad():
        vector = pipe.encode_prompt(trace.source.prompt, None)[1].to(pipe.transformer.dtype)
        change = (read(torch.zeros_like(vector)) - read(vector))[0].float().cpu()
    blocks = {
        name: replace(block, conditioning={half: rows + change for half, rows in block.conditioning.items()})
        for name, block in trace.replay.blocks.items()
    }
    return replace(trace, text=text.over(Replay(blocks, trace.calls)))
