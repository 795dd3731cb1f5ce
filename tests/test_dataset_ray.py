"""Generating with Ray: what workers do, how work is shared out, and one run on two workers of which one is killed."""

import importlib.util
import json
import os
import shutil
import signal
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest

import tiny
from lab.faults.__main__ import digests
from ovam.dataset import store
from ovam.dataset.generator import generate
from ovam.dataset.layout import read
from ovam.dataset.manifest import Shard
from ovam.dataset.model import Model
from ovam.dataset.ray_engine import _noted
from ovam.dataset.ray_options import RayOptions
from ovam.dataset.ray_share import Resources, blocks_of, share_of
from ovam.dataset.ray_worker import MOST_BEGUN, Job, UnitMaker
from ovam.dataset.recipe import recipe_of
from ovam.dataset.recipe_text import recipe_text
from ovam.dataset.units import unit_of, units_of
from ovam.dataset.work import Run
from ovam.defaults import CHOSEN_HASH
from ovam.errors import DatasetError, MissingPackageError, OptionError
from test_cli import assert_fails, call


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe for a tiny pipeline in a folder: ten units, nine of 2 items and one of 1."""
    model = tmp_path_factory.mktemp("models") / "tiny-sd1"
    tiny.sd1().save_pretrained(model)
    run = {"model": str(model), "num_inference_steps": 2, "batch": 2, "height": 32, "width": 32}
    return recipe_of({"data": {"classes": ["dog", "cat", "car"], "number": 19, "name": "small"}, "model": run})


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """Folder of the data set that one process made."""
    folder = tmp_path_factory.mktemp("dataset") / "whole"
    generate(recipe, folder)
    return folder


@pytest.fixture
def begun(whole, tmp_path):
    """A folder as it is when the first worker begins, and the job."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("recipe.toml", "dataset.json"):
        shutil.copy(whole / name, out)
    (tmp_path / "room").mkdir()
    weights = json.loads((whole / "dataset.json").read_text())["model"]["hash"]
    return Job(str(out), str(tmp_path / "room"), "cpu", 1, weights, CHOSEN_HASH, {})


def status_of(rows):
    return dict(zip(rows["index"], rows["status"], strict=True))


def test_workers_write_what_one_process_writes(recipe, whole, begun):
    first, second = UnitMaker(begun), UnitMaker(begun)
    for numbers in blocks_of(units_of(19, 2), 2):
        maker = (first, second)[numbers[0] % 2]
        rows = maker({"unit": np.array(numbers)})
        assert set(rows["status"]) == {"done"}
        assert all(rows["worker"])
    assert len(list(read(begun.folder).folder.glob("manifest-*.jsonl"))) == 2
    assert generate(recipe, begun.folder)["skipped"] == 19  # which ends the data set, as the job's own process does
    assert digests(read(begun.folder).folder) == digests(whole)


def test_a_block_that_comes_again_makes_what_is_missing_alone(whole, begun, monkeypatch):
    UnitMaker(begun)({"unit": np.array([0, 1])})
    out = read(begun.folder).folder
    (out / "items" / "000003.json").unlink()
    before = digests(out)
    made, run = [], Model.run
    monkeypatch.setattr(Model, "run", lambda self, some, after=None: made.append(some[0].index) or run(self, some))
    rows = UnitMaker(begun)({"unit": np.array([0, 1])})
    assert made == [2]  # the unit of items 2 and 3
    assert status_of(rows) == {0: "done", 1: "done", 2: "done", 3: "done"}
    assert [bool(worker) for worker in rows["worker"]] == [False, False, False, True]
    assert digests(out).items() >= before.items()
    assert (out / "items" / "000003.json").read_bytes() == (whole / "items" / "000003.json").read_bytes()


def test_what_always_kills_its_worker_is_given_up(begun):
    maker = UnitMaker(begun)
    for _ in range(MOST_BEGUN):
        maker._begun(4)
    rows = maker({"unit": np.array([4, 5])})
    assert status_of(rows) == {8: "failed", 9: "failed", 10: "failed", 11: "failed"}
    assert "killed 5 times" in rows["error"][0]
    assert status_of(maker({"unit": np.array([6])})) == {12: "done", 13: "done"}


