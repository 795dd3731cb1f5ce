"""Maps laid over their picture, and shown where the caller looks: in its figure, or in its notebook."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovam.pictures import colourised, drawable


def laid_over(image: Image.Image, heat: Float[Tensor, "height width"], *, normalize: bool) -> Image.Image:
    """A map in colours over its image, which shows through where the map is low.

    Args:
        image: The picture.
        heat: At the image's size; what lies outside [0, 1] is cut.
        normalize: Spread the colours over the map's own range, not over [0, 1].
    """
    share = heat.clamp(0, 1).numpy()
    colours = colourised(drawable(heat) if normalize else share)
    picture = np.asarray(image.convert("RGB"), dtype=np.float32)
    blend = (1 - share[..., None]) * picture + share[..., None] * colours
    return Image.fromarray(blend.round().clip(0, 255).astype(np.uint8))


def show(picture: Image.Image, title: str, *, out_file: str | Path | None, axes: Any) -> None:
    """Write the picture where a file is named, and show it.

    On `axes` where they are given; else in the current figure of matplotlib, where that is in use, as DAAM does; else
    in the notebook that this runs in. A plain program without matplotlib shows nothing.
    """
    if out_file is not None:
        picture.save(out_file)
    pyplot, notebook = sys.modules.get("matplotlib.pyplot"), _notebook()
    if axes is not None:
        axes.imshow(picture)
        axes.set_title(title)
    elif pyplot is not None:
        pyplot.clf()
        pyplot.imshow(picture)
        pyplot.title(title)
    elif notebook is not None:
        notebook(picture)


def _notebook() -> Any:
    """IPython's display function, where this runs in one of its shells."""
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return None
    return sys.modules["IPython.display"].display
