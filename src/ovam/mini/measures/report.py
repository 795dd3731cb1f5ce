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

from ovam.backbones.clip_text import fingerprint
from ovam.capture import capture
from ovam.evaluate import Interval
from ovam.mini.baselines import gates
from ovam.mini.measures.bars import bars
from ovam.mini.measures.curves import measure_curves
from ovam.mini.measures.generation import measure_generation
from ovam.mini.measures.headroom import measure_headroom
from ovam.mini.measures.images import Entry, make_images, read_images
from ovam.mini.measures.memory import measure_memory
from ovam.mini.measures.oracles import measure_oracles
from ovam.mini.measures.words import BASELINES, measure_words
from ovam.mini.oracle import describe, has_oracles, load_oracles
from ovam.mini.scenes import CLASSES
from ovam.mini.scenes.captions import with_article
from ovam.models import load, mini_folder, model_hash
from ovam.recorders import versions
from ovam.trace import Trace

GUIDANCE_SCALE = 7.5
COUNTS = {"simple": 200, "pairs": 100, "captions": 100}
_QUICK_COUNTS = {"simple": 10, "pairs": 2, "captions": 2}
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


def make_image_sets(folder: Path, counts: Mapping[str, int] = COUNTS) -> dict[str, list[Entry]]:
    """Generate the pictures that the report judges, resuming what stands in `folder`; half a second each or more.

    Args:
        folder: Gets a folder with a manifest for each set.
        counts: Number of pictures of each set: "simple", "pairs", "captions".
    """
    pipe = _pipeline()
    return {
        kind: make_images(pipe, kind, folder, count=count, guidance_scale=GUIDANCE_SCALE)
        for kind, count in counts.items()
    }


