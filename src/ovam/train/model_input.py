"""From a picture to a model's input: size and colours, as transformers' image processors make them.

The same numbers stand in `preprocessor_config.json`, so that transformers alone gives a model the same input. Its
processors are not used here: they may need torchvision.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which most models are trained with
_LONGEST = 16  # times the short side, where transformers' processor must be told a longest side


@dataclass(frozen=True)
class Scaling:
    """Size and colours of a model's input.

    Attributes:
        size: Short side in pixels.
        divisor: Both sides become multiples of this number.
        mean: Mean of red, green and blue, in [0, 1], which is subtracted.
        std: Standard deviation of red, green and blue; numbers are divided by it.
    """

    size: int
    divisor: int = 1
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) to which a picture of this size is resized; its proportions are kept."""
        long = int(self.size * max(height, width) / min(height, width))
        sides = (self.size, long) if height <= width else (long, self.size)
        high, wide = (math.ceil(side / self.divisor) * self.divisor for side in sides)
        return high, wide

    def processor(self, kind: str) -> dict[str, Any]:
        """Contents of `preprocessor_config.json`.

        Args:
            kind: Class of the image processor.
        """
        size: dict[str, Any] = {"size": {"shortest_edge": self.size}, "do_reduce_labels": False}
        if kind == "Mask2FormerImageProcessor":
            size["size"]["longest_edge"] = _LONGEST * self.size
            size |= {"size_divisor": self.divisor, "ignore_index": 255}
        return {
            "image_processor_type": kind,
            "do_resize": True,
            **size,
            "resample": int(Image.Resampling.BILINEAR),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def scaling_of(processor: Mapping[str, Any], default: int) -> Scaling:
    """Read the contents of a `preprocessor_config.json`; missing mean and deviation are those of ImageNet.

    Args:
        processor: The contents; may be empty.
        default: Short side in pixels, if the contents have no size.
    """
    size = processor.get("size", default)
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height") or default
    red, green, blue = processor.get("image_mean") or _MEAN
    mean = (float(red), float(green), float(blue))
    red, green, blue = processor.get("image_std") or _STD
    return Scaling(int(size), int(processor.get("size_divisor") or 1), mean, (float(red), float(green), float(blue)))


def as_input(picture: UInt8[np.ndarray, "height width 3"], scaling: Scaling) -> Float[torch.Tensor, "3 height width"]:
    """Return pixels that have the right size already as a model's input, float32."""
    values = picture.astype(np.float32) / 255
    values = (values - np.array(scaling.mean, np.float32)) / np.array(scaling.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def input_of(picture: Image.Image, scaling: Scaling) -> Float[torch.Tensor, "3 high wide"]:
    """Return a whole picture as a model's input, float32."""
    high, wide = scaling.input_size(picture.height, picture.width)
    return as_input(np.asarray(picture.resize((wide, high), Image.Resampling.BILINEAR)), scaling)
