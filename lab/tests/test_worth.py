"""What generated data is worth: data sets, rows, figures, bars, the page. Its run as a whole is `make quick`."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tiny
from lab.fits.scenes import annotation_scenes
from lab.mini.oracle import IGNORE
from lab.training import figures, page, paper, real, segmenters, synthetic
from lab.training.chart import chart
from lab.training.processes import in_processes
from lab.training.quality import halves, quality, ranked
from lab.training.study import (
    AT_RANDOM,
    MASKS,
    ORACLE,
    REFINED,
    SELECTED,
    SETS,
    TOKENS,
    WORDS,
    Study,
    mixed_name,
    names_of,
    real_name,
    rows_of,
    slug,
)
from ovam.dataset.checking import check
from ovam.dataset.filters import by_quantile
from ovam.dataset.layout import read
from ovam.dataset.manifest import Shard
from ovam.dataset.model import Model
from ovam.dataset.recipe import recipe_of
from ovam.mini.scenes import CLASSES, LABELS
from ovam.pictures import palette_png
from ovam.train import read_labelled

SMALL = Study(classes=("car", "bus", "dog"), real=(3, 5), pictures=4, tested=3, validation=2, steps=2, seeds=(0,))


def test_rows_share_steps_and_count_their_labels():
    rows = rows_of(Study(classes=CLASSES))
    labels = {row.name: row.labels for row in rows}
    assert len(rows) == len(labels) == 15
    assert [labels[real_name(count)] for count in (20, 50, 100, 500)] == [20, 50, 100, 500]
    assert (labels[WORDS], labels[TOKENS], labels[ORACLE]) == (0, 20, None)
    assert labels[mixed_name(50, SELECTED)] == 50
    assert set(names_of(rows)) == {*MASKS, SELECTED, AT_RANDOM, *(real_name(count) for count in (20, 50, 100, 500))}
    assert Study(classes=CLASSES).validation <= min(Study(classes=CLASSES).real)
    assert len({slug(row.name) for row in rows}) == 15
    assert SMALL.mixed == 3


def test_annotations_behind_tokens_are_among_the_real_scenes():
    scenes = list(real.training_scenes(SMALL.classes, 5))
    annotated = annotation_scenes(SMALL.classes, 1)
    assert [scene.seed for scene in scenes[:3]] == [annotated[name][0].seed for name in SMALL.classes]
    assert len({scene.seed for scene in scenes}) == 5
    assert all(scene.split == "train" for scene in scenes)


def test_real_sets_hold_the_smaller_ones_and_no_other_split(tmp_path):
    study = replace(SMALL, work_dir=tmp_path)
    sets = real.real_sets(study)
    names = {name: {file.name for file in (folder / "images").iterdir()} for name, folder in sets.items()}
    assert [len(names[name]) for name in ("real 3", "real 5", real.VALIDATION, *SETS)] == [3, 5, 2, 3, 3]
    assert names["real 3"] < names["real 5"]
    assert len(set.union(*names.values())) == 13
    data = read_labelled(sets["test"], "val")
    assert data.classes == {LABELS[name]: name for name in SMALL.classes}
    scene = next(real._scenes("test", real.FIRST["test"], 1))
    for value in np.unique(np.asarray(Image.open(data.pairs[0][1]))):
        assert value == 0 or value in data.classes
    for name in SMALL.classes:
        assert (real.labels_of(scene, SMALL.classes) == LABELS[name]).sum() == scene.mask(name).sum()
    assert real.real_sets(study) == sets


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Data sets of a tiny pipeline; tokens stand for no class, and the oracles are asked as always."""
    folder = tmp_path_factory.mktemp("worth")
    study, pipe = replace(SMALL, work_dir=folder), tiny.sd1()

    def small(study, model, name, masks):
        run = {"model": model, "num_inference_steps": 2, "batch": 2, "height": 64, "width": 64}
        data = {"vocabulary": "voc", "classes": list(study.classes), "number": study.pictures, "name": name}
        if masks["refine"]:  # random self-attention and pictures have no outlines: eight products or a CRF take all
            masks = {**masks, "refine_method": "restart", "products": 1, "crf": False}
        return recipe_of({"data": data, "model": run, "masks": masks, "splits": {"train": 1, "validation": 0}})

    patch = pytest.MonkeyPatch()
    patch.setattr(synthetic, "_recipe", small)
    sets = synthetic.synthetic_sets(pipe, study, "tiny", [])
    yield study, pipe, sets
    patch.undo()


