"""The exported benchmark and its scorer, through the command line: files that need nothing of ours to be read."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from ovam.cli import app
from ovam.mini.scenes import CLASSES, LABELS, PARTS, UNKNOWN_PART, render, seed_of
from ovam.mini.scenes.slices import slices
from ovam.voc_names import VOC

PAGE = Path(__file__).parent.parent / "docs" / "benchmark.md"
ENTRY = ("--method", "by hand", "--question", "all names", "--model", "none", "--made-with", "python by_hand.py")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    done = call("mini", "scenes", "--split", "test", "--n", 6, "--start", 3, "--output-dir", folder, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scenes"] == 6
    return folder


def test_every_map_is_the_scene_s_own(exported):
    lines = [json.loads(line) for line in (exported / "scenes.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [seed_of("test", i) for i in range(3, 9)]
    for line in lines:
        scene = render(line["seed"], split="test")
        for folder, expected in (
            ("images", scene.image),
            ("labels", scene.labels),
            ("parts", scene.parts),
            ("instances", scene.instances),
        ):
            assert np.array_equal(np.asarray(Image.open(exported / folder / line["file"])), expected)
        assert line["caption"] == scene.caption
        assert [thing["name"] for thing in line["objects"]] == [thing.name for thing in scene.objects]
        assert [tuple(thing["slices"]) for thing in line["objects"]] == [slices(scene, t) for t in scene.objects]
    names = json.loads((exported / "names.json").read_text())
    assert names["labels"] == {"0": "unnamed"} | {str(number): name for name, number in LABELS.items()}
    parts = {"0": "none"} | {str(number): name for name, number in PARTS.items()} | {"255": "unknown"}
    assert names["parts"] == json.loads((exported / "part-names.json").read_text())["labels"] == parts


def test_the_page_names_every_key_of_a_scene(exported):
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith("| `scenes.jsonl`")]
    scene = json.loads((exported / "scenes.jsonl").read_text().splitlines()[0])
    assert {key for key in (*scene, *scene["objects"][0]) if f"`{key}`" not in row} == set()


def test_the_words_to_ask_are_told_with_those_that_no_scene_shows(exported):
    words = json.loads((exported / "words.json").read_text())
    names = json.loads((exported / "names.json").read_text())["labels"].values()
    assert words["classes"]["sofa"] == ["sofa", "couch"]
    assert {*words["classes"], *words["grounds"]} | {"unnamed"} == set(names)
    assert set().union(*words["kinds"].values()) <= words["classes"].keys()
    assert words["parts"] == list(PARTS)
    lines = [json.loads(line) for line in (exported / "scenes.jsonl").read_text().splitlines()]
    assert {thing["colour"] for line in lines for thing in line["objects"]} - {None} <= words["colours"].keys()
    assert {name for line in lines for name in line["distractors"]} <= set(words["unnamed"])
    known = {
        *words["unnamed"],
        *(word for own in (*words["classes"].values(), *words["grounds"].values()) for word in own),
    }
    assert len(words["absent"]) == 10
    assert len(words["nonsense"]) == 8
    assert not known & {*words["absent"], *words["nonsense"]}


def test_the_page_s_script_scores_a_method_without_anything_of_ours(tmp_path):
    """Python's isolated mode sees neither the tests' folder nor the source tree."""
    folder = tmp_path / "scenes" / "test"
    assert call("mini", "scenes", "--n", 3, "--output-dir", folder).exit_code == 0
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    script += "import sys\nassert not any(name.partition('.')[0] == 'ovam' for name in sys.modules)\n"
    command = [sys.executable, "-I", "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    *captions, last = done.stdout.splitlines()
    lines = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    for printed, line in zip(captions, lines, strict=True):
        assert printed.startswith(f"{line['caption']} [")
        assert all(repr(thing["name"]) in printed for thing in line["objects"])
    result = call("evaluate", tmp_path / "my-labels", folder / "labels", "--names", folder / "names.json", "--json")
    assert last == f"miou {json.loads(result.stdout)['figures']['miou']:.4f}"
    assert 0 < float(last.split()[1]) < 0.5


def test_slices_are_read_from_the_scene():
    found = set()
    for i in range(150):
        scene = render(seed_of("test", i), split="test", size=64)
        for thing in scene.objects:
            own = set(slices(scene, thing))
            found |= own
            assert len(own & {"novel", "seen"}) == len(own & {"canonical", "counterfactual", "free"}) == 1
            assert ("small" in own) == (thing.area < 0.04)
            assert ("twin" in own) == (sum(other.name == thing.name for other in scene.objects) > 1)
    assert found >= {"novel", "seen", "canonical", "counterfactual", "new-pair", "small", "occluded", "close", "twin"}


def test_perfect_maps_score_1_and_damaged_ones_as_counted_by_hand(exported, tmp_path):
    names = exported / "names.json"
    perfect = call("evaluate", exported / "labels", exported / "labels", "--names", names, "--json")
    result = json.loads(perfect.stdout)
    figures = result["figures"]
    assert (result["n"], figures["miou"], figures["boundary_f"], figures["undecided"]) == (6, 1.0, 1.0, 0.0)
    assert figures["false_positive_area"] == 0
    assert {row["iou"] for row in result["slices"]} == {1.0}

    truth, guess = np.zeros((8, 8), dtype=np.uint8), np.zeros((8, 8), dtype=np.uint8)
    truth[:, 4:], truth[0, 0] = 3, 255
    guess[:, 6:], guess[7, :], guess[0, 0] = 3, 255, 3  # at an ignored pixel whatever is said counts for nothing
    for name, values in (("truth", truth), ("guess", guess)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    done = call("evaluate", tmp_path / "guess.png", tmp_path / "truth.png", "--json")
    result = json.loads(done.stdout)
    figures = result["figures"]
    bird, ground = 14 / 32, 27 / (31 + 14)  # of 32 pixels 14 are met; 27 of 31, and 14 of the bird's were taken for it
    by_name = {row["class"]: row["iou"] for row in result["classes"]}
    assert (by_name["bird"], by_name["background"]) == (round(bird, 4), round(ground, 4))
    assert figures["miou"] == round((bird + ground) / 2, 4)
    assert figures["miou_without_background"] == figures["mean_of_per_image_iou"] == round(bird, 4)
    assert (figures["undecided"], figures["ignored"]) == (round(8 / 63, 4), round(1 / 64, 4))
    assert result["method"] is None
    assert result["slices"] == []


def test_part_maps_are_scored_where_parts_are_known(exported, tmp_path):
    """Whatever is said of a thing whose parts nobody knows counts for nothing."""
    unknown = 0
    (tmp_path / "parts").mkdir()
    for file in (exported / "parts").iterdir():
        parts = np.asarray(Image.open(file))
        unknown += (parts == UNKNOWN_PART).sum()
        guess = np.where(parts == UNKNOWN_PART, PARTS["wheel"], parts)
        Image.fromarray(guess.astype(np.uint8)).save(tmp_path / "parts" / file.name)
    assert unknown
    names = exported / "part-names.json"
    result = json.loads(call("evaluate", tmp_path / "parts", exported / "parts", "--names", names, "--json").stdout)
    assert result["figures"]["miou"] == 1.0
    assert result["slices"] == []
    assert result["figures"]["ignored"] == pytest.approx(unknown / (6 * 128 * 128), abs=1e-4)
    assert [row["class"] for row in result["classes"]] == ["background", *PARTS]


def test_numbers_without_a_name_are_background(tmp_path):
    truth = np.full((4, 4), 27, dtype=np.uint8)  # a ground: no class of Pascal VOC
    Image.fromarray(truth).save(tmp_path / "a.png")
    Image.fromarray(np.zeros_like(truth)).save(tmp_path / "b.png")
    result = json.loads(call("evaluate", tmp_path / "b.png", tmp_path / "a.png", "--json").stdout)
    assert result["figures"]["miou"] == 1.0


def test_slices_and_false_areas_as_counted_by_hand(exported, tmp_path):
    """Every other scene is found but for its left half, the rest is taken for giraffes, which no scene shows."""
    words = json.loads((exported / "names.json").read_text())["labels"] | {"101": "giraffe"}
    (tmp_path / "names.json").write_text(json.dumps(words))
    lines = [json.loads(line) for line in (exported / "scenes.jsonl").read_text().splitlines()]
    expected, areas = {}, []
    for i, line in enumerate(lines):
        truth = np.asarray(Image.open(exported / "labels" / line["file"]))
        guess = truth.copy()
        if i % 2 == 0:
            guess[:, :64] = 101
        Image.fromarray(guess).save(tmp_path / line["file"])
        areas.append(0.5 if i % 2 == 0 else 0.0)
        for thing in line["objects"]:
            own = truth == LABELS[thing["name"]]
            for each in ("all", *thing["slices"]):
                expected.setdefault(each, []).append((own & (guess == truth)).sum() / own.sum())
    done = call("evaluate", tmp_path, exported / "labels", "--names", tmp_path / "names.json", "--json")
    result = json.loads(done.stdout)
    assert result["figures"]["false_positive_area"] == np.mean(areas)
    assert {row["slice"]: (row["objects"], row["iou"]) for row in result["slices"]} == {
        each: (len(values), pytest.approx(np.mean(values), abs=1e-4)) for each, values in expected.items()
    }
    assert result["slices"][0]["slice"] == "all"
    elsewhere = tmp_path / "moved" / "truth"
    elsewhere.mkdir(parents=True)
    for line in lines:
        (elsewhere / line["file"]).write_bytes((exported / "labels" / line["file"]).read_bytes())
    bare = call("evaluate", tmp_path, elsewhere, "--names", tmp_path / "names.json", "--json")
    assert json.loads(bare.stdout)["slices"] == []
    named = ("--names", tmp_path / "names.json", "--scenes", exported / "scenes.jsonl")
    assert json.loads(call("evaluate", tmp_path, elsewhere, *named, "--json").stdout)["slices"] == result["slices"]


@pytest.fixture(scope="module")
def soft(exported, tmp_path_factory):
    """Scores of every name on every picture: the truth, weakened by noise."""
    folder, random = tmp_path_factory.mktemp("soft"), np.random.default_rng(0)
    for file in (exported / "labels").iterdir():
        truth = np.asarray(Image.open(file))
        scores = np.stack([(truth == number) * 0.5 + random.random(truth.shape) for number in LABELS.values()])
        np.save(folder / f"{file.stem}.npy", scores.astype(np.float32))
    return folder


def test_soft_maps_are_scored_as_scikit_learn_does(exported, soft):
    arguments = ("evaluate", exported / "labels", exported / "labels", "--names", exported / "names.json")
    result = json.loads(call(*arguments, "--scores", soft, "--json").stdout)
    precision, highest, present = {name: [] for name in LABELS}, [], []
    for file in sorted((exported / "labels").iterdir()):
        truth, scores = np.asarray(Image.open(file)), np.load(soft / f"{file.stem}.npy")
        for (name, number), values in zip(LABELS.items(), scores, strict=True):
            own = truth == number
            highest.append(values.max())
            present.append(own.any())
            if own.any():
                precision[name].append(average_precision_score(own.ravel(), values.ravel()))
    expected = {name: np.mean(values) for name, values in precision.items() if values}
    found = {row["class"]: row["average_precision"] for row in result["classes"]}
    assert {name: value for name, value in found.items() if value is not None} == pytest.approx(expected, abs=1e-4)
    assert found["background"] is None
    figures = result["figures"]
    assert figures["average_precision"] == pytest.approx(np.mean(list(expected.values())), abs=1e-4)
    assert figures["presence_auroc"] == pytest.approx(roc_auc_score(present, highest), abs=1e-4)


def test_soft_maps_leave_out_what_the_truth_ignores(tmp_path):
    truth = np.array([[1, 1, 0, 255]], dtype=np.uint8)
    Image.fromarray(truth).save(tmp_path / "a.png")
    (tmp_path / "names.json").write_text('{"2": "absent", "1": "there"}')
    np.save(tmp_path / "a.npy", np.array([[[0.9, 0.8, 0.1, 1.0]], [[0.2, 0.2, 0.2, 5.0]]]))
    png, names = tmp_path / "a.png", tmp_path / "names.json"
    figures = json.loads(call("evaluate", png, png, "--names", names, "--scores", tmp_path, "--json").stdout)["figures"]
    assert (figures["average_precision"], figures["presence_auroc"]) == (1.0, 1.0)


def documented(heading):
    """Rows of the first table below a heading of the page: the cells of each, by the name in its first one."""
    table = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n|---")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]]
    return {row[0].strip(" `"): row[1:] for row in rows}


def test_a_leaderboard_entry_has_the_documented_fields(exported, soft):
    arguments = ("evaluate", exported / "labels", exported / "labels", "--names", exported / "names.json", "--json")
    entry, scored = (json.loads(call(*arguments, *ENTRY, *more).stdout) for more in ((), ("--scores", soft)))
    fields = documented("A leaderboard entry")
    types = {"text": str, "count": int, "object": dict, "list": list}
    assert list(entry) == list(fields)
    for name, (kind, required, _) in fields.items():
        assert type(entry[name]) is types[kind], name
        assert required in ("yes", "no")
    assert (entry["question"], entry["model"], entry["made_with"]) == ("all names", "none", "python by_hand.py")
    assert (entry["split"], entry["n"]) == ("test", 6)
    figures = documented("What is scored")
    assert list(scored["figures"]) == list(figures)
    assert list(entry["figures"]) == [name for name, (what,) in figures.items() if "`--scores`" not in what]
    for name in ("classes", "slices"):
        assert list(scored[name][0]) == [
            key for key in re.findall("`([^`]+)`", fields[name][2]) if key in scored[name][0]
        ]
        assert all(list(row) == list(scored[name][0]) for row in scored[name])


def test_the_truth_s_hash_changes_with_the_truth_and_the_names(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(tmp_path / name / "x.png")
        (tmp_path / f"{name}.json").write_text(json.dumps({value: "thing"}))
    a, b = tmp_path / "a", tmp_path / "b"
    runs = [(a, a), (b, a), (a, b), (a, a, "--names", tmp_path / "a.json")]
    hashes = [json.loads(call("evaluate", *run, "--json").stdout)["truth_hash"] for run in runs]
    assert hashes[0] == hashes[1], "the prediction does not count"
    assert len(set(hashes)) == 3


@pytest.mark.user_error
def test_half_an_entry_is_none(exported):
    one = exported / "labels" / "200000003.png"
    done = call("evaluate", one, one, "--method", "mine", "--model", "none")
    assert done.exit_code == 1
    assert "the entry for a leaderboard lacks --question, --made-with: expected all of --method" in done.stderr


@pytest.mark.user_error
def test_scores_that_can_t_be_read_are_named(exported, tmp_path):
    one, name = exported / "labels" / "200000003.png", "200000003.npy"
    shape = (len(LABELS), 128, 128)
    broken = np.zeros(shape)
    broken[3, 4, 5] = np.nan
    cases = {
        "missing": (lambda path: None, "can't be read"),
        "shape": (lambda path: np.save(path, np.zeros((20, 128, 128))), "float64 of shape (20, 128, 128)"),
        "type": (lambda path: np.save(path, np.zeros(shape, dtype=np.uint8)), "uint8 of shape (29, 128, 128)"),
        "NaN": (lambda path: np.save(path, broken), "contain NaN or infinity"),
        "pickle": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "can't be read"),
        "text": (lambda path: path.write_text("no array"), "can't be read"),
        "damaged": (lambda path: path.write_bytes(_header_of(shape).replace(b")", b" ")), "can't be read"),
        "indented": (
            lambda path: path.write_bytes(_header_of(shape).replace(b"'descr'", b"\n  'des")),
            "can't be read",
        ),
        "endless": (lambda path: path.write_bytes(_header_of((2**62, 2**62))), "can't be read"),
        "negative": (lambda path: path.write_bytes(_header_of((-1, -1, -1))), "can't be read"),
        "cut": (lambda path: path.write_bytes(_header_of(shape)), "can't be read"),
        "archive": (lambda path: _write_archive(path, np.zeros(shape)), "can't be read"),
    }
    for case, (write, message) in cases.items():
        (tmp_path / case).mkdir()
        write(tmp_path / case / name)
        done = call("evaluate", one, one, "--names", exported / "names.json", "--scores", tmp_path / case)
        assert done.exit_code == 1, case
        assert message in done.stderr, case
        assert name in done.stderr
        assert done.stderr.count("\n") == 1


def _header_of(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _write_archive(path, values):
    with path.open("wb") as stream:
        np.savez(stream, values)


@pytest.mark.user_error
def test_scenes_that_do_not_fit_the_files_are_named(exported, tmp_path):
    one = exported / "labels" / "200000003.png"
    first, *others = (exported / "scenes.jsonl").read_text().splitlines()
    contents = {
        "fewer": ("\n".join(others), "200000003.png has no line in"),
        "deep": ("[" * 100_000, "nested too deeply"),
        "text": ("no scenes", "expected lines like those of `ovam mini scenes`"),
        "other": ('{"file": "200000003.png"}', "expected lines like those of `ovam mini scenes`"),
        "nameless": (first, "have no number in the names"),
    }
    (tmp_path / "names.json").write_text('{"1": "wheel"}')
    for case, (text, message) in contents.items():
        (tmp_path / case).write_text(text)
        done = call("evaluate", one, one, "--scenes", tmp_path / case, "--names", tmp_path / "names.json")
        assert done.exit_code == 1, case
        assert message in done.stderr, case


@pytest.mark.user_error
def test_what_can_t_be_compared_is_named(exported, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(small / "200000003.png")
    one, nameless = exported / "labels" / "200000003.png", tmp_path / "nameless.json"
    nameless.write_text('{"0": "background", "255": "unknown"}')
    cases = (
        ((small / "200000003.png", one), "small/200000003.png: the ground truth is of shape (128, 128)"),
        ((small, exported / "labels"), "200000004.png has no prediction in"),
        ((tmp_path, exported / "labels"), "is no PNG file and no folder with PNG files"),
        ((exported / "images", exported / "labels"), "has several channels (mode RGB): expected one number per pixel"),
        ((one, tmp_path / "none.png"), "can't be read"),
        ((one, one, "--names", one), "names file"),
        ((one, one, "--names", nameless), "numbers are missing"),
        *(((one, one, "--names", file), message) for file, message in _names_files(tmp_path)),
    )
    for arguments, message in cases:
        done = call("evaluate", *arguments)
        assert done.exit_code == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def _names_files(folder):
    """Files of names that are none, and what is told of each."""
    contents = {
        '{"20000": "x"}': "number 20000, more than 4095",  # pairs of all numbers are counted
        "[" * 100_000: "nested too deeply",
        '{"1": "\\ud800"}': "not valid Unicode",
        '{"labels": {"1": "cat"}, "split": [3]}': "split [3]",
        '{"1e3": "cat"}': "names file",
        "3": "names file",
    }
    for i, (content, message) in enumerate(contents.items()):
        (folder / f"names-{i}.json").write_text(content)
        yield folder / f"names-{i}.json", message


@pytest.mark.user_error
def test_scenes_that_no_split_has_are_refused(tmp_path):
    done = call("mini", "scenes", "--split", "tset", "--output-dir", tmp_path / "out")
    assert done.exit_code == 1
    assert "split 'tset' is unknown: expected one of train, validation, test, domain b" in done.stderr
    assert not (tmp_path / "out").exists()
    far = call("mini", "scenes", "--start", 10**8, "--output-dir", tmp_path / "out")
    assert "expected a number from 0 to 99999999" in far.stderr


def test_black_and_white_masks_are_no_label_maps(tmp_path):
    """All of their object would be ignored, and an empty prediction perfect."""
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:5, 2:5] = 255
    for name, values in (("truth", mask), ("guess", np.zeros_like(mask))):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    done = call("evaluate", tmp_path / "guess.png", tmp_path / "truth.png")
    assert done.exit_code == 1
    assert "contains only 0 and 255" in done.output


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        ("x.jpg", lambda picture, path: picture.save(path), "is a JPEG"),
        ("x.png", lambda picture, path: picture.convert("LA").save(path), "several channels (mode LA)"),
        ("x.png", lambda picture, path: picture.convert("RGBA").save(path), "one channel, or a palette"),
        ("x.png", lambda picture, path: path.write_bytes(_damaged(picture)), "can't be read"),
    ],
)
def test_pictures_that_are_no_label_maps_are_named(tmp_path, name, save, message):
    labels = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 5)
    labels.save(tmp_path / "truth.png")
    save(labels, tmp_path / name)
    done = call("evaluate", tmp_path / name, tmp_path / "truth.png")
    assert done.exit_code == 1, done.output
    assert message in " ".join(done.output.split())
    assert "unforeseen" not in done.output


def _damaged(picture):
    """With a wrong name for the chunk of its pixels."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue().replace(b"IDAT", b"\0\0\0\0")


