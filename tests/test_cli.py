"""The command line on a tiny pipeline's folder: what is written, what is printed, and what bad input gets."""

import errno
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import wraps
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import ovam
import tiny
from ovam import pictures
from ovam.backbones.registry import supported
from ovam.cli import app
from ovam.cli.arguments import blocks_of, words_of
from ovam.cli.terminal import quiet, running
from ovam.commands.generate import generate
from ovam.commands.segment import segment_file
from ovam.commands.segment_many import segment_files
from ovam.errors import OptionError
from ovam.masks.options import SegmentOptions
from ovam.output_files import safe_names, write_bytes
from ovam.tensor_file import replacing

SMALL = ("--num-inference-steps", "2", "--height", "32", "--width", "32")
WORDS = ("cat", "lawn", "hot dog")
PROMPT = "a cat on the grass"
PYTHON = re.compile(r"\b[a-z_]+=\S|\bmaps\[|\btrace\.|\btorch\.|\['|\bguidance_scale\b|\bload\(")
"""What error texts of the library hold and those of the command line do not."""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    """What a command prints as JSON, and nothing but that."""
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def assert_fails(done, *parts):
    """One line on stderr that names what is wrong, nothing on stdout, exit code 1."""
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    line = done.stderr.removesuffix("\n")
    assert line.startswith("error: ")
    assert "\n" not in line
    assert "Traceback" not in line
    for part in parts:
        assert part in line
    assert not (found := PYTHON.search(line)), f"{found.group()!r} is nothing that is typed on a command line"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd1"
    tiny.sd1().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """Folder of a model with another text encoder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd2"
    tiny.sd2().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def joint_model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion 3, whose image and text share the attention."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd3"
    tiny.sd3().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """One run of `ovam generate`: its folder and its printed result."""
    out = tmp_path_factory.mktemp("made") / "new" / "out"
    arguments = ("generate", PROMPT, "--words", "cat, lawn, hot dog", "--against", "sky", "--seed", 7)
    return out, succeed(*arguments, "--output-dir", out, "--model", model, *SMALL)


@pytest.fixture
def no_unet(monkeypatch):
    """The denoiser can't be loaded or run."""

    def refuse(*args, **kwargs):
        raise AssertionError("the UNet was loaded or run")

    monkeypatch.setattr(UNet2DConditionModel, "forward", refuse)
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", refuse)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


# what generate writes


def test_generate_writes_the_picture_of_the_plain_pipeline(made, model):
    pipe = ovam.load(model)
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(PROMPT, generator=torch.Generator().manual_seed(7), num_inference_steps=2, height=32, width=32)
    assert (read(made[0] / "image.png") == np.asarray(plain.images[0])).all()


def test_generate_writes_what_the_trace_answers(made, model):
    out, result = made
    trace = ovam.Trace.load(out / "run.safetensors", text=model)
    assert (trace.source.prompt, trace.source.seed) == (PROMPT, 7)
    found = trace.segment(WORDS, against=["sky"])
    maps = found.maps.only(WORDS)
    image = result["images"][0]
    assert [word["word"] for word in image["words"]] == list(WORDS)
    for i, word in enumerate(image["words"]):
        assert (read(out / word["mask"]) == found[word["word"]].numpy() * 255).all()
        assert (read(out / word["map"]) == np.asarray(pictures.overlay(trace.image, maps[i]))).all()
        assert word["presence"] == pytest.approx(found.presence[word["word"]])
        assert word["range"] == pytest.approx([float(maps[i].min()), float(maps[i].max())])
        assert word["share"] == pytest.approx(float((found.labels == word["label"]).float().mean()))
    assert (read(out / "labels.png") == found.labels.numpy()).all()
    sheet = pictures.contact_sheet(trace.image, maps, caption=PROMPT)
    assert (read(out / "sheet.png") == np.asarray(sheet)).all()
    overlay = pictures.label_map_picture(trace.image, found)
    assert (read(out / "labels_overlay.png") == np.asarray(overlay)).all()


def test_the_result_file_is_what_was_printed_and_names_every_file(made):
    out, result = made
    assert json.loads((out / "result.json").read_text()) == result
    image = result["images"][0]
    named = {*image["files"].values(), *(word[kind] for word in image["words"] for kind in ("map", "mask"))}
    there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert there == named | {"result.json"}
    assert (result["prompt"], image["seed"], image["size"]) == (PROMPT, 7, [32, 32])


def test_equal_runs_write_equal_bytes_over_the_old_files_and_leave_others(model, tmp_path):
    arguments = ("generate", PROMPT, "--words", "cat", "--output-dir", tmp_path, "--model", model, *SMALL)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "mine.txt").write_text("mine")
    succeed(*arguments)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert len(first) == 8
    (tmp_path / "maps" / "cat.png").write_bytes(b"old")
    succeed(*arguments)
    assert {path: path.read_bytes() for path in first} == first
    assert (tmp_path / "maps" / "mine.txt").read_text() == "mine"


