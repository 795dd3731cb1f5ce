"""The benchmarks of tokens: when a quality counts as reached, by what loss, and what the page makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ovam
from lab.fits.methods import PUBLISHED, TUNED
from lab.fits.scenes import annotation_scenes, of_split
from lab.measure import middle
from lab.performance import (
    dataset,
    end_to_end,
    refinement,
    report,
    report_dataset,
    report_refinement,
    report_tokens,
    time_to_quality,
)
from lab.performance.__main__ import BENCHMARKS
from lab.performance.narrowed import narrowed
from lab.performance.options import Options
from lab.rivals import authors
from ovam.dataset.generator import generate
from ovam.dataset.layout import read
from ovam.masks.annotations import annotation_of
from ovam.tokens.loss import Target
from ovam.tokens.objective import target_on
from synthetic import make_trace
from test_tokens import planted_mask

STAMP = {
    "command": "python -m lab.performance", "date": "2025-01-31", "quick": False, "threads": 1, "cores": 2,
    "processor": "a processor", "python": "3.11", "load_at_start": 0.1, "bootstrap_seed": 0, "versions": {},
}  # fmt: skip


def test_a_quality_is_reached_from_the_first_number_on_that_is_not_lost_again():
    qualities = {"1": 0.30, "5": 0.36, "12": 0.33, "20": 0.34, "40": 0.38}
    assert time_to_quality.first_as_good(qualities, 0.34, "higher") == "20"
    assert time_to_quality.first_as_good(qualities, 0.30, "higher") == "1"
    assert time_to_quality.first_as_good(qualities, 0.39, "higher") is None
    losses = {"1": 0.7, "5": 0.5}
    assert time_to_quality.first_as_good(losses, 0.5, "lower") == "5"
    assert time_to_quality.first_as_good(losses, float("nan"), "lower") is None


def test_contenders_take_turns_and_times_are_divided_problem_by_problem():
    called = []

    def contender(name, quality, seconds):
        def reached(problem):
            called.append((name, problem))
            return time_to_quality.Reached(seconds * (problem + 1), quality)

        return reached

    one_row = "`evaluations=8, rows=1, against=[]`"
    contenders = {
        time_to_quality.START: contender(time_to_quality.START, 0.9, 0.0),
        "`evaluations=2`": contender("`evaluations=2`", 0.2, 1.0),
        "`evaluations=8`": contender("`evaluations=8`", 0.4, 2.0),
        one_row: contender(one_row, 0.35, 0.5),
        "shown": contender("shown", 0.9, 0.1),
        "rival": contender("rival", 0.3, 40.0),
        "better": contender("better", 0.5, 1.0),
    }
    found = time_to_quality.compare([0, 1], contenders, ["rival", "better"], "higher")
    assert called[5:] == [(name, 0) for name in contenders] + [(name, 1) for name in reversed(contenders)]
    assert found["ours"]["`evaluations=8`"]["seconds"] == [2.0, 4.0]
    reached = found["rivals"]["rival"]["reached"]
    assert {series: each["with"] for series, each in reached.items()} == {
        time_to_quality.USUAL: "`evaluations=8`",
        time_to_quality.ONE_ROW: one_row,
    }
    assert [each["sooner"]["median"] for each in reached.values()] == [20.0, 80.0]
    nowhere = {time_to_quality.USUAL: None, time_to_quality.ONE_ROW: None}
    assert found["rivals"]["better"] == {"seconds": [1.0, 2.0], "quality": 0.5, "reached": nowhere}


def test_the_common_loss_is_the_least_that_any_scale_and_offset_give():
    random = torch.Generator().manual_seed(0)
    right = torch.rand(6, 8, generator=random)
    noise = torch.rand(6, 8, generator=random)
    target = Target(torch.stack([1 - right, right]), torch.ones(6, 8))
    class_map = 0.3 * right + 0.1 * noise
    found = time_to_quality.least_cross_entropy(class_map, target)
    assert found == pytest.approx(time_to_quality.least_cross_entropy(5 * class_map + 2, target), abs=1e-4)
    values = (class_map - class_map.min()) / (class_map.max() - class_map.min())
    for scale in np.linspace(0.5, 6, 12):
        for offset in np.linspace(-3, 3, 13):
            share = (scale * values + offset).sigmoid()
            assert found <= float(-(right * share.log() + (1 - right) * (1 - share).log()).mean()) + 1e-6
    assert found < time_to_quality.least_cross_entropy(torch.zeros(6, 8), target)


def test_both_fits_lower_the_common_loss_of_a_planted_mask():
    trace = make_trace()
    mask = planted_mask(trace).numpy()
    target = target_on(trace, annotation_of({"a": mask}, trace.size), ("a",))
    drawn = time_to_quality.Drawn(trace, mask, target)
    first, last = (time_to_quality.fit_ours(drawn, {"evaluations": n, "pull": 0.0}).quality for n in (1, 40))
    assert last < 0.9 * first
    settings = authors.Settings(iterations=12, scale="mean", loss="shares", keep="best")
    begin, end = time_to_quality.tried_rates(drawn, settings, (0.0, 30.0))
    assert end["loss"] < 0.99 * begin["loss"]


@pytest.fixture(scope="module")
def quality():
    ours = {
        time_to_quality.START: {"seconds": [0.0, 0.0], "quality": 0.29},
        "`evaluations=2`": {"seconds": [0.02, 0.04], "quality": 0.3},
        "`evaluations=40`": {"seconds": [0.5, 0.6], "quality": 0.38},
    }
    sooner = {"median": 60.0, "low": 40.0, "high": 70.0, "pairs": 2}
    reached = {time_to_quality.USUAL: {"with": "`evaluations=2`", "sooner": sooner}, time_to_quality.ONE_ROW: None}
    tuned = {"seconds": [0.6, 0.8], "quality": 0.35, "reached": dict.fromkeys(time_to_quality.SERIES)}
    published = {"seconds": [7.0, 7.2], "quality": 0.25, "reached": reached}
    settings = {TUNED: {"iterations": 100, "rate": 10.0}, PUBLISHED: {"iterations": 1000}}
    problem = {"better": "higher", "ours": ours, "rivals": {TUNED: tuned, PUBLISHED: published}, "settings": settings}
    full = {**problem, "better": "lower", "calls": 3, "tried": [{"rate": 1.0}, {"rate": 10.0}]}
    problems = {"mini": {**problem, "scenes": 200}, "full_size": full}
    return {"stamp": STAMP, "model": "mini", "seed": 1, "problems": problems}


def test_a_goal_that_was_not_reached_is_not_met_and_one_by_the_median_says_so(quality):
    text = report.write({"time_to_quality": quality})
    assert (
        "| mini, as by default: as good as authors, tuned at its end at least 20x sooner | not reached | no |" in text
    )
    published = "60.0x (40.0 to 70.0) | by the median, the interval reaches beyond |"
    assert f"mini, as by default: as good as authors, published at its end at least 50x sooner | {published}" in text
    assert "mini, one row each: as good as authors, published at its end at least 50x sooner | not reached" in text
    assert "| mini | nothing fitted | mIoU 0.2900 |" in text
    assert "| mini | authors, published: 1000 iterations | mIoU 0.2500 | 7.10 s" in text
    assert "its learning rate, 10, is the best of 1, 10 on other queries" in " ".join(text.split())


def test_the_whole_way_is_the_sum_of_its_parts_of_each_class():
    figures = {"encoding": [1.0, 2.0, 4.0], "fitting": [0.5, 0.5, 0.5], "saving": [0.0, 1.0, 0.0], "mIoU": 0.3}
    settings = {"as by default": figures, "int8": {**figures, "minus default": [-0.01, -0.02, 0.0]}}
    models = {"mini": {"model": "mini", "weights": "0123"}}
    result = {"stamp": STAMP, "seed": 0, "models": models, "scenes": 60, "settings": settings}
    (whole, fit) = report_tokens.end_goals(result)
    assert whole[1:] == ["3.50 s (1.50 to 4.50)", "no"]
    assert fit[2] == "yes"
    assert "| int8 | 3.50 s (1.50 to 4.50) | 2.00 |" in report.write({"end_to_end": result})


def test_the_middle_has_the_numbers_own_spread():
    found = middle([1.0, 2.0, 9.0])
    assert (found.median, found.low, found.high, found.pairs) == (2.0, 1.0, 9.0, 3)


def test_a_token_is_made_from_files_and_scored_as_it_is_read(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    pipe = ovam.load("mini")
    (scene,) = annotation_scenes(["car"], 1)["car"]
    encoded = end_to_end.settings()["int8"]
    made = end_to_end.make(pipe, scene, "car", encoded)
    assert made.own[0] / made.own[1] > 0.4
    assert all(seconds > 0 for seconds in made.seconds)
    scored = [of_split("validation")(index) for index in range(8)]
    shown = [each.seed for each in scored if each.mask("car").mean() > 0.01]
    (outcome,) = end_to_end.score(pipe, {"car": made}, encoded, scored)["car"]
    assert [row.seed for row in outcome.rows] == shown


def test_a_narrowed_trace_loses_only_what_its_queries_have_elsewhere():
    trace = make_trace(head_dim=4)
    turned = narrowed(trace, 1.0).maps("the sky").token_maps
    assert (turned - trace.maps("the sky").token_maps).abs().max() < 2e-6  # measured: 1.8e-7
    for block in trace.blocks.values():
        block.query["cond"][..., 2:] = block.query["cond"][..., :2]  # two directions alone
    half = narrowed(trace, 0.5)
    assert {block.query["cond"].shape[-1] for block in half.blocks.values()} == {2}
    whole = trace.maps("the sky").token_maps
    assert (half.maps("the sky").token_maps - whole).abs().max() < 1e-6  # measured: 8.9e-8
    assert (narrowed(trace, 0.25).maps("the sky").token_maps - whole).abs().max() > 0.01  # measured: 0.28


def test_refinement_and_crf_have_their_times_floors_and_goal(tmp_path):
    found = refinement.run(Options(None, quick=True))
    assert set(found["seconds"]) >= {*refinement.REFINEMENTS, refinement.CRF, refinement.BOTH}
    assert all(len(each) == 3 for each in found["seconds"].values())
    assert found["bytes"]["self-attention"] == 4 * refinement.QUICK_GRID**4
    page = report.write({"refinement": {"benchmark": "refinement", "stamp": STAMP, **found}})
    assert "| refinement as by default" in page
    assert "refinement and CRF of one map, 128 x 128 pixels, 16 x 16 places, within 1 s" in page
    slow = found | {"seconds": found["seconds"] | {refinement.BOTH: [0.9, 1.2, 1.3]}}
    assert report_refinement.goals(slow)[0][-1] == report_tokens.verdict(False, False)


def test_the_plain_pipeline_makes_the_pictures_of_the_data_set(tmp_path):
    """Else the ratio would compare two different works."""
    recipe, mini, made = dataset.recipe_for(2, 1), ovam.load("mini"), []
    mini.set_progress_bar_config(disable=True)

    def pipe(prompts, **options):
        found = mini(prompts, **options)
        made.extend(np.asarray(image) for image in found.images)
        return found

    dataset.plain(pipe, recipe)
    generate(recipe, tmp_path / "set", pipe=mini)
    kept = [np.asarray(Image.open(item.image_path)) for item in read(tmp_path / "set").items]
    assert all(np.array_equal(one, other) for one, other in zip(made, kept, strict=True))


def test_the_page_is_what_the_committed_results_say():
    folder = Path(__file__).parents[2] / "docs"
    files = {name: folder / "results" / "performance" / f"{name}.json" for name in BENCHMARKS}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    assert report.write(found) == (folder / "performance.md").read_text()


def test_a_data_set_s_speed_is_met_only_where_the_interval_says_so():
    found = {
        "ratios": {
            dataset.GENERATE: {"median": 0.98, "low": 0.96, "high": 1.0, "pairs": 11},
            dataset.CRF: {"median": 0.9, "low": 0.88, "high": 0.92, "pairs": 11},
        },
        "seconds": {dataset.PLAIN: [1.0] * 11, dataset.GENERATE: [1.02] * 11, dataset.CRF: [1.1] * 11},
        "memory": {"items": 500, "steps": 2, "every": 50, "megabytes": [900.0, 910.0, 905.0]},
        "every": {"n": 5, "images": 50, "iou": 0.984},
        "images": 16, "batch": 8, "steps": 30,
    }  # fmt: skip
    verdicts = [row[2] for row in report_dataset.goals(found)]
    assert verdicts == ["by the median, the interval reaches beyond", report_tokens.verdict(False, False)]
    large = found | {"size": [512, 512]}
    assert report_dataset.large_goals(large)[0][2] == report_tokens.verdict(False, False)
    assert "16 image of\n512 x 512" in report_dataset.large_section(large)
    assert report_dataset.large_goals({"skipped": "left out"}) == []
    text = report_dataset.section(found)
    assert "905 MB at the end" in text
    assert "0.984 with those of all calls" in text
    assert "| generate | 1.0 s | 15.7 | 0.980x (0.960 to 1.000) |" in text
