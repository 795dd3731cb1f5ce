"""What `dataset.json` says about a data set, and how it is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovam.dataset.classes import ClassEntry
from ovam.dataset.names import ABOUT
from ovam.dataset.schema import ABOUT_FILE, FORMAT, check_content
from ovam.errors import DatasetError
from ovam.json_text import read_json
from ovam.masks.mask_like import IGNORE


@dataclass(frozen=True)
class About:
    """The content of `dataset.json`.

    Attributes:
        name: Name of the data set.
        version: Version of ovam that made it.
        model: `name` and `hash` of the model.
        recipe: Hash of the recipe.
        classes: Classes with their numbers in masks.
        tokens: SHA-256 of the file of tokens of each class that has one.
        size: (height, width) of all images.
        licence: Licence, or "".
        defaults: Hash of the defaults of refinement, CRF and calibration that its masks were made with; "" in folders
            from before this was recorded.
        view: For a view, how its items were chosen; None for a whole data set.
    """

    name: str
    version: str
    model: Mapping[str, str]
    recipe: str
    classes: tuple[ClassEntry, ...]
    tokens: Mapping[str, str]
    size: tuple[int, int]
    licence: str = ""
    defaults: str = ""
    view: Mapping[str, Any] | None = None

    @property
    def ids(self) -> dict[str, int]:
        """Number of each class in masks."""
        return {one.name: one.id for one in self.classes}

    def json(self) -> dict[str, Any]:
        """Return the content of `dataset.json`."""
        classes = [{**one.table(), "tokens": self.tokens.get(one.name)} for one in self.classes]
        content = {
            "format": FORMAT,
            "name": self.name,
            "ovam": self.version,
            "model": dict(self.model),
            "recipe": self.recipe,
            "classes": classes,
            "ignore": IGNORE,
            "size": list(self.size),
            "licence": self.licence,
            "defaults": self.defaults,
        }
        return content if self.view is None else {**content, "view": dict(self.view)}


def read_about(folder: Path) -> About:
    """Read `dataset.json`.

    Raises:
        DatasetError: it is missing, damaged, or of a newer format.
    """
    path = folder / ABOUT
    try:
        content = read_json(path)
    except OSError as error:
        raise DatasetError(
            f"{folder} is no data set ({ABOUT} can't be read: {error.strerror or error}): expected a folder that "
            "`ovam dataset generate` wrote"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}): expected what `ovam dataset generate` wrote") from error
    if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise DatasetError(f"{path} is of format {content['format']}, newer than {FORMAT}: update ovam")
    check_content(content, ABOUT_FILE, path)
    if content["ignore"] != IGNORE:
        raise DatasetError(f"{path}: ignore={content['ignore']}: expected {IGNORE}, as in all data sets of ovam")
    classes = tuple(ClassEntry(**{n: one[n] for n in ("name", "id", "words", "against")}) for one in content["classes"])
    tokens = {one["name"]: one["tokens"] for one in content["classes"] if one.get("tokens")}
    return About(
        content["name"],
        content["ovam"],
        content["model"],
        content["recipe"],
        classes,
        tokens,
        (content["size"][0], content["size"][1]),
        content.get("licence", ""),
        content.get("defaults", ""),
        content.get("view"),
    )
