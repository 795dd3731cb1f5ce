"""The examples run as they stand, but for the model, which is a tiny one of the same family."""

from pathlib import Path

import pytest

import ovam
import tiny

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = {"sdxl": tiny.sdxl, "sd3": lambda: tiny.sd3(newer=True), "flux": tiny.flux}

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", TINY)
def test_an_example_draws_its_words(name, tmp_path, monkeypatch, capsys):
    asked = []

    def load(model, dtype, device):
        asked.append(model)
        return TINY[name]()

    monkeypatch.setattr(ovam, "load", load)
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / f"{name}.py").read_text()
    names = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), names)
    assert asked == [names["MODEL"]]
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert "cat" in capsys.readouterr().out


def test_every_example_is_run():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(TINY)
