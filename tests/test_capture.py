"""Captures and streams of whole runs, held against queries that the tests record with hooks of their own."""

import gc
import logging
import subprocess
import sys
import weakref
from collections import defaultdict
from contextlib import contextmanager

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

import ovam
import tiny
from exact import repeated
from ovam.backbones.registry import backbone_of
from ovam.errors import (
    CaptureTooLargeError,
    MissingBlockError,
    NestedCaptureError,
    NoTextEncoderError,
    NothingCapturedError,
    SilentBlockError,
    SpaceMismatchError,
    UnsupportedPipelineError,
)
from ovam.testing import assert_restored, snapshot

SIZE = {"height": 32, "width": 32}
GIB = 2**30
BLOCK = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
MID = "mid_block.attentions.0.transformer_blocks.0.attn2"
# diffusers' sigma schedulers convert tensors in a way that new NumPy versions warn of
numpy_copy_warning = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def generate(pipe, prompt="a dog on the grass", **changes):
    """Three guided steps, seed 0, unless told otherwise."""
    return pipe(prompt, **{"num_inference_steps": 3, "generator": seeded(), **SIZE, **changes}).images


def traces_of(pipe, prompt="a dog on the grass", *, options=None, **changes):
    with ovam.capture(pipe, **{"dtype": torch.float32, **(options or {})}) as traces:
        generate(pipe, prompt, **changes)
    return list(traces)


def skipping(pipe):
    """Let `clip_skip` work: diffusers 0.42 looks for the encoder's layers where transformers 4 had them."""
    vars(pipe.text_encoder)["text_model"] = pipe.text_encoder
    return pipe


def denoise(pipe, latent, timesteps):
    """A loop of the user's own around the denoiser, which makes nothing of what comes out."""
    with torch.no_grad():
        for timestep in timesteps:
            pipe.unet(latent, timestep, encoder_hidden_states=torch.zeros(len(latent), 77, 32))


@contextmanager
def recorded(pipe):
    """Outputs of every cross attention's `to_q`, one (batch, pixel, channel) a denoiser call."""
    seen = defaultdict(list)

    def hook_of(name):
        return lambda module, inputs, output: seen[name].append(output.detach().clone())

    attentions = [(name, module) for name, module in pipe.unet.named_modules() if name.endswith("attn2")]
    handles = [module.to_q.register_forward_hook(hook_of(name)) for name, module in attentions]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def assert_holds(trace, seen, row, *, half="cond", first=0):
    """The trace's queries are those of `row` of the batch, counting denoiser calls from the `first` recorded one."""
    assert trace.blocks
    for name, block in trace.blocks.items():
        calls = [seen[name][first + call.index][row] for call in trace.calls]
        heads = dict(trace.text.heads)[name]
        expected = torch.stack([call.unflatten(-1, (heads, -1)).transpose(0, 1) for call in calls], dim=1)
        assert torch.equal(block.query[half], expected.to(block.query[half].dtype)), name


def test_assert_holds_can_fail(sd1):
    with recorded(sd1) as seen:
        (trace,) = traces_of(sd1)
    assert_holds(trace, seen, row=1)
    with pytest.raises(AssertionError):
        assert_holds(trace, seen, row=0)


class TestOrder:
    def test_traces_follow_calls_then_prompts_then_images(self, sd1):
        """Five images of two calls: each trace has its own prompt, negative prompt, seed, picture and queries."""
        with ovam.capture(sd1, dtype=torch.float32) as traces, recorded(sd1) as seen:
            pictures = generate(
                sd1,
                ["a dog", "a red boat on the sea"],
                negative_prompt=["sky", "a hat"],
                num_images_per_prompt=2,
                generator=[seeded(seed) for seed in (3, 4, 5, 6)],
            )
            assert len(traces) == 4  # there as soon as the call is over
            pictures += generate(sd1, "a cat", generator=seeded(9), guidance_scale=1.0)
        assert [trace.source.prompt for trace in traces] == [*["a dog"] * 2, *["a red boat on the sea"] * 2, "a cat"]
        assert [trace.source.negative_prompt for trace in traces] == ["sky", "sky", "a hat", "a hat", None]
        assert [trace.source.seed for trace in traces] == [3, 4, 5, 6, 9]
        assert [trace.image.tobytes() for trace in traces] == [picture.tobytes() for picture in pictures]
        for row, trace in enumerate(traces[:4]):
            assert_holds(trace, seen, 4 + row)
        assert_holds(traces[4], seen, 0, first=3)


class TestSeed:
    def test_a_generator_that_was_used_before_tells_no_seed(self, sd1):
        """Its initial seed would not give the second image again."""
        generator = seeded(7)
        with ovam.capture(sd1, blocks=[8]) as traces:
            generate(sd1, generator=generator)
            generate(sd1, generator=generator)
        assert [trace.source.seed for trace in traces] == [7, None]

    @pytest.mark.parametrize("arguments", [{"generator": None}, {"latents": torch.zeros(1, 4, 16, 16)}])
    def test_unknown_where_no_generator_made_the_latent(self, sd1, arguments):
        (trace,) = traces_of(sd1, **arguments)
        assert trace.source.seed is None


