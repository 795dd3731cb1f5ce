"""Capturing a run: `capture` keeps its queries, so that any words can be asked later; `stream` keeps only maps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import torch

from ovam.backbones.base import Backbone
from ovam.backbones.registry import backbone_of
from ovam.calls import step_numbers
from ovam.coverage import Coverage, RunCoverage
from ovam.errors import NothingCapturedError, OptionError
from ovam.map_options import SoftmaxOver, Strategy
from ovam.presets import settings_of
from ovam.recorders import MapRecorder, QueryRecorder
from ovam.run import Choice, StepChoice
from ovam.session import Session
from ovam.storage import storage_of
from ovam.trace import BlockChoice, Half, Trace, Words, repeatable
from ovam.word_maps import AttentionMaps

Guidance = Literal["cond", "uncond", "both"]
T_co = TypeVar("T_co", covariant=True)
_HALVES: dict[str, tuple[Half, ...]] = {"cond": ("cond",), "uncond": ("uncond",), "both": ("cond", "uncond")}


class Captured(Sequence[T_co]):
    """What a capture gathered: one entry an image, in the order of pipeline calls, prompts, images a prompt."""

    def __init__(self, entries: list[T_co], covered: Sequence[RunCoverage]) -> None:
        self._entries, self._covered = entries, covered

    @property
    def coverage(self) -> Coverage:
        """Which blocks ran in which denoiser calls of the runs so far; prints as a small table."""
        return Coverage(self._covered)

    def clear(self) -> None:
        """Let go of what was gathered so far, so that a loop over many prompts does not fill the memory."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T_co]:
        return iter(self._entries)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        """The i-th image's entry.

        Raises:
            NothingCapturedError: no pipeline call was completed inside the `with` block.
        """
        if not self._entries and isinstance(index, int):
            raise NothingCapturedError(
                "nothing was captured: expected at least one completed pipeline call inside the `with` block; "
                "call the same pipeline object there"
            )
        return self._entries[index]


@contextmanager
def capture(
    pipe: Any,
    *,
    blocks: BlockChoice = None,
    steps: StepChoice = None,
    guidance: Guidance = "cond",
    dtype: torch.dtype | None = None,
    preset: str | None = None,
    device: str | torch.device = "cpu",
    disk: str | Path | None = None,
    limit_gib: float | None = None,
    outputs: bool = False,
    self_attention: BlockChoice = None,
    strict: bool = True,
) -> Iterator[Captured[Trace]]:
    """Keep the pixel queries of every image that `pipe` makes inside the `with` block.

    The images are bit-identical to those without capture, and the pipeline is left exactly as it was.
    The bytes that will be kept are logged (logger `ovam`, level INFO) at the first denoiser call of each run.

    Args:
        pipe: A pipeline of a supported family.
        blocks: Blocks by module path or its beginning ("up_blocks.1"), by grid height (32) or grid ([(32, 48)]);
            by default all cross-attention blocks but the coarse middle one.
        steps: Step numbers to keep, or one, or "middle" for the one in the middle of the run; by default all. A step of
            Heun or PNDM has several denoiser calls.
        guidance: Which half of the batch under guidance. Without guidance only "cond" is there.
        dtype: Storage type of queries, image keys and values: float32, bfloat16, float16 (the default), or int8 with a
            float32 scale for each head, denoiser call and channel.
        preset: Name of the family's settings for blocks, steps and dtype, see `ovam.presets`; what is given of these
            three besides takes its place.
        device: Where they are stored.
        disk: A folder: they are stored in unnamed files there instead of memory, one an image, which are gone when the
            image's trace is, or the process.
        limit_gib: Most GiB that the capture may keep in all; by default 80 % of what the device or disk has free.
        outputs: Keep the attention outputs of the pixels as well, for output-space maps of joint attention
            (`Trace.maps(..., strategy="output")`): as many bytes again as the queries.
        self_attention: Self-attention blocks of a UNet, named as in `blocks`, whose weights are kept as well, averaged
            over heads and kept denoiser calls: `Trace.self_attention`. None of them by default.
        strict: Fail at the first denoiser call in which a chosen block did not run, as caches of blocks leave some out.
            Without it such a call is left out of the traces; `traces.coverage` tells which.

    Yields:
        The traces, one an image, filled as pipeline calls complete.

    Raises:
        UnsupportedPipelineError: no backbone reads `pipe`.
        NoTextEncoderError: `pipe` has no text encoder.
        OptionError: an option has a value it can't take.
        NestedCaptureError: `pipe` is being captured already.
        MissingBlockError, MissingStepError: a choice fits nothing (at the first denoiser call).
        CaptureTooLargeError: the capture would keep more than the limit (at a run's first denoiser call).
        NothingCapturedError: unconditional queries were asked of a run without guidance.
        SilentBlockError: a chosen block did not run (at the denoiser call where that shows; without `strict`, at the
            end of a run in no call of which all of them did).
        NotFiniteError: the model computes NaN (at the first denoiser call).
    """
    backbone = backbone_of(pipe)
    settings = settings_of(backbone, preset, blocks=blocks, steps=steps, dtype=dtype)
    choice = choice_of(
        settings.blocks, settings.steps, guidance, outputs=outputs, self_attention=self_attention, strict=strict
    )
    check_offered(backbone, choice)
    traces: list[Trace] = []
    storage = storage_of(dtype=settings.dtype, device=device, disk=disk, limit_gib=limit_gib)
    recorder = QueryRecorder(backbone, traces, storage)
    with Session(backbone, choice, recorder).installed() as session:
        yield Captured(traces, session.covered)


