"""The measurement of how far tokens carry: which scenes it takes, how it adds up, and what it takes from its files."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ovam
from lab.digest import syntax_of
from lab.fits import __main__ as command
from lab.fits import generated, opened, page, plan, scenes, table, tune
from lab.fits.bars import bars, holds_alone
from lab.fits.methods import registry, variant
from lab.fits.outcome import Outcome, Row, row_of
from lab.fits.store import Store
from lab.fits.traces import Traces
from lab.measure import as_typed
from lab.mini.oracle import IGNORE
from ovam.errors import OptionError
from ovam.mini.scenes import LABELS, render, seed_of
from ovam.tokens.options import PULL

ROOT = Path(__file__).parents[2]
CAT = LABELS["cat"]


def scene_of(*names, share):
    """As much of a scene as drawing annotations needs; the first thing covers `share`."""
    mask = np.arange(100) < 100 * share
    return SimpleNamespace(objects=[SimpleNamespace(name=name) for name in names], mask=lambda name: mask)


def test_annotations_show_one_thing_alone_and_large_enough_and_were_never_trained_on():
    drawn = {
        0: scene_of("cat", "dog", share=0.5),
        1: scene_of("cat", share=0.03),
        2: scene_of("cat", share=0.04),
        3: scene_of("cow", share=0.5),
        4: scene_of("dog", share=0.3),
        5: scene_of("dog", share=0.2),
        6: scene_of("dog", share=0.1),
        7: scene_of("cat", "cat", share=0.5),
        8: scene_of("cat", share=0.9),
    }
    found = scenes.annotation_scenes(
        ["cat", "dog"],
        2,
        names_of=lambda index: [thing.name for thing in drawn[index - scenes.UNUSED].objects],
        scene_of=lambda index: drawn[index - scenes.UNUSED],
    )
    assert found == {"cat": [drawn[2], drawn[8]], "dog": [drawn[4], drawn[5]]}


def test_names_are_those_of_the_rendered_scene():
    for index in range(scenes.UNUSED, scenes.UNUSED + 8):
        things = render(seed_of("train", index), split="train").objects
        assert scenes.names_at(index) == [thing.name for thing in things]


def test_a_class_is_scored_where_it_is_seen_and_asked_elsewhere_where_nothing_of_it_is():
    drawn = [scene_of("cat", share=share) for share in (0.0, 0.01, 0.02)]
    assert list(scenes.scored_with(drawn, "cat")) == drawn[2:]
    assert list(scenes.without(drawn, "cat")) == drawn[:1]


@pytest.fixture(scope="module")
def twins():
    """A validation scene with two things of a class, one of a look that training shows."""
    scene = render(seed_of("validation", 0), split="validation", count=2)
    first = replace(scene.objects[0], name="cat", novel=False)
    return replace(scene, objects=(first, replace(first, novel=True)), ground="road")


def test_twins_of_different_looks_are_in_no_slice_of_looks(twins):
    assert scenes.slices_of(twins, "cat") == (scenes.TOGETHER, *_ground(twins))
    alone = replace(twins, objects=twins.objects[1:])
    assert scenes.slices_of(alone, "cat") == (scenes.ALONE, "novel looks", *_ground(twins))


def _ground(scene):
    name = scenes.GROUNDS.get(scene.context(scene.objects[0]))
    return () if name is None else (name,)


def test_counts_are_of_pixels_above_the_border(twins):
    labels = np.full((2, 3), LABELS["dog"], dtype=np.uint8)
    labels[0] = LABELS["cat"]
    row = row_of(np.array([[0.9, 0.6, 0.5], [0.7, 0.1, 0.2]]), replace(twins, labels=labels), "cat")
    assert (row.both, row.either) == (2, 4)
    assert abs(row.precision - (1 / 1 + 2 / 3 + 3 / 4) / 3) < 1e-12  # ranks 1, 3 and 4 are right


def test_pixels_on_which_the_oracles_differ_count_for_nothing():
    """Of four pixels of cat, one is unsure to the oracles; so is one that is neither's."""
    labels = np.array([[CAT, CAT, CAT], [IGNORE, IGNORE, 0]], dtype=np.uint8)
    picture = generated.Picture(7, np.zeros((2, 3, 3), np.uint8), labels, [SimpleNamespace(name="cat")])
    row = row_of(np.array([[0.9, 0.6, 0.5], [0.99, 0.1, 0.7]]), picture, "cat")
    assert (row.both, row.either) == (2, 4)
    assert abs(row.precision - (1 / 1 + 2 / 3 + 3 / 4) / 3) < 1e-12  # of four ranks the first, third and fourth
    assert row.slices == (scenes.ALONE,)
    pair = replace(picture, objects=[SimpleNamespace(name=name) for name in ("cat", "dog")])
    assert scenes.slices_of(pair, "cat") == (scenes.TOGETHER,)
    assert list(scenes.scored_with([picture], "cat")) == list(scenes.without([picture], "dog")) == [picture]


