"""The report on pseudo-masks: counts, thresholds, figures, bars, the page. Its run as a whole is `make quick`."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import ovam
from lab.mini.oracle import IGNORE
from lab.pseudo_masks import ablations, figures, page, paper, rows, run
from lab.pseudo_masks.counts import THRESHOLDS, Count, counts_of
from lab.pseudo_masks.examples import Example, captured, encoded
from lab.pseudo_masks.report import trained_method
from lab.pseudo_masks.summary import write_summary
from ovam import methods
from ovam.errors import UnsupportedPipelineError
from ovam.methods.trained_file import Trained, module_for, save_weights
from ovam.methods.unet_read import outline_of
from ovam.mini.scenes import LABELS


def _count(row, form, name, example, final, *, swept=None, published=None, precision=0.5):
    swept = swept or tuple((1, 2) for _ in THRESHOLDS)
    return Count(row, form, name, example, precision, swept, published, final)


def test_counts_come_back_from_json_as_they_were():
    one = _count("DAAM", "word", "dog", "1", (3, 4), published=(2, 4))
    assert Count.from_json(json.loads(json.dumps(one.as_json()))) == one
    bare = _count("ours", "word", "dog", "1", None)
    assert Count.from_json(json.loads(json.dumps(bare.as_json()))) == bare


def test_iou_is_pooled_per_class_and_then_averaged():
    counts = [
        _count("DAAM", "word", "dog", "1", (10, 100)),
        _count("DAAM", "word", "dog", "2", (90, 100)),
        _count("DAAM", "word", "car", "3", (1, 1)),
    ]
    assert figures.class_iou(counts, "final") == {"car": 1.0, "dog": 0.5}
    assert figures.miou(counts, "final") == pytest.approx(0.75)
    assert figures.miou(counts, "published") is None


def test_the_threshold_is_the_best_of_the_classes_mean():
    """A threshold that is best for the larger class must not win by its pixels."""
    large, small = np.zeros((2, len(THRESHOLDS), 2), dtype=int)
    large[:, 1], small[:, 1] = 1000, 10
    large[4, 0], large[9, 0] = 500, 400  # 0.5 and 0.4
    small[4, 0], small[9, 0] = 1, 5  # 0.1 and 0.5
    counts = [
        _count("DAAM", "word", "dog", "1", None, swept=tuple(map(tuple, large.tolist()))),
        _count("DAAM", "word", "car", "2", None, swept=tuple(map(tuple, small.tolist()))),
    ]
    assert run.thresholds_on(counts) == {("DAAM", "word"): THRESHOLDS[9]}


def _both(word, token, *, pictures=12):
    counts = []
    for row in ("DAAM", rows.PUBLISHED, rows.RETUNED, rows.DEFAULT):
        for form, value in (("word", word), ("token", token + 10 * (row == rows.DEFAULT))):
            for name in ("dog", "car", "bus"):
                counts += [_count(row, form, name, str(i), (value + i % 3, 100)) for i in range(pictures)]
    return counts


def test_gains_are_of_the_same_pictures():
    counts = _both(40, 60)
    assert figures.gain(counts, ("DAAM", "token"), ("DAAM", "word")).value == pytest.approx(0.20)
    fewer = [one for one in counts if not (one.form == "word" and one.example in {"0", "1", "2"})]
    assert figures.gain(fewer, ("DAAM", "token"), ("DAAM", "word")).value == pytest.approx(0.20)
    assert np.isnan(figures.gain(counts, ("DAAM", "token"), ("nobody", "word")).value)


@pytest.mark.parametrize(("token", "met"), [(60, True), (43, False)])
def test_bars_are_met_by_their_own_figures(token, met):
    counts = _both(40, token)
    found = figures.bars({"scenes": {"lifts": figures.lifts(counts), "leads": figures.leads(counts)}})
    lifted = {line["bar"]: line["met"] for line in found}
    assert lifted["tokens lift DAAM by 5"] is met
    assert lifted[f"default 8 above {rows.PUBLISHED}"]  # it is 10 above all others
    assert lifted["default above every method, the best of which is DAAM"]


def test_good_median_and_bad_cases_follow_from_the_counts():
    counts = [_count("DAAM", "word", "dog", f"{i:02d}", (i, 100)) for i in range(40)]
    picked = figures.picked(counts, ("DAAM", "word"), per_kind=2)
    values = {kind: [one.final[0] for one in some] for kind, some in picked.items()}
    assert values == {"good": [34, 35], "median": [19, 20], "bad": [3, 4]}
    assert figures.picked(counts[::-1], ("DAAM", "word"), per_kind=2) == picked


def test_choices_of_grids_stand_beside_the_paper_s_by_their_place():
    assert {row.name for row in rows.block_rows([24, 12, 6])} == {
        "24",
        "12",
        "6",
        "24 + 12",
        "24 + 6",
        "12 + 6",
        "24 + 12 + 6",
    }
    named = {ablations.in_paper(row.name, [24, 12, 6]) for row in rows.block_rows([24, 12, 6])}
    assert named == set(paper.GRIDS)
    assert figures.rank_agreement({"a": 1, "b": 2, "c": 3, "d": 9}, {"a": 5, "b": 6, "c": 7}) == pytest.approx(1)
    assert np.isnan(figures.rank_agreement({"a": 1, "b": 2}, {"a": 1, "b": 2}))


class _Fixed:
    """A row's values that do not look at the trace."""

    def __init__(self, values):
        self.values = values

    def __call__(self, trace, entry):
        return self.values


