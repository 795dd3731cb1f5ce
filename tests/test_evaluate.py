"""Rulers against the definitions in plain loops, and against scikit-learn as a second opinion."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score, roc_auc_score

from ovam import errors
from ovam import evaluate as ruler
from ovam.errors import GroundTruthError
from test_errors import assert_refuses

RNG = np.random.default_rng(0)
MASK, SCORES = np.arange(32).reshape(4, 8) % 3 == 0, np.linspace(0, 1, 32).reshape(4, 8)
EXACT = 1e-12  # measured: at most 3e-16; both sides are float64


def masks(count=6, size=16):
    truth = RNG.random((count, size, size)) < RNG.uniform(0.1, 0.6, (count, 1, 1))
    return [(RNG.random((size, size)) < 0.5, mask) for mask in truth]


def test_iou_of_one_mask_pair():
    for predicted, truth in masks():
        assert ruler.binary_iou(predicted, truth) == pytest.approx(jaccard_score(truth.ravel(), predicted.ravel()))
    empty = np.zeros((4, 4), dtype=bool)
    assert math.isnan(ruler.binary_iou(empty, empty))
    assert ruler.binary_iou(empty, ~empty) == 0.0


def test_ignored_pixels_count_for_nothing():
    predicted, truth = masks(1)[0]
    ignore = RNG.random(truth.shape) < 0.3
    kept = [(p, t) for p, t, i in zip(predicted.flat, truth.flat, ignore.flat, strict=True) if not i]
    expected = sum(p and t for p, t in kept) / sum(p or t for p, t in kept)
    assert ruler.binary_iou(predicted, truth, ignore) == pytest.approx(expected, abs=EXACT)


def test_pooling_counts_pixels_and_the_other_mean_counts_images():
    small, large = (np.zeros((8, 8), dtype=bool) for _ in range(2))
    small[0, 0], large[:, :4] = True, True
    pairs = [(small, small), (~large, large)]  # IoU 1 of one pixel, IoU 0 of 64
    assert ruler.pooled_iou(pairs) == pytest.approx(1 / 65)
    assert ruler.mean_per_image_iou(pairs) == pytest.approx(0.5)
    empty = np.zeros((8, 8), dtype=bool)
    assert ruler.mean_per_image_iou([*pairs, (empty, empty)]) == pytest.approx(0.5), "an absent class is absent"
    assert math.isnan(ruler.pooled_iou([(empty, empty)]))


def test_grid_reference_averages_and_enlarges():
    truth = np.zeros((16, 16), dtype=bool)
    truth[4:12, 4:12] = True
    assert ruler.grid_reference(truth, (16, 16)).tolist() == truth.tolist()
    coarse = ruler.grid_reference(truth, (4, 4))  # cells of 4 x 4 pixels, of which the mask fills four
    assert coarse[8, 8]
    assert not coarse[0].any()
    assert coarse[:, ::-1].tolist() == coarse.tolist()
    assert 0.8 < ruler.binary_iou(coarse, truth) < 1.0  # bilinear enlarging rounds the corners


@pytest.mark.parametrize(("size", "grid"), [((8, 12), (4, 3)), ((7, 9), (3, 4)), ((5, 5), (5, 1))])
def test_a_mask_through_a_grid_is_averaged_by_area_and_enlarged_bilinearly(size, grid):
    truth = RNG.random(size) < 0.5
    fine = np.kron(truth, np.ones((grid[0], grid[1])))  # each cell covers whole ones of these small pixels
    cells = fine.reshape(grid[0], size[0], grid[1], size[1]).mean((1, 3))
    found = ruler.through_grid(truth, grid)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = ((at + 0.5) * cell / all_ - 0.5 for at, cell, all_ in zip((row, column), grid, size, strict=True))
            y, x = min(max(y, 0), grid[0] - 1), min(max(x, 0), grid[1] - 1)
            expected = sum(
                cells[i, j] * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                for i in range(grid[0])
                for j in range(grid[1])
            )
            assert found[row, column] == pytest.approx(expected, abs=1e-12)  # measured: 3e-16


def test_confusion_is_counted_like_scikit_learn_does():
    truth, predicted = RNG.integers(0, 5, (2, 12, 12))
    truth[:2] = 255
    found = ruler.Confusion.of(predicted, truth, 5)
    kept = truth != 255
    assert found.counts.tolist() == confusion_matrix(truth[kept], predicted[kept], labels=range(5)).tolist()
    assert found.ignored == 24
    expected = jaccard_score(truth[kept], predicted[kept], average=None, labels=range(5))
    assert found.iou() == pytest.approx(expected, abs=EXACT)
    assert found.mean_iou() == pytest.approx(expected.mean(), abs=EXACT)
    assert found.mean_iou(background=False) == pytest.approx(expected[1:].mean(), abs=EXACT)


def test_confusions_merge_and_absent_labels_are_absent():
    truth, predicted = RNG.integers(0, 3, (2, 8, 8))
    halves = [ruler.Confusion.of(predicted[part], truth[part], 5) for part in (np.s_[:4], np.s_[4:])]
    merged, whole = halves[0] + halves[1], ruler.Confusion.of(predicted, truth, 5)
    assert merged.counts.tolist() == whole.counts.tolist()
    assert np.isnan(whole.iou()[3:]).all()
    assert whole.mean_iou() == pytest.approx(whole.iou()[:3].mean())
    assert math.isnan(ruler.Confusion.empty(3).mean_iou())


def test_a_label_predicted_where_it_is_never_true_is_in_no_mean():
    found = ruler.Confusion.of(np.array([[0, 2]]), np.array([[0, 0]]), 3)
    assert found.iou()[0] == pytest.approx(0.5)
    assert found.iou()[2] == 0
    assert found.mean_iou() == pytest.approx(0.5)


def test_false_positive_area_counts_labels_that_are_true_nowhere():
    truth, predicted = np.array([[0, 0, 1, 1, 255]]), np.array([[2, 4, 1, 3, 2]])
    found = ruler.Confusion.of(predicted, truth, 5)
    assert found.false_positive_area([1, 2, 3]) == 2 / 4, "4 stands for no word, and the last pixel for none"
    assert found.false_positive_area([1]) == 0
    assert math.isnan(ruler.Confusion.empty(3).false_positive_area([1]))


@given(seed=st.integers(0, 10**6), levels=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_average_precision_of_any_scores_and_ties(seed, levels):
    rng = np.random.default_rng(seed)
    truth, score = rng.random((6, 9)) < 0.3, rng.integers(0, levels, (6, 9), dtype=np.uint8)
    truth[0, 0] = True
    expected = average_precision_score(truth.ravel(), score.ravel())
    for kind in (score.astype(float), score):  # unsigned numbers have no negative ones to sort by
        assert ruler.average_precision(truth, kind) == pytest.approx(expected, abs=1e-9)  # measured: 2e-16


def test_a_constant_map_has_the_precision_of_the_truth_s_share():
    truth = RNG.random((16, 16)) < 0.3
    assert ruler.average_precision(truth, np.ones((16, 16))) == pytest.approx(truth.mean())


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_presence_auroc(seed):
    rng = np.random.default_rng(seed)
    present, absent = rng.integers(0, 9, 13) + 1.0, rng.integers(0, 9, 7) * 1.0
    expected = roc_auc_score([1] * 13 + [0] * 7, [*present, *absent])
    assert ruler.presence_auroc(present, absent) == pytest.approx(expected, abs=EXACT)


def test_boundary_band_by_distance_along_rows_and_columns():
    labels = RNG.integers(0, 2, (10, 10)).repeat(3, 0).repeat(3, 1)
    for width in (1, 2, 4):
        expected = np.zeros(labels.shape, dtype=bool)
        for y, x in np.ndindex(labels.shape):
            near = [
                labels[v, u]
                for v, u in np.ndindex(labels.shape)
                if abs(v - y) + abs(u - x) <= width and labels[v, u] != labels[y, x]
            ]
            expected[y, x] = bool(near)
        assert ruler.boundary_band(labels, width).tolist() == expected.tolist()


def test_boundary_f_forgives_what_is_near_and_nothing_else():
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30] = True
    near, far = np.roll(truth, 2, 1), np.roll(truth, 9, 1)
    assert ruler.boundary_f(truth, truth) == 1
    assert ruler.boundary_f(near, truth, tolerance=2.0) == 1
    assert ruler.boundary_f(near, truth, tolerance=1.0) < 0.7
    assert ruler.boundary_f(far, truth, tolerance=2.0) == pytest.approx(ruler.boundary_f(truth, far, tolerance=2.0))
    assert ruler.boundary_f(far, truth, tolerance=2.0) < 0.6
    empty = np.zeros_like(truth)
    assert ruler.boundary_f(empty, truth) == 0
    assert math.isnan(ruler.boundary_f(empty, empty))


def test_boundary_f_of_a_truth_that_is_ringed_by_ignored_pixels():
    """As every object of Pascal VOC is: the outline's place in the ring is open, all else counts."""
    truth, ring = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30], ring[7:33, 7:33] = True, True
    ring &= ~truth
    eroded = np.zeros_like(truth)
    eroded[15:25, 15:25] = True
    assert ruler.boundary_f(truth, truth, ring) == 1
    assert ruler.boundary_f(truth | ring, truth, ring) == 1
    assert ruler.boundary_f(eroded, truth, ring) == 0
    assert ruler.boundary_f(np.roll(truth, 9, 1), truth, ring) < 0.6
    assert math.isnan(ruler.boundary_f(ring, np.zeros_like(truth), ring))


