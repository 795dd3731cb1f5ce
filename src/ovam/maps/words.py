"""Turn words, phrases, optimised tokens and vectors into attribution prompts.

An attribution prompt is a text for which maps are made. At each pixel the attention is divided among the tokens of this
text.

Order: the functions here, `ovam.maps.compute`, `ovam.maps.synonyms` and the masks all keep the given order of words. In
a list, the synonyms of an entry ("dog|puppy") come one after the other. A `TokenSet` is replaced by its classes, in the
order of `classes`. So, for a list, `synonyms_in`, `names_of` and the words of finished maps have one element for each
entry of the list (for a `TokenSet`: one for each class), in the same order. Before the synonyms are merged, the maps
have one span for each synonym.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from ovam.errors import EmptyWordsError, OptionError, SpaceMismatchError
from ovam.maps.calibration import Calibration
from ovam.maps.options import SoftmaxOver
from ovam.maps.thresholds import Thresholds
from ovam.prompt import BAR, AttributionPrompt, Span, folded, list_of_words, synonyms_of, with_phrases
from ovam.shapes import Embedding
from ovam.trace.calls import Half
from ovam.trace.phrases import embed_phrases
from ovam.trace.text_side import Space, TextSide, TokenEmbedding

if TYPE_CHECKING:
    from ovam.trace.trace import Trace

log = logging.getLogger("ovam")
_COMMAS = ",，、"  # the commas of Latin, Chinese and Japanese writing


@runtime_checkable
class OptimisedTokens(Protocol):
    """Optimised tokens, which can replace words: vectors that stand for annotated classes.

    They are never in one attribution prompt with words: each group of classes that were fitted together is one
    attribution prompt. `ovam.TokenSet` implements this protocol.
    """

    @property
    def space(self) -> Space: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the annotated classes, in the order of the prompts."""
        ...

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """Calibrations by class, for the classes that have a calibration."""
        ...

    @property
    def thresholds(self) -> Mapping[str, Thresholds]:
        """Thresholds by class, for the classes that have thresholds."""
        ...

    def prompts(self) -> tuple[TokenEmbedding, ...]: ...

    def notes(self, trace: "Trace") -> tuple[str, ...]:
        """Return sentences that say how a trace differs from the traces of the fit."""
        ...


Words = str | Sequence[str | OptimisedTokens] | OptimisedTokens | TokenEmbedding | Embedding
"""Words for maps. They are one of these: a prompt (one string); a list of words, phrases and optimised tokens;
optimised tokens alone; or vectors, with or without their prompt."""

Listed = str | Sequence[str | OptimisedTokens] | OptimisedTokens
"""Words for masks: one word, phrase or set of optimised tokens; or a list of them."""


def embed_words(
    side: TextSide, words: Words, softmax_over: SoftmaxOver = "prompt", phrases: Sequence[str] = ()
) -> list[TokenEmbedding]:
    """Return the attribution prompts of `words`, in order.

    A string is one prompt. In a list, each word, phrase or synonym is one prompt. In a `TokenSet`, the classes of one
    group (fitted together) are one prompt.

    Args:
        side: The text side, which turns text into vectors.
        words: Words, see `Words`.
        softmax_over: As in `MapOptions`; the prompts are padded unless it is "prompt".
        phrases: Phrases of a string that get one map each.

    Raises:
        EmptyWordsError: there is no word.
        SpaceMismatchError: vectors belong to another space or have another width.
        OptionError: vectors can't be padded, or `phrases` are given but `words` is not a string.
    """
    padded = softmax_over != "prompt"
    if isinstance(words, str):
        embedded = side.embed(words, padded=padded)
        return [replace(embedded, prompt=with_phrases(embedded.prompt, phrases))]
    if phrases:
        raise OptionError(
            f"phrases={list(phrases)!r}, but the words are a {type(words).__name__}: expected a prompt (one string) "
            "with phrases=...; in a list every entry is a phrase already"
        )
    if softmax_over == "padded" and (isinstance(words, TokenEmbedding | Tensor) or optimised_in(words)):
        raise OptionError(
            "softmax_over='padded' pads text, but the words are vectors: expected text; to use padded vectors, make "
            "them with trace.text.embed(text, padded=True) and leave the option out; optimised tokens can't be padded"
        )
    if isinstance(words, OptimisedTokens):
        words = [words]
    if isinstance(words, TokenEmbedding):
        _check_space(words.space == side.space, str(words.space), side)
        return [words]
    if isinstance(words, Tensor):
        return [_named_vectors(words, side)]
    if isinstance(words, Sequence) and all(isinstance(word, str | OptimisedTokens) for word in words):
        return _prompts_of(entries_of(words), side, padded)
    raise EmptyWordsError(
        f"words are a {type(words).__name__}: expected a string, a list of strings and TokenSets, a TokenSet, "
        "a TokenEmbedding or a tensor (token, width)"
    )


