"""`ovam segment --method`: a published method on traces and image files, and what does not go with one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ovam
import tiny
from ovam import methods
from ovam.cli import app
from ovam.cli.parameters import SegmentMethod
from ovam.commands.methods import method_of
from ovam.commands.segment import segment_file
from ovam.errors import OptionError, WeightsError
from ovam.masks.options import SegmentOptions
from ovam.methods.registry import TRAINED
from ovam.methods.trained_file import Trained, module_for, save_weights
from ovam.methods.unet_read import outline_of
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
    own = [name for name in methods.names() if type(methods.by_name(name)).__module__.startswith("ovam.methods.")]
    assert [each.value for each in SegmentMethod] == [
        *own,
        *TRAINED,
    ]  # a page that tests run may have registered another


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
    ("options", "message"),
    [
        (("--refine",), "--refine with --method daam"),
        (("--products", "3"), "--products 3 with --method daam"),
        (("--against", "sky", "--blocks", "16"), "--blocks 16, --against sky with --method daam"),
        (("--gains",), "--gains with --method daam"),
        (("--presence", "0.5"), "--presence 0.5 with --method daam"),
        (("--crf",), "--crf with --method daam, which has no CRF"),
        (("--ignore", "0.1"), "takes --threshold and --crf at most: leave it out"),
    ],
)
def test_options_that_contradict_a_method(made, tmp_path, options, message):
    arguments = (made / "run.safetensors", "--method", "daam", "--words", "cat", "--output-dir", tmp_path / "out")
    done = call(*arguments, *options)
    assert done.exit_code == 1
    assert message in done.stderr, done.stderr
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
    with pytest.raises(OptionError, match="gains with method='daam'"):
        segment_file(made / "photo.png", ["cat"], method=method, gains=ovam.GainOptions(), output_dir=tmp_path / "out")
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a folder, a picture, and weights that nobody trained."""
    folder = tmp_path_factory.mktemp("model")
    pipe = tiny.sd1()
    pipe.save_pretrained(folder / "sd1")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "photo.png")
    trace = ovam.encode(pipe, folder / "photo.png", features=True, timesteps=(1,))
    for method, seed in (("grounded", 0), ("datasetdm", 0), ("grounded", 1)):
        torch.manual_seed(seed)
        outline, tokens = outline_of(trace), len(trace.text.embed("thing", padded=True).vectors)
        weights = module_for(method, outline, ("cond",), tokens).state_dict()
        saved = Trained(method, outline, ("cond",), tokens, weights)
        save_weights(saved, folder / f"{method}-{seed}.safetensors")
    return folder


class TestTrained:
    """`--method grounded --weights FILE`, on a tiny model."""

    def arguments(self, model, tmp_path, weights="grounded-0.safetensors", method="grounded"):
        options = (
            "--method",
            method,
            "--words",
            "cat, dog",
            "--model",
            model / "sd1",
            "--output-dir",
            tmp_path / "out",
        )
        return (model / "photo.png", *options, *(() if weights is None else ("--weights", model / weights)))

    @pytest.mark.parametrize("name", ["grounded", "datasetdm"])
    def test_an_image_is_segmented_at_the_time_step_of_the_weights(self, model, tmp_path, name):
        result = succeed(*self.arguments(model, tmp_path, f"{name}-0.safetensors", name))
        assert result["method"] == name
        method = TRAINED[name](weights=model / f"{name}-0.safetensors")
        assert method.requires_encoded["timesteps"] == (1,)
        trace = ovam.encode(ovam.load(model / "sd1"), model / "photo.png", **method.requires_encoded)
        expected = method.segment(trace, ["cat", "dog"])
        assert (labels_in(tmp_path / "out") == expected.labels.numpy()).all()

    def test_another_time_step_is_the_user_s_choice(self, model, tmp_path):
        succeed(*self.arguments(model, tmp_path), "--timesteps", "300")
        trace = ovam.Trace.load(tmp_path / "out" / "run.safetensors")
        assert [call.timestep for call in trace.calls] == [300]

    def test_other_weights_under_the_same_name_are_used(self, model, tmp_path):
        file = tmp_path / "w.safetensors"
        file.write_bytes((model / "grounded-0.safetensors").read_bytes())
        _, *options = self.arguments(model, tmp_path, None)
        pattern = (model / "*.png", *options, "--weights", file)
        assert succeed(*pattern)["made"] == 1
        assert succeed(*pattern)["skipped"] == 1
        file.write_bytes((model / "grounded-1.safetensors").read_bytes())
        assert succeed(*pattern)["made"] == 1

    @pytest.mark.parametrize(
        ("weights", "method", "more", "message"),
        [
            (None, "grounded", (), "method 'grounded' has no weights: it must be trained"),
            ("nothing", "grounded", (), "nothing can't be read, it is not there"),
            ("photo.png", "grounded", (), "is not a readable safetensors file"),
            ("datasetdm-0.safetensors", "grounded", (), "holds weights of another method, 'datasetdm'"),
            ("grounded-0.safetensors", "daam", (), "with --method daam, which needs none"),
            ("grounded-0.safetensors", "grounded", ("--crf",), "--crf with --method grounded, which has no CRF"),
            ("grounded-0.safetensors", "grounded", ("--model", "mini"), "belong to another UNet than the trace"),
        ],
    )
    def test_weights_that_can_t_be_used(self, model, tmp_path, weights, method, more, message):
        done = call(*self.arguments(model, tmp_path, weights, method), *more)
        assert done.exit_code == 1
        assert message in done.stderr, done.stderr
        assert "weights=" not in done.stderr
        assert not (tmp_path / "out").exists()

    def test_weights_without_a_method(self, model):
        done = call(model / "photo.png", "--words", "cat", "--weights", model / "grounded-0.safetensors")
        assert done.exit_code == 1
        assert "without a method: expected --method, grounded or datasetdm" in done.stderr

    def test_a_trace_without_features(self, model, made, tmp_path):
        weights = ("--weights", model / "grounded-0.safetensors", "--output-dir", tmp_path / "out")
        done = call(made / "run.safetensors", "--method", "grounded", "--words", "cat", *weights)
        assert done.exit_code == 1
        assert "this trace has no features" in done.stderr
        assert "give an image file, which is looked at anew" in done.stderr

    def test_python_calls_are_refused_alike(self):
        with pytest.raises(WeightsError, match="has no weights"):
            method_of("grounded")
        with pytest.raises(OptionError, match=r"expected the method with its file, ovam\.methods\.DatasetDM\(weights"):
            methods.by_name("datasetdm")
