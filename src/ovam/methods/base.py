"""What a method is: a frozen object with a name, its numbers, what it needs captured, and `segment`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ovam.checks import inner_share
from ovam.maps.words import Listed, OptimisedTokens, check_different, entries_of, names_of
from ovam.masks.result import Segmentation
from ovam.trace.trace import Trace
from ovam.tracing.encode_options import EncodeOptions


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method that makes masks of words or fitted tokens from a trace.

    A subclass is a frozen dataclass too. Its fields are the method's numbers, and each has a default: the published
    number. A subclass that checks its own fields in `__post_init__` calls `super().__post_init__()` there.

    To use another number, such as a threshold chosen on validation images, replace the field:
    `dataclasses.replace(method, threshold=0.3)`.

    Attributes:
        name: Name of the method, for `by_name`; a class variable. The command line knows the methods of ovam alone.
        threshold: Border between a word and the background, in (0, 1), in the method's own scale.
        token_threshold: The same for the classes of a `TokenSet`.

    Raises:
        OptionError: a value is not allowed.
    """

    name: ClassVar[str]
    threshold: float
    token_threshold: float

    def __post_init__(self) -> None:
        for field in ("threshold", "token_threshold"):
            object.__setattr__(self, field, inner_share(field, getattr(self, field)))

    @property
    def requires(self) -> Mapping[str, Any]:
        """Options of `ovam.capture` with which a trace has all that the method needs; empty if the defaults do."""
        return {}

    @property
    def requires_encoded(self) -> Mapping[str, Any]:
        """The same for `ovam.encode`, which takes fewer options: a real image has one half of guidance, for example."""
        taken = {field.name for field in fields(EncodeOptions)}
        return {name: value for name, value in self.requires.items() if name in taken}

    @abstractmethod
    def segment(self, trace: Trace, words: Listed) -> Segmentation:
        """Return masks and a label map of words, phrases and fitted tokens, as `Trace.segment` does.

        Args:
            trace: Queries of one run, captured with `requires` or encoded with `requires_encoded`.
            words: Words and phrases, `TokenSet`s, or both in one list. "dog|puppy" is one word with synonyms.

        Returns:
            The scores of all words have their border at 0.5, whatever the method's own threshold is; their order is
            the method's. Presence is ovam's own, of the plain maps of the same words, since no method has one.

        Raises:
            EmptyWordsError, OptionError: the words can't be segmented, or two are alike.
            NothingCapturedError: the trace lacks what the method needs; the message has the line that captures it.
            SpaceMismatchError: tokens belong to another text encoder.
        """


def checked_words(words: Listed) -> tuple[str | OptimisedTokens, ...]:
    """Check listed words and fitted tokens; return the entries.

    Raises:
        EmptyWordsError: there is no word.
        OptionError: an entry is something else, or a word is listed twice.
    """
    entries = entries_of(words)
    check_different(names_of(entries))
    return entries


def thresholds_of(entries: Sequence[str | OptimisedTokens], method: Method) -> tuple[float, ...]:
    """Return the threshold of each word and of each class of fitted tokens, in order."""
    return tuple(
        threshold
        for entry in entries
        for threshold in (
            [method.threshold] if isinstance(entry, str) else [method.token_threshold] * len(entry.classes)
        )
    )


def capture_line(method: Method) -> str:
    """Return the line that captures what a method needs, for messages."""
    return f"ovam.capture(pipe, **ovam.methods.by_name({method.name!r}).requires)"
