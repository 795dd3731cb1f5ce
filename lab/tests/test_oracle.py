"""The oracles: what they agree on, and the stage of the recipe that trains them."""

import functools
import json

import numpy as np
import pytest
import torch
from torch import nn

import ovam
from lab.mini import imitation, oracle
from lab.mini.measures.generation import agreement, measure_generation
from lab.mini.measures.oracles import rulers
from lab.mini.training import oracles as stage
from lab.mini.training.examples import Examples
from lab.mini.training.loop import Average, load_tensors
from lab.mini.training.pool import Pool
from lab.mini.training.recipe import train
from ovam.errors import ModelNotFoundError, OptionError
from ovam.mini.scenes import LABELS, SIDE, render, seed_of


class _Seeing(nn.Module):
    """Sees one label where a picture is bright and another where it is dark."""

    def __init__(self, bright, dark):
        super().__init__()
        self.bright, self.dark = bright, dark

    def forward(self, pictures):
        scores = torch.zeros(len(pictures), oracle.LABEL_COUNT, *pictures.shape[-2:])
        mean = pictures.mean(1)
        scores[:, self.bright], scores[:, self.dark] = mean, -mean
        return scores


class _LeftAlone(nn.Module):
    """Is sure of label 1 on the left of a picture, and leans to 2 on the right, whatever is shown."""

    def forward(self, pictures):
        scores = torch.zeros(len(pictures), oracle.LABEL_COUNT, *pictures.shape[-2:])
        half = pictures.shape[-1] // 2
        scores[:, 1, :, :half], scores[:, 2, :, half:] = 9.0, 1.0
        return scores


def test_an_oracle_sees_the_same_in_the_mirror():
    labels = oracle.label_maps(_LeftAlone(), np.zeros((3, 4, 8, 3), dtype=np.uint8))
    assert (labels == 1).all()  # left and right are each the sure one's in one of the two looks


@pytest.fixture
def half_bright():
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    images[:, :, :2] = 255
    return images


def test_labels_are_ignored_where_the_oracles_differ(half_bright, monkeypatch):
    cat, dog, grass = LABELS["cat"], LABELS["dog"], LABELS["grass"]
    monkeypatch.setattr(
        oracle, "load_oracles", lambda folder=None: {"a": _Seeing(cat, grass), "b": _Seeing(dog, grass)}
    )
    labels = oracle.agreed_labels(half_bright)
    assert (labels[:, :, :2] == oracle.IGNORE).all()
    assert (labels[:, :, 2:] == 0).all()
    sand = LABELS["sand"]
    monkeypatch.setattr(oracle, "load_oracles", lambda folder=None: {"a": _Seeing(cat, grass), "b": _Seeing(cat, sand)})
    assert set(oracle.agreed_labels(half_bright)[:, :, 2:].ravel()) == {0}, "which ground it is decides of no thing"


def test_agreement_counts_classes_apart_from_grounds():
    cat, grass, sand = LABELS["cat"], LABELS["grass"], LABELS["sand"]
    first, second = (np.array([[[cat, cat, ground, ground]]], dtype=np.uint8) for ground in (grass, sand))
    assert agreement(first, second) == {"classes": 1.0, "labels": 1 / 3, "ignored": 0.0}
    other = np.array([[[cat, LABELS["dog"], grass, grass]]], dtype=np.uint8)
    assert agreement(first, other)["classes"] == pytest.approx((0.5 + 0 + 1) / 3)  # what one alone sees counts
    assert agreement(other, first)["classes"] == pytest.approx((0.5 + 0 + 1) / 3)


def test_what_was_asked_is_looked_for_by_oracle_a(half_bright, monkeypatch):
    cat, dog, grass = LABELS["cat"], LABELS["dog"], LABELS["grass"]
    monkeypatch.setattr(
        "lab.mini.measures.generation.load_oracles", lambda: {"a": _Seeing(cat, grass), "b": _Seeing(dog, grass)}
    )
    pictures = dict.fromkeys(("simple", "pairs", "captions"), half_bright)
    named = {
        "simple": [("cat",), ("dog",)],
        "pairs": [("cat", "dog"), ("cat", "cat")],
        "captions": [("cat", "dog"), ("cat",)],
    }
    found = measure_generation(pictures, named)
    assert found["one_object"] == 0.5
    assert found["by_class"] == {"cat": 1.0, "dog": 0.0}
    assert found["two_objects"] == 0.5
    assert found["captions"] == pytest.approx(2 / 3)
    assert found["by_oracle"]["b"]["by_class"] == {"cat": 0.0, "dog": 1.0}
    assert found["by_oracle"]["b"]["captions"] == pytest.approx(1 / 3)
    assert found["agreement"]["all"]["ignored"] == 0.25


