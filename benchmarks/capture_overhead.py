"""What capturing costs: the whole pipeline call inside `capture` over the same call without it."""

from typing import Any

import numpy as np

from benchmarks.measure import alternately, ratios, timed
from benchmarks.models import PROMPT, Model, full_size, mini
from benchmarks.options import Options

MINI_STEPS, FULL_SIZE_STEPS = 30, 1


def run(options: Options) -> dict[str, Any]:
    """Measure both models; a quick run leaves the large one out."""
    model = mini(4 if options.quick else MINI_STEPS)
    measured = {"mini": {"skipped": "the embedded model is not trained yet"}}
    if model is not None:
        measured["mini"] = _measure(model, options.pairs)
    if options.quick:
        measured["full_size"] = {"skipped": "left out of quick runs"}
    else:
        measured["full_size"] = _measure(full_size(FULL_SIZE_STEPS), options.pairs)
    return {"models": measured, "prompt": PROMPT, "seed": 0}


def _measure(model: Model, pairs: int) -> dict[str, Any]:
    from ovam import capture

    images: dict[str, Any] = {}

    def plain() -> None:
        images["plain"] = model.run()

    def captured() -> None:
        with capture(model.pipe) as traces:
            images["capture"] = model.run()
        assert len(traces) == 1

    seconds = alternately({"plain": timed(plain), "capture": timed(captured)}, pairs)
    return {
        "model": model.name,
        "weights": model.weights,
        "steps": model.call["num_inference_steps"],
        "guidance": model.call.get("guidance_scale", "the pipeline's default"),
        "seconds": seconds,
        "ratios": ratios(seconds, {"capture over plain": ("capture", "plain")}),
        "identical": bool(np.array_equal(np.asarray(images["plain"]), np.asarray(images["capture"]))),
    }
