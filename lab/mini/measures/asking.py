"""How the measures ask: every word within one template, fixed before any map exists."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ovam.mini.scenes import GROUNDS
from ovam.mini.scenes.captions import with_article
from ovam.prompt import with_phrases
from ovam.shapes import Axis
from ovam.text_sides import text_of
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace


class Asking:
    """Words within "a photograph of a ...", grounds within "a photograph of the ..."; each is embedded once."""

    def __init__(self, pipe: Any) -> None:
        self._text = text_of(pipe)
        self._embedded: dict[str, TokenEmbedding] = {}

    def embedding(self, word: str) -> TokenEmbedding:
        """The template's vectors; the word is its last unit."""
        if word not in self._embedded:
            article = "the " if word in GROUNDS else with_article(word)[: -len(word)]
            found = self._text.embed(f"a photograph of {article}{word}")
            self._embedded[word] = replace(found, prompt=with_phrases(found.prompt, [word]))
        return self._embedded[word]

    def map(self, trace: Trace, word: str, *, keep: Sequence[Axis] = ()) -> np.ndarray:
        """Map of a word at the finest grid's size: (*keep, height, width), in [0, 1]."""
        return trace.maps(self.embedding(word), keep=keep)[word].numpy()


def enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """A map at the picture's size, bilinear: (size, size)."""
    given = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(given, (size, size), mode="bilinear", align_corners=False)[0, 0].numpy()


def untrained(pipe: Any) -> Any:
    """The same pipeline around a denoiser of random weights."""
    torch.manual_seed(0)
    part = "unet" if "unet" in pipe.components else "transformer"
    trained = pipe.components[part]
    options = {"requires_safety_checker": False} if part == "unet" else {}
    return type(pipe)(**{**pipe.components, part: type(trained).from_config(trained.config).eval()}, **options)
