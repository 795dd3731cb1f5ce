"""DatasetDM's P-decoder: from a UNet's features, its cross attention and a class vector to masks with class scores.

Source:
    Wu et al., "DatasetDM: Synthesizing Data with Perception Annotations Using Diffusion Models", NeurIPS 2023
    (arXiv:2308.06160); showlab/DatasetDM at 7545a68. The decoder follows Cheng et al., "Masked-attention Mask
    Transformer", CVPR 2022 (arXiv:2112.01527).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovam.maps.resize import resize
from ovam.methods.fusion import MLP, Fusion, Map
from ovam.methods.unet_read import Levels, Outline, counted
from ovam.methods.widths import HEADS, scaled
from ovam.shapes import Grid

THING, NOTHING, OUTPUTS = 1, 2, 3
"""Class of what is asked, class of no object, and number of class outputs. No target ever has class 0."""
_WIDTH, _HIDDEN, _LAYERS, _QUERIES = 256, 2048, 10, 20
_MASK = 2.5  # side of the mask features over that of the finest grid: 160 over 64
_TEMPERATURE, _TURN = 10_000, 2 * math.pi  # of the sine positions
_TINY = 1e-6

Queries = Float[Tensor, "batch query channel"]


class Layer(nn.Module):
    """A post-norm layer: attention to the picture where a query's mask is, self-attention, two linear layers.

    Args:
        width: Channels.
        hidden: Channels between the two linear layers.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.to_picture, self.to_queries = (nn.MultiheadAttention(width, HEADS, batch_first=True) for _ in range(2))
        self.wide, self.back = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        for weight in (weight for weight in self.parameters() if weight.ndim > 1):
            nn.init.xavier_uniform_(weight)

    def forward(
        self,
        queries: Queries,
        places: Queries,
        picture: tuple[Float[Tensor, "batch pixel channel"], Float[Tensor, "1 pixel channel"]],
        hidden: Bool[Tensor, "rows query pixel"],
    ) -> Queries:
        """Return the queries after this layer.

        Args:
            queries: Content of the queries.
            places: Positions of the queries.
            picture: Content and positions of the pixels.
            hidden: Pixels that a query must not attend to, for each head of each picture.
        """
        pixels, positions = picture
        seen = self.to_picture(queries + places, pixels + positions, pixels, attn_mask=hidden, need_weights=False)[0]
        queries = self.norms[0](queries + seen)
        own = queries + places
        queries = self.norms[1](queries + self.to_queries(own, own, queries, need_weights=False)[0])
        return self.norms[2](queries + self.back(F.relu(self.wide(queries))))


