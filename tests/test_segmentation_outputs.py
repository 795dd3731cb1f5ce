"""What a segmentation hands out: pictures in the legend's colours, files, and the forms of other programs."""

import colorsys
import io
import json
import sys
import types
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

import ovam
from ovam import errors, pictures
from ovam.colours import label_colours
from ovam.commands.write_results import write_all
from ovam.maps.result import AttentionMaps
from ovam.masks.coco import segmentation_mask
from ovam.masks.options import SegmentOptions
from ovam.masks.result import Segmentation
from ovam.prompt import Span
from ovam.run_folder import RECORD
from synthetic import make_trace

SIZE = (24, 40)
WORDS = ("cat", "hot dog", "sky")


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def photo(size=SIZE):
    """Loud colours, which a tint must not mix with."""
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))


def made(image=True, words=WORDS):
    """Two cats, one of them with a hole, a hot dog over the edge of the image, and no sky."""
    labels = torch.zeros(SIZE, dtype=torch.long)
    labels[2:12, 3:13], labels[5:7, 6:9] = 1, 0
    labels[14:18, 30:33] = 1
    labels[16:, :8] = 2
    scores = torch.stack([0.4 * (labels == i + 1) + 0.2 for i in range(len(words))]).float()
    spans = tuple(Span(word, (i,)) for i, word in enumerate(words))
    maps = AttentionMaps(scores, words, spans, SIZE, {}, image_png=png(photo()) if image else None)
    return Segmentation(labels, words, scores, dict.fromkeys(words, 0.5), 0.5, maps)


@pytest.fixture
def result():
    return made()


def test_masks_boxes_and_run_lengths_are_those_of_the_words(result):
    assert list(result.masks) == list(WORDS)
    assert all(torch.equal(mask, result[word]) for word, mask in result.masks.items())
    assert result.boxes() == {"cat": (3, 2, 30, 16), "hot dog": (0, 16, 8, 8), "sky": None}
    for word, rle in result.rle().items():
        assert (segmentation_mask(rle, SIZE, word) == result[word].numpy()).all()
    outlines = result.polygons(tolerance=0)
    assert [sum(p.area for p in outlines[word]) for word in WORDS] == [94 + 12, 64, 0]
    assert outlines["sky"] == ()
    assert [len(p.holes) for p in outlines["cat"]] == [1, 0]


def test_objects_are_those_of_the_label_map(result):
    found = [(one.word, one.area, one.box_xywh) for one in result.instances()]
    assert found == [("cat", 94, (3, 2, 10, 10)), ("cat", 12, (30, 14, 3, 4)), ("hot dog", 64, (0, 16, 8, 8))]
    assert [one.area for one in result.instances(min_area=20, max_hole=6)] == [100, 64]