def test_what_fails_comes_back_and_what_ends_the_worker_too(begun, monkeypatch):
    broken = {"count": 0}

    def run(self, items, after=None):
        broken["count"] += 1
        raise RuntimeError("out of memory")

    maker = UnitMaker(begun)
    maker._loaded()
    monkeypatch.setattr(Model, "run", run)
    rows = maker({"unit": np.array([0])})
    assert status_of(rows) == {0: "failed", 1: "failed"}
    assert rows["error"][0] == "RuntimeError: out of memory"
    rows = maker({"unit": np.array([1, 2, 3])})
    assert (rows["index"], rows["status"]) == ([-1], ["ended"])
    assert "3 units failed one after another" in rows["error"][0]
    assert broken["count"] == 3
    monkeypatch.undo()

    def full(self, name, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(store.Store, "write", full)
    assert "the disk is full" in UnitMaker(begun)({"unit": np.array([0])})["error"][0]
    monkeypatch.undo()
    for changed, message in (
        ({"model": "0" * 16}, "the same weights on all machines"),
        ({"defaults": "0" * 16}, "the same version of ovam on all machines"),
    ):
        rows = UnitMaker(replace(begun, **changed))({"unit": np.array([0])})
        assert message in rows["error"][0]


def test_lines_of_workers_are_noted_once():
    run = Run(None, None, None)
    run.failures[3] = "before"
    rows = {"index": [2, 3, 4, 9], "status": ["done", "done", "failed", "done"], "error": ["", "", "why", ""]}
    by = _noted(run, rows | {"worker": ["a:1", "", "", "a:1"]}, {2, 3, 4})
    assert (run.made, run.failures, by) == (2, {4: "why"}, ["a:1", "a worker that was killed"])
    with pytest.raises(DatasetError, match="no more"):
        _noted(run, {"index": [-1], "status": ["ended"], "error": ["no more"], "worker": ["a:1"]}, {2})


@pytest.mark.parametrize(
    ("cpus", "gpus", "machines", "workers", "device", "threads"),
    [
        (2, 0, 1, 2, "cpu", 1),
        (2, 0, 1, 8, "cpu", 1),
        (64, 0, 4, 0, "cpu", 8),
        (8, 8, 1, 0, "cuda", 4),
        (1, 0, 1, 1, "cpu", 1),
    ],
)
def test_workers_never_take_all_cores(cpus, gpus, machines, workers, device, threads):
    """Actors hold their cores until the job ends: if they held all, tasks of Ray's own would wait for ever."""
    share = share_of(Resources(cpus, gpus, machines), workers, device, threads)
    assert share.workers == (workers or (gpus if device == "cuda" else cpus // threads))
    assert 0 < share.workers * share.cpus <= cpus - min(machines, cpus / 2)
    assert share.gpus == (device == "cuda")


def test_shares_that_can_not_be_given_are_refused():
    for found, workers, device in (((8, 2, 1), 3, "cuda"), ((8, 0, 1), 0, "cuda")):
        with pytest.raises(OptionError, match=f"the cluster has {found[1]} GPUs"):
            share_of(Resources(*found), workers, device, 1)
    with pytest.raises(OptionError, match="a GPU of its own"):
        share_of(Resources(8, 2, 1), 1, "cuda:1", 1)
    with pytest.raises(OptionError, match="workers=-1"):
        RayOptions(workers=-1)


@pytest.mark.parametrize(("count", "workers", "size"), [(10, 2, 1), (1000, 2, 8), (0, 2, 1), (200_000, 64, 10)])
def test_blocks_hold_each_unit_once(count, workers, size):
    blocks = blocks_of([unit_of(number, 8 * count, 8) for number in range(count)], workers)
    assert [number for block in blocks for number in block] == list(range(count))
    assert max(map(len, blocks), default=1) == size
    assert len(blocks) <= 20_000


def test_ray_is_named_where_it_is_missing(recipe, tmp_path, monkeypatch, sd1):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'ovam\[ray\]'"):
        generate(recipe, tmp_path / "out", ray=RayOptions())
    assert not (tmp_path / "out").exists()
    for extra in ({"pipe": sd1}, {"shard": Shard(1, 2)}):
        with pytest.raises(OptionError, match="together with Ray"):
            generate(recipe, tmp_path / "out", ray=RayOptions(), **extra)
    file = tmp_path / "r.toml"
    file.write_text(recipe_text(recipe))
    made = ("dataset", "generate", file, "--output-dir", tmp_path / "out")
    assert_fails(call(*made, "--engine", "ray", "--workers", 2), "ovam[ray]")
    for wrong in (("--workers", 2), ("--engine", "dask"), ("--engine", "ray", "--shard", "1/2"), ("--workers", 0)):
        assert call(*made, *wrong).exit_code == 2


def workers_of(process):
    """Processes of Ray in which units are made, by number."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "UnitMaker" in " ".join(child.cmdline()):
                found.append(child.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return sorted(found)


def listening(process):
    """Addresses on which a process and its children listen."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            found |= {each.laddr.ip for each in one.net_connections("inet") if each.status == psutil.CONN_LISTEN}
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.long
@pytest.mark.timeout(900)  # three processes load the libraries, which takes minutes on a machine that is busy
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra")
@pytest.mark.filterwarnings("default")  # Ray's own
@pytest.mark.usefixtures("shipped_words")  # as in Ray's processes, which no test has changed
def test_a_killed_worker_costs_only_time(recipe, tmp_path, capsys):
    killed, open_to = [], set()

    def kill_once(what, done, total):
        open_to.update(listening(psutil.Process()))
        if done and not killed and (there := workers_of(psutil.Process())):
            os.kill(there[0], signal.SIGKILL)
            killed.append(there[0])

    generate(recipe, tmp_path / "whole")
    before = set(psutil.Process().children(recursive=True))
    result = generate(recipe, tmp_path / "out", ray=RayOptions(workers=2), progress=kill_once)
    assert killed
    assert not capsys.readouterr().out  # what Ray tells is no part of a command's result
    assert open_to <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert (result["made"], result["failed"], result["complete"]) == (19, 0, True)
    assert sum(result["workers"].values()) == 19
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not set(psutil.Process().children(recursive=True)) - before  # nothing of the cluster is left
