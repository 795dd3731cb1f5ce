"""Traces in eight bits, on a disk, and by settings with a name: what is kept, what it takes, what is refused."""

import gc
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from typer.testing import CliRunner

import ovam
import reference
import tiny
from ovam import errors
from ovam.backbones.registry import backbone_of
from ovam.cli import app
from ovam.commands.generate import generate
from ovam.maps.attention import weight_sums
from ovam.trace.quantised import quantised
from ovam.tracing.options import CaptureOptions
from ovam.tracing.presets import PRESETS
from synthetic import make_trace
from test_trace_file import contents, rewrite

PROMPT = "a dog on the grass"
GIB = 2**30


def captured(pipe, calls=3, **options):
    with ovam.capture(pipe, **options) as traces:
        pipe(PROMPT, num_inference_steps=calls, height=32, width=48, generator=torch.Generator().manual_seed(0))
    return traces


def narrowed(trace):
    """The same trace in eight bits."""
    blocks = {
        name: replace(block, query={half: quantised(query) for half, query in block.query.items()})
        for name, block in trace.blocks.items()
    }
    return replace(trace, blocks=blocks)


def as_double(query):
    return query.double().numpy()


class TestEightBits:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_are_the_definition_s(self, dtype):
        query = make_trace(seed=3).blocks["fine"].query["cond"].to(dtype)
        query[1, 2, :, 0] = 0  # a channel of zeros
        found = quantised(query)
        assert (found.values.dtype, found.scale.shape) == (torch.int8, (2, 3, 1, 4))
        worst = np.abs(found.float().numpy() - reference.eight_bits(as_double(query))).max()
        assert worst <= 1e-6 * query.abs().max()  # measured: 5e-8 of it, the scale's rounding

    @pytest.mark.parametrize("keep_step", [False, True])
    @pytest.mark.parametrize("scores", [2**19, 60])
    def test_weights_are_those_of_the_rounded_numbers(self, monkeypatch, keep_step, scores):
        """Also cut into pieces, of several steps and of a part of one: the scale goes with its step."""
        monkeypatch.setattr("ovam.maps.attention._FLOATS", scores)
        query = make_trace(seed=4).blocks["fine"].query["cond"]
        query *= torch.tensor([1.0, 0.2, 3.0])[:, None, None]  # steps of different scales
        random = torch.Generator().manual_seed(0)
        key, image = torch.randn(2, 5, 4, generator=random), torch.randn(query.shape, generator=random)
        options = {"scale": 0.5, "lengths": (3, 2), "keep_step": keep_step}
        rounded = [reference.eight_bits(as_double(part)) for part in (query, image)]
        axes = (0,) if keep_step else (0, 1)
        found = weight_sums(quantised(query), key, **options).numpy()
        expected = reference.block_weights(rounded[0], key.double().numpy(), 0.5, (3, 2)).sum(axes, keepdims=True)
        assert np.abs(found - expected).max() <= 1e-5  # measured: 1e-6 of sums up to 6
        found = weight_sums(quantised(query), key, image_key=quantised(image), **options).numpy()
        joint = reference.joint_weights(rounded[0], key.double().numpy(), rounded[1], 0.5, (3, 2))
        assert np.abs(found - joint.sum(axes, keepdims=True)).max() <= 1e-5  # measured: 1e-6

    def test_what_is_not_finite_stays_recognisable(self):
        trace = make_trace()
        trace.blocks["coarse"].query["cond"][1, 0, 2, 3] = float("nan")
        with pytest.raises(errors.NotFiniteError, match="queries of block 'coarse'"):
            narrowed(trace).maps("sky")

    def test_late_words_are_differentiable(self):
        trace = narrowed(make_trace())
        vectors = trace.text.embed("sky").vectors.requires_grad_()
        trace.maps(vectors).token_maps[1].sum().backward()
        assert vectors.grad.abs().sum() > 0

    def test_a_capture_takes_a_quarter_of_the_bytes(self, sd1):
        """And in all its sizes: told beforehand, limited, selected."""
        (wide,), (narrow,) = (captured(sd1, dtype=dtype) for dtype in (torch.float32, torch.int8))
        assert narrow.dtype == torch.int8
        # a scale takes as much as four pixels: 1/384 to 1/96 of float32's bytes here
        assert 0.25 < narrow.nbytes / wide.nbytes < 0.26
        planned = ovam.plan(sd1, height=32, width=48, num_inference_steps=3, dtype=torch.int8)
        assert planned.nbytes == narrow.nbytes
        assert len(captured(sd1, dtype=torch.int8, limit_gib=narrow.nbytes / GIB)) == 1
        with pytest.raises(errors.CaptureTooLargeError):
            captured(sd1, dtype=torch.int8, limit_gib=(narrow.nbytes - 1) / GIB)
        part = narrow.select(blocks=["up_blocks.1"], steps=[0, 2])
        few = captured(sd1, blocks=["up_blocks.1"], steps=[0, 2], dtype=torch.int8)[0]
        assert part.nbytes == few.nbytes
        assert torch.equal(part.maps("sky").token_maps, few.maps("sky").token_maps)

    def test_more_calls_than_announced_are_kept(self, sd1):
        """A loop of one's own, whose scheduler has no such time steps."""
        traces = {}
        for dtype in (torch.float32, torch.int8):
            with ovam.capture(sd1, dtype=dtype) as found, torch.no_grad():
                text = sd1.encode_prompt(PROMPT, "cpu", 1, False)[0]
                for timestep in (901, 701, 502, 303, 101):
                    sd1.unet(torch.ones(1, 4, 16, 16), timestep, encoder_hidden_states=text)
            traces[dtype] = found[0]
        assert len(traces[torch.int8].calls) == 5
        for name, block in traces[torch.float32].blocks.items():
            again, kept = quantised(block.query["cond"]), traces[torch.int8].blocks[name].query["cond"]
            assert torch.equal(again.values, kept.values)
            assert torch.equal(again.scale, kept.scale)

    def test_an_encoded_image(self, sd1):
        picture = np.full((32, 32, 3), 120, np.uint8)
        wide, narrow = (
            ovam.encode(sd1, picture, size=(32, 32), timesteps=(100, 500), dtype=dtype)
            for dtype in (torch.float32, torch.int8)
        )
        difference = (wide.maps("sky").token_maps - narrow.maps("sky").token_maps).abs().max()
        assert 0 < difference < 0.02  # measured: 0.004

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_image_keys_and_values_of_joint_attention(self, tmp_path):
        pipe = tiny.flux()
        wide, narrow = (captured(pipe, dtype=dtype)[0] for dtype in (torch.float32, torch.int8))
        block = narrow.replay.blocks[list(narrow.blocks)[-1]]
        assert (block.key["cond"].dtype, block.value["cond"].dtype) == (torch.int8, torch.int8)
        assert block.conditioning["cond"].dtype == torch.float32
        for softmax_over in ("prompt", "joint"):
            expected, found = (t.maps("a cat", softmax_over=softmax_over).token_maps for t in (wide, narrow))
            assert (expected - found).abs().max() < 0.02  # measured: 0.005
        narrow.save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        assert loaded.nbytes == narrow.nbytes
        assert torch.equal(loaded.maps("a cat").token_maps, narrow.maps("a cat").token_maps)
        part = narrow.select(steps=[1])
        assert torch.equal(part.maps("a cat").token_maps, narrow.maps("a cat", steps=[1]).token_maps)


