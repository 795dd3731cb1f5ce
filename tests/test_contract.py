"""The backbone contract on tiny pipelines of every family that is supported."""

import pytest

import tiny
from ovam.testing import BackboneContract

# the schedulers of these families copy tensors into arrays as numpy 1 did
numpy_copy_warning = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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


@numpy_copy_warning
class TestStableDiffusionXL(BackboneContract):
    def make_pipe(self):
        return tiny.sdxl()

    def run_arguments(self):
        return {"prompt": "a dog on the grass", "num_inference_steps": 3, "height": 32, "width": 32}


class PixArtContract(BackboneContract):
    latent_multiple = 2  # a patch

    def run_arguments(self):
        return {
            "prompt": "a dog on the grass",
            "num_inference_steps": 3,
            "height": 32,
            "width": 32,
            "clean_caption": False,
            "use_resolution_binning": False,  # made for the sizes of the published models
        }


@numpy_copy_warning
class TestPixArtAlpha(PixArtContract):
    def make_pipe(self):
        return tiny.pixart_alpha()


@numpy_copy_warning
class TestPixArtSigma(PixArtContract):
    def make_pipe(self):
        return tiny.pixart_sigma()
