"""The blind test: somebody who has not seen the prompts names the main thing in each picture of the sheet."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lab.mini.measures.samples import SHEET_CLASSES, SHEET_COLUMNS
from ovam.errors import OptionError
from ovam.mini.scenes import CLASSES

SCALE, MARGIN = 2, 16  # the pictures are shown twice as large, with a line for the number


def order() -> np.ndarray:
    """Order in which the sheet's pictures are shown, so that the list of classes does not tell them."""
    return np.random.default_rng(20).permutation(len(SHEET_CLASSES))


def blind_sheet(sheet: Image.Image) -> Image.Image:
    """The sheet's pictures in the order of `order`, numbered from 1, twice as large.

    Args:
        sheet: As `samples.contact_sheet` makes it of all its prompts.
    """
    width, rows = sheet.width // SHEET_COLUMNS, -(-len(SHEET_CLASSES) // SHEET_COLUMNS)
    height = sheet.height // rows
    cell = (SCALE * width, SCALE * height + MARGIN)
    shown = Image.new("RGB", (SHEET_COLUMNS * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(shown)
    for place, index in enumerate(order()):
        left, top = int(index) % SHEET_COLUMNS * width, int(index) // SHEET_COLUMNS * height
        picture = sheet.crop((left, top, left + width, top + height)).resize((SCALE * width, SCALE * height))
        corner = (place % SHEET_COLUMNS * cell[0], place // SHEET_COLUMNS * cell[1])
        draw.text((corner[0] + 4, corner[1] + 2), str(place + 1), fill="black")
        shown.paste(picture, (corner[0], corner[1] + MARGIN))
    return shown


def judged(answers: Sequence[str]) -> dict[str, Any]:
    """Compare a judge's answers with the prompts.

    Args:
        answers: One of the twenty classes for each picture, in the order of their numbers.

    Returns:
        `pictures`, `right`, `answers`, and `mistaken`: by class, the wrong answers to its two pictures.

    Raises:
        OptionError: there are too few or too many answers, or one is no class.
    """
    if len(answers) != len(SHEET_CLASSES):
        raise OptionError(f"{len(answers)} answers: expected one for each of {len(SHEET_CLASSES)} pictures")
    for number, answer in enumerate(answers, start=1):
        if answer not in CLASSES:
            raise OptionError(f"answer {number} is {answer!r}: expected one of {', '.join(CLASSES)}")
    mistaken: dict[str, list[str]] = {}
    for place, index in enumerate(order()):
        if answers[place] != SHEET_CLASSES[index]:
            mistaken.setdefault(SHEET_CLASSES[index], []).append(answers[place])
    right = len(answers) - sum(len(said) for said in mistaken.values())
    return {"pictures": len(answers), "right": right, "answers": list(answers), "mistaken": mistaken}


def read_answers(file: Path) -> list[str]:
    """Answers of a judge: JSON, a list of classes in the order of the pictures' numbers.

    Raises:
        OptionError: the file is no such list.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OptionError(f"answers in {file} can't be read: {error}; expected a JSON list of classes") from error
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
        raise OptionError(
            f"{file} is no list of texts: expected the class of each picture, in the order of the numbers"
        )
    return found
