"""Two networks ("towers") that were trained together: mini's text encoder, and a small network that reads pictures.

They compare a text with a picture, as CLIP does. The denoiser needs the text encoder alone.
"""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

PICTURE_SIZE = 64
"""Side of the pictures that the picture tower takes, in pixels."""

PICTURE_TOWER, TEXT_HEAD = "picture_tower.safetensors", "text_head.safetensors"
"""Files beside the text encoder: the picture tower, and what brings the end token's vector to its space."""


class PictureTower(nn.Module):
    """A small convolutional network: a unit vector for each place of an 8 x 8 grid, and one for the whole picture."""

    widths = (32, 64, 128, 192)

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise((3, *self.widths))):
            layers += [nn.Conv2d(before, after, 3, 2 if i < 3 else 1, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.places, self.whole = nn.Linear(self.widths[-1], width), nn.Linear(2 * self.widths[-1], width)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the places, (picture, place, channel), and of the pictures, (picture, channel)."""
        grid = self.body(pictures).flatten(2)
        whole = self.whole(torch.cat([grid.mean(2), grid.amax(2)], dim=1))
        return F.normalize(self.places(grid.mT), dim=-1), F.normalize(whole, dim=-1)


def vectors_of(
    hidden: Float[Tensor, "text position channel"],
    ids: Int[Tensor, "text position"],
    end: int,
    weight: Float[Tensor, "out channel"],
) -> Float[Tensor, "text out"]:
    """Return a unit vector for each text: the output at its first end token, projected.

    Args:
        hidden: Output of the text encoder.
        ids: Tokens of the texts.
        end: Number of the end token.
        weight: The projection, from `TEXT_HEAD`.
    """
    place = (ids == end).int().argmax(1)
    return F.normalize(hidden[torch.arange(len(ids), device=ids.device), place] @ weight.T, dim=-1)
