"""From a mask that was painted by hand on one generated picture to a token, and what it finds in three others.

`painted-car.png` beside this file was drawn with a paint program over the first picture, which `ovam generate
"a red car on the road" --seed 5` makes as well. Written to the file that is named on the command line, or painted.png:
the word's label maps above, the token's below; the painted picture comes first.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ovam
from ovam.pictures import label_map_picture

pipe = ovam.load("mini")
with ovam.capture(pipe) as traces:
    for seed in (5, 2, 3, 7):
        random = torch.Generator().manual_seed(seed)
        pipe("a red car on the road", num_inference_steps=30, generator=random)
tokens = ovam.optimize_tokens(traces[0], {"car": Path(__file__).with_name("painted-car.png")})

rows = [
    np.concatenate([np.asarray(label_map_picture(trace.image, trace.segment(words))) for trace in traces], axis=1)
    for words in (["car"], tokens)
]
Image.fromarray(np.concatenate(rows)).save(sys.argv[1] if len(sys.argv) > 1 else "painted.png")
print(tokens.card())
