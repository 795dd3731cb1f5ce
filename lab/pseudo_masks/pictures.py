"""Good, median and bad cases side by side: the picture, the truth, and the masks of some rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from lab.pseudo_masks.counts import Count, Entries
from lab.pseudo_masks.examples import Example, Source
from lab.pseudo_masks.figures import picked
from lab.pseudo_masks.rows import Row, needs_of

_SIDE, _LINE = 128, 16
_RED, _GREEN = np.array([235, 40, 60]), np.array([30, 170, 90])


def cases(
    pipe: Any,
    set_name: str,
    counts: Sequence[Count],
    key: tuple[str, str],
    rows: Sequence[Row],
    entries: Entries,
    thresholds: Mapping[tuple[str, str], float],
    source: Source,
    pictures: int,
) -> Image.Image:
    """A sheet: a line for each case, a column for each row, all with the same form.

    Cases are those of `figures.picked` for `key`.
    """
    chosen = [(kind, one) for kind, some in picked(counts, key).items() for one in some]
    wanted = list({(one.example, one.name): (kind, one) for kind, one in reversed(chosen)}.values())[::-1]  # each once
    known = {one.example for _, one in wanted}
    held = {each.name: each for each in source.examples(pipe, set_name, pictures) if each.name in known}
    heads = ["picture", "truth", *(row.name for row in rows)]
    sheet = Image.new("RGB", (_SIDE * len(heads), _LINE + (_SIDE + _LINE) * len(wanted)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((column * _SIDE + 3, 2), head[:22], fill="black")
    for line, (kind, one) in enumerate(wanted):
        top = _LINE + line * (_SIDE + _LINE)
        for column, cell in enumerate(_cells(held[one.example], one, key[1], rows, entries, thresholds)):
            sheet.paste(cell, (column * _SIDE, top))
        draw.text((3, top + _SIDE + 2), f"{kind}: {one.name}", fill="black")
    return sheet


def _cells(
    example: Example,
    one: Count,
    form: str,
    rows: Sequence[Row],
    entries: Entries,
    thresholds: Mapping[tuple[str, str], float],
) -> list[Image.Image]:
    traces = {name: example.traced(options) for name, options in needs_of(rows).items()}
    masks = [example.truth(one.name)]
    for row in rows:
        values = row.values(traces[row.needs], entries[form][one.name])
        masks.append(row.cut(values, thresholds[row.name, form], example.image))
    whole = Image.fromarray(example.image)
    over = [_over(example.image, mask, _GREEN if i == 0 else _RED) for i, mask in enumerate(masks)]
    return [ImageOps.pad(picture, (_SIDE, _SIDE), color="white") for picture in (whole, *over)]


def _over(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> Image.Image:
    shown = np.where(mask[..., None], 0.45 * image + 0.55 * colour, 0.7 * image + 0.3 * 255)
    return Image.fromarray(shown.astype(np.uint8))
