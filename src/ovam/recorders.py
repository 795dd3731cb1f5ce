"""What becomes of observed queries: kept in traces, or turned into maps at once."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from ovam.aggregate import Accumulator
from ovam.asked import Words, calibrations_of, embed_words, lengths_of, merge_prompts, tell_of_skipped
from ovam.attention import self_weights, weight_sums
from ovam.backbones.base import Backbone
from ovam.calls import Half
from ovam.errors import CaptureTooLargeError, NotFiniteError
from ovam.kept import block_bytes, table
from ovam.map_options import MapOptions, check_joint, check_rivals
from ovam.models import short_name
from ovam.output_space import output_shares, word_outputs, words_alone
from ovam.precision import float32
from ovam.presets import PRESETS
from ovam.quantised import Quantised, Stored, put
from ovam.replay import BlockReplay, ImageStream, Replay, TextStream
from ovam.run import Plan, Run
from ovam.storage import Storage
from ovam.text_side import ReplayedSide, TextSide
from ovam.trace import BlockTrace, SelfAttention, Source, Trace
from ovam.word_maps import AttentionMaps

_GIB = 2**30
log = logging.getLogger("ovam")


Slot = tuple[int, Half, str, str]
"""Where something is kept: image, half, block, and which of `query`, `output`, `key`, `value`, `conditioning` or
`self_attention` it is."""


class QueryRecorder:
    """Keeps queries head-major, (head, step, pixel, head_dim), in room laid out once per run.

    In joint attention image keys and values are kept likewise, of every block that a text passes; the vectors that
    modulate the blocks are (1, step, channel) here, and float32 whatever the type of the rest: they are small.
    Averages of self-attention are (1, 1, pixel, pixel), float32, as of one step.
    """

    def __init__(self, backbone: Backbone, traces: list[Trace], storage: Storage) -> None:
        self.backbone, self.traces, self.storage = backbone, traces, storage
        self.plan: Plan | None = None
        self.buffers: dict[Slot, Stored] = {}
        self.text: TextSide | None = None

    @float32()  # layers that have no matrix are asked for it here
    @torch.inference_mode(
        False
    )  # where a run is in that mode: tensors made in it are of no use for a token's gradients
    def begin(self, plan: Plan) -> None:
        """Announce the size, refuse what is over the limit, reserve the room."""
        log.info("capture keeps %s", summary_of(plan, self.storage))
        self._check_limit(plan)
        self.plan = plan
        self.text = self.backbone.text_side(tuple(plan.blocks), plan.request)
        self.buffers = {}
        for image in range(plan.images):
            self.buffers |= self._reserved(plan, image)

    def _reserved(self, plan: Plan, image: int) -> dict[Slot, Stored]:
        layout = kept_layout(plan, self.storage.dtype)
        return self.storage.reserve(
            {(image, half, *slot): part for half in plan.halves for slot, part in layout.items()}
        )

    def _check_limit(self, plan: Plan) -> None:
        needed, before = kept_bytes(plan, self.storage.dtype), sum(trace.nbytes for trace in self.traces)
        if needed + before > self.storage.limit:
            presets = "".join(f"preset={name!r}, " for name in PRESETS.get(type(self.backbone), {}))
            narrow = kept_bytes(plan, torch.int8)
            coarser = ", or self_attention of fewer blocks or coarser grids" if plan.self_blocks else ""
            raise CaptureTooLargeError(
                f"capture would keep {summary_of(plan, self.storage)}, {(needed + before) / _GIB:.3f} GiB in all with "
                f"the runs before, over the limit of {self.storage.limit / _GIB:.3f} GiB. There are three ways out: "
                f"(1) keep less: {presets}dtype=torch.int8 ({narrow / _GIB:.3f} GiB), fewer steps (steps='middle', "
                "steps=range(10, 20)) or blocks (blocks=[names or grids]; joint attention keeps image keys and values "
                f"up to the last one){coarser}; (2) keep it in a file, disk='a folder with room'; (3) keep the maps of "
                "words known beforehand alone, ovam.stream. Or raise limit_gib. What each block would take:\n"
                + table(block_bytes(plan, kept_layout(plan, self.storage.dtype)))
            )

    def observe(self, block: str, half: Half, image: int, entry: int, query: Tensor) -> None:
        """One copy: cast, transfer and head-major layout together."""
        if entry == 0:
            check_finite(block, query)
        self._keep((image, half, block, "query"), entry, query)

    def output(self, block: str, half: Half, image: int, entry: int, output: Tensor) -> None:
        """Attention outputs of the pixels, by one copy."""
        self._keep((image, half, block, "output"), entry, output)

    def replay(self, block: str, half: Half, image: int, entry: int, stream: ImageStream) -> None:
        """Image keys, values and the vector that modulates the block, each by one copy."""
        self._keep((image, half, block, "key"), entry, stream.key)
        self._keep((image, half, block, "value"), entry, stream.value)
        self._keep((image, half, block, "conditioning"), entry, stream.conditioning[None])

    @float32()
    def self_attention(self, block: str, half: Half, image: int, entry: int, query: Tensor, key: Tensor) -> None:
        """Move the average on by one call; `entry` of them are in it."""
        assert self.plan is not None
        mean = self.buffers[image, half, block, "self_attention"][0, 0]
        assert isinstance(mean, Tensor)
        weights = self_weights(query, key, scale=self.plan.self_blocks[block].scale).to(mean.device)
        if entry == 0:
            mean.copy_(weights)  # over whatever the memory held
        else:
            mean.lerp_(weights, 1 / (entry + 1))

    def _keep(self, slot: Slot, entry: int, tensor: Tensor) -> None:
        assert self.plan is not None
        if entry == self.plan.calls:  # more calls than the scheduler's time steps tell
            self._make_room(2 * entry)
        put(self.buffers[slot][:, entry], tensor)

    @torch.inference_mode(False)
    def _make_room(self, calls: int) -> None:
        """Move what is kept to where so many calls fit, image by image."""
        assert self.plan is not None
        plan, kept = replace(self.plan, calls=calls), min(calls, self.plan.calls)
        self._check_limit(plan)
        self.plan = plan
        for image in range(plan.images):
            for slot, room in self._reserved(plan, image).items():
                put(room[:, :kept], self.buffers[slot][:, :kept])
                self.buffers[slot] = room

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """One trace an image; room reserved for calls that were never made is given back."""
        assert self.plan is not None
        if len(run.kept) < self.plan.calls:
            self._make_room(len(run.kept))
        for image in range(self.plan.images):
            blocks = {
                name: BlockTrace(
                    name,
                    self.plan.grids[name],
                    spec.scale,
                    self._kept(image, name, "query"),
                    self._kept(image, name, "output") if self.plan.outputs else {},
                )
                for name, spec in self.plan.blocks.items()
            }
            source, picture = source_of(self.backbone.pipe, run, image), pictures[image : image + 1]
            text = self._text(run, image)
            png, averages = picture[0] if picture else None, self._averages(image) if run.kept else {}
            self.traces.append(Trace(blocks, tuple(run.kept), text, source, size, png, averages))
        self.buffers = {}

    def _kept(self, image: int, block: str, part: str) -> dict[Half, Any]:
        assert self.plan is not None
        return {half: self.buffers[image, half, block, part] for half in self.plan.halves}

    def _averages(self, image: int) -> dict[str, SelfAttention]:
        """Self-attention of one image."""
        assert self.plan is not None
        averages = {}
        for name in self.plan.self_blocks:
            weights = {half: mean[0, 0] for half, mean in self._kept(image, name, "self_attention").items()}
            averages[name] = SelfAttention(name, self.plan.grids[name], weights)
        return averages

    def _text(self, run: Run, image: int) -> TextSide:
        """The text side of one image: a replayed one runs its texts against this image's keys and values."""
        assert self.plan is not None
        assert self.text is not None
        if not isinstance(self.text, ReplayedSide):
            return self.text
        blocks = {}
        for name in self.plan.replayed:
            key, value = (self._kept(image, name, part) for part in ("key", "value"))
            conditioning = self._kept(image, name, "conditioning")
            blocks[name] = BlockReplay(key, value, {half: vectors[0] for half, vectors in conditioning.items()})
        return self.text.over(Replay(blocks, tuple(run.kept)))


