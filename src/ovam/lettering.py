"""Text on pictures: in Pillow's own font, in a font of this system, or with letters that a font has.

Pillow's own font has only the letters of English, and fonts for all scripts take many megabytes.
"""

import unicodedata
from functools import lru_cache
from typing import Any

from PIL import ImageFont

FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "unifont.ttf",
)
"""Files of fonts that systems have, in the order in which they are tried: many scripts first, then East Asian ones."""

_NOWHERE = "\uffff"  # no letter: every font draws its sign for what it lacks


def lettered(text: str, size: int) -> tuple[str, Any]:
    """Return the text as it can be drawn, and the font for it; if a font has all its letters, the text is unchanged.

    Args:
        text: Any text on one line.
        size: Size of the letters, in pixels.
    """
    own = _own(size)
    fonts = [own, *(font for name in FONTS if (font := _found(name, size)) is not None)] if _lacks(own, text) else [own]
    for font in fonts:
        if not _lacks(font, text):
            return text, font
    return "".join(letter if not _lacks(own, letter) else _spelt(letter, own) for letter in text), own


def _spelt(letter: str, font: Any) -> str:
    """A letter without its accent, by its name ("ka"), or as an escape: one of those can be read in any font."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if plain != letter and not _lacks(font, plain):
        return plain
    words = unicodedata.name(letter, "").split()
    if "LETTER" in words or "SYLLABLE" in words:
        return words[-1].capitalize() if "CAPITAL" in words else words[-1].lower()
    return letter.encode("ascii", "backslashreplace").decode()


def _lacks(font: Any, text: str) -> bool:
    return any(_drawn(font, letter) == _drawn(font, _NOWHERE) for letter in set(text) if not letter.isspace())


@lru_cache(4096)
def _drawn(font: Any, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@lru_cache
def _own(size: int) -> Any:
    return ImageFont.load_default(size)


@lru_cache
def _found(name: str, size: int) -> Any:
    """A font of this system, None where there is none of this name."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None
