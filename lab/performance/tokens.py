"""Time of one iteration of a token's optimisation: the loss of one class and its gradient.

Against the time to read the stored queries twice, once for the maps and once for the gradient, and against an iteration
of the peer's own optimiser.
"""

from contextlib import ExitStack
from typing import Any

from lab.measure import alternately, ratios
from lab.performance.maps import contender, describe_peer
from lab.performance.options import Options
from lab.performance.queries import SHAPES, STEPS
from lab.performance.worker import Setting, Worker
from ovam.tokens.options import AGAINST, PHRASES

SEED, READS = 0, 2
STORED = ("float32", "float16")
USUAL = "float32, usual rows"
"""Class and background in as many rows as a fit has by default, where the others have one each."""


def run(options: Options) -> dict[str, Any]:
    """Measure this library with both storage types, and the peer where there is one."""
    steps = 3 if options.quick else STEPS
    settings = {name: Setting(None, name, steps, SEED) for name in STORED}
    settings[USUAL] = settings["float32"]
    if options.peer is not None:
        settings["peer"] = Setting(str(options.peer), "float32", steps, SEED)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(setting)) for name, setting in settings.items()}
        contenders = {f"{name} floor": contender(workers[name], do="floor", reads=READS) for name in STORED}
        for name, worker in workers.items():
            worker.ask(do="fit", **({"against": list(AGAINST), "rows": len(PHRASES)} if name == USUAL else {}))
            contenders[name] = contender(worker, do="iteration")
        seconds = alternately(contenders, options.pairs)
        stored = {name: worker.ask(do="size") for name, worker in workers.items()}
    return {
        "model": "none: synthetic queries of SD 1.5 size",
        "seed": SEED,
        "steps": steps,
        "shapes": [[side * side, head_dim] for side, head_dim in SHAPES],
        "peer": None if options.peer is None else describe_peer(options.peer),
        "stored_bytes": stored,
        "seconds": seconds,
        "ratios": ratios(seconds, _pairs()),
    }


def _pairs() -> dict[str, tuple[str, str]]:
    """What is divided by what."""
    pairs = {f"{name} over floor": (name, f"{name} floor") for name in STORED}
    pairs[f"{USUAL} over floor"] = (USUAL, "float32 floor")
    pairs |= {f"peer over {name}": ("peer", name) for name in (*STORED, USUAL)}
    return {**pairs, "peer over floor": ("peer", "float32 floor")}
