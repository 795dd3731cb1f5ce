"""Labelled data sets: recipes, prompts, generation that can be stopped anywhere, filters, checks, bad input."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ovam
import tiny
from lab.faults.__main__ import digests, killed
from lab.faults.windows import WINDOWS, arm
from labelled import clear
from ovam.dataset import manifest, store, work
from ovam.dataset.annotate import options_of
from ovam.dataset.captions import read_captions
from ovam.dataset.checking import check
from ovam.dataset.draws import Draws
from ovam.dataset.duplicates import groups_of, hash_of
from ovam.dataset.filters import kept_by
from ovam.dataset.generator import generate
from ovam.dataset.layout import read
from ovam.dataset.manifest import Shard
from ovam.dataset.model import Model
from ovam.dataset.names import checked_name
from ovam.dataset.planning import plan
from ovam.dataset.prompts import prompts_of
from ovam.dataset.recipe import kept_recipe, read_recipe, recipe_of
from ovam.dataset.recipe_text import recipe_text
from ovam.dataset.sections import METHODS, FilterSection
from ovam.dataset.splits import without_leaks
from ovam.dataset.table import rows_of
from ovam.dataset.views import filter_items
from ovam.dataset.vocabularies import VOCABULARIES
from ovam.errors import DatasetError, RecipeError, SpaceMismatchError
from ovam.methods import registry as methods
from test_cli import assert_fails, call, succeed

SMALL = {"num_inference_steps": 2, "batch": 3, "height": 32, "width": 32}
DATA = {"classes": ["dog", "cat", "car"], "number": 7, "name": "small"}
PLACES = {"places": ["grass", "sea"]}


GENTLE = {"refine_method": "restart", "products": 1}
"""Random self-attention knows no outlines: the default's eight products would leave a constant map."""


def small(**changes):
    """A recipe for a tiny pipeline: three units, of 3, 3 and 1 items."""
    tables = {"data": DATA, "model": SMALL, "prompts": PLACES, "masks": GENTLE}
    for section, values in changes.items():
        tables[section] = {**tables.get(section, {}), **values}
    return recipe_of(tables)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a data set that nobody stopped, and the files' digests."""
    folder = tmp_path_factory.mktemp("dataset") / "whole"
    result = generate(small(), folder, pipe=tiny.sd1())
    assert (result["made"], result["skipped"], result["failed"], result["complete"]) == (7, 0, 0, True)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd1"
    tiny.sd1().save_pretrained(folder)
    return folder


# recipes


def test_a_written_recipe_is_read_back(tmp_path):
    recipe = small(masks={"against": ['sky "blue"\n'], "crf": True}, data={"vocabulary": "voc", "classes": []})
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(recipe))
    assert read_recipe(path) == recipe
    assert read_recipe(path).digest() == recipe.digest()
    assert [one.id for one in recipe.classes] == list(range(1, 21))


def test_classes_have_the_numbers_of_their_vocabulary():
    coco = recipe_of({"data": {"vocabulary": "coco", "classes": ["dog", "toothbrush"]}})
    assert [(one.name, one.id) for one in coco.classes] == [("dog", 18), ("toothbrush", 90)]
    assert len(VOCABULARIES["coco"]) == 80
    own = recipe_of(
        {"data": {"classes": ["dog"]}, "class": [{"name": "dog", "words": ["dog", "pup"]}, {"name": "x y"}]}
    )
    assert [(one.name, one.id, one.words) for one in own.classes] == [("dog", 1, ("dog", "pup")), ("x y", 2, ("x y",))]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"masks": {"treshold": 0.4}}, "the nearest known one is 'masks.threshold'"),
        ({"crf": True}, "the nearest known one is 'masks.crf'"),
        ({"modl": {}}, "the nearest known one is 'model'"),
        ({"class": [{"name": "dog", "wrods": []}]}, "'class.words'"),
        ({"model": 3}, "expected a table"),
        ({"masks": {"threshold": 2}}, "threshold=2"),
        ({"masks": {"threshold": float("nan")}}, "threshold=nan"),
        ({"masks": {"crf": 1}}, "true or false"),
        ({"data": {"number": 0}}, "number=0"),
        ({"data": {"number": True}}, "number=True"),
        ({"data": {"classes": "dog"}}, "list of texts"),
        ({"data": {"classes": ["dog", "dog"]}}, "each text once"),
        ({"data": {"classes": ["dog", "Dog"]}}, "different names"),
        ({"data": {"vocabulary": "voc", "classes": ["dgo"]}}, "'dgo' is unknown"),
        ({"data": {"vocabulary": "cityscapes"}}, "one of"),
        ({"data": {"classes": []}}, "no class"),
        ({"data": {"name": " "}}, "not empty"),
        ({"class": [{"name": "dog", "id": 255}]}, "id=255"),
        ({"class": [{"name": "dog", "id": 1}, {"name": "cat", "id": 1}]}, "both have id=1"),
        ({"class": [{"name": "dog"}, {"name": "dog"}]}, "two tables"),
        ({"class": [{"id": 1}]}, "without a name"),
        ({"class": [{"name": "dog", "words": []}]}, "has no word"),
        ({"class": [{"name": "dog", "words": ["a|b"]}]}, "joined by |"),
        ({"class": [{"name": "dog"}, {"name": "puppy", "words": ["dog"]}]}, "stands for 'dog' and 'puppy'"),
        ({"prompts": {"templates": ["a photo"]}}, "has no class in it"),
        ({"prompts": {"templates": ["{things} {where}"]}}, "no braces but"),
        ({"prompts": {"templates": []}}, "at least one template"),
        ({"prompts": {"places": []}}, "needs places"),
        ({"prompts": {"least_things": 3}}, "exchange them"),
        ({"masks": {"agreement": True}}, "expected tokens"),
        ({"filters": {"least_area_quantile": 0.9, "most_area_quantile": 0.1}}, "expected less than"),
        ({"splits": {"train": 0, "validation": 0}}, "one weight above 0"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tables, message):
    base = {"data": DATA}
    with pytest.raises(RecipeError) as raised:
        recipe_of({**base, **tables})
    assert message in str(raised.value)