@pytest.fixture(scope="module")
def trace(sd1):
    return captured(sd1, dtype=torch.int8)[0]


class TestFilesOfEightBits:
    @pytest.fixture
    def path(self, trace, tmp_path):
        trace.save(tmp_path / "run.safetensors")
        return tmp_path / "run.safetensors"

    def test_come_back_and_are_stable(self, trace, path, sd1, tmp_path):
        loaded = ovam.Trace.load(path, text=sd1)
        assert loaded.dtype == torch.int8
        assert torch.equal(loaded.maps("sky").token_maps, trace.maps("sky").token_maps)
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_are_of_a_format_that_older_readers_refuse(self, path, sd1, tmp_path):
        """Those know no scales and would take the whole numbers for queries; files without them stay as they were."""
        assert contents(path)[0]["format_version"] == 2
        captured(sd1)[0].save(tmp_path / "float16.safetensors")
        assert contents(tmp_path / "float16.safetensors")[0]["format_version"] == 1

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda header, tensors, name: tensors.pop(f"{name}/scale"), "scale"),
            (
                lambda header, tensors, name: tensors.update({f"{name}/scale": torch.ones(1, 3, 1, 4)}),
                "scale has shape",
            ),
            (lambda header, tensors, name: tensors.update({name: tensors[name].float()}), "header says int8"),
            (
                lambda header, tensors, name: header.update(dtype="float16"),
                "type torch.int8, but the header says float16",
            ),
        ],
    )
    def test_damage_is_noticed(self, trace, path, damage, message):
        header, tensors = contents(path)
        damage(header, tensors, f"query/cond/{next(iter(trace.blocks))}")
        rewrite(path, header, tensors)
        with pytest.raises(errors.TraceFileError, match=message):
            ovam.Trace.load(path)


