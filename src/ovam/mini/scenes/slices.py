"""Slices: groups of objects, such as small ones, whose results are reported beside the mean."""

from ovam.mini.scenes.scene import Scene, SceneObject
from ovam.mini.scenes.splits import HELD_OUT

SMALL_AREA, OCCLUDED_SHARE = 0.04, 0.8


def slices(scene: Scene, thing: SceneObject) -> tuple[str, ...]:
    """Return the names of the slices that an object belongs to.

    Returns:
        First its look, `novel` or `seen`. Then its ground, `canonical` or `counterfactual`, or `free` if its class has
        no usual ground. Then those of the others that apply: `new-pair` (beside a class that training never shows it
        with), `small` (below 4 % of the picture), `occluded` (more than a fifth is covered), `close` (a head, or head
        and shoulders) and `twin` (the scene has another object of its class).
    """
    others = [other.name for other in scene.objects if other is not thing]
    pairs = {frozenset((thing.name, other)) for other in others}
    found = {
        "new-pair": any(pairs & held_out for held_out in HELD_OUT.values()),
        "small": thing.area < SMALL_AREA,
        "occluded": thing.visible < OCCLUDED_SHARE,
        "close": thing.close,
        "twin": thing.name in others,
    }
    return (
        "novel" if thing.novel else "seen",
        scene.context(thing),
        *(name for name, applies in found.items() if applies),
    )