def test_pictures_are_the_same_and_masks_are_not(generated):
    _, _, sets = generated
    data = {name: read(folder) for name, folder in sets.items()}
    for name in MASKS:
        assert check(sets[name])["passed"]
        assert [item.image_sha256 for item in data[name].items] == [item.image_sha256 for item in data[WORDS].items]
        assert data[name].splits == ("train",)
    masks = {name: [item.mask_sha256 for item in data[name].items] for name in MASKS}
    assert masks[WORDS] != masks[REFINED]
    assert masks[WORDS] != masks[ORACLE]
    assert len(data[SELECTED].items) == len(data[AT_RANDOM].items) == 2
    filters = data[SELECTED].about.view["filters"]
    assert filters["least_unrefined_quantile"] == filters["least_clip_quantile"] == pytest.approx(1 - 0.5**0.5)


def test_masks_are_judged_by_the_oracles_on_pixels_that_both_decide(generated):
    _, _, sets = generated
    found = {line["set"]: line for line in quality(sets, (WORDS, REFINED, SELECTED))}
    assert [line["pictures"] for line in found.values()] == [4, 4, 2]
    pairs = [
        (one.labels(), other.labels())
        for one, other in zip(read(sets[REFINED]).items, read(sets[ORACLE]).items, strict=True)
    ]
    shares = []
    for value in (0, *(LABELS[name] for name in SMALL.classes)):
        both = either = true = 0
        for mask, truth in pairs:
            decided = (mask != IGNORE) & (truth != IGNORE)
            true += ((truth == value) & decided).sum()
            both += ((mask == value) & (truth == value) & decided).sum()
            either += (((mask == value) | (truth == value)) & decided).sum()
        shares += [both / either] if true else []
    assert found[REFINED]["miou"] == pytest.approx(100 * np.mean(shares))
    assert found[REFINED]["undecided"] == pytest.approx(100 * np.mean([mask == IGNORE for mask, _ in pairs]))
    assert found[WORDS]["undecided"] == 0 < found[REFINED]["undecided"]


def test_a_score_that_is_the_iou_with_the_oracles_ranks_perfectly(generated, tmp_path):
    """The truth is the masks with some columns erased or undecided; two scores are replaced by the IoU that is left."""
    _, _, sets = generated
    mask_set, truth_set = tmp_path / "masks", tmp_path / "truth"
    shutil.copytree(sets[REFINED], mask_set)
    shutil.copytree(sets[REFINED], truth_set)
    for item in read(mask_set).items:
        mask, shares = item.labels(), {}
        truth = mask.copy()
        truth[:, : 8 * (1 + item.index)], truth[:, 60:] = 0, IGNORE
        palette_png(truth).save(truth_set / item.mask)
        for name in item.classes:
            pairs = zip(mask[:, :60].flat, truth[:, :60].flat, strict=True)
            own = [(one == LABELS[name], other == LABELS[name]) for one, other in pairs if IGNORE not in (one, other)]
            shares[name] = sum(map(all, own)) / max(1, sum(map(any, own)))
        file = mask_set / "items" / f"{item.stem}.json"
        content = json.loads(file.read_text())
        content["scores"] |= {"unrefined": shares, "stability": {name: -value for name, value in shares.items()}}
        file.write_text(json.dumps(content))
    found = ranked({REFINED: mask_set, ORACLE: truth_set}, REFINED)
    assert found["unrefined"] == pytest.approx(1)
    assert found["stability"] == pytest.approx(-1)
    assert set(found) == {"presence", "confidence", "stability", "unrefined", "clip"}


def test_halves_are_judged_like_data_sets_of_their_pictures(generated, tmp_path):
    _, _, sets = generated
    found = {line["filter"]: line for line in halves(sets, REFINED)}
    assert set(found) == {"presence", "confidence", "stability", "unrefined", "clip", "area", "at random"}
    items = read(sets[REFINED]).items
    for score in ("unrefined", "clip"):
        kept = {item.index for item in by_quantile(items, score, 0.5)}
        shutil.copytree(sets[REFINED], tmp_path / score)
        for item in items:
            if item.index not in kept:
                (tmp_path / score / "items" / f"{item.stem}.json").unlink()
        (line,) = quality({score: tmp_path / score, ORACLE: sets[ORACLE]}, (score,))
        assert line["pictures"] == len(kept) == found[score]["pictures"] == 3
        for name in ("miou", "undecided", "drawn"):
            assert line[name] == pytest.approx(found[score][name])
    seen = [(LABELS[name] == item.labels()).any() for item in read(sets[ORACLE]).items for name in item.classes]
    (line,) = quality(sets, (WORDS,))
    assert line["drawn"] == pytest.approx(100 * np.mean(seen))


