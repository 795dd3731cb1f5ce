"""Images a second of `ovam dataset generate` with masks, against the plain pipeline; and memory over many items."""

import gc
import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from lab.measure import alternately, ratios, timed
from lab.performance.models import full_size_pictures
from lab.performance.options import Options
from ovam.dataset.annotate import annotated
from ovam.dataset.finish import finish
from ovam.dataset.folder import begin
from ovam.dataset.generator import generate
from ovam.dataset.manifest import MANIFEST
from ovam.dataset.model import Model, load_model
from ovam.dataset.prompts import prompts_of
from ovam.dataset.recipe import Recipe, recipe_of
from ovam.dataset.store import store_in
from ovam.dataset.units import units_of
from ovam.dataset.words import vocabulary_of
from ovam.dataset.work import Run, make_units
from ovam.malloc import keep_freed_memory
from ovam.models import load, model_hash
from ovam.progress import no_progress

NUMBER, BATCH, STEPS = 48, 8, 30
FULL_NUMBER, FULL_BATCH, FULL_STEPS = 1, 1, 5
MANY, MANY_STEPS, EVERY = 500, 2, 50
GENERATE, CRF, PLAIN = "generate", "generate, with a CRF", "plain"
GOAL = 0.97
CLASSES = ("dog", "cat", "car")


def run(options: Options) -> dict[str, Any]:
    """Measure mini, as one command, and the memory over many items."""
    keep_freed_memory()  # as the command does; the plain pipeline gains from it too
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    number, steps, many = (16, 2, 16) if options.quick else (NUMBER, STEPS, MANY)
    recipe = recipe_for(number, steps)
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(i) for i in itertools.count())
        works: dict[str, Callable[[], object]] = {
            GENERATE: lambda: _whole(generate(recipe, next(places), pipe=pipe)),
            CRF: lambda: _whole(generate(recipe.with_flags({"crf": True}), next(places), pipe=pipe)),
            PLAIN: lambda: plain(pipe, recipe),
        }
        seconds = alternately({name: timed(work) for name, work in works.items()}, options.pairs)
        memory = memory_of(pipe, many, Path(folder) / "many")
        every = every_of(pipe, recipe.with_flags({"number": 4 if options.quick else MANY // 10}))
    return {
        "model": f"mini: {model_hash(pipe)}",
        "seed": 0,
        **_speeds(recipe, seconds),
        "memory": {"items": many, "steps": MANY_STEPS, "every": EVERY, "megabytes": memory},
        "every": every,
    }


def run_large(options: Options) -> dict[str, Any]:
    """Measure a UNet of SD 1.5's size with random weights, one image after the other; a quick run leaves it out.

    The hash of the weights, which is computed once a run, is left out: it takes seconds, and a run hours.
    """
    if options.quick:
        return {"skipped": "left out of quick runs"}
    subject = full_size_pictures(FULL_STEPS)
    recipe = recipe_for(FULL_NUMBER, FULL_STEPS, FULL_BATCH).with_flags({"crf": True})
    model = load_model(recipe, pipe=subject.pipe, progress=no_progress)
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(i) for i in itertools.count())
        works: dict[str, Callable[[], object]] = {
            CRF: lambda: produce(model, next(places)),
            PLAIN: lambda: plain(subject.pipe, recipe),
        }
        seconds = alternately({name: timed(work) for name, work in works.items()}, options.pairs)
    return {"model": subject.weights, "seed": 0, "size": list(model.facts().size), **_speeds(recipe, seconds)}


def _whole(result: Mapping[str, Any]) -> None:
    """Check that no image failed: a failure is no speed."""
    if result["failed"]:
        raise RuntimeError(f"{result['failed']} images failed: {result['failures'][0]['error']}")


def produce(model: Model, folder: Path) -> None:
    """Make a data set with a model that is loaded already."""
    recipe = model.recipe
    run = Run(recipe, prompts_of(recipe), vocabulary_of(recipe))
    about = begin(folder, recipe, model.facts(), run.vocabulary.hashes())
    with store_in(folder, MANIFEST) as store:
        make_units(run, units_of(recipe.data.number, recipe.model.batch, ()), model, store, lambda done, steps: None)
    finish(folder, recipe, about)
    _whole({"failed": len(run.failures), "failures": [{"error": error} for error in run.failures.values()]})


def every_of(pipe: Any, recipe: Recipe) -> dict[str, Any]:
    """Compare masks whose self-attention is a mean over every n-th call with those of all calls, on the same images.

    Returns:
        `n`, the number of images, and the mean IoU of a class's masks; a class that neither mask has is left out.
    """
    all_calls = recipe.with_flags({"self_attention_every": 1, "ignore_changed": False})
    some_calls = recipe.with_flags({"ignore_changed": False})
    prompts, shares = prompts_of(recipe), list[float]()
    models = [load_model(one, pipe=pipe, progress=no_progress) for one in (all_calls, some_calls)]
    vocabulary = vocabulary_of(recipe)
    for unit in units_of(recipe.data.number, recipe.model.batch, ()):
        items = [prompts[index] for index in unit.indices]
        runs = [model.run(items) for model in models]
        vocabulary.prepare(runs[0][0].text, items)
        for item, *traces in zip(items, *runs, strict=True):
            one, other = (
                annotated(trace, item, vocabulary, model.recipe).labels
                for trace, model in zip(traces, models, strict=True)
            )
            for number in np.union1d(one[one > 0], other[other > 0]):
                both, either = (one == number) & (other == number), (one == number) | (other == number)
                shares.append(float(both.sum() / either.sum()))
    every = recipe.masks.self_attention_every
    return {"n": every, "images": recipe.data.number, "iou": float(np.mean(shares)) if shares else None}


def _speeds(recipe: Recipe, seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "images": recipe.data.number,
        "batch": recipe.model.batch,
        "steps": recipe.model.num_inference_steps,
        "seconds": seconds,
        "ratios": ratios(seconds, {name: (PLAIN, name) for name in seconds if name != PLAIN}),
    }


def recipe_for(number: int, steps: int, batch: int = BATCH) -> Recipe:
    """Return a recipe with the default masks, which are refined and have no CRF."""
    return recipe_of(
        {
            "data": {"name": "speed", "classes": list(CLASSES), "number": number},
            "model": {"model": "mini", "batch": batch, "num_inference_steps": steps},
        }
    )


def plain(pipe: Any, recipe: Recipe) -> None:
    """Run the pipeline alone with the prompts, seeds, batch and guidance of the recipe."""
    prompts, batch = prompts_of(recipe), recipe.model.batch
    for start in range(0, recipe.data.number, batch):
        some = [prompts[index] for index in range(start, min(start + batch, recipe.data.number))]
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
