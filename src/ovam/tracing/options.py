"""Options of a capture: what to keep, and where."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ovam.checks import number, whole
from ovam.errors import OptionError
from ovam.maps.options import MapOptions
from ovam.trace.blocks import BlockChoice, checked_blocks
from ovam.trace.calls import Half, StepChoice, step_numbers

Guidance = Literal["cond", "uncond", "both"]
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
"""Storage types of queries."""
_HALVES: dict[str, tuple[Half, ...]] = {"cond": ("cond",), "uncond": ("uncond",), "both": ("cond", "uncond")}


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """What to keep of every denoiser call, and where. Values are checked when the object is made.

    Attributes:
        blocks: Blocks by module path or its beginning ("up_blocks.1"), by grid height (32), grid ([(32, 48)]) or share
            of the finest grid ("1/4"). "all" stands for all cross-attention blocks but the coarse middle one, and is
            the default, unless a UNet's config names blocks whose maps follow words (`_word_blocks`), as mini's does.
        dtype: Storage type of queries, image keys and values: float32, bfloat16, float16 (the default), or int8 with a
            float32 scale for each head, denoiser call and channel.
        device: Device on which they are stored.
        disk: Folder for storage in files instead of memory. Each image has one unnamed file, which disappears with
            the image's trace or at the end of the process.
        limit_gib: Maximum GiB to keep in total; by default 80 % of the free memory of the device, or of the free disk.
        outputs: Keep the attention outputs of the pixels as well, for output-space maps of joint attention
            (`Trace.maps(..., strategy="output")`). They take as many bytes as the queries.
        self_attention: Self-attention to keep, by which maps are refined: weights averaged over heads, kept denoiser
            calls, and the blocks of one grid on the way up (`Trace.self_attention`). By default, for a UNet, the grids
            of up to 64 x 64 pixels, the coarsest first, that cost less than a fifth of the queries. True keeps all of
            these, and in joint attention the middle third of the blocks; "finest" keeps only the finest grid of these,
            by which maps are refined unless other blocks are chosen; False keeps none. Blocks, chosen as in `blocks`,
            are kept each by itself.
        self_attention_every: Average self-attention over every n-th of the kept denoiser calls, beginning with the
            middle one of the first n; with 5: the 3rd, the 8th, the 13th and so on. 1 takes all calls. Self-attention
            changes slowly from call to call, and is most of what a capture costs. A run that ends before the first of
            these calls has the self-attention of its last one.
        features: Keep what the layers of a UNet put out at the last kept denoiser call, as trained methods read it
            (`Trace.features`). For a UNet only. Choose another call by `steps`, or by the time steps of `encode`.
        also: Further kinds of tensors to keep: for each kind, by its name in `ovam.tracing.parts`, the blocks to keep
            it of. They are found in `Trace.parts`.

    Raises:
        OptionError: a value is not allowed, or two are not compatible.
    """

    blocks: BlockChoice = None
    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    disk: str | Path | None = None
    limit_gib: float | None = None
    outputs: bool = False
    self_attention: BlockChoice | bool = None
    self_attention_every: int = 1
    features: bool = False
    also: Mapping[str, BlockChoice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks(self.blocks))
        if not isinstance(self.self_attention, bool):
            object.__setattr__(self, "self_attention", checked_blocks(self.self_attention))
        every = whole("self_attention_every", self.self_attention_every, least=1)
        object.__setattr__(self, "self_attention_every", every)
        if not isinstance(self.features, bool):
            raise OptionError(f"features={self.features!r}: expected True or False")
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
    """What to keep of a pipeline's run.

    Attributes:
        steps: One step number to keep, several of them, or "middle" for the middle step of the run; by default all. A
            step of Heun or PNDM has several denoiser calls.
        guidance: Half of guidance to keep, or "both". A run without guidance has only "cond".
        preset: Name of the family's settings for blocks, steps and dtype. Explicit arguments override the preset.
        strict: Raise an error at the first denoiser call in which a chosen block did not run; caches of blocks skip
            some. If False, such calls are left out of the traces; `traces.coverage` shows which.
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
        """The numbers of the steps to keep, "middle", or None for all."""
        return step_numbers(self.steps)

    @property
    def halves(self) -> tuple[Half, ...]:
        """The halves of guidance to keep."""
        return _HALVES[self.guidance]


@dataclass(frozen=True, kw_only=True)
class StreamOptions(MapOptions):
    """Options of `stream`: how maps are made during a run.

    Attributes:
        self_attention: Self-attention to keep, by which the maps can be refined; as in `CaptureOptions`.
    """

    self_attention: BlockChoice | bool = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.self_attention, bool):
            object.__setattr__(self, "self_attention", checked_blocks(self.self_attention))


def of_calls(options: KeepOptions, steps: Sequence[int] | None) -> CaptureOptions:
    """Return the options of a capture that keeps these steps of a run without guidance."""
    kept: dict[str, Any] = {each.name: getattr(options, each.name) for each in fields(KeepOptions)}
    return CaptureOptions(**kept, steps=steps)