def open_files(folder):
    """Names of files in a folder that this process has open or mapped; they may have none in the folder itself."""
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in (*opened, *mapped) if str(folder) in line]


class TestDisk:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8], ids=str)
    def test_answers_as_from_memory_and_leaves_nothing(self, sd1, tmp_path, dtype):
        room = tmp_path / "room"
        room.mkdir()
        (expected,) = captured(sd1, dtype=dtype, guidance="both")
        traces = captured(sd1, dtype=dtype, guidance="both", disk=room)
        assert traces[0].nbytes == expected.nbytes
        for half in ("cond", "uncond"):
            found = traces[0].maps("sky", guidance=half).token_maps
            assert torch.equal(found, expected.maps("sky", guidance=half).token_maps)
        traces[0].save(tmp_path / "run.safetensors")
        expected.save(tmp_path / "expected.safetensors")
        assert (tmp_path / "run.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
        assert list(room.iterdir()) == []
        if Path("/proc/self/maps").exists():
            assert open_files(room)
            del traces
            gc.collect()
            assert not open_files(room)

    def test_an_error_in_the_run_leaves_nothing(self, sd1, tmp_path):
        def fail(*_):
            raise RuntimeError("broken")

        with ovam.capture(sd1, disk=tmp_path) as traces, pytest.raises(RuntimeError, match="broken"):
            sd1(PROMPT, num_inference_steps=3, height=32, width=48, callback_on_step_end=fail)
        assert len(traces) == 0
        del traces
        gc.collect()
        assert list(tmp_path.iterdir()) == []
        if Path("/proc/self/maps").exists():
            assert not open_files(tmp_path)

    def test_fewer_calls_than_announced_stay_on_the_disk(self, sd1, tmp_path):
        def stop(pipe, step, timestep, arguments):
            pipe._interrupt = step == 1
            return arguments

        found = []
        for options in ({}, {"disk": tmp_path}):
            with ovam.capture(sd1, **options) as traces:
                generator = torch.Generator().manual_seed(0)
                sd1(PROMPT, num_inference_steps=5, height=32, width=48, callback_on_step_end=stop, generator=generator)
            found.append(traces[0])
        assert len(found[1].calls) == 2
        assert torch.equal(found[0].maps("sky").token_maps, found[1].maps("sky").token_maps)
        query = next(iter(found[1].blocks.values())).query["cond"]
        assert query.untyped_storage().nbytes() > query.nbytes  # a piece of a file that holds all blocks

    def test_its_free_room_is_the_limit(self, sd1, tmp_path, monkeypatch):
        needed = captured(sd1)[0].nbytes
        for free, fits in ((2 * needed, True), (needed, False)):
            monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
            if fits:
                assert len(captured(sd1, disk=tmp_path)) == 1
            else:
                with pytest.raises(errors.CaptureTooLargeError, match=f"GiB on disk {tmp_path}"):
                    captured(sd1, disk=tmp_path)

    def test_a_disk_that_is_full_is_named_before_the_model_runs(self, sd1, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(errors.CaptureTooLargeError, match=r"has no room.*No space left"):
            captured(sd1, disk=tmp_path)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"disk": "absent"}, "disk='absent': expected a folder that is there"),
            ({"disk": ".", "device": "meta"}, "disk='.' with device='meta': expected one of the two"),
        ],
    )
    def test_options_that_make_no_sense_are_named(self, sd1, options, message):
        with pytest.raises(errors.OptionError, match=message):
            captured(sd1, **options)


