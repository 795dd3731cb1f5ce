"""One annotated picture, and what its token finds in three others: scenes of mini's world, whose masks are exact.

The annotated scene is the first scene, from scene 50,000 of the training split on, that shows a large train and no
other thing; mini was trained on earlier scenes only. The others are the first scenes of the test split that show a
large train among at most three things. No scene is chosen for its result. The picture is written to the file that the
command line names, or to one-annotation.png.
"""

import sys
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from PIL import Image

import ovam
from ovam.mini.scenes import Scene, Split, render, seed_of
from ovam.pictures import contact_sheet

CLASS = "train"


def scenes(split: Split, things: int) -> Iterator[Scene]:
    """Scenes in order: those with at most so many things, among them the class on more than 5 % of the picture."""
    every = (render(seed_of(split, i), split=split) for i in count(50_000 if split == "train" else 0))
    return (scene for scene in every if len(scene.objects) <= things and scene.mask(CLASS).mean() > 0.05)


def row(scene: Scene, caption: str) -> Image.Image:
    """The picture, its mask, the word's map and the token's score."""
    trace = ovam.encode(pipe, scene.image)
    word = trace.segment([CLASS]).scores[0]
    found = trace.segment(tokens).scores[0]
    maps = {"exact mask": scene.mask(CLASS).astype(float), f'word "{CLASS}"': word, "token": found}
    return contact_sheet(Image.fromarray(scene.image), maps, caption=caption)


pipe = ovam.load("mini")
annotated = next(scenes("train", things=1))
tokens = ovam.optimize_tokens(ovam.encode(pipe, annotated.image), {CLASS: annotated.mask(CLASS)})
rows = [row(annotated, "annotated"), *(row(scene, "another") for scene in islice(scenes("test", things=3), 3))]
sheet = np.concatenate([np.asarray(each) for each in rows])
Image.fromarray(sheet).save(sys.argv[1] if len(sys.argv) > 1 else "one-annotation.png")
print(tokens.card())
