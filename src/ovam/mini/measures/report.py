"""`ovam mini report`: every measure of the embedded model, kept as JSON and written as a page."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovam.capture import capture
from ovam.mini.baselines import gates
from ovam.mini.measures.bars import bars
from ovam.mini.measures.curves import measure_curves
from ovam.mini.measures.generation import measure_generation
from ovam.mini.measures.headroom import measure_headroom
from ovam.mini.measures.images import Entry, make_images, model_hash, read_images
from ovam.mini.measures.oracles import measure_oracles
from ovam.mini.measures.words import measure_words
from ovam.mini.scenes import CLASSES
from ovam.mini.scenes.captions import with_article
from ovam.models import load, mini_folder
from ovam.recorders import versions
from ovam.trace import Trace

GUIDANCE_SCALE = 7.5
_COUNTS = {"simple": 200, "pairs": 100, "captions": 100}
_QUICK_COUNTS = {"simple": 20, "pairs": 4, "captions": 4}
_COLUMNS = 8

SHEET_PROMPTS = tuple(
    f"a photograph of {with_article(name)} {place}"
    for name, place in zip(
        (*CLASSES, *CLASSES[::-1]),
        (
            *("in the sky", "on the road", "on the sand", "on the water", "on the floor") * 4,
            *("on the grass", "on the snow", "on the sand", "on the road", "on the grass under the sky") * 4,
        ),
        strict=True,
    )
)
"""Forty prompts: each class twice, on asked grounds, likely and unlikely ones."""


def make_image_sets(folder: Path, *, quick: bool = False) -> dict[str, list[Entry]]:
    """Generate the pictures that the report judges, resuming what stands in `folder`."""
    pipe = _pipeline()
    counts = _QUICK_COUNTS if quick else _COUNTS
    return {
        kind: make_images(pipe, kind, folder, count=count, guidance_scale=GUIDANCE_SCALE)
        for kind, count in counts.items()
    }


def report_on_mini(docs: Path, images: Path, *, quick: bool = False) -> None:
    """Measure the embedded model and write `mini.md`, its figures as JSON, and the contact sheet below `docs`.

    Args:
        docs: Folder of the documentation.
        images: Folder of the image sets, which are made where they are missing.
        quick: A check that everything runs, on few scenes and pictures; its figures are marked so.
    """
    sets = make_image_sets(images, quick=quick)
    pipe, begun = _pipeline(), time.monotonic()
    few = 12 if quick else 200
    measures: dict[str, Callable[[], Any]] = {
        "gates": lambda: gates(scenes=few),
        "oracles": lambda: measure_oracles(pipe, scenes=8 if quick else 100),
        "generation": lambda: _generation(pipe, images, sets),
        "words": lambda: measure_words(pipe, scenes=few),
        "transfer": lambda: measure_curves(pipe, sets["simple"][: 10 if quick else 100]),
        "masses": lambda: _masses(pipe),
        "speed": lambda: seconds_per_image(pipe),
    }
    if not quick:
        measures["headroom"] = lambda: measure_headroom(pipe)
    figures: dict[str, Any] = {name: measure() for name, measure in measures.items()}
    figures |= _stamp(pipe, quick, time.monotonic() - begun)
    folder = docs / "results" / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    contact_sheet(pipe).save(folder / "sheet.png")
    (folder / "report.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    (docs / "mini.md").write_text(page(figures))


def _pipeline() -> Any:
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _generation(pipe: Any, images: Path, sets: Mapping[str, list[Entry]]) -> dict[str, Any]:
    ones, twos = sets["simple"], sets["pairs"]
    return measure_generation(
        pipe,
        (read_images(images / "simple", ones), [entry.classes[0] for entry in ones]),
        (read_images(images / "pairs", twos), [entry.classes for entry in twos]),
    )


def _masses(pipe: Any) -> dict[str, float]:
    """Share of attention on start, words, end and padding, mean over eight prompts."""
    with capture(pipe) as traces:
        prompts = list(SHEET_PROMPTS[:_COLUMNS])
        pipe(prompts, num_inference_steps=10, generator=[_seeded(i) for i in range(_COLUMNS)])
    masses = [attention_masses(trace) for trace in traces]
    return {kind: round(float(np.mean([mass[kind] for mass in masses])), 3) for kind in masses[0]}


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
    return round(float(np.median(times)), 2)


def contact_sheet(pipe: Any, *, steps: int = 30) -> Image.Image:
    """One picture for each of `SHEET_PROMPTS`, row by row."""
    pictures: list[Image.Image] = []
    for start in range(0, len(SHEET_PROMPTS), _COLUMNS):
        prompts = list(SHEET_PROMPTS[start : start + _COLUMNS])
        generators = [_seeded(start + i) for i in range(len(prompts))]
        pictures += pipe(prompts, num_inference_steps=steps, generator=generators, guidance_scale=GUIDANCE_SCALE).images
    width, height = pictures[0].size
    sheet = Image.new("RGB", (_COLUMNS * width, -(-len(pictures) // _COLUMNS) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % _COLUMNS * width, i // _COLUMNS * height))
    return sheet


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _stamp(pipe: Any, quick: bool, seconds: float) -> dict[str, Any]:
    return {
        "command": "ovam mini report" + (" --quick" if quick else ""),
        "quick": quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": model_hash(pipe),
        "training": json.loads((mini_folder() / "training.json").read_text()),
        "guidance_scale": GUIDANCE_SCALE,
        "versions": {"python": platform.python_version(), **versions()},
        "threads": torch.get_num_threads(),
        "seconds": round(seconds),
    }


def page(figures: Mapping[str, Any]) -> str:
    """The page, from the figures alone."""
    training = figures["training"]
    phases = [
        f"{phase['iterations']} iterations of {phase['batch']} scenes at {phase['size']} pixels"
        for phase in training["phases"]
    ]
    template = Template((Path(__file__).parent / "page.md").read_text())
    return template.substitute(
        command=figures["command"],
        quick="**A quick run, not for publication.** " if figures["quick"] else "",
        model=figures["model"],
        date=figures["date"],
        threads=figures["threads"],
        seconds=figures["seconds"],
        scenes=training["scenes"],
        phases=", then ".join(phases),
        iterations=training["iterations"],
        bars=_table(
            ("bar", "measured", "met"), [(b.asked, b.found, "yes" if b.met else "**no**") for b in bars(figures)]
        ),
        oracles=_nested(figures["oracles"], "oracle"),
        classes=_table(("class", "asked class is the largest"), figures["generation"]["by_class"].items()),
        words=_words(figures["words"]),
        others=_table(("word", "AP on the object"), figures["words"]["objects"]["others"].items()),
        slices=_slices(figures["words"]["slices"]),
        headroom=_nested(figures["headroom"]["classes"], "class") if "headroom" in figures else "Not measured.\n",
        transfer=_transfer(figures["transfer"]),
        masses=" | ".join(f"{value:.2f}" for value in figures["masses"].values()),
        speed=figures["speed"],
    )


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _nested(rows: Mapping[str, Mapping[str, Any]], first: str) -> str:
    columns = list(next(iter(rows.values())))
    return _table((first, *columns), [(name, *(row[column] for column in columns)) for name, row in rows.items()])


def _words(found: Mapping[str, Any]) -> str:
    rows = [(name, *_summary(row)) for name, row in [("all", found["objects"]), *found["classes"].items()]]
    return _table(("objects", "number", "own word", "above an absent class", "share"), rows)


def _slices(found: Mapping[str, Any]) -> str:
    return _table(
        ("slice", "number", "own word", "above an absent class", "share"),
        [(name, *_summary(row)) for name, row in found.items()],
    )


def _summary(row: Mapping[str, Any]) -> tuple[Any, ...]:
    if not row["count"]:
        return (0, "", "", "")
    value, low, high = row["gap"]
    return (row["count"], row["own"], f"{value:.3f} ({low:.3f} to {high:.3f})", row["share"])


def _transfer(found: Mapping[str, Any]) -> str:
    if not found["images"]:
        return "No picture showed the asked class.\n"
    parts = [f"{found['images']} pictures, {found['left_out']} left out.\n"]
    for name in ("resolutions", "one call", "from call", "up to call"):
        curve = found[name]
        rows = [(key, curve["mini"][key], curve["stable_diffusion"][key]) for key in curve["mini"]]
        parts.append(f"Spearman {curve['spearman']:.2f}, {name}:\n\n" + _table((name, "mini", "SD 1.5"), rows))
    return "\n".join(parts)