class PerceptionDecoder(nn.Module):
    """DatasetDM's decoder. Widths are the published ones for Stable Diffusion 1, and follow the UNet otherwise.

    The memory is every fused map but the finest, resized to 5/4 of the finest grid's side, then to half of that, and so
    on: 20, 40 and 80 for the grids of Stable Diffusion 1. The layers read these in turn, the coarsest first. A UNet of
    fewer levels has fewer of them.

    Args:
        outline: The UNet, with all of its cross-attention blocks.
        halves: Number of halves of guidance whose features are read.
        tokens: Tokens of a padded prompt; each head of each block gives a channel for each of them.
    """

    def __init__(self, outline: Outline, halves: int, tokens: int) -> None:
        super().__init__()
        width = scaled(_WIDTH, outline.finest)
        channels = counted(list(outline.channels), outline, halves)
        for level, heads in attention_heads(outline).items():
            channels[level] += heads * tokens
        self.fusion = Fusion(channels, [width] * outline.count, mixed=width)
        self.content, self.place = nn.Embedding(_QUERIES, width), nn.Embedding(_QUERIES, width)
        self.to_content = nn.Linear(width + outline.space.width, width, bias=False)
        self.to_place = nn.Linear(width + outline.space.width, width, bias=False)
        self.level = nn.Embedding(max(1, outline.count - 1), width)
        self.layers = nn.ModuleList(Layer(width, scaled(_HIDDEN, outline.finest)) for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(width)
        self.score, self.mask = nn.Linear(width, OUTPUTS), MLP(width, width, width, width)

    def forward(
        self, levels: Levels, text: Float[Tensor, "batch text_width"]
    ) -> tuple[Float[Tensor, "batch query output"], Float[Tensor, "batch query height width"]]:
        """Return the class scores of the queries before the softmax, and the log-odds of their masks.

        Args:
            levels: Features of each level, followed by the attention of the level's blocks.
            text: Vector of the class.
        """
        finest = (levels[0].shape[-2], levels[0].shape[-1])
        *coarse, last = self.fusion(levels)
        masked = resize(last, _sized(finest, _MASK))
        memory = self._memory(coarse or [last], finest)
        queries, places = (
            join(torch.cat([own.weight.expand(len(text), -1, -1), text[:, None].expand(-1, _QUERIES, -1)], dim=-1))
            for own, join in ((self.content, self.to_content), (self.place, self.to_place))
        )
        for i, layer in enumerate(self.layers):
            pixels, positions, grid = memory[i % len(memory)]
            hidden = _hidden(self._masks(queries, masked), grid)
            queries = layer(queries, places, (pixels, positions), hidden)
        return self.score(self.norm(queries)), self._masks(queries, masked)

    def _masks(self, queries: Queries, masked: Map) -> Float[Tensor, "batch query height width"]:
        return torch.einsum("bqc,bchw->bqhw", self.mask(self.norm(queries)), masked)

    def _memory(self, maps: Sequence[Map], finest: Grid) -> list[tuple[Tensor, Tensor, Grid]]:
        """Return content, positions and grid of each level of the memory, the coarsest first."""
        found = []
        for i, fused in enumerate(maps):
            grid = _sized(finest, 5 / 4 / 2 ** (len(maps) - 1 - i))
            pixels = resize(fused, grid).flatten(2).transpose(1, 2) + self.level.weight[i]
            found.append((pixels, sine_positions(grid, pixels.shape[-1])[None].to(pixels), grid))
        return found


def attention_heads(outline: Outline) -> dict[int, int]:
    """Return the number of heads of all cross-attention blocks at each level that has some."""
    found: dict[int, int] = {}
    for name, heads in outline.heads.items():
        level = level_of(name, outline)
        found[level] = found.get(level, 0) + heads
    return found


def level_of(block: str, outline: Outline) -> int:
    """Return the level of a cross-attention block, which is that of the layer that it is in."""
    layer = "mid_block" if block.startswith("mid_block") else ".".join(block.split(".")[:4])
    return outline.levels[layer]


def sine_positions(grid: Grid, width: int) -> Float[Tensor, "pixel width"]:
    """Return sine and cosine positions: the first half of the channels tells the row, the other half the column.

    Positions run from above 0 to 2 pi over each side. Channels come in pairs of sine and cosine of one frequency.
    """
    half = width // 2
    rates = _TEMPERATURE ** (2 * (torch.arange(half) // 2) / half)
    sides = [(torch.arange(count) + 1.0) / (count + _TINY) * _TURN for count in grid]
    rows, columns = (
        torch.stack([(side[:, None] / rates)[:, 0::2].sin(), (side[:, None] / rates)[:, 1::2].cos()], dim=-1).flatten(1)
        for side in sides
    )
    both = [rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)]
    return torch.cat(both, dim=-1).flatten(0, 1)


def _hidden(masks: Float[Tensor, "batch query height width"], grid: Grid) -> Bool[Tensor, "rows query pixel"]:
    """Return the pixels outside of each query's mask, once for each head; a query with an empty mask sees all."""
    outside = (resize(masks.detach(), grid).sigmoid() < 0.5).flatten(2)
    outside &= ~outside.all(-1, keepdim=True)
    return outside.repeat_interleave(HEADS, dim=0)


def _sized(grid: Grid, times: float) -> Grid:
    return max(1, round(grid[0] * times)), max(1, round(grid[1] * times))