class TestPictures:
    def test_outlines_have_the_colours_of_the_legend_and_of_the_label_file(self, result, tmp_path):
        result.save(tmp_path)
        labels = Image.open(tmp_path / "labels.png")
        palette = np.array(labels.getpalette()).reshape(-1, 3)
        overlay = np.asarray(result.overlay(legend=False))
        factor = overlay.shape[0] // SIZE[0]
        assert factor > 4
        for number, (word, colour) in enumerate(result.legend.items(), start=1):
            assert tuple(palette[number]) == colour
            outlined = (overlay == colour).all(-1)
            region = (result.labels == number).numpy().repeat(factor, 0).repeat(factor, 1)
            assert not (outlined & ~region).any(), word
            assert outlined.any() == region.any(), word
        assert (palette[0] == label_colours(0)[0]).all()

    def test_outlines_go_all_around_but_not_along_the_edge_of_the_picture(self, result):
        overlay = np.asarray(result.overlay(legend=False))
        factor = overlay.shape[0] // SIZE[0]
        cat, dog = result.legend["cat"], result.legend["hot dog"]
        left, right, row = 3 * factor, 13 * factor - 1, 3 * factor
        assert [tuple(overlay[row, column]) == cat for column in (left - 1, left, left + 1, left + 2)] == [0, 1, 1, 0]
        assert [tuple(overlay[row, column]) == cat for column in (right - 2, right - 1, right, right + 1)] == [
            0,
            1,
            1,
            0,
        ]
        assert tuple(overlay[16 * factor, 2 * factor]) == dog
        assert tuple(overlay[-1, 2 * factor]) != dog

    def test_tints_have_the_legend_s_hue_whatever_the_picture_s_colours(self, result):
        overlay = np.asarray(result.overlay(legend=False))
        factor = overlay.shape[0] // SIZE[0]
        inside = [("cat", 3 * factor, 10 * factor), ("hot dog", 20 * factor, 4 * factor)]
        for word, row, column in inside:
            hues = [
                colorsys.rgb_to_hsv(*(part / 255 for part in colour))[0]
                for colour in (result.legend[word], *overlay[row : row + 9, column : column + 9].reshape(-1, 3))
            ]
            assert max(abs(hue - hues[0]) for hue in hues) < 0.02  # rounding to levels: 0.006 measured
        outside = overlay[factor, 20 * factor : 30 * factor]
        assert (outside == outside[:, :1]).all(), "the background is grey"

    def test_the_legend_s_swatches_have_the_colours(self, result):
        picture = np.asarray(result.overlay())
        bare = np.asarray(result.overlay(legend=False))
        below = picture[12 + bare.shape[0] :].reshape(-1, 3)
        for colour in result.legend.values():
            assert (below == colour).all(-1).sum() > 100

    def test_there_are_enough_colours(self):
        words = tuple(f"word {i}" for i in range(300))
        legend = replace(made(), words=words).legend
        assert len({legend[word] for word in words[:40]}) == 40
        assert legend["word 0"] == legend["word 255"]

    def test_a_word_s_map_lies_over_the_picture(self, result):
        expected = pictures.overlay(photo(), result.maps["hot dog"])
        assert (np.asarray(result.maps.image("hot dog")) == np.asarray(expected)).all()
        assert (np.asarray(result.maps.image("cat")) != np.asarray(expected)).any()

    def test_no_picture_is_said(self):
        bare = made(image=False)
        for draw in (bare.overlay, lambda: bare.maps.image("cat")):
            with pytest.raises(errors.NothingCapturedError, match="these maps have no picture"):
                draw()

    @pytest.mark.parametrize("png", [b"no picture", png(photo((8, 9)))])
    def test_a_damaged_picture_is_said(self, png):
        damaged = replace(made().maps, image_png=png)
        with pytest.raises(errors.ImageInputError, match="picture is damaged"):
            damaged.image("cat")


def test_maps_are_one_array(result):
    array = result.maps.numpy()
    assert array.shape == (3, *SIZE)
    assert array.dtype == np.float32
    assert (array[1] == result.maps["hot dog"].numpy()).all()