def test_capitals_in_the_ending_of_a_name_change_nothing(tmp_path):
    for folder in ("truth", "guess"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / folder / "A.PNG")
    done = call("evaluate", tmp_path / "guess", tmp_path / "truth", "--json")
    assert json.loads(done.stdout)["n"] == 1


def test_an_entry_names_the_split_that_it_is_of(tmp_path):
    Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "x.png")
    done = call("evaluate", tmp_path / "x.png", tmp_path / "x.png", *ENTRY)
    assert done.exit_code == 1
    assert "have no split" in " ".join(done.output.split())


def test_classes_of_scenes_have_the_numbers_that_evaluate_knows_by_default():
    assert {LABELS[name]: name for name in CLASSES} == VOC


def test_every_key_is_one_word_of_small_letters(exported, tmp_path):
    for guess in (exported / "labels").iterdir():
        classes = json.loads((exported / "names.json").read_text())["labels"].keys() - {"0"}
        np.save(tmp_path / f"{guess.stem}.npy", np.zeros((len(classes), 128, 128), np.float32))
    names = ("--names", exported / "names.json", "--scores", tmp_path)
    done = call("evaluate", exported / "labels", exported / "labels", *names, *ENTRY, "--json")
    result = json.loads(done.stdout)
    records = [result, result["figures"], *result["classes"], *result["slices"]]
    odd = {key for record in records for key in record if not re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", key)}
    assert not odd
    assert "miou without background" in call("evaluate", exported / "labels", exported / "labels", *names).stdout
