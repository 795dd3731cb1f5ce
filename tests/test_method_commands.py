"""`ovam segment --method`: a published method on traces and image files, and what does not go with one."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ovam
from ovam import methods
from ovam.cli import app
from ovam.cli.parameters import SegmentMethod
from ovam.commands.ask import segment_file
from ovam.commands.methods import method_of
from ovam.errors import OptionError
from ovam.masks.options import SegmentOptions
from ovam.tracing.encode_options import EncodeOptions


def call(*arguments):
    return CliRunner().invoke(app, ["segment", *map(str, arguments)])


def succeed(*arguments):
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def labels_in(folder):
    with Image.open(folder / "labels.png") as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trace file with both halves and self-attention of both ways, its picture, and tokens."""
    folder = tmp_path_factory.mktemp("made")
    pipe = ovam.load("mini")
    pipe.set_progress_bar_config(disable=True)
    every = methods.requires_of(map(methods.by_name, methods.names()))
    with ovam.capture(pipe, **every) as traces:
        pipe("a cat on the grass", num_inference_steps=3, height=64, width=96)
    trace = traces[0]
    trace.save(folder / "run.safetensors")
    trace.image.save(folder / "photo.png")
    mask = trace.segment(["cat"])["cat"]
    ovam.optimize_tokens(trace, {"cat": mask}, evaluations=2).save(folder / "cat.safetensors")
    return folder


def test_the_command_knows_every_method():
    assert tuple(each.value for each in SegmentMethod) == methods.names()


@pytest.mark.parametrize("name", methods.names())
def test_a_trace_is_segmented_by_the_method(made, tmp_path, name):
    result = succeed(made / "run.safetensors", "--method", name, "--words", "cat, grass", "--output-dir", tmp_path)
    trace = ovam.Trace.load(made / "run.safetensors", text="mini")
    expected = methods.by_name(name).segment(trace, ["cat", "grass"])
    assert (labels_in(tmp_path) == expected.labels.numpy()).all()
    assert (result["method"], result["threshold"]) == (name, methods.by_name(name).threshold)
    assert [word["presence"] for word in result["words"]] == pytest.approx([*expected.presence.values()])


@pytest.mark.parametrize("name", methods.names())
def test_an_image_file_gets_what_the_method_needs(made, tmp_path, name):
    options = ("--tokens", made / "cat.safetensors", "--timesteps", "300", "--output-dir", tmp_path / "out")
    result = succeed(made / "photo.png", "--method", name, *options)
    assert [word["word"] for word in result["words"]] == ["cat"]
    needs = methods.by_name(name).requires_encoded
    trace = ovam.encode(ovam.load("mini"), made / "photo.png", timesteps=(300,), **needs)
    tokens = ovam.TokenSet.load(made / "cat.safetensors")
    assert (labels_in(tmp_path / "out") == methods.by_name(name).segment(trace, tokens).labels.numpy()).all()


def test_threshold_and_crf_are_the_methods(made, tmp_path):
    arguments = (made / "run.safetensors", "--method", "attn2mask", "--words", "cat", "--output-dir", tmp_path)
    result = succeed(*arguments, "--threshold", "0.3", "--crf")
    assert (result["threshold"], result["token_threshold"], result["crf"]) == (0.3, 0.3, True)
    found = methods.Attn2Mask(threshold=0.3, crf=True).segment(
        ovam.Trace.load(made / "run.safetensors", text="mini"), "cat"
    )
    assert (labels_in(tmp_path) == found.labels.numpy()).all()


def test_several_files_and_again_by_another_method(made, tmp_path):
    sources = (made / "run.safetensors", made / "photo.png", "--words", "cat", "--output-dir", tmp_path)
    first = succeed(*sources, "--method", "daam")
    assert (first["made"], first["skipped"]) == (2, 0)
    assert succeed(*sources, "--method", "daam")["skipped"] == 2
    assert succeed(*sources, "--method", "attn2mask")["made"] == 2
    assert succeed(*sources)["made"] == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--refine",), "--refine with --method daam"),
        (("--products", "3"), "--products 3 with --method daam"),
        (("--against", "sky", "--blocks", "16"), "--blocks 16, --against sky with --method daam"),
        (("--presence", "0.5"), "--presence 0.5 with --method daam"),
        (("--crf",), "--crf with --method daam, which has no CRF"),
        (("--ignore", "0.1"), "takes --threshold and --crf at most: leave it out"),
    ],
)
def test_options_that_contradict_a_method(made, tmp_path, options, told):
    arguments = (made / "run.safetensors", "--method", "daam", "--words", "cat", "--output-dir", tmp_path / "out")
    done = call(*arguments, *options)
    assert done.exit_code == 1
    assert told in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_no_self_attention_for_a_method_that_needs_it(made, tmp_path):
    arguments = (
        made / "photo.png",
        "--method",
        "dataset-diffusion",
        "--words",
        "cat",
        "--output-dir",
        tmp_path / "out",
    )
    done = call(*arguments, "--no-self-attention")
    assert done.exit_code == 1
    assert "--no-self-attention with --method dataset-diffusion, which needs it" in done.stderr


def test_a_trace_that_lacks_what_the_method_needs(made, tmp_path):
    trace = ovam.Trace.load(made / "run.safetensors", text="mini")
    fewer = {name: part for name, part in trace.self_attention.items() if name.startswith("up_")}
    trace.parts["self_attention"] = fewer
    trace.save(tmp_path / "up.safetensors")
    options = ("--words", "cat", "--output-dir", tmp_path / "out")
    done = call(tmp_path / "up.safetensors", "--method", "dataset-diffusion", *options)
    assert done.exit_code == 1
    assert "only the mean over the blocks on the way up: give an image file" in done.stderr
    assert not (tmp_path / "out").exists()


def test_names_that_no_method_has(made):
    done = call(made / "run.safetensors", "--method", "inversion", "--words", "cat")
    assert done.exit_code == 2
    assert "daam" in done.stderr


def test_python_calls_are_refused_alike(made, tmp_path):
    method, refined = methods.DAAM(), SegmentOptions(refine=True, threshold=0.4)
    with pytest.raises(OptionError, match="threshold, refine with method='daam'"):
        segment_file(made / "run.safetensors", ["cat"], method=method, options=refined, output_dir=tmp_path / "out")
    with pytest.raises(OptionError, match="self_attention=False with method='dataset-diffusion'"):
        segment_file(
            made / "photo.png",
            ["cat"],
            method=methods.DatasetDiffusion(),
            encoding=EncodeOptions(self_attention=False),
            output_dir=tmp_path / "out",
        )
    with pytest.raises(OptionError, match="method='damm'"):
        method_of("damm")
    assert not (tmp_path / "out").exists()
