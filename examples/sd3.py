"""Stable Diffusion 3 and 3.5: late words, run through the model's own text layers again."""

import torch

import ovam
from ovam.pictures import contact_sheet

MODEL = "stabilityai/stable-diffusion-3.5-medium"

pipe = ovam.load(MODEL, dtype=torch.bfloat16, device="cuda" if torch.cuda.is_available() else "cpu")
with ovam.capture(pipe, steps=range(10, 20)) as traces:
    image = pipe("a cat on the grass", generator=torch.Generator().manual_seed(0)).images[0]
maps = traces[0].maps(["cat", "lawn", "whiskers"])  # late words: none of them need be in the prompt
contact_sheet(image, maps).save("sd3.png")
print(traces[0].segment(["cat", "grass"]).presence)
