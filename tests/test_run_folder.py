"""Output folders: what is in one belongs to one run, also where the next run fails, is interrupted or is killed."""

import json
import os
import subprocess
import sys

import pytest
import torch

import ovam
import tiny
from ovam.commands.generate import generate
from ovam.commands.maps import maps
from ovam.commands.segment import segment_file
from ovam.errors import OptionError
from ovam.run_folder import RECORD, run_folder

OLD = {RECORD: "old", "image.png": "old", "maps/cat.png": "old", "notes.txt": "mine"}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    """Of a run that was made before."""
    for name, text in OLD.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    return tmp_path / "out"


def write(room):
    for name in ("image.png", "maps/cat.png", "maps/dog.png", RECORD):
        (room / name).parent.mkdir(exist_ok=True)
        (room / name).write_text("new")


def test_a_run_takes_the_place_of_another_one(folder):
    with run_folder(folder) as room:
        write(room)
        assert contents(folder) | OLD == contents(folder)
    new = dict.fromkeys((RECORD, "image.png", "maps/cat.png", "maps/dog.png"), "new")
    assert contents(folder) == {**new, "notes.txt": "mine"}
    assert not list(folder.glob("ovam-*"))


def _broken_off(folder, error):
    with run_folder(folder) as room:
        write(room)
        raise error


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_run_that_breaks_off_changes_nothing(folder, tmp_path, error):
    for place in (folder, tmp_path / "new" / "deeper"):
        with pytest.raises(type(error)):
            _broken_off(place, error)
    assert contents(folder) == OLD
    assert not (tmp_path / "new").exists()


def test_a_run_that_is_killed_leaves_the_old_one_and_is_cleared_by_the_next(folder):
    code = (
        "import os, sys, pathlib\n"
        "from ovam.run_folder import run_folder\n"
        "with run_folder(pathlib.Path(sys.argv[1])) as room:\n"
        "    (room / 'image.png').write_text('new')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == 9
    assert contents(folder) | OLD == contents(folder)
    assert len(list(folder.glob("ovam-*"))) == 1
    with run_folder(folder):
        pass
    assert not list(folder.glob("ovam-*"))


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_files_of_two_runs_never_lie_beside_a_record(folder, monkeypatch, moved):
    """Interrupted after any number of files took their places."""
    left = iter(range(moved))

    def move(file, place, real=os.replace):
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(file, place)

    monkeypatch.setattr("ovam.run_folder.shutil.move", move)
    with pytest.raises(KeyboardInterrupt), run_folder(folder) as room:
        write(room)
    assert RECORD not in contents(folder)


def test_a_pipe_in_a_file_s_place_is_not_replaced(folder):
    (folder / "image.png").unlink()
    os.mkfifo(folder / "image.png")
    with pytest.raises(OptionError, match=r"image\.png can't be written"), run_folder(folder) as room:
        write(room)
    assert (folder / "image.png").is_fifo()
    assert (folder / RECORD).read_text() == "old"


def test_a_command_clears_what_an_earlier_one_made_but_not_what_it_reads(tmp_path):
    pipe = tiny.sd1()
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    common = {"output_dir": out, "height": 32, "width": 32, "num_inference_steps": 1}
    generate("a cat", ["cat", "sky"], model=tmp_path / "model", **common)
    (out / "maps" / "mine.png").write_text("mine")
    maps(out / "run.safetensors", ["dog"], model=tmp_path / "model", output_dir=out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {"maps/dog.png", "maps/mine.png", "sheet.png", RECORD, "run.safetensors", "image.png"}


def test_commands_write_whole_runs(tmp_path, monkeypatch):
    pipe = tiny.sd1()
    pipe.save_pretrained(tmp_path / "model")
    with ovam.capture(pipe) as traces:
        pipe("a cat", num_inference_steps=1, height=32, width=32, generator=torch.Generator().manual_seed(0))
    traces[0].save(tmp_path / "run.safetensors")

    def full(*arguments, **options):
        raise OSError("No space left on device")

    for command, writer in ((maps, "write_maps"), (segment_file, "write_formats")):
        out = tmp_path / writer
        options = {"model": tmp_path / "model", "output_dir": out}
        command(tmp_path / "run.safetensors", ["cat"], **options)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert json.loads((out / RECORD).read_text())["output_dir"] == str(out)
        monkeypatch.setattr("ovam.pictures.palette_png", full)
        monkeypatch.setattr("ovam.commands.write_results.pictures.contact_sheet", full)
        with pytest.raises(OSError, match="No space"):
            command(tmp_path / "run.safetensors", ["dog"], **options)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        monkeypatch.undo()
