"""From an image and its mask to a saved token: the seconds on mini, and what keeping less of a trace costs."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ovam
from lab.fits.opened import REPORT
from lab.fits.outcome import Outcome, pooled, row_of
from lab.fits.scenes import annotation_scenes, mask_of, of_split, scored_with
from lab.fits.table import difference, draws_of
from lab.performance.narrowed import narrowed
from lab.performance.options import Options
from ovam.mini.scenes import CLASSES, Scene
from ovam.models import model_hash
from ovam.pictures import mask_picture
from ovam.tracing.encode_options import TIMESTEPS

SCORED = 60
USUAL = "as by default"
FEWER = TIMESTEPS[::3]
QUICK_CLASSES, QUICK_SCORED = CLASSES[6:9], 12

Encoded = dict[str, Any]
"""Options of `encode`."""

NARROW = {"half of the channels of each head": 0.5, "a quarter of the channels of each head": 0.25}
"""Settings whose fits see so much of the queries; what is asked later is whole."""


@dataclass(frozen=True)
class Made:
    """A token, read from its file.

    Attributes:
        tokens: Of one class.
        seconds: Of encoding, fitting and saving.
        own: Pixels in both and in either on the annotated image.
    """

    tokens: ovam.TokenSet
    seconds: tuple[float, float, float]
    own: tuple[int, int]


def run(options: Options) -> dict[str, Any]:
    """Time every setting on one annotation of every class, in turns, and score the tokens on validation scenes."""
    classes, count = (QUICK_CLASSES, QUICK_SCORED) if options.quick else (CLASSES, SCORED)
    pipe, known = ovam.load("mini"), settings()
    annotated = {name: scenes[0] for name, scenes in annotation_scenes(classes, 1).items()}
    made: dict[str, dict[str, Made]] = {setting: {} for setting in known}
    make(pipe, annotated[classes[0]], classes[0], known[USUAL])  # not counted
    for number, name in enumerate(classes):
        for setting in known if number % 2 == 0 else reversed(list(known)):
            made[setting][name] = make(pipe, annotated[name], name, known[setting], NARROW.get(setting, 1.0))
    scored = [of_split("validation")(index) for index in range(count)]
    outcomes = {setting: score(pipe, made[setting], known[setting], scored) for setting in known}
    return {
        "models": {"mini": {"model": "mini", "weights": model_hash(pipe)}},
        "seed": "that of each scene",
        "scenes": count,
        "settings": {
            setting: _figures(made[setting], outcomes[setting], outcomes[USUAL] if setting != USUAL else None)
            for setting in known
        },
    }


def settings() -> dict[str, Encoded]:
    """Options of `encode` by name; the first are its defaults, which store float16."""
    best = json.loads(REPORT.read_text())["sections"]["choices"]["best"]
    return {
        USUAL: {},
        "float32": {"dtype": torch.float32},
        "bfloat16": {"dtype": torch.bfloat16},
        "int8": {"dtype": torch.int8},
        f"{len(FEWER)} of {len(TIMESTEPS)} time steps": {"timesteps": FEWER},
        f"the {len(best['timesteps'])} time steps of mini's report": best,
        **{setting: {"dtype": torch.float32} for setting in NARROW},
    }


def make(pipe: Any, scene: Scene, name: str, encoded: Encoded, channels: float = 1.0) -> Made:
    """One token, from files to a file; `channels` is the share of each head's that the fit sees."""
    with tempfile.TemporaryDirectory() as folder:
        image, mask, file = (Path(folder) / each for each in ("image.png", "mask.png", "tokens.safetensors"))
        Image.fromarray(scene.image).save(image)
        mask_picture(torch.from_numpy(mask_of(scene, name))).save(mask)
        times = [time.perf_counter()]
        trace = ovam.encode(pipe, image, seed=scene.seed, **encoded)
        times.append(time.perf_counter())
        tokens = ovam.optimize_tokens(trace if channels == 1 else narrowed(trace, channels), {name: mask})
        times.append(time.perf_counter())
        tokens.save(file)
        times.append(time.perf_counter())
        read = ovam.TokenSet.load(file)
    encoding, fitting, saving = np.diff(times).tolist()
    own = row_of(trace.segment(read).scores[0].numpy(), scene, name)
    return Made(read, (encoding, fitting, saving), pooled([own]))


def score(pipe: Any, made: Mapping[str, Made], encoded: Encoded, scenes: Sequence[Scene]) -> dict[str, list[Outcome]]:
    """Outcomes by class, on scenes that are encoded as the annotations were; classes that no scene shows left out."""
    rows: dict[str, list[Any]] = {name: [] for name in made}
    for scene in scenes:
        names = [name for name in made if any(scored_with([scene], name))]
        if names:
            trace = ovam.encode(pipe, scene.image, seed=scene.seed, **encoded)
            for name in names:
                rows[name].append(row_of(trace.segment(made[name].tokens).scores[0].numpy(), scene, name))
    return {
        name: [Outcome(tuple(found), made[name].own, None, sum(made[name].seconds))]
        for name, found in rows.items()
        if found
    }


def _figures(
    made: Mapping[str, Made], outcomes: Mapping[str, list[Outcome]], usual: Mapping[str, list[Outcome]] | None
) -> dict[str, Any]:
    encoding, fitting, saving = zip(*(each.seconds for each in made.values()), strict=True)
    figures = {"encoding": encoding, "fitting": fitting, "saving": saving, "mIoU": float(np.mean(draws_of(outcomes)))}
    if usual is not None:
        gap = difference(outcomes, usual)
        figures["minus default"] = gap.listed()
    return figures
