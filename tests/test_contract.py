"""The backbone contract on tiny pipelines of every family that is supported."""

import torch.nn.functional as F

import tiny
from ovam.testing import BackboneContract, JointContract


class TestStableDiffusion1(BackboneContract):
    def make_pipe(self):
        return tiny.sd1()

    def run_arguments(self):
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, "height": 32, "width": 32}


class TestStableDiffusion2(BackboneContract):
    def make_pipe(self):
        return tiny.sd2()

    def run_arguments(self):
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, "height": 32, "width": 32}


class StableDiffusion3(JointContract):
    def make_pipe(self):
        return tiny.sd3()

    def run_arguments(self):
        size = {"height": 32, "width": 32, "max_sequence_length": 16}
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, **size}

    def uneven(self, pipe):
        return {"latents": F.pad(self._latents(pipe, images=1), (0, 2, 0, 6), mode="reflect")}


class TestStableDiffusion3(StableDiffusion3):
    pass


class TestStableDiffusion3WithoutT5(StableDiffusion3):
    def make_pipe(self):
        return tiny.sd3(with_t5=False)

    def run_arguments(self):
        return {**super().run_arguments(), "max_sequence_length": 1}  # more zeros would share the attention evenly


class TestStableDiffusion35(StableDiffusion3):
    def make_pipe(self):
        return tiny.sd3(newer=True)


class TestFlux(JointContract):
    has_halves = False
    notes = ("_current_timestep", "_joint_attention_kwargs")

    def make_pipe(self):
        return tiny.flux()

    def run_arguments(self):
        size = {"height": 32, "width": 32, "max_sequence_length": 16}
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, **size}

    def guidance(self, scale, prompts):
        return {"guidance_scale": scale}  # a number that the model reads, in one pass

    def uneven(self, pipe):
        return {"height": 44, "width": 36}


class TestFluxWithTrueGuidance(TestFlux):
    has_halves = True

    def guidance(self, scale, prompts):
        return {"true_cfg_scale": scale, "negative_prompt": ["a tree"] * prompts if prompts > 1 else "a tree"}
