"""Choose the product's defaults on validation scenes, and write them into its one frozen file.

Refinement, and the border of words' stretched maps with and without it: by the IoU of the ten development classes,
pooled per class. The steepness at the border: by the likelihood of the pixels. Then the CRF, with these; and the weight
of word gains, with a border and a steepness of their own.
Presence: by a logistic regression of "is the word there" on the evidence of its map, and on the lead of its gains, over
all class words.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar

from lab.mini.measures.choices import DEVELOPMENT
from lab.refine.cases import Case, cases
from ovam.backbones.sampled import sampled_hash
from ovam.evaluate import presence_auroc
from ovam.maps.calibration import Calibration
from ovam.maps.result import AttentionMaps
from ovam.masks.compete import after_crf
from ovam.masks.masks import scores_by, share_of
from ovam.masks.presence import evidence
from ovam.mini.scenes import CLASSES
from ovam.refine.crf_options import CrfOptions
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined

DEFAULTS = Path("src/ovam/defaults.json")
REFINEMENTS: Sequence[RefineOptions | None] = (
    None,
    *(RefineOptions(method="powers", products=n, exponent=e) for n in (1, 2, 4, 8) for e in (1.0, 2.0, 3.0, 4.0, 6.0)),
    *(RefineOptions(method="restart", products=n, spread=a) for n, a in ((5, 0.5), (20, 0.85))),
    *(
        RefineOptions(method="sharpened", products=n, sharpness=s)
        for n, s in ((2, 0.015), (1, 0.1), (2, 0.1), (5, 0.2))
    ),
)
CRFS: Sequence[CrfOptions] = tuple(
    CrfOptions(
        iterations=5,
        smooth_width=3.0,
        smooth_weight=smooth,
        reach=reach,
        colour_width=width,
        colour_weight=colour,
        scaled=scaled,
    )
    for scaled, smooth, reach, width, colour in (
        (True, 3.0, 80.0, 8.0, 10.0),
        (True, 3.0, 80.0, 13.0, 20.0),
        (True, 6.0, 80.0, 13.0, 10.0),
        (False, 3.0, 80.0, 13.0, 10.0),
        (True, 3.0, 80.0, 13.0, 10.0),
        (True, 3.0, 160.0, 13.0, 10.0),
        (True, 3.0, 80.0, 20.0, 10.0),
        (True, 3.0, 80.0, 13.0, 5.0),
        (True, 1.0, 80.0, 13.0, 5.0),
        (False, 1.0, 80.0, 13.0, 5.0),
        (False, 3.0, 80.0, 8.0, 10.0),
    )
)
THRESHOLDS = np.linspace(0.2, 0.9, 29)
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
BEYOND = np.linspace(0.2, 1.5, 53)
"""Borders of maps with gains, which may be above 1."""
_SCALES, _BORDER = (1.0, 50.0), 0.5


def choose(pipe: Any, count: int, work_dir: Path) -> dict[str, Any]:
    """Return what was chosen on `count` validation scenes, with the figures of every candidate.

    Args:
        pipe: The model.
        count: Number of scenes.
        work_dir: Keeps word gains.
    """
    seen = list(cases(pipe, "validation", count, gains_dir=work_dir))
    maps = {_name(option): [_refined(case.maps, option) for case in seen] for option in REFINEMENTS}
    tried: list[dict[str, Any]] = [{"refine": name, **best_of(_soft(seen, each))} for name, each in maps.items()]
    best = max((row for row in tried if row["refine"] != _name(None)), key=lambda row: row["iou"])
    option = next(option for option in REFINEMENTS if _name(option) == best["refine"])
    plain = next(row for row in tried if row["refine"] == _name(None))
    words = {
        "plain": calibration_of(_soft(seen, maps[_name(None)]), plain["threshold"]),
        "refined": calibration_of(_soft(seen, maps[best["refine"]]), best["threshold"]),
    }
    score = Calibration(words["refined"]["scale"], -words["refined"]["scale"] * words["refined"]["border"])
    fitted: list[dict[str, Any]] = [
        {"crf": _name(crf), **best_of(_soft(seen, maps[best["refine"]], score, crf))} for crf in CRFS
    ]
    crf = CRFS[int(np.argmax([row["iou"] for row in fitted]))]
    assert option is not None
    gained = with_gains(seen, option)
    return {
        "made_by": f"python -m lab.refine choose --scenes {count}",
        "model": sampled_hash(pipe.unet),
        "refine": {name: getattr(option, name) for name in ("method", "products", "exponent", "spread", "sharpness")},
        "crf": {each.name: getattr(crf, each.name) for each in fields(crf) if each.name not in ("backend", "clip")},
        "words": words | gained["words"],
        "presence": presence_fit(seen),
        "gains": {"weight": gained["weight"], **gain_fit(seen)},
        "tried": {"refine": tried, "crf": fitted, "gains": gained["tried"]},
    }


def with_gains(seen: Sequence[Case], option: RefineOptions) -> dict[str, Any]:
    """Return the weight of word gains that is best for refined maps, and calibrations of maps with gains."""
    maps = [case.maps.only(list(CLASSES)).with_gains(case.gains) for case in seen if case.gains is not None]
    fine = [refined(each, option) for each in maps]
    tried: list[dict[str, Any]] = [
        {"weight": weight, **best_of(_soft(seen, fine, gain_weight=weight), BEYOND)} for weight in WEIGHTS
    ]
    weight = max(tried, key=lambda row: row["iou"])["weight"]
    of = {"plain, gains": maps, "refined, gains": fine}
    soft = {kind: _soft(seen, each, gain_weight=weight) for kind, each in of.items()}
    words = {kind: calibration_of(each, best_of(each, BEYOND)["threshold"]) for kind, each in soft.items()}
    return {"weight": weight, "words": words, "tried": tried}


def _name(option: RefineOptions | CrfOptions | None) -> str:
    if option is None:
        return "none"
    plain = type(option)()
    changed = {key: value for key, value in asdict(option).items() if value != getattr(plain, key)}
    return json.dumps(changed)


def _refined(maps: AttentionMaps, option: RefineOptions | None) -> AttentionMaps:
    return maps if option is None else refined(maps, option)


Soft = Mapping[str, list[tuple[np.ndarray, np.ndarray]]]
"""By class, scores and truth of every scene that shows it."""


def _soft(
    seen: Iterable[Case],
    maps: Iterable[AttentionMaps],
    calibration: Calibration | None = None,
    crf: CrfOptions | None = None,
    gain_weight: float = 0.0,
) -> Soft:
    """Return the scores of the development classes that are there, after a CRF of each alone if there is one.

    Without a calibration they are the stretched maps, whatever the product's defaults are now.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in DEVELOPMENT}
    for case, each in zip(seen, maps, strict=True):
        there = [name for name in case.truth if name in found]
        if not there:
            continue
        chosen = each.only(there)
        if calibration is None:
            scores = torch.stack([share_of(chosen, name, gain_weight=gain_weight) for name in there])
        else:
            scores = scores_by(chosen, calibration)
        if crf is not None:
            picture, none = np.asarray(each.picture()), scores[:0]
            scores = torch.cat([after_crf(one[None], none, _BORDER, picture, crf)[0] for one in scores])
        for name, score in zip(there, scores.numpy(), strict=True):
            found[name].append((score, case.truth[name]))
    return found


