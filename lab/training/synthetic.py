"""Generated data: the same pictures four times, each with masks from elsewhere, and two halves of them."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lab.digest import digest, syntax_of
from lab.fits.generated import labels_of, oracle_hashes
from lab.mini.oracle import IGNORE
from lab.training.study import AT_RANDOM, MASKS, ORACLE, REFINED, SELECTED, TOKENS, WORDS, Study
from ovam.dataset.annotate import Annotated, annotated
from ovam.dataset.duplicates import hash_of
from ovam.dataset.filters import kept_by
from ovam.dataset.finish import finish
from ovam.dataset.folder import begin, look
from ovam.dataset.item import Item
from ovam.dataset.layout import read
from ovam.dataset.manifest import MANIFEST, Shard
from ovam.dataset.model import load_model
from ovam.dataset.prompts import PlannedItem, prompts_of
from ovam.dataset.recipe import Recipe, recipe_of
from ovam.dataset.sections import FilterSection
from ovam.dataset.store import store_in
from ovam.dataset.units import units_of
from ovam.dataset.views import filter_items
from ovam.dataset.words import vocabulary_of
from ovam.defaults import CHOSEN_HASH
from ovam.errors import DatasetError
from ovam.mini.scenes import LABELS
from ovam.mini.scenes.vocabulary import CLASS_WORDS
from ovam.models import model_hash
from ovam.progress import Progress, no_progress
from ovam.trace.trace import Trace

PLACES = ("grass", "sand", "water", "snow", "road", "floor")
_QUANTILES = 200
"""Quantiles that are tried to find half of the pictures."""
_CODE = ("ovam.dataset", "ovam.maps", "ovam.masks", "ovam.refine", "ovam.tokens", "ovam.tracing", "ovam.backbones")


def recipes_of(study: Study, model: str, tokens: Sequence[Path]) -> dict[str, Recipe]:
    """Recipes of the data sets, which differ in their masks alone. The oracle's is that of words: it needs none."""
    masks: dict[str, dict[str, Any]] = {
        WORDS: {"refine": False},
        TOKENS: {"refine": False, "tokens": [str(path.absolute()) for path in tokens]},
        REFINED: {"refine": True, "crf": True, "tokens": [str(path.absolute()) for path in tokens]},
        ORACLE: {"refine": False},
    }
    return {name: _recipe(study, model, name, values) for name, values in masks.items()}


def _recipe(study: Study, model: str, name: str, masks: Mapping[str, Any]) -> Recipe:
    return recipe_of(
        {
            "data": {
                "name": f"generated, masks: {name}",
                "vocabulary": "voc",
                "classes": list(study.classes),
                "number": study.pictures,
            },
            "prompts": {"places": list(PLACES)},
            "model": {"model": model, "batch": min(8, study.pictures), "guidance_scale": study.guidance},
            "masks": masks,
            "splits": {"train": 1, "validation": 0},
            "class": [{"name": each, "words": list(CLASS_WORDS[each])} for each in study.classes],
        }
    )


def synthetic_sets(
    pipe: Any, study: Study, model: str, tokens: Sequence[Path], progress: Progress = no_progress
) -> dict[str, Path]:
    """Folders of the generated data sets, made as far as they are missing.

    Prompts and noise are those of the recipe of refined masks in all of them, so that their pictures are the same.

    Args:
        pipe: The model.
        study: The study.
        model: Name of the model.
        tokens: File of each class's token.
        progress: Called after each unit.
    """
    recipes = recipes_of(study, model, tokens)
    about = [
        model_hash(pipe),
        oracle_hashes(),
        syntax_of(*_CODE),
        CHOSEN_HASH,
        [one.facts() for one in recipes.values()],
    ]
    place = study.work_dir / "generated" / digest(about)
    folders = {name: place / name for name in MASKS}
    _make(pipe, recipes, folders, progress)
    halves = {name: place / name.replace(" ", "-") for name in (SELECTED, AT_RANDOM)}
    if not all(folder.is_dir() for folder in halves.values()):
        _halve(folders[REFINED], halves)
    return folders | halves


def _make(pipe: Any, recipes: Mapping[str, Recipe], folders: Mapping[str, Path], progress: Progress) -> None:
    there = {name: set(look(folder, Shard()).units) for name, folder in folders.items()}
    first = recipes[REFINED]
    prompts, number = prompts_of(first), first.data.number
    model = load_model(first, pipe=pipe, progress=no_progress)
    vocabularies = {name: vocabulary_of(recipe) for name, recipe in recipes.items()}
    abouts = {
        name: begin(folder, recipes[name], model.facts(), vocabularies[name].hashes())
        for name, folder in folders.items()
    }
    with ExitStack() as stack:
        stores = {name: stack.enter_context(store_in(folder, MANIFEST)) for name, folder in folders.items()}
        for unit in units_of(number, first.model.batch, set.intersection(*there.values())):
            progress("generating", unit.indices[0], number)
            items = [prompts[index] for index in unit.indices]
            traces = model.run(items)
            seen = oracle_masks(items, traces)
            for name, recipe in recipes.items():
                vocabularies[name].prepare(traces[0].text, items)
                for one, trace, truth in zip(items, traces, seen, strict=True):
                    if one.index not in there[name]:
                        made = truth if name == ORACLE else annotated(trace, one, vocabularies[name], recipe)
                        stores[name].keep(one, unit.number, trace.image_png or b"", made)
    for name, folder in folders.items():
        finish(folder, recipes[name], abouts[name])


def oracle_masks(items: Sequence[PlannedItem], traces: Sequence[Trace]) -> list[Annotated]:
    """What both oracles see of the classes that each prompt names; 255 where they differ."""
    images = [trace.image for trace in traces]
    truths = labels_of(np.stack([np.asarray(image) for image in images]), ("a", "b"))
    found = list[Annotated]()
    for one, image, labels in zip(items, images, truths, strict=True):
        named = {name: LABELS[name] for name in one.classes}
        labels = np.where(np.isin(labels, [0, IGNORE, *named.values()]), labels, np.uint8(0))
        areas = {name: round(float((labels == number).mean()), 6) for name, number in named.items()}
        found.append(Annotated(labels, areas, round(float((labels == IGNORE).mean()), 6), {}, hash_of(image)))
    return found


def _halve(folder: Path, halves: Mapping[str, Path]) -> None:
    """Write the half whose masks refinement and CRF changed least, class by class, and as many at random."""
    for half in halves.values():
        shutil.rmtree(half, ignore_errors=True)
    filter_items(folder, halves[SELECTED], filters=_half_of(read(folder).items), random_dir=halves[AT_RANDOM])


def _half_of(items: Sequence[Item]) -> FilterSection:
    """Return the filter with the highest quantile of each class's scores that leaves at least half of the items."""
    wanted = (len(items) + 1) // 2
    for quantile in np.linspace(1, 0, _QUANTILES, endpoint=False):
        filters = FilterSection(least_unrefined_quantile=float(quantile), least_grey=0.0, empty=True)
        try:
            if len(kept_by(items, filters).items) >= wanted:
                return filters
        except DatasetError:  # none is left
            continue
    return FilterSection(least_grey=0.0, empty=True)
