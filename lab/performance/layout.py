"""What the order of a trace's axes costs: head-major (head, step, pixel, head_dim) against step-major.

Step-major, (step, head, pixel, head_dim), is the order in which queries arrive. Three kinds of work: storing a run
call by call, maps of 8 tokens, and what token optimisation does hundreds of times, a matrix times one vector a head,
forwards (scores) and backwards (their gradient for that vector).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lab.measure import Contender, alternately, ratios, timed
from lab.performance.options import Options
from lab.performance.queries import HEADS, STEPS, Block, make_blocks, make_vectors

SEED, TOKENS = 0, 8
LAYOUTS = ("head-major", "step-major")
WORKS = ("store", "maps", "read")


def run(options: Options) -> dict[str, Any]:
    """Measure both layouts in both storage types, one type after the other: they would not fit a small machine."""
    steps = 3 if options.quick else STEPS
    seconds: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.float16):
        contenders: dict[str, Contender] = {}
        for layout in LAYOUTS:
            for work, task in _tasks(make_blocks(SEED, steps), dtype, layout).items():
                contenders[f"{work} {_name(dtype)} {layout}"] = timed(task)
        seconds |= alternately(contenders, options.pairs)
    pairs = {
        f"{work} {dtype}": (f"{work} {dtype} step-major", f"{work} {dtype} head-major")
        for work in WORKS
        for dtype in ("float32", "float16")
    }
    return {
        "model": "none: synthetic queries of SD 1.5 size",
        "seed": SEED,
        "steps": steps,
        "seconds": seconds,
        "ratios": ratios(seconds, pairs),
    }


def _tasks(blocks: Sequence[Block], dtype: torch.dtype, layout: str) -> dict[str, Callable[[], object]]:
    """The three kinds of work on one layout; with gradients off, as each is written out by hand."""
    head_major = layout == "head-major"
    stored = [(b.query if head_major else b.query.transpose(0, 1).contiguous()).to(dtype) for b in blocks]
    vectors = make_vectors(SEED, TOKENS)
    keys = [(vectors @ block.projection.T).unflatten(1, (HEADS, -1)).transpose(0, 1) for block in blocks]
    arrival = [torch.empty(b.query.shape[2], HEADS * b.query.shape[3]).normal_() for b in blocks]

    def store() -> None:
        for query, arrived in zip(stored, arrival, strict=True):
            fresh = torch.empty_like(query)
            for step in range(fresh.shape[1 if head_major else 0]):
                target = fresh[:, step] if head_major else fresh[step]
                target.copy_(arrived.unflatten(1, (HEADS, -1)).transpose(0, 1))

    def maps() -> None:
        from ovam.maps.attention import weight_sums

        for block, query, key in zip(blocks, stored, keys, strict=True):
            view = query if head_major else query.transpose(0, 1)
            weight_sums(view, key, scale=block.scale, lengths=[TOKENS])

    def read() -> None:
        for query, key in zip(stored, keys, strict=True):
            (_read_head_major if head_major else _read_step_major)(query, key[:, :1].mT.to(dtype))

    return {"store": store, "maps": maps, "read": read}


def _read_head_major(query: Tensor, vector: Tensor) -> Tensor:
    rows = query.flatten(1, 2)
    return (rows @ vector).mT @ rows


def _read_step_major(query: Tensor, vector: Tensor) -> Tensor:
    return ((query @ vector).mT @ query).sum(0)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
