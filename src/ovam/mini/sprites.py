"""The sprite sheet: emoji of the world's classes, rendered once and shipped.

The sheet is a picture with an index beside it, so that nobody needs the font to render a scene.
`render_sheet` makes both again from Noto Color Emoji (SIL Open Font License 1.1, see NOTICE).
"""

import json
from functools import cache
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

EMOJI: dict[str, tuple[str, ...]] = {
    "aeroplane": ("✈️", "🛩️"),
    "bicycle": ("🚲",),
    "bird": ("🐦", "🦜", "🦆", "🦅", "🦉", "🐧", "🦩"),
    "boat": ("⛵", "🚤", "⛴️", "🚢", "🛶"),
    "bottle": ("🍾", "🍼", "🧴"),
    "bus": ("🚌", "🚎", "🚍"),
    "car": ("🚗", "🚙", "🚕", "🚓", "🏎️"),
    "cat": ("🐈", "🐱", "🐈‍⬛"),
    "chair": ("🪑", "💺"),
    "cow": ("🐄", "🐮", "🐂"),
    "dog": ("🐕", "🐶", "🐩", "🦮"),
    "horse": ("🐎", "🐴"),
    "motorbike": ("🏍️", "🛵"),
    "person": ("🧍", "🚶", "🏃", "🧍‍♀️", "💃"),
    "potted plant": ("🪴", "🌵"),
    "sheep": ("🐑", "🐏"),
    "sofa": ("🛋️",),
    "train": ("🚂", "🚆", "🚃", "🚋"),
    "tv monitor": ("📺", "🖥️"),
}
DISTRACTORS = ("🍎", "⚽", "🎁", "☂️", "🎈", "📦", "🔑", "🍄", "🧱", "🍉", "⭐", "🎩", "🥁", "🪣", "🧸", "⏰")
CELL = 96
_NATIVE_SIZE = 109  # the one pixel size the font's bitmaps have


def _emoji(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (180, 180))
    ImageDraw.Draw(canvas).text((4, 4), text, font=font, embedded_color=True)
    return canvas.crop(canvas.getbbox())


def _table(round_top: bool, wood: tuple[int, int, int]) -> Image.Image:
    """A dining table, which no emoji shows: a slab or a disc on legs."""
    canvas = Image.new("RGBA", (CELL, CELL))
    draw = ImageDraw.Draw(canvas)
    dark = tuple(int(channel * 0.7) for channel in wood)
    if round_top:
        draw.rectangle((43, 34, 53, 76), fill=dark)
        draw.ellipse((26, 70, 70, 84), fill=dark)
        draw.ellipse((4, 20, 92, 46), fill=dark)
        draw.ellipse((4, 15, 92, 40), fill=wood)
    else:
        for left in (10, 26, 66, 82):
            draw.rectangle((left, 34, left + 5, 86 if left in (10, 82) else 74), fill=dark)
        draw.polygon(((16, 18), (82, 18), (94, 36), (4, 36)), fill=wood)
        draw.rectangle((4, 36, 94, 43), fill=dark)
    return canvas.crop(canvas.getbbox())


def _pictures(font_path: Path) -> dict[str, list[Image.Image]]:
    font = ImageFont.truetype(str(font_path), _NATIVE_SIZE)
    pictures = {name: [_emoji(text, font) for text in texts] for name, texts in EMOJI.items()}
    woods = ((176, 120, 66), (214, 170, 110))
    pictures["dining table"] = [_table(is_round, wood) for is_round in (False, True) for wood in woods]
    pictures["distractor"] = [_emoji(text, font) for text in DISTRACTORS]
    return pictures


def render_sheet(font_path: Path, folder: Path) -> None:
    """Write `sprites.png` and `sprites.json` into `folder` from the emoji font at `font_path`."""
    pictures = _pictures(font_path)
    columns = max(len(row) for row in pictures.values())
    sheet = Image.new("RGBA", (columns * CELL, len(pictures) * CELL))
    index: dict[str, list[list[int]]] = {}
    for row, (name, sprites) in enumerate(sorted(pictures.items())):
        for column, sprite in enumerate(sprites):
            sprite.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            left, top = column * CELL, row * CELL
            sheet.paste(sprite, (left, top))
            index.setdefault(name, []).append([left, top, left + sprite.width, top + sprite.height])
    sheet.save(folder / "sprites.png", optimize=True)
    (folder / "sprites.json").write_text(json.dumps(index, indent=0) + "\n")


@cache
def load_sprites() -> dict[str, tuple[Image.Image, ...]]:
    """Class name (or "distractor") -> its sprites, RGBA, at most 96 pixels a side."""
    folder = resources.files("ovam.mini")
    index = json.loads((folder / "sprites.json").read_text())
    with (folder / "sprites.png").open("rb") as stream:
        sheet = Image.open(stream).convert("RGBA")
    return {name: tuple(sheet.crop(tuple(box)) for box in boxes) for name, boxes in index.items()}
