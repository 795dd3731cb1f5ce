"""What the embedded model can do, measured: words against absent words, attention masses, speed, a contact sheet."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from ovam.capture import capture
from ovam.encode import encode
from ovam.maps import AttentionMaps
from ovam.mini.captions import with_article
from ovam.mini.world import CLASSES, Scene, render, seed_of
from ovam.models import load, mini_folder
from ovam.trace import Trace

GUIDANCE_SCALE = 7.5
_SMALLEST_OBJECT = 40  # pixels of 128 x 128; less of an object in view says little about its map

SHEET_PROMPTS = tuple(
    f"a photograph of {with_article(name)} {place}"
    for name, place in zip(
        (*CLASSES, *CLASSES[::-1]),
        (
            *("under the sky", "on the road", "on the sand", "on the water", "on the floor") * 4,
            *("on the grass", "on the snow", "on the sand", "on the road", "on the grass under the sky") * 4,
        ),
        strict=True,
    )
)
"""Forty prompts: each class twice, on asked grounds, likely and unlikely ones."""


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the precision-recall curve, as the sum of precision at each positive; ties in order of position.

    Args:
        truth: Bool, any shape, at least one True.
        score: Same shape; higher means more likely True.
    """
    order = np.argsort(-score.ravel(), kind="stable")
    hits = truth.ravel()[order]
    precision = np.cumsum(hits) / np.arange(1, hits.size + 1)
    return float(precision[hits].mean())


@dataclass(frozen=True)
class WordGap:
    """Average precision on an object's own pixels: of its class word, and of a random absent class word.

    `margin` bounds the 95 % interval of the difference: half its width, bootstrap over scenes.
    """

    scenes: int
    objects: int
    own: float
    absent: float
    gap: float
    margin: float
    chance: float


def word_gap(pipe: Any, *, split: str = "validation", scenes: int = 100, count: int = 2) -> WordGap:
    """How much better the class word's map fits its object than a random absent word's, on rendered scenes.

    Scenes enter with the empty prompt. Both words are asked in the same template and averaged in the same way.

    Args:
        pipe: A pipeline of the world's classes.
        split: Split of the scenes.
        scenes: Number of scenes.
        count: Objects a scene.
    """
    rows: list[list[tuple[float, float, float]]] = []
    random = np.random.default_rng(0)
    for index in track(range(scenes), "word gap"):
        scene = render(seed_of(split, index), count=count)  # type: ignore[arg-type]
        rows.append(_gap_of_scene(scene, encode(pipe, scene.image, seed=index), random))
    flat = np.array([row for scene_rows in rows for row in scene_rows])
    own, absent, share = flat.mean(0)
    means = np.array([np.mean([own - other for own, other, _ in row]) for row in rows if row])
    draws = random.choice(means, size=(2000, len(means))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return WordGap(
        scenes, len(flat), *(round(float(x), 3) for x in (own, absent, own - absent, (high - low) / 2, share))
    )


def _gap_of_scene(scene: Scene, trace: Trace, random: np.random.Generator) -> list[tuple[float, float, float]]:
    present = [thing.name for thing in scene.objects]
    rows = []
    for name in present:
        truth = scene.mask(name)
        if truth.sum() < _SMALLEST_OBJECT:
            continue
        absent = str(random.choice([other for other in CLASSES if other not in present]))
        own, other = (average_precision(truth, class_map(trace, word)) for word in (name, absent))
        rows.append((own, other, float(truth.mean())))
    return rows


def class_map(trace: Trace, name: str) -> np.ndarray:
    """Map of a class word within its template, at the image's size: (height, width)."""
    article = "an" if name[0] in "aeiou" else "a"
    prompt = f'a photograph of {article} "{name}"'
    return trace.maps(prompt).resized()[name].numpy()


def attention_masses(trace: Trace) -> dict[str, float]:
    """Share of attention on start, words, end and padding, softmax over all positions of the generation prompt."""
    maps: AttentionMaps = trace.maps(trace.source.prompt or "", softmax_over="padded")
    mass = maps.token_maps.mean((-2, -1))
    kinds = {"<start>": "start", "<end>": "end", "<pad>": "padding"}
    shares = dict.fromkeys(("start", "words", "end", "padding"), 0.0)
    for token, value in zip(maps.tokens, mass.tolist(), strict=True):
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


def contact_sheet(pipe: Any, *, guidance_scale: float, steps: int = 30, columns: int = 8) -> Image.Image:
    """One picture for each of `SHEET_PROMPTS`, row by row."""
    pictures: list[Image.Image] = []
    for start in track(range(0, len(SHEET_PROMPTS), columns), "contact sheet"):
        prompts = list(SHEET_PROMPTS[start : start + columns])
        generators = [_seeded(start + i) for i in range(len(prompts))]
        pictures += pipe(prompts, num_inference_steps=steps, generator=generators, guidance_scale=guidance_scale).images
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measure(pipe: Any, *, scenes: int = 100) -> dict[str, Any]:
    """Every figure of the report.

    Args:
        pipe: The model, in float32.
        scenes: Scenes for each number of objects.
    """
    gaps = {count: word_gap(pipe, scenes=scenes, count=count) for count in (1, 2, 3)}
    with capture(pipe) as traces:
        pipe(list(SHEET_PROMPTS[:8]), num_inference_steps=10, generator=[_seeded(i) for i in range(8)])
    masses = [attention_masses(trace) for trace in traces]
    return {
        "model": "mini",
        "text_encoder": traces[0].text.space.encoder,
        "versions": dict(traces[0].source.versions),
        "threads": torch.get_num_threads(),
        "word_gap": {str(count): asdict(gap) for count, gap in gaps.items()},
        "attention_masses": {kind: round(float(np.mean([mass[kind] for mass in masses])), 3) for kind in masses[0]},
        "seconds_per_image": round(seconds_per_image(pipe), 2),
    }


def report_on_mini(docs: Path, *, scenes: int = 100) -> None:
    """Measure the embedded model and write `mini.md`, its figures as JSON, and the contact sheet below `docs`.

    Args:
        docs: Folder of the documentation.
        scenes: Scenes for each number of objects.
    """
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    training = json.loads((mini_folder() / "training.json").read_text())
    folder = docs / "results" / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    figures = measure(pipe, scenes=scenes) | {"training": training, "command": f"ovam mini report --scenes {scenes}"}
    contact_sheet(pipe, guidance_scale=GUIDANCE_SCALE).save(folder / "sheet.png")
    (folder / "report.json").write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    (docs / "mini.md").write_text(_page(figures))


def _page(figures: dict[str, Any]) -> str:
    training = figures["training"]
    rows = [
        f"| {count} | {gap['objects']} | {gap['own']:.2f} | {gap['absent']:.2f} | "
        f"{gap['gap']:.2f} +- {gap['margin']:.2f} | {gap['chance']:.2f} |"
        for count, gap in figures["word_gap"].items()
    ]
    phases = [
        f"{phase['iterations']} iterations of {phase['batch']} scenes at {phase['size']} pixels"
        for phase in training["phases"]
    ]
    template = Template((Path(__file__).parent / "report_template.md").read_text())
    return template.substitute(
        command=figures["command"],
        scenes=training["scenes"],
        phases=", then ".join(phases),
        iterations=training["iterations"],
        rows="\n".join(rows),
        masses=" | ".join(f"{value:.2f}" for value in figures["attention_masses"].values()),
        seconds=figures["seconds_per_image"],
        threads=figures["threads"],
        encoder=figures["text_encoder"],
    )
