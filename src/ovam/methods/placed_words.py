"""Words in padded attribution prompts: which prompt a word is asked in, and which of its tokens are the word's."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ovam.errors import OptionError
from ovam.maps.words import OptimisedTokens, check_space_of
from ovam.prompt import with_phrases
from ovam.trace.text_side import TextSide, TokenEmbedding


@dataclass(frozen=True, eq=False)
class PlacedWord:
    """One word, or one class of fitted tokens, in an attribution prompt.

    Attributes:
        name: The entry that it belongs to; synonyms belong to one entry.
        prompt: The prompt's vectors, with padding if it is a text. Words of one text share one object.
        places: Positions of the word's tokens in the prompt.
    """

    name: str
    prompt: TokenEmbedding
    places: tuple[int, ...]


class PaddedPrompts:
    """Reads attribution prompts with their padding, each text once.

    Args:
        text: Text side of a trace.
    """

    def __init__(self, text: TextSide) -> None:
        self.text = text
        self._read: dict[str, tuple[TokenEmbedding, TokenEmbedding]] = {}

    def places(self, prompt: str, word: str) -> list[tuple[int, ...]]:
        """Return the positions of a word's or phrase's tokens, for each of its places in a prompt; there may be none.

        Raises:
            EmptyWordsError: the word has no letter.
        """
        plain, _ = self._of(prompt)
        try:
            found = with_phrases(plain.prompt, [word])
        except OptionError:  # it does not stand there
            return []
        own = range(len(plain.prompt.tokens)) if plain.own is None else plain.own
        return [tuple(own[i] for i in span.tokens) for span in found.spans if span.text == word.strip()]

    def placed(self, prompt: str, word: str, name: str) -> PlacedWord:
        """Return a word in a prompt, at all its places there.

        Raises:
            OptionError: the word is not in the prompt.
        """
        places = self.places(prompt, word)
        if not places:
            raise OptionError(f"word {word!r} is not in the attribution prompt {prompt!r}: expected a word of it")
        return PlacedWord(name, self._of(prompt)[1], tuple(place for one in places for place in one))

    def in_a_row(self, words: Sequence[str]) -> list[PlacedWord]:
        """Return words in one prompt that holds nothing else; a word may be a part of another, as in "dog, hot dog".

        Raises:
            PromptTooLongError: there are more words than the text encoder reads.
        """
        prompt = " ".join(words)
        plain, padded = self._of(prompt)
        own = range(len(plain.prompt.tokens)) if plain.own is None else plain.own
        placed, spans = list[PlacedWord](), iter(plain.prompt.spans)
        for word in words:
            count = len(self.text.embed(word).prompt.spans)
            tokens = [own[i] for span in itertools.islice(spans, count) for i in span.tokens]
            placed.append(PlacedWord(word, padded, tuple(tokens)))
        return placed

    def _of(self, prompt: str) -> tuple[TokenEmbedding, TokenEmbedding]:
        if prompt not in self._read:
            self._read[prompt] = self.text.embed(prompt), self.text.embed(prompt, padded=True)
        return self._read[prompt]


def placed_tokens(text: TextSide, tokens: OptimisedTokens) -> list[PlacedWord]:
    """Return each class of fitted tokens, in the prompt that it was fitted in: its group's own rows, without padding.

    Raises:
        SpaceMismatchError: the tokens belong to another text encoder.
    """
    check_space_of(tokens, text.space)
    return [PlacedWord(span.text, prompt, span.tokens) for prompt in tokens.prompts() for span in prompt.prompt.spans]
