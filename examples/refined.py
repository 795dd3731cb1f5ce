"""A word's mask from plain maps, from refined maps, and after the CRF, on rendered scenes that enter as photographs do.

The scenes are the first three of the validation split that show one thing, on a tenth of the picture or more. Written
to the file that is named on the command line, or refined.png.
"""

import sys
from itertools import count, islice

import numpy as np
from PIL import Image

import ovam
from ovam.mini.scenes import render, seed_of

STEPS = ({}, {"refine": True}, {"refine": True, "crf": True})

pipe = ovam.load("mini")
scenes = (render(seed_of("validation", i), split="validation") for i in count())
clear = (scene for scene in scenes if len(scene.objects) == 1 and scene.objects[0].area >= 0.1)
rows = []
for scene in islice(clear, 3):
    trace = ovam.encode(pipe, scene.image, self_attention=True)
    shown = [trace.segment([scene.objects[0].name], **step).overlay(legend=False) for step in STEPS]
    photo = Image.fromarray(scene.image).resize(shown[0].size, Image.Resampling.LANCZOS)
    rows.append(np.concatenate([np.asarray(tile) for tile in (photo, *shown)], axis=1))
Image.fromarray(np.concatenate(rows)).save(sys.argv[1] if len(sys.argv) > 1 else "refined.png")