class TestMiddleStep:
    @pytest.mark.parametrize(("count", "middle"), [(1, 0), (2, 1), (5, 2)])
    def test_is_the_run_s(self, sd1, count, middle):
        (whole,) = captured(sd1, calls=count, blocks=[8])
        (part,) = captured(sd1, calls=count, blocks=[8], steps="middle")
        assert [call.step for call in part.calls] == [middle]
        assert torch.equal(part.maps("sky").token_maps, whole.maps("sky", steps=[middle]).token_maps)

    def test_is_not_known_in_every_loop(self, sd1):
        text = sd1.encode_prompt(PROMPT, "cpu", 1, False)[0]
        message = pytest.raises(errors.MissingStepError, match=r"steps='middle'.*steps=\[10\]")
        with ovam.capture(sd1, steps="middle"), torch.no_grad(), message:
            sd1.unet(torch.ones(1, 4, 16, 16), 903, encoder_hidden_states=text)

    @pytest.mark.user_error
    def test_other_words_are_refused(self, sd1):
        with pytest.raises(errors.OptionError, match="steps='last': expected step numbers"):
            captured(sd1, steps="last")


def full_size(kind):
    """A pipeline of the published model's size, without weights."""
    with torch.device("meta"):
        levels = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
        vae = AutoencoderKL(
            down_block_types=levels[0], up_block_types=levels[1], block_out_channels=(8,) * 4, norm_num_groups=2
        )
        if kind is FluxPipeline:
            parts = {"transformer": FluxTransformer2DModel(), "text_encoder_2": None, "tokenizer_2": None}
        else:
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # otherwise SD 1.5 by default
            parts = {"unet": unet, "safety_checker": None, "feature_extractor": None}
    scheduler = tiny.flux().scheduler if kind is FluxPipeline else tiny.sd1().scheduler
    return kind(vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None, **parts)


