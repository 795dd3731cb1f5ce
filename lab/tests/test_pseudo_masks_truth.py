"""Pseudo-masks on other pictures than the world's: a user's folder as the truth, and other annotators."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import labelled
from lab.pseudo_masks import rows
from lab.pseudo_masks.__main__ import main
from lab.pseudo_masks.annotators import Drawn, Trained, annotator_of
from lab.pseudo_masks.examples import TRUTH, VALIDATION, in_order
from lab.pseudo_masks.report import ReportOptions, report
from lab.pseudo_masks.truth import Annotations, parts_of
from ovam import methods
from ovam.errors import DatasetError, OptionError
from ovam.mini.scenes import LABELS


def stems(pairs):
    return [picture.stem for picture, _ in pairs]


class TestParts:
    def test_the_validation_part_is_measured_and_the_training_part_dealt(self, tmp_path):
        labelled.voc(tmp_path, {"train": 3, "val": 2})
        _, parts = parts_of(tmp_path)
        assert stems(parts.measured) == ["2007_val000", "2007_val001"]
        assert stems(parts.annotated) == ["2007_train000", "2007_train002"]
        assert stems(parts.validation) == ["2007_train001"]

    def test_a_folder_without_parts_is_dealt_by_fours(self, tmp_path):
        folder = scenes(tmp_path, count=6)
        _, parts = parts_of(folder)
        assert [stems(each) for each in (parts.annotated, parts.validation, parts.measured)] == [
            ["0", "4"],
            ["1", "5"],
            ["2", "3"],
        ]

    def test_where_only_the_validation_part_is_listed_the_other_pictures_are_the_training_part(self, tmp_path):
        labelled.voc(tmp_path, {"train": 4, "val": 2})
        (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
        _, parts = parts_of(tmp_path)
        assert stems(parts.measured) == ["2007_val000", "2007_val001"]
        assert {*stems(parts.annotated), *stems(parts.validation)} == {f"2007_train00{i}" for i in range(4)}

    def test_only_a_validation_part(self, tmp_path):
        labelled.voc(tmp_path, {"val": 5})
        _, parts = parts_of(tmp_path)
        used = [*parts.annotated, *parts.validation, *parts.measured]
        assert len(used) == len(set(used)) == 5
        assert len(parts.measured) == 2

    def test_too_few_pictures(self, tmp_path):
        labelled.voc(tmp_path, {"val": 3})
        with pytest.raises(OptionError, match="has 3 pictures: expected at least 4"):
            parts_of(tmp_path)


def scenes(folder, count, mask=None):
    """Pictures with label maps and names, as `ovam mini scenes` and `ovam evaluate` have them."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        image, labels = labelled.pair(rng, (3, 7), (32, 48))
        image.save(folder / "images" / f"{i}.png")
        (mask or labels).save(folder / "labels" / f"{i}.png")
    (folder / "names.json").write_text(json.dumps({"labels": {"0": "background", "3": "dog", "7": "hot dog"}}))
    return folder


