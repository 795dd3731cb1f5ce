"""DAAM's authors' own code, castorini/daam, beside ours."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lab.methods.checkout import on_the_way, stub
from lab.methods.comparison import Agreement, Run, of_labels, of_values
from ovam.methods import DAAM
from ovam.trace.blocks import finest_of

_NAME = "daam"


def agreements(run: Run, checkout: Path) -> list[Agreement]:
    """Compare maps of words, and masks at 0.4 of maps that are stretched as DAAM does.

    Args:
        run: What both sides look at.
        checkout: Folder of castorini/daam.
    """
    trace = run.captured()
    side = math.isqrt(math.prod(finest_of(block.grid for block in trace.blocks.values())))
    maps, masks = _theirs(run, checkout, side)
    ours = DAAM().maps(trace, run.words)
    result = DAAM(scale="stretched").segment(trace, list(run.words))
    found = [of_values(_NAME, f"map of {word!r}", ours[i], maps[i]) for i, word in enumerate(run.words)]
    return found + [of_labels(_NAME, f"mask of {word!r}", result[word], masks[i]) for i, word in enumerate(run.words)]


def _theirs(run: Run, checkout: Path, side: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return their maps, as means over the calls, and their masks."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # it makes a folder there at each trace
    on_the_way(checkout, "daam/trace.py")
    stub("matplotlib.pyplot", "spacy.tokens", "scipy.optimize")
    from daam import trace

    with trace(run.pipe) as tracer:
        _set_lattice(tracer, side)
        image = run.go()
        words = [tracer.compute_global_heat_map().compute_word_heat_map(word) for word in run.words]
        maps = [word.value.numpy() / run.steps for word in words]
        masks = [word.expand_as(image, threshold=0.4).numpy() > 0 for word in words]
    return maps, masks


def _set_lattice(tracer: Any, side: int) -> None:
    """Tell DAAM the model's own side: it knows only those of 512 and 768 pixels, and takes any other for the latter."""
    for part in (tracer, *tracer.module):
        if hasattr(part, "latent_hw"):
            part.latent_hw = side * side
