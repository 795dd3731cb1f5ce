"""Capturing a run: `capture` keeps its queries, so that any words can be asked later; `stream` keeps only maps."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, get_args, overload

import psutil
import torch

from ovam.backbones.base import Backbone
from ovam.backbones.registry import backbone_of
from ovam.coverage import Coverage, RunCoverage
from ovam.errors import NothingCapturedError, OptionError
from ovam.maps import AttentionMaps, SoftmaxOver
from ovam.recorders import MapRecorder, QueryRecorder
from ovam.run import Choice
from ovam.session import Session
from ovam.trace import BlockChoice, Half, Trace, Words

Guidance = Literal["cond", "uncond", "both"]
T_co = TypeVar("T_co", covariant=True)
_HALVES: dict[str, tuple[Half, ...]] = {"cond": ("cond",), "uncond": ("uncond",), "both": ("cond", "uncond")}
_SHARE_OF_MEMORY = 0.8
_GIB = 2**30
log = logging.getLogger("ovam")


class Captured(Sequence[T_co]):
    """What a capture gathered: one entry an image, in the order of pipeline calls, prompts, images a prompt."""

    def __init__(self, entries: list[T_co], covered: Sequence[RunCoverage]) -> None:
        self._entries, self._covered = entries, covered

    @property
    def coverage(self) -> Coverage:
        """Which blocks ran in which denoiser calls of the runs so far; prints as a small table."""
        return Coverage(self._covered)

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
    steps: Iterable[int] | None = None,
    guidance: Guidance = "cond",
    dtype: torch.dtype = torch.float16,
    device: str | torch.device = "cpu",
    limit_gib: float | None = None,
    strict: bool = True,
) -> Iterator[Captured[Trace]]:
    """Keep the pixel queries of every image that `pipe` makes inside the `with` block.

    The images are bit-identical to those without capture, and the pipeline is left exactly as it was.
    The bytes that will be kept are logged (logger `ovam`, level INFO) at the first denoiser call of each run.

    Args:
        pipe: A pipeline of a supported family.
        blocks: Blocks by module path or its beginning ("up_blocks.1"), by grid height (32) or grid (32, 48);
            by default all cross-attention blocks but the coarse middle one.
        steps: Step numbers to keep; by default all. A step of Heun or PNDM has several denoiser calls.
        guidance: Which half of the batch under guidance. Without guidance only "cond" is there.
        dtype: Storage type of the queries: float16, bfloat16 or float32.
        device: Where they are stored.
        limit_gib: Most GiB that the capture may keep in all; by default 80 % of the device's free memory.
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
    choice = choice_of(blocks, steps, guidance, strict=strict)
    traces: list[Trace] = []
    limit = byte_limit(torch.device(device), limit_gib)
    recorder = QueryRecorder(backbone, traces, dtype=storage_type(dtype), device=torch.device(device), limit=limit)
    with Session(backbone, choice, recorder).installed() as session:
        yield Captured(traces, session.covered)


@contextmanager
def stream(
    pipe: Any,
    words: Words,
    *,
    blocks: BlockChoice = None,
    steps: Iterable[int] | None = None,
    guidance: Literal["cond", "uncond"] = "cond",
    softmax_over: SoftmaxOver = "prompt",
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

    Yields:
        The maps, one entry an image, filled as pipeline calls complete.

    Raises:
        The errors of `capture`, and those of `Trace.maps` for the words.
    """
    backbone: Backbone = backbone_of(pipe)
    choice = choice_of(blocks, steps, guidance)
    maps: list[AttentionMaps] = []
    recorder = MapRecorder(backbone, maps, words, softmax_over)
    with Session(backbone, choice, recorder).installed() as session:
        yield Captured(maps, session.covered)


def choice_of(blocks: BlockChoice, steps: Iterable[int] | None, guidance: str, *, strict: bool = True) -> Choice:
    """Check the options that say what to keep."""
    if guidance not in _HALVES:
        raise OptionError(f"guidance={guidance!r}: expected one of {get_args(Guidance)}")
    return Choice(blocks, None if steps is None else frozenset(steps), _HALVES[guidance], strict)


def storage_type(dtype: torch.dtype) -> torch.dtype:
    """Check the type that queries are stored in."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise OptionError(f"dtype={dtype}: expected torch.float16, torch.bfloat16 or torch.float32")
    return dtype


def byte_limit(device: torch.device, limit_gib: float | None) -> int:
    """Bytes that may be kept."""
    if limit_gib is not None:
        return int(limit_gib * _GIB)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_SHARE_OF_MEMORY * free)
