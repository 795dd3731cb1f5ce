"""What capturing costs: the whole pipeline call inside `capture` over the same call without it.

On tiny pipelines, where little else is done, as microseconds for each block in each denoiser call.
"""

from typing import Any

import numpy as np
import torch

from benchmarks.measure import alternately, ratios, timed
from benchmarks.models import PROMPT, Model, full_size, full_size_xl, mini, tiny_ones
from benchmarks.options import Options

MINI_STEPS, FULL_SIZE_STEPS = 30, 1


def run(options: Options) -> dict[str, Any]:
    """Measure all models; a quick run leaves the large ones out."""
    model = mini(4 if options.quick else MINI_STEPS)
    measured = {"mini": {"skipped": "the embedded model is not trained yet"}}
    if model is not None:
        measured["mini"] = _measure(model, options.pairs)
    for name, make in (("full_size", full_size), ("full_size_xl", full_size_xl)):
        if options.quick:
            measured[name] = {"skipped": "left out of quick runs"}
        else:
            measured[name] = _measure(make(FULL_SIZE_STEPS), options.pairs)
    added = {name: _added(tiny, options.pairs) for name, tiny in tiny_ones().items()}
    return {"models": measured, "added": added, "prompt": PROMPT, "seed": 0}


def _measure(model: Model, pairs: int) -> dict[str, Any]:
    seconds, images, _ = _both_ways(model, pairs)
    return {
        "model": model.name,
        "weights": model.weights,
        "steps": model.call["num_inference_steps"],
        "guidance": model.call.get("guidance_scale", "the pipeline's default"),
        "seconds": seconds,
        "ratios": ratios(seconds, {"capture over plain": ("capture", "plain")}),
        "identical": bool(torch.equal(torch.as_tensor(images["plain"]), torch.as_tensor(images["capture"]))),
    }


def _both_ways(model: Model, pairs: int) -> tuple[dict[str, list[float]], dict[str, Any], Any]:
    """Seconds and pictures with and without a capture, and the last trace."""
    from ovam import capture

    images: dict[str, Any] = {}
    kept: list[Any] = []

    def plain() -> None:
        images["plain"] = model.run()

    def captured() -> None:
        with capture(model.pipe) as traces:
            images["capture"] = model.run()
        kept[:] = traces

    seconds = alternately({"plain": timed(plain), "capture": timed(captured)}, pairs)
    return seconds, images, kept[0]


def _added(model: Model, pairs: int) -> dict[str, Any]:
    """Microseconds that a capture adds for each kept block of each denoiser call, all it does in a run included."""
    seconds, _, trace = _both_ways(model, pairs)
    of_call = np.subtract(seconds["capture"], seconds["plain"]) / len(trace.calls)
    return {
        "blocks": len(trace.blocks),
        "calls": len(trace.calls),
        "microseconds a call": float(1e6 * np.median(of_call)),
        "microseconds a block and call": float(1e6 * np.median(of_call) / len(trace.blocks)),
        "seconds": seconds,
    }
