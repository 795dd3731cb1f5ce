"""The kinds of objects that a mean must not hide: each object's own, read from its scene."""

from ovam.mini.scenes.scene import Scene, SceneObject
from ovam.mini.scenes.splits import HELD_OUT

SMALL_AREA, OCCLUDED_SHARE = 0.04, 0.8


def slices(scene: Scene, thing: SceneObject) -> tuple[str, ...]:
    """Names of the slices an object belongs to.

    Returns:
        `novel` or `seen` look; `canonical` or `counterfactual` ground, `free` where the class keeps to none; then
        those of `new-pair` (beside a class that training never shows it with), `small` (below 4 % of the picture),
        `occluded` (more than a fifth covered), `close` (a head) and `twin` (another of its class) that apply.
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
