"""The rows of the table: how each method makes one class's values from a trace, and its mask from these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ovam import methods
from ovam.maps.result import AttentionMaps
from ovam.maps.words import OptimisedTokens
from ovam.masks import compete
from ovam.masks.masks import segment
from ovam.masks.options import MaskOptions
from ovam.methods.base import Method
from ovam.methods.hard_crf import hard_crf, hard_crf_choice
from ovam.methods.registry import TRAINED
from ovam.methods.trained_file import load_weights
from ovam.refine.crf_options import CrfOptions
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined
from ovam.trace.trace import Trace

WORD, TOKEN = "word", "token"

Values = Callable[[Trace, str | OptimisedTokens], np.ndarray]
"""From a trace and a word, or the token of a class, to values (height, width) in [0, 1]."""

Cut = Callable[[np.ndarray, float, np.ndarray], np.ndarray]
"""From values, a threshold and the picture to the mask."""


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: Of the row.
        needs: Name of the capture that it reads; rows of one name read the same trace.
        values: Its values.
        cut: Its mask from values and a threshold.
        published: Its published thresholds by form; None where it has none.
        requires: Options of its capture, where it reads a trace of its own.
    """

    name: str
    needs: str
    values: Values
    cut: Cut
    published: Mapping[str, float] | None = None
    requires: Mapping[str, Any] | None = None


def plainly(values: np.ndarray, threshold: float, picture: np.ndarray) -> np.ndarray:
    """Values above the threshold."""
    return values > threshold


def after_hard_crf(values: np.ndarray, threshold: float, picture: np.ndarray) -> np.ndarray:
    """The CRF of the paper on the hard mask."""
    options = hard_crf_choice(True)
    assert options is not None
    found: np.ndarray = hard_crf(torch.from_numpy(values > threshold), picture, options).numpy()
    return found


def after_crf(values: np.ndarray, threshold: float, picture: np.ndarray) -> np.ndarray:
    """Our CRF on the soft values."""
    scores = torch.from_numpy(values)[None].float()
    found, _ = compete.after_crf(scores, scores[:0], threshold, picture, CrfOptions())
    return found[0].numpy() > threshold


def of_method(method: Method, *, name: str | None = None, cut: Cut | None = None) -> Row:
    """A method of the product, its values in its own scale."""
    crf = bool(getattr(method, "crf", False))
    soft = replace(method, threshold=0.5, token_threshold=0.5, **({"crf": False} if crf else {}))

    def values(trace: Trace, entry: str | OptimisedTokens) -> np.ndarray:
        found: np.ndarray = soft.segment(trace, [entry]).scores[0].numpy()
        return found

    published = {WORD: method.threshold, TOKEN: method.token_threshold}
    own = after_hard_crf if crf else plainly
    trained = method.name in TRAINED
    return Row(
        name or method.name,
        method.name if trained else "methods",
        values,
        cut or own,
        published if cut is None else None,
        _needs_of_trained(method) if trained else None,
    )


_VARIANTS = {"top_instance": "largest object", "as_released": "as released"}
"""How a method was trained, by what its file says, and the words for it in the name of its row."""


def variant_name(method: Method) -> str:
    """Name of the row of a trained method: each way of training has a row of its own."""
    weights = getattr(method, "weights", None)
    facts = {} if weights is None else load_weights(weights).training
    return ", ".join([method.name, *(words for fact, words in _VARIANTS.items() if facts.get(fact))])


def _needs_of_trained(method: Method) -> dict[str, Any]:
    """Options of a capture, and the time steps at which a picture is looked at."""
    return {**method.requires, "timesteps": method.requires_encoded["timesteps"]}


OURS, EVERY_BLOCK = "ours", "every block"


def ours(name: str, options: Mapping[str, Any], *, refine: bool, cut: Cut, needs: str = OURS) -> Row:
    """This library's own, with options of its maps."""

    def values(trace: Trace, entry: str | OptimisedTokens) -> np.ndarray:
        maps: AttentionMaps = trace.maps([entry], **options)
        found = segment(refined(maps, RefineOptions()) if refine else maps, MaskOptions())
        return found.scores[0].numpy()

    return Row(name, needs, values, cut)


PUBLISHED, RETUNED, DEFAULT = "OVAM, published", "OVAM, published, our CRF", "ovam: refined, CRF"
SPREAD, SPREAD_AT_FINEST = "Dataset Diffusion", "Dataset Diffusion, finest grid"
_AT_FINEST = methods.DatasetDiffusion(words_at="1/1", pixels_at="1/1")
"""As many places as the published grid of the words on a model whose finest grid is 16 x 16."""


def main_rows(extra: Sequence[Method] = ()) -> list[Row]:
    """The rows of the main table."""
    return [
        of_method(methods.DAAM(), name="DAAM"),
        of_method(methods.Attn2Mask(), name="Attn2Mask"),
        of_method(methods.DatasetDiffusion(), name=SPREAD),
        of_method(_AT_FINEST, name=SPREAD_AT_FINEST),
        of_method(methods.PublishedOVAM(), name=PUBLISHED),
        of_method(replace(methods.PublishedOVAM(), crf=False), name=RETUNED, cut=after_crf),
        *(of_method(method, name=variant_name(method)) for method in extra),
        ours("ovam: maps", {}, refine=False, cut=plainly),
        ours("ovam: refined", {}, refine=True, cut=plainly),
        ours(DEFAULT, {}, refine=True, cut=after_crf),
    ]


def postprocessing_rows() -> list[Row]:
    """Nothing, refinement, CRF, both."""
    return [
        ours("none", {}, refine=False, cut=plainly),
        ours("refined", {}, refine=True, cut=plainly),
        ours("CRF", {}, refine=False, cut=after_crf),
        ours("refined, CRF", {}, refine=True, cut=after_crf),
    ]


def block_rows(grids: Sequence[int]) -> list[Row]:
    """Every choice of grids, by their heights in a square picture; in others they are the same shares of the finest."""
    chosen = [[g for i, g in enumerate(grids) if number >> i & 1] for number in range(1, 2 ** len(grids))]
    return [
        ours(
            " + ".join(map(str, some)),
            {"blocks": [f"1/{grids[0] // g}" for g in some]},
            refine=False,
            cut=plainly,
            needs=EVERY_BLOCK,
        )
        for some in chosen
    ]


def step_rows(steps: Sequence[int], last: int) -> list[Row]:
    """One step alone, from it on, and up to it."""
    found = []
    for step in steps:
        for name, some in (("at", [step]), ("from", list(range(step, last + 1))), ("to", list(range(step + 1)))):
            found.append(ours(f"{name} {step}", {"steps": some}, refine=False, cut=plainly))
    return found


def needs_of(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The options of the captures that these rows read, by name.

    The methods without weights share one capture. It keeps the self-attention of both grids of Dataset Diffusion, which
    takes the parts of its own grid.
    """
    spread = methods.DatasetDiffusion()
    of_methods = methods.requires_of((methods.DAAM(), spread, methods.PublishedOVAM()))
    of_methods["self_attention"] = [one.requires["self_attention"] for one in (spread, _AT_FINEST)]
    known = {"methods": of_methods, OURS: {"self_attention": True}}
    known[EVERY_BLOCK] = {"blocks": "all"}
    known |= {row.needs: dict(row.requires) for row in rows if row.requires is not None}
    return {name: known[name] for name in sorted({row.needs for row in rows})}
