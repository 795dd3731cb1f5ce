"""attention-map-diffusers' numbers: `python tests/data/make_attention_map_diffusers.py PATH`.

PATH is a folder that `pip install --no-deps --target PATH attention-map-diffusers==1.0.0` filled.
"""

import torch
from peers import PROMPT, STEPS, checkout, keep, seed

checkout(__doc__)
from attention_map_diffusers import AttentionCapture
from attention_map_diffusers.visualization import _aggregate_compatible

import steady

EVERY = 4
SMALL = {"height": 64, "width": 64, "max_sequence_length": 32}  # of joint attention: grids of 16


def aggregate(pipe, timesteps, **changes):
    """What the tool draws: the mean over layers and time steps, (token, height, width), of the conditional half."""
    with torch.no_grad(), AttentionCapture(pipe, timesteps=timesteps) as capture:
        pipe(PROMPT, num_inference_steps=STEPS, generator=seed(), output_type="latent", **changes)
    record, data, count = _aggregate_compatible(capture.compute().records, None, 1)
    grid = record.q_shape
    print(type(pipe).__name__, timesteps, count, "maps", tuple(data.shape))
    return data[0].T.unflatten(1, (grid.height, grid.width))


arrays = {}
for timesteps in ("all", "last"):
    arrays[f"sd.{timesteps}"] = aggregate(steady.sd(), timesteps)[:24, ::EVERY, ::EVERY]
arrays["sd3"] = aggregate(steady.sd3(), "all", **SMALL)[::5, ::2, ::2]
arrays["flux"] = aggregate(steady.flux(), "all", **SMALL)[::2, ::2, ::2]
keep("attention_map_diffusers", "attention-map-diffusers 1.0.0", arrays)