def test_boundary_f_by_hand():
    truth, predicted = np.zeros((9, 20), dtype=bool), np.zeros((9, 20), dtype=bool)
    truth[4, 2:10] = True  # thin lines are their own outlines
    predicted[4, 6:18] = True  # 4 of 12 lie on it, 4 of its 8 are met
    expected = 2 * (4 / 12) * (4 / 8) / (4 / 12 + 4 / 8)
    assert ruler.boundary_f(predicted, truth, tolerance=0.0) == pytest.approx(expected)


def test_calibration_error_in_plain_loops():
    probability, truth = RNG.random((20, 20)), RNG.random((20, 20)) < 0.4
    probability[0, 0] = 1.0
    expected = 0.0
    for lower in range(10):
        inside = [
            (p, t) for p, t in zip(probability.flat, truth.flat, strict=True) if lower <= min(p * 10, 9.999) < lower + 1
        ]
        if inside:
            expected += abs(sum(p for p, _ in inside) - sum(t for _, t in inside)) / probability.size
    assert ruler.calibration_error(probability, truth, bins=10) == pytest.approx(expected, abs=EXACT)
    sure = truth.astype(float)
    assert ruler.calibration_error(sure, truth) == 0


def test_risk_falls_with_coverage_where_confidence_tells_something():
    confidence = np.linspace(0, 1, 1000)
    correct = np.random.default_rng(0).random(1000) < confidence
    risks = ruler.risk_coverage(confidence, correct, np.array([0.1, 0.5, 1.0]))
    order = np.argsort(-confidence)
    assert risks.tolist() == [float((~correct[order[:n]]).mean()) for n in (100, 500, 1000)]
    assert risks[0] < risks[1] < risks[2]


