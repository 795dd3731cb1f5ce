"""What capturing costs: the whole pipeline call inside `capture` over the same call without it.

On tiny pipelines, where little else is done, as microseconds for each block in each denoiser call.
"""

import hashlib
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.measure import alternately, ratios, timed
from benchmarks.models import MODELS, PROMPT, Model, mini, tiny_ones
from benchmarks.options import Options
from benchmarks.process import Process, serve

MINI_STEPS, FULL_SIZE_STEPS = 30, 1


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
    """Both ways alternately, each in a process of its own.

    In one process a plain run begins with the memory that the captured one before it gave back to the allocator, and
    saves what it takes to get it from the system: it is sooner done than where nothing was ever captured.
    """
    with ExitStack() as stack:
        ways = {
            way: stack.enter_context(Process("benchmarks.capture_overhead", name, str(steps), way))
            for way in ("plain", "capture")
        }
        seconds = alternately({way: partial(process.ask, do="run") for way, process in ways.items()}, pairs)
        about = ways["plain"].ask(do="about")
        pictures = {way: process.ask(do="picture") for way, process in ways.items()}
    return {
        **about,
        "seconds": seconds,
        "ratios": ratios(seconds, {"capture over plain": ("capture", "plain")}),
        "identical": pictures["plain"] == pictures["capture"],
    }


class _Subject:
    """The other end: a model that is run in one of the ways."""

    def __init__(self, name: str, steps: int, way: str) -> None:
        model = MODELS[name](steps)
        assert model is not None
        self.model, self.way = model, way
        self._kept: Any = None
        self._picture = np.empty(0)

    def run(self) -> float:
        """Seconds of one run; the last trace is kept until the next one is made, as a caller would."""
        from ovam import capture

        begin = time.perf_counter()
        if self.way == "plain":
            picture = self.model.run()
        else:
            with capture(self.model.pipe) as traces:
                picture = self.model.run()
            self._kept = traces[0]
        seconds = time.perf_counter() - begin
        self._picture = np.asarray(torch.as_tensor(picture).float())
        return seconds

    def picture(self) -> str:
        """Hash of the last picture."""
        return hashlib.sha256(self._picture.tobytes()).hexdigest()

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
    _subject = _Subject(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    serve({"run": _subject.run, "picture": _subject.picture, "about": _subject.about})