def test_files_that_are_no_recipe_are_named(tmp_path):
    for text, message in (("a = ", "no TOML"), ("\xff", "not UTF-8"), ("[masks]\nfoo = 1", "'masks.foo'")):
        (tmp_path / "r.toml").write_bytes(text.encode("latin-1"))
        with pytest.raises(RecipeError, match=r"r\.toml") as raised:
            read_recipe(tmp_path / "r.toml")
        assert message in str(raised.value)
    with pytest.raises(RecipeError, match="can't be read"):
        read_recipe(tmp_path / "missing.toml")


# prompts


def test_an_item_depends_on_the_recipe_and_its_number_alone():
    prompts = prompts_of(small())
    alone = [prompts_of(small())[index] for index in (5, 0, 3)]
    assert alone == [prompts[index] for index in (5, 0, 3)]
    more = prompts_of(small(data={"number": 700, "name": "other", "licence": "x"}, filters={"least_presence": 0.5}))
    assert [more[index] for index in range(7)] == [prompts[index] for index in range(7)]
    other = prompts_of(small(data={"seed": 1}))
    assert [other[index].seed for index in range(7)] != [prompts[index].seed for index in range(7)]
    seeds = {more[index].seed for index in range(700)}
    assert len(seeds) == 700
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_templates_show_all_classes_equally_often_and_name_what_they_ask_for():
    recipe = small(data={"vocabulary": "voc", "classes": [], "number": 2000}, prompts={"most_things": 1})
    items = [prompts_of(recipe)[index] for index in range(2000)]
    counts = {name: sum(name in one.words for one in items) for name in VOCABULARIES["voc"].values()}
    assert set(counts.values()) == {100}
    assert all(word in one.prompt for one in items for word in one.words.values())
    shares = [sum(one.split == split for one in items) / 2000 for split in ("train", "validation", "test")]
    assert np.allclose(shares, (0.9, 0.1, 0), atol=0.03)


def test_turns_give_each_value_once_a_round():
    draws = Draws("x")
    for count in (1, 2, 3, 17, 80):
        for turn in range(3):
            found = [draws.turn(count, turn * count + place, "class") for place in range(count)]
            assert sorted(found) == list(range(count))
    assert [draws.turn(17, place) for place in range(17)] != [draws.turn(17, 17 + place) for place in range(17)]


