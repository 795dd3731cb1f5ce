"""The recipe's denoiser stage: it can be broken off and taken up again, and what it exports is the moving average."""

from collections import Counter

import numpy as np
import pytest
import torch

from ovam.mini.training.alignment import Alignment
from ovam.mini.training.denoiser import DenoiserTraining, Phase, averaged_unet, build_unet, checkpoint_of
from ovam.mini.training.loop import load_tensors, save_tensors
from ovam.mini.training.pool import Pool
from ovam.mini.training.text_tower import PictureTower, load_picture_tower, picture_tower_of
from ovam.models import text_of


class _Pool(Pool):
    """Pictures of noise, all called the same."""

    def __init__(self):
        self.captions = [["a cat on the grass"]] * 8

    def pictures(self, indices, size):
        return torch.rand(len(indices), 3, size, size) * 2 - 1


@pytest.fixture
def training(tmp_path):
    clip = text_of("mini")
    latents = {64: torch.randn(8, 4, 16, 16).half()}
    tower = PictureTower(8)

    def start() -> DenoiserTraining:
        return DenoiserTraining(tmp_path / "unet", latents, _Pool(), clip.tokenizer, clip.encoder, tower)

    return start


def test_a_run_goes_on_where_it_was_broken_off(training, tmp_path):
    training().run((Phase(1, ((64, 4),)),))
    before = load_tensors(checkpoint_of(tmp_path / "unet"))
    resumed = training()
    assert resumed.iteration == 1
    for name, value in resumed.alignment.named_parameters():
        assert torch.equal(value, before[f"align.{name}"])
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, before[f"raw.{name}"])
        assert torch.equal(resumed.average.values[name], before[f"ema.{name}"])
    resumed.run((Phase(2, ((64, 4),)),))
    _, iterations = averaged_unet(tmp_path / "unet")
    assert iterations == 2


def test_the_average_is_exported_and_lags_behind_the_raw_weights(training, tmp_path):
    training().run((Phase(2, ((64, 4),)),))
    tensors = load_tensors(checkpoint_of(tmp_path / "unet"))
    averaged, _ = averaged_unet(tmp_path / "unet")
    name, value = next(iter(averaged.named_parameters()))
    assert torch.equal(value, tensors[f"ema.{name}"])
    assert not torch.equal(value, tensors[f"raw.{name}"])


def test_ends_and_padding_are_masked_out_of_half_of_the_captions_and_words_never(training):
    run = training()
    _, attended = run._texts(torch.zeros(400, dtype=torch.int64), np.random.default_rng(0))
    caption, joined = "a cat on the grass", "a cat on the grass, a cat on the grass"
    lengths = [len(run.tokenizer(text).input_ids) - 1 for text in (caption, joined)]  # with the start, without the end
    masked = attended[~attended[:, -1]]
    assert 120 < len(masked) < 240  # half of the nine tenths that have a caption
    alone, two = ((masked == (torch.arange(77) < length)).all(1) for length in lengths)
    assert (alone | two).all()
    assert 0.2 < two.float().mean() < 0.45  # a third of those that have one
    assert attended[attended[:, -1]].all()


def test_the_denoiser_is_drawn_to_what_the_picture_tower_sees_and_the_tower_is_not(tmp_path):
    torch.manual_seed(0)
    unet, tower = build_unet(), PictureTower(8)
    alignment = Alignment(unet, tower)
    assert not any(name.startswith("_tower") for name, _ in alignment.named_parameters())
    optimiser = torch.optim.Adam([*unet.parameters(), *alignment.parameters()], 1e-3)
    latents, texts = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 192)
    pictures, losses = torch.rand(2, 3, 64, 64) * 2 - 1, []
    for _ in range(4):
        unet(latents, torch.tensor([10, 500]), texts)
        loss = alignment.loss(pictures)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1  # measured 1.01 and 0.77
    reached = [name for name, value in unet.named_parameters() if value.grad is not None and value.grad.any()]
    assert any(name.startswith("up_blocks.1.attentions.1") and "attn2.to_k" in name for name in reached)
    assert all(value.grad is None for value in tower.parameters())


def test_the_picture_tower_comes_back_from_half_precision(tmp_path):
    tower = PictureTower(8)
    halves = {name: value.half() for name, value in tower.state_dict().items()}
    save_tensors(halves, picture_tower_of(tmp_path / "text_encoder"))
    again = load_picture_tower(tmp_path / "text_encoder", 8)
    picture = torch.rand(1, 3, 64, 64)
    assert [grid.shape[-1] for grid in again.grids(picture)] == [32, 16, 8, 4]
    assert torch.allclose(again(picture), tower(picture), atol=1e-2)  # measured 4e-4


def test_captions_are_left_out_foreign_joined_or_the_scene_s_own(training):
    run = training()
    run.pool.captions = [["own"], ["other"], ["other"]]
    random = np.random.default_rng(0)
    shares = Counter(run._text(0, random) for _ in range(3000))
    assert shares.keys() == {"", "own", "other", "own, other", "other, own", "own, own"}
    assert shares[""] / 3000 == pytest.approx(0.1, abs=0.02)
    assert shares["other"] / 3000 == pytest.approx(0.15 * 2 / 3, abs=0.02)
    assert (shares["own, other"] + shares["other, own"]) / 3000 == pytest.approx(0.3 * 2 / 3, abs=0.03)
    assert shares["own, other"] == pytest.approx(shares["other, own"], rel=0.2)
