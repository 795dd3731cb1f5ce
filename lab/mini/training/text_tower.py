"""Stage 3: the text tower, trained contrastively on scene-caption pairs and then frozen, as in Stable Diffusion.

Trained together with the denoiser instead, a text encoder moves the meaning of a word into the end and
padding tokens (arXiv:2501.06751), and the word's own map is left empty.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lab.mini.training.loop import DEVICE, Average, Log, half_precision, save_tensors, warm_cosine
from lab.mini.training.pool import Pool
from ovam.mini.scenes import CLASSES
from ovam.mini.towers import PICTURE_SIZE, PICTURE_TOWER, TEXT_HEAD, PictureTower, vectors_of

ITERATIONS, BATCH, PEAK_RATE = 2000, 96, 1e-3
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


class _TextHead(nn.Module):
    """Unit vectors of the words and of the end token; the tower and the end token's projection are kept afterwards."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.words, self.whole = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.word_scale, self.scale = nn.Parameter(torch.tensor(2.6)), nn.Parameter(torch.tensor(2.6))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the positions, (text, position, channel), and of the texts, (text, channel)."""
        hidden = self.encoder(ids).last_hidden_state
        whole = vectors_of(hidden, ids, self.encoder.config.eos_token_id, self.whole.weight)
        return F.normalize(self.words(hidden), dim=-1), whole


def word_similarity(words: Tensor, is_word: Tensor, places: Tensor) -> Tensor:
    """Mean cosine of a text's words, each with its best place of a picture: FILIP (arXiv:2111.07783), texts' side.

    Args:
        words: Unit vectors, (text, position, channel).
        is_word: Positions that hold a word, (text, position) bool.
        places: Unit vectors, (picture, place, channel).

    Returns:
        (text, picture).
    """
    pictures = len(places)
    best = (words[is_word] @ places.flatten(0, 1).T).view(-1, pictures, places.shape[1]).amax(-1)
    text = torch.arange(len(words), device=words.device)[:, None].expand_as(is_word)[is_word]
    sums = best.new_zeros(len(words), pictures).index_add(0, text, best)
    return sums / is_word.sum(1, keepdim=True)


def _is_word(ids: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Positions (text, position) that are neither start nor end nor padding."""
    others = torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id], device=ids.device)
    return ~torch.isin(ids, others)


def rarity(pool: Pool) -> np.ndarray:
    """Chance of each scene, by the square root of how seldom its rarest class is met: (scene,), summing to 1."""
    coarse = pool.labels[:, ::4, ::4].reshape(len(pool), -1)
    shown = np.stack([(coarse == label).any(1) for label in range(1, len(CLASSES) + 1)], axis=1)
    weights = np.where(shown, np.maximum(1, shown.sum(0)) ** -0.5, 0).max(1)
    weights[weights == 0] = weights[weights > 0].min()  # things too small for the coarse look
    shares: np.ndarray = weights / weights.sum()
    return shares


def train_text_encoder(pool: Pool, tokenizer: CLIPTokenizer, folder: Path, *, seed: int = 0) -> CLIPTextModel:
    """Train on pairs of the pool with the contrastive losses of CLIP (arXiv:2103.00020) and FILIP, and save.

    CLIP's alone trains the end token: the words of rare classes stayed alike. Scenes of rare classes are drawn more
    often: real text towers have read every word often enough.
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
            places, pictures = towers["picture"](pool.pictures(indices, PICTURE_SIZE).to(DEVICE))
            words, texts = text(ids)
            by_words = word_similarity(words, _is_word(ids, tokenizer), places)
            similarity = text.scale.exp().clamp(max=50) * (texts @ pictures.T)
            scale = text.word_scale.exp().clamp(max=50)
        own = torch.arange(BATCH, device=DEVICE)
        each_way = (similarity, similarity.T, scale * by_words, scale * by_words.T)
        loss = torch.stack([F.cross_entropy(each.float(), own) for each in each_way]).mean()
        optimiser.param_groups[0]["lr"] = warm_cosine(iteration, ITERATIONS, PEAK_RATE, warm=100)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        average.update(iteration)
        matched = {
            "matched": (similarity.argmax(1) == own).float().mean().item(),
            "matched_by_words": (by_words.argmax(1) == own).float().mean().item(),
        }
        log.add(iteration, loss.item(), **matched)
    average.copy_to_model()
    save_tensors(towers["picture"].state_dict(), folder.with_name(PICTURE_TOWER))
    save_tensors({"weight": text.whole.weight, "scale": text.scale.exp().clamp(max=50)}, folder.with_name(TEXT_HEAD))
    text.encoder.eval().save_pretrained(folder)
    return text.encoder
