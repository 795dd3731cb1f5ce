"""Guidance of all kinds: which rows of a batch are the prompt's is asked of the pipeline, and few steps are enough."""

import inspect

import diffusers
import pytest
import torch

import ovam
import tiny
from exact import RUN, assert_exact, assert_own_keys, run
from ovam.errors import NothingCapturedError, UnsupportedPipelineError

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def perturbed(name, base, layers, **options):
    """The family's pipeline with perturbed-attention guidance, from the same parts."""
    kind = getattr(diffusers, name)
    taken = inspect.signature(kind.__init__).parameters
    parts = {part: value for part, value in base.components.items() if part in taken}
    pipe = kind(**parts, pag_applied_layers=layers, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


PERTURBED = {
    "StableDiffusionPAGPipeline": (tiny.sd1, "mid", {}),
    "StableDiffusionXLPAGPipeline": (tiny.sdxl, "mid", {}),
    "PixArtSigmaPAGPipeline": (
        tiny.pixart_sigma,
        "blocks.0",
        {"clean_caption": False, "use_resolution_binning": False},
    ),
    "StableDiffusion3PAGPipeline": (tiny.sd3, "blocks.0", {"max_sequence_length": 16}),
}


def make_perturbed(name):
    base, layers, arguments = PERTURBED[name]
    options = {"requires_safety_checker": False} if name == "StableDiffusionPAGPipeline" else {}
    return perturbed(name, base(), layers, **options), {**RUN, **arguments}


class TestPerturbedAttention:
    """Its rows have the prompt's text and are not the prompt's attention."""

    @pytest.mark.parametrize("name", PERTURBED)
    def test_its_rows_are_not_taken_for_the_prompts(self, name):
        pipe, arguments = make_perturbed(name)
        for scale, row, rows in ((5.0, 1, 3), (1.0, 0, 2)):
            given = {**arguments, "guidance_scale": scale, "pag_scale": 3.0}
            trace, kernel = assert_exact(pipe, given, row=row)
            queries = [query for calls in kernel.values() for query, _ in calls]
            assert {len(query) for query in queries} == {rows}
            assert any(not torch.equal(query[row], query[row + 1]) for query in queries), "nothing was perturbed"
            assert_own_keys(trace, kernel, row, 2e-5)  # measured: 0 static, 2.4e-6 replayed

    @pytest.mark.parametrize("name", PERTURBED)
    def test_without_it_the_same_pipeline_has_two_halves(self, name):
        pipe, arguments = make_perturbed(name)
        _, kernel = assert_exact(pipe, {**arguments, "pag_scale": 0.0}, row=1)
        assert {len(query) for calls in kernel.values() for query, _ in calls} == {2}

    def test_both_halves_are_kept_without_it(self):
        pipe, arguments = make_perturbed("StableDiffusionPAGPipeline")
        with ovam.capture(pipe, guidance="both", dtype=torch.float32) as both:
            run(pipe, arguments)
        with ovam.capture(pipe, guidance="uncond", dtype=torch.float32) as alone:
            run(pipe, arguments)
        name = [*both[0].blocks][-1]
        halves = both[0].blocks[name].query
        assert not torch.equal(halves["cond"], halves["uncond"])
        assert torch.equal(halves["uncond"], alone[0].blocks[name].query["uncond"])

    @pytest.mark.user_error
    def test_norms_that_it_leaves_out_are_refused(self):
        pipe = perturbed("StableDiffusion3PAGPipeline", tiny.sd3(newer=True), "blocks.0")
        with (
            ovam.capture(pipe),
            pytest.raises(UnsupportedPipelineError, match="runs without its norms under perturbed"),
        ):
            run(pipe, {**RUN, "max_sequence_length": 16})


FEW = {
    "lcm": (diffusers.LCMScheduler, {}, 4, 1.5),
    "lcm, one step": (diffusers.LCMScheduler, {}, 1, 1.0),
    "tcd": (diffusers.TCDScheduler, {}, 4, 0.0),
    "turbo": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}, 1, 0.0),
    "turbo, two steps": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}, 2, 1.0),
    "turbo, ancestral": (diffusers.EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}, 2, 0.0),
}


class TestFewSteps:
    @pytest.mark.parametrize("case", FEW)
    def test_distilled_schedulers(self, case):
        kind, settings, steps, scale = FEW[case]
        pipe = tiny.sd1()
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **settings)
        arguments = {**RUN, "num_inference_steps": steps, "guidance_scale": scale}
        trace, kernel = assert_exact(pipe, arguments, row=1 if scale > 1 else 0)
        assert [call.step for call in trace.calls] == list(range(steps))
        assert trace.maps("dog")["dog"].shape == (16, 16)
        assert_own_keys(trace, kernel, 1 if scale > 1 else 0, 0.0)

    def test_a_model_that_reads_its_guidance_has_one_half(self):
        """Latent consistency models take the scale as a number, whatever it is."""
        base = tiny.sd1()
        torch.manual_seed(0)
        unet = type(base.unet).from_config(base.unet.config, time_cond_proj_dim=8).eval()
        scheduler = diffusers.LCMScheduler.from_config(base.scheduler.config)
        parts = {**base.components, "unet": unet, "scheduler": scheduler}
        pipe = diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        assert_exact(pipe, {**RUN, "guidance_scale": 8.0}, row=0)
        with pytest.raises(NothingCapturedError, match="no guidance"), ovam.capture(pipe, guidance="uncond"):
            run(pipe)

    def test_one_step_of_flux(self):
        arguments = {**RUN, "num_inference_steps": 1, "guidance_scale": 0.0, "max_sequence_length": 16}
        trace, kernel = assert_exact(tiny.flux(), arguments, row=0)
        assert_own_keys(trace, kernel, 0, 2e-5)
