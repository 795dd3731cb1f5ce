"""Data sets at the edges of what recipes allow, and what other tools may do with their folders."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tiny
from ovam.commands.dataset import new
from ovam.dataset.checking import check
from ovam.dataset.exports.run import FORMATS, export
from ovam.dataset.generator import generate
from ovam.dataset.kept_scores import head_of, score_file
from ovam.dataset.layout import read
from ovam.dataset.prompts import prompts_of
from ovam.dataset.recipe import read_recipe, recipe_of
from ovam.dataset.scoring import score
from ovam.dataset.sections import FilterSection
from ovam.dataset.views import filter_items
from ovam.dataset.words import vocabulary_of
from ovam.errors import DatasetError, PromptTooLongError, RecipeError
from ovam.train.folder import read_labelled


def recipe(**changes):
    """A recipe for a tiny pipeline: two units of 2 items."""
    tables = {
        "data": {"classes": ["dog", "cat"], "number": 4},
        "model": {"num_inference_steps": 2, "batch": 2, "height": 32, "width": 32},
        "masks": {"refine": False},
    }
    for section, values in changes.items():
        tables[section] = {**tables.get(section, {}), **values}
    return recipe_of(tables)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "set"
    assert generate(recipe(), folder, pipe=tiny.sd1())["complete"]
    return folder


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "set")


@pytest.mark.parametrize(("side", "size"), [("height", (40, 24)), ("width", (24, 40))])
def test_one_side_alone_leaves_the_other_to_the_model(side, size, tmp_path):
    """diffusers would take its own size for both."""
    pipe = tiny.sd1()
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    expected = tuple(native if each == 24 else each for each in size)
    generate(recipe(data={"number": 1}, model={"height": 0, "width": 0, side: 40}), tmp_path / "set", pipe=pipe)
    data = read(tmp_path / "set")
    assert data.about.size == expected
    assert data.items[0].picture().size == expected[::-1]
    assert check(tmp_path / "set")["passed"]


def test_a_place_that_is_a_class_is_one_of_the_item_s_classes():
    """Otherwise the place would be background in its mask, though other items label it."""
    ground = recipe(
        data={"classes": ["dog", "cat", "grass", "sea"], "number": 40},
        prompts={"templates": ["a photo of {things} on the {place} by the sea"], "places": ["grass", "road"]},
    )
    vocabulary = vocabulary_of(ground)
    prompts = prompts_of(ground)
    for item in (prompts[index] for index in range(40)):
        assert item.words["sea"] == "sea"
        assert ("grass" in item.classes) == ("grass" in item.prompt)
        assert vocabulary._against(item) == (["road"] if item.place == "road" else [])


@pytest.mark.parametrize(
    "prompts",
    [
        {"templates": ["very " * 80 + "nice photo of {things}"]},
        {"templates": ["{things}" + " nice" * 80 + " with {things}"], "least_things": 2, "most_things": 2},
    ],
)
def test_templates_whose_class_the_encoder_does_not_read_are_refused(prompts, tmp_path):
    long = recipe(prompts=prompts)
    if prompts["templates"][0].startswith("very"):
        with pytest.raises(PromptTooLongError, match=r"prompt 'very.*after what the text encoder reads"):
            generate(long, tmp_path / "set", pipe=tiny.sd1())
        assert not (tmp_path / "set").exists()
    else:  # what is cut off names no class for the first time
        assert generate(long, tmp_path / "set", pipe=tiny.sd1())["complete"]


def test_classes_of_a_new_recipe_can_be_edited(tmp_path):
    path = tmp_path / "recipe.toml"
    new(path, {"classes": ["dog", "cat"], "vocabulary": "voc"})
    assert [(one.name, one.id) for one in read_recipe(path).classes] == [("dog", 12), ("cat", 8)]
    path.write_text(path.read_text().replace('["dog", "cat"]', '["horse"]'))
    assert [(one.name, one.id) for one in read_recipe(path).classes] == [("horse", 13)]


def test_names_of_files_in_a_new_recipe_start_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "captions.txt").write_text("a dog\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    new("recipes/one.toml", {"classes": ["dog"], "captions": "captions.txt", "model": "model"})
    found = read_recipe("recipes/one.toml")
    assert prompts_of(found)[0].prompt == "a dog"
    assert found.prompts.captions == "../captions.txt"
    assert found.model.model == str(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"other\.txt can't be read"):
        new("recipes/two.toml", {"classes": ["dog"], "captions": "other.txt"})
    assert not (tmp_path / "recipes" / "two.toml").exists()


def test_a_class_can_t_be_the_background():
    with pytest.raises(RecipeError, match="class 'Background': masks have the background"):
        recipe(data={"classes": ["dog", "Background"]})


@pytest.fixture
def linked(original, tmp_path):
    """The same data set as links to files elsewhere, as a cache of the Hub has it."""
    folder = tmp_path / "linked"
    for path in sorted(each for each in original.rglob("*") if each.is_file()):
        place = folder / path.relative_to(original)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(path, place.parent))
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_exports_share_no_file_with_the_data_set(form, linked, original, tmp_path):
    """Tools may change an export; and links of the data set would lead nowhere."""
    export(linked, tmp_path / "out", form)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file() or path.is_symlink()]
    assert written
    assert not any(path.is_symlink() for path in written)
    assert {path.stat().st_nlink for path in written} == {1}


def test_a_view_of_links_has_the_files(linked, tmp_path):
    filter_items(linked, tmp_path / "view", filters=FilterSection(least_grey=0.0, empty=True))
    assert check(tmp_path / "view")["passed"]
    shutil.rmtree(linked)
    assert read(tmp_path / "view").items[0].picture().size == (32, 32)


def test_an_export_without_train_pictures_has_none_to_train_on(tmp_path):
    splits = {"train": 0, "validation": 0, "test": 1}
    generate(recipe(data={"number": 2}, splits=splits), tmp_path / "set", pipe=tiny.sd1())
    export(tmp_path / "set", tmp_path / "voc", "voc")
    for folder in ("set", "voc"):
        with pytest.raises(DatasetError, match=r"no picture.*train"):
            read_labelled(tmp_path / folder, "train")
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    shutil.rmtree(lists)
    assert len(read_labelled(tmp_path / "voc", "train").pairs) == 2


def test_what_a_killed_export_left_is_no_obstacle(original, tmp_path):
    (tmp_path / "out" / "ovam-00000000-1-0000.partial").mkdir(parents=True)
    assert export(original, tmp_path / "out", "coco")["items"] == 4


def test_an_address_with_files_is_refused_before_anything_is_written(original, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "note.txt").write_text("mine")
    monkeypatch.setitem(FORMATS, "coco", lambda data, folder: pytest.fail("written"))
    with pytest.raises(DatasetError, match=r"there has files: expected a new address$"):
        export(original, f"file://{tmp_path}/there", "coco")


def test_a_view_of_a_view_tells_both_choices(original, tmp_path):
    keep_all = FilterSection(least_grey=0.0, empty=True)
    least = sorted(min(item.scores["presence"].values()) for item in read(original).items)[1]
    filter_items(
        original, tmp_path / "one", filters=replace(keep_all, least_presence=least), random_dir=tmp_path / "chance"
    )
    filter_items(tmp_path / "one", tmp_path / "two", filters=keep_all)
    filter_items(tmp_path / "chance", tmp_path / "three", filters=keep_all)
    card = (tmp_path / "two" / "README.md").read_text()
    assert "a choice of 3 images of that recipe; taken out: least_presence 1\n" in card
    assert "a choice of 3 images of these; taken out: nothing\n" in card
    assert "a choice of 3 images of that recipe; chosen at random\n" in (tmp_path / "three" / "README.md").read_text()
    about = tmp_path / "two" / "dataset.json"
    about.write_text(about.read_text().replace('"least_presence": 1', '"least_presence": "x"'))
    with pytest.raises(DatasetError, match=r"view\.before\.dropped"):
        read(tmp_path / "two")


def test_the_card_has_the_values_of_later_scores(copy):
    score(copy, "mini")
    assert "| clip | probability of the class by CLIP |" in (copy / "README.md").read_text()
    assert generate(recipe(), copy, pipe=tiny.sd1())["skipped"] == 4
    assert "| clip |" in (copy / "README.md").read_text()


def test_check_reads_scores_and_counts_items(copy):
    place = score_file(copy, "clip")
    place.parent.mkdir()
    place.write_text(head_of("clip", "mini", "0" * 16) + "junk\n")
    (problem,) = check(copy)["problems"]
    assert "clip.jsonl, line 2, is damaged" in problem
    shutil.rmtree(place.parent)
    more = recipe(data={"number": 5})
    text = (copy / "recipe.toml").read_text().replace("number = 4", "number = 5")
    assert read_recipe(copy / "recipe.toml").digest() == more.digest()
    (copy / "recipe.toml").write_text(text)
    (problem,) = check(copy)["problems"]
    assert "4 of the 5 items are there" in problem


def test_a_damaged_export_leaves_the_data_set_whole(copy, tmp_path):
    export(copy, tmp_path / "coco", "coco")
    for path in (tmp_path / "coco").rglob("*.png"):
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    assert check(copy)["passed"]
    assert json.loads((copy / "dataset.json").read_text())["size"] == [32, 32]
