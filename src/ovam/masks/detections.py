"""Convert objects to `supervision.Detections`, if the package `supervision` is installed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ovam.errors import MissingPackageError
from ovam.masks.instances import Instance


def detections_of(instances: Sequence[Instance], size: tuple[int, int]) -> Any:
    """Return `supervision.Detections`: boxes, masks, scores, label numbers from 1, and words as `class_name`.

    Args:
        instances: The objects.
        size: (height, width) of the image.

    Raises:
        MissingPackageError: supervision is not installed.
    """
    try:
        from supervision import Detections
    except ImportError as error:
        raise MissingPackageError(
            f"supervision can't be loaded ({error}): it is no part of ovam; install it with pip install supervision"
        ) from error
    masks = np.zeros((len(instances), *size), dtype=bool)
    for place, one in enumerate(instances):
        masks[place] = one.mask.numpy()
    return Detections(
        xyxy=np.array([one.box_xyxy for one in instances], dtype=np.float32).reshape(-1, 4),
        mask=masks,
        confidence=np.array([one.score for one in instances], dtype=np.float32),
        class_id=np.array([one.label for one in instances], dtype=int),
        data={"class_name": np.array([one.word for one in instances], dtype=str)},
    )