def test_captions_name_their_classes(tmp_path):
    classes = small().classes
    (tmp_path / "c.csv").write_text('prompt,classes\n"Two dogs by a car",dog\na cat,\n')
    (tmp_path / "c.jsonl").write_text('{"caption": "Two dogs by a car", "classes": ["dog"]}\n{"prompt": "a cat"}\n')
    (tmp_path / "c.json").write_text(json.dumps({"annotations": [{"caption": "a cat"}, {"caption": "the sea"}]}))
    (tmp_path / "c.txt").write_text("# captions\na carpet\na cat\n")
    first = read_captions(tmp_path / "c.csv", classes, skip=False)
    assert first == read_captions(tmp_path / "c.jsonl", classes, skip=False)
    assert [dict(one.words) for one in first] == [{"dog": "dogs"}, {"cat": "cat"}]
    for name, line in (("c.json", "annotation 1"), ("c.txt", "line 2")):
        with pytest.raises(RecipeError, match="names no class") as raised:
            read_captions(tmp_path / name, classes, skip=False)
        assert line in str(raised.value)
        assert [one.text for one in read_captions(tmp_path / name, classes, skip=True)] == ["a cat"]
    recipe = small(prompts={"captions": str(tmp_path / "c.csv"), "append_classes": True})
    items = [prompts_of(recipe)[index] for index in range(4)]
    assert {one.prompt for one in items} == {"Two dogs by a car; dogs", "a cat; cat"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "prompt,classes\na cat,dog\n", "does not name its class 'dog'"),
        ("c.csv", "prompt,classes\na cat,cow\n", "'cow' is not in the recipe"),
        ("c.csv", "prompt\na cat, a dog\n", "more fields"),
        ("c.jsonl", "a cat\n", "no JSON"),
        ("c.jsonl", "[1]\n", "no JSON object"),
        ("c.jsonl", '{"text": "a cat"}\n', "has no prompt"),
        ("c.json", "[]", "list of annotations"),
        ("c.txt", "", "no caption that names a class"),
    ],
)
def test_what_is_wrong_in_captions_is_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError) as raised:
        prompts_of(small(prompts={"captions": str(tmp_path / name)}))
    assert message in str(raised.value)


# generating


@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"ignore_changed": False},
        {"refine": False, "crf": True},
        {"refine": False, "crf": True, "ignore_changed": False},
    ],
)
def test_masks_are_those_of_segment(masks, whole, tmp_path):
    recipe, pipe = small(data={"number": 3}, masks=masks), tiny.sd1()
    folder = whole if not masks else tmp_path / "out"
    generate(recipe if masks else small(), folder, pipe=pipe)
    data, prompts, every = read(folder), prompts_of(recipe), recipe.masks.self_attention_every
    items = [prompts[index] for index in range(3)]
    assert every == 5
    with ovam.capture(pipe, self_attention=True, self_attention_every=every) as traces:
        images = pipe(
            [one.prompt for one in items],
            num_inference_steps=2,
            height=32,
            width=32,
            generator=[torch.Generator().manual_seed(one.seed) for one in items],
        ).images
    changes = []
    for item, trace, image, one in zip(data.items, traces, images, items, strict=False):
        assert (np.asarray(image) == np.asarray(Image.open(item.image_path))).all()
        options = options_of(recipe)
        against = [one.place] if one.place else []
        result = trace.segment(list(one.words.values()), against=against, refine=options.refine, crf=options.crf)
        plain = trace.segment(list(one.words.values()), against=against)
        numbers = np.array([0, *(data.about.ids[name] for name in one.words)], dtype=np.uint8)
        labels = numbers[result.labels.numpy()]
        changed = labels != numbers[plain.labels.numpy()]
        changes.append(changed.mean())
        expected = np.where(changed, 255, labels) if recipe.masks.ignore_changed else labels
        assert (expected == item.labels())[clear(result) & clear(plain)].all()
        assert item.scores["presence"] == pytest.approx(
            dict(zip(one.words, result.presence.values(), strict=True)), abs=1e-5
        )
        for label, name in enumerate(one.words, start=1):
            own, before = result.labels.numpy() == label, plain.labels.numpy() == label
            shared = (own & before).sum() / max(1, (own | before).sum())
            # measured: 1.8e-7, from the written digits; a pixel at the threshold may lie on either side
            assert item.scores["unrefined"][name] == pytest.approx(shared, abs=3 / 1024)
        areas = {name: (item.labels() == data.about.ids[name]).mean() for name in one.words}
        assert item.areas == pytest.approx(areas, abs=1e-6)
    assert 0 < np.mean(changes) < 0.9
    assert [item.split for item in data.items] == [row["split"] for row in rows_of(folder)]
    assert check(folder)["passed"]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dataset-diffusion"])  # it needs three grids
