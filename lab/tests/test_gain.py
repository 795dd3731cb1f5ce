"""Where a token's gain comes from: rungs that fit what they say, pixels told apart, and contributions that add up."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lab.fits.methods import DEFAULT, WORD
from lab.fits.outcome import Outcome, Row
from lab.gain import ladder, page, table
from lab.gain.finding import KINDS, REST, WHOLE, Detail, Finding, detail_of, kinds_of, parts_of
from ovam.masks.annotations import annotation_of
from ovam.mini.scenes import LABELS, render, seed_of
from ovam.mini.scenes.vocabulary import PARTS, UNKNOWN_PART
from ovam.tokens.objective import Objective, target_on
from synthetic import make_trace
from test_tokens import planted_mask

CHOSEN = {"word": {"threshold": 0.65}}


@pytest.fixture(scope="module")
def trace():
    return make_trace()


def test_the_calibration_alone_lowers_the_loss_and_moves_no_vector(trace):
    mask = planted_mask(trace).numpy()
    target = target_on(trace, annotation_of({"dog": mask}, trace.size), ("dog",))
    alone = ladder.CalibrationAlone([trace], [target], ("dog",), against=("sky",))
    whole = Objective([trace], [target], ("dog",), against=("sky",))
    steps = torch.tensor([0.3, -0.2])
    padded = alone.padded(steps)
    assert torch.equal(whole.unpacked(padded)[0], whole.start)
    assert float(alone.loss(steps, 1.0)) == float(whole.loss(padded, 1.0))
    start, fitted = (ladder.rungs(CHOSEN, 0.7)[i].fit([trace], [mask], "dog")(trace) for i in (3, 4))
    ordered = fitted.ravel()[np.argsort(start.ravel())]
    assert np.diff(ordered).min() > -1e-6  # the map is the same; measured: 0, as scores that differed become alike
    assert np.abs(start - fitted).max() > 1e-4  # measured: 4e-4


def test_the_first_rungs_cut_the_word_s_map_over_its_greatest_value(trace):
    fixed, chosen = (ladder.rungs(CHOSEN, 0.7)[i].fit([trace], [], "dog")(trace) > 0.5 for i in (0, 1))
    word_map = trace.maps('"dog"').resized()["dog"]
    share = (word_map / word_map.max()).numpy()
    assert np.array_equal(fixed, share > ladder.PUBLISHED_THRESHOLD)
    assert np.array_equal(chosen, share > 0.7)
    assert [method.name for method in ladder.rungs(CHOSEN, 0.7)] == list(ladder.RUNGS)


def scene_of(labels, instances=None, parts=None, things=()):
    shape = np.array(labels).shape
    maps = [np.zeros(shape, int) if each is None else np.array(each) for each in (labels, instances, parts)]
    return SimpleNamespace(seed=0, labels=maps[0], instances=maps[1], parts=maps[2], objects=things)


def test_pixels_outside_a_class_are_told_apart():
    names = ("car", "road", "grass", "dog")
    scene = scene_of([[LABELS[name] for name in names] + [0, LABELS["wall"]]])
    shown = [KINDS[kind] if kind >= 0 else None for kind in kinds_of(scene, "car")[0]]
    assert shown == [None, KINDS[0], KINDS[1], KINDS[2], KINDS[3], KINDS[1]]
    found = np.array([[True, True, False, True, True, True]])
    detail = detail_of(found, scene, "car")
    assert (detail.false, detail.there) == ((1, 1, 1, 1), (1, 2, 1, 1))


def test_every_pixel_of_a_rendered_scene_is_of_the_class_or_of_one_kind():
    for index in range(4):
        scene = render(seed_of("validation", index), split="validation")
        name = scene.objects[0].name
        detail = detail_of(np.ones(scene.labels.shape, dtype=bool), scene, name)
        assert detail.false == detail.there
        assert sum(detail.there) + scene.mask(name).sum() == scene.labels.size


def test_parts_are_those_of_whole_things_whose_parts_are_known():
    thing = SimpleNamespace(name="cat", parts=("head",), close=False)
    things = (thing, replace_of(thing, parts=()), replace_of(thing, close=True), replace_of(thing, name="dog"), thing)
    head = PARTS["head"]
    scene = scene_of(
        [[LABELS["cat"]] * 7],
        instances=[[1, 1, 1, 2, 3, 4, 5]],
        parts=[[head, head, 0, 0, head, head, UNKNOWN_PART]],
        things=things,
    )
    found = parts_of(scene, "cat")
    assert {name: int(own.sum()) for name, own in found.items()} == {WHOLE: 3, "head": 2, REST: 1}
    detail = detail_of(np.array([[True, False, True, True, True, True, True]]), scene, "cat")
    assert detail.parts == {WHOLE: (2, 3), "head": (1, 2), REST: (1, 1)}


def replace_of(thing, **changes):
    return SimpleNamespace(**{**vars(thing), **changes})


def finding(*scenes, slices=("canonical ground",)):
    """From (truth, hits, false of each kind, of each kind all, parts) of each scene."""
    rows, details = [], []
    for seed, (truth, hits, false, there, parts) in enumerate(scenes):
        rows.append(Row(seed, hits, truth + sum(false), 0.5, slices))
        details.append(Detail(seed, false, there, parts))
    return Finding(Outcome(tuple(rows), (1, 2), None, 1.0), tuple(details))


THERE = (100, 100, 100, 0)
WORDS = {
    "cat": [finding((100, 40, (60, 0, 0, 0), THERE, {"head": (9, 10), WHOLE: (40, 100)}))],
    "dog": [finding((50, 50, (0, 10, 40, 0), THERE, {}), slices=())],
}
TOKENS = {
    "cat": [
        finding((100, 80, (10, 20, 0, 0), THERE, {"head": (10, 10), WHOLE: (80, 100)})),
        finding((100, 60, (60, 0, 0, 0), THERE, {"head": (8, 10), WHOLE: (60, 100)})),
    ],
    "dog": [
        finding((50, 50, (0, 10, 0, 0), THERE, {}), slices=()),
        finding((50, 40, (0, 10, 40, 0), THERE, {}), slices=()),
    ],
}
FINDINGS = dict.fromkeys(ladder.RUNGS, WORDS) | {DEFAULT: TOKENS}


def test_contributions_sum_to_the_gain_and_are_of_what_changed():
    found = table.table(FINDINGS, resamples=50)
    everything, canonical = found["slices"][table.ALL], found["slices"]["canonical ground"]
    cat, dog = (80 / 130 + 60 / 160) / 2 - 40 / 160, (50 / 60 + 40 / 100) / 2 - 50 / 100
    assert everything["gain"][0] == pytest.approx((cat + dog) / 2)
    assert sum(each[0] for each in everything["components"].values()) == pytest.approx(everything["gain"][0])
    assert found["rungs"][DEFAULT]["step"][0] == pytest.approx(everything["gain"][0])
    assert found["rungs"][DEFAULT]["climbed"] == found["rungs"][DEFAULT]["step"]
    assert canonical["gain"][0] == pytest.approx(cat)
    assert (everything["scenes"], canonical["scenes"]) == (2, 1)
    only_things = found["classes"]["dog"]["components"]
    assert only_things["other named things"] == pytest.approx((50 / 60 - 50 / 100) / 2)
    assert only_things[table.HITS] == pytest.approx((40 / 100 - 50 / 100) / 2)
    assert only_things["habitual ground"] == only_things["other grounds"] == 0


def test_a_contribution_is_the_mean_over_both_orders():
    truth, word, token = 100, (40, 60), (80, 10)
    sums = np.array([[truth], [word[0]], [word[1]], [0], [0], [0], [token[0]], [token[1]], [0], [0], [0], *[[9]] * 4])
    hits = ((80 - 40) / 160 + (80 - 40) / 110) / 2
    ground = (40 / 110 - 40 / 160 + 80 / 110 - 80 / 160) / 2
    assert table.components(sums)[:, 0] == pytest.approx([hits, ground, 0, 0, 0])


def test_shares_are_pooled_over_scenes_that_show_the_kind():
    found = table.table(FINDINGS, resamples=20)
    false = found["slices"][table.ALL]["false"]
    assert "unnamed things" not in false  # no scene shows one
    assert false["habitual ground"][WORD] == pytest.approx((0.6 + 0) / 2)
    assert false["habitual ground"][DEFAULT] == pytest.approx(((0.1 + 0.6) / 2 + 0) / 2)
    assert found["parts"]["head"][WORD] == 0.9
    assert found["parts"]["head"]["difference"][0] == pytest.approx(0.0)
    assert found["parts"][WHOLE]["classes"] == 1
    assert "tail" not in found["parts"]


def test_findings_come_back_from_json():
    one = WORDS["cat"][0]
    assert Finding.from_json(json.loads(json.dumps(one.as_json()))) == one


def test_the_page_gives_no_share_of_a_gain_that_may_be_none():
    stamp = {
        "command": "python -m lab.gain", "date": "2025-01-31", "model": "0123", "threads": 1,
        "processor": "a processor", "versions": {"torch": "2.13.0"}, "quick": True,
    }  # fmt: skip
    about = {"stamp": stamp, "scenes": 3, "split": "test", "draws": 2, "threshold": 0.725, "chosen on": 7}
    figures = table.table(FINDINGS, resamples=20)
    figures["rungs"][DEFAULT]["climbed"] = [0.2, 0.1, 0.3]
    figures["rungs"][WORD]["step"] = [0.05, 0.0, 0.1]
    text = page.write({**about, **figures})
    assert "| normalisation | +0.050 (+0.000 to +0.100) | 25% |" in text
    assert "not for publication" in text
    assert "0.725" in text
    figures["rungs"][DEFAULT]["climbed"][1] = -0.01
    assert "| normalisation | +0.050 (+0.000 to +0.100) |  |" in page.write({**about, **figures})
