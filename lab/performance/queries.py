"""Synthetic queries of Stable Diffusion 1.5's size, the same numbers for whoever is measured.

Five blocks at each of three grids, as in its down and up path: 688 MB in float32 for 15 denoiser calls.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

HEADS, WIDTH, STEPS = 8, 768, 15
SHAPES = ((64, 40),) * 5 + ((32, 80),) * 5 + ((16, 160),) * 5
"""Side of the grid and channels of a head."""

SHARPNESS = 4.0
"""Factor on the queries: at 1 attention would be all but uniform, and a difference of maps would say little."""


@dataclass(frozen=True, eq=False)
class Block:
    """Queries (head, step, pixel, head_dim) and the key projection (head * head_dim, width) of one block."""

    name: str
    side: int
    query: Tensor
    projection: Tensor

    @property
    def scale(self) -> float:
        return float(self.query.shape[-1] ** -0.5)


def make_blocks(seed: int, steps: int) -> list[Block]:
    """All blocks, float32; key projections as torch initialises a linear layer."""
    random = torch.Generator().manual_seed(seed)
    blocks = []
    for number, (side, head_dim) in enumerate(SHAPES):
        query = torch.randn(HEADS, steps, side * side, head_dim, generator=random).mul_(SHARPNESS)
        projection = torch.empty(HEADS * head_dim, WIDTH).uniform_(-1, 1, generator=random).mul_(WIDTH**-0.5)
        blocks.append(Block(f"block_{number}", side, query, projection))
    return blocks


def make_vectors(seed: int, tokens: int) -> Tensor:
    """An attribution prompt's vectors (token, width)."""
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed + tokens))
