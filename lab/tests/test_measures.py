"""The instrument's measures, where a slip would make a table lie: verdicts, matched resolutions, shares, fits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ovam
from lab.mini import imitation, oracle
from lab.mini.baselines import GATE
from lab.mini.measures import choices, curves, encoding, headroom, images, memory, oracles, report, words
from lab.mini.measures.asking import Asking, untrained
from lab.mini.measures.bars import bars
from lab.mini.measures.generation import class_shares, classes_in, one_object_prompts, two_object_prompts
from lab.mini.measures.page import measured, page
from ovam.errors import OptionError
from ovam.evaluate import average_precision
from ovam.mini.scenes import CLASSES, LABELS, render, seed_of
from ovam.mini.scenes.captions import with_article
from ovam.mini.scenes.splits import may_meet
from ovam.mini.scenes.vocabulary import CLASS_WORDS
from ovam.trace.trace import BlockTrace, Trace
from ovam.tracing.encode import encode
from test_errors import assert_refuses

FIGURES = {
    "blind": {"right": 32, "mistaken": {"cow": ["dog", "sheep"], "cat": ["dog"]}},
    "speed": 2.5,
    "gates": {"centre disc": {"miou": 0.2}, "colour clusters": {"miou": GATE + 0.001}},
    "oracles": {
        "ways": {"after the autoencoder": {"a": {"mIoU": 0.85}, "b": {"mIoU": 0.7}}},
        "classes": {"cat": {"scenes": 7, "a": 0.875, "b": 0.75}},
    },
    "generation": {
        "agreement": {"simple": {"classes": 0.9, "labels": 0.8}, "all": {"classes": 0.7499, "labels": 0.9}},
        "one_object": 0.9,
        "by_class": {"cat": 0.8, "sheep": 0.4},
        "two_objects": 0.7,
    },
    "memory": {
        "generated median": 0.9,
        "test median": 0.8,
        "generated lowest twentieth": 0.1,
        "test lowest twentieth": 0.2,
        "generated nearest": 0.05,
        "test nearest": 0.05,
        "generated nearer to training": [0.6, 0.51, 0.7],
    },
    "words": {
        "objects": {"own": 0.7, "gap": [0.29, 0.2, 0.4]},
        "presence_auroc": 0.9,
        "grounds": {"normalised": {"own": 0.39, "constant": 0.0}},
    },
    "headroom": {"gain": [0.11, 0.05, 0.2], "word below 0.45": 5},
    "transfer": {"images": 3, "resolutions": {"spearman": [0.71, 0, 1]}, "one call": {"spearman": [-0.2, 0, 1]}},
}


def test_a_bar_is_met_where_the_figure_reaches_it():
    verdicts = {bar.goal: bar.met for bar in bars(FIGURES)}
    met = [
        "blind test",
        "classes named wrong",
        "gate: centre disc",
        "oracle A",
        "one-object",
        "two-object",
        "distance to the nearest training scene not below that of test scenes, median",
        "distance to the nearest training scene not below that of test scenes, nearest",
        "class word on its own",
        "presence",
        "headroom",
        "Spearman with Stable Diffusion 1.5, resolutions",
    ]
    missed = [
        "a guided image",
        *(f"Spearman with Stable Diffusion 1.5, {name}" for name in ("from call", "up to call", "classes")),
        "gate: colour clusters",
        "agreement",
        "the same for the worst class (sheep)",
        "distance to the nearest training scene not below that of test scenes, lowest",
        "generated pictures that lie nearer to training",
        "above a random absent",
        "ground words",
        "classes whose word",
        "Spearman with Stable Diffusion 1.5, one call",
    ]
    assert len(verdicts) == len(met) + len(missed)
    for start, expected in [*((name, True) for name in met), *((name, False) for name in missed)]:
        (goal,) = [name for name in verdicts if name.startswith(start)]
        assert verdicts[goal] == expected, goal
    assert not any(bar.met for bar in bars({}))
    assert {bar.found for bar in bars({})} == {"not measured"}


def test_a_picture_s_shares_are_of_the_classes_alone():
    labels = np.zeros((1, 10, 10), dtype=np.uint8)
    labels[0, :2], labels[0, 2:5] = LABELS["sheep"], LABELS["grass"]
    shares = class_shares(labels)
    assert shares.shape == (1, 20)
    assert shares[0, CLASSES.index("sheep")] == pytest.approx(0.2)
    assert shares.sum() == pytest.approx(0.2)


def test_prompts_name_every_class_and_only_pairs_that_training_shows():
    ones = one_object_prompts(40)
    assert sorted(name for _, name in ones) == sorted(CLASSES * 2)
    assert ("a photograph of an aeroplane", "aeroplane") in ones
    twos = two_object_prompts(100)
    assert all(may_meet(*names, "train") and all(name in prompt for name in names) for prompt, names in twos)
    assert len({names for _, names in twos}) > 60


def test_a_caption_names_classes_by_whole_words_and_synonyms():
    assert classes_in("a photo of a puppy and a dining table") == ("dining table", "dog")
    assert classes_in("cattle and a carpet by the busy birdbath") == ("cow",)
    assert classes_in("an animal on the grass") == ()


def test_captions_of_the_set_name_what_its_manifest_says():
    for caption, named in images.prompts_of("captions", 20):
        assert named == classes_in(caption) != ()


@pytest.mark.user_error
def test_an_unknown_image_set_is_named():
    with pytest.raises(OptionError, match="image set 'double': expected one of simple, pairs, captions"):
        images.prompts_of("double", 1)


def test_pictures_are_made_once_and_again_after_another_guidance(tmp_path, monkeypatch):
    made = []

    def picture(pipe, entry):
        made.append(entry.guidance_scale)
        return np.full((8, 8, 3), entry.guidance_scale, dtype=np.uint8)

    monkeypatch.setattr(images, "regenerated", picture)
    monkeypatch.setattr(images, "model_hash", lambda pipe: "hash")
    for guidance in (7.0, 7.0, 5.0, 7.0):
        entries = images.make_images(None, "simple", tmp_path, count=2, guidance_scale=guidance)
        assert (images.read_images(tmp_path / "simple", entries) == guidance).all()
    assert made == [7, 7, 5, 5, 7, 7]


def test_pictures_that_broke_off_are_made_again(tmp_path, monkeypatch):
    """A picture that is not whole never stands under its name, and a line that was cut short hinders nothing."""
    made = []
    monkeypatch.setattr(
        images, "regenerated", lambda pipe, entry: made.append(entry.file) or np.full((8, 8, 3), 7, "u1")
    )
    monkeypatch.setattr(images, "model_hash", lambda pipe: "hash")

    def made_of(count):
        return images.make_images(None, "simple", tmp_path, count=count, guidance_scale=7.0)

    made_of(2)
    folder = tmp_path / "simple"
    (folder / "00001.png").unlink()
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-9])
    save = Image.Image.save

    def broken_off(picture, file, **options):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", broken_off)
    with pytest.raises(KeyboardInterrupt):
        made_of(2)
    assert not (folder / "00001.png").exists()
    monkeypatch.setattr(Image.Image, "save", save)
    assert (images.read_images(folder, made_of(3)) == 7).all()
    assert made == ["00000.png", "00001.png", "00001.png", "00001.png", "00002.png"]
    made_of(3)
    assert len(made) == 5


def test_a_copy_of_a_training_scene_is_found(tmp_path):
    scenes = np.stack([render(seed_of("train", i), split="train").image for i in range(4)])
    copied = memory.measure_memory(scenes, tmp_path, training=4)
    assert copied["generated median"] < 1e-6 < copied["test median"]  # measured 0 and 0.19
    assert copied["generated nearer to training"] == [1.0, 1.0, 1.0]
    again = memory.measure_memory(255 - scenes, tmp_path, training=4)
    assert again["generated median"] > again["test median"]


class _Apart:
    """A trace of two blocks on each of three grids, whose maps tell which block and step they are of."""

    def __init__(self, heads):
        self.blocks = {
            f"{i}": BlockTrace(f"{i}", (side, side), 1.0, {"cond": torch.zeros(heads[i], 30, side * side, 4)})
            for i, side in enumerate((4, 4, 8, 8, 16, 16))
        }

    def maps(self, prompt, phrases, keep):
        assert (prompt, phrases) == ("a photograph of a cat", ["cat"])
        assert keep == ("block", "step")
        values = torch.arange(6.0)[:, None] * 100 + torch.arange(30.0)
        return {"cat": values[:, :, None, None].expand(6, 30, 16, 16)}


def test_subsets_of_resolutions_and_calls_are_means_over_heads():
    heads = (1, 3, 2, 2, 5, 1)
    found = curves._maps(_Apart(heads), "a photograph of a cat", "cat")
    assert found["coarsest"][0, 0] == pytest.approx((1 * 0 + 3 * 100) / 4 + 14.5)
    assert found["finest"][0, 0] == pytest.approx((5 * 400 + 1 * 500) / 6 + 14.5)
    assert found["coarsest finest"][0, 0] == pytest.approx((3 * 100 + 5 * 400 + 500) / 10 + 14.5)
    every = sum(head * block * 100 for block, head in enumerate(heads)) / sum(heads)
    assert found["=12"][0, 0] == pytest.approx(every + 12)
    assert found[">=12"][0, 0] == pytest.approx(every + 20.5)
    assert found["<=12"][0, 0] == pytest.approx(every + 6)


def test_curves_pool_each_class_and_ignore_what_the_oracles_leave_open():
    truth = np.zeros((8, 8), dtype=int)
    truth[:, 4:], truth[0] = 1, -1
    score = np.where(truth == -1, 1.0, np.where(truth == 1, 0.9, 0.1)).astype(np.float32)
    right, wrong = [(score, truth)] * 3, [(1 - score, truth)]
    assert curves.class_ious([right, wrong], (0.5,)).tolist() == [1.0, 0.0]  # however many pictures each has
    faint = np.where(truth == -1, 1.0, np.where(truth == 1, 0.3, 0.1)).astype(np.float32)
    assert curves.class_ious([[(faint, truth)]], (0.5,)) == 0.0
    assert curves.class_ious([[(faint, truth)]], (0.1, 0.5)) == 1.0


def test_curves_stand_beside_their_own_figures():
    """Two classes: one of two pictures, which are pooled to IoU 0.1, 0.5, 0.3, and one of 0.2, 0.3, 0.9."""
    of = np.array([[[0, 10], [90, 90], [10, 40]], [[10, 90], [10, 110], [50, 160]], [[2, 10], [3, 10], [9, 10]]])
    value, low, high = curves.across_settings(of, np.array([0, 0, 1]), (40.0, 60.0, 70.0))
    assert (value, high) == pytest.approx((1.0, 1.0))  # means 0.15, 0.4 and 0.6
    assert low <= 0.5  # the first class alone has b above c
    once = curves.across_settings(np.repeat(of[[1, 2]], 5, axis=0), np.repeat([0, 1], 5), (40.0, 60.0, 70.0))
    assert once == pytest.approx([1.0, 0.5, 1.0])  # pictures that are all alike leave the classes to differ


def test_classes_stand_beside_their_own_figures():
    overlaps, classes = np.array([[1, 10], [9, 30], [5, 10], [9, 10]]), np.array([0, 0, 1, 2])
    assert curves.across_classes(overlaps, classes, np.array([40.0, 60.0, 70.0]))[0] == pytest.approx(1.0)
    assert curves.across_classes(overlaps, classes, np.array([60.0, 40.0, 70.0]))[0] == pytest.approx(0.5)
    assert np.isnan(curves.across_classes(overlaps[:2], classes[:2], np.array([40.0]))).all()


def test_a_rank_correlation_that_says_nothing_is_not_a_number():
    assert curves._spearman(np.array([0.1, 0.2, 0.2]), (1.0, 2.0, 2.0)) == pytest.approx(1.0)
    assert np.isnan(curves._spearman(np.array([0.1, 0.1]), (1.0, 2.0)))


def test_headroom_gives_each_class_and_method_its_own_threshold():
    truth = np.zeros((2, 12, 12), dtype=bool)
    truth[:, :6] = True

    def scored(high, elsewhere):
        scores = np.where(truth, high, 0.02)
        return headroom.Scored((scores, truth), (scores, truth), np.full((1, 12, 12), elsewhere))

    blind = headroom.Scored((np.ones((2, 12, 12)), truth), (np.ones((2, 12, 12)), truth), np.ones((1, 12, 12)))
    found = headroom.summary(
        {
            "cat": {"word": scored(0.3, 0.02), "fitted": scored(0.9, 0.02)},
            "dog": {"word": blind, "fitted": scored(0.5, 1.0)},
        },
        (6, 6),
    )
    cat, dog = found["classes"]["cat"], found["classes"]["dog"]
    assert cat["word"]["IoU"] == cat["fitted"]["IoU"] == cat["word"]["IoU by image"] == 1.0
    assert dog["word"]["IoU"] == dog["word"]["AP"] == found["mean"]["word"]["IoU"] - 0.25 == 0.5
    assert dog["word"]["IoU away from outlines"] == 0.5
    assert cat["word"]["elsewhere"] == 0.0
    assert dog["word"]["elsewhere"] == dog["fitted"]["elsewhere"] == 1.0
    assert found["mean"]["exact masks through the grid"]["IoU"] == 1.0
    assert found["gain"] == pytest.approx([0.25, 0.0, 0.5])
    assert found["word below 0.45"] == 0


def test_the_untrained_pipeline_differs_in_its_denoiser_alone():
    pipe = ovam.load("mini")
    blank = untrained(pipe)
    assert blank.vae is pipe.vae
    name, value = next(iter(pipe.unet.named_parameters()))
    assert not torch.equal(dict(blank.unet.named_parameters())[name], value)


def test_scenes_with_several_classes_are_counted_by_classes():
    for scene in words.scenes_of("test", 10, least=2):
        assert len({thing.name for thing in scene.objects}) >= 2


def _rows(gaps):
    return [
        words.WordRow(scene, name, 0.1, 0.25 + gap, {"absent": 0.25}, ())
        for name, of_scenes in gaps.items()
        for scene, gap in enumerate(of_scenes)
    ]


def test_an_interval_is_over_classes_and_over_the_scenes_of_each():
    """Scenes that all agree leave what the classes differ by; classes that all agree what the scenes do."""
    low, high = words.summary(_rows({"bus": [0.0] * 30, "cat": [0.5] * 30}))["gap"][1:]
    assert (low, high) == pytest.approx((0.0, 0.5))  # scenes alone, which show both, would give 0.25 and 0.25
    noisy = np.random.default_rng(0).normal(0.25, 0.1, (2, 100))
    low, high = words.summary(_rows({"bus": noisy[0], "cat": noisy[0]}))["gap"][1:]
    assert high - low == pytest.approx(2 * 1.96 * noisy[0].std() / 200**0.5, rel=0.3)
    value, low, high = words.summary(_rows({"bus": noisy[0]}))["gap"]
    assert value == pytest.approx(noisy[0].mean())
    assert high - low == pytest.approx(2 * 1.96 * noisy[0].std() / 10, rel=0.2)


def test_a_fit_is_scored_as_the_class_and_better_than_another_word(annotated_and_word):
    annotated, word = annotated_and_word

    def iou(embedding):
        maps, (truth,) = headroom._scores([annotated], embedding)
        assert (maps.min(), maps.max()) == pytest.approx((0, 1))
        return ((maps[0] > 0.5) & truth).sum() / ((maps[0] > 0.5) | truth).sum()

    assert iou(headroom.fit("cat", [annotated] * 2)) > iou(word) + 0.1


@pytest.fixture
def annotated_and_word():
    """The embedded model looking at a scene."""
    scene = next(
        s for s in (render(seed_of("validation", i), split="validation") for i in range(50)) if s.objects[0].area > 0.1
    )
    pipe = ovam.load("mini")
    trace = ovam.encode(pipe, scene.image, timesteps=(50, 250, 450))
    annotated = headroom.Annotated(trace, scene.image, scene.mask(scene.objects[0].name))
    return annotated, Asking(pipe).embedding("cat")


def test_ways_of_encoding_are_compared_on_the_same_words(monkeypatch):
    pipe, options = ovam.load("mini"), {"blocks": None, "timesteps": (50, 250)}
    (scene,) = words.scenes_of("test", 1, least=2)
    found = encoding.measure_encoding({"mini": (pipe, options)}, scenes=1)["mini"]
    assert list(found) == list(encoding.WAYS)
    names = [name for name, _ in encoding._pairs_of(scene, np.random.default_rng(0))]
    assert names == sorted({thing.name for thing in scene.objects})  # all of them are large enough here
    traces = {
        "noise": ovam.encode(pipe, scene.image, timesteps=(50, 250)),
        "inversion": ovam.encode(pipe, scene.image, timesteps=(50, 250), method="inversion"),
        encoding.CLEAN: ovam.encode(pipe, scene.image, timesteps=(50,), method="clean"),
    }
    own = {way: np.mean([_precision(trace, scene, name) for name in names]) for way, trace in traces.items()}
    for way, value in own.items():
        assert abs(found[way]["own"] - value) < 1e-6
        assert abs(found[way]["above noise"][0] - (value - own["noise"])) < 1e-6
    assert found["noise"]["above noise"] == [0, 0, 0]
    assert len(set(own.values())) == 3


def _precision(trace, scene, name):
    template = f"a photograph of {with_article(name)}"
    fine = torch.nn.functional.interpolate(
        trace.maps(template, phrases=[name])[name][None, None], scene.labels.shape, mode="bilinear", align_corners=False
    )
    return average_precision(scene.mask(name), fine[0, 0].numpy())


def _row(own):
    others = dict.fromkeys(("absent", *words.GROUND_BASELINES), 0.25)
    return {"count": 3, "own": own, "gap": [0.3, 0.2, 0.4], "others": others, "own beside": others}


def _curve(keys):
    values = dict.fromkeys(keys, 0.5)
    return {"mini": values, "mini, best threshold": values, "stable_diffusion": values, "spearman": [0.71, 0.5, 0.8]}


def test_the_page_shows_every_figure_and_says_when_it_is_quick():
    methods = {"word": {"IoU": 0.375, "AP": 0.5}, "fitted": {"IoU": 0.625, "AP": 0.75}, "exact": {"IoU": 0.875}}
    judged = FIGURES["generation"] | {"captions": 0.625}
    sections = {name: found for name, found in FIGURES.items() if name != "blind"} | {
        "generation": FIGURES["generation"] | {"by_oracle": {"a": judged, "b": judged | {"captions": 0.375}}},
        "words": FIGURES["words"] | {"objects": _row(0.61), "classes": {"cat": _row(0.7), "bus": {"count": 0}}}
        | {"slices": {"novel": _row(0.4)}, "grounds": _row(0.5) | FIGURES["words"]["grounds"]},
        "headroom": FIGURES["headroom"]
        | {"annotations": 20, "held_back": 10, "grid": [32, 32], "classes": {"cat": methods}, "mean": methods},
        "transfer": {"images": 9, "left_out": 1, "ignored": 0.125, "threshold": 0.4}
        | {name: _curve(("0", "5")) for name in ("resolutions", "one call", "from call", "up to call", "classes")},
        "choices": {
            "settings": [{"blocks": "grid 16", "time steps": "hardly any", "own": 0.4375, "lead": 0.125}],
            "best": {"blocks": ["up_blocks.1"], "timesteps": [10, 50]},
        },
        "encoding": {"mini": {"inversion": {"own": 0.375, "lead": [0.125, 0.1, 0.2], "gain": [-0.25, -0.5, 0.0]}}},
        "masses": {"end": 0.125, "padding": 0.125, "start": 0.5, "words": 0.25},
        "speed": 2.0,
    }  # fmt: skip
    figures = {
        "command": "python -m lab.mini report",
        "quick": False,
        "model": "0123456789abcdef",
        "oracles": {"a": "aa", "b": "bb"},
        "date": "2026-01-01",
        "threads": 2,
        "seconds": {"words": 500.0, "speed": 100.0},
        "training": {
            "scenes": 40000,
            "iterations": 5,
            "phases": [{"iterations": 5, "size": 64, "batch": 2}],
            "history": "nothing.",
        },
        "sections": sections,
    }
    figures["size"] = 128
    text = measured(json.loads(json.dumps(figures)))
    short = page(json.loads(json.dumps(figures)))
    for shown in (
        "| cat | 3 | 0.700 | 0.300 (0.200 to 0.400)",
        "12.5% of the pixels ignored",
        "0.110 (0.050 to 0.200)",
        "| exact | 0.875 |  |",
        "| cat | 0.375 | 0.625 | 0.875 |",
        "Spearman 0.710 (0.500 to 0.800), one call",
        "| grid 16 | hardly any | 0.438 | 0.125 |",
        "time steps 10, 50 of the blocks `up_blocks.1`",
        "| mini | inversion | 0.375 | 0.125 (0.100 to 0.200) | -0.250 (-0.500 to 0.000) |",
        "| mini | 0.500 | 0.250 | 0.125 | 0.125 |",
        "| b, after the autoencoder | 0.700 |",
        "| cat | 7 | 0.875 | 0.750 |",
        "are there | 0.625 | 0.375 |",
    ):
        assert shown in text
    assert "| novel | 3 | 0.400" in text
    assert "5 iterations of 2 scenes at 64 pixels" in text
    assert "| bus |" not in text
    assert "$" not in text
    assert "**A quick run" not in text
    assert "**A quick run" in page(figures | {"quick": True})
    assert "**A quick run" in measured(figures | {"quick": True})
    assert "128 x 128 pixels" in short
    assert "grids of\n16, 8 and 4" in short
    assert "Nobody who did not know the prompts" in short
    blind = {"pictures": 40, "right": 38, "answers": [], "mistaken": {"cow": ["dog", "dog"]}}
    named = page(figures | {"sections": sections | {"blind": blind}})
    assert "**38 of 40 are right**; taken for others: cow (dog, dog)." in named
    assert "| classes named wrong in both of their pictures, at most 2 | 1 | yes |" in named
    assert "2 threads, 10 minutes" in text
    assert "Not measured" not in text
    unjudged = {key: value for key, value in sections.items() if key not in ("oracles", "generation", "transfer")}
    unjudged_figures = figures | {"sections": unjudged, "oracles": {}}
    assert measured(unjudged_figures).count("Not measured.") == 6
    assert page(unjudged_figures).count("not measured | **no**") == 4  # with the blind test
    assert "oracle A, mIoU" not in page(unjudged_figures)


STAMPED = {
    "model": "m",
    "quick": False,
    "oracles": {"a": "x"},
    "versions": {"ovam": "0.1.0", "torch": "2"},
    "threads": 2,
}


def continued(stamp, file, only=()):
    return report._continued(stamp, file, only)["sections"]


@pytest.fixture
def code(monkeypatch):
    """Every section is of the same code."""
    monkeypatch.setattr(report, "_code", lambda: "c")
    return {"codes": dict.fromkeys(report.SECTIONS, "c")}


def test_a_report_goes_on_with_the_sections_of_the_same_weights(tmp_path, code):
    file = tmp_path / "report.json"
    assert continued(STAMPED, file) == {}
    sections = {"words": 1, "transfer": 2, "headroom": 4}
    report._write(file, STAMPED | code | {"sections": sections, "seconds": sections})
    kept = continued(STAMPED, file)
    assert kept == sections
    assert list(kept) == list(sections), "rows and columns of the page keep their order"
    assert continued(STAMPED | {"oracles": {"a": "y"}}, file) == {"words": 1, "headroom": 4}
    for other in ({"model": "n"}, {"versions": {"ovam": "0.2.0"}}, {"threads": 1}):
        assert continued(STAMPED | other, file) == {}
    report._write(file, STAMPED | code | {"quick": True, "sections": sections, "seconds": sections})
    assert continued(STAMPED, file) == {}, "a quick report's figures are of few scenes"
    assert report._continued(STAMPED | {"quick": True}, file, ())["seconds"] == {}


def test_sections_are_not_lost_where_some_alone_are_asked_for(tmp_path, code):
    file = tmp_path / "report.json"
    sections = {"words": 1, "headroom": 4}
    report._write(file, STAMPED | code | {"sections": sections, "seconds": sections})
    assert_refuses(
        OptionError,
        ["threads 2", "threads 8", "headroom", "--docs"],
        lambda: continued(STAMPED | {"threads": 8}, file, ("words",)),
    )
    assert json.loads(file.read_text())["sections"] == sections


def test_sections_of_other_code_are_measured_again_but_stand_beside_those_asked_for(tmp_path, monkeypatch, code):
    file = tmp_path / "report.json"
    sections = {"words": 1, "headroom": 4}
    report._write(file, STAMPED | code | {"sections": sections, "seconds": sections})
    monkeypatch.setattr(report, "_code", lambda: "d")
    assert continued(STAMPED, file) == {}
    going = report._continued(STAMPED, file, ("words",))
    assert going["sections"] == sections
    going["codes"]["words"] = "d"  # as measuring it does
    report._write(file, going)
    assert continued(STAMPED, file) == {"words": 1}, "the other one is still of the code before"


def test_figures_of_a_report_without_codes_are_measured_again(tmp_path):
    """Of the first version of the file, whose one stamp of code was for all sections."""
    file = tmp_path / "report.json"
    report._write(file, STAMPED | {"code": "c", "fits": "f", "sections": {"words": 1}, "seconds": {"words": 2}})
    assert continued(STAMPED, file) == {}
    assert continued(STAMPED, file, ("speed",)) == {"words": 1}


@pytest.mark.user_error
def test_an_unknown_section_is_named(tmp_path):
    with pytest.raises(OptionError, match="section 'word' of the report: expected some of sheet, speed"):
        report.report_on_mini(tmp_path / "docs", tmp_path, only=("word",))
    assert not (tmp_path / "docs").exists()


def test_a_section_is_measured_once_or_when_it_is_named(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(report, "write_pages", lambda docs, figures: None)
    monkeypatch.setattr(
        report,
        "_measures",
        lambda *arguments, quick: {
            name: lambda name=name: measured.append(name) or len(measured)
            for name in ("speed", "choices", "words", "oracles")
        },
    )
    monkeypatch.setattr(report, "has_oracles", lambda: False)
    monkeypatch.setattr(report, "_training", lambda: {"scenes": 1})
    docs = tmp_path / "docs"
    report.report_on_mini(docs, tmp_path)
    report.report_on_mini(docs, tmp_path)
    assert measured == ["speed", "choices", "words"]  # what the oracles judge waits for them
    again = report.report_on_mini(docs, tmp_path, only=("words",))
    assert measured == ["speed", "choices", "words", "words"]
    assert again["sections"] == {"speed": 1, "choices": 2, "words": 4}
    assert json.loads((docs / "results" / "mini" / "report.json").read_text()) == again
    report.report_on_mini(docs, tmp_path, quick=True)
    assert measured[4:] == ["speed", "choices", "words"]
    report.report_on_mini(tmp_path / "other", tmp_path, only=("words",))
    assert measured[7:] == ["choices", "words"]  # no test scene before the choices


def test_the_blocks_and_time_steps_are_chosen_that_show_a_class_and_not_an_absent_one(monkeypatch):
    scenes = list(words.scenes_of("validation", 3, least=2))
    shapes = {"down_blocks.0.a": (8, 2), "up_blocks.0.a": (8, 2), "up_blocks.1.a": (16, 1), "up_blocks.1.b": (16, 3)}
    blocks = {
        name: BlockTrace(name, (side, side), 1.0, {"cond": torch.zeros(heads, 1, side * side, 4)})
        for name, (side, heads) in shapes.items()
    }
    trace = object.__new__(Trace)
    object.__setattr__(trace, "blocks", blocks)
    seen = []

    class Known:
        def __init__(self, pipe):
            pass

        def map(self, trace, word, keep):
            maps = np.zeros((4, len(choices._ALL_TIMES), 128, 128))
            if word in {thing.name for thing in seen[-1].objects}:
                late = [choices._ALL_TIMES.index(t) for t in choices.TIMES["hardly any"]]
                mask = seen[-1].mask(word).astype(float)
                maps[:3] = -mask  # that of one head in grid 16 is outvoted by the three of the other block
                maps[3] = -2 * mask
                maps[3, late] = mask
            return maps

    def look(pipe, image, seed, blocks, timesteps):
        assert (blocks, timesteps) == ("all", choices._ALL_TIMES)
        seen.append(scenes[seed])
        return trace

    monkeypatch.setattr(choices, "Asking", Known)
    monkeypatch.setattr(choices, "encode", look)
    found = choices.choose(None, scenes=3)
    assert found["best"] == {"blocks": ["up_blocks.1.a", "up_blocks.1.b"], "timesteps": [10, 50, 100]}
    of = {(row["blocks"], row["time steps"]): row for row in found["settings"]}
    assert of["grid 16", "hardly any"]["own"] == 1
    for other in (("grid 16", "much noise"), ("grid 8", "hardly any"), ("all", "hardly any")):
        assert of[other]["own"] < 1
        assert of[other]["lead"] <= 0  # a map that is lowest on the thing is worth its share
    assert found["objects"] == sum(
        sum(scene.mask(n).sum() >= 40 for n in {thing.name for thing in scene.objects} & set(choices.DEVELOPMENT))
        for scene in scenes
    )


def test_transformers_are_divided_into_thirds():
    blocks = {f"transformer_blocks.{i}.attn": None for i in range(7)}
    trace = object.__new__(Trace)
    object.__setattr__(trace, "blocks", blocks)
    subsets = choices.block_subsets(trace)
    assert {name: len(blocks) for name, blocks in subsets.items()} == {
        "all": 7,
        "first third": 2,
        "middle third": 3,
        "last third": 2,
    }
    assert sum((subsets[name] for name in choices.THIRDS), ()) == tuple(blocks)


class _Knowing(Asking):
    """Every word's map is its truth; an absent word's is empty."""

    def __init__(self, scenes):
        self.scenes = scenes

    def map(self, trace, word):
        name = next((n for n, own in CLASS_WORDS.items() if word in own), word)
        mask = self.scenes[trace.number].mask(name) if name in LABELS else np.zeros((128, 128), dtype=bool)
        return mask.astype(np.float32)


def test_words_are_judged_on_their_own_things(monkeypatch):
    scenes = list(words.scenes_of("test", 3, least=2))
    monkeypatch.setattr(words, "Asking", lambda pipe: _Knowing(scenes))
    monkeypatch.setattr(words, "untrained", lambda pipe: None)

    def seen(pipe, image, seed, **options):
        trace = object.__new__(Trace)
        object.__setattr__(trace, "number", seed)
        return trace

    monkeypatch.setattr(words, "encode", seen)

    class Pipe:
        class tokenizer:
            tokenize = staticmethod(lambda name: ["a"] * (1 + (name == "cat")))

    found = words.measure_words(Pipe(), scenes=3)
    assert found["objects"]["own"] == found["presence_auroc"] == found["grounds"]["own"] == 1.0
    assert found["grounds"]["normalised"]["own"] == 1.0
    others, share = found["objects"]["others"], found["objects"]["others"][words.CONSTANT]
    assert others["absent"] == others["nonsense"] == pytest.approx(share)  # an empty map is worth the share
    assert others.get("synonym", 1.0) == 1.0
    assert found["objects"]["gap"][0] == pytest.approx(1 - share)
    assert found["grounds"]["normalised"][words.CONSTANT] == 0.0
    assert found["objects"]["count"] == sum(
        sum(scene.mask(name).sum() >= 40 for name in {thing.name for thing in scene.objects}) for scene in scenes
    )


@pytest.fixture
def leaning_oracles(tmp_path, monkeypatch):
    """Both oracles, of random weights but for a leaning towards aeroplanes, written as the trained ones are."""
    torch.manual_seed(0)
    folder = tmp_path / "oracles"
    folder.mkdir()
    for name in oracle.NAMES:
        made = oracle.build_oracle(name)
        last = [part for part in made.modules() if isinstance(part, torch.nn.Conv2d)][-1]
        last.bias.data.view(oracle.LABEL_COUNT, -1)[LABELS["aeroplane"]] += 1000  # oracle A has four rows a label
        save_file({key: value.half() for key, value in made.state_dict().items()}, folder / f"{name}.safetensors")
    monkeypatch.setattr(oracle, "oracle_folder", lambda: folder)
    oracle.load_oracles.cache_clear()
    yield
    oracle.load_oracles.cache_clear()


def test_what_the_oracles_judge_runs_through(leaning_oracles, tmp_path, monkeypatch):
    """From weights on disk to the page, for the sections that had to wait for the oracles, headroom and memory."""
    up = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    best = {"blocks": [up], "timesteps": [50]}
    settings = [{"blocks": up, "time steps": "one", "own": 0.5, "lead": 0.1}]
    monkeypatch.setattr(report, "choose", lambda pipe, scenes: {"best": best, "settings": settings})
    monkeypatch.setattr(report, "_QUICK_COUNTS", {"simple": 2, "pairs": 1, "captions": 1})
    monkeypatch.setattr(report, "_QUICK_HEADROOM", {"classes": ("cat", "car"), "annotations": 1, "held_back": 1})
    monkeypatch.setattr(headroom, "_WITHOUT", 2)
    monkeypatch.setattr(imitation, "STEPS", 3)
    monkeypatch.setattr(oracles, "STRENGTHS", (0.4,))
    monkeypatch.setattr(images, "STEPS", 2)
    monkeypatch.setattr(curves, "CALLS", (0, 1))
    for name in ("ONE_CALL", "FROM_CALL", "UP_TO_CALL"):
        monkeypatch.setattr(curves, name, getattr(curves, name)[:2])
    random = np.random.default_rng(0)
    monkeypatch.setattr(memory, "known_thumbnails", lambda *given: random.random((given[-1], 768)))
    seen = []
    monkeypatch.setattr(headroom, "encode", lambda *given, **options: seen.append(options) or encode(*given, **options))
    sections = ("oracles", "generation", "memory", "headroom", "transfer")
    docs = tmp_path / "docs"
    found = report.report_on_mini(docs, tmp_path / "images", only=sections, quick=True)["sections"]
    assert set(found) == {"choices", *sections}
    assert {(tuple(options["blocks"]), tuple(options["timesteps"])) for options in seen} == {((up,), (50,))}
    assert found["headroom"]["grid"] == [ovam.load("mini").unet.config.sample_size // 2] * 2
    assert found["generation"]["agreement"]["all"] == {"classes": 1.0, "labels": 1.0, "ignored": 0.0}
    assert found["generation"]["by_class"] == {"aeroplane": 1.0, "bicycle": 0.0}
    assert found["memory"]["pictures"] == 2
    assert (found["transfer"]["images"], found["transfer"]["left_out"]) == (1, 1)
    assert found["transfer"]["ignored"] == 0
    for of in found["oracles"]["ways"].values():
        assert {row["mIoU"] for row in of.values()} == {of["a"]["mIoU"]}
        assert 0 <= of["a"]["mIoU"] < 0.05  # the only label that is seen is seldom the true one
    assert "$" not in (docs / "mini.md").read_text()
    text = (docs / "mini-measured.md").read_text()
    assert "$" not in text
    assert "| gate" not in text
    measured = text[text.index("## Oracles") : text.index("## Chosen before test")]
    assert "Not measured" not in measured + text[text.index("## Headroom") : text.index("## Where the attention goes")]
