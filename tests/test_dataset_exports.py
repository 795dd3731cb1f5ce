"""Exports of a labelled data set: readers that others wrote give the identical masks back."""

import contextlib
import hashlib
import io
import json
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image, ImageDraw

import tiny
from lab.faults.__main__ import digests
from ovam.dataset.exports.run import FORMATS, export
from ovam.dataset.generator import generate
from ovam.dataset.layout import read
from ovam.dataset.recipe import recipe_of
from ovam.errors import DatasetError, MissingPackageError, OptionError
from test_cli import assert_fails, call


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set with COCO's numbers, undecided pixels, two splits, and a class of an odd name."""
    tables = {
        "data": {"vocabulary": "coco", "classes": ["dog", "cat"], "number": 6, "name": "a < b"},
        "class": [{"name": "car & co", "id": 200, "words": ["car"]}],
        "model": {"num_inference_steps": 2, "batch": 6, "height": 32, "width": 48},
        "prompts": {"places": ["grass"], "least_things": 2},
        "masks": {"ignore": 0.05, "refine_method": "restart", "products": 1},
        "splits": {"train": 1, "validation": 1},
    }
    folder = tmp_path_factory.mktemp("data") / "set"
    generate(recipe_of(tables), folder, pipe=tiny.sd1())
    found = read(folder)
    assert set(found.splits) == {"train", "validation"}
    assert any((item.labels() == 255).any() for item in found.items)
    assert any((item.labels() == 200).any() for item in found.items)
    return found


def exported(data, folder, form):
    export(data.folder, folder, form)
    return folder


@pytest.fixture(autouse=True)
def _offline_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def decided(labels):
    """Labels without undecided pixels, which a format does not have."""
    return np.where(labels == 255, 0, labels)


@pytest.mark.parametrize("form", FORMATS)
def test_equal_data_gives_equal_bytes(form, data, tmp_path):
    for name in ("a", "b"):
        result = export(data.folder, tmp_path / name, form)
    undecided = np.mean([item.labels() == 255 for item in data.items])
    assert undecided > 0.01
    known = form in ("voc", "parquet", "webdataset")
    assert result["undecided_as_background"] == pytest.approx(0 if known else undecided, abs=1e-4)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")


