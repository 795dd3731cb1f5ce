"""Time from a map to a mask: refinement by self-attention and the dense CRF, each beside the time to read its numbers.

The floor of refinement is `torch.sum` of the self-attention, once for each product. The floor of the CRF is `torch.sum`
of the lattices' shares, corner numbers and neighbours, twice for each blur: to give values to corners, and to take them
back. What lays the lattices has no floor here, so that the CRF's ratio is against its blurs alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.measure import alternately, ratios, timed
from lab.performance.options import Options
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.masks.masks import segment
from ovam.masks.options import MaskOptions
from ovam.mini.scenes import Scene, render, seed_of
from ovam.prompt import Span
from ovam.refine.crf import colour_points, dense_crf, smooth_points
from ovam.refine.crf_options import CrfOptions
from ovam.refine.lattice import Lattice, lattice
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined
from ovam.stored_picture import encoded

SEED, SIDE, GRID = 0, 512, 64
QUICK_SIDE, QUICK_GRID = 128, 16
BUDGET = 1.0
"""Seconds for both stages on two cores."""

REFINEMENTS: Mapping[str, RefineOptions] = {
    "refinement": RefineOptions(),
    "powers, one product": RefineOptions(method="powers", products=1, exponent=1.0),
    "restart, 20 products": RefineOptions(method="restart", products=20, spread=0.85),
    "sharpened, 2 products": RefineOptions(method="sharpened", products=2, sharpness=0.1),
}
BOTH, CRF, THEIRS = "refinement, CRF and mask", "CRF", "CRF, pydensecrf2"


def run(options: Options) -> dict[str, Any]:
    """Measure both stages on one rendered picture, with the product's defaults and with other settings."""
    side, grid = (QUICK_SIDE, QUICK_GRID) if options.quick else (SIDE, GRID)
    scene, crf = render(seed_of("validation", SEED), split="validation", size=side), CrfOptions()
    maps = maps_of(scene, grid)
    probabilities = _probabilities(maps)
    attention = next(iter(maps.self_attention.values())).weights
    height, width, _ = scene.image.shape
    points = [smooth_points(height, width, crf.smooth_width), colour_points(scene.image, crf)]
    lattices = [lattice(each) for each in points]
    seconds = alternately(
        {name: timed(work) for name, work in _works(maps, probabilities, attention, lattices, scene.image).items()},
        options.pairs,
    )
    return {
        "model": "none: a rendered scene, random self-attention",
        "seed": SEED,
        "side": side,
        "grid": grid,
        "budget": BUDGET,
        "refine": asdict(RefineOptions()),
        "crf": asdict(crf),
        "bytes": {"self-attention": attention.nbytes, "lattices": sum(map(_bytes, lattices))},
        "seconds": seconds,
        "ratios": ratios(
            seconds, {f"{name} over floor": (name, f"{name} floor") for name in (*REFINEMENTS, CRF, THEIRS)}
        ),
    }


def maps_of(scene: Scene, grid: int) -> AttentionMaps:
    """Return one word's map: the first thing's exact mask averaged to the grid; self-attention is random.

    Args:
        scene: Its side is a multiple of the grid's.
        grid: Side of the map and of the self-attention.
    """
    side = scene.labels.shape[0]
    truth = scene.mask(scene.objects[0].name).reshape(grid, side // grid, grid, side // grid).mean((1, 3))
    weights = torch.rand(grid**2, grid**2, generator=torch.Generator().manual_seed(SEED))
    attention = SelfAttention((grid, grid), weights / weights.sum(1, keepdim=True))
    return AttentionMaps(
        torch.from_numpy(truth).float()[None],
        ("thing",),
        (Span("thing", (0,)),),
        (side, side),
        {},
        self_attention={f"{grid}x{grid}": attention},
        image_png=encoded(_picture(scene.image)),
    )


def _picture(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _probabilities(maps: AttentionMaps) -> Tensor:
    inside = maps.resized().token_maps
    return torch.cat([1 - inside, inside])


def _sums(attention: Tensor, reads: int) -> None:
    for _ in range(reads):
        attention.sum()


def _works(
    maps: AttentionMaps, probabilities: Tensor, attention: Tensor, lattices: list[Lattice], image: np.ndarray
) -> dict[str, Callable[[], object]]:
    """Return the work of each contender; a floor stands beside what it is the floor of."""
    works: dict[str, Callable[[], object]] = {}
    for name, option in REFINEMENTS.items():
        works[name] = partial(refined, maps, option)
        works[f"{name} floor"] = partial(_sums, attention, option.products)
    ours = CrfOptions()
    arrays = [torch.from_numpy(np.ascontiguousarray(part)) for each in lattices for part in _parts(each)]
    blurs = ours.iterations + 2  # one for the sums of each kernel, one for all classes together, one a step
    works[CRF] = lambda: dense_crf(probabilities, image, ours)
    works[f"{CRF} floor"] = lambda: [part.sum() for part in arrays for _ in range(2 * blurs)]
    if find_spec("pydensecrf") is not None:
        works[THEIRS] = lambda: dense_crf(probabilities, image, replace(ours, backend="pydensecrf"))
        works[f"{THEIRS} floor"] = works[f"{CRF} floor"]
    works[BOTH] = lambda: segment(refined(maps, RefineOptions()), MaskOptions(crf=True)).labels
    return works


def _parts(one: Lattice) -> tuple[np.ndarray, ...]:
    return one.take.data, one.take.indices, one.neighbours


def _bytes(one: Lattice) -> int:
    return sum(part.nbytes for part in _parts(one))
