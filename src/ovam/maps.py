"""From a trace and any words to attention maps: keys, weights, and one flat mean over steps, blocks and heads."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.aggregate import Accumulator, Axis, resize
from ovam.attention import weight_sums
from ovam.errors import (
    AmbiguousWordError,
    EmptyWordsError,
    NotFiniteError,
    NothingCapturedError,
    OptionError,
    SpaceMismatchError,
    UnknownWordError,
)
from ovam.output_space import output_shares, word_outputs
from ovam.prompt import AttributionPrompt, Span, listed
from ovam.quantised import Stored, floats, is_finite
from ovam.replay import TextRows
from ovam.shapes import Embedding, Key, Map, TokenMaps
from ovam.trace import (
    BlockChoice,
    BlockTrace,
    Call,
    Fitted,
    Grid,
    Half,
    Listed,
    ReplayedSide,
    Space,
    TextKind,
    TextSide,
    TokenEmbedding,
    Trace,
    Words,
)

SoftmaxOver = Literal["prompt", "padded", "joint"]
log = logging.getLogger("ovam")
Strategy = Literal["attention", "output"]
SPECIAL = ("<start>", "<end>", "<pad>")
"""Names of the tokens that no word stands for."""


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """How much every grid position attends to each token and word.

    `maps["lawn"]` and `maps[0]` give the map of a word, the sum over its tokens: the share of attention
    that goes to the word, whatever the number of pieces the tokenizer cut it into.

    Attributes:
        token_maps: (*kept, token, height, width), float32, in [0, 1].
        tokens: The tokens in order; special ones are `<start>`, `<end>` and `<pad>`.
        spans: The words and phrases, in the order they were asked.
        image_size: (height, width) of the image.
        kept: Names of the leading axes that were kept apart, and what stands along each.
        prompts: Number of attribution prompts, one for a text and one each for a list.
    """

    token_maps: TokenMaps
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    image_size: tuple[int, int]
    kept: Mapping[Axis, tuple[object, ...]]
    prompts: int = 1
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @property
    def words(self) -> tuple[str, ...]:
        """The words and phrases, in the order they were asked."""
        return tuple(span.text for span in self.spans)

    @property
    def grid(self) -> Grid:
        """Height and width of the maps."""
        return (self.token_maps.shape[-2], self.token_maps.shape[-1])

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str | int) -> Map:
        """Map of a word by its text, of the i-th word by its position, or of `<start>`, `<end>`, `<pad>`.

        Raises:
            UnknownWordError: the word is not in the attribution prompt.
            AmbiguousWordError: the text stands there more than once; use the position. Or a special token was asked
                of a list, whose entries have one each.
        """
        return self.token_maps[..., list(self._positions(word)), :, :].sum(-3)

    def _positions(self, word: str | int) -> Sequence[int]:
        if isinstance(word, int):
            if not -len(self.spans) <= word < len(self.spans):
                raise UnknownWordError(f"word number {word} is not there: the prompt has {len(self.spans)} words")
            return self.spans[word].tokens
        places = [i for i, span in enumerate(self.spans) if span.text.casefold() == word.casefold()]
        if len(places) > 1:
            raise AmbiguousWordError(
                f"word {word!r} stands {len(places)} times in the prompt: ask by position, "
                f"{' or '.join(f'maps[{i}]' for i in places)}"
            )
        if places:
            return self.spans[places[0]].tokens
        special = [i for i, token in enumerate(self.tokens) if token == word and token.startswith("<")]
        if special and self.prompts > 1:
            raise AmbiguousWordError(
                f"{word!r} stands in each of the {self.prompts} attribution prompts of this list: "
                "ask one of them alone, as a text, for its special tokens"
            )
        if not special and word in SPECIAL:
            there = [name for name in SPECIAL if name in self.tokens]
            raise UnknownWordError(
                f"{word!r} is no token of these maps: they have {', '.join(there) or 'none of the special ones'}; "
                "padding is there with softmax_over='padded' where the model attends to it, T5 has no <start>, and "
                "maps by output have words alone"
            )
        if not special:
            raise UnknownWordError(
                f"word {word!r} is not in these maps: they have {', '.join(map(repr, self.words))}; "
                f"ask the trace for it, trace.maps([{word!r}]), which needs no new run of the model"
            )
        return special

    def stacked(self) -> Float[Tensor, "*kept word height width"]:
        """The maps of all words, in order."""
        return torch.stack([self[i] for i in range(len(self))], dim=-3)

    def resized(self, size: tuple[int, int] | None = None) -> "AttentionMaps":
        """The maps at (height, width), the image's own size by default; bilinear, so the range stays."""
        height, width = self.image_size if size is None else size
        return replace(self, token_maps=resize(self.token_maps, (height, width)))


