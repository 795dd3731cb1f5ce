"""Options of a training from those of the command line."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovam.train.options import PLAIN, AugmentOptions, TrainOptions


def options_of(given: Mapping[str, Any], *, augment: bool, flip: bool) -> TrainOptions:
    """Options of a training.

    Args:
        given: Fields of `TrainOptions`.
        augment: Whether pictures are varied.
        flip: Whether they are mirrored, if they are varied.

    Raises:
        OptionError: a value is outside what it can be.
    """
    changes = AugmentOptions() if augment else PLAIN
    return TrainOptions(**given, augment=changes if flip else replace(changes, flip=0.0))
