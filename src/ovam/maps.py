"""From a trace and any words to attention maps: keys, weights, and one flat mean over steps, blocks and heads."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

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
from ovam.prompt import AttributionPrompt, Span, listed
from ovam.quantised import Stored, is_finite
from ovam.shapes import Embedding, Key, Map, TokenMaps
from ovam.trace import BlockChoice, BlockTrace, Call, Grid, Half, ReplayedSide, TextSide, TokenEmbedding, Trace, Words

Axis = Literal["block", "head", "step"]
SoftmaxOver = Literal["prompt", "padded", "joint"]


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
        return replace(self, token_maps=_resize(self.token_maps, (height, width)))


def attention_maps(
    trace: Trace,
    words: Words,
    *,
    half: Half | None = None,
    blocks: BlockChoice = None,
    steps: Iterable[int] | None = None,
    keep: Sequence[Axis] = (),
    softmax_over: SoftmaxOver = "prompt",
) -> AttentionMaps:
    """Attention maps of any words, in the generation prompt or not, without running the model again.

    A string is one attribution prompt: its words share the attention. A list is many: each entry is an
    attribution prompt of its own, so that adding an entry never changes the others' maps.

    Args:
        trace: Queries of one run.
        words: A prompt such as "a cat on the lawn" (phrases in double quotes), a list such as
            ["hot dog", "sky"], a `TokenEmbedding`, or raw vectors (token, width) of the trace's space.
        half: Which half's queries; by default the conditional one where it was kept.
        blocks: Blocks by name or grid; all by default.
        steps: Step numbers; all by default.
        keep: Axes to leave apart, for studies: "block" or "head" (every head of every block, `kept["head"]`
            names them), and "step" (every denoiser call). The mean is taken over the others.
        softmax_over: "prompt" divides the attention among the prompt's own tokens, start and end included;
            "padded" among all positions the encoder reads (77 in CLIP), as the model itself does, which
            leaves less for each word, by as much as padding draws; "joint" among these and all image pixels, as the
            model itself does in joint attention (SD3, FLUX), which leaves less still.

    Returns:
        Maps at the finest kept grid, float32, in [0, 1]: the mean over all (step, block, head) triples,
        each counting the same.

    Raises:
        EmptyWordsError: there is no word.
        NothingCapturedError: the trace holds no queries, or not of this half.
        MissingBlockError, MissingStepError: a block or step is not there.
        OptionError: an option has a value it can't take, or vectors were to be padded.
        PromptTooLongError: the text encoder does not read the whole text.
        NoTextEncoderError: the trace came from a file without a text encoder, and words are text.
        SpaceMismatchError: vectors are of another space or width.
        NotFiniteError: the queries hold NaN or infinity.
    """
    check_options(keep, softmax_over)
    check_joint(trace.text, softmax_over)
    chosen = trace.select(blocks=blocks, steps=steps) if blocks is not None or steps is not None else trace
    which = _half(chosen, half)
    prompts = embed_words(chosen.text, words, softmax_over)
    lengths = lengths_of(prompts)
    flat = Accumulator({name: block.grid for name, block in chosen.blocks.items()}, keep)
    for entries, call in _key_groups(chosen.text, chosen.calls):
        for name, key in _keys(chosen.text, prompts, tuple(chosen.blocks), call, which):
            block, image_key = chosen.blocks[name], None
            if softmax_over == "joint":
                image_key = chosen.replay.blocks[name].key[which][:, entries]
            query = block.query[which][:, entries]
            flat.add(name, query, key.to(query.device), block.scale, lengths, image_key)
    maps = flat.result(chosen.calls)
    _check_finite(maps, chosen.blocks, which)
    tokens, spans = merge_prompts(prompts)
    return AttentionMaps(maps, tokens, spans, chosen.size, flat.labels(chosen.calls), len(prompts))


def check_options(keep: Sequence[Axis], softmax_over: str) -> None:
    """Whether these are choices that there are.

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


def check_joint(text: TextSide, softmax_over: SoftmaxOver) -> None:
    """Whether image and text share the attention at all.

    Raises:
        OptionError: they do not, and a softmax over both was asked for.
    """
    if softmax_over == "joint" and text.kind == "static":
        raise OptionError(
            "softmax_over='joint' was asked of cross attention, in which pixels attend to text alone: expected "
            "'prompt' or 'padded'; 'joint' is for models whose image and text share the attention (SD3, FLUX)"
        )