def attention_maps(
    trace: Trace,
    words: Words,
    *,
    half: Half | None = None,
    blocks: BlockChoice = None,
    steps: Iterable[int] | None = None,
    keep: Sequence[Axis] = (),
    softmax_over: SoftmaxOver = "prompt",
    strategy: Strategy = "attention",
) -> AttentionMaps:
    """Attention maps of any words, in the generation prompt or not, without running the model again.

    A string is one attribution prompt: its words share the attention. A list is many: each entry is an
    attribution prompt of its own, so that adding an entry never changes the others' maps.

    Args:
        trace: Queries of one run.
        words: A prompt such as "a cat on the lawn" (phrases in double quotes), a list such as
            ["hot dog", "sky"], a `TokenSet` or several among the words of a list, a `TokenEmbedding`, or raw
            vectors (token, width) of the trace's space. Tokens used on other blocks or another model than they were
            fitted on are noted (logger `ovam`, level INFO).
        half: Which half's queries; by default the conditional one where it was kept.
        blocks: Blocks by name or grid; all by default.
        steps: Step numbers; all by default.
        keep: Axes to leave apart, for studies: "block" or "head" (every head of every block, `kept["head"]`
            names them), and "step" (every denoiser call). The mean is taken over the others.
        softmax_over: "prompt" divides the attention among the prompt's own tokens, start and end included;
            "padded" among all positions the encoder reads (77 in CLIP), as the model itself does, which
            leaves less for each word, by as much as padding draws; "joint" among these and all image pixels, as the
            model itself does in joint attention (SD3, FLUX), which leaves less still.
        strategy: "attention", the weights of pixels over tokens; or in joint attention "output", how like a pixel's
            attention output is to each asked word's, of a capture with `outputs=True` (`ovam.output_space`). The
            words, two or more, share every pixel, so that here adding an entry to a list does change the others'
            maps; there are no maps of tokens, and all heads make one map of a block.

    Returns:
        Maps at the finest kept grid, float32, in [0, 1]: the mean over all (step, block, head) triples,
        each counting the same; in the output space over all (step, block) pairs, and those of all words sum to 1.

    Raises:
        EmptyWordsError: there is no word.
        NothingCapturedError: the trace holds no queries, or not of this half, or no attention outputs.
        MissingBlockError, MissingStepError: a block or step is not there.
        OptionError: an option has a value it can't take, or vectors were to be padded.
        PromptTooLongError: the text encoder does not read the whole text.
        NoTextEncoderError: the trace came from a file without a text encoder, and words are text.
        SpaceMismatchError: vectors are of another space or width.
        NotFiniteError: the queries hold NaN or infinity.
    """
    check_options(keep, softmax_over, strategy)
    check_joint(trace.text.kind, softmax_over, strategy)
    chosen = trace.select(blocks=blocks, steps=steps) if blocks is not None or steps is not None else trace
    which = half_of(chosen, half)
    prompts = embed_words(chosen.text, words, softmax_over)
    for note in {note: None for tokens in fitted_in(words) for note in tokens.notes(chosen)}:
        log.info(note)
    tokens, spans = merge_prompts(prompts)
    flat = Accumulator({name: block.grid for name, block in chosen.blocks.items()}, keep)
    if strategy == "output":
        check_rivals([span.text for span in spans])
        _add_shares(flat, chosen, prompts, spans, which)
        tokens, spans = words_alone(spans)
    else:
        _add_weights(flat, chosen, prompts, which, softmax_over)
    maps = flat.result(chosen.calls)
    _check_finite(maps, chosen.blocks, which, strategy)
    return AttentionMaps(maps, tokens, spans, chosen.size, flat.labels(chosen.calls), len(prompts))