class TestSize:
    @pytest.mark.parametrize("pipe_name", ["sd1", "sd2"])
    @pytest.mark.parametrize(("height", "width"), [(32, 48), (40, 24)])
    def test_grids_are_height_by_width(self, request, pipe_name, height, width):
        pipe = request.getfixturevalue(pipe_name)
        with recorded(pipe) as seen:
            (trace,) = traces_of(pipe, height=height, width=width)
        assert {block.grid for block in trace.blocks.values()} == {
            (height // 2, width // 2),
            (height // 4, width // 4),
        }
        assert trace.size == (height, width)
        assert trace.image.size == (width, height)
        assert trace.maps("dog").token_maps.shape[-2:] == (height // 2, width // 2)
        assert_holds(trace, seen, 1)


class TestGuidance:
    @pytest.mark.parametrize("pipe_name", ["sd1", "sd2"])
    def test_both_halves_of_a_guided_run(self, request, pipe_name):
        pipe = request.getfixturevalue(pipe_name)
        with recorded(pipe) as seen:
            traces = traces_of(pipe, ["a dog", "a cat"], options={"guidance": "both"})
        for row, trace in enumerate(traces):
            assert trace.halves == ("cond", "uncond")
            assert_holds(trace, seen, row, half="uncond")
            assert_holds(trace, seen, 2 + row, half="cond")

    def test_unconditional_half_alone(self, sd1):
        with recorded(sd1) as seen:
            (trace,) = traces_of(sd1, options={"guidance": "uncond"})
        assert trace.halves == ("uncond",)
        assert_holds(trace, seen, 0, half="uncond")
        assert torch.equal(trace.maps("dog").token_maps, trace.maps("dog", guidance="uncond").token_maps)

    def test_without_guidance_the_one_half_is_conditional(self, sd1):
        with recorded(sd1) as seen:
            (trace,) = traces_of(sd1, guidance_scale=1.0)
        assert trace.halves == ("cond",)
        assert_holds(trace, seen, 0)

    @pytest.mark.parametrize("guidance", ["uncond", "both"])
    def test_without_guidance_there_is_no_unconditional_half(self, sd1, guidance):
        with pytest.raises(NothingCapturedError, match=f"guidance='{guidance}'.*no guidance"):
            traces_of(sd1, options={"guidance": guidance}, guidance_scale=1.0)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@numpy_copy_warning
class TestSchedulers:
    CASES = (
        (DDIMScheduler, {}, 3, [0, 1, 2]),
        (EulerDiscreteScheduler, {}, 3, [0, 1, 2]),
        (DPMSolverMultistepScheduler, {}, 3, [0, 1, 2]),
        (PNDMScheduler, {"skip_prk_steps": True}, 3, [0, 1, 1, 2]),
        (PNDMScheduler, {"skip_prk_steps": False}, 4, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
        (HeunDiscreteScheduler, {}, 3, [0, 1, 1, 2, 2]),
        (KDPM2DiscreteScheduler, {}, 4, [0, 0, 1, 1, 2, 2, 3]),
        (KDPM2AncestralDiscreteScheduler, {}, 4, [0, 0, 1, 1, 2, 2, 3]),
        # its time steps are rounded, and the last ones are equal; their noise levels are not
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, 60, list(range(60))),
    )

    @pytest.fixture
    def pipe(self):
        return tiny.sd1()

    @pytest.mark.parametrize(("scheduler", "settings", "requested", "steps"), CASES)
    def test_one_entry_a_denoiser_call(self, pipe, scheduler, settings, requested, steps):
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **settings)
        with recorded(pipe) as seen:
            (trace,) = traces_of(pipe, num_inference_steps=requested)
        assert [call.step for call in trace.calls] == steps
        assert [call.index for call in trace.calls] == list(range(len(steps)))
        assert [call.timestep for call in trace.calls] == pipe.scheduler.timesteps.tolist()
        assert_holds(trace, seen, 1)

    def test_sigma_is_the_noise_level(self, pipe):
        """Also at 499.5, between two of the time steps that the model was trained on."""
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        (trace,) = traces_of(pipe)
        sigmas = pipe.scheduler.sigmas.tolist()[:-1]  # the last is where the run ends
        # measured: 2e-8 relative, the scheduler's own rounding
        assert [call.sigma for call in trace.calls] == pytest.approx(sigmas, rel=1e-5)

    @pytest.mark.parametrize("scheduler", [KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler])
    def test_a_call_in_the_middle_of_a_step_has_a_noise_level_of_its_own(self, pipe, scheduler):
        """By which the scheduler scales the latent of that call."""
        pipe.scheduler, scaled = scheduler.from_config(pipe.scheduler.config), []
        scale = pipe.scheduler.scale_model_input

        def noting(sample, timestep):
            found = scale(sample, timestep)
            scaled.append(((sample.flatten()[0] / found.flatten()[0]) ** 2 - 1) ** 0.5)
            return found

        pipe.scheduler.scale_model_input = noting
        with ovam.capture(pipe, steps=[1, 3], blocks=[8]) as traces:
            generate(pipe, num_inference_steps=4)
        (trace,) = traces
        assert [call.index for call in trace.calls] == [2, 3, 6]
        found = [call.sigma for call in trace.calls]
        assert found == pytest.approx([float(scaled[i]) for i in (2, 3, 6)], rel=1e-3)  # measured: 2e-7

    def test_a_step_is_a_noise_level_also_where_time_steps_are_rounded_to_the_same(self, pipe):
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
        (trace,) = traces_of(pipe, num_inference_steps=60, options={"steps": [58, 59]})
        assert [call.step for call in trace.calls] == [58, 59]
        assert trace.calls[0].timestep == trace.calls[1].timestep
        assert [call.sigma for call in trace.calls] == pipe.scheduler.sigmas[58:60].tolist()

    def test_pure_noise_has_no_sigma(self):
        """Betas scaled to a signal of zero, as newer models of the SD 2 family have them."""
        pipe = tiny.sd2()
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        (trace,) = traces_of(pipe)
        assert trace.calls[0].timestep == 999
        assert trace.calls[0].sigma is None
        assert trace.calls[1].sigma is not None

    @pytest.mark.parametrize(("steps", "indices"), [([1], [1, 2]), ((0, 2), [0, 3, 4]), (range(3), [0, 1, 2, 3, 4])])
    def test_all_calls_of_a_chosen_step_are_kept(self, pipe, steps, indices, caplog):
        pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
        with recorded(pipe) as seen, caplog.at_level(logging.INFO, logger="ovam"):
            (trace,) = traces_of(pipe, options={"steps": steps})
        assert f"{len(indices)} denoiser calls" in caplog.text
        assert [call.index for call in trace.calls] == indices
        assert {call.step for call in trace.calls} == set(steps)
        assert_holds(trace, seen, 1)

    @pytest.mark.parametrize("strength", [0.5, 1.0])
    def test_steps_from_an_image_are_counted_from_its_own_first(self, pipe, strength):
        """Heun's time steps but the first come twice, and the run from an image begins at the second of two."""
        other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        other.set_progress_bar_config(disable=True)
        other.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
        with ovam.capture(other, blocks=[8]) as traces:
            other("a dog", image=torch.zeros(1, 3, 32, 32), strength=strength, num_inference_steps=int(4 / strength))
        (trace,) = traces
        assert [call.step for call in trace.calls] == [0, 1, 1, 2, 2, 3, 3]
        sigmas = other.scheduler.sigmas.tolist()
        assert [call.sigma for call in trace.calls] == sigmas[-8:-1]  # the last is where the run ends

    def test_a_run_that_is_interrupted_keeps_the_calls_it_made(self, pipe):
        def stop(pipe, step, timestep, arguments):
            pipe._interrupt = step == 1
            return arguments

        with recorded(pipe) as seen:
            (trace,) = traces_of(pipe, num_inference_steps=5, callback_on_step_end=stop)
        assert [call.index for call in trace.calls] == [0, 1]
        assert_holds(trace, seen, 1)
        assert_layout(trace)


def assert_layout(trace):
    """Head-major in memory, without gaps, and nothing reserved beyond what is kept."""
    for block in trace.blocks.values():
        for query in block.query.values():
            _, steps, pixels, head_dim = query.shape
            assert (steps, pixels) == (len(trace.calls), block.grid[0] * block.grid[1])
            assert query.stride() == (steps * pixels * head_dim, pixels * head_dim, head_dim, 1)
            assert query.untyped_storage().nbytes() == query.nbytes


class TestKept:
    def test_layout_is_head_major(self, sd2):
        (first, second) = traces_of(sd2, ["a dog", "a cat"])
        assert_layout(first)
        assert_layout(second)
        assert {block.heads for block in first.blocks.values()} == {2, 4}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_storage_type(self, sd1, dtype):
        with recorded(sd1) as seen:
            (trace,) = traces_of(sd1, options={"dtype": dtype})
        assert {block.query["cond"].dtype for block in trace.blocks.values()} == {dtype}
        assert_holds(trace, seen, 1)

    def test_scales_of_eight_bits_are_float32_whatever_the_default_type(self):
        """Users of a narrow model may have set its type as the default."""
        pipe = tiny.sd1().to(torch.bfloat16)
        (expected,) = traces_of(pipe, options={"dtype": torch.int8})
        torch.set_default_dtype(torch.bfloat16)
        try:
            (trace,) = traces_of(pipe, options={"dtype": torch.int8})
        finally:
            torch.set_default_dtype(torch.float32)
        assert trace.blocks[BLOCK].query["cond"].scale.dtype == torch.float32
        assert torch.equal(trace.maps("dog").token_maps, expected.maps("dog").token_maps)

    def test_float16_is_the_default(self, sd1):
        with ovam.capture(sd1) as traces:
            generate(sd1)
        assert {block.query["cond"].dtype for block in traces[0].blocks.values()} == {torch.float16}

    @pytest.mark.parametrize(
        ("blocks", "expected"),
        [
            (None, {"down_blocks.0": 1, "down_blocks.1": 1, "up_blocks.1": 2, "up_blocks.2": 2}),
            (["up_blocks.1"], {"up_blocks.1": 2}),
            ("up_blocks.1", {"up_blocks.1": 2}),
            (["up_blocks.2.attentions.1.transformer_blocks.0.attn2"], {"up_blocks.2": 1}),
            ([8], {"down_blocks.1": 1, "up_blocks.1": 2}),
            (8, {"down_blocks.1": 1, "up_blocks.1": 2}),
            ([(16, 24)], {"down_blocks.0": 1, "up_blocks.2": 2}),
            (["down_blocks.0", 8], {"down_blocks.0": 1, "down_blocks.1": 1, "up_blocks.1": 2}),
            ([MID], {"mid_block.attentions": 1}),
            (["mid_block", "up_blocks.1"], {"mid_block.attentions": 1, "up_blocks.1": 2}),
        ],
    )
    def test_chosen_blocks(self, sd1, blocks, expected):
        with recorded(sd1) as seen:
            (trace,) = traces_of(sd1, options={"blocks": blocks}, width=48)
        beginnings = [".".join(name.split(".")[:2]) for name in trace.blocks]
        assert {beginning: beginnings.count(beginning) for beginning in beginnings} == expected
        assert beginnings == sorted(beginnings)  # the order the model runs them
        assert_holds(trace, seen, 1)

    def test_one_step_by_its_number(self, sd1):
        (trace,) = traces_of(sd1, options={"steps": 1})
        assert [call.step for call in trace.calls] == [1]

    def test_an_iterator_of_blocks_lasts_for_all_runs(self, sd1):
        with ovam.capture(sd1, blocks=iter([8])) as traces:
            generate(sd1)
            generate(sd1)
        assert [{block.grid[0] for block in trace.blocks.values()} for trace in traces] == [{8}, {8}]

    @pytest.mark.parametrize("blocks", [["up_block"], [9], [(24, 16)], []])
    def test_blocks_that_are_not_there_are_refused(self, sd1, blocks):
        with pytest.raises(MissingBlockError, match=r"16x24, 8x12.*down_blocks\.0"):
            traces_of(sd1, options={"blocks": blocks}, width=48)

    def test_attention_slicing_changes_nothing(self):
        pipe = tiny.sd2()
        (whole,) = traces_of(pipe)
        pipe.enable_attention_slicing(1)
        with recorded(pipe) as seen:
            (sliced,) = traces_of(pipe)
        assert_holds(sliced, seen, 1)
        for name, block in sliced.blocks.items():
            # measured: 7e-4 of queries up to 24, from the other order of the kernel's sums
            torch.testing.assert_close(block.query["cond"], whole.blocks[name].query["cond"], rtol=0, atol=1e-2)

    def test_embeddings_in_place_of_a_prompt(self, sd1):
        embeddings, negative = sd1.encode_prompt("a dog on the grass", "cpu", 1, True)
        (by_text,) = traces_of(sd1)
        (by_vectors,) = traces_of(sd1, None, prompt_embeds=embeddings, negative_prompt_embeds=negative)
        assert by_vectors.source.prompt is None
        assert by_vectors.source.negative_prompt is None
        for name, block in by_vectors.blocks.items():
            assert torch.equal(block.query["cond"], by_text.blocks[name].query["cond"])

    @pytest.mark.parametrize("output_type", ["latent", "np", "pt"])
    def test_output_types(self, sd1, output_type):
        (expected,) = traces_of(sd1, width=48)
        (trace,) = traces_of(sd1, width=48, output_type=output_type)
        assert trace.size == (32, 48)
        if output_type == "latent":
            with pytest.raises(NothingCapturedError, match="output_type='latent'"):
                _ = trace.image
        else:
            assert trace.image.tobytes() == expected.image.tobytes()

    def test_skipped_text_layers_name_another_space(self):
        pipe = skipping(tiny.sd1())
        (plain,) = traces_of(pipe)
        (skipped,) = traces_of(pipe, clip_skip=1)
        assert (plain.text.space.layer, skipped.text.space.layer) == ("last", "skip-1")
        assert not torch.equal(plain.text.embed("dog").vectors, skipped.text.embed("dog").vectors)


class TestLimit:
    def test_size_is_announced_before_anything_runs(self, sd1, caplog):
        logs_at_first_layer = []
        handle = sd1.unet.conv_in.register_forward_hook(lambda *_: logs_at_first_layer.append(caplog.text))
        with caplog.at_level(logging.INFO, logger="ovam"):
            (trace,) = traces_of(sd1)
        handle.remove()
        assert (
            "6 blocks, self-attention of 1 blocks x 3 denoiser calls x 1 images x 1 halves of guidance in float32"
            in logs_at_first_layer[0]
        )
        assert f"{trace.nbytes / GIB:.3f} GiB on cpu" in logs_at_first_layer[0]

    def test_limit_is_on_the_bytes_that_will_be_kept(self, sd1):
        (trace,) = traces_of(sd1)
        (allowed,) = traces_of(sd1, options={"limit_gib": trace.nbytes / GIB})
        assert allowed.nbytes == trace.nbytes
        with pytest.raises(CaptureTooLargeError, match=r"denoiser calls.*over the limit.*limit_gib"):
            traces_of(sd1, options={"limit_gib": (trace.nbytes - 1) / GIB})

    def test_refused_before_the_model_computes_and_a_smaller_run_goes_on(self, sd1):
        (one,) = traces_of(sd1)
        layers_run = []
        handle = sd1.unet.conv_in.register_forward_hook(lambda *_: layers_run.append(1))
        with ovam.capture(sd1, dtype=torch.float32, limit_gib=one.nbytes / GIB) as traces:
            with pytest.raises(CaptureTooLargeError, match="3 images"):
                generate(sd1, num_images_per_prompt=3)
            assert layers_run == []
            generate(sd1)
        handle.remove()
        (trace,) = traces
        assert trace.nbytes == one.nbytes

    def test_limit_is_on_all_runs_of_a_capture_together(self, sd1):
        (one,) = traces_of(sd1)
        with ovam.capture(sd1, dtype=torch.float32, limit_gib=2 * one.nbytes / GIB) as traces:
            generate(sd1)
            generate(sd1)
            with pytest.raises(CaptureTooLargeError, match="with the runs before"):
                generate(sd1)
        assert len(traces) == 2

    def test_limit_holds_where_the_calls_are_not_known_beforehand(self, sd1):
        """A call takes 6 kB, and as much again is reserved whenever the memory gets short."""
        with ovam.capture(sd1, limit_gib=0.0001) as traces, pytest.raises(CaptureTooLargeError, match="over the limit"):
            denoise(sd1, torch.zeros(1, 4, 16, 16), range(900, 100, -7))
        assert len(traces) == 0  # the last call is there in part only


class TestNested:
    def test_refused_by_name_and_the_outer_one_goes_on(self, sd1):
        other = StableDiffusionPipeline(**sd1.components, requires_safety_checker=False)
        with ovam.capture(sd1, blocks=[8]) as traces:
            for inner in (ovam.capture(sd1), ovam.stream(sd1, "dog"), ovam.capture(other)):
                with pytest.raises(NestedCaptureError, match="StableDiffusionPipeline is being captured already"):
                    inner.__enter__()
            with pytest.raises(NestedCaptureError, match="captured already"):
                ovam.encode(sd1, torch.zeros(32, 32, 3).byte().numpy())
            generate(sd1)
        assert len(traces) == 1

    def test_another_model_may_be_captured_inside(self, sd1, sd2):
        with ovam.capture(sd1, blocks=[8]) as outer, ovam.capture(sd2, blocks=[8]) as inner:
            generate(sd2)
            generate(sd1)
        assert [len(outer), len(inner)] == [1, 1]
        assert set(outer[0].blocks) != set(inner[0].blocks)

    def test_over_after_an_error(self, sd1):
        with pytest.raises(ZeroDivisionError), ovam.capture(sd1):
            _ = 1 / 0
        assert len(traces_of(sd1)) == 1


class TestOtherPipelines:
    """Made of the captured one's parts: their guided batches would pass for a loop's one half."""

    @pytest.fixture
    def other(self, sd1):
        pipe = StableDiffusionImg2ImgPipeline(**sd1.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @staticmethod
    def again(pipe, picture):
        return pipe("a cat", image=picture, strength=0.5, num_inference_steps=4, generator=seeded()).images

    @pytest.mark.parametrize("watch", [ovam.capture, lambda pipe, **choice: ovam.stream(pipe, "dog", **choice)])
    def test_refused_by_name_and_the_captured_ones_runs_stay(self, sd1, other, watch):
        with watch(sd1, blocks=[8]) as results:
            (picture,) = generate(sd1)
            message = r"StableDiffusionImg2ImgPipeline runs the UNet2DConditionModel of .* a StableDiffusionPipeline"
            with pytest.raises(UnsupportedPipelineError, match=message):
                self.again(other, picture)
            generate(sd1)
        assert len(results) == 2
        assert len(self.again(other, picture)) == 1

    def test_refused_whichever_of_two_captures_is_left_first(self, sd1, sd2, other):
        (picture,) = generate(sd1)
        announced = DiffusionPipeline.progress_bar
        first, second = ovam.capture(sd1, blocks=[8]), ovam.capture(sd2, blocks=[8])
        first.__enter__()
        second.__enter__()
        generate(sd2)
        with pytest.raises(UnsupportedPipelineError, match="another pipeline"):
            self.again(other, picture)
        first.__exit__(None, None, None)
        self.again(other, picture)
        second.__exit__(None, None, None)
        assert DiffusionPipeline.progress_bar is announced

    def test_loops_of_ones_own_may_ask_the_captured_pipeline_for_its_bar(self, sd1):
        with ovam.capture(sd1, blocks=[8]) as traces:
            denoise(sd1, torch.zeros(1, 4, 16, 16), sd1.progress_bar([900, 500]))
        assert [len(trace.calls) for trace in traces] == [2]


class TestOwnLoop:
    def test_calls_of_the_denoiser_alone(self, sd1):
        """Two images, no prompt known, an odd latent, and time steps as the scheduler never made them."""
        latent = torch.randn(2, 4, 15, 23, generator=seeded())
        with ovam.capture(sd1, dtype=torch.float32) as traces, recorded(sd1) as seen:
            denoise(sd1, latent, [torch.full((2,), timestep) for timestep in (900, 700, 500, 300, 100)])
        assert len(traces) == 2
        for row, trace in enumerate(traces):
            assert_holds(trace, seen, row)
            assert_layout(trace)
            assert [call.timestep for call in trace.calls] == [900, 700, 500, 300, 100]
            assert {block.grid for block in trace.blocks.values()} == {(15, 23), (8, 12)}
            assert (trace.size, trace.image_png, trace.source.prompt) == ((30, 46), None, None)

    @staticmethod
    def loop(pipe, prompt):
        """A guided loop without the pipeline's own call."""
        with torch.no_grad():
            embeddings, negative = pipe.encode_prompt(prompt, "cpu", 1, True)
            pipe.scheduler.set_timesteps(2)
            latent = torch.randn(1, 4, 16, 16, generator=seeded())
            for timestep in pipe.scheduler.timesteps:
                noise = pipe.unet(torch.cat([latent] * 2), timestep, torch.cat([negative, embeddings])).sample
                uncond, cond = noise.chunk(2)
                latent = pipe.scheduler.step(uncond + 5 * (cond - uncond), timestep, latent).prev_sample

    def test_loops_that_encode_their_prompts_are_told_apart(self, sd1):
        with ovam.capture(sd1, dtype=torch.float32) as traces, recorded(sd1) as seen:
            self.loop(sd1, "a dog")
            self.loop(sd1, "a cat")
            generate(sd1, "a boat")
        assert [trace.source.prompt for trace in traces] == ["a dog", "a cat", "a boat"]
        assert [len(trace.calls) for trace in traces] == [2, 2, 3]
        for trace, first in zip(traces, (0, 2, 4), strict=True):
            assert_holds(trace, seen, 1, first=first)

    def test_a_picture_that_the_loop_decodes_travels_along(self, sd1):
        with ovam.capture(sd1) as traces:
            self.loop(sd1, "a dog")
            (picture,) = sd1.image_processor.postprocess(torch.zeros(1, 3, 32, 32))
            assert traces[0].image.tobytes() == picture.tobytes()

    @staticmethod
    def decoded(pipe, *values):
        return [pipe.image_processor.postprocess(torch.full((1, 3, 16, 16), value))[0] for value in values]

    def test_pictures_that_the_loop_decodes_one_by_one(self, sd1):
        with ovam.capture(sd1) as traces:
            sd1.scheduler.set_timesteps(2)
            denoise(sd1, torch.randn(2, 4, 8, 8, generator=seeded()), sd1.scheduler.timesteps)
            pictures = self.decoded(sd1, -0.5, 0.5)
        assert [trace.image.tobytes() for trace in traces] == [picture.tobytes() for picture in pictures]

    def test_a_preview_after_each_call_is_not_the_end(self, sd1):
        with ovam.capture(sd1) as traces:
            sd1.scheduler.set_timesteps(3)
            latent = torch.randn(1, 4, 8, 8, generator=seeded())
            for i, timestep in enumerate(sd1.scheduler.timesteps):
                denoise(sd1, latent, [timestep])
                (last,) = self.decoded(sd1, i / 4)
        (trace,) = traces
        assert len(trace.calls) == 3
        assert trace.image.tobytes() == last.tobytes()

    def test_a_loop_that_is_run_again_is_another_run(self, sd1):
        """Without a prompt to tell them apart: the noise rises again, and a picture was decoded before."""
        with ovam.capture(sd1) as traces:
            for _ in range(2):
                denoise(sd1, torch.randn(1, 4, 8, 8, generator=seeded()), [torch.tensor(t) for t in (900, 500, 100)])
                self.decoded(sd1, 0.0)
        assert [len(trace.calls) for trace in traces] == [3, 3]

    def test_a_call_that_breaks_off_and_is_made_again_leaves_nothing_behind(self, sd1):
        """What the broken call left out of its blocks must never be read as queries."""
        latent = torch.randn(1, 4, 8, 8, generator=seeded())
        late = sd1.unet.up_blocks[1]
        with ovam.capture(sd1, dtype=torch.float32) as traces, recorded(sd1) as seen:
            denoise(sd1, latent, [torch.tensor(900)])
            handle = late.register_forward_pre_hook(_break_off)
            with pytest.raises(BrokenOffError):
                denoise(sd1, latent, [torch.tensor(500)])
            handle.remove()
            for calls in seen.values():
                calls.clear()
            denoise(sd1, latent, [torch.tensor(900), torch.tensor(500)])
        (trace,) = traces
        assert [call.timestep for call in trace.calls] == [900, 500]
        assert_holds(trace, seen, 0)


def _break_off(module, args):
    raise BrokenOffError


class TestSilentBlocks:
    def test_a_block_that_is_skipped_is_no_queries_of_chance(self, sd1):
        """As caches of whole blocks do: the entry of the skipped call would be whatever the memory held."""
        pipe = tiny.sd1()
        block, calls = pipe.unet.down_blocks[0], []
        forward = block.forward

        def cached(*args, **kwargs):
            if not calls:
                calls.append(forward(*args, **kwargs))
            return calls[0]

        block.forward = cached
        for watching in (ovam.capture(pipe), ovam.stream(pipe, ["cat"])):
            calls.clear()
            with watching, pytest.raises(SilentBlockError, match=r"in denoiser call 1, such as 'down_blocks\.0"):
                generate(pipe, "a cat")
        del block.forward
        assert len(traces_of(pipe)) == 1


class TestRepeatedQueries:
    @pytest.mark.parametrize("way", ["capture", "stream"])
    def test_are_refused_by_the_block_s_name(self, sd1, way):
        generate(sd1)
        before = snapshot(sd1)
        session = ovam.capture(sd1) if way == "capture" else ovam.stream(sd1, "dog")
        refused = pytest.raises(UnsupportedPipelineError, match=f"{BLOCK}.*twice in denoiser call 0")
        with repeated(sd1.unet.get_submodule(BLOCK), "to_q"), session as results, refused:
            generate(sd1)
        assert_restored(sd1, before, "after a run that was refused")
        assert not results

    @pytest.mark.parametrize("way", ["capture", "stream"])
    def test_made_anew_for_gradients_are_of_no_call(self, way):
        """Checkpointed blocks run again while gradients are computed, when their call is over."""
        pipe, latent = tiny.sd1(), torch.randn(1, 4, 16, 16, generator=seeded())

        def denoised(backward):
            session = ovam.capture(pipe) if way == "capture" else ovam.stream(pipe, "dog")
            with session as results:
                for timestep in (900, 500):
                    given = latent.clone().requires_grad_()
                    found = pipe.unet(given, timestep, encoder_hidden_states=torch.zeros(1, 77, 32)).sample
                    if backward:
                        found.sum().backward()
            maps = results[0].maps("dog") if way == "capture" else results[0]
            return maps.token_maps.detach()

        expected = denoised(backward=False)
        pipe.unet.enable_gradient_checkpointing()
        torch.testing.assert_close(denoised(backward=True), expected, rtol=0, atol=1e-6)  # measured: 0


class Adapted(torch.nn.Module):
    """An adapter's layer, as peft wraps it: it has the plain layer's weight and adds to its output."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.in_features = base, base.in_features
        self.down = torch.nn.Parameter(torch.randn(2, base.in_features, generator=seeded(1)))
        self.up = torch.nn.Parameter(torch.randn(base.out_features, 2, generator=seeded(2)))

    @property
    def weight(self):
        return self.base_layer.weight

    def scale_layer(self, scale):
        """By which diffusers scales adapters during a call."""
        self.up.data *= scale

    def forward(self, x):
        return self.base_layer(x) + x @ self.down.T @ self.up.T


class TestAdapters:
    NAME = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"

    def test_keys_are_made_as_the_layer_itself_makes_them(self):
        pipe = tiny.sd1()
        module = pipe.unet.get_submodule(self.NAME)
        module.to_k = Adapted(module.to_k)
        text = backbone_of(pipe).text_side((self.NAME,))
        vectors = torch.randn(5, module.to_k.in_features, generator=seeded(3))
        expected = module.to_k(vectors).unflatten(-1, (module.heads, -1)).transpose(0, 1)
        found = text.keys(vectors, self.NAME, 0)
        assert torch.allclose(found, expected, atol=1e-5)  # measured: 2e-6 on keys of about 10

    def test_a_scale_of_one_denoiser_call_is_refused_where_it_would_scale_keys(self):
        pipe = tiny.sd1()
        arguments = {"encoder_hidden_states": torch.zeros(1, 77, 32), "cross_attention_kwargs": {"scale": 0.5}}
        with ovam.capture(pipe, blocks=[self.NAME]) as traces:
            pipe.unet(torch.zeros(1, 4, 8, 8), 900, **arguments)
        assert len(traces) == 1  # there is nothing to scale
        module = pipe.unet.get_submodule(self.NAME)
        module.to_k = Adapted(module.to_k)
        with ovam.capture(pipe), pytest.raises(UnsupportedPipelineError, match=r"LoRA scale of 0\.5.*of the denoiser"):
            pipe.unet(torch.zeros(1, 4, 8, 8), 900, **arguments)


class TestLora:
    """With real adapters, whose scale diffusers changes for a call and puts back at its end."""

    NAME = TestAdapters.NAME
    LAYERS = {"unet": ["to_q", "to_k"], "text_encoder": ["q_proj", "v_proj"]}  # noqa: RUF012

    def adapted(self, *parts):
        peft = pytest.importorskip("peft")
        pipe = tiny.sd1()
        for part in parts:
            config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=self.LAYERS[part], init_lora_weights=False)
            getattr(pipe, part).add_adapter(config, "style")
        return pipe

    @pytest.mark.parametrize(("part", "message"), [("unet", "denoiser"), ("text_encoder", "text encoder")])
    def test_a_scale_of_one_call_is_refused(self, part, message):
        pipe = self.adapted(part)
        for watching in (ovam.capture(pipe), ovam.stream(pipe, ["cat"])):
            with watching, pytest.raises(UnsupportedPipelineError, match=rf"LoRA scale of 0\.5.*of the {message} "):
                generate(pipe, cross_attention_kwargs={"scale": 0.5})
        with ovam.capture(pipe) as traces:
            generate(pipe, cross_attention_kwargs={"scale": 1.0})
        assert len(traces) == 1

    def test_the_adapters_own_weight_gives_the_same_images_and_the_runs_keys(self):
        """What the refusal advises."""
        pipe = self.adapted("unet", "text_encoder")
        scaled = generate(pipe, cross_attention_kwargs={"scale": 0.5}, output_type="np")
        pipe.set_adapters("style", 0.5)
        with ovam.capture(pipe) as traces:
            assert (generate(pipe, output_type="np") == scaled).all()
        module, words = pipe.unet.get_submodule(self.NAME), traces[0].text.embed("a cat")
        expected = module.to_k(words.vectors).unflatten(-1, (module.heads, -1)).transpose(0, 1)
        found = traces[0].text.keys(words.vectors, self.NAME, 0)
        assert torch.allclose(found, expected, atol=1e-5)  # measured: 3e-6 on keys up to 13; of the full weight 0.3


class TestTextEncoder:
    MAKES = (tiny.sd1, tiny.sdxl, tiny.pixart_sigma, tiny.sd3, tiny.flux)

    @numpy_copy_warning
    @pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
    def test_a_pipeline_without_one_is_asked_by_vectors(self, make, tmp_path):
        """Where embeddings were made beforehand, and the encoders taken out for their memory."""
        pipe, run = make(), {"num_inference_steps": 2, "guidance_scale": 1.0, **SIZE}
        joint, masked = make in (tiny.sd3, tiny.flux), make is tiny.pixart_sigma
        length = {"max_sequence_length": 16} if joint else {}
        run |= length | ({"use_resolution_binning": False} if masked else {})
        others = {"prompt_2": None} if joint else {}
        others |= {"prompt_3": None} if make is tiny.sd3 else {}
        others |= {} if make is tiny.flux else {"do_classifier_free_guidance": True}
        with torch.no_grad():
            made = pipe.encode_prompt("a dog", **others, **length, device="cpu", num_images_per_prompt=1)
        given = {"prompt_embeds": made[0]}
        if make in (tiny.sdxl, tiny.sd3, tiny.flux):
            given["pooled_prompt_embeds"] = made[1 if make is tiny.flux else 2]
        if masked:
            given |= {"prompt_attention_mask": made[1], "negative_prompt": None}
        with ovam.capture(pipe, dtype=torch.float32) as expected:
            pipe("a dog", **run, generator=seeded())
        for name in [name for name in pipe.components if name.startswith(("text_encoder", "tokenizer"))]:
            setattr(pipe, name, None)
        with ovam.capture(pipe, dtype=torch.float32) as traces:
            pipe(**given, **run, generator=seeded())
        (trace,) = traces
        rows = made[0][0][made[1][0].bool()] if masked else made[0][0]
        assert torch.equal(trace.maps(rows).token_maps, expected[0].maps(rows).token_maps)
        for words in ("a cat", ["cat"]):
            with pytest.raises(NoTextEncoderError, match=r"can.t be queried with words.*query with vectors"):
                trace.maps(words)
        with pytest.raises(NoTextEncoderError), ovam.stream(pipe, "cat"):
            pass
        trace.save(tmp_path / "run.safetensors")
        again = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe if joint else None)
        assert torch.equal(again.maps(rows).token_maps, trace.maps(rows).token_maps)

    def test_one_that_was_changed_since_answers_no_more(self, tmp_path):
        """Its words would be read with other weights than the run's, and saved under the old ones' name."""
        pipe = tiny.sd1()
        (trace,) = traces_of(pipe)
        before = trace.text.space
        with torch.no_grad():
            pipe.text_encoder.get_input_embeddings().weight.add_(0.1)
        with pytest.raises(SpaceMismatchError, match="the text encoder was changed since the run"):
            trace.maps("a cat")
        trace.save(tmp_path / "run.safetensors")
        assert ovam.Trace.load(tmp_path / "run.safetensors").text.space == before


class BrokenOffError(Exception):
    pass


def breaking_off(pipe, step, timestep, arguments):
    if step == 1:
        raise BrokenOffError
    return arguments


class TestBrokenOff:
    def test_the_next_run_is_the_only_trace(self, sd1):
        with ovam.capture(sd1, dtype=torch.float32) as traces, recorded(sd1) as seen:
            with pytest.raises(BrokenOffError):
                generate(sd1, ["a dog", "a cat"], generator=seeded(1), callback_on_step_end=breaking_off)
            generate(sd1, "a boat", generator=seeded(2), guidance_scale=1.0)
        (trace,) = traces
        assert (trace.source.prompt, trace.source.seed) == ("a boat", 2)
        assert len(trace.calls) == 3
        assert_holds(trace, seen, 0, first=2)

    def test_a_run_that_broke_off_last_leaves_no_trace(self, sd1):
        with ovam.capture(sd1, blocks=[8]) as traces:
            generate(sd1, "a boat")
            with pytest.raises(BrokenOffError):
                generate(sd1, callback_on_step_end=breaking_off)
        assert [trace.source.prompt for trace in traces] == ["a boat"]

    def test_stream_starts_anew(self, sd1):
        with ovam.stream(sd1, "dog") as expected:
            generate(sd1)
        with ovam.stream(sd1, "dog") as maps:
            with pytest.raises(BrokenOffError):
                generate(sd1, "a boat", callback_on_step_end=breaking_off)
            generate(sd1)
        assert len(maps) == 1
        assert torch.equal(maps[0].token_maps, expected[0].token_maps)

    @pytest.mark.parametrize("after", ["another run", "a loop of one's own", "nothing"])
    def test_a_preview_does_not_make_it_whole(self, sd1, after):
        def preview_and_break_off(*arguments):
            preview(*arguments)
            return breaking_off(*arguments)

        with ovam.capture(sd1, blocks=[8]) as traces:
            with pytest.raises(BrokenOffError):
                generate(sd1, "a dog", callback_on_step_end=preview_and_break_off)
            if after == "another run":
                generate(sd1, "a boat")
            elif after == "a loop of one's own":
                TestOwnLoop.loop(sd1, "a cat")
        left = {"another run": [("a boat", 3)], "a loop of one's own": [("a cat", 2)], "nothing": []}
        assert [(trace.source.prompt, len(trace.calls)) for trace in traces] == left[after]

    def test_tidying_up_after_an_error_is_not_the_runs_end(self, sd1):
        """Nor is an error a run that is made while it is handled."""
        with ovam.capture(sd1, blocks=[8]) as traces:
            try:
                generate(sd1, "a dog", callback_on_step_end=breaking_off)
            except BrokenOffError:
                sd1.maybe_free_model_hooks()
                generate(sd1, "a boat")
        assert [trace.source.prompt for trace in traces] == ["a boat"]


def preview(pipe, step, timestep, arguments):
    decoded = pipe.vae.decode(arguments["latents"]).sample
    pipe.image_processor.postprocess(decoded.detach())
    return arguments


@numpy_copy_warning
class TestEndedEarly:
    """The scheduler lists more steps than are run, and no pictures tell of the end."""

    def test_the_last_steps_left_to_a_refiner(self):
        pipe = tiny.sdxl()
        early = {"num_inference_steps": 10, "denoising_end": 0.8, "output_type": "latent"}
        (trace,) = traces_of(pipe, **early)
        assert [call.index for call in trace.calls] == list(range(8))
        assert_layout(trace)
        with ovam.stream(pipe, "dog") as maps:
            generate(pipe, **early)
        expected = trace.maps("dog").token_maps
        torch.testing.assert_close(maps[0].token_maps, expected, rtol=0, atol=1e-6)  # measured: 6e-8

    def test_interrupted_by_a_callback(self):
        def stop(pipe, step, timestep, arguments):
            pipe._interrupt = step == 1
            return arguments

        pipe = tiny.sdxl()
        with ovam.capture(pipe, blocks=[8]) as traces:
            generate(pipe, num_inference_steps=5, callback_on_step_end=stop, output_type="latent")
        assert [len(trace.calls) for trace in traces] == [2]
        assert all(run.complete for run in traces.coverage)

    def test_broken_off_by_an_error(self):
        pipe = tiny.sdxl()
        with ovam.capture(pipe, blocks=[8]) as traces:
            with pytest.raises(BrokenOffError):
                generate(pipe, callback_on_step_end=breaking_off, output_type="latent")
            generate(pipe, "a boat", output_type="latent")
        assert [trace.source.prompt for trace in traces] == ["a boat"]


def test_previews_made_by_a_callback_do_not_end_the_run(sd1):
    with ovam.capture(sd1, blocks=[8]) as traces:
        (picture,) = generate(sd1, callback_on_step_end=preview)
    (trace,) = traces
    assert len(trace.calls) == 3
    assert trace.image.tobytes() == picture.tobytes()


class TestNothingIsHeld:
    def test_pipeline_is_freed_with_its_traces(self):
        pipe = tiny.sd1()
        traces = traces_of(pipe)
        with ovam.stream(pipe, "dog") as maps:
            generate(pipe)
        watched = [weakref.ref(module) for module in (pipe.unet, pipe.vae)]
        whole, encoder = weakref.ref(pipe), weakref.ref(pipe.text_encoder)
        del pipe
        gc.collect()
        # a trace answers words with the text encoder, and needs nothing else of the pipeline
        assert [reference() for reference in (whole, *watched)] == [None] * 3
        assert encoder() is not None
        assert traces[0].maps("dog").words == maps[0].words
        del traces
        gc.collect()
        assert encoder() is None

    def test_modes_and_gradients_stay(self):
        pipe = tiny.sd1()
        pipe.unet.train()
        pipe.unet.conv_in.eval()
        pipe.unet.conv_out.weight.requires_grad_(False)
        modes = [module.training for module in pipe.unet.modules()]
        trained = [parameter.requires_grad for parameter in pipe.unet.parameters()]
        (trace,) = traces_of(pipe)
        trace.maps("dog")
        assert [module.training for module in pipe.unet.modules()] == modes
        assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == trained
        assert all(parameter.grad is None for parameter in pipe.unet.parameters())
        assert not any(block.query["cond"].requires_grad for block in trace.blocks.values())


def _tensor_bytes():
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


class TestStream:
    @pytest.mark.parametrize("pipe_name", ["sd1", "sd2"])
    @pytest.mark.parametrize(
        ("words", "softmax_over"),
        [
            ("a dog on the grass", "prompt"),
            ('a "hot dog" and a zebra', "padded"),
            (["hot dog", "sky", "a boat on the sea"], "prompt"),
            (["dog", "grass"], "padded"),
        ],
    )
    def test_equals_the_maps_of_a_float32_capture(self, request, pipe_name, words, softmax_over):
        pipe = request.getfixturevalue(pipe_name)
        traces = traces_of(pipe, num_images_per_prompt=2, generator=[seeded(1), seeded(2)], width=48)
        with ovam.stream(pipe, words, softmax_over=softmax_over) as streamed:
            generate(pipe, num_images_per_prompt=2, generator=[seeded(1), seeded(2)], width=48)
        assert len(streamed) == 2
        for trace, maps in zip(traces, streamed, strict=True):
            expected = trace.maps(words, softmax_over=softmax_over)
            # measured: 1.2e-7, the order of additions
            torch.testing.assert_close(maps.token_maps, expected.token_maps, rtol=0, atol=1e-6)
            assert (maps.words, maps.tokens) == (expected.words, expected.tokens)
            assert maps.image_size == expected.image_size == (32, 48)
        assert (streamed[0].token_maps - streamed[1].token_maps).abs().max() > 0.01

    def test_maps_are_float32_where_the_model_runs_in_autocast(self, sd1):
        with torch.autocast("cpu", torch.bfloat16):
            (trace,) = traces_of(sd1)
            with ovam.stream(sd1, "dog sky") as maps:
                generate(sd1)
        expected = trace.maps("dog sky").token_maps
        torch.testing.assert_close(
            maps[0].token_maps, expected, rtol=0, atol=1e-6
        )  # measured: 6e-8; with autocast 0.011

    @numpy_copy_warning
    def test_same_choices_as_capture(self):
        pipe = tiny.sd1()
        pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
        choice = {"blocks": ["up_blocks"], "steps": [1], "guidance": "uncond"}
        (trace,) = traces_of(pipe, options=choice)
        with ovam.stream(pipe, "dog sky", **choice) as maps:
            generate(pipe)
        expected = trace.maps("dog sky").token_maps
        torch.testing.assert_close(maps[0].token_maps, expected, rtol=0, atol=1e-6)  # measured: 6e-8

    def test_reads_words_from_the_layer_that_the_run_reads(self):
        """The layer is known only once the run begins, after the words were first looked at."""
        pipe = skipping(tiny.sd1())
        (trace,) = traces_of(pipe, clip_skip=1)
        expected = trace.maps("dog sky").token_maps
        generate(pipe)
        with ovam.stream(pipe, "dog sky") as maps:
            generate(pipe, clip_skip=1)
        torch.testing.assert_close(maps[0].token_maps, expected, rtol=0, atol=1e-6)  # measured: 6e-8

    def test_keeps_no_queries(self, sd1):
        """Memory does not grow with the steps, while a capture of the same run does."""
        growth = {}
        for kind, session in (
            ("stream", ovam.stream(sd1, "dog", self_attention=False)),
            ("capture", ovam.capture(sd1, self_attention=False)),
        ):
            before = _tensor_bytes()
            with session as results:
                generate(sd1, num_inference_steps=6)
            growth[kind] = _tensor_bytes() - before
            assert len(results) == 1
            del results
        one_map = 3 * 16 * 16 * 4
        assert growth["stream"] < 4 * one_map
        assert growth["capture"] > 20 * one_map


@pytest.mark.parametrize("first", ["ovam.tracing.capture", "ovam.tracing.encode", "ovam.trace.file"])
def test_public_names_are_functions_whatever_was_imported_first(first):
    code = f"import {first}, ovam; from ovam import capture, encode; print(callable(ovam.capture), callable(encode))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