def report_on_mini(docs: Path, images: Path, *, quick: bool = False) -> dict[str, Any]:
    """Measure the embedded model and write `mini.md`, its figures as JSON, and the contact sheet below `docs`.

    Args:
        docs: Folder of the documentation.
        images: Folder of the image sets, which are made where they are missing.
        quick: A check that everything runs, on few scenes and pictures; its figures are marked so.

    Without the oracles, as after training, what they judge is left out and said to be.

    Returns:
        The figures.
    """
    judged = has_oracles()
    sets = make_image_sets(images, _QUICK_COUNTS if quick else COUNTS)
    pipe, begun = _pipeline(), time.monotonic()
    pictures = {kind: read_images(images / kind, entries) for kind, entries in sets.items()}
    asked = {kind: [entry.classes for entry in entries] for kind, entries in sets.items()}
    few, training = 6 if quick else 200, _training()
    known = 100 if quick else training["scenes"]
    by_oracles: dict[str, Callable[[], Any]] = {
        "oracles": lambda: measure_oracles(pipe, scenes=4 if quick else 100),
        "generation": lambda: measure_generation(pictures, asked),
        "transfer": lambda: measure_curves(pipe, sets["simple"][: 2 if quick else 100]),
        "oracle_hashes": lambda: {name: fingerprint(oracle.state_dict()) for name, oracle in load_oracles().items()},
        "oracle_training": describe,
    }
    measures: dict[str, Callable[[], Any]] = (by_oracles if judged else {}) | {
        "gates": lambda: gates(scenes=few),
        "memory": lambda: measure_memory(pictures["simple"], images, training=known),
        "words": lambda: measure_words(pipe, scenes=few),
        "headroom": lambda: measure_headroom(pipe, **({"annotations": 4, "held_back": 1} if quick else {})),
        "masses": lambda: _masses(pipe),
        "speed": lambda: seconds_per_image(pipe),
    }
    figures: dict[str, Any] = {name: measure() for name, measure in measures.items()}
    figures |= _stamp(pipe, training, quick, time.monotonic() - begun)
    folder = docs / "results" / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    contact_sheet(pipe, SHEET_PROMPTS[: _COLUMNS if quick else None]).save(folder / "sheet.png")
    (folder / "report.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    (docs / "mini.md").write_text(page(figures))
    return figures


def _pipeline() -> Any:
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _training() -> dict[str, Any]:
    about: dict[str, Any] = json.loads((mini_folder() / "training.json").read_text())
    return about


def _masses(pipe: Any) -> dict[str, float]:
    """Share of attention on start, words, end and padding, mean over eight prompts."""
    with capture(pipe) as traces:
        prompts = list(SHEET_PROMPTS[:_COLUMNS])
        pipe(prompts, num_inference_steps=10, generator=[_seeded(i) for i in range(_COLUMNS)])
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
    for start in range(0, len(prompts), _COLUMNS):
        row = list(prompts[start : start + _COLUMNS])
        generators = [_seeded(start + i) for i in range(len(row))]
        pictures += pipe(row, num_inference_steps=steps, generator=generators, guidance_scale=GUIDANCE_SCALE).images
    width, height = pictures[0].size
    sheet = Image.new("RGB", (_COLUMNS * width, -(-len(pictures) // _COLUMNS) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % _COLUMNS * width, i // _COLUMNS * height))
    return sheet


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _stamp(pipe: Any, training: Mapping[str, Any], quick: bool, seconds: float) -> dict[str, Any]:
    return {
        "command": "ovam mini report" + (" --quick" if quick else ""),
        "quick": quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": model_hash(pipe),
        "training": training,
        "guidance_scale": GUIDANCE_SCALE,
        "versions": {"python": platform.python_version(), **versions()},
        "threads": torch.get_num_threads(),
        "seconds": seconds,
    }


def page(figures: Mapping[str, Any]) -> str:
    """The page, from the figures alone."""
    training, words = figures["training"], figures["words"]
    phases = [
        f"{phase['iterations']} iterations of {phase['batch']} scenes at {phase['size']} pixels"
        for phase in training["phases"]
    ]
    template = Template((Path(__file__).parent / "page.md").read_text())
    return template.substitute(
        command=figures["command"],
        quick="**A quick run, not for publication.** " if figures["quick"] else "",
        model=figures["model"],
        **(
            _judged(figures)
            if "oracles" in figures
            else dict.fromkeys(_JUDGED, "Not measured: no oracles are trained.\n")
        ),
        date=figures["date"],
        threads=figures["threads"],
        minutes=f"{figures['seconds'] / 60:.0f}",
        scenes=training["scenes"],
        phases=", then ".join(phases),
        iterations=training["iterations"],
        bars=_table(
            ("bar", "measured", "met"), [(b.asked, b.found, "yes" if b.met else "**no**") for b in bars(figures)]
        ),
        gates=_nested(figures["gates"], "baseline"),
        memory=_table(("", "value"), figures["memory"].items()),
        words=_words({"all": words["objects"]} | words["classes"], "objects"),
        others=_table(("map", "AP on the object"), words["objects"]["others"].items()),
        slices=_words(words["slices"], "slice"),
        headroom=_nested(figures["headroom"]["classes"] | {"mean": figures["headroom"]["mean"]}, "class"),
        gain=_interval(figures["headroom"]["gain"]),
        annotations=figures["headroom"]["annotations"],
        masses=" | ".join(f"{value:.2f}" for value in figures["masses"].values()),
        speed=f"{figures['speed']:.1f}",
    )


_JUDGED = ("oracle_hashes", "oracles", "agreement", "classes", "captions", "transfer")


def _judged(figures: Mapping[str, Any]) -> dict[str, str]:
    """What the page shows of the oracles and of what they judge."""
    generation = figures["generation"]
    values = (
        ", ".join(f"{name} {value}" for name, value in figures["oracle_hashes"].items()),
        _nested(figures["oracles"], "oracle"),
        _nested(generation["agreement"], "set"),
        _table(("class", "asked class is the largest"), generation["by_class"].items()),
        f"Of the classes that captions of test scenes name, {generation['captions']:.2f} are in the picture.\n",
        _transfer(figures["transfer"]),
    )
    return dict(zip(_JUDGED, values, strict=True))


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _interval(bounds: Sequence[float]) -> str:
    return str(Interval(*bounds))


def _nested(rows: Mapping[str, Mapping[str, Any]], first: str) -> str:
    columns = list(next(iter(rows.values())))
    return _table((first, *columns), [(name, *(row[column] for column in columns)) for name, row in rows.items()])


def _words(found: Mapping[str, Mapping[str, Any]], first: str) -> str:
    rows = [
        (name, row["count"], row["own"], _interval(row["gap"]), *(row["others"][kind] for kind in BASELINES))
        for name, row in found.items()
        if row["count"]
    ]
    return _table((first, "number", "own word", "above an absent class", *BASELINES), rows)


def _transfer(found: Mapping[str, Any]) -> str:
    if not found["images"]:
        return "No picture showed the asked class.\n"
    parts = [
        f"{found['images']} pictures, {found['left_out']} left out because the oracles do not see the asked class; "
        f"{found['ignored']:.1%} of the pixels ignored; threshold {found['threshold']:g} for all.\n"
    ]
    columns = ("mini", "mini, best threshold", "stable_diffusion")
    for name in ("resolutions", "one call", "from call", "up to call"):
        curve = found[name]
        rows = [(key, *(curve[column][key] for column in columns)) for key in curve["mini"]]
        header = (name, "mini", "mini, best threshold for each (oracle)", "SD 1.5")
        parts.append(f"Spearman {curve['spearman']:.2f}, {name}:\n\n" + _table(header, rows))
    return "\n".join(parts)