def _half(trace: Trace, asked: Half | None) -> Half:
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
    if softmax_over == "padded" and isinstance(words, TokenEmbedding | Tensor):
        raise OptionError(
            "softmax_over='padded' was asked of vectors, which are what they are: expected text; embed it with "
            "trace.text.embed(text, padded=True) and leave the option away"
        )
    if isinstance(words, TokenEmbedding):
        _check_space(words.space == text.space, str(words.space), text)
        return [words]
    if isinstance(words, Tensor):
        return [_named_vectors(words, text)]
    if isinstance(words, Sequence) and all(isinstance(word, str) for word in words):
        return [text.embed(word, as_phrase=True, padded=padded) for word in listed(words)]
    raise EmptyWordsError(
        f"words are a {type(words).__name__}: expected a string, a list of strings, a TokenEmbedding "
        "or a tensor (token, width)"
    )


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


def _keys(
    text: TextSide, prompts: Sequence[TokenEmbedding], blocks: Sequence[str], call: int, half: Half
) -> Iterator[tuple[str, Key]]:
    """Each block's keys of all prompts, one after the other along `token`."""
    if isinstance(text, ReplayedSide):
        streams = [text.replay.keys(text.stream(prompt.vectors), blocks, call, half) for prompt in prompts]
        for found in zip(*streams, strict=True):
            keys = [prompt.taken(key) for prompt, (_, key) in zip(prompts, found, strict=True)]
            yield found[0][0], torch.cat(keys, dim=1)
        return
    vectors = torch.cat([prompt.vectors for prompt in prompts])
    for name in blocks:
        yield name, text.keys(vectors, name, call)


def _key_groups(text: TextSide, calls: Sequence[Call]) -> list[tuple[slice, int]]:
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


class Accumulator:
    """One flat mean over (step, block, head), taken block by block or call by call."""

    def __init__(self, grids: Mapping[str, Grid], keep: Sequence[Axis]) -> None:
        self.grids, self.keep = grids, frozenset(keep)
        self.grid: Grid = max(grids.values(), key=lambda grid: grid[0] * grid[1])
        self.heads: dict[str, int] = {}
        self.sums: dict[str, list[Tensor]] = {}

    def add(
        self,
        block: str,
        query: Stored,
        key: Tensor,
        scale: float,
        lengths: Sequence[int],
        image_key: Stored | None = None,
    ) -> None:
        """Add some steps of a block: their weights, summed over heads and steps unless those are kept."""
        keep_head, keep_step = "head" in self.keep, "step" in self.keep
        sums = weight_sums(
            query,
            key,
            scale=scale,
            lengths=lengths,
            keep_head=keep_head,
            keep_step=keep_step,
            image_key=image_key,
        )
        parts = self.sums.setdefault(block, [])
        self.heads[block] = query.shape[0]
        if keep_step or not parts:
            parts.append(sums)
        else:
            parts[0] += sums

    def result(self, calls: Sequence[Call]) -> TokenMaps:
        """The mean, at the finest grid, axes (block or head, step, token, height, width) where kept."""
        keep_step = "step" in self.keep
        rows = (
            _resize(torch.cat(parts, dim=1).unflatten(-1, self.grids[block]), self.grid).cpu()
            for block, parts in self.sums.items()
        )
        steps = 1 if keep_step else len(calls)
        if "head" in self.keep:
            maps = torch.cat(list(rows)) / steps
        elif "block" in self.keep:
            counts = [self.heads[block] * steps for block in self.sums]
            maps = torch.cat([row / count for row, count in zip(rows, counts, strict=True)])
        else:
            total = functools.reduce(torch.add, rows)  # one after the other: they are large
            maps = total[0] / (sum(self.heads.values()) * steps)
        return maps if keep_step else maps.squeeze(-4)

    def labels(self, calls: Sequence[Call]) -> dict[Axis, tuple[object, ...]]:
        """What stands along each kept axis: block names, (block, head) pairs, calls."""
        named: dict[Axis, tuple[object, ...]] = {}
        if "block" in self.keep:
            named["block"] = tuple(self.sums)
        if "head" in self.keep:
            named["head"] = tuple((block, head) for block in self.sums for head in range(self.heads[block]))
        if "step" in self.keep:
            named["step"] = tuple(calls)
        return named


def _resize(maps: Tensor, size: Grid) -> Tensor:
    """Bilinear, over the last two axes; a convex combination, so that the range and the sums stay."""
    if maps.shape[-2:] == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=False).reshape(*maps.shape[:-2], *size)


def _check_finite(maps: Tensor, blocks: Mapping[str, BlockTrace], half: Half) -> None:
    if bool(torch.isfinite(maps).all()):
        return
    culprit = next((name for name, block in blocks.items() if not is_finite(block.query[half])), None)
    where = f"the queries of block {culprit!r}" if culprit else "the keys of the attribution prompt"
    raise NotFiniteError(
        f"{where} contain NaN or infinity: expected finite numbers; the model's weights are damaged, or its dtype "
        "is too narrow for it (try torch.float32, and dtype=torch.bfloat16 or torch.float32 for the capture)"
    )