def test_several_images_get_folders_of_their_own_and_seeds_that_give_them_again(model, tmp_path):
    common = ("generate", PROMPT, "--words", "cat", "--model", model, *SMALL)
    two = succeed(*common, "--num-images", 2, "--seed", 3, "--output-dir", tmp_path / "two")
    assert [(image["folder"], image["seed"]) for image in two["images"]] == [("image-000", 3), ("image-001", 4)]
    succeed(*common, "--seed", 4, "--output-dir", tmp_path / "one")
    again, second = read(tmp_path / "one" / "image.png"), read(tmp_path / "two" / "image-001" / "image.png")
    assert np.abs(again.astype(int) - second).max() <= 2  # a batch of two adds up in another order
    assert np.abs(again.astype(int) - read(tmp_path / "two" / "image-000" / "image.png")).max() > 20
    assert (tmp_path / "two" / "image-001" / "masks" / "cat.png").is_file()


def test_options_reach_the_run(model, tmp_path):
    kept = ("--blocks", "12", "--steps", "1", "--negative-prompt", "a dog", "--height", 48, "--width", 32)
    none = ("--no-save-trace", "--threshold", "0.7", "--output-dir", tmp_path / "none")
    common = ("generate", PROMPT, "--words", "cat", "--model", model, "--num-inference-steps", "2")
    succeed(*common, *kept, "--output-dir", tmp_path / "kept")
    trace = ovam.Trace.load(tmp_path / "kept" / "run.safetensors", text=model)
    assert trace.size == (48, 32)
    assert {block.grid for block in trace.blocks.values()} == {(12, 8)}
    assert [call.step for call in trace.calls] == [1]
    assert trace.source.negative_prompt == "a dog"
    result = succeed(*common, *none)
    assert "trace" not in result["images"][0]["files"]
    assert not (tmp_path / "none" / "run.safetensors").exists()
    assert result["threshold"] == 0.7


def test_without_guidance_and_in_another_type(model, tmp_path):
    common = ("generate", PROMPT, "--words", "cat", "--model", model, *SMALL)
    succeed(*common, "--guidance-scale", 1.0, "--dtype", "bfloat16", "--output-dir", tmp_path)
    assert (tmp_path / "masks" / "cat.png").is_file()


def test_words_that_look_like_paths_stay_in_their_folder_and_apart(model, tmp_path):
    words = '"../x", a/b, a b, A-B, ..\\x, .hidden, "one, two"'
    out = tmp_path / "deep" / "out"
    result = succeed("generate", PROMPT, "--words", words, "--output-dir", out, "--model", model, *SMALL)
    assert [word["word"] for word in result["images"][0]["words"]][-1] == "one, two"
    assert {path.parent for path in tmp_path.rglob("*.png")} == {out, out / "maps", out / "masks"}
    assert len(list((out / "maps").iterdir())) == 7
    assert not any(path.name.startswith(".") for path in out.rglob("*"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=90), max_size=6))
