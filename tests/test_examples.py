"""The examples run as they stand, but for the model, which is a tiny one of the same family."""

import runpy
from pathlib import Path

import pytest
from PIL import Image

import ovam
import tiny

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = {"sdxl": tiny.sdxl, "sd3": lambda: tiny.sd3(newer=True), "flux": tiny.flux}

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", TINY)
def test_an_example_draws_its_words(name, tmp_path, monkeypatch, capsys):
    models = []

    def load(model, dtype, device):
        models.append(model)
        return TINY[name]()

    monkeypatch.setattr(ovam, "load", load)
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / f"{name}.py").read_text()
    names = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), names)
    assert models == [names["MODEL"]]
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert "cat" in capsys.readouterr().out


# least width and height: four rows of four pictures, each with its caption; two rows of four
SHEETS = {"one_annotation": ("train", (1000, 1100)), "painted": ("car", (1000, 500))}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", SHEETS)
def test_what_one_annotation_finds_elsewhere_is_drawn(name, tmp_path, monkeypatch, capsys):
    thing, least = SHEETS[name]
    monkeypatch.setattr("sys.argv", [f"{name}.py", str(tmp_path / "sheet.png")])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (sheet.width > least[0], sheet.height > least[1]) == (True, True)
    assert f"tokens for {thing}" in capsys.readouterr().out


@pytest.mark.usefixtures("few_steps")
def test_each_step_to_the_mask_is_drawn_for_three_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["refined.py", str(tmp_path / "sheet.png")])
    runpy.run_path(str(EXAMPLES / "refined.py"), run_name="__main__")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width * 3 == sheet.height * 4  # four square pictures for each scene


@pytest.mark.usefixtures("few_steps")
def test_every_method_has_a_tile_for_words_and_for_a_token(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["methods.py", str(tmp_path / "sheet.png")])
    runpy.run_path(str(EXAMPLES / "methods.py"), run_name="__main__")
    with Image.open(tmp_path / "sheet.png") as sheet:
        columns = 2 + len(ovam.methods.names())
        assert sheet.width >= columns * 256
        assert 2 * 256 <= sheet.height < 3 * 256


def test_every_example_is_run():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {*TINY, *SHEETS, "refined", "methods"}