def test_pixels_that_nobody_knows_count_for_nothing():
    labels = np.zeros((4, 4), dtype=np.uint8)
    labels[:2], labels[3] = LABELS["dog"], IGNORE
    values = np.zeros((4, 4), dtype=np.float32)
    values[0], values[3] = 0.9, 0.9
    row = rows.Row("fixed", "ours", _Fixed(values), rows.plainly, {"word": 0.5})
    example = Example("1", np.zeros((4, 4, 3), np.uint8), labels, "", lambda needs: None)
    assert example.classes == ["dog"]
    (one,) = counts_of(example, {"ours": None}, [row], {"word": {"dog": "dog"}, "token": {}}, {("fixed", "word"): 0.5})
    assert one.final == one.published == (4, 8)


def test_methods_give_values_in_their_own_scale(sd1):
    """With the border put at 0.5 the values are the method's own, so that any threshold can be tried on them."""
    with ovam.capture(sd1) as traces:
        sd1("a cat on the grass", num_inference_steps=2, height=32, width=32)
    method = methods.DAAM()
    values = rows.of_method(method).values(traces[0], "cat")
    for threshold in (0.3, 0.6):
        mask = dataclasses.replace(method, threshold=threshold).segment(traces[0], ["cat"])["cat"]
        assert torch.equal(torch.from_numpy(values > threshold), mask.cpu())


def test_dataset_diffusion_reads_the_finest_grid_in_a_row_of_its_own(sd1):
    """Both rows read one capture, which keeps the self-attention of both grids, on both ways."""
    found = {row.name: row for row in rows.main_rows()}
    row = found[rows.SPREAD_AT_FINEST]
    needs = rows.needs_of([found[rows.SPREAD], row])
    assert needs["methods"]["self_attention"] == ["1/2", "1/1"]
    with ovam.capture(sd1, **captured(needs[row.needs])) as traces:
        sd1("a cat on the grass", num_inference_steps=2, height=32, width=32)
    kept = traces[0].self_attention.values()
    assert {(part.grid, part.name.split("_")[0]) for part in kept} >= {((16, 16), "down"), ((16, 16), "up")}
    mask = methods.DatasetDiffusion(words_at="1/1", pixels_at="1/1", band=0.0).segment(traces[0], ["cat"])["cat"]
    values = row.values(traces[0], "cat")
    assert torch.equal(torch.from_numpy(values >= row.published["word"]), mask.cpu())
    with pytest.raises(UnsupportedPipelineError, match="at 1/2 and 1/4"):
        found[rows.SPREAD].values(traces[0], "cat")  # its grids are halved only once


