"""FLUX.1: one step of the blocks with two streams. Everything would take far more: see `ovam plan`."""

import torch

import ovam
from ovam.pictures import contact_sheet

MODEL = "black-forest-labs/FLUX.1-dev"

pipe = ovam.load(MODEL, dtype=torch.bfloat16, device="cuda" if torch.cuda.is_available() else "cpu")
with ovam.capture(pipe, blocks=["transformer_blocks"], steps=[9]) as traces:
    image = pipe("a cat on the grass", generator=torch.Generator().manual_seed(0)).images[0]
maps = traces[0].maps(["cat", "lawn", "whiskers"])  # late words: none of them need be in the prompt
contact_sheet(image, maps).save("flux.png")
print(traces[0].segment(["cat", "grass"]).presence)
