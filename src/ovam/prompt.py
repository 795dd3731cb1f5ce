"""Attribution prompts: what was typed, cut into words and phrases, and the tokens of each, by position."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ovam.errors import EmptyWordsError, OptionError

BAR = "|"
"""Stands between synonyms in an entry of a list."""
_WEIGHT = re.compile(r":\d+(?:\.\d+)?(?=\))")
"""As in "(cat:1.3)": a part of the text that the encoder reads, but no word that anybody asks for."""


@dataclass(frozen=True)
class Unit:
    """A word or phrase as typed: its text and where it stands, `text[start:stop]` of the prompt."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Span:
    """A unit and the positions of its tokens in the attribution prompt."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class AttributionPrompt:
    """A text as the text encoder reads it.

    Attributes:
        text: The text.
        tokens: Every token in order as readable text; special ones are `<start>`, `<end>` and `<pad>`.
        spans: The typed units in order, each with its token positions.
    """

    text: str
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]


def parse(text: str, names: Collection[str] = ()) -> tuple[str, tuple[Unit, ...]]:
    """Find the words of a prompt, which is the text as given: quotes, brackets and weights are signs like others.

    Args:
        text: The prompt.
        names: Words that were added to the tokenizer and may contain other characters than letters, such as
            `<cat-toy>`.

    Raises:
        EmptyWordsError: the text has no word.

    Returns:
        The text, and its words in order.

    Example:
        >>> parse('a sign that says "cat"')[1][-1]
        Unit(text='cat', start=18, stop=21)
    """
    weights = {place for weight in _WEIGHT.finditer(text) for place in range(*weight.span())}
    found = (m for m in _word(text, names).finditer(text) if m.start() not in weights)
    units = tuple(Unit(m.group(), m.start(), m.end()) for m in found)
    if not units:
        raise EmptyWordsError(
            f"attribution prompt {text!r} has no word in it: expected at least one word, "
            "for example 'cat' or 'a cat on the lawn'"
        )
    return text, units


def _word(text: str, names: Collection[str]) -> re.Pattern[str]:
    """Finds words of this text: letters and digits, emoji, and names, which are not looked for within another word."""
    # `\w` leaves out combining marks, which write accents typed apart from their letter, and the vowels of Hindi
    marks = {sign for sign in text if unicodedata.category(sign).startswith("M")}
    inner = rf"[\w{''.join(sorted(marks))}]"
    apart = (rf"(?<!{inner}){re.escape(name)}(?!{inner})" for name in sorted(names, key=len, reverse=True))
    return re.compile("|".join([*apart, rf"\w{inner}*(?:[-'’]\w{inner}*)*", *_emoji(text)]), re.IGNORECASE)


def _emoji(text: str) -> list[str]:
    """Finds pictures such as 🐶 among the signs of this text, with what joins and colours them."""
    signs = "".join(sorted({re.escape(sign) for sign in text if unicodedata.category(sign) == "So"}))
    return [rf"[{signs}](?:[\u200d\ufe0f\U0001f3fb-\U0001f3ff]+[{signs}]?)*"] if signs else []


def folded(word: str) -> str:
    """Return a word in the form in which words are compared.

    Words that differ only in upper and lower case, or in how accents are encoded, have the same form.
    """
    return unicodedata.normalize("NFC", word.casefold())


def synonyms_of(word: str) -> tuple[str, ...]:
    """Return the synonyms in an entry of a list, stripped; one alone without a bar.

    Raises:
        EmptyWordsError: there is nothing on one side of a bar.
    """
    parts = tuple(part.strip() for part in word.split(BAR))
    if not all(parts) and BAR in word:
        raise EmptyWordsError(f"word {word!r} has a bar with nothing beside it: expected synonyms, as in 'dog|puppy'")
    return parts


def is_name(word: str, name: str) -> bool:
    """Return whether a word is this name, or one of the synonyms in it, whether in upper or lower case."""
    return folded(word) in {folded(each) for each in (name, *name.split(BAR))}


def phrase(text: str, names: Collection[str] = ()) -> tuple[str, tuple[Unit, ...]]:
    """A listed word or phrase: the whole text is one unit; `names` as in `parse`.

    Raises:
        EmptyWordsError: the text has no word.
    """
    plain, _ = parse(text, names)
    plain = plain.strip()
    return plain, (Unit(plain, 0, len(plain)),)


def list_of_words(words: Sequence[str]) -> tuple[str, ...]:
    """Check a list of words or phrases.

    Raises:
        EmptyWordsError: the list is empty or an entry has no word.
    """
    if not words:
        raise EmptyWordsError("the list of words is empty: give at least one word, for example ['cat', 'grass']")
    return tuple(phrase(word)[0] for word in words)


def locate(
    plain: str, units: Sequence[Unit], tokens: Sequence[str], offsets: Sequence[tuple[int, int]]
) -> AttributionPrompt:
    """Give each unit the tokens whose characters overlap its own.

    Args:
        plain: The text that was tokenised.
        units: Its words and phrases.
        tokens: Readable form of every token, in order.
        offsets: First character and end of each token in `plain`; equal for special tokens.
    """
    spans = []
    for unit in units:
        inside = tuple(
            i for i, (start, stop) in enumerate(offsets) if start < min(stop, unit.stop) and stop > unit.start
        )
        spans.append(Span(unit.text, inside))
    return AttributionPrompt(plain, tuple(tokens), tuple(spans))


def with_phrases(prompt: AttributionPrompt, phrases: Sequence[str]) -> AttributionPrompt:
    """The same prompt with each phrase as one unit, wherever its words stand in a row.

    Args:
        prompt: Its spans are words.
        phrases: Such as "hot dog"; the first of those that overlap wins.

    Raises:
        EmptyWordsError: a phrase has no word.
        OptionError: a phrase does not stand in the prompt.
    """
    spans = list(prompt.spans)
    for text in phrases:
        places = _places(spans, text)
        if not places:
            raise OptionError(
                f"phrase {text!r} does not stand in the prompt {prompt.text!r}: expected its words in a row there; "
                f"ask for it alone as a list, maps([{text!r}])"
            )
        for start, stop in reversed(places):
            spans[start:stop] = [_merged(text.strip(), spans[start:stop])]
    return replace(prompt, spans=tuple(spans))


def _places(spans: Sequence[Span], phrase: str) -> list[tuple[int, int]]:
    """Where the words of a phrase stand in a row: first span and end of each place, none over another."""
    # names such as <cat-toy> are words of the spans, which `parse` does not know here
    written = {"".join(folded(phrase).split()), "".join(folded(unit.text) for unit in parse(phrase)[1])}
    places, start = list[tuple[int, int]](), 0
    while start < len(spans):
        ends = (stop for stop in range(start + 1, len(spans) + 1) if _joined(spans[start:stop]) in written)
        stop = next(ends, None)
        places += [] if stop is None else [(start, stop)]
        start = start + 1 if stop is None else stop
    return places


def _joined(spans: Sequence[Span]) -> str:
    return "".join(folded(span.text) for span in spans)


def _merged(text: str, spans: Sequence[Span]) -> Span:
    return Span(text, tuple(sorted(i for span in spans for i in span.tokens)))