class TestAnnotations:
    def test_pictures_have_their_own_numbers_and_pixels(self, tmp_path):
        source = Annotations(scenes(tmp_path, 8))
        assert list(source.classes) == ["dog", "hot dog"]
        examples = list(source.examples(None, TRUTH, 10))
        assert len(examples) == 4
        labels = np.asarray(Image.open(tmp_path / "labels" / "2.png"))
        assert (examples[0].labels == labels).all()
        assert (examples[0].truth("hot dog") == (labels == 7)).all()
        assert examples[0].classes == ["dog", "hot dog"]
        assert examples[0].image.shape == (32, 48, 3)
        assert not examples[0].counted[0].any()
        assert len(list(source.examples(None, VALIDATION, 1))) == 1

    def test_what_is_fitted_on_keeps_ignored_pixels(self, tmp_path):
        source = Annotations(scenes(tmp_path, 8))
        (one,) = source.annotated(["hot dog"], 1)["hot dog"]
        labels = np.asarray(Image.open(tmp_path / "labels" / f"{one.image.stem}.png"))
        assert one.image.stem == "0"
        assert one.marks.classes == ("hot dog",)
        assert (one.marks.labels == np.where(labels == 255, 255, labels == 7)).all()
        assert [len(some) for some in source.annotated(["dog", "hot dog"], 9).values()] == [2, 2]

    def test_the_truth_is_another_when_a_mask_changes(self, tmp_path):
        folder = scenes(tmp_path, 8)
        before = Annotations(folder)
        states = {name: before.basis(name) for name in (TRUTH, VALIDATION, "annotated")}
        Image.fromarray(np.full((32, 48), 3, np.uint8)).save(folder / "labels" / "2.png")
        changed = [name for name, state in states.items() if before.basis(name) != state]
        assert changed == [TRUTH]

    def test_an_unknown_class(self, tmp_path):
        stray = Image.fromarray(np.full((32, 48), 9, np.uint8))
        with pytest.raises(DatasetError, match=r"holds 9, which is the id of no class: expected 0 .* 3 dog, 7 hot dog"):
            Annotations(scenes(tmp_path, 4, stray))

    def test_a_mask_of_another_size(self, tmp_path):
        with pytest.raises(DatasetError, match="is 8 x 9 pixels, its picture 32 x 48: expected the same size"):
            Annotations(scenes(tmp_path, 4, Image.fromarray(np.full((8, 9), 3, np.uint8))))

    def test_classes_stand_in_the_world_s_order(self):
        assert in_order(["zebra", "dog", "ant", "aeroplane"]) == ["aeroplane", "dog", "ant", "zebra"]


def test_a_report_on_a_folder_of_pictures(tmp_path, sd1, monkeypatch):
    """The page tells what was measured, a class without annotated pictures, and a method that can't read the model."""
    few = [rows.of_method(methods.DAAM(), name="DAAM"), rows.of_method(methods.DatasetDiffusion(), name="other")]
    monkeypatch.setattr("lab.pseudo_masks.report.main_rows", lambda trained: few)
    folder = labelled.voc(tmp_path / "pictures", {"train": 4, "val": 2})
    options = ReportOptions(
        command="python -m lab.pseudo_masks",
        model="tiny",
        sets=(TRUTH,),
        ablations=(),
        classes=["cat", "cow"],
        scenes=2,
        pictures=2,
        validation=1,
        weights=(),
        note="",
        work=tmp_path / "work",
        output=tmp_path / "out",
    )
    report(sd1, Annotations(folder), options)
    found = json.loads((tmp_path / "out" / "pseudo-masks.json").read_text())
    lines = found["sets"][TRUTH]["table"]
    assert {line["form"] for line in lines} == {"word", "token"}
    assert all(list(line["classes"]) == ["cat"] and line["pairs"] == 2 for line in lines)
    assert 0.02 < found["sets"][TRUTH]["ignored"] < 0.03  # one row of 48
    text = (tmp_path / "out" / "pseudo-masks.md").read_text()
    assert "## Annotated pictures of pictures (empty prompt)" in text
    assert "No annotated picture, and so no token: cow." in text
    assert "Methods that can't read this model: other." in text


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--truth", "nowhere"], "data set nowhere is not there"),
            (["--truth", "here", "--annotator", "there"], "--annotator with --truth, whose pictures are its own"),
            (["--truth", "here", "--sets", "simple"], "--sets with --truth"),
            (["--annotator", "there"], "--annotator there: expected 'oracle', the folder of a segmenter"),
            (["--classes", "unicorn"], "--classes 'unicorn': no class of the pictures has this name"),
        ],
    )
    def test_options_that_can_t_be_used(self, options, message):
        with pytest.raises(SystemExit, match=message):
            main(options)

    def test_no_steps_of_a_picture_that_was_not_generated(self, tmp_path):
        labelled.voc(tmp_path, {"val": 4})
        with pytest.raises(SystemExit, match="--ablations steps with --truth"):
            main(["--truth", str(tmp_path), "--ablations", "steps"])