def kept_layout(plan: Plan, dtype: torch.dtype) -> dict[tuple[str, str], Stored]:
    """What is kept of one image and half: by block and part, tensors without memory, the step axis after the first."""
    kept = dict[tuple[str, str], Stored]()
    for name, spec in plan.blocks.items():
        height, width = plan.grids[name]
        for part in ("query", "output") if plan.outputs else ("query",):
            kept[name, part] = _unfilled((spec.heads, plan.calls, height * width, spec.head_dim), dtype)
    for name, parts in plan.replayed.items():
        for part, shape in parts.items():
            if part == "conditioning":
                kept[name, part] = _unfilled((1, plan.calls, *shape), torch.float32)
            else:
                kept[name, part] = _unfilled((shape[0], plan.calls, *shape[1:]), dtype)
    for name in plan.self_blocks:
        height, width = plan.grids[name]
        kept[name, "self_attention"] = _unfilled((1, 1, height * width, height * width), torch.float32)
    return kept


def _unfilled(shape: tuple[int, ...], dtype: torch.dtype) -> Stored:
    values = torch.empty(shape, dtype=dtype, device="meta")
    if dtype != torch.int8:
        return values
    return Quantised(values, torch.empty((*shape[:-2], 1, shape[-1]), dtype=torch.float32, device="meta"))