def test_masks_of_a_published_method_are_the_method_s_own(name, tmp_path, sd1):
    recipe = recipe_of({"data": {**DATA, "number": 3}, "model": SMALL, "prompts": PLACES, "masks": {"method": name}})
    generate(recipe, tmp_path / "set", pipe=sd1)
    data, prompts, method = read(tmp_path / "set"), prompts_of(recipe), ovam.methods.by_name(name)
    items = [prompts[index] for index in range(3)]
    generators = [torch.Generator().manual_seed(one.seed) for one in items]
    with ovam.capture(sd1, **method.requires) as traces:
        sd1([one.prompt for one in items], num_inference_steps=2, height=32, width=32, generator=generators)
    for item, trace, one in zip(data.items, traces, items, strict=True):
        against = [one.place] if one.place else []
        result = method.segment(trace, [*one.words.values(), *against])
        numbers = np.array([0, *(data.about.ids[name] for name in one.words), *[0] * len(against)], dtype=np.uint8)
        assert (item.labels() == numbers[result.labels.numpy()]).all()
        assert set(item.scores) == {"presence", "confidence", "stability", "grey"}
    assert check(tmp_path / "set")["passed"]


def test_a_method_that_does_not_fit_the_model_is_named(tmp_path, sd1):
    recipe = recipe_of({"data": {**DATA, "number": 1}, "model": SMALL, "masks": {"method": "dataset-diffusion"}})
    (failure,) = generate(recipe, tmp_path / "set", pipe=sd1)["failures"]
    assert "method 'dataset-diffusion' on a trace" in failure["error"]


def test_methods_of_a_recipe_are_all_that_need_no_weights_and_have_their_own_numbers():
    assert set(METHODS) == set(methods.names())
    before = recipe_of({"data": DATA})
    assert "masks.method" not in before.facts()
    assert before.with_flags({"method": "daam"}).digest() != before.digest()
    for changes in ({"crf": True}, {"threshold": 0.4}, {"products": 3}, {"ignore_changed": False}):
        with pytest.raises(RecipeError, match=f"{next(iter(changes))}=.* with method='daam'"):
            before.with_flags({"method": "daam", **changes})


def test_a_second_run_changes_nothing_and_needs_no_model(whole):
    before = digests(whole)
    result = generate(small(), whole, pipe="no pipeline at all")
    assert (result["made"], result["skipped"]) == (0, 7)
    assert digests(whole) == before


def test_masks_are_computed_in_one_thread_and_the_model_keeps_its_own(tmp_path, sd1, monkeypatch):
    seen, annotate = [], work.annotated

    def watched(*given):
        seen.append(torch.get_num_threads())
        return annotate(*given)

    monkeypatch.setattr(work, "annotated", watched)
    torch.set_num_threads(2)
    try:
        generate(small(), tmp_path / "out", pipe=sd1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1] * 7


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(window, count, whole, tmp_path, monkeypatch, sd1):
    for kind, name in ((store.Store, "rename"), (store.Store, "record"), (manifest, "put")):
        monkeypatch.setattr(kind, name, getattr(kind, name))

    def end():
        raise Killed

    arm(window, count, end)
    with pytest.raises(Killed):
        generate(small(), tmp_path / "out", pipe=sd1)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
    result = generate(small(), tmp_path / "out", pipe=sd1)
    assert result["made"] + result["skipped"] == 7
    assert digests(tmp_path / "out") == digests(whole)


@pytest.mark.usefixtures("shipped_words")
def test_a_killed_process_loses_nothing(model, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(small(model={"model": str(model)})))
    assert killed(recipe, tmp_path / "out", WINDOWS[1], 5)
    out = tmp_path / "out"
    assert len(list((out / "items").glob("*.json"))) == 5
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 4
    assert list(out.glob("*.partial"))
    generate(read_recipe(recipe), out)
    generate(read_recipe(recipe), tmp_path / "whole")
    assert digests(out) == digests(tmp_path / "whole")


def test_what_is_lost_is_made_again(whole, tmp_path, sd1):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "manifest.jsonl").unlink()
    (out / "masks" / "000001.png").unlink()
    (out / "items" / "000004.json").write_text('{"index": 4')
    problems = " ".join(check(out)["problems"])
    assert "masks/000001.png is missing" in problems
    assert "000004.json is damaged" in problems
    assert generate(small(), out, pipe=sd1)["made"] == 2
    assert digests(out) == digests(whole)


def test_shards_make_one_data_set(whole, tmp_path, sd1):
    first = generate(small(), tmp_path / "out", pipe=sd1, shard=Shard(1, 2))
    assert (first["made"], first["complete"]) == (4, False)
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
    second = generate(small(), tmp_path / "out", pipe=sd1, shard=Shard(2, 2))
    assert (second["made"], second["complete"]) == (3, True)
    assert digests(tmp_path / "out") == digests(whole)