def test_an_oracle_is_held_to_the_classes_that_are_there_and_away_from_outlines():
    exact = np.zeros((2, 12, 12), dtype=np.uint8)
    exact[0, :, 6:] = LABELS["cat"]
    seen = exact.copy()
    seen[0, :, 6] = 0  # a column short, along the outline
    seen[1, 0, 0] = LABELS["dog"]  # true nowhere: it costs the background, and is no class with IoU 0
    found = rulers(seen, exact, exact)
    background = (72 + 143) / (72 + 144 + 12)
    assert found["mIoU"] == pytest.approx((background + 60 / 72) / 2)
    assert found["mIoU by image"] == pytest.approx(((72 / 84 + 60 / 72) / 2 + 143 / 144) / 2)
    assert found["away from outlines"] == pytest.approx(((48 + 143) / (48 + 144) + 1) / 2)
    assert found["ignored"] == 0
    left = rulers(seen, np.where(seen == exact, exact, np.uint8(oracle.IGNORE)), exact)
    assert left["mIoU"] == 1
    assert left["ignored"] == pytest.approx(13 / 288)


@pytest.mark.user_error
def test_oracles_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"oracle 'a' is not in .*: make it with `python -m lab.mini oracles`"):
        oracle.load_oracles(tmp_path)


def test_the_average_holds_running_statistics_as_well():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = Average(model, 0.5)
    model.train()(torch.randn(16, 2) + 5)
    expected = model[1].running_mean.lerp(torch.zeros(3), 2 / 11)  # the decay of the first iteration
    average.update(1)
    average.copy_to_model()
    assert torch.allclose(model[1].running_mean, expected)
    assert int(model[1].num_batches_tracked) == 1


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(stage, "WINDOWS", 2)
    monkeypatch.setattr(stage, "BATCH", 2)
    monkeypatch.setattr(imitation, "STEPS", 4)


def test_training_writes_oracles_that_load_and_keeps_imitations_apart(small_batches, tmp_path):
    pool, judged, pipe = Pool(tmp_path, 4, size=SIDE), Pool(tmp_path, 4, "judging", SIDE), ovam.load("mini")
    assert np.array_equal(judged.images[2], render(seed_of("judging", 2), split="judging").image)
    for i in (0, 3):
        scene = render(seed_of("train", i), split="train")
        assert np.array_equal(pool.images[i], scene.image)
        assert np.array_equal(pool.labels[i], scene.labels)
        assert pool.captions[i][0] == scene.caption
    stage.train_oracles(pool, judged, pipe, tmp_path, tmp_path / "oracles", iterations=2, count=1)
    written = {path.name for path in (tmp_path / "oracles").iterdir()}
    assert written == {"a.safetensors", "b.safetensors", "training.json"}
    (kept,) = tmp_path.glob("imitations-*.npy")
    assert np.load(kept).shape == (3, SIDE, SIDE, 3)
    assert json.loads((tmp_path / "oracles" / "training.json").read_text())["model"] in kept.name
    loaded = oracle.load_oracles(tmp_path / "oracles")
    assert oracle.label_maps(loaded["b"], pool.images[:2]).shape == (2, SIDE, SIDE)
    again = tmp_path / "again"  # goes on from those, for no iteration at all
    stage.train_oracles(
        pool, judged, pipe, tmp_path, again, start=tmp_path / "oracles", iterations=0, count=1, processes=2
    )
    for name in oracle.NAMES:
        one, other = (load_tensors(folder / f"{name}.safetensors") for folder in (tmp_path / "oracles", again))
        assert all(torch.equal(other[key], value) for key, value in one.items())
    assert set(json.loads((again / "training.json").read_text())["start"]) == {"a", "b"}


def test_an_imitation_strays_further_the_more_noise_it_went_through(monkeypatch):
    monkeypatch.setattr(imitation, "STEPS", 3)  # from time steps 667, 334 and 1
    pipe, scene = ovam.load("mini"), render(seed_of("train", 0), split="train", size=64)
    picture, away = oracle.as_input(scene.image[None]), []
    for strength in (None, 0.4, 0.9):
        random = torch.Generator().manual_seed(0)
        made = imitation.imitate(pipe, picture, [scene.caption], strength=strength, random=random)
        assert made.shape == (1, 64, 64, 3)
        away.append(float((oracle.as_input(made) - picture).square().mean().sqrt()))
    assert 1.3 * away[0] < away[1] < away[2]


