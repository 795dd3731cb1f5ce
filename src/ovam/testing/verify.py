"""The contract on a model's own weights: a user who has them runs it, and posts the result."""

import inspect
import time
from collections.abc import Mapping
from typing import Any

import torch

from ovam.backbones.registry import backbone_of
from ovam.models import model_hash
from ovam.testing.contract import BackboneContract
from ovam.testing.joint_contract import JointContract
from ovam.tracing.capture import capture
from ovam.tracing.plan import native_side
from ovam.tracing.source import versions

CHECKS = (
    "test_capture_does_not_touch_the_image",
    "test_pipeline_is_restored_after_a_run",
    "test_queries_are_those_the_kernel_receives",
    "test_keys_of_the_prompt_are_those_the_kernel_receives",
    "test_stream_equals_the_maps_of_a_capture",
)
"""What is asked of real weights: what fits beside them in memory and needs no sharpened attention or other type."""

SUBJECTS = {"cat": "aeroplane", "dog": "bicycle", "car": "horse", "bird": "train"}
"""Things to draw, and for each a word that is not in the picture."""

_STEPS_OF_A_CHECK = 3
_KEY_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}
"""Keys of late words are computed in float32, the model's own in its type: rounding of numbers up to about ten."""


def verify(
    pipe: Any, *, height: int | None = None, width: int | None = None, num_inference_steps: int = 20
) -> dict[str, Any]:
    """Run the backbone contract's checks, and a few words whose answer is known, on a pipeline with its weights.

    Args:
        pipe: A pipeline that a backbone reads.
        height: Of the images, in pixels; the model's own by default.
        width: Likewise.
        num_inference_steps: Steps of the pictures whose words are asked. The checks run 3.

    Returns:
        What can be posted: `model` and `pipeline`, `versions`, `device`, `dtype`, `size`; `checks`, for each whether it
        `passed`, its `seconds` and the `message` of a failure; `words`, for each thing drawn the highest value of its
        map (`own`) and of an absent word's (`absent`), both in [0, 1]; and `passed`, whether every check did.

    Raises:
        UnsupportedPipelineError: no backbone reads it.
    """
    side = native_side(pipe) * pipe.vae_scale_factor
    size = {"height": height or side, "width": width or side}
    parameter = next(backbone_of(pipe).denoiser.parameters())
    checks = _checked(_contract(pipe, size, parameter.dtype))
    return {
        "model": model_hash(pipe),
        "pipeline": type(pipe).__name__,
        "versions": versions(),
        "device": str(parameter.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "size": [size["height"], size["width"]],
        "passed": all(check["passed"] for check in checks.values()),
        "checks": checks,
        "words": _words(pipe, size | {"num_inference_steps": num_inference_steps}),
    }


def _contract(pipe: Any, size: Mapping[str, int], dtype: torch.dtype) -> BackboneContract:
    base = JointContract if backbone_of(pipe).text_kind == "replayed" else BackboneContract
    guided = "true_cfg_scale" not in inspect.signature(pipe.__call__).parameters  # a distilled scale has no halves

    class OwnWeights(base):  # type: ignore[valid-type, misc]
        has_halves = guided
        key_tolerance = _KEY_TOLERANCE[dtype]

        def make_pipe(self) -> Any:
            return pipe

        def run_arguments(self) -> dict[str, Any]:
            return {"prompt": "a cat on the grass", "num_inference_steps": _STEPS_OF_A_CHECK, **size}

    return OwnWeights()


def _checked(contract: BackboneContract) -> dict[str, dict[str, Any]]:
    results = {}
    for name in CHECKS:
        start, message = time.monotonic(), None
        try:
            getattr(contract, name)()
        except AssertionError as failure:
            message = str(failure)
        passed, seconds = message is None, round(time.monotonic() - start, 1)
        results[name.removeprefix("test_")] = {"passed": passed, "seconds": seconds, "message": message}
    return results


def _words(pipe: Any, arguments: Mapping[str, int]) -> dict[str, dict[str, float]]:
    found = {}
    for number, (thing, absent) in enumerate(SUBJECTS.items()):
        with capture(pipe) as traces:
            pipe(f"a photograph of a {thing}", generator=torch.Generator().manual_seed(number), **arguments)
        maps = traces[0].maps([thing, absent])
        found[thing] = {"own": maps[thing].max().item(), "absent": maps[absent].max().item()}
    return found