def test_a_run_that_broke_off_makes_what_is_missing(generated, monkeypatch):
    study, pipe, sets = generated
    before = {path: path.read_bytes() for name in MASKS for path in sets[name].rglob("*") if path.is_file()}
    (sets[TOKENS] / "items" / "000003.json").unlink()
    made, run = [], Model.run
    monkeypatch.setattr(Model, "run", lambda self, some: made.extend(one.index for one in some) or run(self, some))
    assert synthetic.synthetic_sets(pipe, study, "tiny", []) == sets
    assert made == [2, 3]
    assert {path: path.read_bytes() for name in MASKS for path in sets[name].rglob("*") if path.is_file()} == before


def test_oracles_say_only_what_the_prompt_names(generated):
    _, _, sets = generated
    for item in read(sets[ORACLE]).items:
        named = {LABELS[name] for name in item.classes}
        assert set(np.unique(item.labels()).tolist()) <= {0, IGNORE, *named}


# figures


def by_hand(counts, first):
    """Mean IoU by plain loops over labels and pictures."""
    values = []
    for label in range(first, counts.shape[1]):
        both = either = true = 0
        for picture in counts:
            both, either, true = both + picture[label][0], either + picture[label][1], true + picture[label][2]
        if true:
            values.append(both / either)
    return sum(values) / len(values)


def drawn(seed, share):
    """Counts of two seeds on 12 pictures, in which a label's IoU is about a share; label 2 is true nowhere."""
    random = np.random.default_rng(seed)
    either = random.integers(50, 200, (2, 12, 4))
    both = (either * share).astype(int) + random.integers(0, 5, either.shape)
    true = np.maximum(both, either - 20)
    true[:, :, 2], both[:, :, 2] = 0, 0
    return np.stack([both, either, true], axis=-1)


def test_miou_is_pooled_and_absent_labels_are_absent():
    counts = drawn(0, 0.5)
    for background in (True, False):
        expected = [by_hand(one, 0 if background else 1) for one in counts]
        assert figures.by_seed(counts, background=background) == pytest.approx(expected)


def test_differences_and_ratios_are_of_the_means_over_seeds():
    counts = {"a": drawn(0, 0.6), "b": drawn(1, 0.4)}
    a, b = (np.mean([by_hand(one, 0) for one in counts[name]]) for name in ("a", "b"))
    assert figures.difference(counts, "a", "b").value == pytest.approx(100 * (a - b))
    assert figures.ratio(counts, "a", "b").value == pytest.approx(100 * a / b)
    found = figures.difference(counts, "a", "b")
    assert found.low < found.value < found.high
    same = figures.difference(counts, "a", "a")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def shares(**changed):
    """A share for each row of the study on car, bus and dog."""
    usual = dict.fromkeys([row.name for row in rows_of(SMALL)], 0.5)
    return {**usual, **changed}


def results(shared):
    return {name: {row: drawn(number, share) for number, (row, share) in enumerate(shared.items())} for name in SETS}


@pytest.mark.parametrize(
    ("changed", "met"),
    [
        ({TOKENS: 0.6}, [0]),
        ({REFINED: 0.49, ORACLE: 0.5}, [1]),
        ({REFINED: 0.3, ORACLE: 0.5}, [5]),  # the selected half is then above it
        ({"real 3": 0.43}, [3]),
        ({"real 3": 0.35}, [3, 4]),
        ({SELECTED: 0.6}, [5, 6]),
    ],
)
def test_bars_are_met_by_their_own_figures(changed, met, monkeypatch):
    monkeypatch.setattr(figures, "RESAMPLES", 10)
    low = {TOKENS: 0.5, WORDS: 0.5, "real 5": 0.9, SELECTED: 0.45, AT_RANDOM: 0.47, ORACLE: 0.6}
    lines = figures.bars(SMALL, results(shares(**(low | changed))))
    assert [line["set"] for line in lines] == ["test"] * 7 + ["domain b"] * 7
    assert [number for number, line in enumerate(lines[:7]) if line["met"]] == met


