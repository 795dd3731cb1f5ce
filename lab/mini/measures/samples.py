"""What mini makes and how fast: a contact sheet, where its attention goes, seconds an image."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovam.mini.scenes import CLASSES
from ovam.mini.scenes.captions import with_article
from ovam.trace.blocks import ALL
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture

GUIDANCE_SCALE = 7.5
SHEET_COLUMNS = 8

SHEET_CLASSES = (*CLASSES, *CLASSES[::-1])
"""Class of each of the forty prompts."""

SHEET_PROMPTS = tuple(
    f"a photograph of {with_article(name)} {place}"
    for name, place in zip(
        SHEET_CLASSES,
        (
            *("in the sky", "on the road", "on the sand", "on the water", "on the floor") * 4,
            *("on the grass", "on the snow", "on the sand", "on the road", "on the grass under the sky") * 4,
        ),
        strict=True,
    )
)
"""Forty prompts: each class twice, on asked grounds, likely and unlikely ones."""


def measure_masses(pipe: Any) -> dict[str, float]:
    """Share of attention on start, words, end and padding, mean over eight prompts, of any model of cross attention."""
    with capture(pipe, blocks=ALL) as traces:
        prompts = list(SHEET_PROMPTS[:SHEET_COLUMNS])
        pipe(prompts, num_inference_steps=10, generator=[_seeded(i) for i in range(SHEET_COLUMNS)])
    masses = [attention_masses(trace) for trace in traces]
    return {kind: float(np.mean([mass[kind] for mass in masses])) for kind in masses[0]}


def attention_masses(trace: Trace) -> dict[str, float]:
    """Share of attention on start, words, end and padding, softmax over all positions of the generation prompt."""
    maps = trace.maps(trace.source.prompt or "", softmax_over="padded")
    kinds = {"<start>": "start", "<end>": "end", "<pad>": "padding"}
    shares = dict.fromkeys(("start", "words", "end", "padding"), 0.0)
    for token, value in zip(maps.tokens, maps.token_maps.mean((-2, -1)).tolist(), strict=True):
        shares[kinds.get(token, "words")] += value
    return shares


def seconds_per_image(pipe: Any, *, steps: int = 30, repeats: int = 3) -> float:
    """Median wall-clock seconds of one guided image."""
    times = []
    for seed in range(repeats):
        start = time.perf_counter()
        pipe("a photograph of a dog on the sand", num_inference_steps=steps, generator=_seeded(seed))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def contact_sheet(pipe: Any, prompts: Sequence[str] = SHEET_PROMPTS, *, steps: int = 30) -> Image.Image:
    """One picture for each prompt, eight in a row."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), SHEET_COLUMNS):
        row = list(prompts[start : start + SHEET_COLUMNS])
        generators = [_seeded(start + i) for i in range(len(row))]
        pictures += pipe(row, num_inference_steps=steps, generator=generators, guidance_scale=GUIDANCE_SCALE).images
    width, height = pictures[0].size
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, -(-len(pictures) // SHEET_COLUMNS) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % SHEET_COLUMNS * width, i // SHEET_COLUMNS * height))
    return sheet


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
