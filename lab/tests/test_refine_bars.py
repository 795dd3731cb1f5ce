"""The bars of refinement: rows, thresholds and label maps on planted maps, and verdicts on made-up figures."""

import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lab.mini.oracle import IGNORE
from lab.refine import bars, page, verdicts
from lab.refine.__main__ import known
from lab.refine.cases import Case, other_words
from lab.refine.figures import gain, iou, slices_of, steps_of
from lab.refine.labelled import (
    ALL,
    GATED,
    GATES,
    GIVEN,
    WITH_GAINS,
    auroc,
    best_gate,
    label_maps,
    levels_of,
    of_gains,
    thresholds_of,
    with_thresholds,
)
from lab.refine.split import EDGES, MEAN, UNCUT, cut_along, edges_of, figures_of, touching
from lab.refine.steps import (
    BLIND,
    CRF,
    GAINED,
    GAINED_CRF,
    GRID,
    MODEL_FREE,
    REFINED,
    TOKEN,
    TOKEN_CRF,
    TOKEN_REFINED,
    TOKENS,
    WORD,
    WORDS,
    Row,
    choose_thresholds,
    rows_of,
    scores_of,
)
from ovam.maps.gains import WordGains
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.maps.thresholds import Thresholds
from ovam.masks.masks import calibrated
from ovam.masks.options import MaskOptions
from ovam.masks.presence import presences
from ovam.mini.scenes import CLASSES, LABELS
from ovam.prompt import Span
from ovam.stored_picture import encoded
from ovam.tokens.thresholds import TRIED

SIZE, CELL = 32, 4
AT = {"aeroplane": np.s_[2:14, 4:20], "bicycle": np.s_[18:30, 8:28]}
"""Where the things of a planted picture are; both are classes of development or not, in turn."""


def maps_of(levels, seed, picture):
    """Maps of some words, with these levels inside and outside of its thing; neighbours attend to each other."""
    random, grid = np.random.default_rng(seed), SIZE // CELL
    maps = random.normal(0, 0.02, (len(levels), grid, grid))
    for i, (name, (inside, outside)) in enumerate(levels.items()):
        mask = np.zeros((SIZE, SIZE))
        if name in AT:
            mask[AT[name]] = 1
        cells = mask.reshape(grid, CELL, grid, CELL).mean((1, 3))
        maps[i] += outside + (inside - outside) * cells
    places = np.indices((grid, grid)).reshape(2, -1)
    near = np.exp(-((places[:, :, None] - places[:, None]) ** 2).sum(0))
    weights = torch.from_numpy(near / near.sum(1, keepdims=True)).float()
    return AttentionMaps(
        torch.from_numpy(maps).float().clamp(0.001, 0.999),
        tuple(levels),
        tuple(Span(name, (i,)) for i, name in enumerate(levels)),
        (SIZE, SIZE),
        {},
        self_attention={"8x8": SelfAttention((grid, grid), weights)},
        image_png=encoded(Image.fromarray(picture)),
    )


def case_of(number, there=("aeroplane", "bicycle"), tokens=True):
    picture = np.random.default_rng(number).integers(90, 110, (SIZE, SIZE, 3), dtype=np.uint8)
    labels, truth = np.zeros((SIZE, SIZE), dtype=np.int64), {}
    for name in there:
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[AT[name]] = True
        picture[mask] //= 2
        labels[mask], truth[name] = LABELS[name], mask
    labels[:1] = IGNORE
    levels = {name: (0.8, 0.1) if name in there else (0.12, 0.1) for name in CLASSES}
    fitted = {name: (0.6, 0.2) if name in there else (0.1, 0.1) for name in AT}
    return Case(
        number,
        truth,
        labels,
        dict.fromkeys(truth, ("seen",)),
        maps_of(levels | {"plane": (0.5, 0.1)}, number, picture),
        (("plane", "aeroplane", "synonym"),) if "aeroplane" in there else (),
        maps_of(fitted, 100 + number, picture) if tokens else None,
        gains_of(there) if tokens else None,
    )


