"""Images a second of `ovam dataset generate` with masks, against the plain pipeline; and memory over many items."""

import gc
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from lab.measure import alternately, ratios, timed
from lab.performance.options import Options
from ovam.dataset.generator import generate
from ovam.dataset.prompts import PlannedItem, prompts_of
from ovam.dataset.recipe import Recipe, recipe_of
from ovam.models import load, model_hash

NUMBER, BATCH, STEPS = 16, 8, 30
MANY, MANY_STEPS, EVERY = 500, 2, 50
GENERATE, PLAIN = "generate", "plain"
GOAL = 0.97
CLASSES = ("dog", "cat", "car")


def run(options: Options) -> dict[str, Any]:
    """Measure both on mini."""
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    steps, many = (2, 16) if options.quick else (STEPS, MANY)
    recipe = recipe_for(NUMBER, steps)
    prompts = prompts_of(recipe)
    items = [prompts[index] for index in range(NUMBER)]
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(i) for i in itertools.count())
        works: dict[str, Callable[[], object]] = {
            GENERATE: lambda: generate(recipe, next(places), pipe=pipe),
            PLAIN: lambda: plain(pipe, items, recipe),
        }
        seconds = alternately({name: timed(work) for name, work in works.items()}, options.pairs)
        memory = memory_of(pipe, many, Path(folder) / "many")
    return {
        "model": f"mini: {model_hash(pipe)}",
        "seed": 0,
        "images": NUMBER,
        "batch": BATCH,
        "steps": steps,
        "seconds": seconds,
        "ratios": ratios(seconds, {"plain over generate": (PLAIN, GENERATE)}),
        "memory": {"items": many, "steps": MANY_STEPS, "every": EVERY, "megabytes": memory},
    }


def recipe_for(number: int, steps: int) -> Recipe:
    """Return a recipe with refined masks."""
    return recipe_of(
        {
            "data": {"name": "speed", "classes": list(CLASSES), "number": number},
            "model": {"model": "mini", "batch": BATCH, "num_inference_steps": steps},
            "masks": {"refine": True, "crf": True},
        }
    )


def plain(pipe: Any, items: Sequence[PlannedItem], recipe: Recipe) -> None:
    """Run the pipeline alone with the prompts, seeds, batch and guidance of the recipe."""
    for start in range(0, len(items), BATCH):
        some = items[start : start + BATCH]
        pipe(
            [item.prompt for item in some],
            num_inference_steps=recipe.model.num_inference_steps,
            guidance_scale=recipe.model.guidance_scale,
            generator=[torch.Generator().manual_seed(item.seed) for item in some],
        )


def memory_of(pipe: Any, number: int, folder: Path) -> list[float]:
    """Return the process's memory in MB after every `EVERY` items of one run with few steps."""
    process, found = psutil.Process(), list[float]()
    seen = 0

    def watch(what: str, done: int, total: int) -> None:
        nonlocal seen
        if total and done // EVERY > seen:
            seen = done // EVERY
            gc.collect()
            found.append(process.memory_info().rss / 1e6)

    generate(recipe_for(number, MANY_STEPS), folder, pipe=pipe, progress=watch)
    return found