class TestNotebook:
    def shown(self, thing):
        return Image.open(io.BytesIO(thing._repr_png_()))

    def test_everything_shows_itself_small(self):
        trace = replace(make_trace(), image_png=png(photo((15, 14))))
        result = trace.segment(["sky", "hot dog"])
        for thing in (trace, result.maps, result):
            shown = self.shown(thing)
            assert 100 < max(shown.size) < 1400, thing
            assert len(np.unique(np.asarray(shown.convert("L")))) > 20

    def test_large_results_are_made_smaller(self):
        large, labels = (1500, 2000), torch.zeros(1500, 2000, dtype=torch.long)
        labels[700:] = 1
        small = made()
        maps = replace(small.maps, image_size=large, image_png=png(Image.new("RGB", large[::-1], "red")))
        shown = self.shown(replace(small, labels=labels, maps=maps))
        assert shown.width < 600
        assert shown.getpixel((shown.width // 2, 300)) != shown.getpixel((shown.width // 2, 50))
        assert self.shown(maps).width < 1400

    def test_many_maps_are_not_all_shown(self):
        words = tuple(f"word {i}" for i in range(60))
        spans = tuple(Span(word, (0,)) for word in words)
        shown = self.shown(replace(made().maps, spans=spans))
        assert shown.width < 1400
        assert shown.height < 700

    def test_nothing_is_raised(self):
        kept = replace(made().maps, token_maps=torch.zeros(2, 3, *SIZE), kept={"step": (0, 1)})
        damaged = replace(made().maps, image_png=b"no picture")
        things = [make_trace(), made(image=False), made(image=False).maps, kept, damaged, replace(made(), maps=damaged)]
        things += [replace(make_trace(), image_png=b"no picture")]
        things += [replace(made().maps, token_maps=torch.full((3, *SIZE), float("nan")))]
        assert [thing._repr_png_() for thing in things] == [None] * len(things)

    def test_streamed_maps_have_their_picture(self, sd1):
        with ovam.stream(sd1, ["cat", "sky"]) as maps:
            images = sd1(["a cat", "a dog"], num_inference_steps=1, height=32, width=32).images
        for each, image in zip(maps, images, strict=True):
            assert (np.asarray(each.picture()) == np.asarray(image)).all()
        assert (np.asarray(images[0]) != np.asarray(images[1])).any()

    def test_maps_get_the_picture_of_their_run(self):
        picture = png(photo((15, 14)))
        maps = replace(make_trace(), image_png=picture).maps(["sky", "lawn"])
        assert [each.image_png for each in (maps, maps.only(["sky"]), maps.resized())] == [picture] * 3
        assert "PNG" not in repr(maps)


class TestCoco:
    def test_a_whole_file(self, result):
        found = result.to_coco(file_name="a.png", image_id=7, categories={"cat": 17, "sky": 3, "hot dog": 58})
        assert json.loads(json.dumps(found)) == found
        assert found["images"] == [{"id": 7, "file_name": "a.png", "height": 24, "width": 40}]
        assert [(each["id"], each["name"]) for each in found["categories"]] == [
            (17, "cat"),
            (58, "hot dog"),
            (3, "sky"),
        ]
        rows = [(each["id"], each["image_id"], each["category_id"], each["iscrowd"]) for each in found["annotations"]]
        assert rows == [(1, 7, 17, 0), (2, 7, 17, 0), (3, 7, 58, 0)]
        assert [each["bbox"] for each in found["annotations"]] == [[3, 2, 10, 10], [30, 14, 3, 4], [0, 16, 8, 8]]
        assert [each["area"] for each in found["annotations"]] == [94, 12, 64]

    @pytest.mark.parametrize("form", ["rle", "polygons"])
    def test_pixels_are_read_back(self, result, form):
        found = result.to_coco(form=form, tolerance=0)
        for one, annotation in zip(result.instances(), found["annotations"], strict=True):
            assert isinstance(annotation["segmentation"], list) == (form == "polygons")
            read = segmentation_mask(annotation["segmentation"], SIZE, one.word)
            assert (read == one.mask.numpy()).all()

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
    @pytest.mark.parametrize("form", ["rle", "polygons"])
    def test_pycocotools_opens_it(self, result, form, tmp_path, capsys):
        coco = pytest.importorskip("pycocotools.coco")
        (tmp_path / "a.json").write_text(json.dumps(result.to_coco(form=form, tolerance=0, image_id=7)))
        opened = coco.COCO(str(tmp_path / "a.json"))
        capsys.readouterr()
        assert opened.getImgIds() == [7]
        assert opened.getCatIds(catNms=["hot dog"]) == [2]
        annotations = opened.loadAnns(opened.getAnnIds(imgIds=[7], catIds=[1]))
        both = result.labels.numpy() == 1
        assert (sum(opened.annToMask(each) for each in annotations) == both).all()

    def test_chosen_objects_alone(self, result):
        assert len(result.to_coco(result.instances(min_area=20))["annotations"]) == 2
        by_word = result.to_coco(result.instances(apart=False))["annotations"]
        assert [each["area"] for each in by_word] == [106, 64]

    def test_objects_of_another_result_are_refused(self, result):
        other = made(words=("dog", "hot dog", "sky")).instances()
        for export in (result.to_coco, result.to_label_studio, result.to_supervision):
            with pytest.raises(errors.OptionError, match=r"word='dog'.*is not an object of Segmentation"):
                export(other)

    def test_no_object_at_all(self, result):
        nothing = replace(result, labels=torch.zeros(SIZE, dtype=torch.long))
        assert nothing.instances() == ()
        assert nothing.to_coco()["annotations"] == []
        assert len(nothing.to_coco()["categories"]) == 3
        assert nothing.to_label_studio()["predictions"][0]["result"] == []
        assert nothing._repr_png_() is not None

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"form": "voc"}, "form='voc': expected one of 'rle', 'polygons'"),
            ({"image_id": "7"}, "image_id='7'"),
            ({"tolerance": -1}, "tolerance=-1"),
            ({"categories": {"cat": 1}}, "no id for 'hot dog', 'sky'"),
            ({"categories": {"cat": 1, "hot dog": 1, "sky": 2}}, "no number twice"),
            ({"categories": {"cat": 1, "hot dog": 1.5, "sky": 2}}, "a whole number for each word"),
        ],
    )
    def test_what_is_no_option(self, result, options, message):
        with pytest.raises(errors.OptionError, match=message):
            result.to_coco(**options)