def test_equally_confident_pixels_count_alike_wherever_they_stand():
    correct = np.repeat([True, False], 50)
    assert ruler.risk_coverage(np.ones(100), correct, np.array([0.1, 1.0])).tolist() == [0.5, 0.5]
    confidence = np.where(np.arange(100) < 20, 2, 1).astype(np.uint8)  # unsigned: no negative ones to sort by
    assert ruler.risk_coverage(confidence, correct, np.array([0.2, 0.4])).tolist() == [0.0, 20 * 50 / 80 / 40]


def test_ignored_pixels_are_neither_calibrated_nor_decided():
    probability, truth = np.array([[0.9, 0.1], [0.2, 0.2]]), np.array([[True, False], [True, True]])
    ignore = np.array([[False, False], [True, True]])
    assert ruler.calibration_error(probability, truth, ignore) == pytest.approx(0.1)
    assert ruler.risk_coverage(probability, truth, np.array([0.5]), ignore).tolist() == [0.0]
    assert math.isnan(ruler.calibration_error(probability, truth, np.ones((2, 2), dtype=bool)))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: ruler.boundary_f(MASK.astype(np.uint8), MASK), ["uint8", "expected bool"]),
        (lambda: ruler.binary_iou(MASK, MASK * 255), ["int64", "expected bool"]),
        (lambda: ruler.average_precision(MASK * 255, SCORES), ["expected bool"]),
        (lambda: ruler.calibration_error(SCORES.T, MASK), ["(4, 8)", "(8, 4)"]),
        (lambda: ruler.calibration_error(SCORES + 1, MASK), ["[0, 1]"]),
        (lambda: ruler.risk_coverage(SCORES, MASK, np.array([1.5])), ["1.5", "at most 1"]),
        (lambda: ruler.risk_coverage(SCORES, MASK * 1, np.array([0.5])), ["expected bool"]),
    ],
)
def test_what_is_no_mask_is_refused(ask, message):
    assert_refuses(errors.GroundTruthError, message, ask)


def test_a_score_that_is_no_number_is_refused():
    scores = np.where(MASK, np.nan, SCORES)
    assert_refuses(errors.NotFiniteError, ["NaN"], lambda: ruler.average_precision(MASK, scores))


