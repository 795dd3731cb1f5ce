"""What the page says where an ablation's order differs from the paper's: only what the figures show."""

import pytest

from lab.pseudo_masks import paper
from lab.pseudo_masks.ablations import in_paper
from lab.pseudo_masks.differences import differences
from lab.pseudo_masks.page import page
from lab.pseudo_masks.rows import TOKEN, WORD, block_rows, step_rows

GRIDS = [16, 8, 4]
WORDS = {"16": 35.2, "8": 11.7, "4": 11.2, "16 + 8": 26.2, "16 + 4": 19.4, "8 + 4": 11.9, "16 + 8 + 4": 17.4}
TOKENS = {**WORDS, "16": 41.0, "8": 15.4, "4": 9.6, "16 + 8": 34.5}


def found(agreement, **forms):
    table = [
        {"method": row, "form": form, "mIoU": value if value is None else value / 100}
        for form, values in forms.items()
        for row, value in values.items()
    ]
    return {"table": table, "agreement": agreement, "set": "scenes", "pictures": 3}


def as_in_paper(place, grids=GRIDS):
    return {row.name: paper.GRIDS[in_paper(row.name, grids)][place] for row in block_rows(grids)}


class TestBlocks:
    def test_the_best_grid_here_and_in_the_paper_and_why_they_differ(self):
        text = differences("blocks", found({WORD: -0.3, TOKEN: -0.3}, word=WORDS, token=TOKENS))
        assert text == (
            "The best single grid here is 16 x 16, the finest (35.2 with words, 41.0 with tokens); in the paper it is "
            "16 x 16, 1/4 of the finest (71.5 with words, 78.9 with tokens). Both have 256 places; the orders are "
            "compared by share of the finest grid, not by places. On this model words are told at 16 x 16 only: its "
            "coarser grids have fewer places than the paper's best, 64 (8 x 8) and 16 (4 x 4), and alone they reach at "
            "most 11.7 with words, 15.4 with tokens. A mean with them is below 16 x 16 alone: at most 26.2 with words, "
            "34.5 with tokens."
        )

    def test_nothing_where_it_agrees(self):
        assert not differences("blocks", found({WORD: 0.7, TOKEN: 0.9}, word=WORDS, token=TOKENS))
        assert not differences("blocks", found({WORD: float("nan")}, word=WORDS))

    def test_only_the_form_that_differs(self):
        text = differences("blocks", found({WORD: 0.8, TOKEN: 0.2}, word=WORDS, token=TOKENS))
        assert "(41.0 with tokens)" in text
        assert "words," not in text.replace("words are told", "")

    def test_words_that_another_grid_tells_as_well(self):
        """A coarser grid with more than half of the best one's IoU says something: the explanation is not given."""
        text = differences("blocks", found({WORD: 0.0}, word=WORDS | {"8": 20.0}))
        assert "16 x 16, the finest (35.2 with words)" in text
        assert "are told at" not in text

    def test_coarser_grids_with_as_many_places_as_the_paper_s_best(self):
        values = {"64": 60.0, "32": 20.0, "16": 10.0, "64 + 32": 50.0}
        text = differences("blocks", found({WORD: 0.0}, word=values))
        assert "64 x 64, the finest (60.0 with words); in the paper it is 16 x 16, 1/4 of the finest" in text
        assert "are told at" not in text
        assert "Both have" not in text

    def test_a_mean_that_is_above_the_best_grid(self):
        text = differences("blocks", found({WORD: 0.0}, word=WORDS | {"16 + 8": 36.0}))
        assert "are told at 16 x 16 only" in text
        assert "A mean with them" not in text

    def test_the_best_grid_at_another_place_that_is_not_the_finest(self):
        text = differences("blocks", found({WORD: 0.0}, word=WORDS | {"8": 50.0}))
        assert text.startswith("The best single grid here is 8 x 8, 1/2 of the finest (50.0 with words)")
        assert "are told at" not in text

    def test_the_same_best_grid_in_another_order(self):
        values = as_in_paper(1) | {"16": 75.0}  # above 74.9 and 71.7: from the last place to the fifth
        text = differences("blocks", found({TOKEN: 0.5}, token=values))
        assert text == (
            "With tokens the best single grid is the same share of the finest one as in the paper. Furthest from its "
            "place in the paper's order: grids 64, number 5 of 7 here and number 7 there."
        )

    def test_a_row_without_a_figure_is_left_out(self):
        text = differences("blocks", found({WORD: 0.0}, word=WORDS | {"4": None}))
        assert "at most 11.7 with words" in text


class TestSteps:
    def values(self, **changes):
        every = {row.name: 1.0 for row in step_rows(tuple(paper.AT_STEP), 29)}
        own = {f"at {step}": pair[0] for step, pair in paper.AT_STEP.items()}
        return every | own | {name.replace("_", " "): value for name, value in changes.items()}

    def test_the_best_step_and_the_one_that_is_furthest_away(self):
        text = differences("steps", found({"word, at": 0.5, "word, from": 0.9}, word=self.values(at_0=80.0)))
        assert text == (
            "With words, one step alone: the best is step 0 here (80.0), and step 10 in the paper (67.7). Furthest "
            "from its place in the paper's order: step 0, number 1 of 10 here and number 10 there."
        )

    def test_figures_that_are_close_together_say_so(self):
        close = {f"to {step}": 60 + 0.1 * i for i, step in enumerate(paper.TO_STEP)}
        text = differences("steps", found({"token, to": 0.1}, token=self.values() | close))
        assert text.startswith(
            "With tokens, up to a step: the best is step 29 here (60.9), and step 29 in the paper (84.1)"
        )
        assert text.endswith("All 10 figures here lie within 0.9 points, so their order says little.")

    def test_nothing_where_it_agrees(self):
        assert not differences("steps", found({"word, at": 0.87}, word=self.values()))


@pytest.mark.parametrize(("agreement", "told"), [({WORD: -0.3}, True), ({WORD: 0.8}, False), ({}, False)])
def test_the_page_has_the_sentences_below_the_correlation(agreement, told):
    about = {"command": "c", "model": "m", "version": "0", "validation": 1, "fitted_on": "scene", "chosen_on": "scenes"}
    about |= {"without_token": [], "left_out": [], "note": ""}
    blocks = found(agreement, word=WORDS)
    text = page({"about": about, "bars": [], "sets": {}, "ablations": {"blocks": blocks}})
    assert ("The best single grid here is 16 x 16" in text) is told
    if told:
        assert text.index("Spearman's correlation") < text.index("The best single grid")


def test_other_ablations_have_no_sentences():
    assert not differences("postprocessing", found({}, word={"none": 1.0}))
