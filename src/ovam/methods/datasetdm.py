"""DatasetDM: a decoder trained on a UNet's features and cross attention finds the mask of a class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import NothingCapturedError, OptionError
from ovam.maps.resize import resize
from ovam.maps.words import Listed
from ovam.masks.result import Segmentation
from ovam.methods.base import Method, checked_words, thresholds_of
from ovam.methods.class_vectors import (
    Named,
    Vector,
    greatest,
    named,
    padded_mean,
    with_token,
    word_rows,
)
from ovam.methods.datasetdm_decoder import THING, level_of
from ovam.methods.last_token import checked_template
from ovam.methods.result import WordScores, segmentation_of
from ovam.methods.trained_file import Trained, opened, trained_for
from ovam.methods.unet_read import TIMESTEP, Levels, Outline, features_of, outline_of
from ovam.precision import float32
from ovam.trace.quantised import floats
from ovam.trace.text_side import TextSide, TokenEmbedding
from ovam.trace.trace import Trace

TokenEntry = Literal["text", "attention", "both"]
BLOCKS = ("down_blocks", "mid_block", "up_blocks")
"""Beginnings of the names of all cross-attention blocks of a UNet."""
TEMPLATE = "a photo of a {}"
"""Prompt whose attention the decoder reads."""
_BEST = 3  # instances among which the best one is chosen


@dataclass(frozen=True, kw_only=True)
class DatasetDM(Method):
    """DatasetDM, with weights that were trained on the UNet of the trace.

    The decoder reads the UNet's features at the last denoiser call, and the attention of that call to all tokens of a
    prompt with the word, for each head. It gets the class as a vector: the text encoder reads the word alone, and the
    mean of its output over all positions is taken, padding included. The decoder has several queries; the mask is that
    of the best query. If a word has synonyms, each pixel gets the greatest of their values.

    Attributes:
        weights: File of the weights; none are shipped. `python -m lab.methods train datasetdm` makes them.
        threshold: Probability above which a pixel is a word's.
        token_threshold: The same for fitted tokens.
        template: Prompt whose attention is read; the word stands at its end.
        token_entry: Where a fitted token enters: "text" puts it in the place of the class vector, as OVAM's authors
            did; "attention" puts it in the place of the word's rows in the prompt; "both" does both. Where it does not
            enter, the class's name does.

    Raises:
        OptionError: a value is not allowed.

    Source:
        Wu et al., NeurIPS 2023 (arXiv:2308.06160); showlab/DatasetDM at 7545a68.
    """

    name: ClassVar[str] = "datasetdm"
    weights: str | Path | None = None
    threshold: float = 0.5
    token_threshold: float = 0.5
    template: str = TEMPLATE
    token_entry: TokenEntry = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_template(self.template)
        if self.token_entry not in get_args(TokenEntry):
            raise OptionError(f"token_entry={self.token_entry!r}: expected one of {get_args(TokenEntry)}")

    @property
    def requires(self) -> dict[str, Any]:
        """Options of `ovam.capture` with which a trace has all that the method needs.

        Both halves of guidance, as published, unless the weights were trained on one.

        Raises:
            WeightsError: the weights can't be read.
        """
        one = self.weights is not None and len(opened(self.weights, self.name)[0].halves) == 1
        return {"features": True, "blocks": list(BLOCKS)} | ({} if one else {"guidance": "both"})

    @property
    def requires_encoded(self) -> Mapping[str, Any]:
        """The same for `ovam.encode`, with the time step at which a real image is looked at."""
        return {**super().requires_encoded, "timesteps": (TIMESTEP,)}

    @float32()
    @torch.no_grad()
    def segment(self, trace: Trace, words: Listed) -> Segmentation:
        """Return masks and a label map; see `Method.segment`.

        Raises:
            WeightsError: there are no weights, or they are damaged, of another method or of another UNet.
            UnsupportedPipelineError: the trace is of a family without a UNet.
        """
        entries, outline = checked_words(words), outline_of(trace)
        trained, module = trained_for(self.weights, self.name, outline)
        check_blocks(trace, trained)
        features = features_of(trace, list(outline.channels), outline.levels, trained.halves)
        parts = named(trace.text, entries)
        module.to(features[0].device)
        masks = []
        for one in parts:
            levels = with_attention(features, trace, trained.outline, self._prompt(trace.text, one))
            masks.append(best_mask(*module(levels, self._vector(trace.text, one).to(features[0])[None])))
        log_odds = greatest(parts, torch.stack(masks))
        values = resize(log_odds, trace.size).sigmoid()
        return segmentation_of(trace, entries, WordScores(log_odds.sigmoid(), values, thresholds_of(entries, self)))

    def _prompt(self, text: TextSide, one: Named) -> TokenEmbedding:
        """Return the prompt whose attention is read."""
        embedded, rows = word_rows(text, self.template, one.text, padded=True)
        return embedded if one.token is None or self.token_entry == "text" else with_token(embedded, rows, one.token)

    def _vector(self, text: TextSide, one: Named) -> Vector:
        """Return the vector of the class."""
        if one.token is None or self.token_entry == "attention":
            return padded_mean(text, one.text)
        return one.token.float()


def check_blocks(trace: Trace, trained: Trained) -> None:
    """Check that a trace has all cross-attention blocks that the weights were trained on, of the half with the prompt.

    Raises:
        NothingCapturedError: it lacks one.
    """
    lacking = [name for name in trained.outline.heads if name not in trace.blocks]
    if not lacking and "cond" in trace.halves:
        return
    what = repr(lacking[0]) if lacking else "that half"
    raise NothingCapturedError(
        f"method 'datasetdm' reads the attention of all {len(trained.outline.heads)} cross-attention blocks, in the "
        f"half with the prompt, and this trace lacks {what}: capture with "
        f"ovam.capture(pipe, features=True, blocks={list(BLOCKS)}), or give these options to ovam.encode"
    )


def with_attention(features: Levels, trace: Trace, outline: Outline, prompt: TokenEmbedding) -> Levels:
    """Return the features with the attention to a padded prompt as further channels, a channel a head and token.

    The attention is that of the last kept denoiser call, in the half with the prompt, and sums to 1 over the tokens.
    """
    found = [[level] for level in features]
    call = len(trace.calls) - 1
    for name in outline.heads:
        block = trace.blocks[name]
        query = floats(block.query["cond"][:, call]).float()
        key = trace.text.keys(prompt.vectors, name, trace.calls[call].index).to(query)
        weights = (block.scale * query @ key.transpose(1, 2)).softmax(-1)
        maps = weights.transpose(1, 2).flatten(0, 1).unflatten(-1, block.grid)
        found[level_of(name, outline)].append(maps[None].to(features[0]))
    return [torch.cat(each, dim=1) for each in found]


def best_mask(
    scores: Float[Tensor, "1 query output"], masks: Float[Tensor, "1 query height width"]
) -> Float[Tensor, "height width"]:
    """Return the log-odds of the best query's mask.

    Only the three queries with the highest class probability are compared. The best one has the highest product of its
    class probability and the mean probability inside its mask.
    """
    likely = scores[0].softmax(-1)[:, THING].topk(min(_BEST, scores.shape[1]))
    chosen = masks[0, likely.indices]
    inside = (chosen > 0).to(chosen)
    sure = (chosen.sigmoid() * inside).sum((-2, -1)) / (inside.sum((-2, -1)) + 1e-6)
    return chosen[int((likely.values * sure).argmax())]
