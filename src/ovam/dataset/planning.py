"""Plan a data set: how many images of which classes, how many bytes, and by a short run how much time."""

import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.dataset.generator import generate
from ovam.dataset.model import LEAST_MULTIPLE
from ovam.dataset.prompts import prompts_of
from ovam.dataset.recipe import Recipe
from ovam.dataset.words import vocabulary_of
from ovam.models import load, outline
from ovam.progress import Progress, clock, no_progress
from ovam.tracing.limits import check_size
from ovam.tracing.plan import native_side

_SHOWN, _COUNTED = 5, 10_000
_IMAGE, _MASK, _ITEM = 1.6, 0.03, 2_500
"""Bytes of a pixel of an image and of a mask as PNG, and of an item's own file and lines: rough, on the high side."""


def plan(
    recipe: Recipe,
    *,
    measure: bool = False,
    pipe: Any = None,
    device: str | torch.device = "cpu",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return what a recipe will make.

    Args:
        recipe: The recipe.
        measure: Whether a unit is made in a temporary folder, to know time and bytes; otherwise bytes are estimated.
        pipe: Pipeline to use instead of the recipe's model.
        device: Device of the model, if it is loaded here.
        progress: As in `generate`.

    Returns:
        Numbers of images, units and images of each class, the first prompts, bytes, and `run_seconds` if it was
        measured.

    Raises:
        RecipeError: the recipe can't be used.
        The errors of loading a model.
    """
    check_size(LEAST_MULTIPLE, height=recipe.model.height or None, width=recipe.model.width or None)
    prompts = prompts_of(recipe)
    vocabulary = vocabulary_of(recipe)
    number, batch = recipe.data.number, recipe.model.batch
    counted = min(number, _COUNTED)
    items = [prompts[index] for index in range(counted)]
    counts = Counter(name for one in items for name in one.classes)
    facts = {
        "command": "dataset plan",
        "version": __version__,
        "recipe": recipe.digest(),
        "images": number,
        "units": -(-number // batch),
        "steps": number * recipe.model.num_inference_steps,
        "classes": [
            {
                "class": one.name,
                "id": one.id,
                "words": list(one.words),
                "token": vocabulary.tokens is not None and one.name in vocabulary.tokens.classes,
                "images": round(counts[one.name] * number / counted),
            }
            for one in recipe.classes
        ],
        "splits": {split: round(n * number / counted) for split, n in Counter(one.split for one in items).items()},
        "prompts": [one.prompt for one in items[:_SHOWN]],
    }
    if measure:
        return {**facts, **_measured(recipe, pipe=pipe, device=device, progress=progress)}
    pipe = outline(recipe.model.model) if pipe is None else pipe
    side = native_side(pipe) * pipe.vae_scale_factor
    height, width = recipe.model.height or side, recipe.model.width or side
    each = height * width * (_IMAGE + _MASK) + _ITEM
    return {**facts, "size": [height, width], "bytes": round(each * number), "measured": False}


def _measured(recipe: Recipe, *, pipe: Any, device: str | torch.device, progress: Progress) -> dict[str, Any]:
    """Make one unit; the time of loading the model does not count."""
    options = recipe.model
    if pipe is None:
        progress(f"loading {options.model}", 0, 0)
        pipe = load(options.model, dtype=getattr(torch, options.dtype), device=device)
        pipe.set_progress_bar_config(disable=True)
    batch = min(options.batch, recipe.data.number)
    with tempfile.TemporaryDirectory() as scratch:
        folder, begun = Path(scratch) / "measured", time.monotonic()
        short = replace(recipe, data=replace(recipe.data, number=batch))
        generate(short, folder, pipe=pipe, device=device, progress=progress)
        seconds = time.monotonic() - begun
        files = [path for part in ("items", "images", "masks") for path in (folder / part).iterdir()]
        size = sum(path.stat().st_size for path in files)
    number = recipe.data.number
    return {
        "bytes": round(size / batch * number),
        "measured": True,
        "images_a_second": round(batch / seconds, 3),
        "run_seconds": round(seconds / batch * number, 1),
        "time": clock(seconds / batch * number),
    }
