"""Many prompts and many files on the command line: formats, resuming, failures, and files of prompts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ovam
import tiny
from ovam.cli.arguments import words_of
from ovam.commands import generate_many
from ovam.commands.prompt_file import read_prompts
from ovam.commands.requests import request_of
from ovam.errors import OptionError
from ovam.masks.options import SegmentOptions
from ovam.refine.options import RefineOptions
from test_cli import PROMPT, SMALL, assert_fails, call, read, succeed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd1"
    tiny.sd1().save_pretrained(folder)
    return folder


@pytest.fixture
def made(model, tmp_path):
    """Folder of a run without self-attention."""
    out = tmp_path / "made"
    succeed("generate", PROMPT, "--no-self-attention", "--model", model, "--output-dir", out, *SMALL)
    return out


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


# refining and formats


def test_refining_keeps_what_it_needs(model, tmp_path):
    command = ("generate", PROMPT, "--words", "cat", "--model", model, "--output-dir", tmp_path, *SMALL)
    options = ("--refine-method", "restart", "--products", 3, "--background", 0.4, "--crf", "--min-area", 2)
    result = succeed(*command, *options)
    trace = ovam.Trace.load(tmp_path / "run.safetensors", text=model)
    refine = RefineOptions(method="restart", products=3)
    expected = trace.segment(["cat"], refine=refine, threshold=0.4, crf=True, min_area=2)
    assert (read(tmp_path / "labels.png") == expected.labels.numpy()).all()
    assert result["threshold"] == 0.4
    assert result["options"]["refine"]["products"] == 3
    assert_fails(call(*command, "--refine", "--no-self-attention"), "--no-self-attention", "--refine")


def test_a_trace_without_self_attention_is_told_by_options(made, model):
    done = call("segment", made / "run.safetensors", "--words", "cat", "--model", model, "--refine")
    assert_fails(done, "--self-attention", "--refine")


def test_words_that_are_not_seen_are_said_to_be_so(made, model, tmp_path):
    ask = ("segment", made / "run.safetensors", "--words", "cat", "--model", model, "--output-dir", tmp_path / "out")
    done = call(*ask, "--presence", 0.99)
    presence = json.loads((tmp_path / "out" / "result.json").read_text())["words"][0]["presence"]
    assert presence < 0.99
    assert (f"{presence:.2f}, not seen" in done.stdout) == (presence < 0.5)
    assert not read(tmp_path / "out" / "labels.png").any()


def test_formats_hold_the_same_masks(made, model, tmp_path):
    ask = ("segment", made / "run.safetensors", "--words", "cat, lawn", "--model", model, "--output-dir", tmp_path)
    result = succeed(*ask, "--format", "npy,coco,polygons,labelstudio", "--instances")
    found = ovam.Trace.load(made / "run.safetensors", text=model).segment(["cat", "lawn"])
    arrays = {name: np.load(tmp_path / f"{name}.npy", allow_pickle=False) for name in ("scores", "labels", "maps")}
    assert np.array_equal(arrays["scores"], found.scores.numpy())
    assert np.array_equal(arrays["labels"], found.labels.numpy())
    assert np.array_equal(arrays["maps"], found.maps.stacked().numpy())
    stored = {name: json.loads((tmp_path / name).read_text()) for name in result["files"].values() if "json" in name}
    assert stored["coco.json"] == found.to_coco()
    assert stored["label_studio.json"] == [found.to_label_studio()]
    assert [one["area"] for one in result["instances"]] == [one.area for one in found.instances()]
    for word, outlines in stored["polygons.json"]["polygons"].items():
        assert len(outlines) == len(found.polygons()[word])
    assert not [*tmp_path.glob("*.png"), *tmp_path.glob("masks/*.png")]
    succeed(*ask)
    assert not list(tmp_path.glob("*.npy")), "the files of an earlier result are removed"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_coco_is_opened_by_pycocotools(made, model, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    ask = ("segment", made / "run.safetensors", "--words", "cat", "--model", model, "--output-dir", tmp_path)
    result = succeed(*ask, "--format", "png,coco")
    opened = coco.COCO(str(tmp_path / "coco.json"))
    masks = [opened.annToMask(one) for one in opened.loadAnns(opened.getAnnIds())]
    assert (sum(masks) == (read(tmp_path / "labels.png") == 1)).all()
    assert result["files"]["coco"] == "coco.json"


def test_unknown_formats_are_refused_with_the_known_ones(made, model):
    for command, known in (("segment", "png, npy, coco, polygons, labelstudio"), ("maps", "png, npy")):
        done = call(command, made / "run.safetensors", "--words", "cat", "--model", model, "--format", "png,tiff")
        assert done.exit_code == 2
        assert known in " ".join(done.stderr.split())


# many items


def test_prompts_go_on_after_an_interruption(model, tmp_path, monkeypatch):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("# scenes\na cat\n\na dog\na car\n")
    ask = ("generate", "--prompts", prompts, "--words", "cat", "--seed", 3, "--model", model, "--output-dir", out)
    whole = generate_many.generate

    def stopped(*, prompt, **options):
        if prompt == "a dog":
            raise KeyboardInterrupt
        return whole(prompt=prompt, **options)

    monkeypatch.setattr(generate_many, "generate", stopped)
    assert call(*ask, *SMALL).exit_code == 130
    assert {path.name for path in out.iterdir()} == {"0000-a-cat", "results.jsonl"}
    with (out / "results.jsonl").open("a") as file:
        file.write('{"item": "0001-a-d')  # a line that was cut short
    monkeypatch.undo()
    result = succeed(*ask, *SMALL)
    assert (result["made"], result["skipped"], result["failed"]) == (2, 1, 0)
    assert [line["item"] for line in lines(out)] == ["0000-a-cat", "0001-a-dog", "0002-a-car"]
    assert lines(out)[2]["images"][0]["seed"] == 5
    succeed("generate", "a car", "--seed", 5, "--model", model, "--output-dir", tmp_path / "alone", *SMALL)
    assert (read(out / "0002-a-car" / "image.png") == read(tmp_path / "alone" / "image.png")).all()
    before = (out / "results.jsonl").read_bytes()
    assert succeed(*ask, *SMALL)["skipped"] == 3
    assert (out / "results.jsonl").read_bytes() == before
    assert succeed(*ask, *SMALL, "--guidance-scale", 2)["made"] == 3


def test_one_broken_file_is_recorded_and_the_others_go_on(model, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("a", "c"):
        Image.new("RGB", (32, 32), "red").save(photos / f"{name}.png")
    (photos / "b.png").write_text("no picture")
    ask = ("segment", photos / "*.png", "--words", "cat", "--timesteps", "50", "--model", model, "--output-dir", out)
    done = call(*ask, "--json")
    assert done.exit_code == 1
    assert "1 of 3 items failed" in done.stderr
    assert [one["item"] for one in json.loads(done.stdout)["failures"]] == ["b"]
    assert [(line["item"], line["status"]) for line in lines(out)] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert lines(out)[1]["error"]["type"] == "ImageInputError"
    assert not (out / "b").exists()
    Image.new("RGB", (32, 32), "blue").save(photos / "b.png")
    result = succeed(*ask)
    assert (result["made"], result["skipped"]) == (1, 2)
    assert succeed(*ask, "--overwrite")["made"] == 3
    assert succeed(*ask, "--max-hole", 1)["made"] == 3
    assert "3 skipped, as they are done" in call(*ask, "--max-hole", 1).stdout


def test_gains_are_part_of_what_was_asked_of_images(made, model, tmp_path):
    """Traces beside them get none, and are not made again."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    sources, out = (tmp_path / "red.png", made / "run.safetensors"), ("--output-dir", tmp_path / "out")
    ask = ("segment", *sources, "--words", "cat", "--timesteps", "50", "--model", model, *out)
    assert succeed(*ask)["made"] == 2
    result = succeed(*ask, "--gains")
    assert (result["made"], result["skipped"]) == (1, 1)
    assert succeed(*ask, "--gains")["skipped"] == 2
    usual = ovam.GainOptions()
    looks = [line.get("gains", {}).get("looks") for line in lines(tmp_path / "out")]
    assert looks == [len(usual.timesteps) * usual.noises, None]


