"""Stable Diffusion XL: maps of any words from one run."""

import torch

import ovam
from ovam.pictures import contact_sheet

MODEL = "stabilityai/stable-diffusion-xl-base-1.0"

pipe = ovam.load(MODEL, dtype=torch.float16, device="cuda" if torch.cuda.is_available() else "cpu")
with ovam.capture(pipe) as traces:
    image = pipe("a cat on the grass", generator=torch.Generator().manual_seed(0)).images[0]
maps = traces[0].maps(["cat", "lawn", "whiskers"])  # late words: none of them need be in the prompt
contact_sheet(image, maps).save("sdxl.png")
print(traces[0].segment(["cat", "grass"]).presence)