class TestPresets:
    def test_keep_what_they_name(self, sd1):
        (trace,) = captured(sd1, preset="small")
        settings = PRESETS[type(backbone_of(sd1))]["small"]
        expected = captured(sd1, blocks=settings.blocks, steps=settings.steps, dtype=settings.dtype)[0]
        assert list(trace.blocks) == list(expected.blocks)
        planned = ovam.plan(sd1, height=32, width=48, num_inference_steps=3, preset="small")
        assert trace.nbytes == expected.nbytes == planned.nbytes
        (other,) = captured(sd1, preset="small", blocks=[8], dtype=torch.float16)
        assert ({block.grid for block in other.blocks.values()}, other.dtype) == ({(8, 12)}, torch.float16)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    @pytest.mark.parametrize("family", ["sdxl", "pixart_alpha", "sd3", "flux"])
    def test_fit_every_family(self, family):
        pipe = getattr(tiny, family)()
        alike = {"use_resolution_binning": False} if family == "pixart_alpha" else {}
        pipe.set_progress_bar_config(disable=True)
        with ovam.capture(pipe, preset="small") as traces:
            pipe(PROMPT, num_inference_steps=4, height=32, width=48, **alike)
        assert traces[0].dtype == torch.int8
        planned = ovam.plan(pipe, height=32, width=48, num_inference_steps=len(traces[0].calls), preset="small")
        assert planned.nbytes == traces[0].nbytes

    def test_of_the_published_sizes_are_small(self):
        """The bars of the presets, by configurations without weights."""
        planned = ovam.plan(full_size(StableDiffusionPipeline), num_inference_steps=30, preset="small")
        assert (planned.size, planned.calls) == ((512, 512), 30)
        assert planned.nbytes <= 0.25 * GIB  # 0.193
        flux = full_size(FluxPipeline)
        planned = ovam.plan(flux, height=1024, width=1024, num_inference_steps=28, preset="small")
        assert (planned.calls, len(planned.blocks)) == (1, 19)
        assert planned.nbytes <= 2 * GIB  # 0.669
        everything = ovam.plan(flux, height=1024, width=1024, num_inference_steps=28)
        assert (len(everything.blocks), everything.nbytes > 100 * GIB) == (57, True)

    def test_on_the_command_line(self, sd1, tmp_path):
        size = {"num_inference_steps": 2, "height": 32, "width": 32}
        folders = tmp_path / "out", tmp_path / "room"
        folders[1].mkdir()
        keeping = CaptureOptions(preset="small", disk=folders[1])
        generate(PROMPT, ["dog"], output_dir=folders[0], model=sd1, keeping=keeping, **size)
        loaded = ovam.Trace.load(folders[0] / "run.safetensors")
        assert loaded.nbytes == ovam.plan(sd1, height=32, width=32, num_inference_steps=2, preset="small").nbytes
        assert loaded.dtype == torch.int8
        assert not list(folders[1].iterdir())
        output = CliRunner().invoke(app, ["info", str(folders[0] / "run.safetensors")]).stdout
        assert re.search(r"stored in +int8", output)

    @pytest.mark.user_error
    def test_others_are_refused(self, sd1):
        with pytest.raises(errors.OptionError, match="preset='huge': expected 'small' for a StableDiffusionPipeline"):
            captured(sd1, preset="huge")


def test_too_much_is_refused_with_the_plan_s_table_and_three_ways_out(sd1):
    with pytest.raises(errors.CaptureTooLargeError) as caught:
        captured(sd1, limit_gib=1e-6)
    message = str(caught.value)
    ways = ("preset='small'", "dtype=torch.int8", "steps='middle'", "blocks=", "disk=", "ovam.stream", "limit_gib")
    assert [way for way in ways if way not in message] == []
    planned = ovam.plan(sd1, height=32, width=48, num_inference_steps=3)
    lines = [line.split() for line in message.splitlines()]
    last = planned.blocks[-1]
    alike = [b.name for b in planned.blocks if b.name.startswith("up_blocks.2")]  # in a row, they share a line
    assert ["2", "from", alike[0], "on", "16x24", f"{last.nbytes / 2**20:.2f}"] in lines


@pytest.mark.user_error
@pytest.mark.parametrize("limit", ["4", [4], True, math.nan, math.inf, -1.0])
def test_a_limit_that_is_no_number_of_bytes_is_refused_before_anything_is_kept(sd1, limit):
    with pytest.raises(
        errors.OptionError, match=re.escape(f"limit_gib={limit!r}: expected a number of at least 0, and finite")
    ):
        captured(sd1, limit_gib=limit)


@pytest.mark.user_error  # numpy's numbers are none of Python's to the shape run's own checks
def test_a_number_of_numpy_is_a_number(sd1):
    assert len(captured(sd1, limit_gib=np.float32(1.0))) == 1
