"""What capturing costs: the whole pipeline call inside `capture` over the same call without it.

On tiny pipelines, where little else is done, as microseconds for each block in each denoiser call.
"""

import hashlib
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from lab.measure import alternately, ratios, timed
from lab.performance.models import MODELS, PROMPT, Model, mini, tiny_ones
from lab.performance.options import Options
from lab.performance.process import Process, serve

MINI_STEPS, FULL_SIZE_STEPS = 30, 1
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
"""The highest thresholds that glibc comes to by itself; to name them keeps it from moving them."""


def run(options: Options) -> dict[str, Any]:
    """Measure all models; a quick run leaves the large ones out."""
    measured = {
        "mini": {"skipped": "the embedded model is not trained yet"}
        if mini(1) is None
        else _measure("mini", 4 if options.quick else MINI_STEPS, options.pairs)
    }
    for name in ("full_size", "full_size_xl"):
        if options.quick:
            measured[name] = {"skipped": "left out of quick runs"}
        else:
            measured[name] = _measure(name, FULL_SIZE_STEPS, options.pairs)
    added = {name: _added(tiny, options.pairs) for name, tiny in tiny_ones().items()}
    return {"models": measured, "added": added, "prompt": PROMPT, "seed": 0}


def _measure(name: str, steps: int, pairs: int) -> dict[str, Any]:
    """Both ways alternately, in a process whose allocator does not learn.

    Left to itself, glibc raises its thresholds by what is freed: a plain run would begin with the memory that the
    captured one before it gave back, and save what it takes to get it from the system. Two processes, one for each way,
    differ from each other by more than what is measured here.
    """
    with Process("lab.performance.capture_overhead", name, str(steps), environment=ALLOCATOR) as process:
        seconds = alternately({way: partial(process.ask, do=way) for way in ("plain", "capture")}, pairs)
        about, pictures = process.ask(do="about"), process.ask(do="pictures")
    return {
        **about,
        "seconds": seconds,
        "ratios": ratios(seconds, {"capture over plain": ("capture", "plain")}),
        "identical": pictures["plain"] == pictures["capture"],
    }


class _Subject:
    """The other end: a model that is run in both ways."""

    def __init__(self, name: str, steps: int) -> None:
        model = MODELS[name](steps)
        assert model is not None
        self.model = model
        self._kept: Any = None
        self._pictures: dict[str, Any] = {}

    def plain(self) -> float:
        """Seconds of a run without a capture."""
        begin = time.perf_counter()
        self._pictures["plain"] = self.model.run()
        return time.perf_counter() - begin

    def capture(self) -> float:
        """Seconds of a run with one; the last trace is kept until the next one is made, as a caller would."""
        from ovam import capture

        begin = time.perf_counter()
        with capture(self.model.pipe) as traces:
            self._pictures["capture"] = self.model.run()
        self._kept = traces[0]
        return time.perf_counter() - begin

    def pictures(self) -> dict[str, str]:
        """Hashes of the last picture of each way."""
        arrays = {way: np.asarray(torch.as_tensor(each).float()) for way, each in self._pictures.items()}
        return {way: hashlib.sha256(array.tobytes()).hexdigest() for way, array in arrays.items()}

    def about(self) -> dict[str, Any]:
        """What is measured."""
        call = self.model.call
        guidance = call.get("guidance_scale", "the pipeline's default")
        named = {"model": self.model.name, "weights": self.model.weights}
        return {**named, "steps": call["num_inference_steps"], "guidance": guidance}


def _added(model: Model, pairs: int) -> dict[str, Any]:
    """Microseconds that a capture adds for each kept block of each denoiser call, all it does in a run included."""
    from ovam import capture

    kept: list[Any] = []

    def captured() -> None:
        with capture(model.pipe) as traces:
            model.run()
        kept[:] = traces

    seconds = alternately({"plain": timed(model.run), "capture": timed(captured)}, pairs)
    (trace,) = kept
    of_call = np.subtract(seconds["capture"], seconds["plain"]) / len(trace.calls)
    return {
        "blocks": len(trace.blocks),
        "calls": len(trace.calls),
        "microseconds a call": float(1e6 * np.median(of_call)),
        "microseconds a block and call": float(1e6 * np.median(of_call) / len(trace.blocks)),
        "seconds": seconds,
    }


if __name__ == "__main__":
    _subject = _Subject(sys.argv[1], int(sys.argv[2]))
    serve({name: getattr(_subject, name) for name in ("plain", "capture", "pictures", "about")})
