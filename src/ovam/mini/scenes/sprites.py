"""The sprite sheets: emoji of the world's classes and of things of no class, rendered once and shipped.

A sheet is a picture with an index beside it, so that nobody needs the font to render a scene. They are made again by
`render_noto` from Noto Color Emoji (SIL Open Font License 1.1) and `render_fluent` from Fluent emoji (MIT): see NOTICE.
"""

import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ovam.mini.scenes.domain_b import FLUENT, FLUENT_DISTRACTORS
from ovam.mini.scenes.splits import EMOJI
from ovam.mini.scenes.vocabulary import DISTRACTORS

_CELL = 96
_NATIVE_SIZE = 109  # the one pixel size the font's bitmaps have
_COLUMNS = 16


def _fitted(sprite: Image.Image) -> Image.Image:
    sprite = sprite.crop(sprite.getbbox())
    sprite.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return sprite


def render_noto(font_path: Path, folder: Path) -> None:
    """Write `sprites.png` and `sprites.json` into `folder` from the file of Noto Color Emoji."""
    font = ImageFont.truetype(str(font_path), _NATIVE_SIZE)

    def emoji(text: str) -> Image.Image:
        canvas = Image.new("RGBA", (180, 180))
        ImageDraw.Draw(canvas).text((4, 4), text, font=font, embedded_color=True)
        return canvas

    texts = {name: [text for texts in splits.values() for text in texts] for name, splits in EMOJI.items()}
    _write_sheet(folder / "sprites.png", texts | {"distractor": list(DISTRACTORS.values())}, emoji)


def render_fluent(icons: Path, folder: Path) -> None:
    """Write `fluent.png` and `fluent.json` into `folder` from `icons.json` of npm's @iconify-json/fluent-emoji-flat.

    Needs `resvg-py`, which nothing else here does.
    """
    import io

    from resvg_py import svg_to_bytes

    bodies = json.loads(icons.read_text())["icons"]

    def emoji(name: str) -> Image.Image:
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{bodies[name]["body"]}</svg>'
        return Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg, width=192, height=192)))).convert("RGBA")

    names = {name: list(row) for name, row in FLUENT.items()}
    _write_sheet(folder / "fluent.png", names | {"distractor": list(FLUENT_DISTRACTORS.values())}, emoji)


def _write_sheet(path: Path, names: dict[str, list[str]], draw: Callable[[str], Image.Image]) -> None:
    every = [(name, text) for name, row in names.items() for text in row]
    sheet = Image.new("RGBA", (_COLUMNS * _CELL, -(-len(every) // _COLUMNS) * _CELL))
    index: dict[str, dict[str, list[int]]] = {name: {} for name in names}
    for i, (name, text) in enumerate(every):
        sprite, left, top = _fitted(draw(text)), i % _COLUMNS * _CELL, i // _COLUMNS * _CELL
        sheet.paste(sprite, (left, top))
        index[name][text] = [left, top, left + sprite.width, top + sprite.height]
    sheet.save(path, optimize=True)
    path.with_suffix(".json").write_text(json.dumps(index, ensure_ascii=False, indent=0) + "\n")


@cache
def load_sprites() -> dict[str, dict[str, Image.Image]]:
    """Class name (or "distractor") -> emoji, by its character or Fluent name -> its sprite, RGBA, at most 96 pixels."""
    folder = resources.files("ovam.mini.scenes")
    found: dict[str, dict[str, Image.Image]] = {}
    for stem in ("sprites", "fluent"):
        index = json.loads((folder / f"{stem}.json").read_text())
        with (folder / f"{stem}.png").open("rb") as stream:
            sheet = Image.open(stream).convert("RGBA")
        for name, row in index.items():
            found.setdefault(name, {}).update({text: sheet.crop(tuple(box)) for text, box in row.items()})
    return found