def kept_bytes(plan: Plan, dtype: torch.dtype) -> int:
    """Bytes that are kept of a run, all images and halves together."""
    return sum(part.nbytes for part in kept_layout(plan, dtype).values()) * plan.images * len(plan.halves)


def summary_of(plan: Plan, storage: Storage) -> str:
    """What is kept of a run, in words."""
    outputs = " with attention outputs" if plan.outputs else ""
    replayed = f" and image keys and values of {len(plan.replayed)}" if plan.replayed else ""
    averaged = f", self-attention of {len(plan.self_blocks)} averaged over the calls" if plan.self_blocks else ""
    return (
        f"{len(plan.blocks)} blocks{outputs}{replayed} x {plan.calls} denoiser calls x {plan.images} images x "
        f"{len(plan.halves)} halves of guidance in {str(storage.dtype).removeprefix('torch.')}{averaged}: "
        f"{kept_bytes(plan, storage.dtype) / _GIB:.3f} GiB on {storage}"
    )


class MapRecorder:
    """Adds each call's attention weights, or shares of its outputs, to running sums and forgets the queries."""

    def __init__(
        self,
        backbone: Backbone,
        maps: list[AttentionMaps],
        words: Words,
        options: MapOptions,
    ) -> None:
        self.backbone, self.maps, self.words, self.options = backbone, maps, words, options
        text = backbone.text_side(())
        check_joint(text.kind, options.softmax_over, options.strategy)
        self._embed(text)  # so that words no encoder can read are refused at once
        self.plan: Plan | None = None
        self.sums: list[Accumulator] = []
        self.keys: dict[str, Tensor] = {}  # or the words' outputs
        self.image_keys: dict[str, Tensor] = {}  # of the image that was told of last, where the softmax takes them in
        self.streams: dict[int, list[TextStream]] = {}

    def _embed(self, text: TextSide) -> None:
        self.prompts = embed_words(text, self.words, self.options.softmax_over, self.options.phrases)
        self.lengths = lengths_of(self.prompts)
        self.tokens, self.spans = merge_prompts(self.prompts)
        if self.options.strategy == "output":
            check_rivals([span.text for span in self.spans])
        self.text = text

    @float32()
    def begin(self, plan: Plan) -> None:
        """Read the words once a run: each may skip other layers of the text encoder. Static keys are made here too."""
        self.plan = plan
        self._embed(self.backbone.text_side(tuple(plan.blocks), plan.request))
        tell_of_skipped(self.text.space, self.words, plan.halves[0])
        if self.text.kind == "static":
            vectors = torch.cat([prompt.vectors for prompt in self.prompts])
            self.keys = {name: self.text.keys(vectors, name, 0) for name in plan.blocks}
        grids = {name: plan.grids[name] for name in plan.blocks}
        self.sums = [Accumulator(grids, self.options.axes) for _ in range(plan.images)]

    @float32()
    def observe(self, block: str, half: Half, image: int, entry: int, query: Tensor) -> None:
        """Weights of one call, summed over heads."""
        assert self.plan is not None
        if entry == 0:
            check_finite(block, query)
        if self.options.strategy == "output":
            return
        weights = weight_sums(
            query[:, None],
            self.keys[block].to(query.device),
            scale=self.plan.blocks[block].scale,
            lengths=self.lengths,
            image_key=self.image_keys.get(block),
            keep_head=self.sums[image].keep_head,
            keep_step=self.sums[image].keep_step,
        )
        self.sums[image].add(block, weights, len(query))

    @float32()
    def output(self, block: str, half: Half, image: int, entry: int, output: Tensor) -> None:
        """Shares of one call."""
        keep_step = self.sums[image].keep_step
        shares = output_shares(output[:, None], self.keys[block].to(output.device), keep_step=keep_step)
        self.sums[image].add(block, shares, 1)

    def self_attention(self, block: str, half: Half, image: int, entry: int, query: Tensor, key: Tensor) -> None:
        """Never told: `ovam.stream` asks for none."""

    @float32()
    def replay(self, block: str, half: Half, image: int, entry: int, stream: ImageStream) -> None:
        """Move the words on through this block, against the image as it is now."""
        assert self.plan is not None
        assert isinstance(self.text, ReplayedSide)
        streams = self.streams.setdefault(image, [])
        if block == self.plan.watched[0]:
            streams[:] = [self.text.stream(prompt.vectors) for prompt in self.prompts]
        rows = [(prompt, words.enter(block, stream)) for prompt, words in zip(self.prompts, streams, strict=True)]
        if self.options.strategy == "output":
            outputs = torch.cat([prompt.taken(of_text.output) for prompt, of_text in rows], dim=1)
            self.keys[block] = word_outputs(outputs, self.spans)
            return
        self.keys[block] = torch.cat([prompt.taken(of_text.key) for prompt, of_text in rows], dim=1)
        if self.options.softmax_over == "joint":
            self.image_keys[block] = stream.key[:, None]

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """One set of maps an image."""
        if not run.kept:
            return
        tokens, spans = words_alone(self.spans) if self.options.strategy == "output" else (self.tokens, self.spans)
        results = [sums.result(run.kept) for sums in self.sums]
        if not all(bool(torch.isfinite(maps).all()) for maps in results):
            raise NotFiniteError(
                "the streamed maps contain NaN or infinity: expected finite numbers; the model's weights are damaged, "
                "or its dtype is too narrow for it (try torch.float32)"
            )
        apart, calibrations = self.sums[0].labels(run.kept), calibrations_of(self.words)
        self.maps += [
            AttentionMaps(maps, tokens, spans, size, apart, len(self.prompts), calibrations) for maps in results
        ]
        self.sums = []


