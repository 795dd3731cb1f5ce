"""The rendered world: scenes with exact masks, on which everything is measured."""

from ovam.mini.scenes.scene import SIDE, Scene, SceneObject, render
from ovam.mini.scenes.splits import WORLD, Split, seed_of
from ovam.mini.scenes.vocabulary import CLASSES, GROUNDS, LABELS, PARTS, UNKNOWN_PART

__all__ = [
    "CLASSES",
    "GROUNDS",
    "LABELS",
    "PARTS",
    "SIDE",
    "UNKNOWN_PART",
    "WORLD",
    "Scene",
    "SceneObject",
    "Split",
    "render",
    "seed_of",
]