def gains_of(there):
    """Gains of all classes: a half in the upper or lower half of the picture for those that are there."""
    grid = SIZE // CELL
    maps = torch.zeros(len(CLASSES), grid, grid)
    for name in there:
        half = np.s_[: grid // 2] if name == "aeroplane" else np.s_[grid // 2 :]
        maps[CLASSES.index(name)][half] = 0.5
    return WordGains(tuple(CLASSES), maps, 1)


@pytest.fixture(scope="module")
def seen():
    return [case_of(0), case_of(1, ("aeroplane",)), case_of(2, ("bicycle",))]


class TestThresholds:
    def test_words_share_one_and_each_token_has_its_own(self, seen):
        chosen = choose_thresholds(seen)
        assert set(chosen) == {*WORDS, GAINED, GAINED_CRF, *TOKENS, *MODEL_FREE, BLIND, GRID}
        best, own = {}, {}
        for level in TRIED:
            each = {}
            for case, name in [(one, name) for one in seen for name in one.truth]:
                for step, maps in ((WORD, case.maps), (TOKEN, case.tokens)):
                    score, truth = calibrated(maps.only([name]))[0].numpy(), case.truth[name]
                    pair = each.setdefault((step, name), [0, 0])
                    for mine, right, counts in zip((score > level).flat, truth.flat, case.counted.flat, strict=True):
                        pair[0] += bool(counts and mine and right)
                        pair[1] += bool(counts and (mine or right))
            reached = {key: both / either for key, (both, either) in each.items()}
            best[level] = reached[WORD, "aeroplane"]  # bicycle is no class of development
            own[level] = reached[TOKEN, "bicycle"]
        assert best[chosen[WORD]["bicycle"]] == max(best.values())
        assert set(chosen[WORD].values()) == {chosen[WORD]["aeroplane"]}
        assert own[chosen[TOKEN]["bicycle"]] == max(own.values())
        assert chosen[TOKEN]["cow"] == 0.5, "no picture shows it"
        assert chosen[CRF] == chosen[REFINED] == chosen[BLIND]
        assert chosen[GAINED_CRF] == chosen[GAINED]
        assert chosen[TOKEN_CRF] == chosen[TOKEN_REFINED]


class TestRows:
    def test_pixels_are_counted_at_the_step_s_threshold_and_unknown_ones_left_out(self, seen):
        chosen = choose_thresholds(seen)
        case = seen[0]
        row, *others = rows_of(case, chosen)
        assert (row.name, row.own, row.slices) == ("aeroplane", True, ("seen",))
        assert set(row.counts) == set(chosen)
        for step in (WORD, TOKEN):
            maps = case.maps if step == WORD else case.tokens
            mask = calibrated(maps.only(["aeroplane"]))[0].numpy() > chosen[step]["aeroplane"]
            both = either = 0
            for y, x in product(range(1, SIZE), range(SIZE)):  # the first line is not known
                both += bool(mask[y, x] and case.truth["aeroplane"][y, x])
                either += bool(mask[y, x] or case.truth["aeroplane"][y, x])
            assert row.counts[step][:2] == (both, either)
            assert row.counts[step][3] < either, "outlines are left out"
        synonym = others[-1]
        assert (synonym.name, synonym.own, synonym.slices, set(synonym.counts)) == (
            *("aeroplane", False, ("synonym",)),
            set(WORDS),
        )

    def test_a_word_blind_foreground_is_the_same_for_all_words(self, seen):
        found = scores_of(seen[0], choose_thresholds(seen))[BLIND]
        assert np.array_equal(found["aeroplane"], found["bicycle"])
        every = seen[0].truth["aeroplane"] | seen[0].truth["bicycle"]
        assert found["aeroplane"][every].mean() > found["aeroplane"][~every].mean() + 0.5

    def test_hypernyms_that_fit_another_class_are_not_asked(self):
        one = {"cat": None}
        assert ("animal", "cat", "hypernym") in other_words(["cat", "car"], one)
        assert all(kind != "hypernym" for *_, kind in other_words(["cat", "dog"], one))


class TestFigures:
    def rows(self):
        random, found = np.random.default_rng(0), []
        for number, name in enumerate(["cat"] * 6 + ["dog"] * 4):
            both = int(random.integers(40, 60))
            counts = {
                WORD: (both, 100, both, 90),
                CRF: (both + 20, 100, both, 90),
                "constant": (both, 400, both, 300),
            }
            slices = ("small",) if number % 2 else ("seen",)
            found.append(Row(name, number, True, slices, counts, dict.fromkeys(counts, 0.5)))
        return found

    def test_iou_is_pooled_by_class_and_a_gain_is_between_pooled_values(self):
        rows = self.rows()
        expected = np.mean([np.mean([r.counts[WORD][0] for r in rows if r.name == n]) / 100 for n in ("cat", "dog")])
        assert iou(rows, WORD) == pytest.approx(expected)
        found = gain(rows, CRF, WORD)
        assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
        steps = steps_of(rows)
        assert list(steps) == [WORD, CRF, "constant"]
        assert steps[WORD]["gain"] is None
        assert steps["constant"]["iou"] == pytest.approx(expected / 4)
        assert steps["constant"]["gain"][2] < 0
        assert slices_of(rows, (WORD, CRF))["small"]["masks"] == 5


class TestLabelMaps:
    def test_the_gate_takes_the_area_of_absent_classes(self, seen):
        options = MaskOptions(threshold=0.6, crf=False)
        maps = [case.maps.only(list(CLASSES)) for case in seen]
        levels = levels_of(seen, maps)
        assert auroc(levels) == 1.0
        assert set(map(len, levels["aeroplane"])) == {2, 1}
        border = (min(levels["aeroplane"][0]) + max(levels["aeroplane"][1])) / 2
        found = label_maps(seen, maps, options, border)
        assert found[GIVEN]["miou"] == found[GIVEN + GATED]["miou"] > 0.6
        assert found[ALL]["false_positive_area"] > 0.05
        assert found[ALL + GATED]["false_positive_area"] == 0
        assert found[ALL + GATED]["miou"] > found[ALL]["miou"]
        assert 0 <= found[GIVEN]["calibration_error"] <= found[GIVEN]["calibration_error_by_picture"]

    def test_the_gate_of_gains_is_where_label_maps_of_validation_pictures_are_best(self, seen):
        maps, options = list(map(of_gains, seen)), MaskOptions(threshold=0.6, crf=False)
        presence = [presences(each) for each in maps]
        there = min(level[name] for level, case in zip(presence, seen, strict=True) for name in case.truth)
        absent = max(
            value
            for level, case in zip(presence, seen, strict=True)
            for name, value in level.items()
            if name not in case.truth
        )
        assert absent < there
        gate = best_gate(seen, maps, options)
        found = label_maps(seen, maps, options, gate)
        assert found[ALL + GATED]["miou"] == max(
            label_maps(seen, maps, options, each)[ALL + GATED]["miou"] for each in GATES
        )
        assert 0 <= found[GIVEN]["calibration_error"] <= found[GIVEN]["calibration_error_by_picture"]

    def test_tokens_are_cut_as_their_files_would_have_it(self, seen):
        masks = {"aeroplane": 0.35, "bicycle": 0.65}
        tokens = [case.tokens for case in seen]
        chosen = thresholds_of(seen, tokens, masks)
        assert {name: each.mask for name, each in chosen.items()} == masks
        assert all(each.presence is not None and each.pictures == 3 for each in chosen.values())
        result = with_thresholds(tokens[1], chosen).segment()
        assert result["aeroplane"].any()
        assert not result["bicycle"].any(), "it is not there, and its presence says so"
        assert with_thresholds(tokens[1], {"cow": Thresholds(mask=0.3)}).thresholds == {}


def figures(**changes):
    step = {"iou": 0.6, "gain": [0.1, 0.05, 0.15]}
    one = {
        "steps": {name: dict(step) for name in (REFINED, CRF, TOKEN_REFINED, TOKEN_CRF)},
        "slices": {"seen": {"gain": [0.1, 0, 0.2], "masks": 9}, "small": {"gain": [0.01, 0, 0.2], "masks": 5}},
    }
    row = {"miou": 0.75, "calibration_error": 0.05, "false_positive_area": 0.01}
    made = {
        "sets": {"scenes": one, "generated": one},
        "labels": {
            form: {name + gate: row for name in (GIVEN, ALL) for gate in ("", GATED)} for form in ("words", WITH_GAINS)
        },
        "presence_auroc": {"words": 0.95, WITH_GAINS: 0.95},
        "word_blind": {"lead": {CRF: [0.3, 0.2, 0.4], GAINED_CRF: [0.3, 0.2, 0.4]}},
        "opinions": {"IoU": {"package": "torchmetrics", "difference": 1e-7, "most": 1e-5, "unit": "IoU"}},
    }
    return made | changes


class TestVerdicts:
    def test_all_are_met_by_good_figures(self):
        assert all(bar.met for bar in verdicts.bars(figures()))
        assert len(verdicts.bars(figures())) == 8 + 2 + 2 * (3 + 3) + 2 + 1

    @pytest.mark.parametrize(
        ("change", "goal"),
        [
            ({"sets": {"scenes": figures()["sets"]["scenes"]}}, "generated: refinement and CRF raise every slice"),
            ({"presence_auroc": {"words": 0.95, WITH_GAINS: 0.92}}, f"{WITH_GAINS}, AUROC"),
            (
                {"word_blind": {"lead": {CRF: [0.3, -0.1, 0.4], GAINED_CRF: [0.3, 0.2, 0.4]}}},
                f"two things or more: {CRF}",
            ),
            ({"word_blind": None}, "two things or more"),
            (
                {"opinions": {"CRF": {"package": "pydensecrf2", "difference": None, "most": 1e-3, "unit": "score"}}},
                "second opinion on CRF",
            ),
        ],
    )
    def test_one_that_is_missed_or_not_measured_is_not_met(self, change, goal):
        missed = [bar.goal for bar in verdicts.bars(figures(**change)) if not bar.met]
        assert any(goal in each for each in missed)

    def test_a_gain_whose_interval_reaches_zero_and_a_falling_slice_are_not_met(self):
        weak = figures()
        weak["sets"]["scenes"]["steps"][CRF]["gain"] = [0.2, -0.01, 0.4]
        weak["sets"]["scenes"]["slices"]["small"]["gain"] = [-0.01, -0.1, 0.1]
        missed = [bar.goal for bar in verdicts.bars(weak) if not bar.met]
        assert any(CRF in each for each in missed)
        assert any("every slice" in each for each in missed)


def test_everything_is_measured_and_written(seen, monkeypatch, tmp_path):
    def pictures(*given, **options):
        return iter(seen)

    for name, value in {
        "cases": pictures,
        "generated": pictures,
        "tokens_of": lambda *given: {"cat": None},
        "merge": lambda sets: None,
        "model_hash": lambda pipe: "0123",
    }.items():
        monkeypatch.setattr(bars, name, value)
    monkeypatch.setattr("lab.refine.figures.RESAMPLES", 20)
    found = bars.measure(None, bars.BarOptions(scenes=3, validation=3, pictures=3))
    assert set(found["sets"]["scenes"]["steps"]) >= {*WORDS, *TOKENS, *MODEL_FREE, BLIND, GRID}
    assert found["opinions"]["polygons without tolerance"]["difference"] in (0.0, None)
    assert found["sets"]["scenes"]["fewest_of_a_class"] == 2
    json.dumps(known(found), allow_nan=False)
    stamped = {
        "command": "python -m lab.refine bars", "date": "2025-01-31", "threads": 1, "bootstrap_seed": 0,
        "processor": "a processor", "python": "3.11", "versions": {"ovam": "0"},
    }  # fmt: skip
    text = page.write({"stamp": stamped, "quick": True, **found})
    for part in ("a quick run", "## Bars", "## Test scenes", "## Generated pictures", "## Label maps", "| synonym |"):
        assert part in text


class TestEdges:
    """Edges of self-attention, a comparison of the lab."""

    @pytest.mark.parametrize("kind", ["Jensen-Shannon", "absolute difference"])
    def test_an_edge_is_where_neighbours_attend_elsewhere(self, kind):
        left = torch.arange(6)[None].expand(4, 6).reshape(-1) < 3
        weights = (left[:, None] == left[None]).float() + 0.01
        found = edges_of(weights / weights.sum(1, keepdim=True), (4, 6), kind)
        assert np.array_equal(
            found > found.max() / 2, np.broadcast_to([False, False, True, True, False, False], (4, 6))
        )
        assert found[:, [0, 1, 4, 5]].max() < 1e-9

    def test_a_piece_is_cut_along_them_and_keeps_its_pixels(self):
        piece = np.zeros((20, 40), dtype=bool)
        piece[4:16, 4:36] = True
        edges = np.where(np.abs(np.arange(40) - 20) < 2, 1.0, 0.0)[None].repeat(20, 0)
        parts = cut_along(piece, edges, 0.7, 0.1)
        assert np.array_equal(parts > 0, piece)
        assert set(np.unique(parts[:, :18])) == {0, 1}
        assert set(np.unique(parts[:, 23:])) == {0, 2}
        assert cut_along(piece, np.zeros_like(edges), 0.7, 0.1).max() == 1

    def test_touching_things_share_a_piece(self):
        labels, instances = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
        labels[5:25, 2:28] = LABELS["cat"]
        instances[5:25, 2:15], instances[5:25, 15:28] = 1, 2
        things = (SimpleNamespace(name="cat"), SimpleNamespace(name="cat"))
        scene = SimpleNamespace(objects=things, instances=instances, mask=lambda name: labels == LABELS[name])
        assert touching(scene) == ["cat"]
        instances[instances == 2] = 1
        assert touching(scene) == []

    def test_the_setting_is_chosen_on_one_half_and_told_on_the_other(self):
        good, bad = np.array([3, 0, 1]), np.array([1, 2, 3])
        flat, steep = ((EDGES, MEAN, "absolute difference", level) for level in ("level 0.5", "level 0.9"))
        even = {(UNCUT,): [bad], flat: [good], steep: [bad]}
        odd = {(UNCUT,): [good, bad], flat: [bad, bad], steep: [good, good]}
        found = figures_of(even, odd)
        row = found[f"{EDGES}, {MEAN}"]
        assert row["setting"] == "absolute difference, level 0.5"
        assert row["found, wrong, missed"] == [2, 4, 6]
        assert row["f1"] == pytest.approx(4 / (4 + 4 + 6))
        assert row["above_no_cut"][0] == pytest.approx(row["f1"] - found[UNCUT]["f1"])
        assert row["above_no_cut"][1] < 0 == found[UNCUT]["above_no_cut"][1]