def best_of(soft: Soft, thresholds: np.ndarray = THRESHOLDS) -> dict[str, float]:
    """Return the threshold with the greatest mean IoU of the classes, and this."""
    both, either = (np.zeros((len(soft), len(thresholds))) for _ in range(2))
    for row, pairs in enumerate(soft.values()):
        for score, truth in pairs:
            masks = score > thresholds[:, None, None]
            both[row] += (masks & truth).sum((1, 2))
            either[row] += (masks | truth).sum((1, 2))
    iou = (both / np.maximum(either, 1))[either.sum(1) > 0].mean(0)
    best = int(iou.argmax())
    return {"threshold": float(thresholds[best]), "iou": float(iou[best])}


def calibration_of(soft: Soft, border: float) -> dict[str, float]:
    """Return the scale of words' scores that makes the truth most likely, and the border, which is given.

    Each picture counts alike, and so does each of its pixels. A score is `sigmoid(scale * (stretched - border))`.
    """
    pairs = [pair for each in soft.values() for pair in each]

    def loss(scale: float) -> float:
        found = [np.logaddexp(0, np.where(truth, -scale, scale) * (score - border)).mean() for score, truth in pairs]
        return float(np.mean(found))

    found = minimize_scalar(loss, bounds=_SCALES, method="bounded")
    return {"scale": float(found.x), "border": border}


def presence_fit(seen: Sequence[Case]) -> dict[str, float]:
    """Return scale and offset for which the evidence of a word's map tells best whether it is there, and the AUROC."""
    return logistic_fit(
        [
            (evidence(case.maps[i], len(span.tokens)), span.text in case.truth, span.text)
            for case in seen
            for i, span in enumerate(case.maps.spans)
        ]
    )


def gain_fit(seen: Sequence[Case]) -> dict[str, float]:
    """Return the same for the lead of a word's gains."""
    known = [case for case in seen if case.gains is not None]
    return logistic_fit(
        [(case.gains.lead(word), word in case.truth, word) for case in known if case.gains for word in case.gains.words]
    )


def logistic_fit(rows: Sequence[tuple[float, bool, str]]) -> dict[str, float]:
    """Return scale and offset of a logistic regression that weighs presence and absence alike, and the AUROC.

    Args:
        rows: For each word and picture a level, whether the word is there, and the word.
    """
    levels, there = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    weight = np.where(there, 0.5 / there.mean(), 0.5 / (1 - there.mean()))  # absent words are many more
    unit = float(levels.std()) or 1.0

    def loss(given: np.ndarray) -> float:
        signs = np.where(there, 1.0, -1.0)
        return float((weight * np.logaddexp(0, -signs * (given[0] * levels / unit + given[1]))).mean())

    scale, offset = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    groups = {name: np.array([row[2] == name for row in rows]) for name in {row[2] for row in rows}}
    each = [
        presence_auroc(levels[group & there], levels[group & ~there])
        for group in groups.values()
        if (group & there).any() and (group & ~there).any()
    ]
    return {"scale": float(scale) / unit, "offset": float(offset), "auroc": float(np.mean(each))}


def write(found: Mapping[str, Any], path: Path = DEFAULTS) -> None:
    """Write the product's file; what was tried stays out of it."""
    kept = {name: value for name, value in found.items() if name != "tried"}
    path.write_text(json.dumps(kept, indent=2) + "\n")
