"""Capture a run: `capture` keeps its queries, for maps of any words later; `stream` keeps only maps of given words."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from ovam.backbones.base import Backbone
from ovam.backbones.registry import backbone_of
from ovam.errors import NothingCapturedError, OptionError
from ovam.keywords import options_as_keywords
from ovam.maps.result import AttentionMaps
from ovam.maps.words import Words
from ovam.trace.trace import Trace
from ovam.tracing.coverage import Coverage, RunCoverage
from ovam.tracing.keep_queries import QueryRecorder
from ovam.tracing.options import CaptureOptions, StreamOptions
from ovam.tracing.parts import PARTS
from ovam.tracing.presets import with_preset
from ovam.tracing.self_attention import self_specs
from ovam.tracing.session import Session
from ovam.tracing.storage import storage_of
from ovam.tracing.stream_maps import MapRecorder

T_co = TypeVar("T_co", covariant=True)


class Captured(Sequence[T_co]):
    """The results of a capture: one entry per image, in the order of pipeline calls, prompts, images per prompt."""

    def __init__(self, entries: list[T_co], covered: Sequence[RunCoverage]) -> None:
        self._entries, self._covered = entries, covered

    @property
    def coverage(self) -> Coverage:
        """Which blocks ran in which denoiser calls of the runs so far; prints as a small table."""
        return Coverage(self._covered)

    def clear(self) -> None:
        """Remove all entries, so that a loop over many prompts does not fill the memory."""
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
        """Return the entry of the i-th image.

        Raises:
            NothingCapturedError: no pipeline call was completed inside the `with` block.
        """
        if not self._entries and isinstance(index, int):
            raise NothingCapturedError(
                "nothing was captured: expected at least one completed pipeline call inside the `with` block; "
                "call the same pipeline object there"
            )
        return self._entries[index]

    def __repr__(self) -> str:
        entries = ", ".join(map(repr, self._entries))
        return f"[{entries}]" if entries else "Captured(nothing yet)"


@contextmanager
def captured(pipe: Any, options: CaptureOptions) -> Iterator[Captured[Trace]]:
    """Keep the pixel queries of every image that `pipe` makes inside the `with` block.

    The images are bit-identical to those without capture. Afterwards the pipeline is exactly as it was before.
    The bytes that will be kept are logged (logger `ovam`, level INFO) at the first denoiser call of each run.

    Args:
        pipe: A pipeline of a supported family.
        options: See `CaptureOptions`.

    Yields:
        The traces, one per image; they are added when a pipeline call is complete.

    Raises:
        UnsupportedPipelineError: no backbone reads `pipe`.
        NoTextEncoderError: `pipe` has no text encoder.
        OptionError: an option has a value that is not allowed.
        NestedCaptureError: `pipe` is being captured already.
        MissingBlockError, MissingStepError: a chosen block or step does not exist (at the first denoiser call).
        CaptureTooLargeError: the capture would keep more than the limit (at a run's first denoiser call).
        NothingCapturedError: the options ask for unconditional queries, but the run has no guidance.
        SilentBlockError: a chosen block did not run (at that denoiser call). Without `strict`: in no call of the run
            did all chosen blocks run (at the end of the run).
        NotFiniteError: the model computes NaN (at the first denoiser call).
    """
    backbone = backbone_of(pipe)
    options = with_preset(options, backbone)
    check_offered(backbone, options)
    traces: list[Trace] = []
    recorder = QueryRecorder(backbone, traces, storage_of(options))
    with Session(backbone, options, recorder).installed() as session:
        yield Captured(traces, session.covered)


capture = options_as_keywords(CaptureOptions, name="capture")(captured)
"""`captured` with its options as keywords."""


@options_as_keywords(StreamOptions)
@contextmanager
def stream(pipe: Any, words: Words, options: StreamOptions) -> Iterator[Captured[AttentionMaps]]:
    """Accumulate the maps of given words while `pipe` runs; no queries are kept, whatever the number of steps.

    The maps equal those of a float32 capture within 1e-6; only the order of additions differs.

    Args:
        pipe: A pipeline of a supported family.
        words: As in `Trace.maps`.
        options: See `StreamOptions`; the default blocks are those of `capture`.

    Yields:
        The maps, one entry per image; they are added when a pipeline call is complete.

    Raises:
        The errors of `capture`, and those of `Trace.maps` for the words.
    """
    backbone: Backbone = backbone_of(pipe)
    maps: list[AttentionMaps] = []
    recorder = MapRecorder(backbone, maps, words, options)
    watched = CaptureOptions(
        blocks=options.blocks,
        steps=options.steps,
        guidance=options.guidance or "cond",
        outputs=options.strategy == "output",
        self_attention=options.self_attention,
    )
    check_offered(backbone, watched)
    with Session(backbone, watched, recorder).installed() as session:
        yield Captured(maps, session.covered)


def check_offered(backbone: Backbone, options: CaptureOptions) -> None:
    """Check that the family has the tensors that the options ask for besides queries.

    Raises:
        OptionError: it has no joint attention for `outputs`, or no self-attention that can be kept.
    """
    pipeline = type(backbone.pipe).__name__
    unknown = [part for part in options.also if part not in PARTS]
    if unknown:
        raise OptionError(f"also={unknown[0]!r}: expected some of {', '.join(PARTS)}, see ovam.tracing.parts")
    if options.outputs and backbone.text_kind == "static":
        raise OptionError(
            f"outputs=True on a {pipeline}, whose words have no attention outputs: expected joint attention "
            "of image and text (SD3, FLUX); leave the option out"
        )
    if options.self_attention not in (None, False) and not self_specs(backbone):
        raise OptionError(
            f"self_attention={options.self_attention!r} on a {pipeline}, whose self-attention can't be kept: expected "
            "a UNet (Stable Diffusion 1, 2 or XL) or joint attention (SD3, FLUX); leave the option out"
        )
    if options.features and not backbone.feature_layers():
        raise OptionError(
            f"features=True on a {pipeline}, whose denoiser is no UNet and has no such features: expected "
            "Stable Diffusion 1, 2 or XL; leave the option out"
        )
