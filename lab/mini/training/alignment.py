"""Alignment of the denoiser's features with those of the picture tower (REPA, arXiv:2410.06940).

The picture tower learned from captions alone (`text_tower`), so no mask is learned from here either. Its places carry
what the words of the text tower are matched with.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from lab.mini.training.loop import DEVICE, Peers, half_precision, load_tensors, save_tensors
from ovam.mini.towers import PictureTower

WHERE = ("up_blocks.1.resnets.0", "up_blocks.2.resnets.0")
"""Modules whose outputs are drawn to the picture tower's places: what goes into the first attention of a grid."""

WEIGHT, RATE = 0.5, 3e-4


class Alignment:
    """Watches the denoiser's features and draws them to the picture tower's.

    Args:
        model: The denoiser.
        tower: File of the picture tower's weights.
        file: Checkpoint of the projections from the denoiser's features to the tower's.
        width: Channels of the tower's places.
    """

    def __init__(self, model: UNet2DConditionModel, tower: Path, file: Path, width: int) -> None:
        self.file = file
        self.tower = PictureTower(width).to(DEVICE).eval().requires_grad_(False)
        self.tower.load_state_dict(load_tensors(tower))
        self.seen: dict[str, Tensor] = {}
        for name in WHERE:
            model.get_submodule(name).register_forward_hook(self._watch(name))
        channels = {name: model.get_submodule(name).out_channels for name in WHERE}
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels[name], width), nn.SiLU(), nn.Linear(width, width)) for name in WHERE
        ).to(DEVICE)
        if file.exists():
            self.heads.load_state_dict(load_tensors(file))
        self.optimiser = torch.optim.AdamW(self.heads.parameters(), lr=RATE)

    def _watch(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, given: object, output: Tensor) -> None:
            self.seen[name] = output

        return hook

    def loss(self, pictures: Tensor) -> Tensor:
        """Mean of 1 - cosine between the features of the last forward pass and the pictures' places, times `WEIGHT`.

        Args:
            pictures: In [-1, 1], (picture, 3, height, width), in the order of the batch.
        """
        with torch.no_grad(), half_precision():
            places, _ = self.tower(pictures)
        side = round(places.shape[1] ** 0.5)
        grid = places.float().mT.unflatten(-1, (side, side))
        losses = []
        for name, head in zip(WHERE, self.heads, strict=True):
            features = self.seen.pop(name)
            target = grid if features.shape[-1] == side else F.interpolate(grid, features.shape[-2:], mode="bilinear")
            with half_precision():
                found = head(features.flatten(2).mT)
            losses.append(1 - F.cosine_similarity(found.float(), target.flatten(2).mT, dim=-1).mean())
        return WEIGHT * torch.stack(losses).mean()

    def step(self, peers: Peers) -> None:
        """Move the projections by their gradients, averaged over the processes."""
        peers.average([parameter.grad for parameter in self.heads.parameters() if parameter.grad is not None])
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def save(self) -> None:
        save_tensors(self.heads.state_dict(), self.file)
