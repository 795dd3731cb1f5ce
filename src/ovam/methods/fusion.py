"""Fusion of a UNet's features from coarse to fine, which the grounding module and the P-decoder share."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ovam.maps.resize import resize
from ovam.methods.unet_read import Levels

Map = Float[Tensor, "batch _ _ _"]
"""Features of one grid (batch, channel, height, width)."""


class Residual(nn.Module):
    """A residual block: two 3x3 convolutions with spectral normalisation, added to the identity.

    Batch normalisation has no weights of its own, momentum 0.1 and epsilon 1e-4. As in the released code, the identity
    is the input after normalisation and ReLU, since that ReLU works in place.

    Args:
        before: Channels of the input.
        after: Channels of the output. If they differ from `before`, a 1x1 convolution gives the identity this number of
            channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = (nn.BatchNorm2d(width, 1e-4, 0.1, affine=False) for width in (before, after))
        self.conv_1, self.conv_2 = _spectral(before, after, 3), _spectral(after, after, 3)
        self.identity: nn.Module = nn.Identity() if before == after else _spectral(before, after, 1)

    def forward(self, x: Map) -> Map:
        x = F.relu(self.norm_1(x))
        return self.conv_2(F.relu(self.norm_2(self.conv_1(x)))) + self.identity(x)


def _spectral(before: int, after: int, side: int) -> Any:
    return spectral_norm(nn.Conv2d(before, after, side, padding=side // 2), n_power_iterations=1, eps=1e-4)


class Fusion(nn.Module):
    """Features of all levels as maps: narrowed by 1x1 convolutions, then joined from coarse to fine.

    Each level is narrowed and enlarged to the grid of the next finer one; the finest keeps its own grid. The published
    code enlarges first, which gives the same, and takes longer. The coarsest level stays alone at first. Then each
    finer one is joined to what came before, and a `Residual` mixes them.

    Args:
        channels: Channels of the features at each level, the finest first.
        widths: Channels after narrowing, the finest first.
        mixed: Channels after each mixing; None keeps those of both parts together.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int], mixed: int | None = None) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(
            nn.Conv2d(before, after, 1, bias=False) for before, after in zip(channels, widths, strict=True)
        )
        self.mix = nn.ModuleList()
        self.widths = [widths[-1]]  # of the maps that `forward` gives
        for width in reversed(widths[:-1]):
            before = self.widths[-1] + width
            self.mix.append(Residual(before, mixed or before))
            self.widths.append(mixed or before)

    def forward(self, levels: Levels) -> list[Map]:
        """Return the maps from coarse to fine: the coarsest level alone, then each mixing; the last is the finest.

        All but the last are enlarged to the grid at which they are joined to the next one.
        """
        grids = [(level.shape[-2], level.shape[-1]) for level in levels]
        inner = [resize(self.narrow[i](level), grids[max(0, i - 1)]) for i, level in enumerate(levels)]
        found = [inner[-1]]
        for mix, level in zip(self.mix, reversed(inner[:-1]), strict=True):
            found[-1] = resize(found[-1], (level.shape[-2], level.shape[-1]))
            found.append(mix(torch.cat([found[-1], level], dim=1)))
        return found


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: Width of the input and of every layer's output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
