"""Folders of data sets that were changed, lost files, or were begun by a run that was killed at an odd moment."""

import json
import shutil

import pytest
from PIL import Image

import tiny
from lab.faults.__main__ import digests
from ovam.dataset import folder as folders
from ovam.dataset import manifest
from ovam.dataset.captions import read_captions
from ovam.dataset.checking import check
from ovam.dataset.exports.run import FORMATS, export
from ovam.dataset.generator import generate
from ovam.dataset.layout import read
from ovam.dataset.manifest import MANIFEST, Shard, lines_in
from ovam.dataset.planning import plan
from ovam.dataset.ray_worker import Job, UnitMaker
from ovam.dataset.recipe import kept_recipe, recipe_of
from ovam.dataset.views import filter_items
from ovam.errors import DatasetError, OptionError, PromptTooLongError

CAPTIONS = "a dog on grass\na cat\na car by the sea\na dog and a cat\n"


def recipe(captions, **model):
    """A recipe with captions for a tiny pipeline: two units of 2 items."""
    return recipe_of(
        {
            "data": {"classes": ["dog", "cat", "car"], "number": 4, "name": "captioned"},
            "prompts": {"captions": str(captions)},
            "model": {"num_inference_steps": 2, "batch": 2, "height": 32, "width": 32, **model},
            "masks": {"refine": False},
        }
    )


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "captions.txt"
    path.write_text(CAPTIONS)
    return path


@pytest.fixture(scope="module")
def original(captions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "set"
    assert generate(recipe(captions), folder, pipe=tiny.sd1())["complete"]
    return folder


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "set")


