"""Image sets: generated pictures with manifests, made once, resumed where they broke off, made again from seeds."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from lab.mini.measures.generation import classes_in, one_object_prompts, two_object_prompts
from ovam.errors import OptionError
from ovam.mini.scenes import render, seed_of
from ovam.models import model_hash

STEPS = 30
_SEEDS = {"simple": 0, "pairs": 10_000, "captions": 20_000}


@dataclass(frozen=True)
class Entry:
    """A line of a manifest: everything that makes the picture again.

    Attributes:
        file: Name of the picture beside the manifest.
        prompt: What was asked.
        classes: Classes that the prompt names.
        seed: Of the noise.
        guidance_scale: Weight of the prompt.
        steps: Of the sampling loop.
        model: Hash of the model's weights.
    """

    file: str
    prompt: str
    classes: tuple[str, ...]
    seed: int
    guidance_scale: float
    steps: int
    model: str


def prompts_of(kind: str, count: int) -> list[tuple[str, tuple[str, ...]]]:
    """Prompts of a set with the classes they name.

    Args:
        kind: "simple" (one class, as VOC-sim), "pairs" (two classes) or "captions" (of test scenes, as COCO-cap).
        count: Number of prompts.

    Raises:
        OptionError: there is no such set.
    """
    if kind == "simple":
        return [(prompt, (name,)) for prompt, name in one_object_prompts(count)]
    if kind == "pairs":
        return [(prompt, names) for prompt, names in two_object_prompts(count)]
    if kind == "captions":
        return list(_captions(count))
    raise OptionError(f"image set {kind!r}: expected one of {', '.join(_SEEDS)}")


def _captions(count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    index = found = 0
    while found < count:
        scene = render(seed_of("test", index), split="test")
        index += 1
        if named := classes_in(scene.caption):
            found += 1
            yield scene.caption, named


@torch.no_grad()
def make_images(pipe: Any, kind: str, folder: Path, *, count: int, guidance_scale: float) -> list[Entry]:
    """Generate what a set still lacks, one picture after the other, and return its manifest.

    Pictures of another model or guidance are made again.

    Args:
        pipe: The model.
        kind: As in `prompts_of`.
        folder: Gets `<kind>/*.png` and `<kind>/manifest.jsonl`.
        count: Number of pictures.
        guidance_scale: Weight of the prompt.
    """
    folder = folder / kind
    folder.mkdir(parents=True, exist_ok=True)
    manifest, model = folder / "manifest.jsonl", model_hash(pipe)
    known = _last_lines(manifest)
    entries = []
    for i, (prompt, classes) in enumerate(track(prompts_of(kind, count), f"images, {kind}")):
        entry = Entry(f"{i:05d}.png", prompt, classes, _SEEDS[kind] + i, guidance_scale, STEPS, model)
        line = json.dumps(asdict(entry))
        if known.get(entry.file) != line or not (folder / entry.file).exists():
            (folder / entry.file).unlink(missing_ok=True)  # until its line is written no picture stands for another
            picture = regenerated(pipe, entry)
            temporary = folder / f"{entry.file}.partial"
            Image.fromarray(picture).save(temporary, format="PNG")
            temporary.replace(folder / entry.file)
            _append(manifest, line)
        entries.append(entry)
    return entries


def _last_lines(manifest: Path) -> dict[str, str]:
    """The line that each picture was last made by; earlier ones are of pictures written over since."""
    lines = manifest.read_text().splitlines() if manifest.exists() else []
    last: dict[str, str] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short: its picture is made again
            last[json.loads(line)["file"]] = line
    return last


def _append(manifest: Path, line: str) -> None:
    """Behind a line of its own, also where the last one was cut short."""
    with manifest.open("a+b") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
        gap = b"" if stream.read() in (b"", b"\n") else b"\n"
        stream.write(gap + line.encode() + b"\n")


@torch.no_grad()
def regenerated(pipe: Any, entry: Entry) -> np.ndarray:
    """The picture of an entry, made again: (height, width, 3) uint8; inside `capture` its queries are kept as well."""
    (made,) = pipe(
        entry.prompt,
        num_inference_steps=entry.steps,
        guidance_scale=entry.guidance_scale,
        generator=torch.Generator().manual_seed(entry.seed),
        output_type="np",
    ).images
    picture: np.ndarray = (made * 255).round().astype(np.uint8)
    return picture


def read_images(folder: Path, entries: list[Entry]) -> np.ndarray:
    """Pictures of a set: (picture, height, width, 3) uint8."""
    return np.stack([np.asarray(Image.open(folder / entry.file).convert("RGB")) for entry in entries])