@pytest.mark.parametrize("form", FORMATS)
def test_one_split_alone_and_empty_masks_are_exported(form, data, tmp_path, monkeypatch):
    empty = type(data)(data.folder, data.about, data.of_split("train")[:1])
    monkeypatch.setattr(type(empty.items[0]), "labels", lambda self: np.zeros((32, 48), dtype=np.uint8))
    (tmp_path / "out").mkdir()
    FORMATS[form](empty, tmp_path / "out")
    assert digests(tmp_path / "out")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_pycocotools_reads_instances(data, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    folder = exported(data, tmp_path / "out", "coco")
    for split, name in (("train", "train"), ("validation", "val")):
        with contextlib.redirect_stdout(io.StringIO()):
            table = coco.COCO(str(folder / "annotations" / f"instances_{name}.json"))
        items = {item.index: item for item in data.of_split(split)}
        assert set(table.getImgIds()) == set(items)
        assert {one["id"]: one["name"] for one in table.loadCats(table.getCatIds())} == {
            17: "cat",
            18: "dog",
            200: "car & co",
        }
        for index, item in items.items():
            labels = np.zeros((32, 48), dtype=np.uint8)
            for one in table.loadAnns(table.getAnnIds(imgIds=[index])):
                mask = table.annToMask(one).astype(bool)
                assert one["area"] == mask.sum()
                labels[mask] = one["category_id"]
            assert (labels == decided(item.labels())).all()
            assert (
                folder / name / table.loadImgs([index])[0]["file_name"]
            ).read_bytes() == item.image_path.read_bytes()


def test_panoptic_pictures_hold_the_masks(data, tmp_path):
    folder = exported(data, tmp_path / "out", "panoptic") / "annotations"
    for split, name in (("train", "train"), ("validation", "val")):
        table = json.loads((folder / f"panoptic_{name}.json").read_text())
        by_index = {item.index: item for item in data.of_split(split)}
        assert all(one["isthing"] == 1 for one in table["categories"])
        for one in table["annotations"]:
            colours = np.array(Image.open(folder / f"panoptic_{name}" / one["file_name"])).astype(np.uint32)
            numbers = colours @ np.array([1, 256, 65536], dtype=np.uint32)
            labels = np.zeros(numbers.shape, dtype=np.uint8)
            for segment in one["segments_info"]:
                assert (numbers == segment["id"]).sum() == segment["area"]
                labels[numbers == segment["id"]] = segment["category_id"]
            assert (labels == decided(by_index[one["image_id"]].labels())).all()


def test_a_reader_of_pascal_voc_gives_the_masks_back(data, tmp_path):
    folder = exported(data, tmp_path / "out", "voc")
    lists = {path.stem: path.read_text().split() for path in (folder / "ImageSets" / "Segmentation").iterdir()}
    assert lists["train"] == [item.stem for item in data.of_split("train")]
    assert lists["val"] == [item.stem for item in data.of_split("validation")]
    assert sorted(lists["trainval"]) == [item.stem for item in data.items]
    for item in data.items:
        mask = Image.open(folder / "SegmentationClass" / f"{item.stem}.png")
        assert (mask.mode, mask.getpalette()[3:6]) == ("P", [128, 0, 0])
        assert (np.array(mask) == item.labels()).all()
        objects = np.array(Image.open(folder / "SegmentationObject" / f"{item.stem}.png"))
        assert ((objects == 255) == (item.labels() == 255)).all()
        assert ((objects > 0) == (item.labels() > 0)).all()
        image = np.asarray(Image.open(folder / "JPEGImages" / f"{item.stem}.jpg"), dtype=np.int16)
        assert np.abs(image - np.asarray(Image.open(item.image_path))).mean() < 8
        root = ET.parse(folder / "Annotations" / f"{item.stem}.xml").getroot()
        assert root.findtext("folder") == "a < b"
        boxes = [
            [int(one.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for one in root.iter("object")
        ]
        assert len(boxes) == len(np.unique(objects[(objects > 0) & (objects < 255)]))
        assert all(1 <= left <= right <= 48 and 1 <= top <= low <= 32 for left, top, right, low in boxes)
    assert "200 car & co" in (folder / "labels.txt").read_text()


def test_yolo_outlines_fill_the_masks(data, tmp_path):
    folder = exported(data, tmp_path / "out", "yolo")
    ids = [one.id for one in data.about.classes]
    scale = 8
    for item in data.items:
        found = np.zeros((32 * scale, 48 * scale), dtype=np.uint8)
        for line in (folder / "labels" / item.split / f"{item.stem}.txt").read_text().splitlines():
            number, *values = line.split()
            points = np.array(values, dtype=float).reshape(-1, 2)
            assert ((points >= 0) & (points <= 1)).all()
            picture = Image.new("1", (48 * scale, 32 * scale))
            corners = points * (48 * scale, 32 * scale) - 0.5
            ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=1)
            found[np.array(picture)] = ids[int(number)]
        centres = found[scale // 2 :: scale, scale // 2 :: scale]
        assert (centres == decided(item.labels())).mean() > 0.999
    assert "val: images/validation\n" in (folder / "data.yaml").read_text()
    assert (folder / "images" / data.items[0].split / f"{data.items[0].stem}.png").is_file()


@pytest.fixture(scope="module")
def datasets():
    """Hugging Face `datasets`, without its progress bars."""
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


def test_datasets_reads_the_folder_itself(data, tmp_path, datasets):
    rows = datasets.load_dataset("imagefolder", data_dir=str(data.folder), split="train", cache_dir=str(tmp_path / "c"))
    assert len(rows) == len(data.items)
    for row, item in zip(rows, data.items, strict=True):
        assert (np.array(row["mask"]) == item.labels()).all()
        assert (np.array(row["image"]) == np.array(Image.open(item.image_path))).all()
        assert (row["split"], row["prompt"], row["classes"]) == (item.split, item.prompt, list(item.classes))
        assert row["presence"] == pytest.approx(list(item.scores["presence"].values()))


def test_datasets_reads_parquet(data, tmp_path, datasets):
    folder = exported(data, tmp_path / "out", "parquet")
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "c"))
    assert set(found) == {"train", "validation"}
    for split, rows in found.items():
        assert isinstance(rows.features["mask"], datasets.Image)
        for row, item in zip(rows, data.of_split(split), strict=True):
            assert row["mask"].mode == "P"
            assert (np.array(row["mask"]) == item.labels()).all()
            assert row["class_ids"] == [data.about.ids[name] for name in item.classes]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of webdataset itself
def test_webdataset_reads_its_tar_files(data, tmp_path):
    web = pytest.importorskip("webdataset")
    folder = exported(data, tmp_path / "out", "webdataset")
    for split in data.splits:
        samples = list(web.WebDataset(str(folder / f"{split}-000000.tar"), shardshuffle=False))
        for sample, item in zip(samples, data.of_split(split), strict=True):
            assert sample["__key__"] == item.stem
            assert (np.array(Image.open(io.BytesIO(sample["seg.png"]))) == item.labels()).all()
            assert hashlib.sha256(sample["png"]).hexdigest() == item.image_sha256
            assert json.loads(sample["json"])["prompt"] == item.prompt


def test_transformers_takes_the_masks_as_they_are(data):
    from transformers import SegformerImageProcessorPil

    processor = SegformerImageProcessorPil(do_resize=False, do_reduce_labels=False)
    for item in data.items:
        mask = Image.open(item.mask_path)
        given = processor(Image.open(item.image_path), segmentation_maps=mask, return_tensors="np")
        assert (given["labels"][0] == item.labels()).all()


def test_places_elsewhere_are_written_by_fsspec(data, tmp_path):
    pytest.importorskip("fsspec")
    export(data.folder, tmp_path / "here", "webdataset")
    export(data.folder, f"file://{tmp_path / 'there'}", "webdataset")
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
    with pytest.raises(DatasetError, match="has files"):
        export(data.folder, f"file://{tmp_path / 'there'}", "webdataset")
    with pytest.raises(DatasetError, match="an address that fsspec knows"):
        export(data.folder, "nowhere://x", "webdataset")


def test_what_can_not_be_exported_is_told(data, tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="voc, coco"):
        export(data.folder, tmp_path / "out", "tfrecord")
    with pytest.raises(DatasetError, match="inside the data set"):
        export(data.folder, data.folder / "voc", "voc")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DatasetError, match="has files in it"):
        export(data.folder, tmp_path / "full", "voc")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"ovam\[data\]"):
        export(data.folder, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists(), "nothing is left of what failed"
    assert call("dataset", "export", data.folder, "--format", "x", "--output-dir", tmp_path / "out").exit_code == 2
    assert_fails(
        call("dataset", "export", tmp_path, "--format", "voc", "--output-dir", tmp_path / "out"), "is no data set"
    )


@pytest.mark.parametrize("address", ["data://x", "zip://x", "reference://x", "nothing://x"])
def test_addresses_that_can_not_be_written_to_are_named(address, data, tmp_path):
    with pytest.raises(DatasetError, match=f"{address} can't be written to"):
        export(data.folder, address, "coco")


def test_yolo_s_table_stands_for_its_own_folder(data, tmp_path):
    """Ultralytics takes a relative `path` from where it is run; without one it takes the folder of the file."""
    export(data.folder, tmp_path / "yolo", "yolo")
    table = (tmp_path / "yolo" / "data.yaml").read_text().splitlines()
    assert not any(line.startswith("path:") for line in table)
    for line in table[:2]:
        assert (tmp_path / "yolo" / line.partition(": ")[2]).is_dir()
