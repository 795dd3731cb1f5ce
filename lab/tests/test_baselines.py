"""Baselines that need no model: they find what is plain to see, and are scored as models are."""

import numpy as np
import pytest

from lab.mini.baselines import BASELINES, class_iou
from ovam.mini.scenes import render, seed_of


def test_baselines_score_the_object_above_a_plain_ground():
    """On a world without clutter they must work: a gate that can't be failed is none."""
    image = np.full((64, 64, 3), (90, 160, 70), dtype=np.uint8)
    image[20:44, 20:44] = (200, 40, 40)
    image += np.random.default_rng(0).integers(0, 9, image.shape, dtype=np.uint8)
    truth = np.zeros((64, 64), dtype=bool)
    truth[20:44, 20:44] = True
    for name, baseline in BASELINES.items():
        score = baseline(image)
        assert score.shape == (64, 64)
        assert 0 <= score.min() <= score.max() <= 1
        assert score[truth].mean() > score[~truth].mean() + 0.3, name


def test_class_iou_is_pooled_by_class_and_averaged_over_classes():
    some = [render(seed_of("test", i), split="test") for i in range(10)]
    whole = [np.ones(scene.labels.shape, dtype=bool) for scene in some]
    by_class = {}
    for scene in some:
        for name in {thing.name for thing in scene.objects}:
            hit, total = by_class.get(name, (0, 0))
            by_class[name] = hit + scene.mask(name).sum(), total + scene.labels.size
    assert class_iou(some, whole) == pytest.approx(np.mean([hit / total for hit, total in by_class.values()]))
