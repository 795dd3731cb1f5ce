"""From a trace and any words to attention maps: keys, weights, and one flat mean over steps, blocks and heads."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ovam.errors import NotFiniteError, NothingCapturedError
from ovam.maps.aggregate import Accumulator
from ovam.maps.attention import weight_sums
from ovam.maps.options import MapOptions, SoftmaxOver, Strategy, check_joint, check_rivals
from ovam.maps.output_space import output_shares, word_outputs, words_alone
from ovam.maps.result import AttentionMaps
from ovam.maps.words import Words, calibrations_of, embed_words, fitted_in, lengths_of, merge_prompts, tell_of_skipped
from ovam.precision import float32
from ovam.prompt import Span
from ovam.shapes import Key
from ovam.trace.calls import Call, Half
from ovam.trace.quantised import Stored, floats, is_finite
from ovam.trace.replay import TextRows
from ovam.trace.text_side import ReplayedSide, TextSide, TokenEmbedding
from ovam.trace.trace import BlockTrace, Trace

log = logging.getLogger("ovam")


@float32()
def attention_maps(trace: Trace, words: Words, options: MapOptions) -> AttentionMaps:
    """Attention maps of any words, in the generation prompt or not, without running the model again.

    A string is one attribution prompt: its words share the attention. A list is many: each entry is an
    attribution prompt of its own, so that adding an entry never changes the others' maps.

    Args:
        trace: Queries of one run.
        words: A prompt such as "a cat on the lawn", which is the text as given, a list such as
            ["hot dog", "sky"], a `TokenSet` or several among the words of a list, a `TokenEmbedding`, or raw
            vectors (token, width) of the trace's space. Tokens used on other blocks or another model than they were
            fitted on are noted (logger `ovam`, level INFO).
        options: See `MapOptions`.

    Returns:
        Maps at the finest kept grid, float32, in [0, 1]: the mean over all (step, block, head) triples,
        each counting the same; in the output space over all (step, block) pairs, and those of all words sum to 1.

    Raises:
        EmptyWordsError: there is no word.
        NothingCapturedError: the trace holds no queries, or not of this half, or no attention outputs.
        MissingBlockError, MissingStepError: a block or step is not there.
        OptionError: an option does not suit the trace or the words, or vectors were to be padded.
        PromptTooLongError: the text encoder does not read the whole text.
        NoTextEncoderError: the trace came from a file without a text encoder, and words are text.
        SpaceMismatchError: vectors are of another space or width.
        NotFiniteError: the queries hold NaN or infinity.
    """
    check_joint(trace.text.kind, options.softmax_over, options.strategy)
    chosen = trace.select(blocks=options.blocks, steps=options.steps)
    half = half_of(chosen, options.guidance)
    prompts = embed_words(chosen.text, words, options.softmax_over, options.phrases)
    tell_of_skipped(chosen.text.space, words, half)
    for note in {note: None for tokens in fitted_in(words) for note in tokens.notes(chosen)}:
        log.info(note)
    tokens, spans = merge_prompts(prompts)
    flat = Accumulator({name: block.grid for name, block in chosen.blocks.items()}, options.axes)
    if options.strategy == "output":
        check_rivals([span.text for span in spans])
        _add_shares(flat, chosen, prompts, spans, half)
        tokens, spans = words_alone(spans)
    else:
        _add_weights(flat, chosen, prompts, half, options.softmax_over)
    maps = flat.result(chosen.calls)
    _check_finite(maps, chosen.blocks, half, options.strategy)
    apart, calibrations = flat.labels(chosen.calls), calibrations_of(words)
    return AttentionMaps(maps, tokens, spans, chosen.size, apart, len(prompts), calibrations)


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


def half_of(trace: Trace, guidance: Half | None) -> Half:
    """The half of guidance to use; by default the conditional one where it was kept.

    Raises:
        NothingCapturedError: the trace holds no queries, or not of this half.
    """
    halves = trace.halves
    if not halves or not trace.calls:
        raise NothingCapturedError(
            "this trace holds no queries: the denoiser was never run inside the capture, or no block or step was kept"
        )
    if guidance is None:
        return "cond" if "cond" in halves else halves[0]
    if guidance not in halves:
        raise NothingCapturedError(
            f"this trace holds no {guidance!r} queries, only {', '.join(map(repr, halves))}: "
            "capture with guidance='both' under a guidance scale above 1 to have both halves"
        )
    return guidance


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
