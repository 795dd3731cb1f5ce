"""The recipe's denoiser stage: what it learns from, and that it goes on where it was broken off."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from typer.testing import CliRunner

from lab.mini import rendering
from lab.mini.__main__ import app
from lab.mini.training import recipe
from lab.mini.training.chances import SHARES, chances, classes_shown
from lab.mini.training.denoiser import DenoiserTraining, Phase, averaged, checkpoint_of, phase_at
from lab.mini.training.loop import Masters, Peers, load_tensors, save_tensors
from lab.mini.training.recipe import take_up
from lab.mini.training.text_tower import word_similarity
from lab.mini.training.texts import CUT_WIDTH, NONE_SHARE, Captions
from lab.mini.training.unet import build_unet
from ovam.errors import OptionError
from ovam.mini.scenes import CLASSES, LABELS
from ovam.mini.towers import PICTURE_TOWER, TEXT_HEAD
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
        moment = resumed.masters.optimiser.state[value]["exp_avg"]
        assert torch.equal(moment, before[f"exp_avg.{name}"])
        assert moment.stride() == value.stride()  # the fused step pairs numbers by their place in memory
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


@pytest.mark.parametrize("alone", [2, 9])
def test_scenes_come_in_order_from_this_process_or_from_several(alone, monkeypatch):
    monkeypatch.setattr(rendering, "_ALONE", alone)
    assert list(rendering.each_scene(abs, range(-5, 0), "numbers")) == [5, 4, 3, 2, 1]


def test_scenes_of_several_things_and_of_rare_classes_are_drawn_more_often():
    labels = np.zeros((5, 8, 8), dtype=np.uint8)
    labels[:, 0, 0] = [LABELS[name] for name in ("dog", "dog", "cat", "dog", "dog")]
    labels[3:, 4, 4] = [LABELS[name] for name in ("car", "bus")]
    labels[4, 0, 4] = LABELS["cat"]
    shown = classes_shown(labels)
    assert [[CLASSES[i] for i in np.flatnonzero(row)] for row in shown[2:]] == [
        ["cat"],
        ["car", "dog"],
        ["bus", "cat", "dog"],
    ]
    found = chances(shown)
    assert found[3:] == pytest.approx(SHARES[1:])
    assert found[:3].sum() == pytest.approx(SHARES[0])
    assert found[2] == pytest.approx(2 * found[0])  # two scenes show a cat, four a dog


def test_a_scene_is_drawn_by_its_chance(training):
    chance = np.array([0, 0.5, 0, 0, 0.125, 0.125, 0.25, 0])
    run, random = training(chances=chance), np.random.default_rng(0)
    drawn = np.bincount(run.scenes(20000, random), minlength=8) / 20000
    assert drawn == pytest.approx(chance, abs=0.015)  # measured: 0.004
    assert training().scenes(20000, random).max() == 7


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


def test_two_processes_train_one_denoiser_through_sizes(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    take_up(mini_folder(), work)
    checkpoint_of(work / "unet").unlink()
    (work / "identity.json").write_text(json.dumps({"world": recipe.WORLD, "recipe": recipe.RECIPE, "seed": 0}))
    first, second = Phase(2, 64, 4, 1e-3, 1e-3), Phase(1, 128, 2, 1e-3, 1e-3)
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


def test_towers_go_with_the_model_from_folder_to_folder(tmp_path):
    shutil.copytree(mini_folder(), tmp_path / "shipped")
    for name in (PICTURE_TOWER, TEXT_HEAD):
        save_tensors({name: torch.tensor(0.1).half()}, tmp_path / "shipped" / name)
    work = tmp_path / "work"
    work.mkdir()
    take_up(tmp_path / "shipped", work)
    averages = {f"ema.{name}": value for name, value in build_unet().state_dict().items()}  # version 1 has other widths
    save_tensors(averages | {"iteration": torch.tensor(3)}, checkpoint_of(work / "unet"))
    (work / "identity.json").write_text(json.dumps({"world": recipe.WORLD, "recipe": recipe.RECIPE, "seed": 0}))
    recipe.export(work, tmp_path / "out")
    for name in (PICTURE_TOWER, TEXT_HEAD):
        assert load_tensors(work / name)[name].dtype == torch.float32
        assert torch.equal(load_tensors(tmp_path / "out" / name)[name], torch.tensor(0.1).half())


def test_ends_and_padding_are_left_out_where_words_stand_alone_and_words_never():
    texts = ["a cat on the grass", "a red car"]
    drawn = captions(*texts)
    cut = drawn.encoded(np.array([0, 1] * 40), np.random.default_rng(0), words_alone=True)
    tokens = [len(drawn.tokenizer(text).input_ids) for text in texts]
    counts = set(cut.attended.sum(1).tolist())
    assert cut.states.shape == (80, CUT_WIDTH, 192)
    assert counts == {tokens[0] - 1, tokens[1] - 1, 2}, "the start and the words; start and end where nothing is told"
    everything = drawn.encoded(np.array([0, 1]), np.random.default_rng(0), words_alone=False)
    assert everything.attended is None
    assert everything.states.shape == (2, 77, 192)


def test_a_cut_text_has_the_states_of_the_whole_one():
    """The encoder is causal: what stands behind a token does not change it."""
    drawn = captions("a cat on the grass")
    random = np.random.default_rng(1)  # draws the caption, not nothing
    cut = drawn.encoded(np.array([0]), random, words_alone=True)
    whole = drawn.encoded(np.array([0]), np.random.default_rng(1), words_alone=False)
    count = int(cut.attended.sum())
    assert count > 2
    assert torch.allclose(cut.states[0, :count], whole.states[0, :count], atol=1e-5)  # measured 1e-6


def test_a_caption_is_left_out_now_and_then():
    drawn = captions("a cat on the grass")
    texts = drawn.encoded(np.zeros(600, dtype=int), np.random.default_rng(0), words_alone=True)
    # measured: 0.02 off
    assert (texts.attended.sum(1) == 2).float().mean().item() == pytest.approx(NONE_SHARE, abs=0.04)


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
    for arguments, message in cases:
        done = call(*arguments)
        assert done.exit_code == 1
        assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_commands_call_the_recipe(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(
        "lab.mini.training.recipe.train",
        lambda work, start, seed, more, processes: called.append((work, start, seed, more, processes)),
    )
    monkeypatch.setattr("lab.mini.training.recipe.export", lambda *paths: called.append(paths))
    assert call("train", "--work-dir", tmp_path).exit_code == 0
    assert call("export", "--work-dir", tmp_path, "--output-dir", tmp_path / "out").exit_code == 0
    scratch = ("--from-scratch", "--seed", 3, "--more", 9, "--processes", 2)
    assert call("train", "--work-dir", tmp_path, *scratch).exit_code == 0
    assert called == [
        (tmp_path, mini_folder(), 0, 0, 1),
        (tmp_path, tmp_path / "out"),
        (tmp_path, None, 3, 9, 2),
    ]
