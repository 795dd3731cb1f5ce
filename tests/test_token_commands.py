"""Tokens on the command line: from an annotated image to a file, and from the file to maps and masks."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import ovam
import tiny
from ovam.tokens.token_set import TokenSet
from test_cli import SMALL, assert_fails, call, succeed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd1"
    tiny.sd1().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A run with its picture and trace, a mask, a label map, and a token fitted to the picture."""
    out = tmp_path_factory.mktemp("made")
    succeed("generate", "a cat", "--words", "cat", "--output-dir", out, "--model", model, *SMALL)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:20, 4:16] = 255
    Image.fromarray(mask).save(out / "mask.png")
    Image.fromarray(mask // 255 * 8).save(out / "labels.png")
    fit = ("--mask", out / "mask.png", "--word", "cat", "--evaluations", 5, "--model", model)
    result = succeed("optimize", "--image", out / "image.png", *fit, "--output", out / "cat.safetensors")
    return out, result


def test_an_annotated_image_becomes_a_file(made):
    out, result = made
    tokens = TokenSet.load(out / "cat.safetensors")
    assert result["classes"] == list(tokens.classes) == ["cat"]
    assert 0 <= result["fitted_on"][0]["iou"]["cat"] <= 1
    assert len(tokens.groups[0].fit.losses) >= 5
    assert tokens.groups[0].fit.model == "tiny-sd1"


def test_a_file_stands_beside_words(made, model, tmp_path):
    out, _ = made
    trace, file = out / "run.safetensors", out / "cat.safetensors"
    expected = ovam.Trace.load(trace, text=model).segment(["sky", TokenSet.load(file)])
    command = ("--model", model, "--tokens", file, "--words", "sky")
    result = succeed("segment", trace, *command, "--output-dir", tmp_path / "s")
    assert [word["word"] for word in result["words"]] == ["sky", "cat"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "s" / "labels.png")), expected.labels.numpy())
    assert result["notes"] == []
    maps = succeed("maps", trace, *command, "--output-dir", tmp_path / "m")
    assert [word["word"] for word in maps["words"]] == ["sky", "cat"]
    alone = ("--model", model, "--tokens", file)
    assert succeed("segment", out / "image.png", *alone, "--output-dir", tmp_path / "i")["words"][0]["word"] == "cat"
    done = succeed("generate", "a cat", *alone, "--against", "sky", "--output-dir", tmp_path / "g", *SMALL)
    assert done["notes"] == []
    assert [word["word"] for word in done["images"][0]["words"]] == ["cat"]


def test_traces_pairs_and_label_maps(made, model, tmp_path):
    out, _ = made
    both = ("optimize", "--image", out / "image.png", "--trace", out / "run.safetensors")
    masks = ("--mask", out / "mask.png", "--mask", out / "mask.png", "--word", "cat", "--model", model)
    result = succeed(*both, *masks, "--evaluations", 2, "--output", tmp_path / "two.safetensors")
    assert [entry["source"] for entry in result["fitted_on"]] == [str(out / "image.png"), str(out / "run.safetensors")]
    labelled = ("--mask", out / "labels.png", "--label", 8, "--word", "cat", "--evaluations", 5, "--model", model)
    succeed("optimize", "--image", out / "image.png", *labelled, "--output", tmp_path / "same.safetensors")
    first, second = (
        TokenSet.load(path / name) for path, name in ((out, "cat.safetensors"), (tmp_path, "same.safetensors"))
    )
    assert torch.equal(first.groups[0].vectors, second.groups[0].vectors)


