"""DAAM's numbers: `python tests/data/make_daam.py PATH`, where PATH is a checkout of castorini/daam."""

import os
import tempfile

import torch
from peers import PROMPT, STEPS, checkout, keep, seed, stub
from PIL import Image

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # it makes a folder there at each trace
checkout(__doc__)
stub("matplotlib.pyplot", "spacy.tokens", "scipy.optimize")

from daam import trace

import steady

WORDS = ["dog", "dog's", "red hat", ",", ".", "frog", "A"]
EVERY = 4  # of the rows and columns of a map

arrays = {}
pipe = steady.sd()
with torch.no_grad(), trace(pipe) as tc:
    pipe(PROMPT, num_inference_steps=STEPS, generator=seed())
    whole = tc.compute_global_heat_map()
    arrays["sd"] = whole.heat_maps[:, ::EVERY, ::EVERY]
    arrays["sd.normalize"] = tc.compute_global_heat_map(normalize=True).heat_maps[:, ::EVERY, ::EVERY]
    for factors in ({1}, {2, 4}):
        name = "".join(map(str, sorted(factors)))
        arrays[f"sd.factors.{name}"] = tc.compute_global_heat_map(factors=factors).heat_maps[2, ::EVERY, ::EVERY]
    for layer in range(9):
        arrays[f"sd.layer.{layer}"] = tc.compute_global_heat_map(layer_idx=layer).heat_maps[2, ::EVERY, ::EVERY]
    for head in (0, 3):  # there are two or four of them, by layer
        arrays[f"sd.head.{head}"] = tc.compute_global_heat_map(head_idx=head).heat_maps[2, ::EVERY, ::EVERY]
    thumbnail = Image.new("RGB", (48, 48))
    for i, word in enumerate(WORDS):
        found = whole.compute_word_heat_map(word)
        arrays[f"sd.word.{i}"] = found.value[::EVERY, ::EVERY]
        arrays[f"sd.expanded.{i}"] = found.expand_as(thumbnail)[::EVERY, ::EVERY]
        arrays[f"sd.mask.{i}"] = found.expand_as(thumbnail, threshold=0.4).bool()
    arrays["sd.word_idx.3"] = whole.compute_word_heat_map("", word_idx=3).value[::EVERY, ::EVERY]
    pipe(PROMPT, num_inference_steps=STEPS, generator=seed(), height=256, width=256)  # half the model's own size
    arrays["sd.256"] = tc.compute_global_heat_map().heat_maps[:4, ::EVERY, ::EVERY]

pipe = steady.sdxl()
with torch.no_grad(), trace(pipe) as tc:
    pipe(PROMPT, num_inference_steps=STEPS, generator=seed(), output_type="latent")
    arrays["sdxl"] = tc.compute_global_heat_map().heat_maps[:4, ::EVERY, ::EVERY]
    arrays["sdxl.factors.2"] = tc.compute_global_heat_map(factors={2}).heat_maps[2, ::EVERY, ::EVERY]

keep("daam", "castorini/daam at 09564e0", arrays)
