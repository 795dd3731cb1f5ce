"""What a capture is said to keep beforehand is what it keeps."""

import json

import pytest
import torch
from typer.testing import CliRunner

import ovam
import tiny
from ovam.cli import app
from ovam.errors import MissingBlockError, ModelNotFoundError, OptionError

FAMILIES = ("sd1", "sd2", "sdxl", "pixart_alpha", "sd3", "flux")
SIZE = {"height": 32, "width": 48}

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _kept(pipe, steps=3, images=1, **options):
    pipe.set_progress_bar_config(disable=True)
    alike = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    with ovam.capture(pipe, **options) as traces:
        pipe("a cat", num_inference_steps=steps, num_images_per_prompt=images, **SIZE, **alike)
    return sum(trace.nbytes for trace in traces), len(traces[0].calls)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bytes_planned_are_the_bytes_kept_with_weights_and_without(family, tmp_path):
    pipe = getattr(tiny, family)()
    kept, calls = _kept(pipe)
    assert ovam.plan(pipe, num_inference_steps=calls, **SIZE).nbytes == kept
    pipe.save_pretrained(tmp_path / family)
    for weights in (tmp_path / family).rglob("*.safetensors"):
        weights.unlink()
    assert ovam.plan(tmp_path / family, num_inference_steps=calls, **SIZE).nbytes == kept


def test_options_are_planned_as_they_are_captured():
    options = {"blocks": [8], "guidance": "both", "dtype": torch.float32}
    kept, calls = _kept(tiny.sd1(), images=2, **options)
    planned = ovam.plan(tiny.sd1(), num_inference_steps=calls, images=2, **options, **SIZE)
    assert planned.nbytes == kept
    assert {block.grid for block in planned.blocks} == {(8, 12)}


def test_joint_attention_needs_the_blocks_before_the_chosen_one():
    names = list(ovam.plan(tiny.flux(), **SIZE).blocks)
    planned = ovam.plan(tiny.flux(), blocks=[names[1].name], **SIZE)
    assert [block.name for block in planned.blocks] == [block.name for block in names[:2]]
    assert ["queries" in block.parts for block in planned.blocks] == [False, True]
    assert all(block.parts["image keys and values"] > 0 for block in planned.blocks)


def test_the_model_s_own_size_is_the_default():
    assert ovam.plan("mini").size == (tiny.mini_side(),) * 2
    assert ovam.plan(tiny.flux()).size == (tiny.flux().default_sample_size * tiny.flux().vae_scale_factor,) * 2


def test_the_plan_on_the_command_line():
    planned = ovam.plan("mini", num_inference_steps=7, blocks=["up_blocks.1"])
    options = ("plan", "--steps", "7", "--blocks", "up_blocks.1")
    result = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert result["bytes"] == planned.nbytes == sum(sum(block["parts"].values()) for block in result["blocks"])
    fewer = json.loads(
        CliRunner().invoke(app, ("plan", "--preset", "small", "--capture-dtype", "float16", "--json")).stdout
    )
    assert fewer["bytes"] == ovam.plan("mini", num_inference_steps=30, preset="small", dtype=torch.float16).nbytes
    shown = CliRunner().invoke(app, options).stdout
    assert "up_blocks.1.attentions.1" in shown
    assert f"{tiny.mini_side()}x{tiny.mini_side()} pixels, 7 denoiser calls: {planned.nbytes / 2**30:.3f} GiB" in shown


@pytest.mark.user_error
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 33}, "height=33: expected a positive multiple of 8"),
        ({"width": 0}, "width=0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: expected a whole number of at least 1"),
        ({"images": -1}, "images=-1"),
        ({"guidance": "half"}, "guidance='half'"),
        ({"dtype": torch.int16}, "dtype=torch.int16"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        ovam.plan("mini", **options)


@pytest.mark.user_error
def test_blocks_and_models_that_are_not_there_are_named(tmp_path):
    with pytest.raises(MissingBlockError, match="64"):
        ovam.plan("mini", blocks=[64])
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        ovam.plan(tmp_path)
