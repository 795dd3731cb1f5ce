"""Words and tokens of a recipe, embedded once, so that masks can be made while the model runs on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovam.dataset.prompts import PlannedItem
from ovam.dataset.recipe import Recipe, digest_of
from ovam.errors import OvamError, RecipeError
from ovam.maps.calibration import Calibration
from ovam.maps.thresholds import Thresholds
from ovam.maps.words import OptimisedTokens, check_space_of
from ovam.prompt import folded
from ovam.tokens.token_set import TokenGroup, TokenSet, merge
from ovam.trace.phrases import embed_phrases
from ovam.trace.text_side import Space, TokenEmbedding

if TYPE_CHECKING:
    from ovam.trace.trace import Trace


@dataclass(frozen=True, eq=False)
class EmbeddedWord:
    """A word with its vectors, so that no text encoder is needed; it is used like fitted tokens, without a calibration.

    Attributes:
        word: The word.
        embedding: Its vectors.
    """

    word: str
    embedding: TokenEmbedding

    @property
    def space(self) -> Space:
        """Space of the vectors."""
        return self.embedding.space

    @property
    def classes(self) -> tuple[str, ...]:
        """The word alone."""
        return (self.word,)

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """Nothing: the map is stretched like that of any word."""
        return {}

    @property
    def thresholds(self) -> Mapping[str, Thresholds]:
        """Nothing: a word has no thresholds of its own."""
        return {}

    def prompts(self) -> tuple[TokenEmbedding, ...]:
        """Return the word as its own attribution prompt."""
        return (self.embedding,)

    def notes(self, trace: "Trace") -> tuple[str, ...]:
        """Return nothing."""
        return ()


def as_text(entry: OptimisedTokens) -> str | OptimisedTokens:
    """Return an embedded word as its text, which published methods put into sentences of their own."""
    return entry.word if isinstance(entry, EmbeddedWord) else entry


@dataclass(eq=False)
class Vocabulary:
    """Words and tokens of a recipe. Words are embedded when they are first needed, by `prepare`.

    Attributes:
        recipe: The recipe.
        tokens: Tokens of its files, or None.
    """

    recipe: Recipe
    tokens: TokenSet | None
    _words: dict[str, EmbeddedWord] = field(default_factory=dict)

    def prepare(self, text: Any, items: Sequence[PlannedItem]) -> None:
        """Embed the words of some items that are not embedded yet; this runs the text encoder.

        Args:
            text: Text side of a trace.
            items: The items.
        """
        wanted = [word for one in items for word in (*one.words.values(), *self._against(one))]
        for word in wanted:
            if word not in self._words:  # one by one: in a batch the last bits would depend on the words beside it
                self._words[word] = EmbeddedWord(word, embed_phrases(text, [word])[0])

    def entries(
        self, item: PlannedItem, *, by_words: bool = False
    ) -> tuple[list[OptimisedTokens], list[OptimisedTokens]]:
        """Return the words or tokens for the classes of an item, and its contrast words.

        Args:
            item: The item.
            by_words: Whether words are used also for classes that have a token.
        """
        groups, words = list[TokenGroup](), list[OptimisedTokens]()
        for name, word in item.words.items():
            group = None if by_words else self._group_of(name)
            if group is None:
                words.append(self._words[word])
            elif group not in groups:
                groups.append(group)
        tokens = [TokenSet(tuple(groups), self.tokens.space)] if groups and self.tokens is not None else []
        taken = {folded(name) for entry in (*words, *tokens) for name in entry.classes}
        against = [self._words[word] for word in self._against(item) if folded(word) not in taken]
        return [*words, *tokens], list(against)

    def _group_of(self, name: str) -> TokenGroup | None:
        groups = self.tokens.groups if self.tokens is not None else ()
        return next((group for group in groups if name in group.classes), None)

    def _against(self, item: PlannedItem) -> list[str]:
        """Return contrast words of an item: the recipe's, its classes', and its place; no class of the item itself."""
        masks = self.recipe.masks
        own = {folded(word) for word in item.words.values()} | {folded(name) for name in item.words}
        of_classes = [word for one in self.recipe.classes if one.name in item.words for word in one.against]
        place = [item.place] if item.place and masks.against_place else []
        found = {folded(word): word for word in (*masks.against, *of_classes, *place)}
        return [word for key, word in found.items() if key not in own]

    def check(self, space: Space) -> None:
        """Check that the tokens belong to a model.

        Raises:
            SpaceMismatchError: they were fitted for another text encoder.
        """
        if self.tokens is not None:
            check_space_of(self.tokens, space)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the file of each class's token."""
        found = dict[str, str]()
        for path in self.recipe.files()["masks.tokens"]:
            digest = digest_of(path)
            found |= dict.fromkeys(TokenSet.load(path).classes, digest)
        return found


def vocabulary_of(recipe: Recipe) -> Vocabulary:
    """Load the tokens of a recipe.

    Raises:
        RecipeError: a file can't be read; a class of the tokens is not in the recipe; or a class stands in two files.
    """
    paths = recipe.files()["masks.tokens"]
    if not paths:
        return Vocabulary(recipe, None)
    try:
        tokens = merge([TokenSet.load(path) for path in paths])
    except OvamError as error:
        raise RecipeError(f"masks.tokens={[str(path) for path in paths]!r}: {error}") from error
    known = {one.name for one in recipe.classes}
    strange = next((name for name in tokens.classes if name not in known), None)
    if strange is not None:
        raise RecipeError(
            f"the tokens are for {strange!r}, which is no class of the recipe: expected some of "
            f"{', '.join(sorted(known))}; give the class that name, or leave the file out"
        )
    missing = [one.name for one in recipe.classes if one.name not in tokens.classes]
    if recipe.masks.agreement and missing:
        raise RecipeError(f"agreement=true: class {missing[0]!r} has no token to compare its word with: expected one")
    return Vocabulary(recipe, tokens)
