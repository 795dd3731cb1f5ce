"""Compute attention maps from a trace and any words: the mean of the weights over steps, blocks and heads."""

import functools
import logging
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import NotFiniteError, NothingCapturedError
from ovam.maps.attention import weight_sums
from ovam.maps.keys import key_groups, keys_and_outputs_of, keys_of
from ovam.maps.options import MapOptions, SoftmaxOver, Strategy, check_at_least_two, check_joint
from ovam.maps.output_space import output_shares, word_outputs, words_alone
from ovam.maps.resize import resize
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.maps.synonyms import merged
from ovam.maps.words import (
    Words,
    calibrations_of,
    embed_words,
    lengths_of,
    merge_prompts,
    optimised_in,
    synonyms_in,
    thresholds_of,
    warn_of_clip_skip,
)
from ovam.precision import float32
from ovam.prompt import Span
from ovam.shapes import Axis, Grid, TokenMaps
from ovam.trace.calls import Call, Half
from ovam.trace.quantised import Stored, floats, is_finite
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import BlockTrace, Trace

log = logging.getLogger("ovam")


@float32()
def attention_maps(trace: Trace, words: Words, options: MapOptions) -> AttentionMaps:
    """Return attention maps of any words, in the run's prompt or not, without generating the picture again.

    An attribution prompt is a text for which maps are made. At each pixel the attention is divided among the tokens of
    this text. A string is one attribution prompt. In a list each entry is its own attribution prompt: an entry that you
    add does not change the maps of the other entries, except with the strategy "output". The words keep their order
    (`ovam.maps.words`).

    Args:
        trace: Queries of one run.
        words: One of these: a prompt such as "a cat on the lawn", read as given; a list such as ["hot dog", "sky"],
            which may contain `TokenSet`s (optimised tokens); a `TokenSet` alone; a `TokenEmbedding`; raw vectors
            (token, width) of the trace's space. If optimised tokens were fitted on other blocks or on another model,
            the logger `ovam` says so (INFO).
        options: See `MapOptions`.

    Returns:
        Maps at the finest kept grid, float32, in [0, 1]: the mean over all (step, block, head) triples, with
        equal weights. With the strategy "output" a map is the mean over all (step, block) pairs, and at each pixel the
        maps of all words sum to 1.

    Raises:
        EmptyWordsError: there is no word.
        NothingCapturedError: the trace has no queries, no queries of this half, or (for the strategy "output") no
            attention outputs.
        MissingBlockError, MissingStepError: a chosen block or step is not in the trace.
        OptionError: an option does not fit the trace or the words, or an option asks for padding of vectors.
        PromptTooLongError: the text encoder does not read the whole text.
        NoTextEncoderError: `words` are text, but the trace came from a file and has no text encoder.
        SpaceMismatchError: vectors belong to another space or have another width.
        NotFiniteError: queries, keys or attention outputs contain NaN or infinity.
    """
    check_joint(trace.text.kind, options.softmax_over, options.strategy)
    chosen = trace.select(blocks=options.blocks, steps=options.steps)
    half = half_of(chosen, options.guidance)
    prompts = embed_words(chosen.text, words, options.softmax_over, options.phrases)
    warn_of_clip_skip(chosen.text.space, words, half)
    for note in {note: None for tokens in optimised_in(words) for note in tokens.notes(chosen)}:
        log.info(note)
    tokens, spans = merge_prompts(prompts)
    accumulator = Accumulator({name: block.grid for name, block in chosen.blocks.items()}, options.axes)
    if options.strategy == "output":
        check_at_least_two([span.text for span in spans])
        _add_shares(accumulator, chosen, prompts, spans, half)
        tokens, spans = words_alone(spans)
    else:
        _add_weights(accumulator, chosen, prompts, half, options.softmax_over)
    maps = accumulator.result(chosen.calls)
    _check_finite(maps, chosen.blocks, half, options.strategy)
    apart, calibrations = accumulator.labels(chosen.calls), calibrations_of(words)
    among_pixels = _self_attention(chosen, half)
    of_spans = AttentionMaps(
        maps,
        tokens,
        spans,
        chosen.size,
        apart,
        len(prompts),
        calibrations,
        among_pixels,
        trace.image_png,
        thresholds=thresholds_of(words),
    )
    return merged(of_spans, synonyms_in(words), summed=options.strategy == "output")


def _self_attention(trace: Trace, half: Half) -> dict[str, SelfAttention]:
    kept = {name: part for name, part in trace.self_attention.items() if half in part.values}
    return {name: SelfAttention(part.grid, floats(part.values[half])) for name, part in kept.items()}


def _add_weights(
    accumulator: "Accumulator", trace: Trace, prompts: Sequence[TokenEmbedding], half: Half, softmax_over: SoftmaxOver
) -> None:
    """Add the attention weights of all blocks and steps over the tokens of each attribution prompt.

    Each pass of the outer loop handles a range of kept indices, with the keys of one call index (`ovam.trace.calls`).
    """
    lengths = lengths_of(prompts)
    for kept_range, call in key_groups(trace.text, trace.calls):
        for name, key in keys_of(trace.text, prompts, tuple(trace.blocks), call, half):
            block, image_key = trace.blocks[name], None
            if softmax_over == "joint":
                image_key = trace.replay.blocks[name].key[half][:, kept_range]
            query = block.query[half][:, kept_range]
            weights = weight_sums(
                query,
                key.to(query.device),
                scale=block.scale,
                lengths=lengths,
                keep_head=accumulator.keep_head,
                keep_step=accumulator.keep_step,
                image_key=image_key,
            )
            accumulator.add(name, weights, query.shape[0])


