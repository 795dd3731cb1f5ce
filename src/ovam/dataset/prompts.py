"""What each item shows: its prompt, its classes with the words for them, its seed and its split."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovam.dataset.captions import Caption, Names, read_captions
from ovam.dataset.classes import ClassEntry
from ovam.dataset.draws import Draws
from ovam.dataset.recipe import Recipe

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PlannedItem:
    """One item, before it is made.

    Attributes:
        index: Its number, from 0.
        prompt: What to generate.
        seed: Seed of its noise.
        split: Split that it was drawn into.
        words: For each class that the prompt names, the word that it uses.
        place: The place that the template names, or "".
        votes: Seeds of the noises with which the finished picture is looked at again.
    """

    index: int
    prompt: str
    seed: int
    split: str
    words: Mapping[str, str]
    place: str = ""
    votes: tuple[int, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the prompt names."""
        return tuple(self.words)


@dataclass(frozen=True)
class Prompts:
    """All items of a recipe; each is drawn when it is asked for.

    Attributes:
        recipe: The recipe.
        draws: Random choices.
        captions: Captions of the recipe's file; empty with templates.
        names: The words of the classes.
    """

    recipe: Recipe
    draws: Draws
    captions: tuple[Caption, ...] = field(repr=False)
    names: Names = field(repr=False)

    def __getitem__(self, index: int) -> PlannedItem:
        """Return an item; it depends on the recipe's hash and the index alone."""
        prompt, words, place = self._captioned(index) if self.captions else self._templated(index)
        if self.recipe.prompts.append_classes:
            prompt = f"{prompt}; {', '.join(words.values())}"
        splits = self.recipe.splits
        weights = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        seed, split = self.draws.bits("seed", index) >> 1, self.draws.weighted(weights, "split", index)
        votes = tuple(self.draws.bits("vote", index, one) >> 1 for one in range(self.recipe.masks.votes))
        return PlannedItem(index, prompt, seed, split, words, place, votes)

    def _captioned(self, index: int) -> tuple[str, Mapping[str, str], str]:
        caption = self.captions[self.draws.turn(len(self.captions), index, "caption")]
        return caption.text, caption.words, ""

    def _templated(self, index: int) -> tuple[str, Mapping[str, str], str]:
        options, draws = self.recipe.prompts, self.draws
        named = self._things(index)
        words = {one.name: self._word(one, index) for one in named}
        template = draws.one_of(options.templates, "template", index)
        place = draws.one_of(options.places, "place", index) if "{place}" in template else ""
        things = _listed([with_article(word) for word in words.values()])
        around = template.replace("{things}", "\0").replace("{place}", place)  # may name a class too: "on the grass"
        besides = {name: match.group() for name, match in self.names.named_in(around).items() if name not in words}
        return template.replace("{things}", things).replace("{place}", place), {**words, **besides}, place

    def longest(self) -> int:
        """Return the bytes of a prompt of templates at most."""
        options, classes = self.recipe.prompts, self.recipe.classes
        words = sorted((max(len(word.encode()) for word in one.words) for one in classes), reverse=True)
        things = sum(len(" and an ") + size for size in words[: options.most_things])
        ends = sum(len("; ") + size for size in words) if options.append_classes else 0
        place = max((len(one.encode()) for one in options.places), default=0)
        return max(len(one.encode()) for one in options.templates) + things + place + ends

    def _things(self, index: int) -> list[ClassEntry]:
        """Return the classes: the first in turn, so that all are equally frequent, the others at random."""
        options, classes = self.recipe.prompts, self.recipe.classes
        first = classes[self.draws.turn(len(classes), index, "class")]
        most = min(options.most_things, len(classes))
        least = min(options.least_things, most)
        count = least + self.draws.bits("count", index) % (most - least + 1)
        others = self.draws.shuffled([one for one in classes if one is not first], "others", index)[: count - 1]
        return self.draws.shuffled([first, *others], "order", index)

    def _word(self, one: ClassEntry, index: int) -> str:
        words = one.words if self.recipe.prompts.synonyms else one.words[:1]
        return self.draws.one_of(words, "word", index, one.name)


def prompts_of(recipe: Recipe) -> Prompts:
    """Return the items of a recipe.

    Raises:
        RecipeError: a file of the recipe can't be read or is not as expected.
    """
    captions: tuple[Caption, ...] = ()
    if recipe.prompts.captions:
        (path,) = recipe.files()["prompts.captions"]
        captions = read_captions(path, recipe.classes, skip=recipe.prompts.without_class == "skip")
    return Prompts(recipe, Draws(recipe.digest()), captions, Names.of(recipe.classes))


def with_article(words: str) -> str:
    """Return words with their article.

    Example:
        >>> with_article("aeroplane"), with_article("red car")
        ('an aeroplane', 'a red car')
    """
    return ("an " if words[:1].casefold() in tuple("aeiou") else "a ") + words


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