class TestLabelStudio:
    def test_the_brush_gives_the_masks(self, result):
        task = result.to_label_studio(image="/data/a.png", from_name="label", to_name="img")
        assert json.loads(json.dumps(task)) == task
        assert task["data"] == {"image": "/data/a.png"}
        regions = task["predictions"][0]["result"]
        assert [region["value"]["brushlabels"] for region in regions] == [["cat"], ["cat"], ["hot dog"]]
        assert {region["type"] for region in regions} == {"brushlabels"}
        assert {(region["from_name"], region["to_name"]) for region in regions} == {("label", "img")}
        assert {(region["original_width"], region["original_height"]) for region in regions} == {(40, 24)}
        assert len({region["id"] for region in regions}) == 3

    def test_label_studio_s_converter_reads_the_brush(self, result):
        brush = pytest.importorskip("label_studio_sdk.converter.brush")
        regions = result.to_label_studio()["predictions"][0]["result"]
        exported = [{**region, **region["value"]} for region in regions]  # as Label Studio hands them to it
        layers = brush.decode_from_annotation("tag", exported)
        assert list(layers) == ["tag-cat-0", "tag-cat-1", "tag-hot dog-0"]
        for one, layer in zip(result.instances(), layers.values(), strict=True):
            assert (layer == 255 * one.mask.numpy()).all()

    def test_polygons_are_in_percent(self, result):
        regions = result.to_label_studio(tool="polygon", tolerance=0)["predictions"][0]["result"]
        assert {region["type"] for region in regions} == {"polygonlabels"}
        assert regions[2]["value"] == {
            "points": [[0.0, 100 * 16 / 24], [20.0, 100 * 16 / 24], [20.0, 100.0], [0.0, 100.0]],
            "closed": True,
            "polygonlabels": ["hot dog"],
        }
        hole = [[x * 0.4, y * 0.24] for x, y in regions[0]["value"]["points"]]
        read = segmentation_mask([[value for point in hole for value in point]], SIZE, "cat")
        assert (read == result.instances()[0].mask.numpy()).all()

    @pytest.mark.user_error
    def test_what_is_no_tool(self, result):
        with pytest.raises(errors.OptionError, match="tool='pen': expected one of 'brush', 'polygon'"):
            result.to_label_studio(tool="pen")


@dataclass
class Detections:
    """Stands for supervision's, where that is not installed."""

    xyxy: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    data: dict