def test_a_truth_is_what_its_oracles_agree_on(monkeypatch):
    """Two oracles that differ in one pixel's class, and in a ground, which is background to both."""
    seen = {"a": [[CAT, CAT, LABELS["sand"]]], "b": [[CAT, LABELS["dog"], LABELS["grass"]]]}
    monkeypatch.setattr(generated, "load_oracles", lambda: seen)
    monkeypatch.setattr(generated, "label_maps", lambda oracle, images: np.array([oracle], dtype=np.uint8))
    images = np.zeros((1, 1, 3, 3), np.uint8)
    found = {truth: generated.labels_of(images, names)[0, 0].tolist() for truth, names in generated.TRUTHS.items()}
    dog = LABELS["dog"]
    assert found == {"generated": [CAT, IGNORE, 0], "generated-a": [CAT, CAT, 0], "generated-b": [CAT, dog, 0]}


def outcome(*counts, slices=((),) * 9, own=(1, 2), elsewhere=0.1, seconds=1.0, precision=0.5):
    rows = (Row(seed, *pair, precision, kinds) for seed, (pair, kinds) in enumerate(zip(counts, slices, strict=False)))
    return Outcome(tuple(rows), own, elsewhere, seconds)


ONE, TWO = (scenes.ALONE,), (scenes.TOGETHER,)
OUTCOMES = {
    "word": {
        "cat": [outcome((1, 4), (1, 4), slices=(ONE, TWO))],  # 0.25
        "dog": [outcome((3, 6), slices=(TWO,), elsewhere=0.3, precision=1.0)],  # 0.5
    },
    "default": {
        "cat": [
            outcome((4, 6), (2, 6), slices=(ONE, TWO), seconds=3.0),  # 0.5
            outcome((5, 5), (0, 15), slices=(ONE, TWO), own=(1, 1)),  # 0.25
        ],
        "dog": [outcome((9, 10), slices=(TWO,)), outcome((7, 10), slices=(TWO,), elsewhere=None)],  # 0.9, 0.7
    },
}


def test_figures_pool_pixels_then_average_classes_and_draws():
    found = table.figures(OUTCOMES["default"])
    assert abs(found["mIoU"] - (0.5 + 0.25 + 0.9 + 0.7) / 4) < 1e-12
    assert abs(found["worst draw"] - (0.25 + 0.7) / 2) < 1e-12
    assert abs(found["IoU by image"] - (0.5 + 0.5 + 0.9 + 0.7) / 4) < 1e-12
    assert abs(found["own scene"] - (0.5 + 1 + 0.5 + 0.5) / 4) < 1e-12
    assert abs(found["classes"]["cat"] - 0.375) < 1e-12
    assert (found["draws"], found["seconds"], found["scenes"]) == (2, 1.0, 3)
    assert abs(found["elsewhere"] - 0.1) < 1e-12
    assert abs(table.figures(OUTCOMES["word"])["AP"] - 0.75) < 1e-12


def test_a_difference_is_that_of_the_figures_and_its_interval_holds_it():
    found = table.table(OUTCOMES, resamples=200)
    methods = found["methods"]
    value, low, high = methods["default"]["minus word"]
    assert abs(value - (methods["default"]["mIoU"] - methods["word"]["mIoU"])) < 1e-12
    assert low < value < high
    assert abs(methods["word"]["minus default"][0] + value) < 1e-12


def test_a_difference_takes_only_scenes_that_both_were_asked_of():
    word = {"cat": [outcome((1, 4), (4, 4))]}
    found = table.difference({"cat": [outcome((3, 4))]}, word, resamples=10)
    assert found.value == 0.5


