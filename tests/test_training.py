"""The recipe's denoiser stage: it can be broken off and taken up again, and what it exports is the moving average."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from ovam.errors import OptionError
from ovam.mini.training import recipe
from ovam.mini.training.denoiser import DenoiserTraining, Phase, averaged, checkpoint_of
from ovam.mini.training.loop import load_tensors, save_tensors
from ovam.mini.training.matching import FOUND_IN, Matching
from ovam.mini.training.pool import Pool
from ovam.mini.training.recipe import take_up
from ovam.mini.training.text_tower import PictureTower, load_picture_tower, picture_tower_of
from ovam.mini.training.texts import Captions
from ovam.mini.training.unet import NoisePrediction, build_unet
from ovam.models import mini_folder, text_of


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
        def make() -> NoisePrediction:
            return NoisePrediction(clip.encoder, tower, clip.tokenizer)

        return DenoiserTraining(tmp_path / "unet", make, latents, _Pool(), clip.tokenizer)

    return start


def averaged_unet(folder):
    model = build_unet()
    return model, averaged(model, folder)


def captions(*of_scenes):
    return Captions(text_of("mini").tokenizer, [[caption] for caption in of_scenes])


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


def test_training_goes_on_from_a_shipped_folder(tmp_path):
    take_up(mini_folder(), tmp_path)
    shipped = load_tensors(mini_folder() / "unet" / "diffusion_pytorch_model.safetensors")
    averaged, iterations = averaged_unet(tmp_path / "unet")
    about = json.loads((mini_folder() / "training.json").read_text())
    assert (iterations, (tmp_path / "history.txt").read_text()) == (about["iterations"], about["history"])
    assert all(torch.equal(value, shipped[name].float()) for name, value in averaged.state_dict().items())
    assert load_picture_tower(tmp_path / "text_encoder", text_of("mini").encoder.config.hidden_size)


def test_a_finished_recipe_says_that_nothing_is_left_before_scenes_are_rendered(tmp_path, monkeypatch):
    work = tmp_path / "work"
    monkeypatch.setattr(recipe, "Pool", lambda *given: pytest.fail("scenes were rendered"))
    match = "stands at iteration 10900 of 10900.*--more"
    with pytest.raises(OptionError, match=match):
        recipe.train(work, start=mini_folder())
    assert (work / "vae" / "config.json").exists()
    with pytest.raises(OptionError, match=match):
        recipe.train(work, start=mini_folder())


def test_what_was_trained_beyond_the_recipe_is_told_as_a_phase_of_its_own():
    one, two = Phase(3, ((64, 4),)), Phase(2, ((128, 2), (64, 4)))
    assert recipe._longer((one, two), 7) == (one, two, Phase(7, two.sizes))
    assert recipe._longer((one, two), 0) == recipe._longer((one, two), -4) == (one, two)  # broken off before the end


def test_a_shipped_folder_is_taken_up_again_where_that_was_broken_off(tmp_path, monkeypatch):
    def broken(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AutoencoderKL, "save_pretrained", broken)
        with pytest.raises(KeyboardInterrupt):
            recipe.train(tmp_path, start=mini_folder())
    checkpoint_of(tmp_path / "unet").unlink()
    with pytest.raises(OptionError, match="stands at iteration"):
        recipe.train(tmp_path, start=mini_folder())


def test_the_average_is_exported_and_lags_behind_the_raw_weights(training, tmp_path):
    training().run((Phase(2, ((64, 4),)),))
    tensors = load_tensors(checkpoint_of(tmp_path / "unet"))
    averaged, _ = averaged_unet(tmp_path / "unet")
    name, value = next(iter(averaged.named_parameters()))
    assert torch.equal(value, tensors[f"ema.{name}"])
    assert not torch.equal(value, tensors[f"raw.{name}"])


def test_ends_and_padding_are_masked_out_of_half_of_the_captions_and_words_never():
    caption, joined = "a cat on the grass", "a cat on the grass, a cat on the grass"
    drawn = captions(*[caption] * 8)
    attended = drawn.texts(torch.zeros(400, dtype=torch.int64), np.random.default_rng(0)).attended
    lengths = [
        len(drawn.tokenizer(text).input_ids) - 1 for text in (caption, joined)
    ]  # with the start, without the end
    masked = attended[~attended[:, -1]]
    assert 100 < len(masked) < 180  # half of the two thirds that have a caption
    alone, two = ((masked == (torch.arange(77) < length)).all(1) for length in lengths)
    assert (alone | two).all()
    assert 0.05 < two.float().mean() < 0.3  # two of thirteen of those that have one
    assert attended[attended[:, -1]].all()


def test_the_denoiser_is_drawn_to_what_the_picture_tower_sees_and_the_tower_is_not(tmp_path):
    torch.manual_seed(0)
    tower = PictureTower(8)
    objective = NoisePrediction(text_of("mini").encoder, tower, text_of("mini").tokenizer)
    unet, alignment = objective.model, objective.alignment
    assert not any(name.startswith("_tower") for name, _ in alignment.named_parameters())
    optimiser = torch.optim.Adam([*unet.parameters(), *alignment.parameters()], 1e-3)
    latents, texts = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 192)
    pictures, losses = torch.rand(2, 3, 64, 64) * 2 - 1, []
    for _ in range(4):
        unet(latents, torch.tensor([10, 500]), texts)
        loss = alignment.loss(objective._features, pictures)
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


def test_captions_are_left_out_joined_or_the_scene_s_own():
    drawn, random = captions("own", "other", "other"), np.random.default_rng(0)
    shares = Counter(drawn.pair(0, random) for _ in range(3000))
    assert shares.keys() == {("", ""), ("own", ""), ("own", "other"), ("own", "own")}
    assert shares["", ""] / 3000 == pytest.approx(0.35, abs=0.03)
    assert shares["own", "other"] / 3000 == pytest.approx(0.1 * 2 / 3, abs=0.02)


def test_words_of_joined_captions_belong_to_their_own_alone():
    tokenizer = text_of("mini").tokenizer
    texts = ["a dog on the grass", "a red car on the grass, a dog on the grass", "a dog next to a dining table"]
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    pairs = [("a dog on the grass", ""), ("a red car on the grass", "a dog on the grass"), ("a dog", "")]
    belongs = captions("a dog").belonging(pairs, ids)
    assert not belongs[[0, 2]].any()  # nothing is told of a caption that stands alone
    tokens = tokenizer.convert_ids_to_tokens(ids[1])
    told = {token: int(value) for token, value in zip(tokens, belongs[1], strict=True) if value}
    assert told == {"red</w>": 1, "car</w>": 1, "dog</w>": -1}


def test_joined_captions_come_in_any_order():
    texts = captions("a car", "a dog").texts(torch.zeros(200, dtype=torch.int64), np.random.default_rng(0))
    joined = texts.belongs[(texts.belongs != 0).any(1)]
    own_first = (joined.argmax(1) < joined.argmin(1)).float().mean()
    assert 0.3 < own_first < 0.7
    assert ((joined == 1).sum(1) == 1).all()
    assert ((joined == -1).sum(1) == 1).all()


def _found(layer, features, text, attended):
    """A token's attention in float64 and plain loops: mean of heads, mean of the highest 16th of the places."""
    query = (features.double() @ layer.to_q.weight.detach().double().T).numpy()
    key = (text.double() @ layer.to_k.weight.detach().double().T).numpy()
    width = query.shape[1] // layer.heads
    attention = np.zeros((len(query), len(key)))
    for head in range(layer.heads):
        channels = slice(head * width, (head + 1) * width)
        for place in range(len(query)):
            scores = np.where(attended, key[:, channels] @ query[place, channels] / np.sqrt(width), -np.inf)
            weights = np.exp(scores - scores.max())
            attention[place] += weights / weights.sum() / layer.heads
    return np.sort(attention, axis=0)[-max(1, len(query) // FOUND_IN) :].mean(0)


def test_words_are_found_where_the_denoiser_s_own_attention_is_highest():
    torch.manual_seed(0)
    unet = build_unet()
    matching = Matching(unet)
    latents, texts = torch.randn(3, 4, 16, 16), 3 * torch.randn(3, 7, 192)
    attended = torch.ones(3, 7, dtype=torch.bool)
    attended[1, 5:] = False
    belongs = torch.tensor([[0] * 7, [0, 1, 1, -1, 0, 0, 0], [0, 0, 1, 0, -1, -1, 0]])
    weights = torch.tensor([0.9, 0.25, 0.5])
    with torch.no_grad():
        unet(latents, torch.tensor([10, 500, 300]), texts, encoder_attention_mask=attended)
        loss = matching.loss(belongs, weights)
    expected = []
    for layer, seen in matching._seen.items():
        own, other = np.zeros(2), np.zeros(2)  # sum of weighted losses, sum of weights
        for sample in (1, 2):
            found = _found(layer, seen.features[sample], texts[sample], attended[sample].numpy())
            for position, told in enumerate(belongs[sample].tolist()):
                weight = weights[sample].item()
                if told == 1:
                    own += np.array([-np.log(found[position]) * weight, weight])
                if told == -1:
                    other += np.array([-np.log(1 - found[position]) * weight, weight])
        expected.append(own[0] / max(own[1], 1) + other[0] / max(other[1], 1))
    assert len(expected) == 4
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)  # measured 3e-8
    assert matching.loss(torch.zeros_like(belongs), weights) == 0


def test_queries_and_keys_learn_which_words_belong():
    torch.manual_seed(0)
    unet = build_unet()
    matching = Matching(unet)
    optimiser = torch.optim.Adam(unet.parameters(), 1e-3)
    latents, texts, losses = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 192), []
    for _ in range(4):
        unet(latents, torch.tensor([10, 500]), texts)
        loss = matching.loss(torch.tensor([[0, 1, 1, 0, -1, 0, 0]] * 2), torch.ones(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5  # measured 1.86 and 0.73
    reached = {name for name, value in unet.named_parameters() if value.grad is not None and value.grad.any()}
    assert "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight" in reached
    assert "up_blocks.2.attentions.1.transformer_blocks.0.attn2.to_q.weight" in reached