def test_bootstrap_of_a_plain_sample_has_the_textbook_width():
    rows = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = ruler.paired_bootstrap(rows, [])
    assert found.value == pytest.approx(rows.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * rows.std() / math.sqrt(400), rel=0.1)
    assert found.low < 2.0 < found.high


def test_bootstrap_respects_what_rows_are_nested_in():
    """Ten images of one annotation are no ten annotations: the interval is that of the groups."""
    random = np.random.default_rng(2)
    group = np.repeat(np.arange(8), 50)
    rows = random.normal(0, 1, 8)[group] + random.normal(0, 0.1, 400)
    flat, nested = ruler.paired_bootstrap(rows, []), ruler.paired_bootstrap(rows, [group])
    means = rows.reshape(8, 50).mean(1)
    assert nested.high - nested.low > 3 * (flat.high - flat.low)
    assert nested.high - nested.low == pytest.approx(2 * 1.96 * means.std() / math.sqrt(8), rel=0.2)


def test_bootstrap_of_pooled_counts_takes_any_statistic():
    counts = np.array([[1, 2], [0, 10], [5, 5]])
    found = ruler.paired_bootstrap(counts, [], statistic=lambda rows, draws: rows[:, 0].sum() / rows[:, 1].sum())
    assert found.value == pytest.approx(6 / 17)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert str(found).startswith("0.353 (")


def test_bootstrap_tells_the_draws_of_one_class_apart():
    """A class drawn twice counts twice in the mean over classes: pooled by its name it would count once.

    Three classes of one image each have IoU 0, 0.5 and 1: the mean of three draws is 1/6 if the first comes twice
    with the second, and 1/4 if its draws are merged.
    """
    counts, classes = np.array([[0, 8], [1, 2], [4, 4]]), np.array(["bus", "cat", "dog"])
    seen = []

    def mean_of_pooled(rows, draws):
        assert sorted(set(draws.tolist())) == [0, 1, 2]
        sums = [rows[draws == draw].sum(0) for draw in range(3)]
        seen.append(round(float(np.mean([hit / all_ for hit, all_ in sums])) * 6, 9))
        return seen[-1] / 6

    found = ruler.paired_bootstrap(counts, [classes], statistic=mean_of_pooled, resamples=300)
    assert found.value == pytest.approx(0.5)
    assert set(seen) == set(range(7)), "sixths, all of them"
    plain = ruler.paired_bootstrap(counts[:, 0] / counts[:, 1], [classes], resamples=300)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high)), "of one row a class the pool is the mean"


def test_bootstrap_numbers_the_outermost_draws_of_nested_rows():
    classes, annotations = np.repeat([5, 7], [4, 6]), np.array([0, 0, 1, 1, 0, 0, 0, 1, 1, 1])

    def check(rows, draws):
        assert (np.diff(draws) >= 0).all()
        assert set(draws.tolist()) == {0, 1}
        for draw in (0, 1):
            (name,) = set(rows[draws == draw].tolist())
            assert (draws == draw).sum() == {5: 4, 7: 6}[name]
        return float(len(rows))

    found = ruler.paired_bootstrap(classes, [classes, annotations], statistic=check, resamples=50)
    assert (found.value, found.low, found.high) == (10, pytest.approx(8, abs=0.1), pytest.approx(12, abs=0.1))


@pytest.mark.user_error
def test_what_does_not_belong_together_is_refused():
    whole, half = np.zeros((8, 8), dtype=bool), np.zeros((8, 4), dtype=bool)
    for measure in (ruler.binary_iou, ruler.boundary_f, lambda p, t: ruler.Confusion.of(p, t, 2)):
        with pytest.raises(GroundTruthError, match=r"of shape \(8, 4\), the prediction of \(8, 8\)"):
            measure(whole, half)
    with pytest.raises(GroundTruthError, match="labels from 0 to 9 were found, expected 0 to 4, or 255"):
        ruler.Confusion.of(np.zeros((2, 2), dtype=int), np.array([[0, 9], [255, 1]]), 5)
    with pytest.raises(GroundTruthError, match="at least one pixel"):
        ruler.average_precision(whole, whole.astype(float))
    with pytest.raises(GroundTruthError, match="0 present and 1 absent"):
        ruler.presence_auroc([], [0.5])
    for grid in ((0, 3), (9, 8)):
        with pytest.raises(GroundTruthError, match=rf"grid {grid[0]}x{grid[1]} for a mask of 8x8"):
            ruler.grid_reference(whole, grid)