@contextmanager
def stream(
    pipe: Any,
    words: Words,
    *,
    blocks: BlockChoice = None,
    steps: StepChoice = None,
    guidance: Literal["cond", "uncond"] = "cond",
    softmax_over: SoftmaxOver = "prompt",
    strategy: Strategy = "attention",
) -> Iterator[Captured[AttentionMaps]]:
    """Accumulate the maps of known words while `pipe` runs; no queries are kept, whatever the number of steps.

    Equal to the maps of a float32 capture within 1e-6, the order of additions.

    Args:
        pipe: A pipeline of a supported family.
        words: As in `Trace.maps`.
        blocks: As in `capture`.
        steps: As in `capture`.
        guidance: Which half of the batch under guidance.
        softmax_over: As in `Trace.maps`.
        strategy: As in `Trace.maps`.

    Yields:
        The maps, one entry an image, filled as pipeline calls complete.

    Raises:
        The errors of `capture`, and those of `Trace.maps` for the words.
    """
    backbone: Backbone = backbone_of(pipe)
    choice = choice_of(blocks, steps, guidance, outputs=strategy == "output")
    maps: list[AttentionMaps] = []
    recorder = MapRecorder(backbone, maps, words, softmax_over, strategy)
    with Session(backbone, choice, recorder).installed() as session:
        yield Captured(maps, session.covered)


def choice_of(
    blocks: BlockChoice,
    steps: StepChoice,
    guidance: str,
    *,
    outputs: bool = False,
    self_attention: BlockChoice = None,
    strict: bool = True,
) -> Choice:
    """Check the options that say what to keep.

    Raises:
        OptionError: one has a value it can't take.
    """
    if guidance not in _HALVES:
        raise OptionError(f"guidance={guidance!r}: expected one of {get_args(Guidance)}")
    if isinstance(steps, str) and steps != "middle":
        raise OptionError(f"steps={steps!r}: expected step numbers, such as range(10, 20), or 'middle'")
    numbers = steps if steps is None or isinstance(steps, str) else step_numbers(steps)
    return Choice(repeatable(blocks), numbers, _HALVES[guidance], outputs, repeatable(self_attention), strict)


def check_offered(backbone: Backbone, choice: Choice) -> None:
    """Whether the family has what is asked for besides queries.

    Raises:
        OptionError: it has no output space that image and text share, or no self-attention that can be kept.
    """
    pipeline = type(backbone.pipe).__name__
    if choice.outputs and backbone.text_kind == "static":
        raise OptionError(
            f"outputs=True was asked of a {pipeline}, whose words have no attention outputs: expected joint attention "
            "of image and text (SD3, FLUX); leave the option out"
        )
    if choice.self_attention is not None and not backbone.self_blocks():
        raise OptionError(
            f"self_attention={choice.self_attention!r} was asked of a {pipeline}, of which none can be kept: expected "
            "a UNet (Stable Diffusion 1, 2 or XL); leave the option out"
        )
