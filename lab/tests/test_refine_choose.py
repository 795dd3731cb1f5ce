"""How defaults are chosen on validation scenes: the threshold by IoU, presence by a logistic regression."""

import numpy as np
import pytest
import torch

from lab.refine.cases import Case
from lab.refine.choose import DEVELOPMENT, WEIGHTS, best_of, calibration_of, gain_fit, presence_fit, with_gains
from ovam.maps.gains import WordGains
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.mini.scenes import CLASSES
from ovam.prompt import Span
from ovam.refine.options import RefineOptions


def test_the_threshold_is_where_the_mean_iou_of_the_classes_is_greatest():
    truth = np.zeros((4, 10), dtype=bool)
    truth[:, :5] = True
    ramp = np.broadcast_to(np.linspace(1, 0, 10), truth.shape)  # 0.556 inside and 0.444 outside of the border
    soft = {DEVELOPMENT[0]: [(ramp, truth)], DEVELOPMENT[1]: [(ramp, truth)], DEVELOPMENT[2]: []}
    found = best_of(soft)
    assert found["iou"] == 1
    assert 0.444 <= found["threshold"] < 0.556


@pytest.mark.parametrize("scale", [4.0, 12.0])
def test_the_scale_of_scores_is_the_one_that_truths_were_drawn_with(scale):
    random, border = np.random.default_rng(0), 0.6
    pairs = []
    for _ in range(4):
        score = random.random((100, 100))
        pairs.append((score, random.random(score.shape) < 1 / (1 + np.exp(-scale * (score - border)))))
    found = calibration_of({"cat": pairs[:1], "dog": pairs[1:]}, border)
    assert found["border"] == border
    assert found["scale"] == pytest.approx(scale, rel=0.05)  # measured 0.017


@pytest.mark.parametrize("border", [0.2, 0.7])
def test_presence_of_half_is_where_words_that_are_there_part_from_others(border):
    random = np.random.default_rng(0)
    cases = []
    for number in range(60):
        there = {name for name in ("cat", "dog") if random.random() < 0.5}
        level = {name: border + (0.1 if name in there else -0.1) + random.normal(0, 0.05) for name in ("cat", "dog")}
        maps = torch.tensor([[[level[name]] * 4] * 4 for name in ("cat", "dog")], dtype=torch.float32)
        spans = (Span("cat", (0,)), Span("dog", (1,)))
        truth = {name: np.ones((4, 4), dtype=bool) for name in there}
        of = AttentionMaps(maps.clamp(0.01, 0.99), ("cat", "dog"), spans, (4, 4), {})
        cases.append(Case(number, truth, np.zeros((4, 4), dtype=np.int64), {}, of))
    found = presence_fit(cases)
    assert found["auroc"] > 0.95
    centre = 1 / (1 + np.exp(found["offset"] / found["scale"]))  # where the probability is a half
    assert centre == pytest.approx(border, abs=0.04)


def test_the_weight_of_gains_is_the_one_with_the_best_masks():
    """Attention knows nothing here and gains know all, so the greatest weight is best."""
    random, cases = np.random.default_rng(0), []
    for number in range(4):
        name = DEVELOPMENT[number % 2]
        truth = np.zeros((16, 16), dtype=bool)
        truth[4:12, 4:12] = True
        maps = torch.from_numpy(random.random((len(CLASSES), 16, 16))).float()
        spans = tuple(Span(each, (i,)) for i, each in enumerate(CLASSES))
        among = {"16x16": SelfAttention((16, 16), torch.eye(256))}
        of = AttentionMaps(maps, CLASSES, spans, (16, 16), {}, self_attention=among)
        gain = torch.zeros_like(maps)
        gain[CLASSES.index(name)] = 0.3 * torch.from_numpy(truth)
        cases.append(Case(number, {name: truth}, truth.astype(np.int64), {}, of, gains=WordGains(CLASSES, gain)))
    found = with_gains(cases, RefineOptions(method="powers", products=1, exponent=1.0))
    assert found["weight"] == max(WEIGHTS)
    best = found["tried"][-1]
    assert best["iou"] == 1
    assert found["words"]["refined, gains"]["border"] == pytest.approx(best["threshold"])
    assert found["words"]["plain, gains"]["scale"] > 1
    presence = gain_fit(cases)
    assert presence["auroc"] == 1
    lead = next(case.gains.lead(name) for case in cases for name in case.truth)
    middle = -presence["offset"] / presence["scale"]  # where the probability is a half
    assert 0 < middle < lead