def _add_weights(
    flat: Accumulator, trace: Trace, prompts: Sequence[TokenEmbedding], half: Half, softmax_over: SoftmaxOver
) -> None:
    """Attention weights of all blocks and steps over each attribution prompt's tokens."""
    lengths = lengths_of(prompts)
    for entries, call in key_groups(trace.text, trace.calls):
        for name, key in keys_of(trace.text, prompts, tuple(trace.blocks), call, half):
            block, image_key = trace.blocks[name], None
            if softmax_over == "joint":
                image_key = trace.replay.blocks[name].key[half][:, entries]
            query = block.query[half][:, entries]
            weights = weight_sums(
                query,
                key.to(query.device),
                scale=block.scale,
                lengths=lengths,
                keep_head=flat.keep_head,
                keep_step=flat.keep_step,
                image_key=image_key,
            )
            flat.add(name, weights, query.shape[0])


def _add_shares(
    flat: Accumulator, trace: Trace, prompts: Sequence[TokenEmbedding], spans: Sequence[Span], half: Half
) -> None:
    """Shares of the words in the attention outputs of all blocks and steps."""
    for entries, call in key_groups(trace.text, trace.calls):
        for name, rows in _rows(trace.text, prompts, tuple(trace.blocks), call, half):
            outputs = torch.cat([prompt.taken(each.output) for prompt, each in zip(prompts, rows, strict=True)], dim=1)
            image = _outputs_of(trace.blocks[name], half)[:, entries]
            words = word_outputs(outputs, spans).to(image.device)
            flat.add(name, output_shares(floats(image), words, keep_step=flat.keep_step), 1)


def _outputs_of(block: BlockTrace, half: Half) -> Stored:
    if half not in block.output:
        raise NothingCapturedError(
            "this trace keeps no attention outputs, which strategy='output' compares words with: "
            "capture with outputs=True (--outputs on the command line), or ask for strategy='attention'"
        )
    return block.output[half]


def check_rivals(words: Sequence[str]) -> None:
    """Whether there are words for output-space maps to share every pixel among.

    Raises:
        OptionError: there is one alone.
    """
    if len(words) < 2:
        raise OptionError(
            f"strategy='output' was asked for {words[0]!r} alone, which would get every pixel whole: expected at "
            "least two words, which share them; add what else is to be seen, such as 'background'"
        )


def words_alone(spans: Sequence[Span]) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """Tokens and spans of maps that have one entry a word."""
    return tuple(span.text for span in spans), tuple(Span(span.text, (i,)) for i, span in enumerate(spans))


def check_options(keep: Sequence[Axis], softmax_over: str, strategy: str = "attention") -> None:
    """Whether these are choices that there are, and go together.

    Raises:
        OptionError: they are not.
    """
    known = get_args(Axis)
    if not set(keep) <= set(known) or {"block", "head"} <= set(keep):
        raise OptionError(
            f"keep={tuple(keep)!r}: expected some of {known}, and not 'block' with 'head' "
            "(every head belongs to one block: 'head' alone keeps both apart)"
        )
    if softmax_over not in get_args(SoftmaxOver):
        raise OptionError(f"softmax_over={softmax_over!r}: expected one of {get_args(SoftmaxOver)}")
    if strategy not in get_args(Strategy):
        raise OptionError(f"strategy={strategy!r}: expected one of {get_args(Strategy)}")
    if strategy == "output" and (softmax_over != "prompt" or "head" in keep):
        asked = "keep='head'" if softmax_over == "prompt" else f"softmax_over={softmax_over!r}"
        raise OptionError(
            f"{asked} was asked of strategy='output', in which the words share each pixel, by the channels of all "
            "heads together: leave the option out, or ask for strategy='attention'"
        )


