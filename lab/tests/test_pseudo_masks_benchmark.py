"""Public benchmarks: readers of folders as they really lie, and the counting of two papers, by plain loops."""

import csv
import json
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import labelled
from lab.pseudo_masks import rows
from lab.pseudo_masks.__main__ import main
from lab.pseudo_masks.benchmark import CONCEPT, GOCA, benchmark_page, measured, read_items
from lab.pseudo_masks.protocols import (
    CONCEPT_WORDS,
    GOCA_WORDS,
    OFFSETS,
    concept_counts,
    concept_figures,
    goca_counts,
    goca_figures,
    nearest,
    stretched,
)
from lab.pseudo_masks.public import imagenet_segmentation, is_imagenet_segmentation, pascal_voc, single
from ovam import methods
from ovam.errors import DatasetError, OptionError

COLUMNS = ("", "image_path", "segmentation_mask_path", "simplified_name", "imagenet_name")


def imagenet(folder, names=("dog", "bat", "plane"), size=(20, 30)):
    """ImageNet-Segmentation as ConceptAttention's script writes it: masks of 0 and 1, places of another machine."""
    for name in ("images", "segmentation_masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "data.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for i, name in enumerate(names):
            image, mask = rng.integers(0, 255, (*size, 3)), np.zeros(size, np.uint8)
            mask[5:15, 8 : 16 + i] = 1
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{i}.png")
            Image.fromarray(mask).save(folder / "segmentation_masks" / f"{i}.png")
            place = "data/imagenet_segmentation"
            table.writerow([i, f"{place}/images/{i}.png", f"{place}/segmentation_masks/{i}.png", name, f"a {name}"])
    return folder


class TestReaders:
    def test_imagenet_segmentation(self, tmp_path):
        folder = imagenet(tmp_path)
        assert is_imagenet_segmentation(folder)
        items = imagenet_segmentation(folder)
        assert [item.words for item in items] == [{1: "dog"}, {1: "bat"}, {1: "plane"}]
        picture, labels = items[1].read()
        assert picture.size == (30, 20)
        assert labels.sum() == 10 * 9
        assert single(labels) == 1

    def test_masks_of_0_and_255_are_the_same(self, tmp_path):
        folder = imagenet(tmp_path)
        mask = np.asarray(Image.open(folder / "segmentation_masks" / "0.png")) * np.uint8(255)
        Image.fromarray(mask).save(folder / "segmentation_masks" / "0.png")
        assert imagenet_segmentation(folder)[0].read()[1].sum() == 80

    def test_pascal_voc_below_its_devkit(self, tmp_path):
        labelled.voc(tmp_path / "VOCdevkit" / "VOC2012", {"train": 1, "val": 2})
        items = pascal_voc(tmp_path / "VOCdevkit", CONCEPT_WORDS)
        assert [item.picture.name for item in items] == ["2007_val000.jpg", "2007_val001.jpg"]
        _, labels = items[0].read()
        assert set(np.unique(labels)) == {0, 8, 12, 255}
        assert single(labels) is None
        assert single(np.where(labels == 12, 0, labels)) == 8

    def test_words_of_both_papers_name_all_classes(self):
        assert list(CONCEPT_WORDS) == list(GOCA_WORDS) == list(range(1, 21))
        assert (CONCEPT_WORDS[1], CONCEPT_WORDS[20], GOCA_WORDS[20]) == ("plane", "monitor", "television")

    @pytest.mark.parametrize("spoil", ["column", "word", "mask", "size"])
    def test_imagenet_segmentation_that_is_not_whole(self, tmp_path, spoil):
        folder = imagenet(tmp_path)
        messages = {
            "column": "has 3 of 3 lines without simplified_name",
            "word": "has 1 of 3 lines without simplified_name",
            "mask": "2.png is not there: expected a picture and a mask for each line",
            "size": "1.png is 8 x 9 pixels, its picture 20 x 30: expected the same size",
        }
        table = (folder / "data.csv").read_text()
        if spoil == "column":
            (folder / "data.csv").write_text(table.replace("simplified_name", "name"))
        elif spoil == "word":
            (folder / "data.csv").write_text(table.replace(",bat,", ",,"))
        elif spoil == "mask":
            (folder / "segmentation_masks" / "2.png").unlink()
        else:
            Image.fromarray(np.zeros((8, 9), np.uint8)).save(folder / "segmentation_masks" / "1.png")
        with pytest.raises(DatasetError, match=messages[spoil]):
            imagenet_segmentation(folder)

    def test_pascal_voc_with_a_number_of_no_class(self, tmp_path):
        folder = labelled.voc(tmp_path, {"val": 1})
        file = folder / "SegmentationClass" / "2007_val000.png"
        Image.fromarray(np.full((48, 48), 33, np.uint8)).save(file)
        (item,) = pascal_voc(folder, GOCA_WORDS)
        with pytest.raises(DatasetError, match="holds 33, the number of no class: expected 0, 255, and 1 to 20"):
            item.read()

    def test_other_classes_than_pascal_voc_s(self, tmp_path):
        folder = labelled.voc(tmp_path, {"val": 1})
        (folder / "labels.txt").write_text("8 cat\n12 dog\n21 unicorn\n")
        with pytest.raises(DatasetError, match="has the classes 21 unicorn, which this protocol has no words for"):
            pascal_voc(folder, GOCA_WORDS)

    def test_no_imagenet_segmentation_in_the_protocol_of_goca(self, tmp_path):
        with pytest.raises(OptionError, match=r"--protocol goca with --truth .* which is ImageNet-Segmentation"):
            read_items(imagenet(tmp_path), GOCA)


class Maps:
    """Random maps of words."""

    def __init__(self, *words, size):
        rng = np.random.default_rng(len(words))
        self.values = {word: rng.random(size) for word in words}

    def __call__(self, word):
        return self.values[word]


class TestConceptAttention:
    def counted(self):
        maps = Maps("dog", "sky", "grass", size=(448, 448))
        truth = np.random.default_rng(5).choice(np.array([0, 1, 255], np.uint8), (224, 224))
        return maps, truth, concept_counts(maps, "dog", ["sky", "dog", "grass"], truth)

    def test_counts_are_those_of_plain_loops(self):
        maps, truth, found = self.counted()
        small = {word: nearest(values).tolist() for word, values in maps.values.items()}
        mean = maps.values["dog"].mean()
        expected = {"mean": [0, 0, 0, 0], "argmax": [0, 0, 0, 0]}
        for y in range(224):
            for x in range(224):
                if truth[y, x] == 255:
                    continue
                own = small["dog"][y][x]
                for cut, inside in (
                    ("mean", own > mean),
                    ("argmax", own > max(small["sky"][y][x], small["grass"][y][x])),
                ):
                    expected[cut][(0 if truth[y, x] else 1) if inside else (2 if truth[y, x] else 3)] += 1
        assert {cut: found[cut] for cut in expected} == expected

    def test_a_map_that_is_the_truth_is_perfect(self):
        truth = np.zeros((224, 224), np.uint8)
        truth[:100] = 1
        values = {"dog": truth.astype(float), "sky": np.full((224, 224), 0.5)}
        figures = concept_figures([concept_counts(values.get, "dog", ["sky"], truth)], "argmax")
        assert figures == {"accuracy": 1, "mIoU": 1, "released mIoU": 1, "mAP": 1}

    def test_the_released_mean_of_a_mask_and_its_opposite(self):
        """Their code stacks 1 - mask and mask, and the truths alike, and counts zeros and ones of both planes."""
        _, _, counts = self.counted()
        hits, wrong, missed, rest = counts["mean"]
        mask = np.repeat([1, 1, 0, 0], [hits, wrong, missed, rest])
        truth = np.repeat([1, 0, 1, 0], [hits, wrong, missed, rest])
        planes, truths = np.stack([1 - mask, mask]), np.stack([1 - truth, truth])
        iou = [((planes == i) & (truths == i)).sum() / ((planes == i) | (truths == i)).sum() for i in (0, 1)]
        figures = concept_figures([counts], "mean")
        assert figures["released mIoU"] == pytest.approx(np.mean(iou), abs=1e-12)
        own = [hits / (hits + wrong + missed), rest / (rest + wrong + missed)]
        assert figures["mIoU"] == pytest.approx(np.mean(own), abs=1e-12)


class TestGoca:
    WORDS: ClassVar = {1: "plane", 8: "cat", 12: "dog"}

    def counted(self):
        maps = Maps("plane", "cat", "dog", "sky", "grass", size=(9, 11))
        truth = np.random.default_rng(3).choice(np.array([0, 8, 12, 255], np.uint8), (9, 11))
        return maps, truth, goca_counts(maps, self.WORDS, ["sky", "grass"], truth, 21)

    def test_counts_are_those_of_plain_loops(self):
        maps, truth, found = self.counted()
        soft = {word: ((v - v.min()) / (v.max() - v.min())).tolist() for word, v in maps.values.items()}
        for offset in OFFSETS:
            kept, released = np.zeros((2, 21, 21), int)
            for y in range(9):
                for x in range(11):
                    best, label = max(soft["sky"][y][x], soft["grass"][y][x]) + offset, 0
                    for number in (8, 12):  # no plane is in the picture: its list is given
                        if soft[self.WORDS[number]][y][x] > best:
                            best, label = soft[self.WORDS[number]][y][x], number
                    released[0 if truth[y, x] == 255 else truth[y, x], label] += 1
                    if truth[y, x] != 255:
                        kept[truth[y, x], label] += 1
            assert found[f"{offset:+.1f}"] == {"open": kept.tolist(), "released": released.tolist()}

    def test_figures_are_pooled_over_the_pictures(self):
        _, _, counts = self.counted()
        figures = goca_figures([counts, counts])
        assert list(figures) == [f"{offset:+.1f}" for offset in OFFSETS]
        table = np.array(counts["+0.0"]["open"])
        both, either = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
        assert figures["+0.0"]["open"] == pytest.approx(np.mean([both[i] / either[i] for i in (0, 8, 12)]), abs=1e-12)

    def test_a_map_of_one_value(self):
        assert not stretched(np.full((3, 4), 0.7)).any()


class TestRun:
    """On a tiny model: pictures come through `encode`, and a second run makes nothing again."""

    ROWS = (rows.of_method(methods.DAAM(), name="DAAM"), rows.of_method(methods.DatasetDiffusion(), name="other"))

    @pytest.mark.parametrize("protocol", [CONCEPT, GOCA])
    def test_runs_and_goes_on(self, tmp_path, sd1, protocol):
        folder = tmp_path / "data"
        if protocol == CONCEPT:
            imagenet(folder, ("dog",))
        else:
            labelled.voc(folder, {"val": 1})
        found = measured(sd1, folder, protocol, 5, tmp_path / "work", self.ROWS)
        assert {row: len(counts) for row, counts in found.items()} == {"DAAM": 1}  # the other can't read this model
        (file,) = (tmp_path / "work").rglob("*.json")
        kept = json.loads(file.read_text())
        kept["DAAM"]["mark"] = True
        file.write_text(json.dumps(kept))
        assert measured(sd1, folder, protocol, 5, tmp_path / "work", self.ROWS)["DAAM"][0].pop("mark")
        about = {"command": "c", "model": "m", "version": "0", "protocol": protocol, "folder": "data", "pictures": 1}
        if protocol == CONCEPT:
            assert sum(found["DAAM"][0]["mean"]) == 224 * 224
            page = benchmark_page(about, {"DAAM": {"mean": concept_figures(found["DAAM"], "mean")}})
            assert "| DAAM | mean |" in page
        else:
            assert np.sum(found["DAAM"][0]["+0.1"]["released"]) == 48 * 48
            page = benchmark_page(about, {"DAAM": goca_figures(found["DAAM"])})
            assert "| method | -0.4 |" in page
            assert "54.97" in page

    def test_pictures_of_several_classes_alone(self, tmp_path, sd1):
        folder = labelled.voc(tmp_path / "data", {"val": 2})
        with pytest.raises(DatasetError, match="has no picture that concept-attention scores"):
            measured(sd1, folder, CONCEPT, 5, tmp_path / "work", self.ROWS)

    def test_a_protocol_needs_a_folder(self):
        with pytest.raises(SystemExit, match="--protocol goca without --truth"):
            main(["--protocol", "goca"])
