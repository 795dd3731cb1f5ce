"""Draw maps over their picture, and show them in a matplotlib figure or a notebook."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovam.pictures import colourised, drawable


def laid_over(image: Image.Image, heat: Float[Tensor, "height width"], *, normalize: bool) -> Image.Image:
    """Return a map in colours over its image; the image shows through where the map is low.

    Args:
        image: The picture.
        heat: Map at the image's size; values are clamped to [0, 1].
        normalize: Spread the colours over the map's own range, not over [0, 1].
    """
    share = heat.clamp(0, 1).numpy()
    colours = colourised(drawable(heat) if normalize else share)
    picture = np.asarray(image.convert("RGB"), dtype=np.float32)
    blend = (1 - share[..., None]) * picture + share[..., None] * colours
    return Image.fromarray(blend.round().clip(0, 255).astype(np.uint8))


def show(picture: Image.Image, title: str, *, out_file: str | Path | None, axes: Any) -> None:
    """Write the picture to a file, if one is given, and show it.

    It is shown on `axes`, if given; else in matplotlib's current figure, if the program has imported it, as in DAAM;
    else in the notebook. A program without matplotlib and notebook shows nothing.
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
    """Return IPython's display function, or None outside of IPython."""
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return None
    return sys.modules["IPython.display"].display