def test_file_names_of_any_words_are_safe_and_different(words):
    names = safe_names(words)
    assert len({name.casefold() for name in names}) == len(words)
    for name in names:
        assert name
        assert not set(name) & set('/\\:*?"<>|.\0\n')
        assert len(f"{name}.png".encode()) <= 255


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    def break_off(path, data):
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "disk full")

    (tmp_path / "x.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", break_off)
    with pytest.raises(OptionError, match=r"x\.png can't be written \(disk full\)"):
        write_bytes(tmp_path / "x.png", b"new")
    assert (tmp_path / "x.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_several_may_write_one_file_at_once(tmp_path):
    path = tmp_path / "x.bin"
    with replacing(path) as first:
        first.write_bytes(b"first")
        write_bytes(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert [found.name for found in tmp_path.iterdir()] == ["x.bin"]


def test_generate_takes_a_pipeline_object_and_leaves_it_as_it_is(tmp_path):
    pipe = tiny.sd1()
    before = dict(vars(pipe))
    result = generate(PROMPT, "cat", output_dir=tmp_path, model=pipe, num_inference_steps=2, height=32, width=32)
    changed = {name for name, value in vars(pipe).items() if before.get(name, value) is not value}
    assert not changed
    assert [word["word"] for word in result["images"][0]["words"]] == ["cat"]


def test_one_side_alone_leaves_the_other_to_the_model(tmp_path):
    """Stable Diffusion's pipeline would take its own size for both."""
    pipe = tiny.sd1()
    generate(PROMPT, "cat", output_dir=tmp_path, model=pipe, num_inference_steps=2, width=40)
    with Image.open(tmp_path / "image.png") as picture:
        assert picture.size == (40, pipe.unet.config.sample_size * pipe.vae_scale_factor)


def test_a_negative_prompt_reaches_flux_by_its_own_weight(tmp_path):
    """Its pipeline leaves the prompt out without that weight, and says nothing."""
    pipe, small = tiny.flux(), {"num_inference_steps": 2, "height": 32, "width": 32}

    def picture(name, **options):
        result = generate(PROMPT, "cat", output_dir=tmp_path / name, model=pipe, **small, **options)
        return result, (tmp_path / name / "image.png").read_bytes()

    _, plain = picture("plain")
    result, kept_away = picture("kept-away", negative_prompt="a dog", true_cfg_scale=4.0)
    assert kept_away != plain
    assert (result["negative_prompt"], result["true_cfg_scale"], result["guidance_scale"]) == ("a dog", 4.0, 7.5)
    for wrong, message in (
        ({"negative_prompt": "a dog"}, "ignores it without"),
        ({"negative_prompt": "a dog", "true_cfg_scale": 1.0}, "true_cfg_scale=1: expected a number above 1"),
        ({"true_cfg_scale": 4.0}, "together with negative_prompt"),
    ):
        with pytest.raises(OptionError, match=message):
            picture("wrong", **wrong)


# asking later


def test_maps_answers_from_the_trace_without_the_unet(made, model, tmp_path, no_unet):
    out, _ = made
    result = succeed("maps", out / "run.safetensors", "--words", "sky", "--model", model, "--output-dir", tmp_path)
    trace = ovam.Trace.load(out / "run.safetensors", text=model)
    expected = pictures.overlay(trace.image, trace.maps(["sky"])[0])
    assert (read(tmp_path / "maps" / "sky.png") == np.asarray(expected)).all()
    assert result == json.loads((tmp_path / "result.json").read_text())


def test_maps_of_an_attribution_prompt_share_its_attention(made, model, tmp_path, no_unet):
    prompt = "a cat on the lawn"
    arguments = ("maps", made[0] / "run.safetensors", "--attribution-prompt", prompt, "--model", model)
    every = succeed(*arguments, "--output-dir", tmp_path / "every")
    assert [word["word"] for word in every["words"]] == prompt.split()
    some = succeed(*arguments, "--words", "lawn, cat", "--output-dir", tmp_path / "some")
    maps = ovam.Trace.load(made[0] / "run.safetensors", text=model).maps(prompt)
    for word, name in zip(some["words"], ("lawn", "cat"), strict=True):
        assert word["word"] == name
        assert word["range"] == pytest.approx([float(maps[name].min()), float(maps[name].max())])


def test_blocks_and_steps_are_chosen_from_a_trace(made, model, tmp_path):
    trace = ovam.Trace.load(made[0] / "run.safetensors", text=model)
    arguments = ("--blocks", "8x8,up_blocks.2", "--steps", "0-0", "--model", model)
    result = succeed("maps", made[0] / "run.safetensors", "--words", "sky", *arguments, "--output-dir", tmp_path)
    expected = trace.maps(["sky"], blocks=[(8, 8), "up_blocks.2"], steps=[0])[0]
    assert result["words"][0]["range"] == pytest.approx([float(expected.min()), float(expected.max())])


def test_the_default_folder_lies_beside_the_trace_and_spares_what_generate_wrote(made, model, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    trace, before = tmp_path / "run" / "run.safetensors", (tmp_path / "run" / "result.json").read_bytes()
    for command in ("maps", "segment"):
        result = succeed(command, trace, "--words", "sky", "--model", model)
        assert Path(result["output_dir"]) == tmp_path / "run" / f"run-{command}"
        assert (tmp_path / "run" / f"run-{command}" / "result.json").is_file()
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_trace_that_has_no_picture_is_answered_too(model, tmp_path):
    pipe = ovam.load(model)
    with ovam.capture(pipe) as traces:
        pipe(PROMPT, num_inference_steps=2, height=32, width=32, output_type="latent")
    traces[0].save(tmp_path / "latent.safetensors")
    for command in ("maps", "segment"):
        done = call(command, tmp_path / "latent.safetensors", "--words", "cat", "--model", model)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "latent-maps" / "sheet.png").is_file()
    assert (tmp_path / "latent-segment" / "labels_overlay.png").is_file()


def test_segment_of_a_trace_runs_no_unet(made, model, tmp_path, no_unet):
    arguments = ("--against", "sky, tree", "--threshold", "0.6", "--model", model, "--output-dir", tmp_path)
    succeed("segment", made[0] / "run.safetensors", "--words", "cat, dog", *arguments)
    trace = ovam.Trace.load(made[0] / "run.safetensors", text=model)
    found = trace.segment(["cat", "dog"], against=["sky", "tree"], threshold=0.6)
    assert (read(tmp_path / "labels.png") == found.labels.numpy()).all()
    assert (read(tmp_path / "masks" / "dog.png") == found["dog"].numpy() * 255).all()


def test_segment_of_an_image_encodes_it_and_keeps_the_trace(model, tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    arguments = ("segment", tmp_path / "photo.png", "--words", "cat, sky", "--model", model, "--seed", 5)
    result = succeed(*arguments, "--prompt", "a cat", "--output-dir", tmp_path / "out")
    assert (read(tmp_path / "out" / "image.png") == np.asarray(photo)).all()
    trace = ovam.Trace.load(tmp_path / "out" / result["files"]["trace"], text=model)
    assert (trace.source.kind, trace.source.prompt, trace.source.seed) == ("encoded", "a cat", 5)
    expected = ovam.encode(ovam.load(model), photo, prompt="a cat", seed=5).segment(["cat", "sky"])
    assert (read(tmp_path / "out" / "labels.png") == expected.labels.numpy()).all()


def test_segment_of_an_image_asks_the_denoiser_too(model, tmp_path, monkeypatch):
    """Its gains change masks and the presence that is printed; the record tells of them without their numbers."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    ask = ("segment", tmp_path / "photo.png", "--words", "cat, sky", "--against", "lawn", "--model", model)
    ask = (*ask, "--gains", "--seed", 5, "--output-dir", tmp_path / "out")
    result = succeed(*ask)
    pipe, words = ovam.load(model), ["cat", "sky"]
    gains = ovam.word_gains(pipe, photo, [*words, "lawn"], seed=5, size=tuple(result["working_size"]))
    expected = ovam.encode(pipe, photo, seed=5).segment(words, against=["lawn"], gains=gains)
    assert (read(tmp_path / "out" / "labels.png") == expected.labels.numpy()).all()
    assert [word["presence"] for word in result["words"]] == list(expected.presence.values())
    assert result["gains"] == {"looks": gains.looks, "against": list(gains.words[3:])}
    assert {*result["options"]["gains"]} == {"words", "looks", "maps"}
    assert "tensor(" not in (tmp_path / "out" / "result.json").read_text()
    for offset, shown in ((-1e6, "0.00, not seen"), (1e6, "1.00")):
        monkeypatch.setattr("ovam.maps.gains._OFFSET", offset)
        done = call(*ask)
        assert done.stdout.count(shown) == 2, done.output
    assert "not seen" not in done.stdout


def test_gains_are_only_for_images(made, model, tmp_path):
    ask = ("segment", made[0] / "run.safetensors", "--words", "cat", "--model", model, "--output-dir", tmp_path / "out")
    assert_fails(call(*ask, "--gains"), "--gains: expected only with an image file", "leave it out")
    for segment in (segment_file, lambda source, *given, **named: segment_files([source], *given, **named)):
        with pytest.raises(OptionError, match="`options`, and options to measure them as well"):
            segment(
                made[0] / "image.png",
                ["cat"],
                options=SegmentOptions(gains=ovam.WordGains(("cat",), torch.zeros(1, 2, 2))),
                gains=ovam.GainOptions(),
                output_dir=tmp_path / "out",
            )
    with pytest.raises(OptionError, match=r"options for an image were given.*is a trace"):
        segment_file(made[0] / "run.safetensors", ["cat"], gains=ovam.GainOptions(), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_segment_of_an_image_by_another_method(model, tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    options = ("--encode-method", "inversion", "--timesteps", "30, 100", "--output-dir", tmp_path / "out")
    result = succeed("segment", tmp_path / "photo.png", "--words", "cat", "--model", model, *options)
    trace = ovam.Trace.load(tmp_path / "out" / result["files"]["trace"], text=model)
    assert [(call.index, call.timestep) for call in trace.calls] == [(2, 30.0), (6, 100.0)]


def test_a_trace_without_its_projections_is_answered_by_its_model(made, model, tmp_path, monkeypatch):
    trace = ovam.Trace.load(made[0] / "run.safetensors", text=model)
    monkeypatch.setattr("ovam.trace.static_text.PROJECTIONS_INSIDE", 0)
    trace.save(tmp_path / "x.safetensors")
    result = succeed("maps", tmp_path / "x.safetensors", "--words", "sky", "--model", model)
    expected = trace.maps(["sky"])[0]
    assert result["words"][0]["range"] == pytest.approx([float(expected.min()), float(expected.max())])


def test_mini_is_found_again_by_its_name(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ovam.models.mini_folder", lambda: model)
    succeed("generate", PROMPT, "--words", "cat", "--output-dir", tmp_path, *SMALL)
    result = succeed("maps", tmp_path / "run.safetensors", "--words", "sky")
    assert result["model"] == "mini"


@pytest.fixture(scope="module")
def made_by_output(joint_model, tmp_path_factory):
    """One run of `ovam generate --strategy output`: its folder and its printed result."""
    out = tmp_path_factory.mktemp("by-output")
    arguments = ("generate", PROMPT, "--words", "frog, sky", "--against", "red boat", "--strategy", "output")
    return out, succeed(*arguments, "--output-dir", out, "--model", joint_model, *SMALL)


def assert_answers(folder, words, trace, maps, found):
    """The words' maps among their rivals, and the masks of a segmentation, are those that were written."""
    for i, word in enumerate(words):
        assert word["word"] == maps.words[i]
        assert (read(folder / word["map"]) == np.asarray(pictures.overlay(trace.image, maps[i]))).all()
        assert word["range"] == pytest.approx([float(maps[i].min()), float(maps[i].max())], abs=0)
        assert word["presence"] == found.presence[word["word"]]
    assert (read(folder / "labels.png") == found.labels.numpy()).all()


def test_words_are_compared_by_attention_outputs(made_by_output, joint_model, tmp_path):
    out, result = made_by_output
    trace = ovam.Trace.load(out / "run.safetensors", text=joint_model)
    maps = trace.maps(["frog", "sky", "red boat"], strategy="output")
    found = trace.segment(["frog", "sky"], against=["red boat"], strategy="output")
    assert result["strategy"] == "output"
    assert len(result["images"][0]["words"]) == 2
    assert_answers(out, result["images"][0]["words"], trace, maps, found)
    assert maps["sky"].std() > 1e-4  # no word's map is flat
    later = ("--words", "frog, boat", "--strategy", "output", "--model", joint_model, "--output-dir", tmp_path)
    later_words = succeed("maps", out / "run.safetensors", *later)
    expected = trace.maps(["frog", "boat"], strategy="output")
    assert [word["range"] for word in later_words["words"]] == [
        [float(expected[i].min()), float(expected[i].max())] for i in range(2)
    ]
    succeed("segment", out / "run.safetensors", *later)
    labels = trace.segment(["frog", "boat"], strategy="output").labels
    assert (read(tmp_path / "labels.png") == labels.numpy()).all()
    assert not torch.equal(labels, trace.segment(["frog", "boat"]).labels)


def test_an_image_is_segmented_by_attention_outputs(made_by_output, joint_model, tmp_path):
    photo = made_by_output[0] / "image.png"
    options = ("--strategy", "output", "--timesteps", "100", "--model", joint_model, "--output-dir", tmp_path)
    result = succeed("segment", photo, "--words", "frog", "--against", "sky", *options)
    trace = ovam.Trace.load(tmp_path / "run.safetensors", text=joint_model)
    maps = trace.maps(["frog", "sky"], strategy="output")
    found = trace.segment(["frog"], against=["sky"], strategy="output")
    assert_answers(tmp_path, result["words"], trace, maps, found)


def test_outputs_are_kept_where_they_are_asked_for(joint_model, tmp_path):
    """For a later question by them, while the words of now are asked by attention."""
    run = ("generate", PROMPT, "--words", "frog, sky", "--model", joint_model, *SMALL)
    traces = []
    for folder, options in ((tmp_path / "with", ("--outputs",)), (tmp_path / "without", ())):
        assert succeed(*run, "--output-dir", folder, *options)["strategy"] == "attention"
        traces.append(ovam.Trace.load(folder / "run.safetensors", text=joint_model))
    queries = sum(block.query["cond"].nbytes for block in traces[1].blocks.values())
    assert traces[0].nbytes - traces[1].nbytes == queries
    assert (read(tmp_path / "with" / "maps" / "frog.png") == read(tmp_path / "without" / "maps" / "frog.png")).all()
    planned = [
        succeed("plan", joint_model, "--height", 32, "--width", 32, "--steps", 2, *options)
        for options in (("--outputs",), ())
    ]
    assert [plan["bytes"] for plan in planned] == [trace.nbytes for trace in traces]
    options = ("--words", "frog, sky", "--strategy", "output", "--model", joint_model)
    done = call("maps", tmp_path / "without" / "run.safetensors", *options)
    assert_fails(done, "keeps no attention outputs", "generate it again with --outputs")


def test_what_attention_outputs_can_not_answer(made, model, made_by_output, joint_model, tmp_path):
    photo, joint_trace = (made_by_output[0] / name for name in ("image.png", "run.safetensors"))
    by_output, new = ("--strategy", "output"), ("--output-dir", tmp_path / "out")
    alone, cross = ("'frog' alone", "at least two words"), ("on cross attention", "words have no outputs")
    cases = [
        (("generate", PROMPT, "--words", "frog", "--model", joint_model, *SMALL, *by_output), alone),
        (("maps", joint_trace, "--words", "frog", "--model", joint_model, *by_output), alone),
        (("segment", photo, "--words", "frog", "--model", joint_model, *by_output), alone),
        (("generate", PROMPT, "--words", "frog, sky", "--model", model, *SMALL, *by_output), cross),
        (("maps", made[0] / "run.safetensors", "--words", "frog, sky", "--model", model, *by_output), cross),
        (("segment", photo, "--words", "frog, sky", "--model", model, *by_output), cross),
        (
            ("generate", PROMPT, "--words", "frog", "--model", model, *SMALL, "--outputs"),
            ("--outputs on a",),
        ),
        (("segment", joint_trace, "--words", "frog", "--outputs"), ("--outputs", "is a trace")),
    ]
    for arguments, message in cases:
        assert_fails(call(*arguments, *new), *message)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_demo_runs_the_model_once_and_asks_the_trace(model, tmp_path, monkeypatch):
    runs, forward = [], UNet2DConditionModel.forward

    @wraps(forward)
    def counted(*args, **kwargs):
        runs.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    done = call("demo", "--model", model, "--num-inference-steps", 2, "--output-dir", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert len(runs) == 2
    for file in ("image.png", "maps/puppy.png", "masks/sky.png", "sheet.png", "later/maps/beach.png"):
        assert (tmp_path / file).is_file()
        assert Path(file).name in done.stdout
    assert "seconds" in done.stdout


# info


def test_info_tells_versions_and_pipelines():
    result = succeed("info")
    assert result["versions"]["torch"] == torch.__version__
    assert result["pipelines"] == list(supported())
    assert {"StableDiffusionPipeline", "PixArtSigmaPipeline", "FluxPipeline"} <= set(result["pipelines"])
    done = call("info")
    assert torch.__version__ in done.stdout


def test_info_of_a_model_lists_its_blocks(model):
    blocks = {block["name"]: block for block in succeed("info", "--model", model)["blocks"]}
    finest = blocks["down_blocks.0.attentions.0.transformer_blocks.0.attn2"]
    assert (finest["grid"], finest["heads"], finest["default"]) == ([16, 16], 2, True)
    assert not blocks["mid_block.attentions.0.transformer_blocks.0.attn2"]["default"]


def test_info_of_a_model_with_two_text_encoders(tmp_path):
    tiny.sdxl().save_pretrained(tmp_path / "tiny-sdxl")
    result = succeed("info", "--model", tmp_path / "tiny-sdxl")
    assert (result["pipeline"], result["prompt_tokens"]) == ("StableDiffusionXLPipeline", 77)
    assert " + CLIPTextModelWithProjection:" in result["text_encoder"]
    assert "up_blocks.0" in call("info", "--model", tmp_path / "tiny-sdxl").stdout


def test_info_of_a_trace_shows_its_header_and_never_steers_the_terminal(made, model, tmp_path):
    trace = ovam.Trace.load(made[0] / "run.safetensors", text=model)
    hostile = replace(trace, source=replace(trace.source, prompt="a cat [red]\x1b[31m\x07 on"))
    hostile.save(tmp_path / "x.safetensors")
    assert succeed("info", tmp_path / "x.safetensors")["header"]["source"]["seed"] == 7
    done = call("info", tmp_path / "x.safetensors")
    assert "a cat [red]" in done.stdout
    assert "\x1b" not in done.stdout
    assert "16 x 16" in done.stdout


# bad input


def broken_trace(made, path, change):
    """A copy of the trace whose header was changed."""
    from safetensors import safe_open

    with safe_open(made[0] / "run.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["ovam"])
    change(header)
    save_file(load_file(made[0] / "run.safetensors"), path, {"ovam": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--words", " , "), ("list of words is empty", "at least one")),
        (("--words", "!!"), ("'!!'", "no word")),
        (("--attribution-prompt", "a cat", "--words", "tree"), ("'tree'", "'cat'")),
        (("--words", "cat " * 80), ("82 tokens", "would be cut")),
        (("--words", "cat", "--blocks", "99"), ("99", "16x16")),
        (("--words", "cat", "--steps", "0,99"), ("99", "0 to 1")),
    ],
)
def test_bad_questions_to_a_trace(made, model, tmp_path, options, message):
    options = (*options, "--model", model, "--output-dir", tmp_path / "out")
    assert_fails(call("maps", made[0] / "run.safetensors", *options), *message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--prompt", ""), '--prompt ""'),
        (("--encode-method", "noise"), "--encode-method noise:"),
        (("--timesteps", "100"), "--timesteps 100:"),
        (("--seed", "0"), "--seed 0:"),
        (("--dtype", "float32"), "--dtype float32:"),
        (("--device", "cpu"), "--device cpu:"),
        (("--limit-gib", "0"), "--limit-gib 0.0:"),
        (("--capture-dtype", "int8"), "--capture-dtype int8:"),
    ],
)
def test_options_of_an_image_are_refused_for_a_trace(made, model, tmp_path, option, message):
    """Each is given the value that an image would get anyway: what was given is told from what was not."""
    arguments = ("--words", "cat", "--model", model, "--output-dir", tmp_path / "out", *option)
    assert_fails(call("segment", made[0] / "run.safetensors", *arguments), message, "run.safetensors is a trace")
    assert not (tmp_path / "out").exists()


def test_a_trace_asked_with_another_model(made, other_model):
    done = call("maps", made[0] / "run.safetensors", "--words", "cat", "--model", other_model)
    assert_fails(done, "CLIPTextModel:", "the model it was made with")


def test_a_trace_that_holds_nothing(made, model, tmp_path):
    trace = ovam.Trace.load(made[0] / "run.safetensors", text=model)
    replace(trace, blocks={}).save(tmp_path / "x.safetensors")
    assert_fails(call("maps", tmp_path / "x.safetensors", "--words", "cat", "--model", model), "holds no queries")


def test_traces_that_are_cut_foreign_newer_or_missing(made, tmp_path):
    data = (made[0] / "run.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    broken_trace(made, tmp_path / "newer.safetensors", lambda header: header.update(format_version=99))
    expected = {"cut": "damaged", "foreign": "not a trace", "newer": "update ovam", "missing": "not there"}
    for name, message in expected.items():
        for command in (("maps", "--words", "cat"), ("segment", "--words", "cat"), ("info",)):
            assert_fails(
                call(command[0], tmp_path / f"{name}.safetensors", *command[1:]), f"{name}.safetensors", message
            )


def test_a_header_never_causes_a_download(made, tmp_path, monkeypatch):
    path = broken_trace(made, tmp_path / "x.safetensors", lambda header: header["source"].update(model="some/model"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "ovam.commands.trace_file.load_trace", lambda *a: pytest.fail("went on with a model of the header")
    )
    assert_fails(call("maps", path, "--words", "cat"), "some/model", "--model")


def test_a_header_without_a_source_is_no_reason_to_stumble(made, tmp_path):
    path = broken_trace(made, tmp_path / "x.safetensors", lambda header: [header.pop("source"), header.pop("blocks")])
    assert_fails(call("maps", path, "--words", "cat"), "x.safetensors", "--model")
    assert call("info", path).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a cat", "--words", ""), ("list of words is empty",)),
        (("a cat", "--words", "cat, cat"), ("'cat'", "listed twice")),
        (("a cat", "--words", "cat, Cat"), ("'Cat'", "listed twice", "'cat'")),
        (("cat " * 80, "--words", "cat"), ("82 tokens", "would be cut")),
        (("a cat", "--words", "cat", "--negative-prompt", "dog " * 80), ("82 tokens", "would be cut")),
        (("a cat", "--words", "cat", "--true-cfg-scale", "4"), ("--true-cfg-scale 4", "StableDiffusionPipeline")),
        (("a cat", "--words", "cat", "--blocks", "99"), ("99", "16x16")),
        (("a cat", "--words", "cat", "--steps", "5"), ("5", "0 to 1")),
        (
            ("a cat", "--words", "cat", "--limit-gib", "0"),
            ("over the limit of 0.000 GiB", "--capture-dtype int8", "--limit-gib"),
        ),
        (("a cat", "--words", "cat", "--width", "2000"), ("--width 2000", "at most 256 pixels")),
        (("a cat", "--words", "cat", "--num-inference-steps", "5000"), ("--num-inference-steps 5000", "at most 1000")),
        (("a cat", "--words", "cat", "--preset", "large"), ("--preset large", "'small'")),
        (("a cat", "--against", "sky"), ("--against sky", "without words")),
        (("a cat", "--words", "cat", "--seed", f"{2**64 - 1}", "--num-images", "2"), ("to 18446744073709551614",)),
        (("a cat", "--words", "cat", "--device", "nonsense"), ("device 'nonsense'", "expected 'cpu'")),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(model, tmp_path, options, message):
    done = call("generate", *SMALL, "--model", model, "--output-dir", tmp_path / "out", *options)
    assert_fails(done, *message)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_that_can_t_be_checked_is_refused_by_name(model):
    assert_fails(call("verify", model, "--height", "2000"), "--height 2000", "at most 256")
    assert_fails(call("verify", model, "--num-inference-steps", "5000"), "--num-inference-steps 5000", "at most 1000")


def test_models_that_are_missing_unsupported_or_damaged(model, tmp_path):
    levels = {"block_out_channels": (4,), "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    small = UNet2DModel(sample_size=8, norm_num_groups=2, attention_head_dim=4, **levels)
    DDPMPipeline(small, DDPMScheduler()).save_pretrained(tmp_path / "unsupported")
    shutil.copytree(model, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.weight"].fill_(float("nan"))
    save_file(tensors, weights, {"format": "pt"})
    (tmp_path / "empty").mkdir()
    expected = {
        "unsupported": ("DDPMPipeline", "StableDiffusionPipeline"),
        "damaged": ("NaN", "down_blocks.0"),
        "empty": ("model_index.json", "empty"),
        "missing": ("missing", "could not be loaded"),
    }
    for name, message in expected.items():
        options = ("--model", tmp_path / name, "--output-dir", tmp_path / "out", *SMALL)
        assert_fails(call("generate", "a cat", "--words", "cat", *options), *message)


def test_images_that_are_missing_or_none(model, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name, message in {"none.png": "not there", "text.png": "can't be read"}.items():
        assert_fails(call("segment", tmp_path / name, "--words", "cat", "--model", model), name, message)


def test_an_output_folder_that_is_a_file(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = call("generate", "a cat", "--words", "cat", "--model", model, "--output-dir", tmp_path / "file", *SMALL)
    assert_fails(done, "file", "can't be created")
    assert (tmp_path / "file").read_text() == "mine"


def test_errors_that_nobody_foresaw_are_one_line_too(monkeypatch):
    def fail(*args):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("ovam.commands.info.installation", fail)
    assert_fails(call("info"), "RuntimeError: first line second line", "--debug")


@pytest.mark.parametrize("arguments", [("--debug", "info", "no.safetensors"), ("info", "no.safetensors", "--debug")])
def test_debug_lets_the_error_through(arguments):
    done = call(*arguments)
    assert isinstance(done.exception, ovam.OvamError)
    assert done.exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--words", "cat"),
        ("generate", "a cat", "--words", "cat", "--seed", "-1"),
        ("generate", "a cat", "--words", "cat", "--num-images", "0"),
        ("generate", "a cat", "--words", "cat", "--dtype", "int8"),
        ("generate", "a cat", "--steps", "some"),
        ("generate", "a cat", "--steps", "5-2"),
        ("generate", "a cat", "--steps", "0-100000000000"),
        ("generate", "a cat", "--blocks", "1" * 5000),
        ("generate", "a cat", "--blocks", "x" * 5000),
        ("generate", "a cat", "--seed", "9" * 20),
        ("generate", "a cat", "--seed", "9" * 5000),
        ("generate", "a cat", "--height", "8"),
        ("generate", "a cat", "--height", "100"),
        ("generate", "a cat", "--width", "2000000"),
        ("generate", "a cat", "--threshold", "2"),
        ("generate", "a cat", "--threshold", "nan"),
        ("generate", "a cat", "--guidance-scale", "nan"),
        ("generate", "a cat", "--guidance-scale", "inf"),
        ("generate", "a cat", "--true-cfg-scale", "nan"),
        ("generate", "a cat", "--limit-gib", "inf"),
        ("generate", "a cat", "--num-inference-steps", "100000"),
        ("generate", "a cat", "--device", "meta"),
        ("generate", ""),
        ("generate", " "),
        ("generate", "\udcff"),
        ("unknown",),
        ("mini", "scenes"),
    ],
)
def test_usage_errors_exit_with_2(arguments):
    done = call(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert len(done.stderr) < 400


# arguments and the terminal


def test_words_between_commas():
    assert words_of('cat, "salt, pepper", hot\n dog,, ') == ["cat", "salt, pepper", "hot dog"]


def test_blocks_between_commas():
    assert blocks_of("16, 16x24, up_blocks.1") == [16, (16, 24), "up_blocks.1"]


def test_progress_and_the_announced_size_are_drawn_on_a_terminal_only(monkeypatch):
    log, before = logging.getLogger("ovam"), (logging.getLogger("ovam").level, [*logging.getLogger("ovam").handlers])
    written = []
    for is_terminal in (True, False):
        stream = StringIO()
        stream.isatty = lambda is_terminal=is_terminal: is_terminal
        monkeypatch.setattr(sys, "stderr", stream)
        with running() as progress:
            progress("denoising", 1, 2)
            log.info("capture keeps a lot")
        written.append(stream.getvalue())
    assert "denoising 1/2" in written[0]
    assert "capture keeps a lot" in written[0]
    assert written[1] == ""
    assert (log.level, log.handlers) == before


def test_other_libraries_get_their_settings_back(monkeypatch):
    from transformers.utils import logging as transformers_logging

    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    transformers_logging.set_verbosity_info()
    try:
        with quiet():
            assert transformers_logging.get_verbosity() == logging.ERROR
            warnings.warn("not shown, and no error", stacklevel=1)
        assert transformers_logging.get_verbosity() == logging.INFO
        assert "TRANSFORMERS_VERBOSITY" not in os.environ
    finally:
        transformers_logging.set_verbosity_error()


def run_process(*arguments):
    """The command in a process of its own, as a user's shell runs it: without the tests' own settings."""
    own = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if name not in own} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ovam", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


def test_nothing_but_the_result_reaches_the_user(model, tmp_path):
    done = run_process(
        "generate", "a cat", "--words", "cat", "--model", model, "--output-dir", tmp_path, *SMALL, "--json"
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["images"][0]["words"][0]["word"] == "cat"


def test_debug_shows_the_traceback():
    done = run_process("info", "no.safetensors", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "TraceFileError" in done.stderr


def test_help_is_there_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "generate" in run_process("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1  # processor's seconds; 0.2 measured
    assert run_process("--version").stdout == f"ovam {ovam.__version__}\n"


def test_help_loads_no_model_library():
    code = (
        "import sys, ovam.cli\n"
        "try: ovam.cli.app(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.endswith("set()\n")