def test_more_images_can_be_added_but_not_another_recipe(whole, tmp_path, sd1):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for recipe, message in (
        (small(masks={"threshold": 0.6}), "masks.threshold was 0.5 and is 0.6"),
        (small(masks={"self_attention_every": 1}), "masks.self_attention_every was 5 and is 1"),
        (small(masks={"ignore_changed": False}), "masks.ignore_changed was true and is false"),
        (small(data={"classes": ["dog", "cat"]}), "class 'car' was"),
        (small(data={"number": 6}), "begun with 7"),
    ):
        before = digests(out)
        with pytest.raises(DatasetError) as raised:
            generate(recipe, out, pipe=sd1)
        assert message in str(raised.value)
        assert digests(out) == before
    with pytest.raises(DatasetError, match="expected the same weights"):
        generate(small(data={"number": 9}), out, pipe=tiny.sd1(seed=1))
    assert generate(small(data={"number": 9}), out, pipe=sd1)["made"] == 2
    assert len(read(out).items) == 9
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"notes\.txt"):
        generate(small(), tmp_path / "other", pipe=sd1)


def test_an_older_recipe_has_the_values_of_then(tmp_path, sd1):
    recipe, out = (
        small(data={"number": 1}, masks={"self_attention_every": 1, "ignore_changed": False}),
        tmp_path / "out",
    )
    generate(recipe, out, pipe=sd1)
    lines = (out / "recipe.toml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("self_attention_every", "ignore_changed", "votes"))]
    assert len(kept) == len(lines) - 3
    (out / "recipe.toml").write_text("\n".join(kept))
    assert kept_recipe(out).digest() == recipe.digest() == read(out).about.recipe
    assert generate(kept_recipe(out), out, pipe="no pipeline at all")["made"] == 0
    assert generate(recipe, out, pipe="no pipeline at all")["made"] == 0


@pytest.mark.parametrize("recorded", ["0123456789abcdef", None])
def test_masks_of_other_defaults_are_not_mixed(recorded, whole, tmp_path, sd1):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    about = json.loads((out / "dataset.json").read_text())
    about["defaults"] = recorded
    (out / "dataset.json").write_text(json.dumps({name: each for name, each in about.items() if each is not None}))
    before = digests(out)
    with pytest.raises(DatasetError, match="the version of ovam that began it"):
        generate(small(data={"number": 9}), out, pipe=sd1)
    assert digests(out) == before
    assert generate(small(), out, pipe=sd1)["made"] == 0  # nothing is to be made: nothing is mixed


def test_one_unit_that_fails_is_recorded_and_tried_again(whole, tmp_path, monkeypatch, sd1):
    out, run, calls = tmp_path / "out", Model.run, []

    def broken(self, items, after_step=None):
        calls.append(items[0].index)
        if items[0].index == 3 and calls.count(3) < 3:
            raise RuntimeError("out of memory")
        return run(self, items, after_step)

    monkeypatch.setattr(Model, "run", broken)
    result = generate(small(), out, pipe=sd1)
    assert (result["made"], result["failed"], result["complete"]) == (4, 3, True)
    assert calls == [0, 3, 6, 3]
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(line["index"], line["attempt"]) for line in lines if line["status"] == "failed"] == [
        (3, 2),
        (4, 2),
        (5, 2),
    ]
    assert [item.index for item in read(out).items] == [0, 1, 2, 6]
    assert generate(small(), out, pipe=sd1)["made"] == 3
    assert digests(out) == digests(whole)


def test_one_mask_that_fails_does_not_take_its_unit_along(whole, tmp_path, monkeypatch, sd1):
    whole_one = work.annotated
    monkeypatch.setattr(
        work, "annotated", lambda trace, one, *rest: 1 / 0 if one.index == 4 else whole_one(trace, one, *rest)
    )
    result = generate(small(), tmp_path / "out", pipe=sd1)
    assert (result["made"], [one["source"] for one in result["failures"]]) == (6, ["item 4"])
    assert "ZeroDivisionError" in result["failures"][0]["error"]
    monkeypatch.undo()
    generate(small(), tmp_path / "out", pipe=sd1)
    assert digests(tmp_path / "out") == digests(whole)


def test_what_fails_always_ends_the_run(tmp_path, monkeypatch, sd1):
    monkeypatch.setattr(Model, "run", lambda self, items, after_step=None: 1 / 0)
    with pytest.raises(DatasetError, match=r"3 units failed one after another.*ZeroDivisionError"):
        generate(small(data={"number": 30}), tmp_path / "out", pipe=sd1)


