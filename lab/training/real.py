"""Real data: rendered scenes with exact masks. The annotations behind the tokens are the first of them."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lab.digest import digest
from lab.fits.scenes import FIRST, UNUSED, annotation_scenes
from lab.training.study import DOMAIN_B, TEST, Study, real_name
from ovam.mini.scenes import LABELS, WORLD, Scene, Split, render, seed_of

VALIDATION = "validation"


def real_sets(study: Study) -> dict[str, Path]:
    """Folders of the real training sets, of validation and of the test sets, written where they are missing.

    Each larger training set holds the smaller ones.
    """
    most = max(study.real)
    sets: dict[str, Iterable[Scene]] = {
        real_name(count): itertools.islice(training_scenes(study.classes, most), count) for count in study.real
    }
    sets[VALIDATION] = _scenes("validation", 0, study.validation)
    sets[TEST] = _scenes("test", FIRST["test"], study.tested)
    sets[DOMAIN_B] = _scenes("domain b", 0, study.tested)
    about = [WORLD, study.classes, study.real, study.validation, study.tested]
    place = study.work_dir / "scenes" / digest(about)
    return {name: _written(place / name.replace(" ", "-"), scenes, study.classes) for name, scenes in sets.items()}


def training_scenes(classes: Sequence[str], count: int) -> Iterator[Scene]:
    """Scenes of the training split that mini never saw: one annotation of each class first, then the others in turn.

    Args:
        classes: The classes.
        count: Number of scenes; at least one for each class.
    """
    annotated = [scenes[0] for scenes in annotation_scenes(classes, 1).values()]
    yield from annotated[:count]
    taken, left = {scene.seed for scene in annotated}, count - len(annotated)
    for index in itertools.count(UNUSED):
        if left <= 0:
            return
        seed = seed_of("train", index)
        if seed not in taken:
            left -= 1
            yield render(seed, split="train")


def labels_of(scene: Scene, classes: Sequence[str]) -> np.ndarray:
    """Numbers of the classes, as Pascal VOC has them, 0 for all else: (height, width) uint8."""
    return np.where(np.isin(scene.labels, [LABELS[name] for name in classes]), scene.labels, np.uint8(0))


def _scenes(split: Split, first: int, count: int) -> Iterator[Scene]:
    return (render(seed_of(split, first + i), split=split) for i in range(count))


def _written(folder: Path, scenes: Iterable[Scene], classes: Sequence[str]) -> Path:
    """Write a folder that `ovam train` reads; it is there whole or not at all."""
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("images", "labels"):
        (partial / part).mkdir(parents=True)
    for scene in scenes:
        name = f"{scene.seed:09d}.png"
        Image.fromarray(scene.image).save(partial / "images" / name)
        Image.fromarray(labels_of(scene, classes)).save(partial / "labels" / name)
    named = {"0": "background", **{str(LABELS[name]): name for name in classes}}
    (partial / "names.json").write_text(json.dumps({"labels": named}))
    partial.replace(folder)
    return folder
