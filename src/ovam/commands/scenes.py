"""Write the benchmark as common files: pictures, label, part and instance maps, captions, slices."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.errors import OptionError
from ovam.mini.scenes import LABELS, PARTS, SIDE, UNKNOWN_PART, Scene, Split, render, seed_of
from ovam.mini.scenes.slices import slices
from ovam.mini.scenes.vocabulary import ABSENT_WORDS, CLASS_WORDS, COLOURS, GROUND_WORDS, KINDS, NONSENSE, TOWER_WORDS
from ovam.output_files import write_bytes, write_json, write_picture
from ovam.output_folders import check_folder, kept_if_done

_MAPS = ("labels", "parts", "instances")


def export_scenes(
    split: str,
    count: int,
    output_dir: str | Path,
    *,
    start: int = 0,
    size: int = SIDE,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write scenes of a split, with their exact truths.

    Args:
        split: "train", "validation", "test", "hard", "judging" or "domain b".
        count: Number of scenes.
        output_dir: Folder for `images/`, `labels/`, `parts/` and `instances/` with a PNG for each scene,
            `scenes.jsonl` with a line for each scene, `names.json` with the names of the numbers in the maps,
            `part-names.json` with those of the part maps alone (for `evaluate`), and `words.json` with words to query
            the pictures with.
        start: Number of the first scene.
        size: Side of the pictures in pixels, at least 32.
        progress: Called for each scene.

    Returns:
        The split, the number of scenes, the first seed and the folder.

    Raises:
        SplitError: the split is unknown, or has no such scenes.
        OptionError: the size or the number is too small, or the folder can't be written to.
    """
    if count < 1 or size < 32:
        raise OptionError(f"{count} scenes of {size} pixels: expected at least 1 scene of at least 32 pixels")
    seeds = [seed_of(cast(Split, split), start + i) for i in range(count)]
    folder = check_folder(output_dir)
    with kept_if_done(folder):
        _write(folder, cast(Split, split), seeds, size, progress)
    return {"command": "scenes", "split": split, "scenes": count, "first_seed": seeds[0], "output_dir": str(folder)}


def _write(folder: Path, split: Split, seeds: Sequence[int], size: int, progress: Progress) -> None:
    lines = []
    for done, seed in enumerate(seeds):
        progress("scenes", done, len(seeds))
        scene = render(seed, split=split, size=size)
        name = f"{seed:09d}.png"
        write_picture(folder / "images" / name, Image.fromarray(scene.image))
        for kind in _MAPS:
            write_picture(folder / kind / name, Image.fromarray(cast(np.ndarray, getattr(scene, kind))))
        lines.append(json.dumps(_record(scene, name), ensure_ascii=False))
    write_bytes(folder / "scenes.jsonl", ("\n".join(lines) + "\n").encode())
    about = {"version": __version__, "split": split, "size": size}
    parts = {"0": "none"} | _numbered(PARTS) | {str(UNKNOWN_PART): "unknown"}
    write_json(folder / "names.json", about | {"labels": {"0": "unnamed"} | _numbered(LABELS), "parts": parts})
    write_json(folder / "part-names.json", about | {"labels": parts})
    write_json(folder / "words.json", {"version": __version__, **_words()})


def _numbered(names: dict[str, int]) -> dict[str, str]:
    return {str(number): name for name, number in names.items()}


def _words() -> dict[str, Any]:
    return {
        "classes": CLASS_WORDS,
        "kinds": KINDS,
        "colours": COLOURS,
        "parts": list(PARTS),
        "grounds": GROUND_WORDS,
        "unnamed": TOWER_WORDS,
        "absent": ABSENT_WORDS,
        "nonsense": NONSENSE,
    }


def _record(scene: Scene, name: str) -> dict[str, Any]:
    return {
        "file": name,
        "seed": scene.seed,
        "caption": scene.caption,
        "ground": scene.ground,
        "backdrop": scene.backdrop,
        "objects": [
            {"instance": i, **asdict(thing), "slices": slices(scene, thing)}
            for i, thing in enumerate(scene.objects, start=1)
        ],
        "distractors": list(scene.distractors),
    }
