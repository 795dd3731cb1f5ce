"""The denoiser's features are drawn towards the picture tower's: Yu et al., arXiv:2410.06940.

A denoiser of photographs learns from hundreds of millions of pictures what a thing is; mini has minutes. To tell what
the picture tower sees where, which was learned from captions alone, the denoiser must bind words to places early.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovam.mini.training.text_tower import PictureTower

WEIGHT = 0.5
_GRID, _WIDTH = 8, 256


class Alignment(nn.Module):
    """A small head on the denoiser's features that tells the picture tower's; it is dropped after training.

    The tower's last two stages, at 8 x 8 and 4 x 4, are told.

    Args:
        tower: Sees the pictures; it is not trained.
        channels: Of the denoiser's features.
    """

    def __init__(self, tower: PictureTower, channels: int) -> None:
        super().__init__()
        self._tower = (tower.eval().requires_grad_(False),)  # in a tuple: no part of this module's weights
        self.head = nn.Sequential(
            nn.Conv2d(channels, _WIDTH, 1), nn.SiLU(), nn.Conv2d(_WIDTH, sum(tower.widths[-2:]), 1)
        )

    def loss(self, features: Tensor, pictures: Tensor) -> Tensor:
        """Mean of one minus the cosine between told and seen features.

        Args:
            features: Of the denoiser's last evaluation, (sample, channel, height, width).
            pictures: The clean pictures of the samples, (sample, 3, 64, 64), in [-1, 1].
        """
        with torch.no_grad():
            grids = self._tower[0].grids(pictures)[-2:]
            seen = torch.cat([F.interpolate(grid, (_GRID, _GRID), mode="bilinear") for grid in grids], dim=1)
            seen = (seen - seen.mean((0, 2, 3), keepdim=True)) / seen.std((0, 2, 3), keepdim=True)
        told = self.head(F.adaptive_avg_pool2d(features.float(), _GRID))
        return 1 - F.cosine_similarity(told, seen, dim=1).mean()
