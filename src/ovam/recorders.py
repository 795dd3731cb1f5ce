"""What becomes of observed queries: kept in traces, or turned into maps at once."""

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovam.backbones.base import Backbone
from ovam.errors import CaptureTooLargeError, NotFiniteError
from ovam.maps import Accumulator, AttentionMaps, SoftmaxOver, check_options, embed_words, merge_prompts
from ovam.models import MINI, mini_folder
from ovam.run import Plan, Run
from ovam.trace import BlockTrace, Half, Source, TextSide, Trace, Words

_GIB = 2**30
log = logging.getLogger("ovam")


class QueryRecorder:
    """Keeps queries head-major, (head, step, pixel, head_dim), in memory laid out once per run."""

    def __init__(
        self, backbone: Backbone, traces: list[Trace], *, dtype: torch.dtype, device: torch.device, limit: int
    ) -> None:
        self.backbone, self.traces, self.dtype, self.device, self.limit = backbone, traces, dtype, device, limit
        self.plan: Plan | None = None
        self.buffers: dict[tuple[int, str, Half], Tensor] = {}
        self.text: TextSide | None = None

    def begin(self, plan: Plan) -> None:
        """Announce the size, refuse what is over the limit, reserve the memory."""
        images, halves = range(plan.images), plan.halves
        shapes = {
            name: (spec.heads, plan.calls, plan.grids[name][0] * plan.grids[name][1], spec.head_dim)
            for name, spec in plan.blocks.items()
        }
        size = sum(torch.Size(shape).numel() for shape in shapes.values()) * self.dtype.itemsize
        total = size * len(images) * len(halves)
        summary = (
            f"{len(shapes)} blocks x {plan.calls} denoiser calls x {plan.images} images x {len(halves)} halves "
            f"of guidance in {str(self.dtype).removeprefix('torch.')}: {total / _GIB:.3f} GiB on {self.device}"
        )
        log.info("capture keeps %s", summary)
        self._check_limit(total + sum(trace.nbytes for trace in self.traces), summary)
        self.plan = plan
        self.text = self.backbone.text_side(tuple(plan.blocks))
        self.buffers = {
            (image, name, half): torch.empty(shape, dtype=self.dtype, device=self.device)
            for image in images
            for name, shape in shapes.items()
            for half in halves
        }

    def _check_limit(self, total: int, summary: str) -> None:
        if total > self.limit:
            raise CaptureTooLargeError(
                f"capture would keep {summary}, {total / _GIB:.3f} GiB in all with the runs before, "
                f"over the limit of {self.limit / _GIB:.3f} GiB: choose fewer blocks "
                "(blocks=[16, 32]) or steps (steps=range(10, 20)), stream known words (ovam.stream), or raise limit_gib"
            )

    def observe(self, block: str, half: Half, image: int, entry: int, query: Tensor) -> None:
        """One copy: cast, transfer and head-major layout together."""
        if entry == 0:
            check_finite(block, query)
        buffer = self.buffers[image, block, half]
        if entry == buffer.shape[1]:  # more calls than the scheduler's time steps tell
            held = sum(b.nbytes for b in self.buffers.values()) + sum(trace.nbytes for trace in self.traces)
            self._check_limit(held + buffer.nbytes, "twice the calls announced")
            buffer = torch.cat([buffer, torch.empty_like(buffer)], dim=1)
            self.buffers[image, block, half] = buffer
        buffer[:, entry].copy_(query)

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """One trace an image; memory reserved for calls that were never made is given back."""
        assert self.plan is not None
        assert self.text is not None
        kept = len(run.kept)
        for image in range(self.plan.images):
            blocks = {
                name: BlockTrace(
                    name,
                    self.plan.grids[name],
                    spec.scale,
                    {half: self.buffers[image, name, half][:, :kept].contiguous() for half in self.plan.halves},
                )
                for name, spec in self.plan.blocks.items()
            }
            source, picture = source_of(self.backbone.pipe, run, image), pictures[image : image + 1]
            self.traces.append(Trace(blocks, tuple(run.kept), self.text, source, size, picture[0] if picture else None))
        self.buffers = {}


class MapRecorder:
    """Adds each call's attention weights to running sums and forgets the queries."""

    def __init__(self, backbone: Backbone, maps: list[AttentionMaps], words: Words, softmax_over: SoftmaxOver) -> None:
        self.backbone, self.maps = backbone, maps
        check_options((), softmax_over)
        self.words, self.padded = words, softmax_over == "padded"
        self._embed(backbone.text_side(()))  # so that words no encoder can read are refused at once
        self.plan: Plan | None = None
        self.sums: list[Accumulator] = []
        self.keys: dict[str, Tensor] = {}

    def _embed(self, text: TextSide) -> None:
        self.prompts = embed_words(text, self.words, padded=self.padded)
        self.vectors = torch.cat([prompt.vectors for prompt in self.prompts])
        self.lengths = [len(prompt.vectors) for prompt in self.prompts]

    def begin(self, plan: Plan) -> None:
        """Project the words' keys once a run: each may skip other layers of the text encoder."""
        self.plan = plan
        text = self.backbone.text_side(tuple(plan.blocks))
        self._embed(text)
        self.keys = {name: text.keys(self.vectors, name, 0) for name in plan.blocks}
        self.sums = [Accumulator(plan.grids, ()) for _ in range(plan.images)]

    def observe(self, block: str, half: Half, image: int, entry: int, query: Tensor) -> None:
        """Weights of one call, summed over heads."""
        assert self.plan is not None
        if entry == 0:
            check_finite(block, query)
        key = self.keys[block].to(query.device)
        self.sums[image].add(block, query[:, None], key, self.plan.blocks[block].scale, self.lengths)

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """One set of maps an image."""
        if not run.kept:
            return
        tokens, spans = merge_prompts(self.prompts)
        results = [sums.result(run.kept) for sums in self.sums]
        if not all(bool(torch.isfinite(maps).all()) for maps in results):
            raise NotFiniteError(
                "the streamed maps contain NaN or infinity: expected finite numbers; the model's weights are damaged, "
                "or its dtype is too narrow for it (try torch.float32)"
            )
        self.maps += [AttentionMaps(maps, tokens, spans, size, {}) for maps in results]
        self.sums = []


def check_finite(block: str, query: Tensor) -> None:
    """Look at a block's first queries; one call in a run, so that it costs nothing to speak of.

    Raises:
        NotFiniteError: they contain NaN or infinity.
    """
    if not bool(torch.isfinite(query).all()):
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
    name = str(getattr(pipe.config, "_name_or_path", "") or "unnamed")
    if Path(name) == mini_folder():
        return MINI
    return Path(name).name if Path(name).exists() else name


def versions() -> dict[str, str]:
    """Versions of the libraries that a trace's numbers depend on."""
    found = {}
    for package in ("ovam", "torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
