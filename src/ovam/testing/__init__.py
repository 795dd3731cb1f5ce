"""The contract test classes: the tests that every backbone, and every method, must pass, on a small pipeline.

Subclass it in a test file and define how the pipeline is made and run. Pytest then collects the tests:

    class TestMyBackbone(BackboneContract):
        def make_pipe(self):
            return my_tiny_pipeline()

        def run_arguments(self):
            return {"prompt": "a dog on the grass", "num_inference_steps": 3, "height": 32, "width": 32}

With random weights, attention is almost uniform, which hides swapped heads and wrong scales. Scale up the pipeline's
queries and keys until its attention is sharp; if it is not, tests fail.

Families with joint attention subclass `JointContract`. Other families whose attention is not diffusers' `Attention`
override `recorded_attention`. For readable failures, call `pytest.register_assert_rewrite("ovam.testing")` before you
import this module.

A method of `ovam.methods` is tested likewise, on the embedded model:

    class TestMyMethod(MethodContract):
        def make_method(self):
            return MyMethod()

`verify` runs part of the contract on a model with its own weights; `ovam verify MODEL` calls it.
"""

from ovam.testing.assertions import Attended, ExplicitSoftmax, assert_restored, assert_same_image, snapshot
from ovam.testing.contract import BackboneContract
from ovam.testing.joint_contract import ExplicitJointSoftmax, JointContract
from ovam.testing.method_contract import MethodContract
from ovam.testing.verify import verify

__all__ = [
    "Attended",
    "BackboneContract",
    "ExplicitJointSoftmax",
    "ExplicitSoftmax",
    "JointContract",
    "MethodContract",
    "assert_restored",
    "assert_same_image",
    "snapshot",
    "verify",
]
