"""The contract test class for backbones: what every one of them must prove, on a pipeline small enough to run often.

Subclass it in a test file, say how a pipeline is made and run, and pytest collects the tests:

    class TestMyBackbone(BackboneContract):
        def make_pipe(self):
            return my_tiny_pipeline()

        def run_arguments(self):
            return {"prompt": "a dog on the grass", "num_inference_steps": 3, "height": 32, "width": 32}

Random weights attend to everything alike, which hides swapped heads and wrong scales. The pipeline's queries
and keys must therefore be scaled up until its attention is sharp; one that is not sharp is refused.

Families of joint attention subclass `JointContract`; others whose attention is not diffusers' `Attention` override
`recorded_attention`. For readable failures,
call `pytest.register_assert_rewrite("ovam.testing")` before this module is imported.

`verify` runs part of the contract on a model with its own weights; `ovam verify MODEL` calls it.
"""

from ovam.testing.assertions import Attended, ExplicitSoftmax, assert_restored, assert_same_image, snapshot
from ovam.testing.contract import BackboneContract
from ovam.testing.joint_contract import ExplicitJointSoftmax, JointContract
from ovam.testing.verify import verify

__all__ = [
    "Attended",
    "BackboneContract",
    "ExplicitJointSoftmax",
    "ExplicitSoftmax",
    "JointContract",
    "assert_restored",
    "assert_same_image",
    "snapshot",
    "verify",
]
