"""The recipe's denoiser stage: what it learns from, and that it goes on where it was broken off."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from typer.testing import CliRunner

from lab.mini.__main__ import app
from lab.mini.training import recipe
from lab.mini.training.alignment import WEIGHT, WHERE, Alignment
from lab.mini.training.denoiser import DenoiserTraining, Phase, averaged, checkpoint_of, phase_at
from lab.mini.training.loop import Masters, Peers, load_tensors, save_tensors
from lab.mini.training.recipe import take_up
from lab.mini.training.text_tower import word_similarity
from lab.mini.training.texts import CUT_WIDTH, NONE_SHARE, Captions
from lab.mini.training.unet import TEXT_WIDTH, build_unet
from ovam.errors import OptionError
from ovam.mini.towers import PictureTower
from ovam.models import mini_folder
from ovam.text_sides import text_of

ONE = Phase(1, 64, 4, 1e-3, 1e-3)


def captions(*of_scenes):
    clip = text_of("mini")
    return Captions([[caption] for caption in of_scenes], clip.tokenizer, clip.encoder)


@pytest.fixture
def training(tmp_path):
    latents = torch.randn(2, 8, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()

    def start(**options) -> DenoiserTraining:
        return DenoiserTraining(tmp_path / "unet", latents, captions(*["a cat on the grass"] * 8), **options)

    return start


def averaged_unet(folder):
    model = build_unet()
    return model, averaged(model, folder)


def test_a_run_goes_on_where_it_was_broken_off(training, tmp_path):
    training().run([Phase(2, 64, 4, 1e-3, 1e-3)], until=1)
    before = load_tensors(checkpoint_of(tmp_path / "unet"))
    resumed = training()
    assert resumed.iteration == 1
    for name, value, average in zip(
        resumed.masters.names, resumed.masters.values, resumed.masters.averages, strict=True
    ):
        assert torch.equal(value, before[f"raw.{name}"])
        assert torch.equal(average, before[f"ema.{name}"])
        assert torch.equal(resumed.masters.optimiser.state[value]["exp_avg"], before[f"exp_avg.{name}"])
    resumed.run([Phase(2, 64, 4, 1e-3, 1e-3)])
    _, iterations = averaged_unet(tmp_path / "unet")
    assert iterations == 2


def test_the_average_is_exported_and_lags_behind_the_raw_weights(training, tmp_path):
    training().run([Phase(2, 64, 4, 1e-3, 1e-3)])
    tensors = load_tensors(checkpoint_of(tmp_path / "unet"))
    averaged, _ = averaged_unet(tmp_path / "unet")
    name, value = next(iter(averaged.named_parameters()))
    assert torch.equal(value, tensors[f"ema.{name}"])
    assert not torch.equal(value, tensors[f"raw.{name}"])


def test_the_loss_is_the_velocity_s_squared_error(training):
    """By the definition, v = a e - s x with a^2 + s^2 = 1 (Salimans and Ho, equation 9), of the very same noise."""
    run, seen = training(), {}

    def forward(noisy, timesteps, states, **options):
        seen.update(noisy=noisy.float(), timesteps=timesteps)
        return type("Output", (), {"sample": torch.zeros_like(noisy)})

    run.model = forward
    loss = run.loss(np.arange(8), np.random.default_rng(0), words_alone=False)
    random = np.random.default_rng(0)
    views = random.integers(2, size=8)
    clean = run.latents[torch.from_numpy(views), torch.arange(8)].double()
    noise = torch.from_numpy(random.standard_normal(clean.shape, dtype=np.float32)).double()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = torch.from_numpy(np.cumprod(1 - betas)[seen["timesteps"].numpy()]).view(-1, 1, 1, 1)
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
    assert loss.item() == pytest.approx(velocity.square().mean().item(), rel=1e-5)  # measured 2e-7
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    assert (seen["noisy"] - noisy).abs().max() < 0.03  # bfloat16 where the processor has it: measured 0.016


def test_time_steps_cover_the_schedule_and_favour_those_where_text_counts(training):
    drawn = training().timesteps(20000, np.random.default_rng(0))
    shares = np.histogram(drawn, bins=5, range=(0, 1000))[0] / 20000
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    assert shares[3] > 2 * shares[0]
    assert shares[3] > 1.4 * shares[4]
    assert shares.min() > 0.09


def test_a_rate_is_warmed_up_after_every_start_and_falls_within_its_phase():
    phases = [Phase(1000, 64, 16, 1e-3, 1e-3), Phase(1000, 96, 8, 1e-3, 0.0)]
    assert phase_at(0, 0, phases) == (phases[0], pytest.approx(1e-3 / 200))
    assert phase_at(999, 999, phases) == (phases[0], pytest.approx(1e-3))
    assert phase_at(1500, 1500, phases) == (phases[1], pytest.approx(5e-4))
    assert phase_at(1500, 99, phases) == (phases[1], pytest.approx(2.5e-4))


def test_processes_that_train_together_step_as_one(tmp_path):
    """Two halves of a batch, their gradients averaged, move the weights as the whole batch does."""
    torch.manual_seed(0)
    inputs, start = torch.randn(8, 3), nn.Linear(3, 2)

    def masters():
        model = nn.Linear(3, 2)
        model.load_state_dict(start.state_dict())
        return model, Masters(model, 0.9)

    class Recorded(Peers):
        """Stands for two processes: what the first one hands in is kept for the second."""

        def __init__(self, others):
            super().__init__(0, 2)
            self.others = others

        def average(self, values):
            for value, other in zip(values, self.others, strict=True):
                value.copy_((value + other) / 2)

    whole, one = masters()
    (whole(inputs.to(one.dtype)).float().square().mean()).backward()
    one.step(1e-2, 1, Peers())
    second, _ = masters()
    second(inputs[4:].to(one.dtype)).float().square().mean().backward()
    first, half = masters()
    first(inputs[:4].to(one.dtype)).float().square().mean().backward()
    half.step(1e-2, 1, Recorded([parameter.grad for parameter in second.parameters()]))
    for value, expected in zip(half.values, one.values, strict=True):
        assert torch.allclose(value, expected, atol=2e-4)  # a step is 1e-2; measured 2e-5 with bfloat16
        assert not torch.equal(value, dict(start.named_parameters())[half.names[0]]) or value.ndim == 1


def test_a_text_is_as_near_as_its_words_best_places():
    random = torch.Generator().manual_seed(0)
    words, places = (nn.functional.normalize(torch.randn(3, n, 4, generator=random), dim=-1) for n in (5, 6))
    is_word = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 0]]).bool()
    found = word_similarity(words, is_word, places)
    for text, picture in np.ndindex(3, 3):
        best = [max(float(word @ place) for place in places[picture]) for word in words[text][is_word[text]]]
        assert found[text, picture].item() == pytest.approx(np.mean(best), abs=1e-6)  # measured 6e-8


def test_features_are_drawn_to_the_places_that_they_show(tmp_path):
    torch.manual_seed(0)
    save_tensors(PictureTower(TEXT_WIDTH).state_dict(), tmp_path / "tower")
    model = build_unet()
    aligned = Alignment(model, tmp_path / "tower", tmp_path / "heads", TEXT_WIDTH)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    model(torch.randn(2, 4, 16, 16), 500, torch.randn(2, 5, TEXT_WIDTH))
    seen = dict(aligned.seen)
    assert [seen[name].shape[-1] for name in WHERE] == [8, 16]
    loss = aligned.loss(pictures)
    places = aligned.tower(pictures)[0].mT.unflatten(-1, (8, 8))
    terms = []
    for name, head in zip(WHERE, aligned.heads, strict=True):
        feature = seen[name]
        wide = nn.functional.interpolate(places, feature.shape[-2:], mode="bilinear")
        cosines = nn.functional.cosine_similarity(head(feature.flatten(2).mT), wide.flatten(2).mT, dim=-1)
        terms.append(1 - cosines.mean().item())
    assert loss.item() == pytest.approx(WEIGHT * np.mean(terms), abs=0.01)  # bfloat16 where there is: measured 1e-4
    loss.backward()
    before = aligned.heads[0][0].weight.clone()
    aligned.step(Peers())
    aligned.save()
    again = Alignment(build_unet(), tmp_path / "tower", tmp_path / "heads", TEXT_WIDTH)
    assert not torch.equal(aligned.heads[0][0].weight, before)
    assert torch.equal(again.heads[0][0].weight, aligned.heads[0][0].weight)
    assert model.get_submodule("down_blocks.0.resnets.0.conv1").weight.grad.abs().sum() > 0


def test_the_tower_sees_the_view_that_the_denoiser_sees(training, tmp_path):
    class Pool:
        def pictures(self, scenes, size):
            assert size == 4 * 8  # of latents of 8 x 8
            return torch.arange(size).float().expand(len(scenes), 3, size, size)

    save_tensors(PictureTower(TEXT_WIDTH).state_dict(), tmp_path / "tower")
    run = training(aligned=(tmp_path / "tower", Pool()))
    plain, mirrored = run._pictures(np.array([0, 1]), torch.tensor([0, 1]))
    assert (plain[0, 0, 0].item(), mirrored[0, 0, 0].item()) == (0, 31)
    whole = run.loss(np.arange(8), np.random.default_rng(0), words_alone=False).item()
    assert 0 < whole - run.error < 2 * WEIGHT


def test_two_processes_train_one_denoiser_through_sizes(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    take_up(mini_folder(), work)
    checkpoint_of(work / "unet").unlink()
    (work / "identity.json").write_text(json.dumps({"world": recipe.WORLD, "recipe": recipe.RECIPE, "seed": 0}))
    first, second = Phase(2, 64, 4, 1e-3, 1e-3), Phase(1, 96, 2, 1e-3, 1e-3)
    recipe.train(work, scenes=4, phases=[first], compiled=False)
    (work / "meeting.partial").write_bytes(b"of a run that was broken off")
    recipe.train(work, scenes=4, phases=[first, second], processes=2, compiled=False)
    _, iterations = averaged_unet(work / "unet")
    assert iterations == 3


@pytest.mark.user_error
def test_a_finished_recipe_says_that_nothing_is_left_before_scenes_are_rendered(training, tmp_path, monkeypatch):
    training().run([ONE])
    (tmp_path / "identity.json").write_text(json.dumps({"world": recipe.WORLD, "recipe": recipe.RECIPE, "seed": 0}))
    monkeypatch.setattr(recipe, "Pool", lambda *given, **named: pytest.fail("scenes were rendered"))
    with pytest.raises(OptionError, match=r"stands at iteration 1 of 1.*--more"):
        recipe.train(tmp_path, phases=[ONE])


@pytest.mark.user_error
@pytest.mark.parametrize("identity", ['{"world": 1, "seed": 0}', '{"world": 3, "recipe": 1, "seed": 0}'])
def test_parts_of_another_world_or_recipe_are_refused(tmp_path, identity):
    (tmp_path / "identity.json").write_text(identity)
    with pytest.raises(OptionError, match=r"asked for was \{'world': 3, 'recipe': 2, 'seed': 0\}"):
        recipe.train(tmp_path)


def test_what_was_trained_beyond_the_recipe_is_told_as_a_phase_of_its_own():
    one, two = Phase(3, 64, 4, 1e-3, 1e-3), Phase(2, 96, 2, 1e-3, 1e-5)
    assert recipe._longer((one, two), 7) == (one, two, Phase(7, 96, 2, 1e-5, 1e-5))
    assert recipe._longer((one, two), 0) == recipe._longer((one, two), -4) == (one, two)  # broken off before the end
    assert recipe._stretches((one, one, two)) == [(64, 6), (96, 8)]


def test_a_shipped_folder_is_taken_up_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AutoencoderKL, "save_pretrained", broken)
        with pytest.raises(KeyboardInterrupt):
            take_up(mini_folder(), tmp_path)
    assert not (tmp_path / "vae").exists()
    take_up(mini_folder(), tmp_path)
    shipped = load_tensors(mini_folder() / "unet" / "diffusion_pytorch_model.safetensors")
    kept = load_tensors(checkpoint_of(tmp_path / "unet"))
    about = json.loads((mini_folder() / "training.json").read_text())
    assert (int(kept["iteration"]), (tmp_path / "history.txt").read_text()) == (about["iterations"], about["history"])
    assert all(torch.equal(kept[f"ema.{name}"], value.float()) for name, value in shipped.items())


def test_ends_and_padding_are_left_out_of_every_second_batch_and_words_never():
    texts = ["a cat on the grass", "a red car"]
    drawn = captions(*texts)
    told = drawn.told(np.array([0, 1] * 40), np.random.default_rng(0), words_alone=True)
    tokens = [len(drawn.tokenizer(text).input_ids) for text in texts]
    counts = set(told.attended.sum(1).tolist())
    assert told.states.shape == (80, CUT_WIDTH, 192)
    assert counts == {tokens[0] - 1, tokens[1] - 1, 2}, "the start and the words; start and end where nothing is told"
    everything = drawn.told(np.array([0, 1]), np.random.default_rng(0), words_alone=False)
    assert everything.attended is None
    assert everything.states.shape == (2, 77, 192)


def test_a_cut_text_has_the_states_of_the_whole_one():
    """The encoder is causal: what stands behind a token does not change it."""
    drawn = captions("a cat on the grass")
    random = np.random.default_rng(1)  # draws the caption, not nothing
    cut = drawn.told(np.array([0]), random, words_alone=True)
    whole = drawn.told(np.array([0]), np.random.default_rng(1), words_alone=False)
    count = int(cut.attended.sum())
    assert count > 2
    assert torch.allclose(cut.states[0, :count], whole.states[0, :count], atol=1e-5)  # measured 1e-6


def test_a_caption_is_left_out_now_and_then():
    drawn = captions("a cat on the grass")
    told = drawn.told(np.zeros(3000, dtype=int), np.random.default_rng(0), words_alone=True)
    assert (told.attended.sum(1) == 2).float().mean().item() == pytest.approx(NONE_SHARE, abs=0.02)


@pytest.mark.user_error
def test_a_folder_without_a_trained_denoiser_is_not_exported(tmp_path):
    with pytest.raises(OptionError, match="lacks vae, text_encoder, tokenizer"):
        recipe.export(tmp_path, tmp_path / "out")
    assert not Path(tmp_path / "out").exists()


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_commands_say_what_is_not_there_before_scenes_are_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.mini.training.recipe.Pool", lambda *given: pytest.fail("scenes were rendered"))
    (tmp_path / "file").write_text("")
    cases = (
        (("export", "--work-dir", tmp_path / "none", "--output-dir", tmp_path / "out"), "none lacks vae"),
        (("train", "--work-dir", tmp_path / "file"), "file is a file"),
        (
            ("oracles", "--work-dir", tmp_path / "w", "--output-dir", tmp_path, "--start", tmp_path),
            "oracle 'a' is not in",
        ),
    )
    for arguments, told in cases:
        done = call(*arguments)
        assert done.exit_code == 1
        assert told in done.stderr
    assert not (tmp_path / "out").exists()


def test_commands_call_the_recipe(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(
        "lab.mini.training.recipe.train",
        lambda work, start, seed, more, processes: called.append((work, start, seed, more, processes)),
    )
    monkeypatch.setattr("lab.mini.training.recipe.export", lambda *a, with_tower: called.append((*a, with_tower)))
    assert call("train", "--work-dir", tmp_path).exit_code == 0
    assert call("export", "--work-dir", tmp_path, "--output-dir", tmp_path / "out").exit_code == 0
    scratch = ("--from-scratch", "--seed", 3, "--more", 9, "--processes", 2)
    assert call("train", "--work-dir", tmp_path, *scratch).exit_code == 0
    assert called == [
        (tmp_path, mini_folder(), 0, 0, 1),
        (tmp_path, tmp_path / "out", False),
        (tmp_path, None, 3, 9, 2),
    ]
