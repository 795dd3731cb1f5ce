"""Plots of the report on pseudo-masks: what is drawn is what was found, beside the right figure of the paper."""

import pytest

from lab.pseudo_masks import paper
from lab.pseudo_masks.ablations import in_paper
from lab.pseudo_masks.plots import of_ablation, of_classes
from lab.pseudo_masks.rows import DEFAULT, block_rows

GRIDS = [32, 16, 8]


def line(method, form, miou=None, classes=None):
    return {"method": method, "form": form, "mIoU": miou, "classes": classes or {}}


def test_bars_of_classes_are_those_of_our_default():
    lines = [
        line("DAAM", "word", classes={"dog": 0.1}),
        line(DEFAULT, "word", classes={"dog": 0.5, "cat": 0.25}),
        line(DEFAULT, "token", classes={"cat": 0.75}),
    ]
    (axes,) = of_classes(lines, "Scenes").axes
    assert [bar.get_height() for bar in axes.patches] == [50, 25, 0, 75]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["dog", "cat"]
    assert "Scenes" in axes.get_title()
    assert len({round(bar.get_x(), 6) for bar in axes.patches}) == 4  # none hides another


def test_the_first_method_stands_where_the_default_is_left_out():
    (axes,) = of_classes([line("DAAM", "word", classes={"dog": 0.1})], "Scenes").axes
    assert axes.get_title() == "Scenes\nDAAM"


def test_curves_of_steps_stand_beside_the_paper_s():
    rows = [line(f"{kind} {step}", "token", step / 100) for kind in ("at", "from", "to") for step in (5, 20)]
    panels = of_ablation("steps", {"table": rows}, GRIDS).axes
    for axes, theirs in zip(panels, (paper.AT_STEP, paper.FROM_STEP, paper.TO_STEP), strict=True):
        drawn = {curve.get_label(): [list(values) for values in curve.get_data()] for curve in axes.lines}
        assert drawn["token"] == [[5, 20], [5, 20]]
        assert drawn["word"] == [[], []]
        assert drawn["token, paper"] == [list(theirs), [pair[1] for pair in theirs.values()]]
        assert drawn["word, paper"][1] == [pair[0] for pair in theirs.values()]


def test_bars_of_blocks_have_the_paper_s_dashes():
    names = [row.name for row in block_rows(GRIDS)]
    rows = [line(name, form, 0.4) for name in names for form in ("word", "token")]
    (axes,) = of_ablation("blocks", {"table": rows}, GRIDS).axes
    dashes = {round(float(x), 6): y for curve in axes.lines for x, y in zip(*curve.get_data(), strict=True)}
    assert len(axes.patches) == len(dashes) == 14
    for bar, (form, name) in zip(axes.patches, [(form, name) for form in (0, 1) for name in names], strict=True):
        assert bar.get_height() == pytest.approx(40)
        middle = round(bar.get_x() + bar.get_width() / 2, 6)
        assert dashes[middle] == paper.GRIDS[in_paper(name, GRIDS)][form]


def test_bars_of_what_comes_after_the_maps_have_no_dashes():
    (axes,) = of_ablation("postprocessing", {"table": [line("none", "word", 0.3)]}, GRIDS).axes
    assert [curve.get_data()[0].size for curve in axes.lines] == [0, 0]
    assert axes.patches[0].get_height() == pytest.approx(30)


def test_a_curve_of_annotations_is_the_mean_over_thin_lines_of_the_classes():
    classes = {"1 annotated": {"dog": 0.2, "cat": 0.4}, "5 annotated": {"dog": 0.6, "cat": 0.6}, "10 annotated": {}}
    (axes,) = of_ablation("annotations", {"table": [], "classes": classes}, GRIDS).axes
    *thin, mean = axes.lines
    assert sorted(list(curve.get_ydata()) for curve in thin) == [[20, 60], [40, 60]]
    assert list(mean.get_xdata()) == [1, 5, 10]
    assert list(mean.get_ydata())[:2] == pytest.approx([30, 60])


def test_figures_can_be_written(tmp_path):
    of_classes([line("DAAM", "word", classes={"dining table": 0.1})], "Scenes").savefig(tmp_path / "classes.png")
    assert (tmp_path / "classes.png").stat().st_size > 1000
