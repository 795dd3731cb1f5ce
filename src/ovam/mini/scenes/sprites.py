"""The sprite sheet: emoji of the world's classes and of things of no class, rendered once and shipped.

The sheet is a picture with an index beside it, so that nobody needs the font to render a scene.
`render_sheet` makes both again from Noto Color Emoji (SIL Open Font License 1.1, see NOTICE).
"""

import json
from functools import cache
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ovam.mini.scenes.splits import EMOJI
from ovam.mini.scenes.vocabulary import DISTRACTORS

_CELL = 96
_NATIVE_SIZE = 109  # the one pixel size the font's bitmaps have
_COLUMNS = 16


def _emoji(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (180, 180))
    ImageDraw.Draw(canvas).text((4, 4), text, font=font, embedded_color=True)
    sprite = canvas.crop(canvas.getbbox())
    sprite.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return sprite


def render_sheet(font_path: Path, folder: Path) -> None:
    """Write `sprites.png` and `sprites.json` into `folder` from the emoji font at `font_path`."""
    font = ImageFont.truetype(str(font_path), _NATIVE_SIZE)
    texts = {name: [text for texts in splits.values() for text in texts] for name, splits in EMOJI.items()}
    texts["distractor"] = list(DISTRACTORS.values())
    every = [(name, text) for name, row in texts.items() for text in row]
    sheet = Image.new("RGBA", (_COLUMNS * _CELL, -(-len(every) // _COLUMNS) * _CELL))
    index: dict[str, dict[str, list[int]]] = {name: {} for name in texts}
    for i, (name, text) in enumerate(every):
        sprite, left, top = _emoji(text, font), i % _COLUMNS * _CELL, i // _COLUMNS * _CELL
        sheet.paste(sprite, (left, top))
        index[name][text] = [left, top, left + sprite.width, top + sprite.height]
    sheet.save(folder / "sprites.png", optimize=True)
    (folder / "sprites.json").write_text(json.dumps(index, ensure_ascii=False, indent=0) + "\n")


@cache
def load_sprites() -> dict[str, dict[str, Image.Image]]:
    """Class name (or "distractor") -> emoji -> its sprite, RGBA, at most 96 pixels a side."""
    folder = resources.files("ovam.mini.scenes")
    index = json.loads((folder / "sprites.json").read_text())
    with (folder / "sprites.png").open("rb") as stream:
        sheet = Image.open(stream).convert("RGBA")
    return {name: {text: sheet.crop(tuple(box)) for text, box in row.items()} for name, row in index.items()}
