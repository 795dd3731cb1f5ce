"""Run the contract on a model's own weights; users with large models run it and post the result."""

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
"""Tests that also work with real weights: they need little memory, no sharpened attention and no other type."""

SUBJECTS = {"cat": "aeroplane", "dog": "bicycle", "car": "horse", "bird": "train"}
"""Things to draw; for each, a word that is not in the picture."""

_STEPS_OF_A_CHECK = 3
_KEY_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}
"""By the model's type, since ovam computes keys in float32: rounding errors of numbers up to about ten."""


def verify(
    pipe: Any, *, height: int | None = None, width: int | None = None, num_inference_steps: int = 20
) -> dict[str, Any]:
    """Run checks of the backbone contract, and maps of a few words, on a pipeline with its own weights.

    Args:
        pipe: A supported pipeline.
        height: Height of the images in pixels; the model's own by default.
        width: Width of the images, likewise.
        num_inference_steps: Steps of the pictures for the words; the checks run 3 steps.

    Returns:
        A record to post: `model` and `pipeline`, `versions`, `device`, `dtype`, `size`; `checks`, for each whether it
        `passed`, its `seconds` and the `message` of a failure; `words`, for each drawn thing the highest value of its
        map (`own`) and of an absent word's map (`absent`), both in [0, 1]; and `passed`, whether all checks passed.

    Raises:
        UnsupportedPipelineError: no backbone supports the pipeline.
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
    guided = "true_cfg_scale" not in inspect.signature(pipe.__call__).parameters  # distilled guidance has no halves

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
