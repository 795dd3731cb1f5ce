"""Train one segmenter and test it: each is a folder, which is skipped when it is done and gone on with when not."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.digest import digest, syntax_of
from lab.training.real import VALIDATION
from lab.training.study import SETS, Row, Study, slug
from ovam.evaluate import Confusion
from ovam.progress import Progress, no_progress
from ovam.train import Segmenter, TrainOptions, load, read_labelled, train
from ovam.train.checkpoints import FOLDER, last_checkpoint
from ovam.train.files import read_mask

_RESNET: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 96, 128],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_UPERNET: dict[str, Any] = {"hidden_size": 64, "pool_scales": [1, 2], "use_auxiliary_head": False}
# trained on 500 scenes: after 300 steps of 8 squares neither this nor a tiny SegFormer named anything but background;
# after 2000 steps of 16 this one has an mIoU of 0.37


def begun(study: Study, seed: int) -> Path:
    """Folder of the network that all rows with a seed begin with, written where it is missing."""
    labels = len(study.classes) + 1
    return tiny_upernet(study.work_dir / "begun" / f"{labels}-{seed}-{digest([_RESNET, _UPERNET])}", labels, seed)


def tiny_upernet(folder: Path, labels: int, seed: int) -> Path:
    """Write an UPerNet on a ResNet, with random weights, where `ovam train` begins; return its folder."""
    if not (folder / "config.json").is_file():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _model(labels).save_pretrained(folder)
    return folder


def _model(labels: int) -> Any:
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=ResNetConfig(**_RESNET), num_labels=labels, **_UPERNET)
    )


def outcome_of(
    row: Row, seed: int, sets: Mapping[str, Path], study: Study, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train a row with a seed, unless that is done, and return its counts on the test sets.

    Args:
        row: What it is trained on.
        seed: Of weights, order and augmentations.
        sets: Folders by name; those that are gone through lie under names that tell what they hold.
        study: The study.
        progress: Of the training.

    Returns:
        By test set `counts`, (picture, label, 3): pixels of each label in both, in either, and in the truth; and facts
        of the training.
    """
    folder = study.work_dir / "models" / _name_of(row, sets, study) / f"{slug(row.name)}-{seed}"
    file = folder / "tested.json"
    if not file.is_file():
        begun = time.monotonic()
        about = _trained(row, seed, sets, study, folder, progress)
        segmenter = load(folder, device="cuda" if study.device == "cuda" else "cpu")
        counts = {name: counts_of(segmenter, sets[name], len(study.classes) + 1) for name in SETS}
        seconds = round(time.monotonic() - begun, 1)
        facts = {"validation": about["figures"]["miou"], "seconds": seconds}
        temporary = file.with_suffix(".partial")
        temporary.write_text(json.dumps({**facts, "counts": {name: each.tolist() for name, each in counts.items()}}))
        temporary.replace(file)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return {**found, "counts": {name: np.array(each) for name, each in found["counts"].items()}}


def _name_of(row: Row, sets: Mapping[str, Path], study: Study) -> str:
    """Name of all that a result depends on besides row and seed."""
    used = [str(sets[name].relative_to(study.work_dir)) for name in (*row.data, VALIDATION, *SETS)]
    options = [study.classes, study.steps, study.batch_size, study.size, study.rate, _RESNET, _UPERNET]
    return digest([used, options, syntax_of("ovam.train", "ovam.evaluate")])


def _trained(
    row: Row, seed: int, sets: Mapping[str, Path], study: Study, folder: Path, progress: Progress
) -> dict[str, Any]:
    begin = begun(study, seed)
    options = TrainOptions(
        arch=str(begin),
        steps=study.steps,
        batch_size=study.batch_size,
        learning_rate=study.rate,
        size=study.size,
        evaluate_every=study.steps,  # the last step is tested: with few scenes, the best of several steps is chance
        seed=seed,
    )
    return train(
        [(sets[name], 1.0) for name in row.data],
        sets[VALIDATION],
        folder,
        options=options,
        resume=last_checkpoint(folder) is not None,
        device="cpu" if study.device == "cpu" else None,
        progress=progress,
    )


def counts_of(segmenter: Segmenter, folder: Path, labels: int) -> np.ndarray:
    """What a segmenter reaches on each picture: (picture, label, 3) int64, see `outcome_of`."""
    data = read_labelled(folder, "val")
    table, found = segmenter.classes.labels_of(data.classes), []
    to_label = np.zeros(256, dtype=np.uint8)
    to_label[segmenter.classes.ids_of()] = np.arange(labels)
    for picture, mask in data.pairs:
        one = Confusion.of(to_label[segmenter(picture)], table[read_mask(mask)], labels).counts
        both = np.diag(one)
        found.append(np.stack([both, one.sum(0) + one.sum(1) - both, one.sum(1)], axis=-1))
    return np.stack(found)


def parameters_of(labels: int) -> int:
    """Number of weights of the segmenter."""
    with torch.random.fork_rng():
        return sum(each.numel() for each in _model(labels).parameters())
