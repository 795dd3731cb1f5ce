"""The world: scenes are functions of their seed, maps exact, habits and splits what they are said to be."""

import hashlib
import itertools
import json
from collections import Counter

import numpy as np
import pytest

from ovam.errors import OptionError, SplitError
from ovam.mini.scenes import CLASSES, LABELS, PARTS, UNKNOWN_PART, render, seed_of
from ovam.mini.scenes.animals import ANIMALS
from ovam.mini.scenes.captions import caption
from ovam.mini.scenes.company import FREQUENCIES, HOME, choose_company
from ovam.mini.scenes.difficulty import CALM, HARD, TRAINING
from ovam.mini.scenes.scene import LEAST_VISIBLE, draw
from ovam.mini.scenes.splits import HEADS, HELD_OUT, SEEDS, WORLD, choose_look, looks, may_meet
from ovam.mini.scenes.vocabulary import ABSENT_WORDS, COLOURS, DISTRACTORS, NONSENSE
from test_errors import assert_refuses

SPLITS = ("train", "validation", "test")
EVERY = (*SPLITS, "hard", "domain b", "judging")
DIGESTS = {
    "train": "051e04b618dec9ba",
    "validation": "799816aeadf4ffcf",
    "test": "e804571e57acca01",
    "hard": "9d6fc662049e685e",
    "domain b": "2112930bf0514865",
    "judging": "82fed88b7fe38d08",
}
"""Of the maps and texts of the first three scenes of each split."""


@pytest.fixture(scope="module")
def scenes():
    return {split: [render(seed_of(split, i), split=split) for i in range(60)] for split in EVERY}


