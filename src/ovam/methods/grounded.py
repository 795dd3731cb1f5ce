"""Grounded Diffusion: a module trained on a UNet's features finds the mask of any word."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ovam.maps.resize import resize
from ovam.maps.words import Listed
from ovam.masks.result import Segmentation
from ovam.methods.base import Method, checked_words, thresholds_of
from ovam.methods.class_vectors import Named, Vector, greatest, named, word_vector
from ovam.methods.grounded_module import grounded_layers
from ovam.methods.last_token import checked_template
from ovam.methods.result import WordScores, segmentation_of
from ovam.methods.trained_file import opened, trained_for
from ovam.methods.unet_read import TIMESTEP, features_of, outline_of
from ovam.precision import float32
from ovam.trace.text_side import TextSide
from ovam.trace.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Grounded(Method):
    """Grounded Diffusion, with weights that were trained on the UNet of the trace.

    It reads the UNet's features at the last denoiser call, which is time step 1 of 50 DDIM steps in the publication. A
    word's vector is the mean of its rows in the text encoder's output for a prompt. If a word has synonyms, each pixel
    gets the greatest of their values. Each word is evaluated alone, so no word changes another's mask.

    A fitted token's vector replaces that mean; nothing is trained again.

    Attributes:
        weights: File of the weights; none are shipped. `python -m lab.methods train grounded` makes them.
        threshold: Probability above which a pixel is a word's.
        token_threshold: The same for fitted tokens.
        template: Prompt of a word, which stands at its end.

    Raises:
        OptionError: a value is not allowed.

    Source:
        Li et al., ICCV 2023 (arXiv:2301.05221); Lipurple/Grounded-Diffusion at 5680115.
    """

    name: ClassVar[str] = "grounded"
    weights: str | Path | None = None
    threshold: float = 0.5
    token_threshold: float = 0.5
    template: str = "a photograph of a {}"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_template(self.template)

    @property
    def requires(self) -> dict[str, Any]:
        """Options of `ovam.capture` with which a trace has all that the method needs.

        Both halves of guidance, as published, unless the weights were trained on one.

        Raises:
            WeightsError: the weights can't be read.
        """
        one = self.weights is not None and len(opened(self.weights, self.name)[0].halves) == 1
        return {"features": True} if one else {"features": True, "guidance": "both"}

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
        levels = features_of(trace, grounded_layers(outline), outline.levels, trained.halves)
        parts = named(trace.text, entries)
        vectors = [self._vector(trace.text, one).to(levels[0]) for one in parts]
        module.to(levels[0].device)
        found = [module(levels, vector[None, None])[0, 0] for vector in vectors]
        log_odds = greatest(parts, torch.stack(found))
        values = resize(log_odds, trace.size).sigmoid()
        return segmentation_of(trace, entries, WordScores(log_odds.sigmoid(), values, thresholds_of(entries, self)))

    def _vector(self, text: TextSide, one: Named) -> Vector:
        """Return the vector of a word, or the fitted token itself."""
        return word_vector(text, self.template, one.text) if one.token is None else one.token.float()