def test_slices_take_the_classes_that_have_scenes_in_them():
    found = table.table(OUTCOMES, resamples=20)["slices"]
    alone, together = found[scenes.ALONE], found[scenes.TOGETHER]
    assert alone["scenes"] == 1
    assert abs(alone["default"] - (4 / 6 + 1) / 2) < 1e-12
    assert abs(alone["difference"][0] - (alone["default"] - 0.25)) < 1e-12
    assert abs(together["default"] - ((2 / 6 + 0.9) / 2 + (0 + 0.7) / 2) / 2) < 1e-12
    assert found[scenes.LOOKS["novel"]] == {"scenes": 0}


def test_an_annotation_drawn_twice_counts_twice():
    rows = np.array([[1, 2, 0, 2, 0], [1, 2, 0, 2, 0], [0, 2, 0, 2, 1]])  # gains of 0.5, 0.5 and 0
    assert abs(table._mean_gap(rows, np.zeros(3, dtype=int)) - 2 / 6 * 1) < 1e-12


def test_the_threshold_is_that_of_the_best_mean_over_classes():
    truth = np.array([True, True, False, False])
    counts = [tune.counts_at(np.array(scores), truth) for scores in ([0.9, 0.62, 0.55, 0.1], [0.8, 0.7, 0.1, 0.58])]
    threshold, reached = tune.best_threshold(counts)
    assert (round(threshold, 3), reached) == (0.6, 1.0)
    assert counts[0][0].tolist() == [2, 4]


def reaching(best: float, tried_rates: list[float]):
    """In place of `tune._tried`: the nearer a rate is to the best, the better."""

    def tried(descent, rate, tasks, traces):
        tried_rates.append(rate)
        reached = -abs(np.log10(rate / best))
        return [{"rate": rate, "iterations": 7, "threshold": 0.4, "mIoU": reached}]

    return tried


def test_a_tuning_keeps_what_was_tried_before_on_the_same_basis_alone(tmp_path, monkeypatch):
    traces, rates = Traces(ovam.load("mini"), tmp_path, {"timesteps": (50,)}), list[float]()
    monkeypatch.setattr(tune, "_tried", reaching(3.0, rates))
    found = tune.tune(traces, classes=["car"], count=8, rates=(1.0, 3.0, 10.0))
    assert rates == [1.0, 3.0, 10.0]
    assert found["authors, tuned"] == asdict(tune._of_authors(3.0, 7, 0.4))
    assert "SLiMe, tuned" not in found  # these traces have no self-attention
    again = tune.tune(traces, classes=["car"], count=8, rates=(2.0, 3.0, 10.0), known=found)
    assert rates[3:] == [2.0]
    assert again["tried"]["authors, tuned"] == [*found["tried"]["authors, tuned"], again["tried"]["authors, tuned"][-1]]
    tune.tune(traces, classes=["car"], count=9, rates=(1.0, 3.0, 10.0), known=found)
    assert rates[4:] == [1.0, 3.0, 10.0]


@pytest.mark.parametrize(("best", "widened"), [(0.004, [0.1, 0.01, 0.001]), (2000.0, [1000.0, 1e4]), (4.0, [])])
def test_rates_are_tried_until_the_best_lies_between_others(best, widened, tmp_path, monkeypatch):
    rates = list[float]()
    monkeypatch.setattr(tune, "_tried", reaching(best, rates))
    traces = Traces(ovam.load("mini"), tmp_path, {"timesteps": (50,)})
    tune.tune(traces, classes=["car"], count=8, rates=(1.0, 10.0, 100.0))
    assert rates[3:] == pytest.approx(widened)


def test_outcomes_are_found_again_by_all_that_they_depend_on_and_no_others(tmp_path):
    one = outcome((1, 4), (2, 3), slices=(ONE, TWO), elsewhere=None)
    key = {"method": "default", "settings": {"pull": 0.3}, "class": "cat", "draw": 0}
    Store(tmp_path, {"model": "a"}).put(key, one)
    assert Store(tmp_path, {"model": "a"}).get(key) == one
    assert Store(tmp_path, {"model": "b"}).get(key) is None
    assert Store(tmp_path, {"model": "a"}).get({**key, "settings": {"pull": 3}}) is None