def test_a_scene_is_a_function_of_its_seed():
    first, second, other = (render(seed, split="train") for seed in (5, 5, 6))
    for name in ("image", "labels", "parts", "instances"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert (first.caption, first.objects, first.distractors) == (second.caption, second.objects, second.distractors)
    assert not np.array_equal(first.image, other.image)


def test_the_world_is_what_its_version_was():
    """What is trained, cached and scored rests on it: where this fails on purpose, WORLD gets another number."""
    assert WORLD == 3
    for split, expected in DIGESTS.items():
        digest = hashlib.sha256()
        for index in range(3):
            scene = render(seed_of(split, index), split=split)
            for found in (scene.labels, scene.parts, scene.instances):
                digest.update(found.astype("<i8").tobytes())
            digest.update(repr((scene.caption, scene.ground, scene.distractors)).encode())
        assert digest.hexdigest()[:16] == expected, split


@pytest.mark.user_error
def test_what_is_not_in_the_world_is_named():
    scene = render(seed_of("train", 0), split="train")
    assert_refuses(OptionError, ["'lion'", "aeroplane", "sky"], lambda: scene.mask("lion"))
    assert_refuses(OptionError, ["count=4"], lambda: render(0, split="train", count=4))
    assert_refuses(SplitError, ["'tset'", "unknown", "test"], lambda: render(0, split="tset"))


def test_classes_carry_the_ids_of_pascal_voc():
    voc = (
        "aeroplane bicycle bird boat bottle bus car cat chair cow dining_table dog horse motorbike person "
        "potted_plant sheep sofa train tv_monitor"
    ).split()
    assert [name.replace(" ", "_") for name in CLASSES] == voc
    assert [LABELS[name] for name in CLASSES] == list(range(1, 21))


def test_maps_agree_with_each_other_and_with_the_objects(scenes):
    for scene in itertools.chain(*scenes.values()):
        named = {LABELS[thing.name] for thing in scene.objects} | {LABELS[scene.ground], 0}
        assert set(np.unique(scene.labels)) <= named | ({LABELS[scene.backdrop]} if scene.backdrop else set())
        assert not scene.parts[scene.instances == 0].any(), "a part that belongs to no object"
        for i, thing in enumerate(scene.objects, start=1):
            own = scene.instances == i
            assert (scene.labels[own] == LABELS[thing.name]).all()
            assert own.mean() == pytest.approx(thing.area)
            left, top, right, bottom = thing.box_xyxy
            own[top:bottom, left:right] = False
            assert not own.any(), "pixels outside of the object's box"


def test_parts_are_unknown_in_emoji_that_are_more_than_a_head(scenes):
    found = Counter()
    for scene in itertools.chain(*scenes.values()):
        for i, thing in enumerate(scene.objects, start=1):
            own = scene.parts[scene.instances == i]
            how, _, look = thing.look.partition("-")
            kind = "drawn" if how == "drawn" else "head" if look in HEADS else "whole emoji"
            found[kind] += 1
            if kind == "drawn":
                assert set(np.unique(own)) <= {0, *PARTS.values()}
            else:
                # turned by other filters than the picture, the rim may lack a pixel: 1 in 143 things, measured
                assert (own == (PARTS["head"] if kind == "head" else UNKNOWN_PART)).sum() >= own.size - 2
                assert thing.parts == (("head",) if kind == "head" else ())
    assert min(found.values()) > 5
    assert len(found) == 3


def test_parts_lie_where_the_picture_shows_them():
    """A part map that was mirrored or tilted otherwise than its figure would miss the dark tyres."""
    tyres = []
    for scene in (render(seed_of("train", i), split="train") for i in range(800)):
        for i, thing in enumerate(scene.objects, start=1):
            own = (scene.instances == i) & (scene.parts == PARTS["wheel"])
            if thing.name in ("car", "bus") and thing.colour in ("yellow", "white") and own.sum() > 30:
                body = (scene.instances == i) & (scene.parts == 0)
                tyres.append(scene.image[own].mean() < scene.image[body].mean() - 10)
        if len(tyres) > 5:
            break
    assert len(tyres) > 5
    assert all(tyres)


def test_most_objects_are_in_view_and_some_are_covered(scenes):
    visible = np.array([thing.visible for scene in itertools.chain(*scenes.values()) for thing in scene.objects])
    assert (visible >= LEAST_VISIBLE).mean() > 0.98
    assert (visible < 0.8).mean() > 0.03


def test_every_class_is_drawn_in_every_style_with_its_parts():
    rng = np.random.default_rng(0)
    parts = {"cow": "horns", "car": "wheel", "bus": "window", "train": "wheel", "potted plant": "pot", "dog": "head"}
    for name, style in itertools.product(CLASSES, range(5)):
        figure = draw(name, rng, style)
        assert figure.image.size == figure.parts.size
        solid, numbers = np.asarray(figure.image.getchannel("A")) > 0, np.asarray(figure.parts)
        assert not numbers[~solid].any()
        assert figure.colour is None or figure.colour in COLOURS
        if name in parts:
            assert (numbers == PARTS[parts[name]]).sum() > 20


def test_training_keeps_to_its_habits_and_test_breaks_them():
    kept = Counter[tuple[str, bool]]()
    for i in range(4000):
        names, ground = choose_company(np.random.default_rng(i), "train", TRAINING)
        kept.update((name, HOME[name][0] == ground) for name in set(names))
    for name, (_, share) in HOME.items():
        if share >= 0.9:
            found = kept[name, True] / (kept[name, True] + kept[name, False])
            assert 0.85 <= found <= 0.98, name  # of 20,000 scenes: 0.91 to 0.95; rare classes are in few of 4,000
    for split, difficulty in (("test", CALM), ("hard", HARD)):
        companies = [choose_company(np.random.default_rng(i), split, difficulty) for i in range(1000)]
        broken = np.mean([HOME[names[0]][0] != ground for names, ground in companies])
        assert broken == pytest.approx(difficulty.astray, abs=0.05)


def test_the_most_frequent_class_is_three_times_the_rarest():
    assert max(FREQUENCIES.values()) / min(FREQUENCIES.values()) == pytest.approx(3)
    assert set(FREQUENCIES) == set(CLASSES)


def test_pairs_that_are_held_out_meet_in_their_split_alone():
    for split in (*SPLITS, "hard"):
        met = set()
        for i in range(2000):
            names, _ = choose_company(np.random.default_rng(i), split, CALM, 3)
            met |= {frozenset(pair) for pair in itertools.combinations(names, 2)}
        for owner, pairs in HELD_OUT.items():
            assert (pairs <= met) if owner == split.replace("hard", "test") else not (pairs & met)
    assert not may_meet("cat", "sofa", "train")


def test_looks_of_one_split_are_never_another_s():
    for name in CLASSES:
        own = {split: set(looks(name, split)) for split in SPLITS}
        assert [len(own[split]) >= least for split, least in zip(SPLITS, (1, 1, 2), strict=True)] == [True] * 3
        assert not own["train"] & own["validation"]
        assert not own["test"] & (own["train"] | own["validation"])


@pytest.mark.parametrize("close", [False, True])
def test_drawn_looks_differ_between_splits_in_what_is_seen(close):
    rng = np.random.default_rng
    for name in [name for name in CLASSES if not close or name in (*ANIMALS, "person")]:
        pictures = {style: _square(draw(name, rng(3), style, close=close).image) for style in (0, 2, 3, 4)}
        for old, new in ((0, 2), (0, 3), (0, 4), (2, 3), (2, 4)):
            # of 255; measured: 0.8 (close cow) to 60; the same picture would give 0
            assert np.abs(pictures[old] - pictures[new]).mean() > 0.5, (name, old, new)


def _square(image):
    return np.asarray(image.convert("RGBA").resize((64, 64)), dtype=float)


def test_novel_looks_are_shown_outside_training_only(scenes):
    assert not any(thing.novel for scene in scenes["train"] for thing in scene.objects)
    assert all(thing.novel for scene in scenes["domain b"] for thing in scene.objects)
    for split, share in (("validation", 0.2), ("test", 0.2), ("hard", 0.5), ("judging", 0.35)):
        novel = [thing.novel for scene in scenes[split] for thing in scene.objects]
        assert np.mean(novel) == pytest.approx(share, abs=0.15)
        for scene in scenes[split]:
            for thing in scene.objects:
                look = thing.look.partition("-")[2]
                assert thing.novel == (look not in {str(each) for each in looks(thing.name, "train")})


def test_those_who_judge_have_seen_every_look_and_pair_in_scenes_of_their_own():
    shown = {split: set() for split in (*SPLITS, "judging")}
    for name, split in itertools.product(CLASSES, shown):
        rng = np.random.default_rng(0)
        shown[split] |= {(name, choose_look(rng, name, split, 0.5)[0]) for _ in range(200)}
    assert shown["judging"] == shown["train"] | shown["validation"] | shown["test"]
    assert all(may_meet(*pair, "judging") for pairs in HELD_OUT.values() for pair in pairs)
    with pytest.raises(SplitError, match="a scene of 'train' was expected"):
        render(seed_of("judging", 0), split="train")


def test_captions_name_nearly_all_that_is_there(scenes):
    things = [scene for scene in scenes["train"] if len(scene.objects) == 2 and scene.ground == "road"]
    rng = np.random.default_rng(0)
    texts = [caption(rng, scene.objects, scene.ground, scene.backdrop) for scene in things for _ in range(300)]
    grounds = np.mean([text.count(" on the ") > 0 for text in texts])
    both = np.mean([" and " in text or " next to " in text for text in texts])
    assert 0.82 < grounds < 0.88
    assert 0.92 < both < 0.98
    assert all(text == text.lower() for text in texts)


def test_captions_never_name_what_only_the_text_tower_knows_or_nobody(scenes):
    texts = " ".join(scene.caption for scene in itertools.chain(*scenes.values())).replace(",", "").split()
    assert not set(texts) & {*DISTRACTORS, *ABSENT_WORDS, *NONSENSE}


def test_twins_differ_in_colour():
    found = 0
    for i in range(600):
        scene = render(seed_of("train", i), split="train", size=64)
        names = Counter(thing.name for thing in scene.objects)
        for name in (name for name, count in names.items() if count > 1):
            colours = [thing.colour for thing in scene.objects if thing.name == name]
            assert len(set(colours)) == len(colours)
            found += 1
    assert found > 5


def test_hard_scenes_are_crowded_camouflaged_and_small_and_calm_ones_are_not(scenes):
    for split, toys in (("train", (0, 1)), ("test", (0, 2)), ("hard", (3, 8))):
        counts = [len(scene.distractors) for scene in scenes[split]]
        assert (min(counts), max(counts)) == toys
    area = {split: np.mean([thing.area for scene in scenes[split] for thing in scene.objects]) for split in scenes}
    assert area["hard"] < 0.9 * area["test"]
    assert CALM.camouflage <= 0.1 < HARD.camouflage


@pytest.mark.user_error
def test_a_scene_of_another_split_is_refused():
    with pytest.raises(
        SplitError, match=r"seed 200000007 belongs to split 'test', and a scene of 'train' was expected"
    ):
        render(SEEDS["test"][7], split="train")
    with pytest.raises(
        SplitError, match="'training' is unknown: expected one of train, validation, test, domain b, judging, hard"
    ):
        seed_of("training", 0)
    with pytest.raises(SplitError, match="expected a number from 0 to 99999999"):
        seed_of("train", 10**8)
    with pytest.raises(SplitError, match="belongs to no split"):
        render(6 * 10**8, split="test")


def test_the_sprite_sheet_has_every_emoji_of_the_world():
    from importlib import resources

    from ovam.mini.scenes.domain_b import FLUENT, FLUENT_DISTRACTORS
    from ovam.mini.scenes.splits import EMOJI

    fluent = json.loads((resources.files("ovam.mini.scenes") / "fluent.json").read_text())
    assert {name: tuple(row) for name, row in fluent.items()} == {
        **FLUENT,
        "distractor": tuple(FLUENT_DISTRACTORS.values()),
    }
    index = json.loads((resources.files("ovam.mini.scenes") / "sprites.json").read_text())
    for name, splits in EMOJI.items():
        assert set(index[name]) == {text for texts in splits.values() for text in texts}
    assert set(index["distractor"]) == set(DISTRACTORS.values())