def entries_of(words: Listed) -> tuple[str | OptimisedTokens, ...]:
    """Check a list of words, phrases and optimised tokens; return its entries, without spaces around the words.

    Raises:
        EmptyWordsError: the list is empty or an entry has no word.
        OptionError: an entry is neither a string nor optimised tokens; or `words` is one string with a comma, which may
            be meant as a list.
    """
    parts = _parts_of(words)
    return tuple(
        BAR.join(list_of_words(synonyms_of(part))) if isinstance(part, str) else part for part in parts
    ) or list_of_words(())


def _parts_of(words: object) -> list[str | OptimisedTokens]:
    """Return the entries of a list unchanged; a single word or `TokenSet` becomes a list of one entry.

    Raises:
        OptionError: an entry is neither a string nor optimised tokens; or `words` is one string with a comma, which may
            be meant as a list. `maps` would read such a string as one prompt.
    """
    if isinstance(words, str) and any(comma in words for comma in _COMMAS):
        parts = [part.strip() for part in re.split(f"[{_COMMAS}]", words) if part.strip()]
        raise OptionError(
            f"words are one text with a comma, {words!r}: expected a list, {parts!r}; if it is one phrase, write "
            f"[{words!r}]"
        )
    if isinstance(words, str | OptimisedTokens):
        return [words]
    vectors = isinstance(words, Tensor | TokenEmbedding)
    entries = list[str | OptimisedTokens]()
    for entry in words if isinstance(words, Iterable) and not vectors else [words]:
        if not isinstance(entry, str | OptimisedTokens):
            raise OptionError(
                f"words to segment include {_described(entry)}: expected strings and TokenSets, because masks need "
                "names; for vectors use trace.maps(...), or fit a TokenSet with ovam.optimize_tokens"
            )
        entries.append(entry)
    return entries


def _described(entry: object) -> str:
    shape = f" of shape {tuple(entry.shape)}" if isinstance(entry, Tensor) else ""
    return f"a {type(entry).__name__}{shape}"


def _prompts_of(entries: Sequence[str | OptimisedTokens], side: TextSide, padded: bool) -> list[TokenEmbedding]:
    """Return the attribution prompts: one for each word or synonym, and one for each group of a `TokenSet`."""
    words = [word for entry in entries if isinstance(entry, str) for word in synonyms_of(entry)]
    of_words = iter(embed_phrases(side, words, padded=padded) if words else ())
    prompts = list[TokenEmbedding]()
    for entry in entries:
        if isinstance(entry, str):
            prompts += [next(of_words) for _ in synonyms_of(entry)]
        else:
            check_space_of(entry, side.space)
            prompts += entry.prompts()
    return prompts


def check_space_of(tokens: OptimisedTokens, space: Space) -> None:
    """Check that keys of a model can be made from optimised tokens.

    Raises:
        SpaceMismatchError: the tokens were fitted for another text encoder.
    """
    if tokens.space != space:
        raise SpaceMismatchError(
            f"optimised tokens {', '.join(tokens.classes)} were fitted for {tokens.space}, but the keys here are made "
            f"from {space}: expected the same text encoder; fit them again on a trace of this model"
        )


def warn_of_clip_skip(space: Space, words: Words, half: Half) -> None:
    """Warn if the vectors of the words come from another encoder layer than those of the negative prompt."""
    texts = isinstance(words, str) or (isinstance(words, Sequence) and any(isinstance(word, str) for word in words))
    if half == "uncond" and space.skips and texts:
        log.warning(
            "words for guidance='uncond' are read from layer %r, like the run's prompt, but pipelines do not apply "
            "clip_skip to the negative prompt: to use the negative prompt's own keys, pass the vectors that "
            "pipe.encode_prompt returns for it, trace.maps(negative_prompt_embeds[0], guidance='uncond')",
            space.layer,
        )


