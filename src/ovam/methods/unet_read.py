"""What a trained module reads of a UNet: its features, and an outline that tells one UNet from another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import NothingCapturedError, UnsupportedPipelineError
from ovam.maps.compute import half_of
from ovam.tensor_file import fingerprint
from ovam.trace.calls import Half
from ovam.trace.static_text import StaticText
from ovam.trace.text_side import Space
from ovam.trace.trace import Trace

Levels = list[Float[Tensor, "_ _ _ _"]]
"""Features by level (batch, channel, height, width); the first is the finest, and each has channels and a grid of its
own."""

TIMESTEP = 1
"""At which the denoiser looks at a real image for its features: the last of 50 steps of DDIM."""

_PARTS = ("down_blocks", "mid_block", "up_blocks")  # of a UNet


@dataclass(frozen=True)
class Outline:
    """Facts that distinguish one UNet from another, among those that a trained module and a trace both have.

    Attributes:
        channels: Channels of each layer with features, by module path, in running order.
        levels: Level of each of these layers; 0 is the finest.
        heads: Heads of each captured cross-attention block.
        projections: Hash of the key projection of each of these blocks.
        space: Space of the text vectors.
    """

    channels: Mapping[str, int]
    levels: Mapping[str, int]
    heads: Mapping[str, int]
    projections: Mapping[str, str]
    space: Space

    @property
    def finest(self) -> int:
        """Channels of the finest level."""
        return self.channels["conv_in"]

    @property
    def count(self) -> int:
        """Number of levels."""
        return 1 + max(self.levels.values())

    def differences(self, other: "Outline") -> list[str]:
        """Return in what another UNet differs, as short sentences; none if it is the same.

        Key projections are compared for the blocks that both know.
        """
        found = []
        if dict(self.channels) != dict(other.channels) or dict(self.levels) != dict(other.levels):
            found.append("its layers have other names, widths or grids")
        shared = self.projections.keys() & other.projections.keys()
        if not shared or any(self.projections[name] != other.projections[name] for name in shared):
            found.append("its key projections are others" if shared else "no block of cross attention is known of both")
        if self.space != other.space:
            found.append(f"its text encoder is {other.space}, expected {self.space}")
        return found


def outline_of(trace: Trace) -> Outline:
    """Return the outline of the UNet that a trace is of.

    Raises:
        UnsupportedPipelineError: the trace is of a family without a UNet.
        NothingCapturedError: the trace has no queries or no features.
    """
    half_of(trace, None)
    text, parts = trace.text, {name.split(".")[0] for name in trace.blocks}
    if not isinstance(text, StaticText) or not parts & set(_PARTS):
        raise UnsupportedPipelineError(
            f"this trace is of a {trace.source.pipeline}, whose denoiser is no UNet and has no features that trained "
            "methods read: expected a trace of Stable Diffusion 1, 2 or XL; use a method that reads attention alone"
        )
    if not trace.features:
        raise NothingCapturedError(
            "this trace has no features, which trained methods read: expected those of its last denoiser call; "
            "capture with ovam.capture(pipe, features=True), or use ovam.encode(pipe, picture, features=True, "
            "timesteps=(1,))"
        )
    grids = sorted({part.grid for part in trace.features.values()}, reverse=True)
    return Outline(
        channels={name: next(iter(part.values.values())).shape[0] for name, part in trace.features.items()},
        levels={name: grids.index(part.grid) for name, part in trace.features.items()},
        heads={name: block.heads for name, block in trace.blocks.items()},
        projections={name: fingerprint({"": text.projections[name]}) for name in trace.blocks},
        space=text.space,
    )


def features_of(trace: Trace, layers: Sequence[str], levels: Mapping[str, int], halves: Sequence[Half]) -> Levels:
    """Return the features of these layers, joined by channels for each level, the finest first; float32, batch 1.

    Both halves of guidance are channels of a layer, the unconditional ones first, as in the published code.

    Raises:
        NothingCapturedError: the trace lacks a half.
    """
    there = trace.halves
    lacking = [half for half in halves if half not in there]
    if lacking:
        raise NothingCapturedError(
            f"these weights were trained on the features of {' and '.join(halves)}, and this trace lacks "
            f"{lacking[0]!r}: capture a run with guidance by ovam.capture(pipe, features=True, guidance='both')"
        )
    by_level: list[list[Tensor]] = [[] for _ in range(1 + max(levels[name] for name in layers))]
    for name in layers:
        values: Mapping[Half, Any] = trace.features[name].values
        by_level[levels[name]] += [values[half].float() for half in sorted(halves, reverse=True)]
    return [torch.cat(each)[None] for each in by_level]


def counted(layers: Sequence[str], outline: Outline, halves: int) -> list[int]:
    """Return the number of channels that `features_of` gives at each level, the finest first."""
    found = [0] * outline.count
    for name in layers:
        found[outline.levels[name]] += outline.channels[name] * halves
    return found