def test_a_full_disk_and_ctrl_c_end_cleanly(whole, tmp_path, monkeypatch, sd1):
    kept, writes = store.Store.write, []

    def full(self, name, data):
        writes.append(name)
        if len(writes) == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept(self, name, data)

    monkeypatch.setattr(store.Store, "write", full)
    with pytest.raises(DatasetError, match="the disk is full"):
        generate(small(), tmp_path / "out", pipe=sd1)
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob("*.partial"))
    run, calls = Model.run, []

    def interrupted(self, items, after_step=None):
        calls.append(items)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, items, after_step)

    monkeypatch.setattr(Model, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(small(), tmp_path / "out", pipe=sd1)
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob("*.partial"))
    assert len(list((tmp_path / "out" / "items").iterdir())) == 3, "the masks of the unit before are kept"
    generate(small(), tmp_path / "out", pipe=sd1)
    assert digests(tmp_path / "out") == digests(whole)


# tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """File of a token for "cat", fitted on a tiny pipeline."""
    pipe = tiny.sd1()
    with ovam.capture(pipe) as traces:
        pipe("a cat", num_inference_steps=2, height=32, width=32)
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:20, 8:20] = True
    path = tmp_path_factory.mktemp("tokens") / "cat.safetensors"
    ovam.optimize_tokens(traces[0], {"cat": mask}, evaluations=2).save(path)
    return path


def test_tokens_stand_in_for_words_and_travel_along(tokens, tmp_path, sd1):
    recipe = small(masks={"tokens": [str(tokens)], "refine": False}, data={"number": 6})
    generate(recipe, tmp_path / "out", pipe=sd1)
    data = read(tmp_path / "out")
    assert list(data.about.tokens) == ["cat"]
    assert (tmp_path / "out" / "inputs" / "cat.safetensors").read_bytes() == tokens.read_bytes()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    again = read_recipe(tmp_path / "moved" / "recipe.toml")
    assert again.digest() == recipe.digest()
    assert generate(again, tmp_path / "moved", pipe=sd1)["skipped"] == 6
    words = generate(small(masks={"refine": False}, data={"number": 6}), tmp_path / "words", pipe=sd1)
    assert words["made"] == 6


