"""Pictures shown without any text are asked for every name: those that their captions use are to be found, others not.

Joined captions tell of a few words whether they belong to the picture (`matching`), and the denoiser, which is told
both, may pass that on without looking. Where it is told nothing it must look: what its queries then agree with it has
seen. That is also how a real image is asked later. Captions teach it, never a mask.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from ovam.mini.scenes.captions import with_article
from ovam.mini.scenes.vocabulary import CLASS_WORDS, GROUND_WORDS
from ovam.mini.training.matching import most

WORDS = (*CLASS_WORDS.values(), *GROUND_WORDS.values())
_SURE = 2  # captions of a scene that name a class: one alone may be mistaken


def named(of_scenes: Sequence[Sequence[str]]) -> Tensor:
    """What the captions of each scene say of each class and ground: (scene, name) int8.

    1 is for what is there, -1 for what is not, 0 where the captions leave it open. Who names a ground at all names
    those that are there; things are mostly named by one of six captions at least.

    Args:
        of_scenes: Captions of each scene.
    """
    counts = np.array(
        [[sum(bool(pattern.search(text)) for text in texts) for pattern in _patterns()] for texts in of_scenes]
    ).reshape(-1, len(WORDS))
    things = counts[:, : len(CLASS_WORDS)]
    grounds = counts[:, len(CLASS_WORDS) :]
    of_things = np.where(things >= _SURE, 1, np.where(things == 0, -1, 0))
    of_grounds = np.where(grounds > 0, 1, np.where(grounds.sum(1, keepdims=True) >= _SURE, -1, 0))
    return torch.from_numpy(np.concatenate([of_things, of_grounds], axis=1).astype(np.int8))


def _patterns() -> list[re.Pattern[str]]:
    return [re.compile(rf"\b(?:{'|'.join(words)})\b") for words in WORDS]


def levelled_shares(names: Tensor) -> Tensor:
    """Chance of each scene, by how seldom the rarest class is named that it shows: (scene,), summing to 1.

    The world shows some classes thirty times as often as others, and mini drew the rare ones badly; drawn all as often
    as another, common ones suffered. The chance goes with the root of the rarity, so that it is six times.

    Args:
        names: Of `named`.
    """
    shown = (names[:, : len(CLASS_WORDS)] == 1).float()
    chances = (shown / shown.sum(0).clamp(min=1)).amax(1).sqrt()
    chances = chances.clamp(min=float(chances[chances > 0].min()) if bool((chances > 0).any()) else 1.0)
    return chances / chances.sum()


class Naming:
    """Asks a UNet for names as maps do: each in a prompt of its own, by the share among that prompt's tokens.

    The two finer grids on the way up are told one by one, and the mean of all cross attention besides.
    """

    def __init__(self, unet: UNet2DConditionModel, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self._told = [block.transformer_blocks[0].attn2 for stage in unet.up_blocks[1:] for block in stage.attentions]
        stages = (*unet.down_blocks, *unet.up_blocks)  # of the middle no map is made
        self._layers = [block.transformer_blocks[0].attn2 for stage in stages for block in stage.attentions]
        self._features: dict[Attention, Tensor] = {}
        for layer in self._layers:
            layer.register_forward_pre_hook(self._keep)
        self._prompts = [[_asked(encoder, tokenizer, text, word) for text, word in _ways(words)] for words in WORDS]

    def _keep(self, layer: Attention, args: tuple[Tensor, ...]) -> None:
        self._features[layer] = args[0]

    def loss(self, names: Tensor, weights: Tensor, random: np.random.Generator) -> Tensor:
        """Binary cross entropy of what the UNet's last evaluation found, mean over layers.

        Args:
            names: (sample, name), of `named`; 0 throughout for a sample that is not to be asked.
            weights: (sample,): how much of the picture is to be seen.
            random: Chooses the word and the prompt of each name.
        """
        asked = (names != 0).any(1)
        if not asked.any():
            return weights.new_zeros(())
        states, inside, words = self._drawn(random, weights.device)
        names, weights = names[asked], weights[asked, None]
        there, missing = weights * (names > 0), weights * (names < 0)
        maps = {layer: self._maps(layer, asked, states, inside, words) for layer in self._layers}
        losses = []
        for values in (*(maps[layer] for layer in self._told), _mean(list(maps.values()))):
            found = most(values).clamp(1e-4, 1 - 1e-4)
            misses = -(found.log() * there).sum() / there.sum().clamp(min=1e-6)
            false_finds = -((1 - found).log() * missing).sum() / missing.sum().clamp(min=1e-6)
            losses.append(misses + false_finds)
        return torch.stack(losses).mean()

    def _drawn(self, random: np.random.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """One prompt for each name: states (name, position, width), and which positions it has, and are the word's."""
        chosen = [ways[random.integers(len(ways))] for ways in self._prompts]
        length = max(len(states) for states, _ in chosen)
        states = torch.stack([F.pad(states, (0, 0, 0, length - len(states))) for states, _ in chosen])
        words = torch.stack([F.pad(word, (0, length - len(word))) for _, word in chosen])
        sizes = torch.tensor([[len(states)] for states, _ in chosen])
        return states.to(device), (torch.arange(length) < sizes).to(device), words.to(device)

    def _maps(self, layer: Attention, asked: Tensor, states: Tensor, inside: Tensor, words: Tensor) -> Tensor:
        """Each name's map, mean of heads: (asked sample, pixel, name) in [0, 1]."""
        query = layer.to_q(self._features[layer][asked]).unflatten(-1, (layer.heads, -1))  # sample, pixel, head, width
        key = layer.to_k(states).unflatten(-1, (layer.heads, -1))  # name, position, head, width
        scores = torch.einsum("sphw,nqhw->shpnq", query, key).float() * layer.scale
        shares = scores.masked_fill(~inside, -torch.inf).softmax(-1)
        return (shares * words).sum(-1).mean(1)


def _mean(maps: list[Tensor]) -> Tensor:
    """Mean of maps (sample, pixel, name) of square grids, at the finest one's size."""
    finest = max(values.shape[1] for values in maps)
    side = round(finest**0.5)
    enlarged = []
    for values in maps:
        grid = values.unflatten(1, (round(values.shape[1] ** 0.5), -1)).permute(0, 3, 1, 2)
        enlarged.append(F.interpolate(grid, (side, side), mode="bilinear").flatten(2).transpose(1, 2))
    return torch.stack(enlarged).mean(0)


def _ways(words: Sequence[str]) -> list[tuple[str, str]]:
    """Prompts that ask for one of these words, with the word itself: alone, and within a template."""
    grounds = {word for words in GROUND_WORDS.values() for word in words}
    templates = [f"a photograph of {'the ' + word if word in grounds else with_article(word)}" for word in words]
    return [*zip(words, words, strict=True), *zip(templates, words, strict=True)]


@torch.no_grad()
def _asked(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, text: str, word: str) -> tuple[Tensor, Tensor]:
    """Hidden states of a prompt that ends with the word, (position, width), and which positions are the word's."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    length = len(tokenizer(word, add_special_tokens=False).input_ids)
    places = torch.zeros(ids.shape[1])
    places[-1 - length : -1] = 1
    return encoder(ids.to(encoder.device)).last_hidden_state[0], places
