"""Compare what makes a mask from a coarse map and the picture, and how well dense CRFs agree with the authors' own."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lab.measure import BOOTSTRAP_SEED, RESAMPLES, stamp
from lab.refine.grids import Grid
from lab.refine.stand_in import StandIn, stand_ins
from lab.refine.upsample import Enlarged
from ovam.evaluate.overlap import binary_iou, pooled_iou
from ovam.refine.crf import Kernel, colour_points, dense_crf, mean_field, smooth_points
from ovam.refine.crf_options import CrfOptions
from ovam.refine.lattice import lattice

SCENES, SMALL, LARGE = 60, 192, 504  # pictures are a whole number of times as large as the maps
NOISES = (0.05, 0.15, 0.3)
PAPER, THEIRS = CrfOptions(), CrfOptions(backend="pydensecrf")
SCALED = replace(PAPER, smooth_width=3.0 * SMALL / 512, reach=80.0 * SMALL / 512)
SHARPER = replace(PAPER, colour_weight=5.0, reach=30.0)

Score = Callable[[StandIn], np.ndarray]
"""Soft scores (height, width), whose border is at 0.5."""


def enlarged(stand_in: StandIn) -> np.ndarray:
    """The map alone, bilinear."""
    size = stand_in.truth.shape
    return F.interpolate(torch.from_numpy(stand_in.map)[None, None], size, mode="bilinear")[0, 0].numpy()


def refined(stand_in: StandIn, *, options: CrfOptions, score: Score = enlarged) -> np.ndarray:
    """The map, and then a dense CRF."""
    foreground = torch.from_numpy(score(stand_in)).clamp(0, 1)
    return dense_crf(torch.stack([1 - foreground, foreground]), stand_in.picture, options)[1].numpy()


class Upsampled:
    """Upsample Anything; the fit to a picture is kept, as it knows nothing of the map."""

    def __init__(self) -> None:
        """With no picture fitted to."""
        self.fits: dict[int, Enlarged] = {}
        self.seconds: list[float] = []

    def __call__(self, stand_in: StandIn) -> np.ndarray:
        """Enlarge the map."""
        begin = time.perf_counter()
        if stand_in.scene not in self.fits:
            self.fits[stand_in.scene] = Enlarged(stand_in.picture)
            self.seconds.append(time.perf_counter() - begin)
        return self.fits[stand_in.scene](stand_in.map)


def compare(scenes: int, size: int, methods: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Rows of the table: what was done to maps of how much noise, and how good the masks are."""
    rows = []
    for noise in NOISES:
        cases = list(stand_ins(scenes, size, noise))
        masks = {name: [(score(case) > 0.5, case.truth) for case in cases] for name, score in methods.items()}
        ious = {name: np.array([binary_iou(*pair) for pair in pairs]) for name, pairs in masks.items()}
        about = {"size": size, "noise": noise}
        rows += [about | _row(name, masks[name], ious[name], ious["crf"]) for name in methods]
    return rows


def methods_of(theirs: bool) -> dict[str, Score]:
    """What is compared at each size."""
    methods: dict[str, Score] = {"threshold alone": enlarged, "crf": partial(refined, options=PAPER)}
    if theirs:
        methods["crf, pydensecrf"] = partial(refined, options=THEIRS)
    methods["crf, reach 30, smooth width 1.1"] = partial(refined, options=SCALED)
    methods["crf, reach 30, colour weight 5"] = partial(refined, options=SHARPER)
    return methods


def _row(name: str, masks: list[Any], ious: np.ndarray, crf: np.ndarray) -> dict[str, Any]:
    picks = np.random.default_rng(BOOTSTRAP_SEED).integers(len(ious), size=(RESAMPLES, len(ious)))
    low, high = np.percentile((ious - crf)[picks].mean(1), [2.5, 97.5])
    return {
        "method": name,
        "masks": len(ious),
        "mean_iou": float(ious.mean()),
        "pooled_iou": pooled_iou(masks),
        "above_crf": {"mean": float((ious - crf).mean()), "low": float(low), "high": float(high)},
    }


def agreement(scenes: int, size: int, noise: float) -> dict[str, Any]:
    """How far the CRFs of other blurs are from pydensecrf, and how long they take; one class a scene."""
    blurs: dict[str, Callable[[np.ndarray], Any]] = {
        "permutohedral lattice": lattice,
        "bilateral grid, nearest": partial(Grid, shared=False),
        "bilateral grid, multilinear": partial(Grid, shared=True),
    }
    found: dict[str, dict[str, list[float]]] = {name: {} for name in [*blurs, "pydensecrf"]}
    cases = {case.scene: case for case in stand_ins(scenes, size, noise)}
    for case in cases.values():
        expected, seconds = _timed(partial(refined, case, options=THEIRS))
        _add(found["pydensecrf"], seconds=seconds)
        for name, blur in blurs.items():
            ours, seconds = _timed(partial(_by, blur, case))
            apart = np.abs(ours - expected)
            same = float(((ours > 0.5) == (expected > 0.5)).mean())
            _add(found[name], greatest=float(apart.max()), mean=float(apart.mean()), same=same, seconds=seconds)
    return {"scenes": len(cases), "size": size, "noise": noise} | {name: _middles(each) for name, each in found.items()}


def _by(blur: Callable[[np.ndarray], Any], case: StandIn) -> np.ndarray:
    foreground = enlarged(case)
    energies = -np.log(np.stack([1 - foreground, foreground]).clip(PAPER.clip, 1)).reshape(2, -1)
    height, width, _ = case.picture.shape
    smooth, colour = smooth_points(height, width, PAPER.smooth_width), colour_points(case.picture, PAPER)
    kernels = [
        Kernel.around(blur(points).blur, points.shape[1], weight)
        for points, weight in ((smooth, PAPER.smooth_weight), (colour, PAPER.colour_weight))
    ]
    return mean_field(energies, kernels, PAPER.iterations)[1].reshape(foreground.shape)


def _timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def _add(found: dict[str, list[float]], **values: float) -> None:
    for name, value in values.items():
        found.setdefault(name, []).append(value)


def _middles(found: dict[str, list[float]]) -> dict[str, float]:
    ways: dict[str, Callable[[list[float]], Any]] = {"greatest": max, "mean": np.mean, "same": np.mean}
    return {name: float(ways.get(name, np.median)(values)) for name, values in found.items()}


def main(given: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m lab.refine.compare", description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"validation scenes (default: {SCENES})")
    parser.add_argument("--output", type=Path, default=Path("docs/results/refine.json"))
    arguments = parser.parse_args(sys.argv[1:] if given is None else given)
    upsampled, theirs = Upsampled(), find_spec("pydensecrf") is not None
    crfs = methods_of(theirs)
    others: dict[str, Score] = {
        "upsample anything": upsampled,
        "upsample anything, crf": partial(refined, options=PAPER, score=upsampled),
    }
    few = -(-arguments.scenes // 4)  # of large pictures, which take seven times as long
    rows = compare(arguments.scenes, SMALL, crfs | others) + compare(few, LARGE, crfs)
    found = {
        "stamp": stamp(f"python -m lab.refine.compare --scenes {arguments.scenes}"),
        "split": "validation",
        "scenes": arguments.scenes,
        "rows": rows,
        "seconds_of_a_fit_of_upsample_anything": float(np.median(upsampled.seconds)),
        "agreement": [agreement(few, SMALL, 0.15), agreement(-(-few // 3), LARGE, 0.15)] if theirs else None,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
