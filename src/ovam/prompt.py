"""Attribution prompts: what was typed, cut into words and phrases, and the tokens of each, by position."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ovam.errors import EmptyWordsError

_QUOTED = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Unit:
    """A word or phrase as typed: its text and where it stands, `text[start:stop]` of the plain prompt."""

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
        text: The plain text, quotes around phrases removed.
        tokens: Every token in order as readable text; special ones are `<start>`, `<end>` and `<pad>`.
        spans: The typed units in order, each with its token positions.
    """

    text: str
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]


def parse(text: str, names: Collection[str] = ()) -> tuple[str, tuple[Unit, ...]]:
    """Take a typed prompt apart: the plain text, and its words; a phrase in double quotes is one unit.

    Args:
        text: What was typed.
        names: Words of the tokenizer's own that may hold other signs than letters, such as `<cat-toy>`.

    Raises:
        EmptyWordsError: the text has no word.

    Example:
        >>> parse('a "hot dog" here')[1][1]
        Unit(text='hot dog', start=2, stop=9)
    """
    plain, units, position, word = "", list[Unit](), 0, _word(text, names)
    for quoted in _QUOTED.finditer(text):
        plain = _append_words(plain, text[position : quoted.start()], units, word)
        phrase = quoted.group(1)
        if phrase.strip():
            units.append(Unit(phrase.strip(), len(plain), len(plain) + len(phrase)))
        plain, position = plain + phrase, quoted.end()
    plain = _append_words(plain, text[position:], units, word)
    if not units:
        raise EmptyWordsError(
            f"attribution prompt {text!r} has no word in it: expected at least one word, "
            "for example 'cat' or 'a cat on the lawn'"
        )
    return plain, tuple(units)


def _word(text: str, names: Collection[str]) -> re.Pattern[str]:
    """Finds words of this text; a name stands for itself, but not within another word."""
    # `\w` leaves out combining marks, which write accents typed apart from their letter, and the vowels of Hindi
    marks = {sign for sign in text if unicodedata.category(sign).startswith("M")}
    inner = rf"[\w{''.join(sorted(marks))}]"
    apart = (rf"(?<!{inner}){re.escape(name)}(?!{inner})" for name in sorted(names, key=len, reverse=True))
    return re.compile("|".join([*apart, rf"\w{inner}*(?:[-'’]\w{inner}*)*"]), re.IGNORECASE)


def folded(word: str) -> str:
    """What words are compared by: neither capitals count, nor whether accents are typed apart from their letters."""
    return unicodedata.normalize("NFC", word.casefold())


def _append_words(plain: str, more: str, units: list[Unit], word: re.Pattern[str]) -> str:
    units += [Unit(m.group(), len(plain) + m.start(), len(plain) + m.end()) for m in word.finditer(more)]
    return plain + more


def phrase(text: str, names: Collection[str] = ()) -> tuple[str, tuple[Unit, ...]]:
    """A listed word or phrase: the whole text is one unit; `names` as in `parse`.

    Raises:
        EmptyWordsError: the text has no word.
    """
    plain, _ = parse(text, names)
    plain = plain.strip()
    return plain, (Unit(plain, 0, len(plain)),)


def listed(words: Sequence[str]) -> tuple[str, ...]:
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