def test_masks_of_paint_and_annotation_programs(made, model, tmp_path):
    """Each gives the token of the plain mask: by a threshold, by a colour, or out of files of COCO and labelme."""
    out, _ = made
    plain = Image.open(out / "mask.png")
    plain.point(lambda level: 180 if level else 60).save(tmp_path / "grey.png")
    coloured = Image.new("RGB", plain.size, "blue")
    coloured.paste("#ff8000", mask=plain)
    coloured.save(tmp_path / "coloured.png")
    corners = [[4, 8], [16, 8], [16, 20], [4, 20]]
    coco = {
        "images": [{"id": 1, "file_name": "image.png"}, {"id": 2, "file_name": "other.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[x for point in corners for x in point]]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    (tmp_path / "image.json").write_text(json.dumps({"shapes": [{"label": "cat", "points": corners}]}))
    fit = ("optimize", "--image", out / "image.png", "--word", "cat", "--evaluations", 5, "--model", model)
    expected = TokenSet.load(out / "cat.safetensors").groups[0].vectors
    for file, options in {
        "grey.png": ("--mask-threshold", 0.4),
        "coloured.png": ("--mask-colour", "#ff8000"),
        "instances.json": (),
        "image.json": (),
    }.items():
        succeed(*fit, "--mask", tmp_path / file, *options, "--output", tmp_path / "made.safetensors")
        assert torch.equal(TokenSet.load(tmp_path / "made.safetensors").groups[0].vectors, expected)
    output = ("--output", tmp_path / "none.safetensors")
    refused = call(*fit, "--mask", out / "labels.png", "--label", 8, "--mask-threshold", 0.5, *output)
    assert_fails(refused, "--mask-threshold 0.5", "labels")
    of_trace = ("optimize", "--trace", out / "run.safetensors", "--word", "cat", "--model", model)
    assert_fails(call(*of_trace, "--mask", tmp_path / "instances.json", *output), "a file of 2 images")


def test_show_merge_and_check(made, model, tmp_path):
    out, _ = made
    file = out / "cat.safetensors"
    assert succeed("tokens", "show", file)["classes"] == ["cat"]
    assert "cat" in call("tokens", "show", file).stdout
    dog = ("--mask", out / "mask.png", "--word", "dog", "--evaluations", 2, "--model", model)
    succeed("optimize", "--image", out / "image.png", *dog, "--output", tmp_path / "dog.safetensors")
    merged = succeed("tokens", "merge", file, tmp_path / "dog.safetensors", "--output", tmp_path / "both.safetensors")
    assert merged["classes"] == ["cat", "dog"]
    assert succeed("tokens", "check", file, "--model", model)["notes"] == []
    assert succeed("tokens", "check", file, "--trace", out / "run.safetensors", "--model", model)["notes"] == []
    assert_fails(call("tokens", "check", file, "--model", "mini"), "CLIPTextModel", "same text encoder")
    shutil.copytree(model, tmp_path / "tuned")
    (note,) = succeed("tokens", "check", file, "--model", tmp_path / "tuned")["notes"]
    assert "'tiny-sd1'" in note
    assert "'tuned'" in note
    tiny.sd3().save_pretrained(tmp_path / "sd3")
    assert_fails(call("tokens", "check", file, "--model", tmp_path / "sd3"), "CLIPTextModel", "same text encoder")
    assert_fails(call("tokens", "merge", file, file, "--output", tmp_path / "no.safetensors"), "'cat'", "twice")
    assert not (tmp_path / "no.safetensors").exists()


def test_the_authors_files(made, model, tmp_path):
    np.save(tmp_path / "cat_optimized_token.npy", np.ones((2, 32), dtype=np.float32))
    arguments = ("tokens", "import", tmp_path / "cat_optimized_token.npy", "--model", model)
    assert succeed(*arguments, "--output", tmp_path / "cat.safetensors")["classes"] == ["cat"]


def test_what_is_refused_leaves_nothing(made, model, tmp_path):
    out, _ = made
    output = tmp_path / "x.safetensors"
    whole = ("optimize", "--image", out / "image.png", "--model", model, "--output", output)
    Image.new("L", (16, 16)).save(tmp_path / "small.png")
    Image.new("L", (32, 32)).save(tmp_path / "empty.png")
    assert_fails(call(*whole, "--word", "cat", "--mask", tmp_path / "small.png"), "16 x 16", "32 x 32")
    assert_fails(call(*whole, "--word", "cat", "--mask", tmp_path / "empty.png"), "empty")
    assert_fails(call(*whole, "--word", "cat", "--word", "dog", "--mask", out / "mask.png"), "2 words")
    twice = ("--image", out / "image.png", "--mask", out / "mask.png", "--mask", out / "mask.png", "--word", "cat")
    assert_fails(call(*whole, *twice), "'cat'", "twice")
    command = ("--tokens", out / "cat.safetensors", "--attribution-prompt", "a cat", "--model", model)
    assert_fails(call("maps", out / "run.safetensors", *command), "attribution prompt")
    (tmp_path / "cut.safetensors").write_bytes((out / "cat.safetensors").read_bytes()[:300])
    assert_fails(call("tokens", "show", tmp_path / "cut.safetensors"), "cut.safetensors")
    assert json.loads((out / "result.json").read_text())["command"] == "generate"
    assert not output.exists()
    same = ("--image", out / "image.png", "--mask", out / "labels.png", "--mask", out / "labels.png", "--label", 8)
    assert_fails(call(*whole, *same, "--word", "cat", "--word", "dog"), "label 8", "'cat'", "'dog'")
    folder = ("optimize", "--image", out / "image.png", "--model", "absent", "--output", tmp_path)
    assert_fails(call(*folder, "--word", "cat", "--mask", out / "mask.png"), "is a folder")
    late = ("optimize", "--image", out / "image.png", "--model", "absent", "--output", output)
    found = call(*late, "--word", "cat", "--mask", tmp_path / "empty.png")
    assert_fails(found, "image.png with", "empty.png: mask of 'cat'")  # before a model is looked for


def test_a_fit_to_some_blocks_is_judged_and_asked_by_them(made, model, tmp_path):
    out, _ = made
    trace = ovam.Trace.load(out / "run.safetensors", text=model)
    block = next(iter(trace.blocks))
    fit = ("--mask", out / "mask.png", "--word", "cat", "--evaluations", 5, "--model", model, "--blocks", block)
    output = tmp_path / "one.safetensors"
    result = succeed("optimize", "--trace", out / "run.safetensors", *fit, "--output", output)
    tokens, mask = TokenSet.load(output), np.asarray(Image.open(out / "mask.png")) > 0
    mine = trace.segment(tokens, blocks=[block])["cat"].numpy()
    assert result["fitted_on"][0]["iou"]["cat"] == round(float((mine & mask).sum() / (mine | mask).sum()), 4)
    done = succeed("generate", "a cat", "--model", model, "--tokens", output, "--output-dir", tmp_path / "g", *SMALL)
    assert len(done["notes"]) == 1
    command = ("segment", out / "run.safetensors", "--model", model, "--tokens", output)
    assert succeed(*command, "--blocks", block, "--output-dir", tmp_path / "s")["notes"] == []
    (note,) = succeed(*command, "--output-dir", tmp_path / "s")["notes"]
    assert f"fitted on 1 blocks, asked of {len(trace.blocks)}, 1 of them alike" in note


def test_thresholds_are_chosen_written_and_used_alike(made, model, tmp_path):
    out, _ = made
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    given = (
        "--image",
        out / "image.png",
        "--mask",
        out / "mask.png",
        "--word",
        "cat",
        "--without",
        tmp_path / "grey.png",
    )
    command = ("tokens", "thresholds", out / "cat.safetensors", *given, "--model", model)
    result = succeed(*command, "--output", tmp_path / "cat.safetensors")
    tokens = TokenSet.load(tmp_path / "cat.safetensors")
    found = tokens.thresholds["cat"]
    assert f"mask {found.mask:.3g} and presence {found.presence:.3g}, chosen on 2" in result["groups"][0]["thresholds"]
    assert torch.equal(tokens.groups[0].vectors, TokenSet.load(out / "cat.safetensors").groups[0].vectors)
    expected = ovam.Trace.load(out / "run.safetensors", text=model).segment(tokens)
    use = ("segment", out / "run.safetensors", "--model", model, "--tokens", tmp_path / "cat.safetensors")
    by_command = succeed(*use, "--output-dir", tmp_path / "s")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "s" / "labels.png")), expected.labels.numpy())
    assert by_command["words"][0]["presence"] == pytest.approx(expected.presence["cat"])
    assert "chosen on 2 pictures" in call("tokens", "show", tmp_path / "cat.safetensors", "--details").stdout
