"""Label maps of pictures from a trained model, at the pictures' sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ovam.colours import voc_palette
from ovam.errors import OptionError
from ovam.output_files import write_json, write_picture
from ovam.output_folders import check_folder
from ovam.progress import Progress, no_progress
from ovam.tracing.encode import read_image
from ovam.train.classes import Classes
from ovam.train.model_input import input_of
from ovam.train.scores import labels_at, scores_of
from ovam.train.segmenter import Start, open_trained


class Segmenter:
    """A trained model that gives label maps; `load` makes one.

    Attributes:
        classes: Names and ids of its labels.
    """

    def __init__(self, start: Start, classes: Classes, device: str | torch.device = "cpu") -> None:
        self.classes = classes
        self._start, self._device = start, torch.device(device)
        self._model: Any = start.model.eval().to(self._device)

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> UInt8[np.ndarray, "height width"]:
        """Class ids of a picture, (height, width) uint8, as the masks that it was trained on have them.

        Args:
            image: A file name, a PIL image, or an array (height, width, 3).

        Raises:
            ImageInputError: the picture can't be read.
        """
        picture = read_image(image)
        pixels = input_of(picture, self._start.scaling)[None].to(self._device)
        with torch.inference_mode():
            scores = scores_of(self._model(pixel_values=pixels))[0]
            labels = labels_at(scores, (picture.height, picture.width)).cpu().numpy()
        return self.classes.ids_of()[labels]


def load(model: str | Path, *, device: str | torch.device = "cpu") -> Segmenter:
    """Open a model that `train` wrote, or another segmenter of transformers.

    Args:
        model: Folder or id.
        device: Where it runs.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    return Segmenter(*open_trained(str(model)), device)


def predict(
    model: str | Path | Segmenter,
    images: Sequence[str | Path],
    output_dir: str | Path,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = no_progress,
) -> dict[int, str]:
    """Write a label map for each picture, as `ovam evaluate` reads them.

    Args:
        model: Folder or id of a model, or what `load` gave.
        images: Files of pictures, with different names.
        output_dir: Folder for a palette PNG of class ids for each picture, under the picture's name, and `names.json`
            for `ovam evaluate --names`.
        device: Where a model that is named here runs.
        progress: Called for each picture.

    Returns:
        Names by id.

    Raises:
        ModelNotFoundError: there is no such model.
        ImageInputError: a picture can't be read.
        OptionError: two pictures have one name, or the folder can't be written to.
    """
    folder, stems = check_folder(output_dir), [Path(image).stem for image in images]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise OptionError(f"two pictures have the name {twice}: expected different names, which their label maps get")
    segmenter = model if isinstance(model, Segmenter) else load(model, device=device)
    for done, (image, stem) in enumerate(zip(images, stems, strict=True)):
        progress("predicting", done, len(stems))
        labels = Image.fromarray(segmenter(image))
        labels.putpalette(voc_palette().tobytes())
        write_picture(folder / f"{stem}.png", labels)
    named = dict(zip(segmenter.classes.ids[1:], segmenter.classes.names[1:], strict=True))
    write_json(folder / "names.json", {"labels": {"0": "background"} | {str(i): name for i, name in named.items()}})
    return named