def _add_shares(
    accumulator: "Accumulator", trace: Trace, prompts: Sequence[TokenEmbedding], spans: Sequence[Span], half: Half
) -> None:
    """Add the share of each word at each pixel (`output_shares`), for all blocks and steps.

    The loops are the same as in `_add_weights`.
    """
    for kept_range, call in key_groups(trace.text, trace.calls):
        for name, found in keys_and_outputs_of(trace.text, prompts, tuple(trace.blocks), call, half):
            outputs = torch.cat([prompt.taken(each.output) for prompt, each in zip(prompts, found, strict=True)], dim=1)
            image = _outputs_of(trace.blocks[name], half)[:, kept_range]
            words = word_outputs(outputs, spans).to(image.device)
            accumulator.add(name, output_shares(floats(image), words, keep_step=accumulator.keep_step), 1)


def _outputs_of(block: BlockTrace, half: Half) -> Stored:
    if half not in block.output:
        raise NothingCapturedError(
            "this trace keeps no attention outputs of the pixels, which strategy='output' compares with those of "
            "words: capture with outputs=True (--outputs on the command line), or ask for strategy='attention'"
        )
    return block.output[half]


class Accumulator:
    """The mean over all (step, block, head) triples with equal weights, built up block by block or call by call.

    Args:
        grids: For each block, height and width of its grid of pixels.
        keep: Axes to keep apart instead of averaging over them.
    """

    def __init__(self, grids: Mapping[str, Grid], keep: Sequence[Axis]) -> None:
        self.grids, self.keep = grids, frozenset(keep)
        self.grid: Grid = max(grids.values(), key=lambda grid: grid[0] * grid[1])
        self.heads: dict[str, int] = {}
        self.sums: dict[str, list[Tensor]] = {}

    @property
    def keep_head(self) -> bool:
        return "head" in self.keep

    @property
    def keep_step(self) -> bool:
        return "step" in self.keep

    def add(self, block: str, sums: Float[Tensor, "kept_head kept_step token pixel"], heads: int) -> None:
        """Add the values of a block at some steps.

        The values are summed over these steps and over `heads` heads, but not over an axis in `keep`.
        """
        parts = self.sums.setdefault(block, [])
        self.heads[block] = heads
        if self.keep_step or not parts:
            parts.append(sums)
        else:
            parts[0] += sums

    def result(self, calls: Sequence[Call]) -> TokenMaps:
        """Return the mean at the finest grid, of shape (block or head, step, token, height, width).

        The first two axes exist only if they are in `keep`.
        """
        resized = (
            resize(torch.cat(parts, dim=1).unflatten(-1, self.grids[block]), self.grid).cpu()
            for block, parts in self.sums.items()
        )
        steps = 1 if self.keep_step else len(calls)
        if self.keep_head:
            maps = torch.cat(list(resized)) / steps
        elif "block" in self.keep:
            counts = [self.heads[block] * steps for block in self.sums]
            maps = torch.cat([each / count for each, count in zip(resized, counts, strict=True)])
        else:
            total = functools.reduce(torch.add, resized)  # one block after the other, because the maps are large
            maps = total[0] / (sum(self.heads.values()) * steps)
        return maps if self.keep_step else maps.squeeze(-4)

    def labels(self, calls: Sequence[Call]) -> dict[Axis, tuple[object, ...]]:
        """Return, for each axis in `keep`, the label of each position: block names, (block, head) pairs or calls."""
        named: dict[Axis, tuple[object, ...]] = {}
        if "block" in self.keep:
            named["block"] = tuple(self.sums)
        if self.keep_head:
            named["head"] = tuple((block, head) for block in self.sums for head in range(self.heads[block]))
        if self.keep_step:
            named["step"] = tuple(calls)
        return named


def half_of(trace: Trace, guidance: Half | None) -> Half:
    """Return the half of guidance to use; by default the conditional one, if it was kept.

    Raises:
        NothingCapturedError: the trace has no queries, or no queries of this half.
    """
    halves = trace.halves
    if not halves or not trace.calls:
        raise NothingCapturedError(
            "this trace holds no queries: the denoiser never ran inside the capture, or no block or step was kept"
        )
    if guidance is None:
        return "cond" if "cond" in halves else halves[0]
    if guidance not in halves:
        raise NothingCapturedError(
            f"this trace holds no {guidance!r} queries, only {', '.join(map(repr, halves))}: "
            "capture with guidance='both' and a guidance scale above 1 to have both halves"
        )
    return guidance


def _check_finite(maps: Tensor, blocks: Mapping[str, BlockTrace], half: Half, strategy: Strategy) -> None:
    if bool(torch.isfinite(maps).all()):
        return
    of_image, of_text = ("queries", "keys") if strategy == "attention" else ("attention outputs", "attention outputs")
    parts = {name: (block.query if strategy == "attention" else block.output)[half] for name, block in blocks.items()}
    culprit = next((name for name, part in parts.items() if not is_finite(part)), None)
    where = f"the {of_image} of block {culprit!r}" if culprit else f"the {of_text} of the attribution prompt"
    raise NotFiniteError(
        f"{where} contain NaN or infinity: expected finite numbers; the model's weights are damaged, or the range "
        "of the dtype is too small for this model (load the model in torch.float32, and capture with "
        "dtype=torch.bfloat16 or torch.float32)"
    )