def test_options_with_gains_are_told_apart_by_their_numbers():
    gains = [ovam.WordGains(("cat",), torch.full((1, 2, 2), value), 1) for value in (0.1, 0.2, 0.1)]
    first, second, same = (request_of(options=SegmentOptions(gains=each)) for each in gains)
    assert first == same != second


def test_files_of_several_runs_are_named_after_their_folders(made, model, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.safetensors").write_bytes((made / "run.safetensors").read_bytes())
    ask = ("--words", "cat", "--model", model, "--output-dir", tmp_path / "out")
    succeed("segment", made / "run.safetensors", tmp_path / "other" / "run.safetensors", *ask)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"made", "other", "results.jsonl"}


def test_files_that_do_not_go_together_are_refused_first(made, model, tmp_path):
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    ask = ("--words", "cat", "--model", model, "--output-dir", tmp_path / "out")
    assert_fails(call("segment", tmp_path / "a.png", tmp_path / "a.bmp", *ask), "a.png", "a.bmp", "out/a")
    assert_fails(call("segment", tmp_path / "*.gif", *ask), "no file matches", "*.gif")
    assert_fails(call("segment", tmp_path / "a.png", tmp_path / "missing.png", *ask), "missing.png")
    done = call("segment", tmp_path / "a.*", "--words", "cat")
    assert done.exit_code == 2
    assert "--output-dir" in done.stderr
    assert not (tmp_path / "out").exists()


