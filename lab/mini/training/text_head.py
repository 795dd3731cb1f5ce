"""Fit the projection of the text tower's end token to the picture tower again, for towers that were kept without it."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from lab.mini.training.loop import save_tensors
from lab.mini.training.pool import Pool
from ovam.mini.towers import PICTURE_SIZE, PICTURE_TOWER, TEXT_HEAD, PictureTower, vectors_of

SCENES, ITERATIONS, BATCH, RATE = 3000, 600, 96, 3e-3
_AT_ONCE = 64


def fit_text_head(folder: Path, work: Path, *, scenes: int = SCENES, iterations: int = ITERATIONS) -> float:
    """Fit it on scenes of training with their captions, both towers frozen, and write it beside them.

    The loss is that of CLIP (arXiv:2103.00020), by which the towers were trained.

    Args:
        folder: A pipeline with a picture tower.
        work: Where the scenes are kept.
        scenes: Number of scenes.
        iterations: Steps of the optimiser.

    Returns:
        Share of the texts of the last batches whose own picture is the most similar one of the batch.
    """
    pool = Pool(work, scenes)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    width, end = encoder.config.hidden_size, encoder.config.eos_token_id
    texts, pictures = _texts(pool, tokenizer, encoder), _pictures(pool, folder / PICTURE_TOWER, width)
    random = np.random.default_rng(0)
    weight = torch.nn.Parameter(torch.eye(width))
    scale = torch.nn.Parameter(torch.tensor(2.6))
    optimiser = torch.optim.AdamW([weight, scale], lr=RATE, weight_decay=0.01)
    matched = list[float]()
    for _ in range(iterations):
        chosen = random.choice(len(pool), min(BATCH, len(pool)), replace=False)
        hidden = texts[torch.from_numpy(chosen), torch.from_numpy(random.integers(texts.shape[1], size=len(chosen)))]
        named = vectors_of(hidden[:, None], _ends(hidden, end), end, weight)
        similarity = scale.exp().clamp(max=50) * (named @ pictures[chosen].T)
        own = torch.arange(len(chosen))
        loss = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        matched.append(float((similarity.argmax(1) == own).float().mean()))
    made = {"weight": weight.data, "scale": scale.data.exp().clamp(max=50)}
    save_tensors({name: each.half() for name, each in made.items()}, folder / TEXT_HEAD)
    return float(np.mean(matched[-20:]))


def _ends(hidden: Tensor, end: int) -> Tensor:
    """Tokens of texts of which the end token alone is left."""
    return torch.full((len(hidden), 1), end)


@torch.no_grad()
def _texts(pool: Pool, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> Tensor:
    """What the encoder makes of the end token of each caption: (scene, caption, channel)."""
    found = []
    for start in range(0, len(pool), _AT_ONCE):
        captions = [text for texts in pool.tower_captions[start : start + _AT_ONCE] for text in texts]
        ids = tokenizer(captions, padding=True, return_tensors="pt").input_ids
        hidden = encoder(ids).last_hidden_state
        place = (ids == encoder.config.eos_token_id).int().argmax(1)
        found.append(hidden[torch.arange(len(ids)), place])
    return torch.cat(found).unflatten(0, (len(pool), -1))


@torch.no_grad()
def _pictures(pool: Pool, file: Path, width: int) -> Tensor:
    """Unit vectors of the scenes: (scene, channel)."""
    tower = PictureTower(width).eval()
    tower.load_state_dict(load_file(file))
    every = np.arange(len(pool))
    parts = [every[start : start + _AT_ONCE] for start in range(0, len(pool), _AT_ONCE)]
    return torch.cat([tower(pool.pictures(part, PICTURE_SIZE))[1] for part in parts])