def test_an_oracle_s_training_goes_on_where_it_was_broken_off(small_batches, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_CHECKPOINT_EVERY", 1)
    pool, checkpoint = Pool(tmp_path, 4), tmp_path / "b.checkpoint.safetensors"
    train = functools.partial(stage._trained, "b", Examples(pool, pool.images, pool.labels), checkpoint)
    train(1)
    before = load_tensors(checkpoint)
    assert int(before["iteration"]) == 1
    done = train(1)  # nothing left to do: what stood there comes back
    assert all(torch.equal(done[name[4:]], value) for name, value in before.items() if name.startswith("ema."))
    train(2)
    after = load_tensors(checkpoint)
    name = "raw.network.decode_head.classifier.weight"
    assert int(after["iteration"]) == 2
    assert 0 < (after[name] - before[name]).abs().max() < 1e-3  # one step, warmed up again, from where it stood


class _Pool(Pool):
    """A pool that is handed its pictures; as many captions, for its length."""

    def __init__(self, images, labels):
        self.images, self.labels, self.captions = images, labels, [[]] * len(images)


def _striped(size=32):
    """Pictures whose brightness tells the label: three scenes of classes 3 and 0, three imitations of 4 and 1."""
    labels = np.zeros((6, size, size), np.uint8)
    labels[:, :, : size // 2 - 4] = 3
    labels[3:] += 1
    images = np.repeat(20 * labels[..., None], 3, -1)
    return Examples(_Pool(images[:3], labels[:3]), images[3:], labels[3:])


def test_examples_keep_their_labels_whether_they_are_whole_or_mirrored():
    pictures, truth = _striped().batch(np.random.default_rng(0), 40, 32)
    assert pictures.shape == (40, 3, 32, 32)
    for picture, own in zip(pictures, truth, strict=True):
        values = {int(label): picture[0, own == label].unique() for label in own.unique()}
        assert len(values) == 2, "the whole width"
        assert all(len(of) == 1 for of in values.values()), "one brightness a label"
    columns = {int((own[0] == 3).nonzero()[0, 0]) for own in truth if (own[0] == 3).any()}
    assert columns == {0, 20}, "some mirrored, some not"


def test_windows_show_their_classes_at_several_scales():
    """Windows of 16 to 32 pixels at a side of 16: brightness goes with the label but where two are averaged."""
    pictures, truth = _striped().batch(np.random.default_rng(0), 60, 16)
    assert truth.shape == (60, 16, 16)
    widths, shown = set(), set()
    for picture, own in zip(pictures, truth, strict=True):
        values = [picture[0, own == label] for label in own.unique()]
        assert all((each - each.median()).abs().median() < 1e-5 for each in values), "one brightness a label"
        shown |= {int(label) for label in own.unique()} & {1, 3, 4}
        widths.add(int((own[0] >= 3).sum()))
    assert shown == {1, 3, 4}
    assert len(widths) > 4


def test_each_class_is_shown_as_often_as_another():
    """One scene of ten has the rare class; it is in half of the examples."""
    labels = np.full((10, 16, 16), 1, np.uint8)
    labels[9] = 2
    images = np.zeros((10, 16, 16, 3), np.uint8)
    examples = Examples(_Pool(images, labels), images, labels)
    _, truth = examples.batch(np.random.default_rng(0), 200, 8)
    assert 0.4 < float((truth == 2).float().mean()) < 0.6


@pytest.mark.user_error
def test_parts_of_another_world_or_seed_are_not_taken_up(tmp_path):
    (tmp_path / "identity.json").write_text('{"world": 1, "seed": 0}')
    with pytest.raises(OptionError, match=r"asked for was \{'world': 3, 'recipe': 2, 'seed': 7\}"):
        train(tmp_path, seed=7)
    (tmp_path / "identity.json").unlink()
    (tmp_path / "vae").mkdir()
    with pytest.raises(OptionError, match="holds parts made for an unknown world"):
        train(tmp_path)


@pytest.mark.user_error
def test_oracles_of_another_model_are_not_passed_off_as_this_one_s(tmp_path):
    (tmp_path / "training.json").write_text('{"model": "another"}')
    with pytest.raises(OptionError, match="holds oracles made otherwise"):
        stage._check_made_alike(tmp_path / "training.json", {"model": "this"})