def rewritten(path, **changes):
    """Change an item's own file, or another JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# recipes in the folder


def test_a_recipe_that_was_changed_in_the_folder_is_refused(copy, sd1):
    path = copy / "recipe.toml"
    path.write_text(path.read_text().replace("num_inference_steps = 2", "num_inference_steps = 1"))
    before = digests(copy)
    with pytest.raises(DatasetError, match="was changed after the data set was begun"):
        generate(kept_recipe(copy).with_flags({"number": 6}), copy, pipe=sd1)
    assert digests(copy) == before
    assert any("was changed after" in problem for problem in check(copy)["problems"])


@pytest.mark.parametrize("name", ["../captions.txt", "/etc/hostname", "recipe.toml"])
def test_a_recipe_in_a_folder_reads_nothing_outside_its_inputs(name, copy):
    path = copy / "recipe.toml"
    path.write_text(path.read_text().replace("inputs/captions.txt", name))
    with pytest.raises(DatasetError, match=r"names the file"):
        kept_recipe(copy)
    assert any("names the file" in problem for problem in check(copy)["problems"])


def test_a_run_that_was_killed_while_it_began_is_gone_on_with(captions, original, tmp_path, monkeypatch, sd1):
    place, written = tmp_path / "set", []

    def stop(path, data):
        if written or path.name == "recipe.toml":
            raise KeyboardInterrupt
        written.append(path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_bytes", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(recipe(captions), place, pipe=sd1)
    assert [path.name for path in place.iterdir()] == ["inputs"]
    generate(recipe(captions), place, pipe=sd1)
    assert digests(place) == digests(original)


def test_inputs_that_are_there_are_not_written_again(captions, copy, sd1):
    (copy / "masks" / "000003.png").unlink()
    kept = (copy / "inputs" / "captions.txt").stat()
    generate(recipe(captions), copy, pipe=sd1)
    assert (copy / "inputs" / "captions.txt").stat().st_mtime_ns == kept.st_mtime_ns


# files that are lost or damaged


def test_workers_of_ray_make_lost_images_again(copy, original, monkeypatch):
    (copy / "images" / "000001.png").unlink()
    job = Job(str(copy), str(copy), "cpu", 1, "", folders.CHOSEN_HASH, {})
    recipe = kept_recipe(copy)
    maker = UnitMaker(job)
    assert maker._unit(recipe, 0, copy).missing == (1,)
    assert maker._unit(recipe, 1, copy).missing == ()


def test_a_shard_leaves_the_end_to_the_one_whose_file_is_lost(copy, captions, original, sd1):
    (copy / "images" / "000002.png").unlink()
    assert not generate(recipe(captions), copy, pipe=sd1, shard=Shard(1, 2))["complete"]
    assert generate(recipe(captions), copy, pipe=sd1, shard=Shard(2, 2))["complete"]
    assert digests(copy) == digests(original)


def test_an_item_that_can_not_be_read_now_is_not_thrown_away(copy, captions, monkeypatch, sd1):
    def fail(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("ovam.dataset.item.read_json", fail)
    with pytest.raises(DatasetError, match="Too many open files"):
        generate(recipe(captions), copy, pipe=sd1)
    assert len(list((copy / "items").iterdir())) == 4


def test_a_picture_that_was_cut_short_is_named(copy):
    path = copy / "images" / "000000.png"
    path.write_bytes(path.read_bytes()[:200])
    (copy / "contact-sheet.png").unlink()
    with pytest.raises(DatasetError, match=r"000000\.png can't be read .*delete it and generate again"):
        generate(kept_recipe(copy), copy)


@pytest.mark.parametrize("lost", ["images/000001.png", "masks/000002.png"])
def test_filters_and_exports_name_a_lost_file_and_leave_nothing(lost, copy, tmp_path):
    (copy / lost).unlink()
    (tmp_path / "there").mkdir()
    with pytest.raises(DatasetError, match=rf"{lost} of item \d is missing"):
        filter_items(copy, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
    for form in FORMATS:
        with pytest.raises(DatasetError, match=rf"{lost} of item \d is missing"):
            export(copy, tmp_path / form, form)
        assert not (tmp_path / form).exists()
    with pytest.raises(DatasetError, match="is missing"):
        export(copy, "memory://lost", "coco")


def test_a_view_appears_whole_or_not_at_all(copy, tmp_path, monkeypatch):
    def fail(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ovam.dataset.views.write_pages", fail)
    (tmp_path / "there").mkdir()
    with pytest.raises(DatasetError, match="the disk is full"):
        filter_items(copy, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(("one", "other"), [("view", "view"), ("view", "view/random"), ("random/view", "random")])
def test_a_view_and_its_random_one_are_separate(one, other, copy, tmp_path):
    with pytest.raises(DatasetError, match="expected two separate folders"):
        filter_items(copy, tmp_path / one, random_dir=tmp_path / other)
    assert not (tmp_path / one).exists()


@pytest.mark.parametrize("form", FORMATS)
def test_exports_refuse_masks_that_hold_what_they_may_not(form, copy, tmp_path):
    path = copy / "masks" / "000001.png"
    with Image.open(path) as mask:
        mask.putpixel((3, 3), 77)
        mask.save(path)
    with pytest.raises(DatasetError, match=r"000001\.png holds 77"):
        export(copy, tmp_path / form, form)
    with Image.open(path) as mask:
        mask.resize((16, 16), Image.Resampling.NEAREST).save(path)
    with pytest.raises(DatasetError, match=r"000001\.png is 16 x 16: expected 32 x 32"):
        export(copy, tmp_path / form, form)
    assert not (tmp_path / form).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["zebra"], "areas": {"zebra": 0.1}}, "has the class 'zebra'"),
        ({"areas": {}}, "has areas of no class: expected cat"),
        ({"scores": {"presence": {"dog": 0.5}}}, "has presence of dog: expected cat"),
    ],
)
def test_items_that_do_not_fit_the_data_set_are_named(changes, message, copy, tmp_path):
    item = next(item for item in read(copy).items if item.classes == ("cat",))
    rewritten(copy / "items" / f"{item.stem}.json", **changes)
    assert any(message in problem for problem in check(copy)["problems"])
    works = (
        lambda: filter_items(copy, tmp_path / "view"),
        lambda: export(copy, tmp_path / "coco", "coco"),
        lambda: generate(kept_recipe(copy), copy),
    )
    for work in works:
        with pytest.raises(DatasetError, match=message):
            work()


def test_tables_that_are_no_text_are_named(copy):
    (copy / "metadata.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"metadata\.jsonl is damaged \(it is not UTF-8\)"):
        read(copy)
    (copy / "recipe.toml").unlink()
    problems = check(copy)["problems"]
    assert any("it is not UTF-8" in problem for problem in problems)
    assert any("recipe.toml can't be read" in problem for problem in problems)


def test_what_is_not_finished_is_not_exported(copy, tmp_path):
    (copy / "metadata.jsonl").unlink()
    with pytest.raises(DatasetError, match="its run is not finished"):
        export(copy, tmp_path / "coco", "coco")
    filter_items(copy, tmp_path / "view")
    assert export(tmp_path / "view", tmp_path / "coco", "coco")["items"] == 4


def test_line_ends_of_other_kinds_stay_in_prompts(tmp_path, sd1):
    strange = recipe_of(
        {
            "data": {"classes": ["dog"], "number": 1},
            "prompts": {"templates": ["a photo of {things}\u2028on grass\x85"]},
            "model": {"num_inference_steps": 1, "height": 32, "width": 32},
            "masks": {"refine": False},
        }
    )
    generate(strange, tmp_path / "set", pipe=sd1)
    assert check(tmp_path / "set")["passed"]


# shards


def test_a_shard_without_units_has_nothing_to_do(captions, tmp_path, sd1):
    result = generate(recipe(captions), tmp_path / "set", pipe=sd1, shard=Shard(3, 3))
    assert (result["items"], result["complete"]) == (0, False)


def test_a_manifest_that_another_shard_removed_is_no_error(copy, monkeypatch):
    monkeypatch.setattr(manifest, "manifests", lambda folder: [folder / "manifest-1-of-2.jsonl", folder / MANIFEST])
    assert [line["index"] for line in lines_in(copy)] == [0, 1, 2, 3]


# captions and plans


def test_a_class_inside_the_name_of_another_is_not_named(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("two Hot Dogs and a cat\na dog eats a hot dog\nteddy bears\n")
    coco = recipe_of({"data": {"vocabulary": "coco", "classes": ["dog", "cat", "hot dog", "bear", "teddy bear"]}})
    found = read_captions(path, coco.classes, skip=False)
    assert [dict(one.words) for one in found] == [
        {"cat": "cat", "hot dog": "Hot Dogs"},
        {"dog": "dog", "hot dog": "hot dog"},
        {"teddy bear": "teddy bears"},
    ]
    assert [one.text[: one.until] for one in found] == ["two Hot Dogs and a cat", "a dog eats a hot dog", "teddy bears"]


def test_captions_whose_class_the_encoder_does_not_read_are_refused(tmp_path, sd1):
    path, long = tmp_path / "captions.txt", "a very old photo of " * 20
    path.write_text(f"a dog in {long}\n")
    generate(recipe(path).with_flags({"number": 1}), tmp_path / "read", pipe=sd1)
    path.write_text(f"{long} a dog\n")
    with pytest.raises(PromptTooLongError, match="names one of dog after what the text encoder reads"):
        generate(recipe(path).with_flags({"number": 1}), tmp_path / "cut", pipe=sd1)
    assert not (tmp_path / "cut").exists()


def test_a_plan_is_quick_for_many_images_and_refuses_odd_sizes(sd1):
    found = plan(recipe_of({"data": {"classes": ["dog"], "number": 10**9}}), pipe=sd1)
    assert found["units"] == 125_000_000
    with pytest.raises(OptionError, match="height=100"):
        plan(recipe_of({"data": {"classes": ["dog"]}, "model": {"height": 100}}), pipe=sd1)