def test_a_variant_has_the_defaults_beside_what_it_names():
    assert variant({"distance": 0.01}).settings["pull"] == PULL
    assert variant({"distance": 0.01}).settings["distance"] == 0.01
    assert "word" not in registry({})
    assert list(registry({"word": {"threshold": 0.4}}))[:2] == ["word", "default"]


FIGURES = {
    "mIoU": 0.3, "worst draw": 0.29, "draws": 5, "IoU by image": 0.3, "AP": 0.4, "elsewhere": 0.1, "own scene": 0.8,
    "seconds": 0.4, "classes": {"cat": 0.3}, "scenes": 7, "minus default": [-0.06, -0.07, -0.05],
}  # fmt: skip
MEASURED = {
    "stamp": {
        "command": "python -m lab.fits",
        "date": "2025-01-31",
        "model": "0123",
        "threads": 1,
        "processor": "a processor",
        "versions": {"torch": "2.13.0"},
        "quick": False,
        "family": "mini",
        "headroom": 0.1,
        "code": "4567",
    },
    "split": "test",
    "scenes": 200,
    "draws": 5,
    "methods": {
        "word": FIGURES,
        "default": {**FIGURES, "mIoU": 0.36, "worst draw": 0.34, "minus word": [0.0599, 0.03, 0.09]},
        "authors, published": {**FIGURES, "mIoU": 0.25, "elsewhere": None, "minus default": [-0.11, -0.15, -0.09]},
    },
    "slices": {
        scenes.ALONE: {"scenes": 5, "word": 0.3, "default": 0.4, "difference": [0.1, 0.0, 0.2]},
        scenes.TOGETHER: {"scenes": 2, "word": 0.3, "default": 0.381, "difference": [0.081, 0.0, 0.2]},
        scenes.LOOKS["seen"]: {"scenes": 2, "word": 0.3, "default": 0.4, "difference": [0.1, 0.0, 0.2]},
        scenes.LOOKS["novel"]: {"scenes": 2, "word": 0.3, "default": 0.29, "difference": [-0.01, -0.1, 0.0]},
        scenes.GROUNDS["canonical"]: {"scenes": 0},
    },
}


def test_a_bar_is_met_where_the_figure_reaches_it():
    verdicts = [(bar.goal, bar.found, bar.met) for bar in bars(MEASURED, 0.1)]
    met = [goal.split(",")[0] for goal, _, met in verdicts if met]
    assert met == [
        "default minus authors",
        "worst of 5 draws above the word",
        "of the gain on one thing",
        "median seconds of a fit (not of encoding and saving) at most 1",
    ]
    assert "60%" in verdicts[0][0]  # 6 points are less than 8, and 5.99 were reached
    assert not bars(MEASURED, 0.5)[0].met  # the bar is 8 points then
    assert bars(MEASURED, 0.0998)[0].met
    assert verdicts[1][1] == "not measured"


def test_the_page_says_what_is_missed_and_that_test_was_not_looked_at():
    text = page.write({"validation": MEASURED})
    assert "4 of 8 bars are met, 3 are missed, 1 are not measured." in text
    assert "test split has not been looked at" in text
    assert "| authors, published | 0.250 |  | -0.110 (-0.150 to -0.090) |" in text
    assert "canonical" not in text
    assert "`python -m lab.fits`" in text
    found = {"test": MEASURED, "validation": {**MEASURED, "split": "validation"}}
    found |= {name: {**MEASURED, "split": name} for name in ("generated", "generated-b")}
    every = page.write(found)
    assert every.count("default minus word, mIoU") == 2  # where both agree as well
    assert "by one oracle alone: the interval above 0 | generated-b | 0.060 (0.030 to 0.090) | yes |" in every
    assert not holds_alone({"methods": {"default": {"minus word": [0.05, -0.01, 0.1]}}}).met
    assert every.index("where both oracles agree") < every.index("by oracle B alone")
    assert "not been looked at" not in every
    assert every.index("On test scenes\n") < every.index("On validation scenes")