def check_finite(block: str, query: Tensor) -> None:
    """Look at a block's first queries; one call in a run, so that it costs nothing to speak of.

    Their sum is looked at first, which is 15 times as soon known and finite unless one is not, or it overflows.

    Raises:
        NotFiniteError: they contain NaN or infinity.
    """
    if not bool(torch.isfinite(query.sum(dtype=torch.float32))) and not bool(torch.isfinite(query).all()):
        raise NotFiniteError(
            f"the queries of block {block!r} contain NaN or infinity at the first denoiser call: expected finite "
            "numbers; the model's weights are damaged, or its dtype is too narrow for it (try torch.float32)"
        )


def source_of(pipe: Any, run: Run, image: int) -> Source:
    """What is known of where one image of a run comes from."""
    request = run.request
    return Source(
        model=model_name(pipe),
        pipeline=type(pipe).__name__,
        kind="generated",
        prompt=request.prompts[image] if request and request.prompts else None,
        negative_prompt=request.negative_prompts[image] if request and request.negative_prompts else None,
        seed=run.seeds[image] if image < len(run.seeds) else None,
        versions=versions(),
    )


def model_name(pipe: Any) -> str:
    """The id a pipeline was loaded by, "mini", or the last part of its folder's name."""
    return short_name(str(getattr(pipe.config, "_name_or_path", "") or "unnamed"))


def versions() -> dict[str, str]:
    """Versions of the libraries that a trace's numbers depend on."""
    found = {}
    for package in ("ovam", "torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
