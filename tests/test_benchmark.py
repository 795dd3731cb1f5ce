"""The exported benchmark and its scorer, through the command line: files that need nothing of ours to be read."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovam.cli import app
from ovam.mini.scenes import LABELS, PARTS, UNKNOWN_PART, render, seed_of
from ovam.mini.scenes.slices import slices


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    done = call("mini", "scenes", "--split", "test", "--n", 6, "--start", 3, "--output-dir", folder, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scenes"] == 6
    return folder


def test_every_map_is_the_scene_s_own(exported):
    lines = [json.loads(line) for line in (exported / "scenes.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [seed_of("test", i) for i in range(3, 9)]
    for line in lines:
        scene = render(line["seed"], split="test")
        for folder, expected in (
            ("images", scene.image),
            ("labels", scene.labels),
            ("parts", scene.parts),
            ("instances", scene.instances),
        ):
            assert np.array_equal(np.asarray(Image.open(exported / folder / line["file"])), expected)
        assert line["caption"] == scene.caption
        assert [thing["name"] for thing in line["objects"]] == [thing.name for thing in scene.objects]
        assert [tuple(thing["slices"]) for thing in line["objects"]] == [slices(scene, t) for t in scene.objects]
    names = json.loads((exported / "names.json").read_text())
    assert names["labels"] == {"0": "unnamed"} | {str(number): name for name, number in LABELS.items()}
    parts = {"0": "none"} | {str(number): name for name, number in PARTS.items()} | {"255": "unknown"}
    assert names["parts"] == json.loads((exported / "part-names.json").read_text())["labels"] == parts


def test_the_words_to_ask_are_told_with_those_that_no_scene_shows(exported):
    words = json.loads((exported / "words.json").read_text())
    names = json.loads((exported / "names.json").read_text())["labels"].values()
    assert words["classes"]["sofa"] == ["sofa", "couch"]
    assert {*words["classes"], *words["grounds"]} | {"unnamed"} == set(names)
    assert set().union(*words["kinds"].values()) <= words["classes"].keys()
    assert words["parts"] == list(PARTS)
    lines = [json.loads(line) for line in (exported / "scenes.jsonl").read_text().splitlines()]
    assert {thing["colour"] for line in lines for thing in line["objects"]} - {None} <= words["colours"].keys()
    assert {name for line in lines for name in line["distractors"]} <= set(words["unnamed"])
    known = {
        *words["unnamed"],
        *(word for own in (*words["classes"].values(), *words["grounds"].values()) for word in own),
    }
    assert len(words["absent"]) == 10
    assert len(words["nonsense"]) == 8
    assert not known & {*words["absent"], *words["nonsense"]}


def test_slices_are_read_from_the_scene():
    found = set()
    for i in range(150):
        scene = render(seed_of("test", i), split="test", size=64)
        for thing in scene.objects:
            own = set(slices(scene, thing))
            found |= own
            assert len(own & {"novel", "seen"}) == len(own & {"canonical", "counterfactual", "free"}) == 1
            assert ("small" in own) == (thing.area < 0.04)
            assert ("twin" in own) == (sum(other.name == thing.name for other in scene.objects) > 1)
    assert found >= {"novel", "seen", "canonical", "counterfactual", "new-pair", "small", "occluded", "close", "twin"}


def test_perfect_maps_score_1_and_damaged_ones_as_counted_by_hand(exported, tmp_path):
    names = exported / "names.json"
    perfect = call("evaluate", exported / "labels", exported / "labels", "--names", names, "--json")
    result = json.loads(perfect.stdout)
    assert (result["files"], result["miou"], result["boundary F"], result["undecided"]) == (6, 1.0, 1.0, 0.0)

    truth, guess = np.zeros((8, 8), dtype=np.uint8), np.zeros((8, 8), dtype=np.uint8)
    truth[:, 4:], truth[0, 0] = 3, 255
    guess[:, 6:], guess[7, :], guess[0, 0] = 3, 255, 3  # at an ignored pixel whatever is said counts for nothing
    for name, values in (("truth", truth), ("guess", guess)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    done = call("evaluate", tmp_path / "guess.png", tmp_path / "truth.png", "--method", "by hand", "--json")
    result = json.loads(done.stdout)
    bird, ground = 14 / 32, 27 / (31 + 14)  # of 32 pixels 14 are met; 27 of 31, and 14 of the bird's were taken for it
    by_name = {row["class"]: row["IoU"] for row in result["classes"]}
    assert (by_name["bird"], by_name["background"]) == (round(bird, 4), round(ground, 4))
    assert result["miou"] == round((bird + ground) / 2, 4)
    assert result["miou without background"] == result["mean of per-image IoU"] == round(bird, 4)
    assert (result["undecided"], result["ignored"]) == (8 / 64, round(1 / 64, 4))
    assert result["method"] == "by hand"


def test_part_maps_are_scored_where_parts_are_known(exported, tmp_path):
    """Whatever is said of a thing whose parts nobody knows counts for nothing."""
    unknown = 0
    (tmp_path / "parts").mkdir()
    for file in (exported / "parts").iterdir():
        parts = np.asarray(Image.open(file))
        unknown += (parts == UNKNOWN_PART).sum()
        guess = np.where(parts == UNKNOWN_PART, PARTS["wheel"], parts)
        Image.fromarray(guess.astype(np.uint8)).save(tmp_path / "parts" / file.name)
    assert unknown
    names = exported / "part-names.json"
    result = json.loads(call("evaluate", tmp_path / "parts", exported / "parts", "--names", names, "--json").stdout)
    assert result["miou"] == 1.0
    assert result["ignored"] == pytest.approx(unknown / (6 * 128 * 128), abs=1e-4)
    assert [row["class"] for row in result["classes"]] == ["background", *PARTS]


def test_numbers_without_a_name_are_background(tmp_path):
    truth = np.full((4, 4), 27, dtype=np.uint8)  # a ground: no class of Pascal VOC
    Image.fromarray(truth).save(tmp_path / "a.png")
    Image.fromarray(np.zeros_like(truth)).save(tmp_path / "b.png")
    result = json.loads(call("evaluate", tmp_path / "b.png", tmp_path / "a.png", "--json").stdout)
    assert result["miou"] == 1.0


@pytest.mark.user_error
def test_what_can_t_be_compared_is_named(exported, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(small / "200000003.png")
    one = exported / "labels" / "200000003.png"
    cases = (
        ((small / "200000003.png", one), "the ground truth is of shape (128, 128), the prediction of (4, 4)"),
        ((small, exported / "labels"), "200000004.png has no prediction in"),
        ((tmp_path, exported / "labels"), "is no PNG file and no folder with PNG files"),
        ((exported / "images", exported / "labels"), "has colours (mode RGB): expected one number a pixel"),
        ((one, tmp_path / "none.png"), "can't be read"),
        ((one, one, "--names", one), "names file"),
    )
    for arguments, told in cases:
        done = call("evaluate", *arguments)
        assert done.exit_code == 1
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.user_error
def test_scenes_that_no_split_has_are_refused(tmp_path):
    done = call("mini", "scenes", "--split", "tset", "--output-dir", tmp_path / "out")
    assert done.exit_code == 1
    assert "split 'tset' is unknown: expected one of train, validation, test, domain b" in done.stderr
    assert not (tmp_path / "out").exists()
    far = call("mini", "scenes", "--start", 10**8, "--output-dir", tmp_path / "out")
    assert "expected a number from 0 to 99999999" in far.stderr