class TestSupervision:
    def assert_detections(self, found):
        assert found.xyxy.tolist() == [[3, 2, 13, 12], [30, 14, 33, 18], [0, 16, 8, 24]]
        assert found.mask.shape == (3, *SIZE)
        assert found.mask.sum((1, 2)).tolist() == [94, 12, 64]
        assert found.confidence == pytest.approx([0.6, 0.6, 0.6])
        assert found.class_id.tolist() == [1, 1, 2]
        assert found.data["class_name"].tolist() == ["cat", "cat", "hot dog"]

    def test_what_it_is_given(self, result, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Detections))
        self.assert_detections(result.to_supervision())
        empty = result.to_supervision([])
        assert empty.xyxy.shape == (0, 4)
        assert empty.mask.shape == (0, *SIZE)

    def test_what_it_makes_of_it(self, result):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells that it works without OpenCV
            supervision = pytest.importorskip("supervision")
        found = result.to_supervision()
        assert isinstance(found, supervision.Detections)
        self.assert_detections(found)
        assert found.box_area.tolist() == [100, 12, 64]
        assert len(result.to_supervision([])) == 0

    def test_it_is_named_where_it_is_not_installed(self, result, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(errors.MissingPackageError, match="pip install supervision"):
            result.to_supervision()


class TestFiles:
    def files(self, folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def test_all_are_there_and_the_record_tells_of_them(self, result, tmp_path):
        result.save(tmp_path / "out")
        masks = {"masks/cat.png", "masks/hot-dog.png", "masks/sky.png"}
        tables = {"labels.png", "labels_overlay.png", "instances.json", RECORD}
        assert self.files(tmp_path / "out") == masks | tables
        record = json.loads((tmp_path / "out" / RECORD).read_text())
        assert record["size"] == list(SIZE)
        assert [(word["word"], word["area"], word["mask_area"], word["box_xywh"]) for word in record["words"]] == [
            ("cat", 106, 106, [3, 2, 30, 16]),
            ("hot dog", 64, 64, [0, 16, 8, 8]),
            ("sky", 0, 0, None),
        ]
        assert record["words"][0]["score"] == pytest.approx(0.6)
        assert record["words"][2]["score"] is None
        for word in record["words"]:
            read = np.asarray(Image.open(tmp_path / "out" / word["mask"])) > 0
            assert (read == result[word["word"]].numpy()).all()
        objects = json.loads((tmp_path / "out" / "instances.json").read_text())["instances"]
        for one, found in zip(result.instances(), objects, strict=True):
            assert (one.word, list(one.box_xywh), one.area) == (found["word"], found["box_xywh"], found["area"])
            assert (segmentation_mask(found["rle"], SIZE, "one") == one.mask.numpy()).all()
        assert (np.asarray(Image.open(tmp_path / "out" / "labels.png")) == result.labels.numpy()).all()

    def test_masks_are_those_of_the_words_also_where_other_words_win(self, result, tmp_path):
        everywhere = result.scores.clone()
        everywhere[2] = 0.55
        replace(result, scores=everywhere).save(tmp_path)
        assert np.asarray(Image.open(tmp_path / "masks" / "sky.png")).min() == 255
        sky = json.loads((tmp_path / RECORD).read_text())["words"][2]
        assert (sky["area"], sky["share"], sky["mask_area"]) == (0, 0, SIZE[0] * SIZE[1])

    def test_nothing_of_an_earlier_result_stays_and_nothing_else_goes(self, result, tmp_path):
        result.save(tmp_path)
        (tmp_path / "masks" / "mine.png").write_text("mine")
        (tmp_path / "run.safetensors").write_text("mine")
        made(words=("dog", "hot dog", "sky")).save(tmp_path)
        masks = {"masks/dog.png", "masks/hot-dog.png", "masks/sky.png", "masks/mine.png"}
        others = {"labels.png", "labels_overlay.png", "instances.json", RECORD, "run.safetensors"}
        assert self.files(tmp_path) == masks | others

    @pytest.mark.parametrize(
        "record",
        [
            '{"words": [{"mask": "../out/mine.png"}, {"mask": "masks/../mine.png"}, {"mask": "mine.png"}]}',
            '{"images": [{"folder": "..", "files": {"labels": "labels.png"}, "words": ["maps/cat.png"]}]}',
            '{"words": [{"mask": "masks/none.png"}], "files": {"labels": "masks"}}',
            "[" * 100_000,
            "no record",
        ],
    )
    def test_a_record_can_not_lead_to_other_files(self, result, tmp_path, record):
        mine = [
            tmp_path / "mine.png",
            tmp_path / "labels.png",
            tmp_path / "maps" / "cat.png",
            tmp_path / "out" / "mine.png",
        ]
        for path in mine:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        (tmp_path / "out" / RECORD).write_text(record)
        result.save(tmp_path / "out")
        assert all(path.read_text() == "mine" for path in mine)

    def test_files_of_several_images_go_too(self, result, tmp_path):
        old = tmp_path / "image-003" / "masks" / "cat.png"
        old.parent.mkdir(parents=True)
        old.write_text("old")
        record = {"images": [{"folder": "image-003", "words": [{"mask": "masks/cat.png"}]}]}
        (tmp_path / RECORD).write_text(json.dumps(record))
        result.save(tmp_path)
        assert not old.exists()

    def test_what_breaks_off_leaves_everything_as_it_was(self, result, tmp_path, monkeypatch):
        result.save(tmp_path / "old")
        before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}

        def full(*arguments, **options):
            raise OSError("No space left on device")

        monkeypatch.setattr("ovam.pictures.label_map_picture", full)
        for folder in ("old", "new"):
            with pytest.raises(OSError, match="No space"):
                made(words=("dog", "b", "c")).save(tmp_path / folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert not (tmp_path / "new").exists()

    def test_a_file_is_no_folder(self, result, tmp_path):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(errors.OptionError, match="expected a new or an existing folder"):
            result.save(tmp_path / "out")
        assert (tmp_path / "out").read_text() == "mine"

    def test_the_command_line_writes_the_same_files(self, tmp_path):
        trace = replace(make_trace(), image_png=png(photo((15, 14))))
        options = SegmentOptions(threshold=0.4)
        result = write_all(trace, ["sky", "hot dog"], options, tmp_path / "command", save_trace=False)
        trace.segment(["sky", "hot dog"], threshold=0.4).save(tmp_path / "python")
        both = self.files(tmp_path / "python") - {RECORD}
        assert {"masks/hot-dog.png", "labels.png", "labels_overlay.png", "instances.json"} <= both
        assert both <= self.files(tmp_path / "command")
        for name in both:
            assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name
        record = json.loads((tmp_path / "python" / RECORD).read_text())
        assert [word | {"map": None, "range": None} for word in record["words"]] == [
            word | {"map": None, "range": None} for word in result["words"]
        ]

    def test_without_a_picture_the_overlay_is_on_black(self, tmp_path):
        made(image=False).save(tmp_path)
        overlay = np.asarray(Image.open(tmp_path / "labels_overlay.png"))
        assert (overlay[20, 200] == 0).all()