def check_joint(kind: TextKind, softmax_over: SoftmaxOver, strategy: Strategy = "attention") -> None:
    """Whether image and text share the attention at all.

    Raises:
        OptionError: they do not, and a softmax over both, or the outputs of both, was asked for.
    """
    if strategy == "output" and kind == "static":
        raise OptionError(
            "strategy='output' was asked of cross attention, in which words have no outputs: expected 'attention'; "
            "'output' is for models whose image and text share the attention (SD3, FLUX)"
        )
    if softmax_over == "joint" and kind == "static":
        raise OptionError(
            "softmax_over='joint' was asked of cross attention, in which pixels attend to text alone: expected "
            "'prompt' or 'padded'; 'joint' is for models whose image and text share the attention (SD3, FLUX)"
        )


def half_of(trace: Trace, asked: Half | None) -> Half:
    """The half of guidance that is asked for; by default the conditional one where it was kept.

    Raises:
        NothingCapturedError: the trace holds no queries, or not of this half.
    """
    halves = trace.halves
    if not halves or not trace.calls:
        raise NothingCapturedError(
            "this trace holds no queries: the denoiser was never run inside the capture, or no block or step was kept"
        )
    if asked is None:
        return "cond" if "cond" in halves else halves[0]
    if asked not in halves:
        raise NothingCapturedError(
            f"this trace holds no {asked!r} queries, only {', '.join(map(repr, halves))}: "
            "capture with guidance='both' under a guidance scale above 1 to have both halves"
        )
    return asked


def embed_words(text: TextSide, words: Words, softmax_over: SoftmaxOver = "prompt") -> list[TokenEmbedding]:
    """The attribution prompts that `words` stands for, one for a string, one each for a list.

    Raises:
        EmptyWordsError: there is no word.
        SpaceMismatchError: vectors are of another space or width.
        OptionError: vectors were asked to be padded.
    """
    padded = softmax_over != "prompt"
    if isinstance(words, str):
        return [text.embed(words, padded=padded)]
    if softmax_over == "padded" and (isinstance(words, TokenEmbedding | Tensor) or fitted_in(words)):
        raise OptionError(
            "softmax_over='padded' was asked of vectors, which are what they are: expected text; embed it with "
            "trace.text.embed(text, padded=True) and leave the option away; ask fitted tokens by themselves"
        )
    if isinstance(words, Fitted):
        words = [words]
    if isinstance(words, TokenEmbedding):
        _check_space(words.space == text.space, str(words.space), text)
        return [words]
    if isinstance(words, Tensor):
        return [_named_vectors(words, text)]
    if isinstance(words, Sequence) and all(isinstance(word, str | Fitted) for word in words):
        return [prompt for entry in entries_of(words) for prompt in _prompts_of(entry, text, padded)]
    raise EmptyWordsError(
        f"words are a {type(words).__name__}: expected a string, a list of strings and TokenSets, a TokenSet, "
        "a TokenEmbedding or a tensor (token, width)"
    )


def entries_of(words: Listed) -> tuple[str | Fitted, ...]:
    """Check a list of words, phrases and fitted tokens; blanks around words are cut.

    Raises:
        EmptyWordsError: the list is empty or an entry has no word.
    """
    parts = [words] if isinstance(words, str | Fitted) else words
    return tuple(part if isinstance(part, Fitted) else listed([part])[0] for part in parts) or listed(())


def _prompts_of(entry: str | Fitted, text: TextSide, padded: bool) -> Sequence[TokenEmbedding]:
    """The attribution prompts of a listed word, one, or of a set of tokens, one a group."""
    if isinstance(entry, str):
        return [text.embed(entry, as_phrase=True, padded=padded)]
    check_space_of(entry, text.space)
    return entry.prompts()


def check_space_of(tokens: Fitted, space: Space) -> None:
    """Whether fitted tokens can become keys of a model.

    Raises:
        SpaceMismatchError: they were fitted for another text encoder.
    """
    if tokens.space != space:
        raise SpaceMismatchError(
            f"tokens {', '.join(tokens.classes)} were fitted for {tokens.space}, but the keys here are made from "
            f"{space}: expected the same text encoder; fit them again on a trace of this model"
        )