@pytest.mark.parametrize(
    ("data", "masks", "message"),
    [
        ({"classes": ["dog"]}, {}, "'cat', which is no class of the recipe"),
        ({}, {"agreement": True}, "class 'dog' has no token"),
        ({}, {"tokens": ["missing.safetensors"]}, "missing.safetensors"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(data, masks, message, tokens, tmp_path, sd1):
    with pytest.raises(RecipeError) as raised:
        generate(small(data=data, masks={"tokens": [str(tokens)], **masks}), tmp_path / "out", pipe=sd1)
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_tokens_of_another_model_are_refused(tokens, tmp_path, sd2):
    with pytest.raises(SpaceMismatchError):
        generate(small(masks={"tokens": [str(tokens)]}), tmp_path / "out", pipe=sd2)
    assert not (tmp_path / "out").exists()


def test_words_and_tokens_are_compared(tokens, tmp_path, sd1):
    recipe = small(data={"classes": ["cat"], "number": 3}, masks={"tokens": [str(tokens)], "agreement": True})
    generate(recipe, tmp_path / "out", pipe=sd1)
    assert all(0 <= item.scores["agreement"]["cat"] <= 1 for item in read(tmp_path / "out").items)


# filters


def test_filters_keep_what_their_scores_allow(whole, tmp_path):
    items = read(whole).items
    level = sorted(min(item.scores["presence"].values()) for item in items)[3]
    kept = kept_by(items, FilterSection(least_presence=level))
    assert [item.index for item in kept.items] == [
        item.index for item in items if min(item.scores["presence"].values()) >= level
    ]
    assert kept.dropped == {"least_presence": 3}
    empty = replace(items[0], areas=dict.fromkeys(items[0].areas, 0.0))
    assert kept_by((empty, *items[1:]), FilterSection()).dropped == {"empty": 1}
    flat = replace(items[0], scores={**items[0].scores, "grey": 1.0})
    assert kept_by((flat, *items[1:]), FilterSection()).dropped == {"least_grey": 1}
    twice = (*items, replace(items[2], index=7))
    assert kept_by(twice, FilterSection(duplicates=0)).dropped == {"duplicates": 1}
    shares = [min(item.scores["unrefined"].values()) for item in items]
    level = sorted(shares)[3]
    kept = kept_by(items, FilterSection(least_unrefined=level, empty=True))
    assert [item.index for item in kept.items] == [i for i, share in enumerate(shares) if share >= level]
    assert 0 < len(kept.items) < 7
    middle = kept_by(items, FilterSection(least_area_quantile=0.2, most_area_quantile=0.8))
    assert 0 < len(middle.items) < 7
    with pytest.raises(DatasetError, match="no item is left of 7; taken out: least_stability 7"):
        kept_by(items, FilterSection(least_stability=1.0))
    with pytest.raises(DatasetError, match="no score 'agreement'"):
        kept_by(items, FilterSection(least_agreement=0.5))


def test_a_quantile_keeps_as_many_items_of_each_number_of_classes(whole):
    items = list(read(whole).items)
    pair = next(item for item in items if len(item.classes) > 1)
    alone = next(item for item in items if len(item.classes) == 1)
    (first, second), random = pair.classes, np.random.default_rng(0)

    def with_scores(item, index, **shares):
        return replace(item, index=index, classes=tuple(shares), scores={**item.scores, "unrefined": shares})

    items = [
        with_scores(pair, index, **{first: random.random(), second: random.random()})
        if index % 3
        else with_scores(alone, index, **{first: random.random()})
        for index in range(30)
    ]
    kept = kept_by(items, FilterSection(least_unrefined_quantile=0.6, empty=True, least_grey=0))
    assert [len(item.classes) for item in kept.items].count(1) == 4  # of 10
    assert [len(item.classes) for item in kept.items].count(2) == 8  # of 20
    assert kept.dropped == {"unrefined_quantile": 18}
    values = {name: [i.scores["unrefined"][name] for i in items if name in i.classes] for name in pair.classes}

    def worst(item):
        shares = item.scores["unrefined"]
        return min(sum(other <= value for other in values[name]) / len(values[name]) for name, value in shares.items())

    for count in (1, 2):
        out = [worst(item) for item in items if len(item.classes) == count and item not in kept.items]
        assert max(out) < min(worst(item) for item in kept.items if len(item.classes) == count)


def test_a_view_is_a_data_set(whole, tmp_path):
    view, chance = tmp_path / "view", tmp_path / "random"
    level = sorted(min(item.scores["presence"].values()) for item in read(whole).items)[3]
    before = digests(whole)
    result = filter_items(whole, view, filters=FilterSection(least_presence=level), random_dir=chance)
    assert result["kept"] == 4
    for folder in (view, chance):
        data = read(folder)
        assert len(data.items) == 4
        assert data.about.view["of"] == data.about.recipe
        assert check(folder)["passed"]
    assert data.about.view["random"]
    assert data.items[0].image_path.stat().st_nlink > 1
    assert digests(whole) == before
    for place in (view, whole / "inside"):
        with pytest.raises(DatasetError, match="expected a new or an empty folder"):
            filter_items(whole, place)
    with pytest.raises(DatasetError, match="is a view"):
        generate(small(), view, pipe=None)


def test_near_duplicates_share_a_split(whole):
    hashes = ["0" * 32, "0" * 31 + "1", "f" * 32, "0" * 30 + "11"]
    assert groups_of(hashes, 0) == [0, 1, 2, 3]
    assert groups_of(hashes, 1) == [0, 0, 2, 0]
    assert groups_of(hashes, -1) == [0, 1, 2, 3]
    items = read(whole).items
    other = replace(items[0], index=9, split="validation" if items[0].split == "train" else "train")
    assert without_leaks((items[0], other), 0)[1].split == items[0].split
    assert without_leaks((items[0], other), -1)[1].split == other.split


def test_hashes_tell_other_pictures_apart(whole):
    picture = Image.open(read(whole).items[0].image_path).resize((64, 64))
    brighter = picture.point(lambda value: min(255, round(value * 1.02)))
    first = int(hash_of(picture), 16)
    assert (first ^ int(hash_of(brighter), 16)).bit_count() <= 6
    assert (first ^ int(hash_of(picture.rotate(90)), 16)).bit_count() > 20


# checks


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../b.png", "a\\..\\b.png", "C:/x.png", "", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_refused(name, whole, tmp_path):
    with pytest.raises(DatasetError, match="relative name inside the folder"):
        checked_name(name, "a manifest")
    shutil.copytree(whole, tmp_path / "out")
    item = tmp_path / "out" / "items" / "000000.json"
    content = json.loads(item.read_text())
    content["mask"]["file"] = name
    item.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="relative name inside the folder"):
        read(tmp_path / "out")
    table = tmp_path / "out" / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[1]["file_name"] = name
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DatasetError, match=r"metadata\.jsonl, line 2"):
        list(rows_of(tmp_path / "out"))


def test_what_is_wrong_in_a_folder_is_found(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    labels = read(out).items[0].labels()
    labels[0, 0] = 99
    ovam.pictures.palette_png(labels).save(out / "masks" / "000000.png")
    Image.new("L", (32, 32)).save(out / "masks" / "000001.png")
    (out / "masks" / "000002.png").unlink()
    Image.new("RGB", (16, 32)).save(out / "images" / "000003.png")
    (out / "images" / "000004.png").write_bytes(b"no picture")
    Image.new("RGB", (32, 32)).save(out / "images" / "000099.png")
    with (out / "manifest.jsonl").open("a") as file:
        file.write(json.dumps({"index": 0, "unit": 0, "status": "done"}) + "\n")
    result = check(out)
    assert not result["passed"]
    for part in (
        "masks/000000.png holds 99",
        "another SHA-256",
        "its mode is L",
        "masks/000002.png is missing",
        "images/000003.png is RGB of 32 x 16",
        "images/000004.png can't be read",
        "images/000099.png belongs to no item",
        "8 lines for 7 items",
    ):
        assert any(part in problem for problem in result["problems"]), part
    with pytest.raises(DatasetError, match="is no data set"):
        check(tmp_path)
    about = json.loads((out / "dataset.json").read_text())
    for change, message in (({"format": 2}, "newer"), ({"classes": []}, "classes"), ({"ignore": 0}, "ignore=0")):
        (out / "dataset.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(DatasetError, match=message):
            read(out)


# the command line


def test_the_commands_from_a_recipe_to_an_export(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--classes", "dog, cat", "--number", 4, "--model", model, "--places", "grass, sea")
    flags = (*flags, "--refine-method", GENTLE["refine_method"], "--products", GENTLE["products"])
    made = succeed("dataset", "new", "r.toml", *flags, "--num-inference-steps", 2, "--height", 32, "--width", 32)
    assert made["classes"] == ["dog", "cat"]
    assert_fails(call("dataset", "new", "r.toml", *flags), "r.toml is there already")
    planned = succeed("dataset", "plan", "r.toml")
    assert (planned["images"], planned["measured"], planned["size"]) == (4, False, [32, 32])
    done = succeed("dataset", "generate", "r.toml", "--output-dir", "out")
    assert done["made"] == 4
    assert succeed("dataset", "generate", "--output-dir", "out")["skipped"] == 4
    assert_fails(
        call("dataset", "generate", "r.toml", "--output-dir", "out", "--crf"), "masks.crf was false and is true"
    )
    assert succeed("dataset", "generate", "--output-dir", "out", "--number", 5, "--shard", "1/1")["made"] == 1
    assert succeed("dataset", "check", "out")["passed"]
    filtered = succeed("dataset", "filter", "out", "--output-dir", "view", "--least-presence", 0)
    assert filtered["kept"] == 5
    assert_fails(call("dataset", "filter", "out", "--output-dir", "none", "--least-stability", 1), "no item is left")
    assert not (tmp_path / "none").exists()
    assert succeed("dataset", "export", "view", "--format", "voc", "--output-dir", "voc")["items"] == 5
    for command in (("plan", "r.toml"), ("check", "out"), ("generate", "--output-dir", "out")):
        assert call("dataset", *command).exit_code == 0
    (tmp_path / "out" / "masks" / "000000.png").unlink()
    assert call("dataset", "check", "out").exit_code == 1
    assert_fails(call("dataset", "check", "r"), "is no data set")
    for wrong in (("--shard", "3/2"), ("--shard", "x"), ("--dtype", "int8"), ("--threshold", "2")):
        assert call("dataset", "generate", "r.toml", *wrong).exit_code == 2
    (tmp_path / "r.toml").write_text("[masks]\ntreshold = 1")
    assert_fails(call("dataset", "generate", "r.toml"), "'masks.threshold'")


def test_a_plan_is_measured_by_a_unit(sd1):
    planned = plan(small(data={"number": 30}), measure=True, pipe=sd1)
    assert planned["measured"]
    assert planned["run_seconds"] > 0
    assert sum(planned["splits"].values()) == 30
    assert plan(small(), pipe=sd1)["bytes"] > 0


def test_help_and_new_recipes_need_no_torch(tmp_path):
    code = (
        f"import sys, ovam.cli\ntry: ovam.cli.app(['dataset', 'new', {str(tmp_path / 'r.toml')!r}])\n"
        "except SystemExit as end: assert end.code in (0, None)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
    assert read_recipe(tmp_path / "r.toml").classes