ENTRIES = [
    SimpleNamespace(file="00000.png", classes=("cat",)),
    SimpleNamespace(file="00001.png", classes=("dog", "cat")),
]
IMAGES = np.zeros((2, 16, 24, 3), np.uint8)


def drawn(folder, values, names=None):
    (folder / "simple").mkdir()
    for entry in ENTRIES:
        Image.fromarray(np.asarray(values, np.uint8)).save(folder / "simple" / entry.file)
    (folder / "names.json").write_text(json.dumps({"labels": names or {"0": "background", "1": "dog", "2": "cat"}}))
    return folder


class TestAnnotators:
    def test_label_maps_are_read_by_the_names_of_their_numbers(self, tmp_path):
        values = np.zeros((16, 24), int)
        values[:4], values[4:8], values[8] = 1, 2, 255
        annotator = annotator_of(str(drawn(tmp_path, values)))
        assert isinstance(annotator, Drawn)
        found = annotator.labels("simple", ENTRIES, IMAGES)
        expected = np.zeros((16, 24))
        expected[:4], expected[4:8], expected[8] = LABELS["dog"], LABELS["cat"], 255
        assert found.shape == (2, 16, 24)
        assert (found == expected).all()

    def test_classes_of_another_world_are_background(self, tmp_path):
        names = {"1": "dog", "2": "cat", "5": "unicorn"}
        found = Drawn(drawn(tmp_path, np.full((16, 24), 5), names)).labels("simple", ENTRIES, IMAGES)
        assert not found.any()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full((16, 24), 7), "holds 7, the number of no class"),
            (np.ones((8, 8)), "is 8 x 8 pixels, its picture 16 x 24: expected the same size"),
        ],
    )
    def test_label_maps_that_do_not_fit(self, tmp_path, values, message):
        with pytest.raises(DatasetError, match=message):
            Drawn(drawn(tmp_path, values)).labels("simple", ENTRIES, IMAGES)

    def test_a_label_map_that_is_missing(self, tmp_path):
        folder = drawn(tmp_path, np.ones((16, 24)))
        (folder / "simple" / "00001.png").unlink()
        with pytest.raises(DatasetError, match=r"00001\.png is not there: expected a label map for each picture"):
            Drawn(folder).labels("simple", ENTRIES, IMAGES)

    def test_a_class_that_the_annotator_does_not_know(self, tmp_path):
        folder = drawn(tmp_path, np.ones((16, 24)), {"1": "dog"})
        with pytest.raises(DatasetError, match="knows no 'cat', which prompts of the set simple name"):
            Drawn(folder).labels("simple", ENTRIES, IMAGES)

    def test_names_that_can_t_be_read(self, tmp_path):
        folder = drawn(tmp_path, np.ones((16, 24)))
        (folder / "names.json").write_text("[1]")
        with pytest.raises(DatasetError, match="expected names by number"):
            Drawn(folder).labels("simple", ENTRIES, IMAGES)

    def test_a_trained_segmenter_is_read_by_its_names(self, tmp_path):
        folder = labelled.tiny_segformer(tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        config |= {"id2label": {"0": "background", "1": "dog", "2": "cat"}, "dataset_ids": [0, 40, 50]}
        (folder / "config.json").write_text(json.dumps(config))
        annotator = annotator_of(str(folder))
        assert isinstance(annotator, Trained)
        images = torch.randint(0, 255, (1, 64, 64, 3), generator=torch.Generator().manual_seed(0)).numpy()
        found = annotator.labels("simple", [ENTRIES[0]], images.astype(np.uint8))
        from ovam.train.predict import load

        own = load(folder)(images[0].astype(np.uint8))
        assert (found[0] == np.select([own == 40, own == 50], [LABELS["dog"], LABELS["cat"]], 0)).all()
        assert found.any()
        assert annotator.basis == Trained(folder).basis
