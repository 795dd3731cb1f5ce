"""The backbone contract on tiny pipelines of every family that is supported."""

import tiny
from ovam.testing import BackboneContract


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
