"""From a trace and any words to attention maps: keys, weights, and one flat mean over steps, blocks and heads."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ovam.aggregate import Accumulator, Axis
from ovam.asked import embed_words, fitted_in, lengths_of, merge_prompts, tell_of_skipped
from ovam.attention import weight_sums
from ovam.errors import NotFiniteError, NothingCapturedError
from ovam.map_options import SoftmaxOver, Strategy, check_joint, check_options, check_rivals
from ovam.output_space import output_shares, word_outputs, words_alone
from ovam.precision import float32
from ovam.prompt import Span
from ovam.quantised import Stored, floats, is_finite
from ovam.replay import TextRows
from ovam.shapes import Key
from ovam.trace import BlockChoice, BlockTrace, Call, Half, ReplayedSide, TextSide, TokenEmbedding, Trace, Words
from ovam.word_maps import AttentionMaps

log = logging.getLogger("ovam")


@float32()
def attention_maps(
    trace: Trace,
    words: Words,
    *,
    half: Half | None = None,
    blocks: BlockChoice = None,
    steps: int | Iterable[int] | None = None,
    keep: Axis | Sequence[Axis] = (),
    softmax_over: SoftmaxOver = "prompt",
    strategy: Strategy = "attention",
    phrases: Sequence[str] = (),
) -> AttentionMaps:
    """Attention maps of any words, in the generation prompt or not, without running the model again.

    A string is one attribution prompt: its words share the attention. A list is many: each entry is an
    attribution prompt of its own, so that adding an entry never changes the others' maps.

    Args:
        trace: Queries of one run.
        words: A prompt such as "a cat on the lawn", which is the text as given, a list such as
            ["hot dog", "sky"], a `TokenSet` or several among the words of a list, a `TokenEmbedding`, or raw
            vectors (token, width) of the trace's space. Tokens used on other blocks or another model than they were
            fitted on are noted (logger `ovam`, level INFO).
        half: Which half's queries; by default the conditional one where it was kept. With clip-skip, text asked of
            the unconditional one is noted (level WARNING): that half was read without.
        blocks: Blocks by name or grid; all by default.
        steps: Step numbers or one; all by default.
        keep: Axes to leave apart, or one, for studies: "block" or "head" (every head of every block, `kept["head"]`
            names them), and "step" (every denoiser call). The mean is taken over the others.
        softmax_over: "prompt" divides the attention among the prompt's own tokens, start and end included;
            "padded" among all positions the encoder reads (77 in CLIP), as the model itself does, which
            leaves less for each word, by as much as padding draws; "joint" among these and all image pixels, as the
            model itself does in joint attention (SD3, FLUX), which leaves less still.
        strategy: "attention", the weights of pixels over tokens; or in joint attention "output", how like a pixel's
            attention output is to each asked word's, of a capture with `outputs=True` (`ovam.output_space`). The
            words, two or more, share every pixel, so that here adding an entry to a list does change the others'
            maps; there are no maps of tokens, and all heads make one map of a block.
        phrases: Of a prompt, words in a row that are one unit: phrases=["hot dog"] of "a hot dog on the grass".

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
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    check_options(keep, softmax_over, strategy)
    check_joint(trace.text.kind, softmax_over, strategy)
    chosen = trace.select(blocks=blocks, steps=steps) if blocks is not None or steps is not None else trace
    which = half_of(chosen, half)
    prompts = embed_words(chosen.text, words, softmax_over, phrases)
    tell_of_skipped(chosen.text.space, words, which)
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
