"""Data of a training: reading, classes, mixing, augmentation."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import labelled
from ovam.dataset.exports.voc import write_voc
from ovam.dataset.layout import read
from ovam.errors import DatasetError, OptionError
from ovam.train import AugmentOptions, TrainOptions, read_labelled
from ovam.train.augment import augmented
from ovam.train.classes import IGNORE, Classes, joint
from ovam.train.files import read_mask
from ovam.train.mixture import Mixture, order
from ovam.train.model_input import Scaling, as_input
from ovam.train.options import PLAIN
from ovam.train.sources import read_sources
from ovam.train.survey import survey


def rng(seed=0):
    return np.random.default_rng(seed)


class TestFolders:
    def test_the_projects_own(self, tmp_path):
        folder = labelled.dataset(tmp_path / "own", 6, splits=("train", "train", "validation"))
        train, val = read_labelled(folder, "train"), read_labelled(folder, "val")
        assert train.classes == {1: "disc", 2: "square"}
        assert (len(train.pairs), train.split) == (4, "train")
        assert [mask.name for _, mask in val.pairs] == ["000002.png", "000005.png"]

    def test_of_training_items_alone_all_can_validate(self, tmp_path):
        assert len(read_labelled(labelled.dataset(tmp_path / "own", 3), "val").pairs) == 3

    @pytest.mark.parametrize("inner", ["", "VOC2012", "VOCdevkit/VOC2012"])
    def test_pascal_voc(self, tmp_path, inner):
        labelled.voc(tmp_path / inner, {"train": 3, "val": 2})
        found = read_labelled(tmp_path, "train")
        assert (found.layout, len(found.pairs), found.classes[12]) == ("Pascal VOC", 3, "dog")
        picture, mask = found.pairs[0]
        assert (picture.name, mask.name) == ("2007_train000.jpg", "2007_train000.png")
        assert [mask.stem for _, mask in read_labelled(tmp_path, "val").pairs] == ["2007_val000", "2007_val001"]
        held = survey(found, Classes.of(found.classes))
        assert held.pictures[[0, 8, 12]].tolist() == [3, 3, 3]
        assert held.ignored == 3 * 48

    def test_a_label_map_names_other_classes(self, tmp_path):
        folder = labelled.voc(tmp_path / "voc", {"train": 1})
        (folder / "labelmap.txt").write_text(
            "# label:color_rgb:parts:actions\nbackground:::\ncrack:128,0,0::\nrust:::\n"
        )
        assert read_labelled(folder, "train").classes == {1: "crack", 2: "rust"}
        (folder / "labels.txt").write_text("0 background\n8 disc\n12 a square\n255 undecided\n")
        assert read_labelled(folder, "train").classes == {8: "disc", 12: "a square"}
        (folder / "labels.txt").write_text("disc\n")
        with pytest.raises(DatasetError, match="expected lines such as"):
            read_labelled(folder, "train")

    def test_an_export_of_the_project_is_read_as_its_data_set(self, tmp_path):
        own = labelled.dataset(tmp_path / "own", 4, classes={17: "disc", 90: "square"}, splits=("train", "validation"))
        write_voc(read(own), tmp_path / "voc")
        for part in ("train", "val"):
            first, second = read_labelled(own, part), read_labelled(tmp_path / "voc", part)
            assert first.classes == second.classes
            masks = [[read_mask(mask) for _, mask in each.pairs] for each in (first, second)]
            np.testing.assert_array_equal(*masks)

    @pytest.mark.parametrize("labels", [["disc"], {"x": "disc"}, {"-1": "disc"}, None])
    def test_names_that_are_not_by_id_are_named(self, tmp_path, labels):
        (tmp_path / "labels").mkdir()
        (tmp_path / "names.json").write_text(json.dumps({"labels": labels}))
        with pytest.raises(DatasetError, match=r"names\.json: labels=.*expected names by id"):
            read_labelled(tmp_path, "train")

    @pytest.mark.parametrize("name", ["labels.txt", "labelmap.txt", "ImageSets/Segmentation/train.txt"])
    def test_lists_that_are_no_text_are_named(self, tmp_path, name):
        folder = labelled.voc(tmp_path / "voc", {"train": 1})
        (folder / name).write_bytes(b"\xff\xfe1 disc")
        with pytest.raises(DatasetError, match=f"{name} can't be read .*not UTF-8"):
            read_labelled(folder, "train")

    def test_a_data_set_that_is_not_finished_is_refused(self, tmp_path):
        folder = labelled.dataset(tmp_path / "own", 2)
        (folder / "metadata.jsonl").unlink()
        with pytest.raises(DatasetError, match="its run is not finished"):
            read_labelled(folder, "train")

    def test_scenes(self, tmp_path):
        image, mask = labelled.pair(rng(), (1, 2))
        for name, picture in (("images", image), ("labels", mask)):
            (tmp_path / name).mkdir()
            picture.save(tmp_path / name / "000000007.png")
        (tmp_path / "names.json").write_text(json.dumps({"labels": {"0": "unnamed", "1": "disc", "2": "square"}}))
        found = read_labelled(tmp_path, "train")
        assert found.classes == labelled.CLASSES
        assert found.pairs == ((tmp_path / "images/000000007.png", tmp_path / "labels/000000007.png"),)

    def test_without_masks(self, tmp_path):
        with pytest.raises(DatasetError, match=r"has none of the known layouts: expected dataset\.json"):
            read_labelled(tmp_path, "train")
        with pytest.raises(DatasetError, match="is not there"):
            read_labelled(tmp_path / "gone", "train")

    def test_a_mask_or_a_picture_is_missing(self, tmp_path):
        folder = labelled.dataset(tmp_path / "own", 3)
        (folder / "masks/000001.png").unlink()
        with pytest.raises(DatasetError, match=r"lacks 1 of 3 masks, first 000001\.png"):
            read_labelled(folder, "train")
        voc = labelled.voc(tmp_path / "voc", {"train": 2})
        (voc / "JPEGImages/2007_train001.jpg").unlink()
        with pytest.raises(DatasetError, match="lacks 1 of 2 pictures, first 2007_train001"):
            read_labelled(voc, "train")

    def test_no_pictures_of_the_part(self, tmp_path):
        with pytest.raises(DatasetError, match="no pictures for 'train'"):
            read_labelled(labelled.dataset(tmp_path / "own", 2, splits=("test",)), "train")

    @pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
    def test_names_that_lead_out(self, tmp_path, name):
        voc = labelled.voc(tmp_path / "voc", {"train": 2})
        (voc / "ImageSets/Segmentation/train.txt").write_text(name)
        with pytest.raises(DatasetError, match="inside the folder"):
            read_labelled(voc, "train")
        own = labelled.dataset(tmp_path / "own", 1)
        item = json.loads((own / "items/000000.json").read_text())
        item["mask"]["file"] = name
        (own / "items/000000.json").write_text(json.dumps(item))
        with pytest.raises(DatasetError, match="inside the folder"):
            read_labelled(own, "train")


class TestClasses:
    def test_sparse_ids_become_contiguous_labels(self, tmp_path):
        folder = labelled.dataset(tmp_path / "own", 1, classes={17: "disc", 90: "square"})
        classes = Classes.of(read_labelled(folder, "train").classes)
        assert classes.by_label == {0: "background", 1: "disc", 2: "square"}
        table = classes.labels_of({17: "disc", 90: "square"})
        assert table[[0, 17, 90, 255]].tolist() == [0, 1, 2, 255]
        assert classes.ids_of()[table[[0, 17, 90]]].tolist() == [0, 17, 90]

    def test_ids_may_differ_between_data_sets(self):
        classes = joint([("a", {1: "disc", 2: "square"}), ("b", {2: "disc", 8: "square"})])
        assert classes.ids == (0, 1, 2)
        assert classes.labels_of({2: "disc", 8: "square"})[[2, 8]].tolist() == [1, 2]

    def test_names_may_not(self):
        with pytest.raises(DatasetError, match="a and b differ; only in a: square; only in b: cube, ball"):
            joint([("a", {1: "disc", 2: "square"}), ("b", {1: "disc", 2: "cube", 3: "ball"})])

    @pytest.mark.parametrize("named", [{}, {0: "sky"}, {255: "sky"}, {1: "sky", 2: "sky"}, {1: "background"}])
    def test_that_can_not_be(self, named):
        with pytest.raises(DatasetError):
            Classes.of(named)


class TestSurvey:
    def sources(self, folder, **changes):
        return read_sources([(folder, 1)], changes.get("val", folder), lambda *_: None)

    def test_an_id_of_no_class(self, tmp_path):
        folder = labelled.dataset(tmp_path / "own", 2)
        Image.fromarray(np.full((48, 48), 7, np.uint8)).save(folder / "masks/000001.png")
        found = read_labelled(folder, "train")
        with pytest.raises(DatasetError, match=r"000001.png holds 7, .* 1 disc, 2 square"):
            survey(found, Classes.of(found.classes))

    def test_another_size_and_colours(self, tmp_path):
        folder = labelled.dataset(tmp_path / "own", 1)
        found = read_labelled(folder, "train")
        Image.new("P", (48, 40)).save(folder / "masks/000000.png")
        with pytest.raises(DatasetError, match="40 x 48 pixels, its picture 48 x 48"):
            survey(found, Classes.of(found.classes))
        Image.new("RGB", (48, 48)).save(folder / "masks/000000.png")
        with pytest.raises(DatasetError, match="several channels"):
            survey(found, Classes.of(found.classes))

    def test_no_labelled_pixel(self, tmp_path):
        folder, val = labelled.dataset(tmp_path / "own", 2), labelled.dataset(tmp_path / "val", 2, seed=9)
        for mask in (val / "masks").iterdir():
            Image.fromarray(np.full((48, 48), 255, np.uint8)).save(mask)
        with pytest.raises(DatasetError, match="no labelled pixel in 2 masks"):
            self.sources(folder, val=val)

    def test_validation_pictures_are_not_trained_on(self, tmp_path):
        with pytest.raises(DatasetError, match="2 of 2 validation pictures are trained on"):
            self.sources(labelled.dataset(tmp_path / "own", 2))

    def test_copies_and_links_of_validation_pictures_are_not_trained_on(self, tmp_path):
        folder, val = labelled.dataset(tmp_path / "own", 3), labelled.dataset(tmp_path / "val", 3, seed=9)
        self.sources(folder, val=val)
        for name, place in ((shutil.copyfile, "000001.png"), (os.link, "000002.png")):
            (folder / "images" / place).unlink()
            name(val / "images" / "000000.png", folder / "images" / place)
            with pytest.raises(DatasetError, match=r"1 of 3 validation pictures are trained on, first .*000000\.png"):
                self.sources(folder, val=val)
            (folder / "images" / place).unlink()
            labelled.pair(rng(5), [1, 2])[0].save(folder / "images" / place)

    def test_usual_size(self, tmp_path):
        folder, val = (
            labelled.dataset(tmp_path / "own", 2, size=(70, 90)),
            labelled.dataset(tmp_path / "val", 1, seed=9),
        )
        assert self.sources(folder, val=val).usual_size == 64

    def test_weights(self, tmp_path):
        with pytest.raises(OptionError, match="above 0"):
            read_sources([(tmp_path, 0)], tmp_path, lambda *_: None)
        with pytest.raises(OptionError, match="no data set"):
            read_sources([], tmp_path, lambda *_: None)


class TestOrder:
    @pytest.mark.parametrize(
        ("weights", "batch", "counts"), [((1, 1), 8, (4, 4)), ((3, 1), 8, (6, 2)), ((0.5, 0.25, 0.25), 4, (2, 1, 1))]
    )
    def test_every_batch_holds_each_data_set_by_its_weight(self, weights, batch, counts):
        source = order(weights, 50 * batch).source.reshape(50, batch)
        for one in source:
            assert np.bincount(one, minlength=len(weights)).tolist() == list(counts)

    @pytest.mark.parametrize("weights", [(1, 2, 4), (0.9, 0.07, 0.03), (1, 1, 1)])
    def test_shares_that_fill_no_batch_are_right_at_any_place(self, weights):
        source = order(weights, 300).source
        for i, weight in enumerate(weights):
            due = weight / sum(weights) * np.arange(1, 301)
            assert abs(np.cumsum(source == i) - due).max() < 1.5  # measured: 1.0

    def mixture(self, tmp_path, length=24, augment=PLAIN):
        sets = [
            labelled.dataset(tmp_path / "a", 5),
            labelled.dataset(tmp_path / "b", 3, seed=1, classes={40: "disc", 60: "square"}),
        ]
        read = [read_labelled(each, "train") for each in sets]
        classes = joint([(str(each.folder), each.classes) for each in read])
        options = {"length": length, "scaling": Scaling(48), "augment": augment, "seed": 3}
        return Mixture(read, (1, 1), classes, **options)

    def test_each_pass_shows_each_picture_once_in_a_new_order(self, tmp_path):
        mixture = self.mixture(tmp_path, 40)
        items = [mixture.place(i) for i in range(40)]
        first = [item for source, item in items if source == 0]
        assert sorted(first[:5]) == sorted(first[5:10]) == list(range(5))
        assert len({tuple(first[i : i + 5]) for i in range(0, 20, 5)}) > 1

    def test_what_stands_at_a_place_does_not_depend_on_what_was_read(self, tmp_path):
        mixture = self.mixture(tmp_path, augment=AugmentOptions())
        before = mixture[17]
        other = Mixture.__new__(Mixture)
        other.__dict__ |= mixture.__dict__
        for i in (3, 17, 0, 17):
            again = other[i]
        assert all(torch.equal(before[name], again[name]) for name in before)

    def test_labels_are_joint(self, tmp_path):
        mixture = self.mixture(tmp_path)
        for i in range(8):
            assert set(mixture[i]["labels"].unique().tolist()) == {0, 1, 2, IGNORE}
            assert mixture[i]["pixel_values"].shape == (3, 48, 48)


class TestAugment:
    CODE = AugmentOptions(brightness=0, contrast=0, saturation=0, blur=0)

    @pytest.mark.parametrize("shape", [(40, 60), (64, 64), (90, 50)])
    def test_picture_and_mask_stay_together(self, shape):
        """The picture's red is its mask: after any window they differ at a few pixels of outlines, at most."""
        for seed in range(30):
            blocks = rng(seed).integers(0, 2, (shape[0] // 10, shape[1] // 10))
            mask = blocks.repeat(10, 0).repeat(10, 1).astype(np.uint8)
            picture = np.stack([mask * 200, mask * 0, mask * 0], -1)
            square, labels = augmented(picture, mask, 64, rng(seed), self.CODE)
            known = labels != IGNORE
            differing = (square[..., 0] > 100)[known] != labels[known]
            assert differing.mean() < 0.02  # measured: at most 0.016

    def test_that_check_can_fail(self):
        """A mask that is one pixel off differs at more pixels."""
        blocks = rng().integers(0, 2, (6, 6)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
        assert (np.roll(blocks, 1, 1) != blocks).mean() > 0.04

    def test_room_around_a_picture_is_ignored(self):
        picture, mask = np.full((32, 32, 3), 200, np.uint8), np.ones((32, 32), np.uint8)
        square, labels = augmented(picture, mask, 64, rng(), AugmentOptions(**{**vars(self.CODE), "scale": (0.5, 0.5)}))
        inside = labels == 1
        assert inside.sum() == 32 * 32
        assert (labels[~inside] == IGNORE).all()
        assert (square[inside] == 200).all()
        assert (square[~inside] == (124, 116, 104)).all()

    def test_plain_is_the_picture_itself(self):
        picture, mask = rng().integers(0, 256, (48, 48, 3), dtype=np.uint8), np.eye(48, dtype=np.uint8)
        square, labels = augmented(picture, mask, 48, rng(), PLAIN)
        np.testing.assert_array_equal(square, picture)
        np.testing.assert_array_equal(labels, mask)

    def test_half_are_mirrored(self):
        mask = np.zeros((32, 32), np.uint8)
        mask[:, :16] = 1
        options = AugmentOptions(**{**vars(PLAIN), "flip": 0.5})
        rights = [augmented(np.dstack([mask] * 3), mask, 32, rng(i), options)[1][0, -1] for i in range(200)]
        assert 80 < sum(rights) < 120

    def test_colours_and_blur_leave_the_mask(self):
        picture, mask = rng().integers(0, 256, (48, 48, 3), dtype=np.uint8), rng().integers(0, 3, (48, 48), np.uint8)
        options = AugmentOptions(flip=0, scale=(1, 1), blur=1)
        square, labels = augmented(picture, mask, 48, rng(1), options)
        np.testing.assert_array_equal(labels, mask)
        assert abs(square.astype(int) - picture).mean() > 5
        again, _ = augmented(picture, mask, 48, rng(1), options)
        np.testing.assert_array_equal(square, again)

    @pytest.mark.parametrize("wrong", [{"flip": 2}, {"scale": (2, 1)}, {"scale": (0, 1)}, {"brightness": 1}])
    def test_options(self, wrong):
        with pytest.raises(OptionError):
            AugmentOptions(**wrong)


class TestInput:
    def test_scaling(self):
        assert Scaling(64).input_size(100, 150) == (64, 96)
        assert Scaling(64).input_size(150, 100) == (96, 64)
        assert Scaling(64, divisor=32).input_size(100, 101) == (64, 64)
        assert Scaling(64, divisor=32).input_size(100, 110) == (64, 96)

    def test_colours(self):
        grey = np.full((2, 2, 3), 255, np.uint8)
        expected = [(1 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
        assert as_input(grey, Scaling(2))[:, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": 0}, {"size": 50}, {"size": 16}, {"learning_rate": 0}, {"precision": "int8"}],
)
def test_options(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        TrainOptions(**wrong)
