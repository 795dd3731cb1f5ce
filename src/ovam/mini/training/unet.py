"""mini's denoiser: a UNet with cross attention at grids of 32, 16 and 8, trained on noise prediction.

In half of the samples the end and padding tokens are masked out of the context. Each of them holds the whole
caption, so that a denoiser may do without the words: without masking, padding took more than half of the attention.
With masking alone a class word's map was still no better on its object than an absent word's, hence the alignment.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ovam.mini.training.alignment import WEIGHT, Alignment
from ovam.mini.training.denoiser import Objective, Phase
from ovam.mini.training.loop import DEVICE, half_precision
from ovam.mini.training.matching import Matching
from ovam.mini.training.naming import Naming
from ovam.mini.training.text_tower import PictureTower
from ovam.mini.training.texts import Texts

PHASES = (
    Phase(4000, ((64, 64),)),
    Phase(3500, ((128, 32), (64, 64))),
    Phase(1500, ((128, 32),)),
    Phase(1200, ((128, 32), (64, 64))),
    Phase(700, ((128, 32),)),
)


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=(2, 4, 6),  # numbers of heads, 32 channels each
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _loss_weights(scheduler: DDIMScheduler, timesteps: Tensor) -> Tensor:
    """Weight 1 / sqrt(signal to noise) of each sample's loss: Yu et al., arXiv:2310.08442.

    An error in the noise is a small one in the picture where little noise is left, and a large one where the
    shapes are decided; unweighted, or weighted by Hang et al. (arXiv:2303.09556), mini drew textures without shapes.
    """
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return ((1 - signal) / signal).sqrt()


class NoisePrediction(Objective):
    """The UNet, told by the text tower's last hidden states.

    Its features behind the middle grid on the way up are aligned, so that all cross attention but the last at the
    finest grid takes part.
    """

    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0, "misaligned": WEIGHT, "mismatched": 0.15, "misnamed": 0.3}

    def __init__(self, encoder: CLIPTextModel, tower: PictureTower, tokenizer: CLIPTokenizer) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.model, self.scheduler = build_unet().to(DEVICE), build_scheduler()
        tapped = self.model.up_blocks[1].attentions[-1]
        self.alignment = Alignment(tower, tapped.in_channels).to(DEVICE)
        self.matching, self.naming = Matching(self.model), Naming(self.model, encoder, tokenizer)
        self._random = np.random.default_rng(torch.initial_seed())
        self._features = torch.empty(0)
        tapped.register_forward_hook(self._keep)

    def _keep(self, module: object, inputs: object, output: tuple[Tensor]) -> None:
        self._features = output[0]

    def losses(self, clean: Tensor, pictures: Tensor, texts: Texts) -> dict[str, Tensor]:
        states = self.encoder(texts.ids.to(DEVICE)).last_hidden_state.detach()
        noise = torch.randn_like(clean)
        names = texts.names.to(DEVICE)
        timesteps = self._timesteps((names != 0).any(1))
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        signal = self.scheduler.alphas_cumprod.to(DEVICE)[timesteps]
        with half_precision():
            predicted = self.model(noisy, timesteps, states, encoder_attention_mask=texts.attended.to(DEVICE)).sample
            misaligned = self.alignment.loss(self._features, pictures)
            mismatched = self.matching.loss(texts.belongs.to(DEVICE), signal)
            misnamed = self.naming.loss(names, signal, self._random)
        errors = (predicted.float() - noise).square().mean((1, 2, 3))
        wrong = (errors * _loss_weights(self.scheduler, timesteps)).mean()
        return {"loss": wrong, "misaligned": misaligned, "mismatched": mismatched, "misnamed": misnamed}

    def _timesteps(self, asked: Tensor) -> Tensor:
        """Time steps (sample,), even but for samples that are asked for names: of those there is less noise on most."""
        chance = torch.rand(len(asked), device=DEVICE)
        return (self.scheduler.config.num_train_timesteps * torch.where(asked, chance.square(), chance)).long()
