"""Models to train: transformers' segmenters, from a name with random weights, or from a folder or id with their own."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ovam.errors import ModelNotFoundError
from ovam.train.classes import IGNORE, Classes
from ovam.train.model_input import Scaling, scaling_of

_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_UNIVERSAL = ("mask2former",)  # kinds that predict masks and their classes, not classes of pixels
_IDS = "dataset_ids"  # in a model's config.json: id of each label in the masks of its data set


@dataclass(frozen=True, eq=False)
class Start:
    """A model before it is trained.

    Attributes:
        model: A model of transformers.
        universal: Whether it predicts masks and their classes, as Mask2Former does, not classes of pixels.
        own_weights: Whether its weights were trained before.
        scaling: Input that it takes.
    """

    model: Any
    universal: bool
    own_weights: bool
    scaling: Scaling

    @property
    def processor(self) -> dict[str, Any]:
        """Contents of its `preprocessor_config.json`."""
        return self.scaling.processor("Mask2FormerImageProcessor" if self.universal else "SegformerImageProcessor")


def _segformer(named: dict[str, Any]) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(SegformerConfig(semantic_loss_ignore_index=IGNORE, **named))


def _upernet(named: dict[str, Any]) -> Any:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(out_features=_STAGES)
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, loss_ignore_index=IGNORE, **named))


def _mask2former(named: dict[str, Any]) -> Any:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(depths=(2, 2, 6, 2), out_features=_STAGES)
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, **named))


_BUILD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "segformer-b0": _segformer,
    "upernet-convnext": _upernet,
    "mask2former": _mask2former,
}
ARCHS = tuple(_BUILD)
"""Names of models that begin with random weights."""


def check_arch(arch: str) -> None:
    """Check that a name can be the name of a model; nothing is loaded.

    Raises:
        ModelNotFoundError: the name is not in `ARCHS`, is not a folder with a model, and can't be an id. The message
            names the most similar name.
    """
    if arch in _BUILD or (Path(arch) / "config.json").is_file():
        return
    if Path(arch).is_dir():
        raise ModelNotFoundError(
            f"model {arch!r} is a folder without config.json: expected one that transformers wrote"
        )
    if not _ID.fullmatch(arch):
        near = difflib.get_close_matches(arch, ARCHS, 1, 0)[0]
        raise ModelNotFoundError(
            f"model {arch!r} is unknown, the most similar name is {near!r}: expected one of {', '.join(ARCHS)}, the "
            "folder of a model, or an id such as nvidia/mit-b0"
        )


def start(arch: str, classes: Classes, *, size: int, seed: int) -> Start:
    """Make or load a model for these classes.

    Random numbers are torch's of that seed; its state afterwards is as before.

    Args:
        arch: One of `ARCHS`, or a folder or id; layers that don't fit the classes begin with random weights.
        classes: What it learns.
        size: Short side of its pictures in pixels.
        seed: Seed of random weights.

    Raises:
        ModelNotFoundError: there is no such model, or it does no segmentation that can be trained here.
    """
    check_arch(arch)
    named = {"id2label": classes.by_label, "label2id": {name: i for i, name in classes.by_label.items()}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if arch in _BUILD:
            model, scaling = _BUILD[arch](named), Scaling(size)
        else:
            model, scaling = _loaded(arch, named), replace(scaling_of(processor_of(arch), size), size=size)
    universal = model.config.model_type in _UNIVERSAL
    for key in ("semantic_loss_ignore_index", "loss_ignore_index"):
        if hasattr(model.config, key):
            setattr(model.config, key, IGNORE)
    setattr(model.config, _IDS, list(classes.ids))
    scaling = replace(scaling, divisor=32 if universal else 1)
    return Start(model, universal, arch not in _BUILD, scaling)


def open_trained(name: str) -> tuple[Start, Classes]:
    """Load a trained model with its classes.

    Raises:
        ModelNotFoundError: there is no such model, or it does no segmentation that can be used here.
    """
    check_arch(name)
    model = _loaded(name, {})
    names = model.config.id2label
    ids = getattr(model.config, _IDS, None) or range(len(names))
    classes = Classes(tuple(map(int, ids)), tuple(str(names[i]) for i in range(len(names))))
    universal = model.config.model_type in _UNIVERSAL
    return Start(model, universal, True, scaling_of(processor_of(name), 512)), classes


def _loaded(name: str, named: dict[str, Any]) -> Any:
    from transformers import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        AutoConfig,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )

    try:
        config = AutoConfig.from_pretrained(name)
        universal = config.model_type in _UNIVERSAL
        if not universal and type(config) not in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
            raise ModelNotFoundError(
                f"model {name!r} is a {config.model_type}: expected one that segments, such as a SegFormer, a UPerNet "
                "or a Mask2Former"
            )
        kind = AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation
        return kind.from_pretrained(name, ignore_mismatched_sizes=True, **named)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelNotFoundError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ModelNotFoundError(
            f"model {name!r} could not be loaded ({reason}): expected one of {', '.join(ARCHS)}, or the folder or id "
            "of a model that transformers can load; without a network, give a folder"
        ) from error


def processor_of(name: str) -> dict[str, Any]:
    """Return the contents of a model's `preprocessor_config.json`; empty if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return {}
    return dict(found)