def optimised_in(words: Words) -> tuple[OptimisedTokens, ...]:
    """Return the optimised tokens among the words."""
    if isinstance(words, OptimisedTokens):
        return (words,)
    entries = words if isinstance(words, Sequence) else ()
    # strings first: to compare one with a protocol takes long
    return tuple(word for word in entries if not isinstance(word, str) and isinstance(word, OptimisedTokens))


def _named_vectors(vectors: Embedding, side: TextSide) -> TokenEmbedding:
    width = side.space.width
    _check_space(vectors.ndim == 2 and vectors.shape[-1] == width, f"a tensor of shape {tuple(vectors.shape)}", side)
    if not len(vectors):
        raise EmptyWordsError(f"the tensor of vectors has shape {tuple(vectors.shape)}: expected at least one vector")
    names = tuple(f"vector {i}" for i in range(len(vectors)))
    spans = tuple(Span(name, (i,)) for i, name in enumerate(names))
    return TokenEmbedding(vectors, AttributionPrompt("", names, spans), side.space)


def _check_space(fits: bool, given: str, side: TextSide) -> None:
    if not fits:
        raise SpaceMismatchError(
            f"the embedding is {given}, but this trace's keys are made from {side.space}: "
            "make the embedding with trace.text.embed(...), or use a trace of the model it was made for"
        )


def names_of(entries: Iterable[str | OptimisedTokens]) -> tuple[str, ...]:
    """Return the words and the classes of optimised tokens, in order."""
    return tuple(name for entry in entries for name in ([entry] if isinstance(entry, str) else entry.classes))


def synonyms_in(words: Words) -> list[tuple[str, ...]]:
    """Return for each word of a list all its synonyms, and for each class of optimised tokens its name, in order.

    If `words` is not a list, return nothing.
    """
    if isinstance(words, str | TokenEmbedding | Tensor | OptimisedTokens):
        return []
    return [
        names
        for entry in entries_of(words)
        for names in ([synonyms_of(entry)] if isinstance(entry, str) else [(name,) for name in entry.classes])
    ]


def calibrations_of(words: Words) -> dict[str, Calibration]:
    """Return the calibrations of the optimised tokens among the words, by class."""
    return {name: one for tokens in optimised_in(words) for name, one in tokens.calibrations.items()}


def thresholds_of(words: Words) -> dict[str, Thresholds]:
    """Return the thresholds of the optimised tokens among the words, by class."""
    return {name: one for tokens in optimised_in(words) for name, one in tokens.thresholds.items()}


def contrast_of(against: Listed) -> tuple[str | OptimisedTokens, ...]:
    """Check contrast words (the option `against`), and return them without spaces around the words.

    The result is empty if no contrast words are given.

    Raises:
        EmptyWordsError: an entry has no word.
        OptionError: an entry is neither a string nor optimised tokens; or `against` is one string with a comma, which
            may be meant as a list.
    """
    nothing = isinstance(against, str | Sequence) and not against
    return () if nothing else entries_of(against)


def check_different(words: Sequence[str]) -> None:
    """Check that all words are different. Upper and lower case count as the same.

    Most text encoders make no difference between upper and lower case: "dog" and "Dog" would have the same map, and one
    of them would get all pixels.

    Raises:
        OptionError: a word is listed twice, or differs from another only in capitals or in how accents are encoded.
    """
    single = [synonym for word in words for synonym in synonyms_of(word)]
    for i, word in enumerate(single):
        same = [other for other in single[:i] if folded(other) == folded(word)]
        if same:
            also = "" if same[0] == word else f", also as {same[0]!r}, and most text encoders read both the same"
            raise OptionError(
                f"word {word!r} is listed twice{also}: expected each word once, in `words` or in `against`; the class "
                "of an optimised token counts as a word, so ask for a word and its token in two calls"
            )


def lengths_of(prompts: Sequence[TokenEmbedding]) -> list[int]:
    """Return the number of tokens of each attribution prompt."""
    return [len(prompt.vectors) if prompt.own is None else len(prompt.own) for prompt in prompts]


def merge_prompts(prompts: Sequence[TokenEmbedding]) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """Return the tokens of all prompts as one sequence, and all spans with positions in this sequence, in order."""
    tokens, spans = list[str](), list[Span]()
    for prompt in (embedding.prompt for embedding in prompts):
        spans += [Span(span.text, tuple(len(tokens) + i for i in span.tokens)) for span in prompt.spans]
        tokens += prompt.tokens
    return tuple(tokens), tuple(spans)
