"""Generated data: the same pictures four times, each with masks from elsewhere, and two halves of them."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lab.digest import digest, syntax_of
from lab.fits.generated import labels_of, oracle_hashes
from lab.mini.oracle import IGNORE
from lab.training.processes import in_processes
from lab.training.study import AT_RANDOM, MASKS, ORACLE, REFINED, SELECTED, TOKENS, WORDS, Study
from ovam.dataset.annotate import Annotated, annotated
from ovam.dataset.duplicates import hash_of
from ovam.dataset.finish import finish
from ovam.dataset.folder import begin, look
from ovam.dataset.manifest import Shard
from ovam.dataset.model import load_model
from ovam.dataset.names import item_files
from ovam.dataset.prompts import PlannedItem, prompts_of
from ovam.dataset.recipe import Recipe, recipe_of
from ovam.dataset.scoring import score
from ovam.dataset.sections import FilterSection
from ovam.dataset.store import store_in
from ovam.dataset.units import units_of
from ovam.dataset.views import filter_items
from ovam.dataset.words import vocabulary_of
from ovam.defaults import CHOSEN_HASH
from ovam.mini.scenes import LABELS
from ovam.mini.scenes.vocabulary import CLASS_WORDS
from ovam.models import model_hash
from ovam.progress import Progress, no_progress
from ovam.trace.trace import Trace

PLACES = ("grass", "sand", "water", "snow", "road", "floor")
_EACH = 1 - 0.5**0.5
"""Share that each of two filters takes out to leave half."""
_HALF = FilterSection(least_unrefined_quantile=_EACH, least_clip_quantile=_EACH, least_grey=0.0, empty=True)
"""The filter that leaves half of the pictures: those that show what their prompt names, as mini's CLIP says, and whose
masks refinement and CRF changed little."""
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
        study: The study. With several jobs, as many processes load the model by its name.
        model: Name of the model.
        tokens: File of each class's token.
        progress: Called with the number of pictures that are done.
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
    _make(pipe, recipes, folders, study.jobs, progress)
    halves = {name: place / f"{name.replace(' ', '-')}-{digest(asdict(_HALF))}" for name in (SELECTED, AT_RANDOM)}
    if not all(folder.is_dir() for folder in halves.values()):
        for half in halves.values():
            shutil.rmtree(half, ignore_errors=True)
        score(folders[REFINED], "mini")
        filter_items(folders[REFINED], halves[SELECTED], filters=_HALF, random_dir=halves[AT_RANDOM])
    return folders | halves


def _make(pipe: Any, recipes: Mapping[str, Recipe], folders: Mapping[str, Path], jobs: int, progress: Progress) -> None:
    """Make what is missing; each of several processes makes every so many-th unit."""
    first = recipes[REFINED]
    number, there = first.data.number, _done(folders)
    facts = load_model(first, pipe=pipe, progress=no_progress).facts()
    abouts = {
        name: begin(folder, recipes[name], facts, vocabulary_of(recipes[name]).hashes())
        for name, folder in folders.items()
    }
    if jobs == 1:
        make_part(recipes, folders, Shard(), pipe=pipe, progress=progress)
    elif len(there) < number:
        calls = [(recipes, folders, Shard(part, jobs)) for part in range(1, jobs + 1)]
        for _ in in_processes(make_part, calls, lambda: progress("generating", len(_done(folders)), number)):
            pass
    for name, folder in folders.items():
        finish(folder, recipes[name], abouts[name])


def _done(folders: Mapping[str, Path]) -> set[int]:
    """Items that all data sets have."""
    return set.intersection(*({int(path.stem) for path in item_files(folder)} for folder in folders.values()))


def make_part(
    recipes: Mapping[str, Recipe],
    folders: Mapping[str, Path],
    shard: Shard,
    *,
    pipe: Any = None,
    progress: Progress = no_progress,
) -> None:
    """Make the missing items of a shard's units.

    Args:
        recipes: Recipe of each data set.
        folders: Folder of each data set; it is begun.
        shard: The units to make.
        pipe: The model; by default the recipe's.
        progress: Called after each unit.
    """
    there = {name: set(look(folder, shard).units) for name, folder in folders.items()}
    first = recipes[REFINED]
    prompts, number = prompts_of(first), first.data.number
    units = units_of(number, first.model.batch, set.intersection(*there.values()))
    units = [unit for unit in units if shard.has(unit.number)]
    if not units:
        return
    model = load_model(first, pipe=pipe, progress=no_progress)
    vocabularies = {name: vocabulary_of(recipe) for name, recipe in recipes.items()}
    with ExitStack() as stack:
        stores = {name: stack.enter_context(store_in(folder, shard.manifest)) for name, folder in folders.items()}
        for unit in units:
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
