"""Classes of a data set: names, numbers and words, from a known vocabulary or a recipe's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ovam.dataset.fields import check_keys, check_section, option
from ovam.dataset.sections import IDS, DataSection
from ovam.dataset.vocabularies import VOCABULARIES, words_for
from ovam.errors import RecipeError

BACKGROUND = "background"
"""Name of number 0 in exports."""


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """A class of a data set.

    Raises:
        RecipeError: a value is not allowed.
    """

    name: str = option("", "Name of the class.")
    id: int = option(1, "Number of its pixels in masks; 0 is the background, 255 is undecided.", least=1, most=IDS)
    words: tuple[str, ...] = option((), "Words for it in prompts; each can stand for it in maps.")
    against: tuple[str, ...] = option((), "Contrast words for images of this class.")

    def __post_init__(self) -> None:
        check_section(self, f"class {self.name!r}: ")
        if not self.name.strip():
            raise RecipeError('class without a name: expected name = "..." in each [[class]]')
        if not self.words:
            raise RecipeError(
                f"class {self.name!r} has no word: expected words = [{self.name!r}], for prompts and maps"
            )
        if any("|" in word for word in self.words):
            raise RecipeError(
                f"class {self.name!r}: words={list(self.words)!r}: expected single words, not joined by |"
            )

    def table(self) -> dict[str, Any]:
        """Return its fields."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def classes_of(data: DataSection, tables: Any) -> tuple[ClassEntry, ...]:
    """Return the classes of the vocabulary or of the list, changed and extended by the tables [[class]].

    Args:
        data: The section `data`.
        tables: The tables [[class]].

    Raises:
        RecipeError: there is no class; a name is unknown to the vocabulary; two have the same name or number; or a
            table is not as expected.
    """
    entries: dict[str, dict[str, Any]] = {
        name: {"name": name, "id": number, "words": words_for(name)} for name, number in _listed(data).items()
    }
    if not isinstance(tables, Sequence) or not all(isinstance(table, Mapping) for table in tables):
        raise RecipeError(f"class={tables!r}: expected tables, each [[class]]")
    seen = list[str]()
    for table in tables:
        check_keys(table, [one.name for one in fields(ClassEntry)], "class.")
        name = table.get("name")
        if not isinstance(name, str) or not name.strip():
            raise RecipeError('class without a name: expected name = "..." in each [[class]]')
        if name in seen:
            raise RecipeError(f"class {name!r} has two tables [[class]]: expected one")
        seen.append(name)
        new = {"id": max((entry["id"] for entry in entries.values()), default=0) + 1, "words": (name,)}
        entries[name] = {**new, **entries.get(name, {}), **table}
    classes = tuple(ClassEntry(**entry) for entry in entries.values())
    _check(classes)
    return classes


def _listed(data: DataSection) -> dict[str, int]:
    if not data.vocabulary:
        return {name: number for number, name in enumerate(data.classes, start=1)}
    known = {name: number for number, name in VOCABULARIES[data.vocabulary].items()}
    unknown = next((name for name in data.classes if name not in known), None)
    if unknown is not None:
        raise RecipeError(
            f"class {unknown!r} is unknown to vocabulary={data.vocabulary!r}: expected some of {', '.join(known)}"
        )
    return {name: known[name] for name in data.classes or known}


def _check(classes: Sequence[ClassEntry]) -> None:
    if not classes:
        raise RecipeError('the recipe has no class: expected classes = ["dog", ...], vocabulary = "voc", or [[class]]')
    names, numbers = dict[str, str](), dict[int, str]()
    for one in classes:
        if names.setdefault(one.name.casefold(), one.name) != one.name:
            raise RecipeError(f"classes {names[one.name.casefold()]!r} and {one.name!r}: expected different names")
        if one.name.casefold() == BACKGROUND:
            raise RecipeError(
                f"class {one.name!r}: masks have the background as number 0 already: expected another name; to make "
                "something background, put its words into `against`"
            )
        if numbers.setdefault(one.id, one.name) != one.name:
            raise RecipeError(f"classes {numbers[one.id]!r} and {one.name!r} both have id={one.id}: expected two ids")
