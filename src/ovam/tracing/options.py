"""What a capture keeps, where, and of what: the options of the stage."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ovam.checks import number
from ovam.errors import OptionError
from ovam.trace.blocks import BlockChoice, checked_blocks
from ovam.trace.calls import Half, StepChoice, step_numbers

Guidance = Literal["cond", "uncond", "both"]
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
"""Those that queries are kept in."""
_HALVES: dict[str, tuple[Half, ...]] = {"cond": ("cond",), "uncond": ("uncond",), "both": ("cond", "uncond")}


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """What is kept of every denoiser call, and where. Values are checked when it is made.

    Attributes:
        blocks: Blocks by module path or its beginning ("up_blocks.1"), by grid height (32) or grid ([(32, 48)]);
            by default all cross-attention blocks but the coarse middle one.
        dtype: Storage type of queries, image keys and values: float32, bfloat16, float16 (the default), or int8 with a
            float32 scale for each head, denoiser call and channel.
        device: Where they are stored.
        disk: A folder: they are stored in unnamed files there instead of memory, one an image, which are gone when the
            image's trace is, or the process.
        limit_gib: Most GiB that may be kept in all; by default 80 % of what the device or disk has free.
        outputs: Keep the attention outputs of the pixels as well, for output-space maps of joint attention
            (`Trace.maps(..., strategy="output")`): as many bytes again as the queries.
        self_attention: Self-attention blocks of a UNet, named as in `blocks`, whose weights are kept as well, averaged
            over heads and kept denoiser calls: `Trace.self_attention`. None of them by default.
        also: Further kinds of tensors to keep, by name (`ovam.tracing.parts`), each with its blocks: `Trace.parts`.

    Raises:
        OptionError: a value is none of these, or two do not go together.
    """

    blocks: BlockChoice = None
    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    disk: str | Path | None = None
    limit_gib: float | None = None
    outputs: bool = False
    self_attention: BlockChoice = None
    also: Mapping[str, BlockChoice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks(self.blocks))
        object.__setattr__(self, "self_attention", checked_blocks(self.self_attention))
        if not isinstance(self.also, Mapping):
            raise OptionError(
                f"also={self.also!r}: expected names of parts, each with its blocks: {{'self_attention': [16]}}"
            )
        object.__setattr__(self, "also", {part: checked_blocks(blocks) for part, blocks in self.also.items()})
        if self.dtype is not None and self.dtype not in TYPES:
            raise OptionError(f"dtype={self.dtype}: expected {', '.join(map(str, TYPES[:-1]))} or {TYPES[-1]}")
        if self.limit_gib is not None:
            number("limit_gib", self.limit_gib, least=0.0)
        try:
            place = torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise OptionError(f"device={self.device!r}: expected a torch device, such as 'cpu' or 'cuda'") from error
        self._check_disk(place)

    def _check_disk(self, place: torch.device) -> None:
        if self.disk is None:
            return
        if place.type != "cpu":
            raise OptionError(
                f"disk={str(self.disk)!r} with device={str(self.device)!r}: expected one of the two; leave device out"
            )
        if not isinstance(self.disk, str | Path):
            raise OptionError(f"disk={self.disk!r}: expected a folder")
        folder = Path(self.disk)
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise OptionError(f"disk={str(self.disk)!r}: expected a folder that is there and that you may write to")


@dataclass(frozen=True, kw_only=True)
class CaptureOptions(KeepOptions):
    """What is kept of a pipeline's run.

    Attributes:
        steps: Step numbers to keep, or one, or "middle" for the one in the middle of the run; by default all. A step of
            Heun or PNDM has several denoiser calls.
        guidance: Which half of the batch under guidance. Without guidance only "cond" is there.
        preset: Name of the family's settings for blocks, steps and dtype; what is given of these three
            besides takes its place.
        strict: Fail at the first denoiser call in which a chosen block did not run, as caches of blocks leave some out.
            Without it such a call is left out of the traces; `traces.coverage` tells which.
    """

    steps: StepChoice = None
    guidance: Guidance = "cond"
    preset: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "steps", step_numbers(self.steps))
        if self.guidance not in _HALVES:
            raise OptionError(f"guidance={self.guidance!r}: expected one of {get_args(Guidance)}")

    @property
    def numbers(self) -> frozenset[int] | Literal["middle"] | None:
        """The steps to keep by their numbers, None for all."""
        return step_numbers(self.steps)

    @property
    def halves(self) -> tuple[Half, ...]:
        """The halves of guidance to keep."""
        return _HALVES[self.guidance]


def of_calls(options: KeepOptions, steps: Sequence[int] | None) -> CaptureOptions:
    """Options of a capture that keeps these steps of a run without guidance."""
    kept: dict[str, Any] = {each.name: getattr(options, each.name) for each in fields(KeepOptions)}
    return CaptureOptions(**kept, steps=steps)
