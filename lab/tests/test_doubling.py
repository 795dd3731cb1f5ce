"""The autoencoder that shows latents of half the size as whole pictures."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from lab.mini.training import doubling
from lab.mini.training.autoencoder import build_autoencoder
from lab.mini.training.pool import Pool


class _Pool(Pool):
    def __init__(self, images):
        self.images, self.size, self.captions = images, images.shape[1], [[]] * len(images)


def _scenes(count=3):
    """Pictures of large pixels, and latents whose four channels are the mean brightness of each place."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    pool = _Pool(coarse.repeat(8, axis=1).repeat(8, axis=2))
    means = F.avg_pool2d(pool.pictures(np.arange(count), 128), 8).mean(1, keepdim=True).repeat(1, 4, 1, 1)
    return pool, torch.stack([means, means.flip(-1)])


@pytest.mark.parametrize("whole", [False, True])
def test_a_picture_and_its_latents_are_cut_and_mirrored_alike(whole):
    pool, latents = _scenes()
    random = torch.Generator().manual_seed(0)
    for _ in range(6):
        pictures, chosen = doubling._drawn(pool, latents, random, whole=whole)
        assert pictures.shape[-1] == 8 * chosen.shape[-1] == (128 if whole else 64)
        assert torch.allclose(F.avg_pool2d(pictures, 8).mean(1, keepdim=True).expand_as(chosen), chosen, atol=1e-6)


def test_it_begins_with_the_weights_of_the_half_sized_one():
    half = build_autoencoder()
    model = doubling.build_doubled(half)
    own, known = model.state_dict(), half.state_dict()
    for name in ("decoder.conv_in.weight", "decoder.up_blocks.2.resnets.0.conv1.weight", "encoder.conv_out.weight"):
        assert torch.equal(own[name], known[name])
    inner = "resnets.0.conv1.weight"
    assert torch.equal(own[f"encoder.down_blocks.3.{inner}"], known[f"encoder.down_blocks.2.{inner}"])
    shown = model.decode(torch.zeros(1, 4, 4, 4)).sample
    assert shown.shape == (1, 3, 32, 32)
    assert model.encode(shown).latent_dist.mean.shape == (1, 4, 4, 4)


def test_training_moves_both_halves_and_keeps_what_it_gives_back(tmp_path):
    pool, latents = _scenes()
    half = build_autoencoder()
    before = half.state_dict()
    trained = doubling.train_doubled(pool, latents, half, tmp_path / "vae", iterations=8)
    loaded = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert loaded.config.scaling_factor == half.config.scaling_factor
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())
    for name in ("encoder.conv_out.weight", "decoder.conv_in.weight"):
        assert not torch.equal(trained.state_dict()[name], before[name]), name
