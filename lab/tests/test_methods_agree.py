"""The comparison with the authors' code: what it lets pass, what it writes, and how it reads their checkouts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lab.methods import page
from lab.methods.__main__ import main
from lab.methods.comparison import ALLOWED, Agreement, of_labels, of_values, table_rows
from lab.methods.with_dataset_diffusion import _loop_over_images

DOCS = Path(__file__).parents[2] / "docs"


def test_values_agree_up_to_rounding():
    values = np.linspace(0, 1, 12).reshape(3, 4)
    assert of_values("m", "map", values, values + 0.9 * ALLOWED).holds
    assert not of_values("m", "map", values, values + 1.1 * ALLOWED).holds
    with pytest.raises(ValueError, match="shapes"):
        of_values("m", "map", values, values.T)


def test_of_labels_few_pixels_may_differ():
    labels = np.zeros((100, 100), dtype=np.int64)
    few, many = labels.copy(), labels.copy()
    few[0, :9], many[0, :11] = 255, 1
    assert of_labels("m", "labels", labels, few).holds
    assert not of_labels("m", "labels", labels, many).holds


def test_a_nan_does_not_agree():
    assert not of_values("m", "map", np.zeros(2), np.array([0.0, np.nan])).holds


def test_the_page_has_the_table_of_the_stored_result():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    result = json.loads((DOCS / page.RESULT).read_text(encoding="utf-8"))
    assert page.written(text, result) == text, "run python -m lab.methods agree ... --docs docs"
    found = [Agreement(**one) for one in result["agreements"]]
    assert {one.method for one in found} == {"daam", "dataset-diffusion"}
    assert all(one.holds for one in found)
    assert re.fullmatch(r"[0-9a-f]{16}", result["stamp"]["model"])


def test_a_page_without_a_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 places"):
        page.written("# A page\n", {"agreements": []})


def test_what_is_written(tmp_path):
    (tmp_path / "methods.md").write_text(
        "start\n<!-- agreements -->\nold\n<!-- written by `python -m lab.methods agree` -->\nend\n"
    )
    found = Agreement("daam", "map of 'cat'", 1.23e-6, 1e-4)
    page.write(tmp_path, {"stamp": {}, "agreements": [found.as_json()]})
    text = (tmp_path / "methods.md").read_text()
    assert f"| {' | '.join(table_rows([found])[0])} |" in text
    assert "old" not in text
    assert json.loads((tmp_path / page.RESULT).read_text())["agreements"] == [found.as_json()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a checkout"),
        (("--daam", "{tmp}"), "has no daam/trace.py"),
        (("--dataset-diffusion", "{tmp}"), "has no src/attn_processor.py"),
    ],
)
def test_folders_that_are_no_checkout(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["agree", "--steps", "1", *(each.format(tmp=tmp_path) for each in arguments)])


SCRIPT = """
def main(args):
    for i in range(3):
        batch = [i]
        for j in range(len(batch)):
            found = matrix_power(j + args)
"""


def test_the_loop_that_makes_masks_is_run_as_it_stands(tmp_path):
    script = tmp_path / "gen_data.py"
    script.write_text(SCRIPT)
    names = {"batch": [7], "args": 5, "matrix_power": lambda value: -value}
    exec(_loop_over_images(script), names)
    assert names["found"] == -5
    script.write_text(SCRIPT.replace("matrix_power", "other"))
    with pytest.raises(SystemExit, match="0 loops that make masks"):
        _loop_over_images(script)
