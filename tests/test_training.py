"""The recipe's denoiser stage: it can be broken off and taken up again, and what it exports is the moving average."""

import numpy as np
import pytest
import torch

from ovam.mini.training.denoiser import DenoiserTraining, Phase, averaged_unet, checkpoint_of
from ovam.mini.training.loop import load_tensors
from ovam.models import text_of


@pytest.fixture
def training(tmp_path):
    clip = text_of("mini")
    latents = {64: torch.randn(8, 4, 16, 16).half()}
    captions = [["a cat on the grass"]] * 8

    def start() -> DenoiserTraining:
        return DenoiserTraining(tmp_path / "unet", latents, captions, clip.tokenizer, clip.encoder)

    return start


def test_a_run_goes_on_where_it_was_broken_off(training, tmp_path):
    training().run((Phase(64, 1, 4),))
    before = load_tensors(checkpoint_of(tmp_path / "unet"))
    resumed = training()
    assert resumed.iteration == 1
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, before[f"raw.{name}"])
        assert torch.equal(resumed.average.values[name], before[f"ema.{name}"])
    resumed.run((Phase(64, 2, 4),))
    _, iterations = averaged_unet(tmp_path / "unet")
    assert iterations == 2


def test_the_average_is_exported_and_lags_behind_the_raw_weights(training, tmp_path):
    training().run((Phase(64, 2, 4),))
    tensors = load_tensors(checkpoint_of(tmp_path / "unet"))
    averaged, _ = averaged_unet(tmp_path / "unet")
    name, value = next(iter(averaged.named_parameters()))
    assert torch.equal(value, tensors[f"ema.{name}"])
    assert not torch.equal(value, tensors[f"raw.{name}"])


def test_ends_and_padding_are_masked_out_of_half_of_the_captions_and_words_never(training):
    run = training()
    _, attended = run._texts(torch.zeros(400, dtype=torch.int64), np.random.default_rng(0))
    words = len(run.tokenizer("a cat on the grass").input_ids) - 1  # and the start, without the end
    masked = attended[~attended[:, -1]]
    assert 120 < len(masked) < 240  # half of the nine tenths that have a caption
    assert (masked == (torch.arange(77) < words)).all()
    assert attended[attended[:, -1]].all()