def test_the_stamped_command_has_no_folders_of_this_machine():
    found = as_typed("lab.fits", ["--split", "test", "--work-dir", "/here", "--methods", "SLiMe, published"])
    assert found == "python -m lab.fits --split test --methods 'SLiMe, published'"
    given = ["bars", "--weights", "/here/a.safetensors", "--summary", "docs/page.md"]
    assert as_typed("lab.x", given) == "python -m lab.x bars --weights a.safetensors --summary docs/page.md"


def test_a_run_writes_the_page_and_a_second_one_fits_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "chosen.json").write_text(json.dumps({"word": {"threshold": 0.5}}))
    folders = {"--work-dir": "work", "--chosen": "chosen.json", "--output-dir": "docs"}
    given = ["--quick", *(text for option, name in folders.items() for text in (option, str(tmp_path / name)))]
    command.main(given)
    written = json.loads((tmp_path / "docs" / "results" / "tokens" / "validation.json").read_text())
    assert list(written["methods"]) == command.QUICK["methods"]
    assert all(each["scenes"] > 0 for each in written["methods"].values())
    assert written["methods"]["default"]["own scene"] > 0.5  # measured: 0.86
    assert "not for publication" in (tmp_path / "docs" / "tokens-measured.md").read_text()

    def refuse(*given):
        raise OptionError("asked to fit again")

    monkeypatch.setattr(plan, "reach", refuse)
    command.main(given)
    (tmp_path / "chosen.json").write_text(json.dumps({"word": {"threshold": 0.4}}))
    with pytest.raises(OptionError):  # another threshold is another method
        command.main(given)


def test_what_was_chosen_for_another_model_or_other_blocks_is_read_by_no_measurement(tmp_path):
    file, here = tmp_path / "chosen.json", SimpleNamespace(model="now", encoded={"blocks": [16]})
    assert opened.read_chosen(file, here) == {}
    for model, encoded in (("before", {"blocks": [16]}), ("now", {"blocks": [8]})):
        file.write_text(json.dumps({"model": model, "basis": {"encoded": encoded}, "word": {"threshold": 0.5}}))
        with pytest.raises(SystemExit, match="choose again"):
            opened.read_chosen(file, here)
    file.write_text(json.dumps({"model": "now", "basis": {"encoded": {"blocks": [16]}}, "word": {"threshold": 0.5}}))
    assert opened.read_chosen(file, here)["word"] == {"threshold": 0.5}


def test_the_published_tables_are_of_the_model_and_the_headroom_of_the_published_report():
    results = Path(__file__).parents[2] / "docs" / "results"
    report, files = json.loads((results / "mini" / "report.json").read_text()), (results / "tokens").glob("*.json")
    stamps = {file.stem: json.loads(file.read_text())["stamp"] for file in files if file.stem != "gain"}
    if not stamps:  # of another model they were taken away: the page says so
        assert (results.parent / "tokens-measured.md").read_text() == page.write({})
        return
    assert {*stamps} == {"test", "validation", "generated", "generated-a", "generated-b"}
    for name, made in stamps.items():
        assert made["model"] == report["model"], name
        assert made["headroom"] == report["sections"]["headroom"]["gain"][0], name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two files, and what it is called after it was written anew."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "measured"
    (folder / "below").mkdir(parents=True)

    def written(text, file="below/rule.py"):
        for init in ("__init__.py", "below/__init__.py"):
            (folder / init).write_text("")
        (folder / file).write_text(text)
        syntax_of.cache_clear()
        return syntax_of("measured")

    yield written
    syntax_of.cache_clear()


def test_words_change_no_digest_of_code_and_code_does(package):
    plain = package("LIMIT = 2\n\n\ndef rule(a):\n    return a + LIMIT\n")
    commented = (
        '"""Rules."""\nLIMIT = 2  # of all\n"""The limit."""\ndef rule(a):\n    """One."""\n    return (a + LIMIT)\n'
    )
    assert package(commented) == plain
    assert package(commented.replace("a + LIMIT", "a - LIMIT")) != plain
    assert package(commented.replace("2", "3")) != plain
    assert package(commented) == plain
    assert package("", "below/other.py") != plain, "a new file is code as well"


@pytest.mark.user_error
def test_a_package_that_is_gone_can_t_drop_out_of_a_digest_unseen():
    for name in ("lab.gone", "lab.digest"):
        with pytest.raises(ModuleNotFoundError, match=f"{name} is no package"):
            syntax_of(name)