def test_the_page_has_all_rows_and_bars(monkeypatch):
    monkeypatch.setattr(figures, "RESAMPLES", 10)
    rows, counts = rows_of(SMALL), results(shares(**{TOKENS: 0.6}))
    about = dict.fromkeys(("command", "model", "version", "note", "parameters", "date", "processor", "threads"), "x")
    about |= dict.fromkeys(("steps", "batch_size", "size", "validation", "tested", "pictures", "guidance"), 2)
    about |= {"seeds": [0, 1], "rate": 0.001}
    about |= {"versions": {"torch": "2"}, "most_real": "real 5", "real_rows": ["real 3", "real 5"]}
    found = {"rows": figures.table(rows, counts), "bars": figures.bars(SMALL, counts), "about": about}
    found["scores"] = {"stability": 0.431, "unrefined": 0.75}
    found["masks"] = [{"set": WORDS, "pictures": 4, "miou": 53.68, "undecided": 1.25}]
    found["halves"] = [{"filter": "clip", "pictures": 2, "miou": 60.01, "undecided": 3.0, "drawn": 94.44}]
    text = page.page(json.loads(json.dumps(found)))
    assert all(f"| {row.name} |" in text for row in rows)
    assert text.count("| pass |") == sum(line["met"] for line in found["bars"])
    assert text.count("| fail |") == sum(not line["met"] for line in found["bars"])
    assert f"{paper.CLAIM} points" in text
    assert "| words | 4 | 53.7 | 1.2 % |" in text
    assert "| clip | 2 | 60.0 | 3.0 % | 94.4 % |" in text
    assert text.index("| unrefined | 0.75 |") < text.index("| stability | 0.43 |")
    assert chart(found["rows"]).height > 34 * len(rows)


# training


def test_processes_yield_results_with_their_numbers_and_stop_at_an_error():
    calls = [(0.5,), (0.0,), (math.nan,)]
    assert dict(in_processes(math.cos, calls[:2], lambda: None)) == {0: math.cos(0.5), 1: 1.0}
    with pytest.raises(TypeError):
        list(in_processes(math.cos, [("x",), *calls], lambda: None, jobs=1))


def test_parts_of_the_generation_give_the_same_data_sets(generated, tmp_path):
    study, pipe, sets = generated
    recipes = synthetic.recipes_of(study, "tiny", [])
    folders = {name: tmp_path / name for name in MASKS}
    for name in MASKS:
        shutil.copytree(sets[name], folders[name], ignore=shutil.ignore_patterns("*.json", "manifest*"))
    for part in (2, 1):
        synthetic.make_part(recipes, folders, Shard(part, 2), pipe=pipe)
    for name in MASKS:
        for item in read(sets[name]).items:
            file = f"items/{item.stem}.json"
            assert (folders[name] / file).read_bytes() == (sets[name] / file).read_bytes()
        assert sorted(path.name for path in folders[name].glob("manifest*")) == [
            "manifest-1-of-2.jsonl",
            "manifest-2-of-2.jsonl",
        ]


def test_a_row_is_trained_once_and_counted_by_picture(tmp_path):
    study = replace(SMALL, work_dir=tmp_path, batch_size=2, size=32)
    sets = real.real_sets(study)
    row = rows_of(study)[0]
    found = segmenters.outcome_of(row, 0, sets, study)
    assert not list(tmp_path.rglob("checkpoint-*"))
    segmenter = segmenters.load(next(tmp_path.rglob("tested.json")).parent)
    for name in SETS:
        assert found["counts"][name].shape == (3, 4, 3)
        data = read_labelled(sets[name], "val")
        for number, (picture, mask) in enumerate(data.pairs):
            predicted, truth = segmenter(picture), np.asarray(Image.open(mask))
            for label, value in enumerate((0, *sorted(LABELS[each] for each in study.classes))):
                one, other = predicted == value, truth == value
                expected = [(one & other).sum(), (one | other).sum(), other.sum()]
                assert found["counts"][name][number, label].tolist() == expected
    file = next(tmp_path.rglob("tested.json"))
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "seconds": -1}))
    assert segmenters.outcome_of(row, 0, sets, study)["seconds"] == -1  # it was read, not made again
    assert segmenters.outcome_of(row, 0, sets, replace(study, steps=1))["seconds"] != -1
