"""The blind test: pictures are shown in another order than the prompts, and answers are scored against the prompts."""

import json

import numpy as np
import pytest
from PIL import Image

from lab.mini.measures import report
from lab.mini.measures.blind import MARGIN, SCALE, blind_sheet, judged, order, read_answers
from lab.mini.measures.samples import SHEET_CLASSES
from ovam.errors import OptionError
from test_errors import assert_refuses


def right_answers():
    return [SHEET_CLASSES[index] for index in order()]


def test_each_picture_is_shown_once_under_its_number():
    shades = np.arange(40, dtype=np.uint8).reshape(5, 8) * 6
    sheet = Image.fromarray(np.repeat(np.repeat(shades, 4, axis=0), 4, axis=1)).convert("RGB")
    shown = np.asarray(blind_sheet(sheet))
    side = SCALE * 4
    for place, index in enumerate(order()):
        top, left = place // 8 * (side + MARGIN) + MARGIN, place % 8 * side
        assert set(shown[top : top + side, left : left + side].flat) == {6 * index}
    assert sorted(order()) == list(range(40))
    assert [SHEET_CLASSES[i] for i in order()][:20] != list(SHEET_CLASSES[:20])


def test_answers_are_compared_with_the_prompts_of_their_pictures():
    answers = right_answers()
    assert (judged(answers)["right"], judged(answers)["mistaken"]) == (40, {})
    dogs = [place for place, name in enumerate(answers) if name == "dog"]
    cat = answers.index("cat")
    for place, said in ((dogs[0], "cow"), (dogs[1], "sheep"), (cat, "dog")):
        answers[place] = said
    found = judged(answers)
    assert found["right"] == 37
    assert found["mistaken"] == {"dog": ["cow", "sheep"], "cat": ["dog"]}


@pytest.mark.user_error
def test_answers_that_fit_no_sheet_are_named(tmp_path):
    assert_refuses(OptionError, ["39 answers", "40"], lambda: judged(right_answers()[:-1]))
    assert_refuses(
        OptionError, ["answer 3", "'lion'", "aeroplane"], lambda: judged([*["cat"] * 2, "lion", *["cat"] * 37])
    )
    (tmp_path / "a.json").write_text("[1, 2]")
    assert_refuses(OptionError, ["a.json", "list of texts"], lambda: read_answers(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text("{")
    assert_refuses(OptionError, ["b.json", "can't be read"], lambda: read_answers(tmp_path / "b.json"))
    assert_refuses(OptionError, ["lab.mini report"], lambda: report.judge_blind(tmp_path, None))


def test_answers_stand_on_the_page_of_the_weights_that_drew_the_pictures(tmp_path, monkeypatch):
    folder = tmp_path / "results" / "mini"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 20)).save(folder / "sheet.png")
    monkeypatch.setattr(report, "page", lambda figures: json.dumps(figures["sections"].get("blind")))
    monkeypatch.setattr(report, "measured", lambda figures: "tables")
    (folder / "report.json").write_text(json.dumps({"model": "m", "sections": {}}))
    assert report.judge_blind(tmp_path, None) == folder / "blind.png"
    (tmp_path / "answers.json").write_text(json.dumps(right_answers()))
    report.judge_blind(tmp_path, tmp_path / "answers.json")
    assert json.loads((tmp_path / "mini.md").read_text())["right"] == 40
    report.write_pages(tmp_path, {"model": "another", "sections": {}})
    assert (tmp_path / "mini.md").read_text() == "null"