def test_bars_show_both_grids_of_dataset_diffusion():
    counts = [
        _count(row, form, name, str(i), (40 + 20 * (form == "token" and row == rows.SPREAD_AT_FINEST), 100))
        for row in (rows.SPREAD, rows.SPREAD_AT_FINEST)
        for form in ("word", "token")
        for name in ("dog", "car")
        for i in range(8)
    ]
    found = figures.bars({"scenes": {"lifts": figures.lifts(counts), "leads": {}}})
    met = {line["bar"]: line["met"] for line in found}
    assert met == {
        "tokens lift Dataset Diffusion by 5": False,
        "tokens lift Dataset Diffusion, finest grid by 5": True,
    }


def test_encoding_gets_no_options_of_guidance_and_steps():
    assert encoded({"guidance": "both", "steps": "middle", "self_attention": "1/2"}) == {"self_attention": "1/2"}


def test_a_trained_method_reads_a_trace_of_its_own(sd1, tmp_path):
    """A picture is looked at at the time step of the training; a run has its own."""
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    seen = ovam.encode(sd1, image, features=True, timesteps=(1,))
    outline = outline_of(seen)
    tokens = len(seen.text.embed("thing", padded=True).vectors)
    weights = module_for("grounded", outline, ("cond",), tokens).state_dict()
    save_weights(Trained("grounded", outline, ("cond",), tokens, weights), tmp_path / "w.safetensors")
    method = trained_method(tmp_path / "w.safetensors")
    row = rows.of_method(method)
    needs = rows.needs_of([row, rows.of_method(methods.DAAM())])
    assert needs["grounded"] == {"features": True, "timesteps": (1,)}
    assert "features" not in needs["methods"]
    trace = ovam.encode(sd1, image, **encoded(needs["grounded"]))
    values = row.values(trace, "dog")
    assert torch.equal(torch.from_numpy(values > 0.5), method.segment(seen, ["dog"])["dog"].cpu())
    with ovam.capture(sd1, **captured(needs["grounded"])) as traces:
        sd1("a dog", num_inference_steps=2, height=32, width=32)
    assert row.values(traces[0], "dog").shape == (32, 32)
    largest = Trained("grounded", outline, ("cond",), tokens, weights, {"top_instance": True})
    save_weights(largest, tmp_path / "largest.safetensors")
    every = [method, trained_method(tmp_path / "largest.safetensors")]
    assert list(map(rows.variant_name, every)) == ["grounded", "grounded, largest object"]


def test_the_page_tells_figures_bars_and_the_paper_s():
    counts = _both(40, 60)
    each = {"table": figures.table(counts), "lifts": figures.lifts(counts), "leads": figures.leads(counts)}
    sets = {"simple": {**each, "pictures": 12, "picture": "simple.png", "ignored": 0.0, "heading": "Simple"}}
    about = {
        "command": "python -m lab.pseudo_masks",
        "model": "mini (abc)",
        "version": "0",
        "validation": 6,
        "fitted_on": "scene",
        "chosen_on": "scenes",
        "without_token": [],
        "left_out": [],
        "note": "",
    }
    text = page.page({"about": about, "bars": figures.bars(sets), "sets": sets, "ablations": {}})
    assert "| DAAM | 41.0 | 61.0 | +20.0 (+20.0 to +20.0) |" in text
    assert "66.2 / 79.7" in text
    assert "![Good, median and bad cases](simple.png)" in text


def test_the_short_table_takes_its_place_on_a_page(tmp_path):
    counts = _both(40, 60)
    sets = {"simple": {"table": figures.table(counts), "heading": "Simple"}}
    page_file = tmp_path / "methods.md"
    page_file.write_text("above\n<!-- figures -->\nold\n<!-- written by `python -m lab.pseudo_masks` -->\nbelow\n")
    write_summary(page_file, {"about": {"model": "mini (abc)", "version": "0"}, "sets": sets})
    text = page_file.read_text()
    assert "| DAAM | 41.0 / 61.0 |" in text
    assert "old" not in text
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    write_summary(page_file, {"about": {"model": "mini (abc)", "version": "0"}, "sets": sets})
    assert page_file.read_text() == text
