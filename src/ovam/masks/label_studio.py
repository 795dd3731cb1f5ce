"""Write objects as predictions that Label Studio imports, for people to correct."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool

from ovam.checks import number
from ovam.errors import OptionError
from ovam.masks.instances import Instance
from ovam.masks.run_lengths import runs_of

Tool = Literal["brush", "polygon"]
"""Label Studio's tools: `BrushLabels` and `PolygonLabels` in its labelling interface."""

_RUN_BITS = (3, 4, 8, 16)
"""Numbers of bits in which the length of a run can be stored; each run uses the smallest number that is enough."""


def label_studio_of(
    instances: Sequence[Instance],
    size: tuple[int, int],
    *,
    image: str,
    tool: Tool = "brush",
    tolerance: float | int = 1.0,
    from_name: str = "tag",
    to_name: str = "image",
) -> dict[str, Any]:
    """Return one task with the objects as a prediction; Label Studio imports a JSON list of such tasks.

    Args:
        instances: The objects. With "brush", each object becomes one region; with "polygon", each of its outlines
            becomes one region. A region has the score of its object.
        size: (height, width) of the image.
        image: Address of the image as Label Studio finds it, such as "/data/local-files/?d=image.png".
        tool: "brush" writes the masks themselves, "polygon" their outlines, in percent of the image's sides.
        tolerance: Tolerance of the outlines, in pixels; see `ovam.masks.outlines.polygons_of`.
        from_name: Name of the labels' tag in the labelling interface.
        to_name: Name of the image's tag in the labelling interface.

    Returns:
        Only types that JSON has.

    Raises:
        OptionError: the tool is unknown, or the tolerance is not a number of at least 0.
    """
    if tool not in get_args(Tool):
        raise OptionError(f"tool={tool!r}: expected one of {', '.join(map(repr, get_args(Tool)))}")
    number("tolerance", tolerance, least=0.0)
    height, width = size
    kind = f"{tool}labels"
    values: Callable[[Instance], Iterator[dict[str, Any]]] = (
        _brush if tool == "brush" else lambda one: _polygons(one, size, tolerance)
    )
    regions = [(one, value) for one in instances for value in values(one)]
    result = [
        {
            "id": f"ovam-{place}",
            "type": kind,
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": one.score,
            "value": {**value, kind: [one.word]},
        }
        for place, (one, value) in enumerate(regions, start=1)
    ]
    return {"data": {"image": image}, "predictions": [{"model_version": "ovam", "result": result}]}


def _brush(one: Instance) -> Iterator[dict[str, Any]]:
    yield {"format": "rle", "rle": brush_rle(one.mask.numpy())}


def _polygons(one: Instance, size: tuple[int, int], tolerance: float | int) -> Iterator[dict[str, Any]]:
    height, width = size
    for polygon in one.polygons(tolerance=tolerance):
        yield {"points": (polygon.ring() * (100 / width, 100 / height)).tolist(), "closed": True}


def brush_rle(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Return a mask in Label Studio's own run lengths: a list of bytes.

    The mask is written row by row, as a picture of four channels whose values are 255 inside and 0 outside. First comes
    a header: the number of values (32 bits), the number of bits in a value minus 1 (5 bits), and each entry of
    `_RUN_BITS` minus 1 (4 bits each). Then come the runs. Each run has four parts: one bit, which is 1; the index of
    the entry of `_RUN_BITS` that the run uses (2 bits); its length minus 1; and its value (8 bits).

    Source:
        `label_studio_sdk.converter.brush.encode_rle`, after the package rle-pack of thi.ng/umbrella.
    """
    runs = [4 * run for run in runs_of(mask)]
    bits = [f"{4 * mask.size:032b}{7:05b}", *(f"{length - 1:04b}" for length in _RUN_BITS)]
    for place, run in enumerate(runs):
        value = f"{255 * (place % 2):08b}"
        while run:
            part = min(run, 1 << _RUN_BITS[-1])
            which = next(i for i, length in enumerate(_RUN_BITS) if part <= 1 << length)
            bits.append(f"1{which:02b}{part - 1:0{_RUN_BITS[which]}b}{value}")
            run -= part
    text = "".join(bits)
    return np.packbits(np.frombuffer(text.encode(), dtype=np.uint8) == ord("1")).tolist()