# files of prompts


def test_csv_and_json_lines_tell_the_same(tmp_path):
    (tmp_path / "p.csv").write_text('prompt,seed,words,negative_prompt\n"a cat, a dog",7,"cat, dog",rain\na car,,,\n')
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a cat, a dog", "seed": 7, "words": ["cat", "dog"], "negative_prompt": "rain"}\n'
        '\n{"prompt": "a car"}\n'
    )
    found = read_prompts(tmp_path / "p.csv", words_of)
    assert found == read_prompts(tmp_path / "p.jsonl", words_of)
    assert (found[0].text, found[0].seed, found[0].words, found[0].negative) == (
        "a cat, a dog",
        7,
        ("cat", "dog"),
        "rain",
    )
    assert (found[1].seed, found[1].words) == (None, None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "\n# nothing\n", "has no prompt"),
        ("p.csv", "", "has no prompt"),
        ("p.csv", "text,seed\na cat,1\n", "'text', 'seed': expected 'prompt'"),
        ("p.csv", "prompt,word\na cat,cat\n", "'word'"),
        ("p.csv", "prompt,seed\na cat,one\n", "line 2: seed 'one'"),
        ("p.csv", "prompt,seed\na cat,-1\n", "line 2: seed '-1'"),
        ("p.csv", "prompt\na cat, a dog\n", "line 2 has more fields"),
        ("p.csv", "prompt,seed\n,1\n", "line 2 has no prompt"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"seed": 1}\n', "line 2 has 'seed'"),
        ("p.jsonl", '{"prompt": "a cat", "seed": 1.5}\n', "seed '1.5'"),
        ("p.jsonl", '{"prompt": "a cat", "words": [1]}\n', "words"),
        ("p.jsonl", "a cat\n", "line 1 is no JSON"),
    ],
)
def test_what_is_wrong_in_a_file_of_prompts_is_named_with_its_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match="p\\.") as raised:
        read_prompts(tmp_path / name, words_of)
    assert message in str(raised.value)
    assert_fails(call("generate", "--prompts", tmp_path / name, "--output-dir", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_a_prompt_or_a_file_of_prompts_is_expected(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n")
    for typed in ((), ("a dog", "--prompts", tmp_path / "p.txt")):
        done = call("generate", *typed)
        assert done.exit_code == 2
        assert "--prompts" in done.stderr
