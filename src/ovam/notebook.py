"""How traces, maps and results show themselves in a notebook: small pictures, made quickly; no picture, no error."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from ovam import pictures
from ovam.stored_picture import encoded

if TYPE_CHECKING:
    from ovam.maps.result import AttentionMaps
    from ovam.masks.result import Segmentation
    from ovam.trace.trace import Trace

log = logging.getLogger("ovam")
_LONG_SIDE = 512
"""Length in pixels of the longer side, above which a picture is made smaller."""
_SHEET = 1300
"""Width in pixels of all pictures in a row of a sheet."""


def trace_png(trace: "Trace") -> bytes | None:
    """Return a trace's picture."""
    return _quietly(lambda: pictures.framed(trace.image)) if trace.image_png is not None else None


def maps_png(maps: "AttentionMaps") -> bytes | None:
    """Return the first maps over their picture."""
    if maps.image_png is None or maps.kept:
        return None
    return _quietly(lambda: _sheet(maps))


def segmentation_png(segmentation: "Segmentation") -> bytes | None:
    """Return the label map over the picture, with a legend."""
    return _quietly(lambda: _labels(segmentation)) if segmentation.maps.image_png is not None else None


def _sheet(maps: "AttentionMaps") -> Image.Image:
    image = pictures.framed(maps.picture())
    columns = max(1, _SHEET // image.width)
    spans = maps.spans[: max(1, 2 * columns - 1)]  # two rows, the image is the first in them
    left = len(maps) - len(spans)
    caption = "image" if left == 0 else f"and {left} more"
    return pictures.contact_sheet(
        image, replace(maps, spans=spans), caption=caption, columns=min(columns, len(spans) + 1)
    )


def _labels(segmentation: "Segmentation") -> Image.Image:
    step = math.ceil(max(segmentation.labels.shape) / _LONG_SIDE)
    labels = segmentation.labels[::step, ::step].cpu()
    image = segmentation.maps.picture()
    if step > 1:
        image = image.resize((labels.shape[1], labels.shape[0]), Image.Resampling.BOX)
    return pictures.label_map_picture(image, replace(segmentation, labels=labels))


def _quietly(make: Callable[[], Image.Image]) -> bytes | None:
    """Return what is made as PNG, or None if that fails: a notebook then shows the line of text alone."""
    try:
        return encoded(make())
    except Exception as error:
        log.debug("no picture for the notebook: %s", error)
        return None
