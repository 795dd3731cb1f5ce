"""Stage 2: the text tower, trained contrastively on scene-caption pairs and then frozen, as in Stable Diffusion.

Trained together with the denoiser instead, a text encoder moves the meaning of a word into the end and
padding tokens (arXiv:2501.06751), and the word's own map is left empty.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lab.mini.training.loop import DEVICE, Average, Log, half_precision, warm_cosine
from lab.mini.training.pool import Pool
from ovam.mini.scenes import CLASSES

ITERATIONS, BATCH, PEAK_RATE = 1900, 256, 1e-3
PICTURE_SIZE = 64
_APART = 10**6  # between the seeds of one run and the next


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=77,
            projection_dim=192,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class PictureTower(nn.Module):
    """A small convolutional network; its mean and maximum over the picture become one unit vector."""

    widths = (32, 64, 128, 192)

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((3, *self.widths)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * self.widths[-1], width)

    def forward(self, pictures: Tensor) -> Tensor:
        grid = self.body(pictures)
        return F.normalize(self.head(torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], dim=1)), dim=-1)


class _TextHead(nn.Module):
    """The text tower's end token as a unit vector; only the tower itself is kept afterwards."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder, self.projection = encoder, nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.encoder(ids).last_hidden_state
        end = (ids == self.encoder.config.eos_token_id).int().argmax(1)
        return F.normalize(self.projection(hidden[torch.arange(len(ids)), end]), dim=-1)


def rarity(pool: Pool) -> np.ndarray:
    """Chance of each scene, by the square root of how seldom its rarest class is met: (scene,), summing to 1."""
    coarse = pool.labels[:, ::4, ::4].reshape(len(pool), -1)
    shown = np.stack([(coarse == label).any(1) for label in range(1, len(CLASSES) + 1)], axis=1)
    weights = np.where(shown, np.maximum(1, shown.sum(0)) ** -0.5, 0).max(1)
    weights[weights == 0] = weights[weights > 0].min()  # things too small for the coarse look
    shares: np.ndarray = weights / weights.sum()
    return shares


def train_text_encoder(pool: Pool, tokenizer: CLIPTokenizer, folder: Path, *, seed: int = 0) -> CLIPTextModel:
    """Train on pairs of the pool with the symmetric contrastive loss of CLIP (arXiv:2103.00020) and save.

    Scenes of rare classes are drawn more often: real text towers have read every word often enough.
    """
    torch.manual_seed(1 + _APART * seed)
    random = np.random.default_rng(1 + _APART * seed)
    text = _TextHead(build_text_encoder(tokenizer)).to(DEVICE)
    towers = nn.ModuleDict({"text": text, "picture": PictureTower(text.encoder.config.hidden_size).to(DEVICE)})
    optimiser = torch.optim.AdamW(towers.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    average, log = Average(towers, 0.99), Log(folder.with_suffix(".log.jsonl"))
    shares = rarity(pool)
    for iteration in range(1, ITERATIONS + 1):
        indices = np.sort(random.choice(len(pool), BATCH, replace=False, p=shares))
        captions = [str(random.choice(pool.tower_captions[i])) for i in indices]
        ids = tokenizer(captions, padding=True, return_tensors="pt").input_ids.to(DEVICE)
        with half_precision():
            pictures = towers["picture"](pool.pictures(indices, PICTURE_SIZE).to(DEVICE))
            similarity = text.log_scale.exp().clamp(max=50) * (text(ids) @ pictures.T)
        own = torch.arange(BATCH, device=DEVICE)
        loss = (F.cross_entropy(similarity.float(), own) + F.cross_entropy(similarity.float().T, own)) / 2
        optimiser.param_groups[0]["lr"] = warm_cosine(iteration, ITERATIONS, PEAK_RATE, warm=100)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        average.update(iteration)
        log.add(iteration, loss.item(), matched=(similarity.argmax(1) == own).float().mean().item())
    average.copy_to_model()
    text.encoder.eval().save_pretrained(folder)
    return text.encoder