def fitted_in(words: Words) -> tuple[Fitted, ...]:
    """The fitted tokens among what is asked."""
    if isinstance(words, Fitted):
        return (words,)
    entries = words if isinstance(words, Sequence) else ()
    return tuple(word for word in entries if isinstance(word, Fitted))


def _named_vectors(vectors: Embedding, text: TextSide) -> TokenEmbedding:
    width = text.space.width
    _check_space(vectors.ndim == 2 and vectors.shape[-1] == width, f"a tensor of shape {tuple(vectors.shape)}", text)
    if not len(vectors):
        raise EmptyWordsError(f"the tensor of vectors has shape {tuple(vectors.shape)}: expected at least one vector")
    names = tuple(f"vector {i}" for i in range(len(vectors)))
    spans = tuple(Span(name, (i,)) for i, name in enumerate(names))
    return TokenEmbedding(vectors, AttributionPrompt("", names, spans), text.space)


def _check_space(fits: bool, given: str, text: TextSide) -> None:
    if not fits:
        raise SpaceMismatchError(
            f"the embedding is {given}, but this trace's keys are made from {text.space}: "
            "make the embedding with trace.text.embed(...), or use a trace of the model it was made for"
        )


def lengths_of(prompts: Sequence[TokenEmbedding]) -> list[int]:
    """Number of tokens of each attribution prompt."""
    return [len(prompt.vectors) if prompt.own is None else len(prompt.own) for prompt in prompts]


def keys_of(
    text: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, Key]]:
    """Each block's keys of all prompts, one after the other along `token`."""
    if isinstance(text, ReplayedSide):
        for name, rows in _rows(text, prompts, blocks, call, half):
            keys = [prompt.taken(each.key) for prompt, each in zip(prompts, rows, strict=True)]
            yield name, torch.cat(keys, dim=1)
        return
    vectors = torch.cat([prompt.vectors for prompt in prompts])
    for name in blocks:
        yield name, text.keys(vectors, name, call)


def _rows(
    text: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, list[TextRows]]]:
    """Each block with every prompt's rows in it, of joint attention."""
    assert isinstance(text, ReplayedSide)  # see `check_joint`
    streams = [text.replay.rows(text.stream(prompt.vectors), blocks, call, half) for prompt in prompts]
    for found in zip(*streams, strict=True):
        yield found[0][0], [rows for _, rows in found]


def key_groups(text: TextSide, calls: Sequence[Call]) -> list[tuple[slice, int]]:
    """Entries of the step axis that share their keys: all of them, unless keys are replayed call by call."""
    if text.kind == "static":
        return [(slice(None), calls[0].index)]
    return [(slice(i, i + 1), call.index) for i, call in enumerate(calls)]


def merge_prompts(prompts: Sequence[TokenEmbedding]) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """Tokens of all prompts in a row, and their spans counted along that row."""
    tokens, spans = list[str](), list[Span]()
    for prompt in (embedding.prompt for embedding in prompts):
        spans += [Span(span.text, tuple(len(tokens) + i for i in span.tokens)) for span in prompt.spans]
        tokens += prompt.tokens
    return tuple(tokens), tuple(spans)


def _check_finite(maps: Tensor, blocks: Mapping[str, BlockTrace], half: Half, strategy: Strategy) -> None:
    if bool(torch.isfinite(maps).all()):
        return
    of_image, of_text = ("queries", "keys") if strategy == "attention" else ("attention outputs", "attention outputs")
    parts = {name: (block.query if strategy == "attention" else block.output)[half] for name, block in blocks.items()}
    culprit = next((name for name, part in parts.items() if not is_finite(part)), None)
    where = f"the {of_image} of block {culprit!r}" if culprit else f"the {of_text} of the attribution prompt"
    raise NotFiniteError(
        f"{where} contain NaN or infinity: expected finite numbers; the model's weights are damaged, or its dtype "
        "is too narrow for it (try torch.float32, and dtype=torch.bfloat16 or torch.float32 for the capture)"
    )
