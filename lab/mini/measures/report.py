"""`python -m lab.mini report`: every measure of the model, section by section, kept as JSON and written as a page."""

import json
import platform
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lab.digest import syntax_of
from lab.mini.baselines import gates
from lab.mini.measures.blind import blind_sheet, judged, read_answers
from lab.mini.measures.choices import choose
from lab.mini.measures.curves import measure_curves
from lab.mini.measures.encoding import measure_encoding
from lab.mini.measures.generation import measure_generation
from lab.mini.measures.headroom import measure_headroom
from lab.mini.measures.images import Entry, make_images, read_images
from lab.mini.measures.memory import known_thumbnails, measure_memory
from lab.mini.measures.oracles import measure_oracles
from lab.mini.measures.page import measured, page
from lab.mini.measures.samples import (
    GUIDANCE_SCALE,
    SHEET_PROMPTS,
    contact_sheet,
    measure_masses,
    seconds_per_image,
)
from lab.mini.measures.words import measure_words
from lab.mini.oracle import has_oracles, load_oracles
from ovam.errors import OptionError
from ovam.models import MINI, load, mini_folder, model_hash
from ovam.tensor_file import fingerprint
from ovam.tracing.source import versions

COUNTS = {"simple": 200, "pairs": 100, "captions": 100}
_QUICK_COUNTS = {"simple": 4, "pairs": 1, "captions": 1}
_QUICK_HEADROOM: dict[str, Any] = {"classes": ("cat", "car"), "annotations": 4, "held_back": 2}
_JUDGED = ("oracles", "generation", "transfer")
_CHOSEN_BEFORE = ("words", "encoding", "headroom")
SECTIONS = ("sheet", "speed", "masses", "gates", "choices", *_CHOSEN_BEFORE, "memory", *_JUDGED)


def make_image_sets(folder: Path, counts: Mapping[str, int] = COUNTS) -> None:
    """Generate the pictures that the report judges, and small copies of the scenes they are compared with.

    What stands in `folder` is not made again.

    Args:
        folder: Gets a folder with a manifest for each set, and the small copies.
        counts: Number of pictures of each set: "simple", "pairs", "captions".
    """
    pictures, training = _Pictures(_pipeline(), folder, counts), _training()["scenes"]
    for kind in counts:
        pictures.entries(kind)
    for start in (0, training):
        known_thumbnails(folder, "train", start, training)


class _Pictures:
    """The image sets, made when they are asked for."""

    def __init__(self, pipe: Any, folder: Path, counts: Mapping[str, int]) -> None:
        self._pipe, self.folder, self._counts = pipe, folder, counts

    def entries(self, kind: str) -> list[Entry]:
        return make_images(self._pipe, kind, self.folder, count=self._counts[kind], guidance_scale=GUIDANCE_SCALE)

    def of(self, kind: str) -> np.ndarray:
        return read_images(self.folder / kind, self.entries(kind))

    @cached_property
    def all(self) -> tuple[dict[str, np.ndarray], dict[str, list[tuple[str, ...]]]]:
        """Pictures of every set, and the classes that each prompt names."""
        entries = {kind: self.entries(kind) for kind in self._counts}
        return {kind: self.of(kind) for kind in entries}, {
            kind: [entry.classes for entry in made] for kind, made in entries.items()
        }


def report_on_mini(
    docs: Path,
    images: Path,
    *,
    only: Collection[str] | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure the embedded model and write its two pages, its figures as JSON, and the contact sheet below `docs`.

    A report that was broken off goes on: the figures are written after each section, and sections that the same code
    measured on the same weights are kept. Where some are asked for, the others are kept that the same version measured.
    Without the oracles, what they judge is left out; the page says so.

    Args:
        docs: Folder of the documentation.
        images: Folder of the image sets, which are made where they are missing.
        only: Sections to measure, again where they were; every missing one when None.
        quick: A check that everything runs, on few scenes and pictures; its figures are marked so.

    Returns:
        The figures: the stamp, and by the names of sections `sections`, the `seconds` they took and the `codes` that
        measured them.

    Raises:
        OptionError: there is no such section, or to measure some alone would lose others that can't stand beside them.
    """
    for name in only or ():
        if name not in SECTIONS:
            raise OptionError(f"section {name!r} of the report: expected some of {', '.join(SECTIONS)}")
    pipe, folder = _pipeline(), docs / "results" / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    figures = _continued(_stamp(pipe, quick), folder / "report.json", only or ())
    pictures = _Pictures(pipe, images, _QUICK_COUNTS if quick else COUNTS)
    for name, measure in _measures(pipe, pictures, folder, figures, quick=quick).items():
        missing = name not in figures["sections"]
        needed = missing and name == "choices" and not {*_CHOSEN_BEFORE}.isdisjoint(only or ())
        wanted = name in only or needed if only else missing
        if not wanted or (name in _JUDGED and not has_oracles()):
            continue
        begun = time.monotonic()
        figures["sections"][name] = measure()
        figures["seconds"][name], figures["codes"][name] = time.monotonic() - begun, _code()
        _write(folder / "report.json", figures)
    write_pages(docs, figures)
    return figures


def write_pages(docs: Path, figures: Mapping[str, Any]) -> None:
    """Write `mini.md` and `mini-measured.md` from a report's figures and, if it is of the same weights, the blind test.

    Args:
        docs: Folder of the documentation; the answers of the blind test are read from it.
        figures: As `report_on_mini` gives them.
    """
    answers = docs / "results" / "mini" / "blind.json"
    blind: dict[str, Any] = json.loads(answers.read_text()) if answers.exists() else {}
    sections = figures["sections"] | ({"blind": blind} if blind.get("model") == figures["model"] else {})
    for name, write in (("mini.md", page), ("mini-measured.md", measured)):
        (docs / name).write_text(write({**figures, "sections": sections}))


def judge_blind(docs: Path, answers: Path | None) -> Path:
    """Make the sheet of the blind test, or score its answers and write the pages anew.

    Args:
        docs: Folder of the documentation, with a report.
        answers: JSON list of classes in the order of the sheet's numbers; None makes the sheet.

    Returns:
        The file that was written.

    Raises:
        OptionError: there is no report, or the answers are not a class for each picture.
    """
    folder = docs / "results" / "mini"
    if not (folder / "report.json").exists() or not (folder / "sheet.png").exists():
        raise OptionError(f"{folder} has no report with a sheet of pictures: make it with `python -m lab.mini report`")
    if answers is None:
        blind_sheet(Image.open(folder / "sheet.png")).save(folder / "blind.png")
        return folder / "blind.png"
    figures = json.loads((folder / "report.json").read_text())
    _write(folder / "blind.json", {"model": figures["model"], **judged(read_answers(answers))})
    write_pages(docs, figures)
    return folder / "blind.json"


def _measures(
    pipe: Any, pictures: _Pictures, folder: Path, figures: Mapping[str, Any], *, quick: bool
) -> dict[str, Callable[[], Any]]:
    """What measures each section, in an order in which each finds among the figures those that it rests on."""
    few, sections = 6 if quick else 200, figures["sections"]
    training = 40 if quick else figures["training"]["scenes"]

    def sheet() -> int:
        contact_sheet(pipe, SHEET_PROMPTS[: 4 if quick else None]).save(folder / "sheet.png")
        return len(SHEET_PROMPTS)

    return {
        "sheet": sheet,
        "speed": lambda: seconds_per_image(pipe, repeats=1 if quick else 3),
        "masses": lambda: measure_masses(pipe),
        "gates": lambda: gates(scenes=few),
        "choices": lambda: choose(pipe, scenes=few if quick else 60),
        "words": lambda: measure_words(pipe, scenes=few, **sections["choices"]["best"]),
        "encoding": lambda: measure_encoding({MINI: (pipe, sections["choices"]["best"])}, scenes=few if quick else 60),
        "headroom": lambda: measure_headroom(pipe, **sections["choices"]["best"], **(_QUICK_HEADROOM if quick else {})),
        "memory": lambda: measure_memory(pictures.of("simple"), pictures.folder, training=training),
        "oracles": lambda: measure_oracles(pipe, scenes=4 if quick else 100),
        "generation": lambda: measure_generation(*pictures.all),
        "transfer": lambda: measure_curves(pipe, pictures.entries("simple")[: 2 if quick else 100]),
    }


def _pipeline() -> Any:
    pipe = load("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _training() -> dict[str, Any]:
    about: dict[str, Any] = json.loads((mini_folder() / "training.json").read_text())
    return about


def _stamp(pipe: Any, quick: bool) -> dict[str, Any]:
    oracles = load_oracles().items() if has_oracles() else ()
    return {
        "command": "python -m lab.mini report" + (" --quick" if quick else ""),
        "quick": quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": model_hash(pipe),
        "size": pipe.unet.config.sample_size * pipe.vae_scale_factor,
        "oracles": {name: fingerprint(oracle.state_dict()) for name, oracle in oracles},
        "training": _training(),
        "guidance_scale": GUIDANCE_SCALE,
        "versions": {"python": platform.python_version(), **versions()},
        "threads": torch.get_num_threads(),
    }


def _write(file: Path, figures: Mapping[str, Any]) -> None:
    """Under a temporary name first, so that a report that is broken off leaves no half file.

    In the order of measuring, which is that of the page's rows and columns when the report goes on from the file.
    """
    temporary = file.with_suffix(".partial")
    temporary.write_text(json.dumps(figures, indent=1) + "\n")
    temporary.replace(file)


def _code() -> str:
    """Digest of all code that figures may depend on."""
    return syntax_of("ovam", "lab.mini")


def _continued(stamp: Mapping[str, Any], file: Path, only: Collection[str]) -> dict[str, Any]:
    """The stamp with the sections of an earlier report, as far as they are of the same weights, versions and threads.

    Those that other code of the same version measured are kept only where some sections are asked for by name.

    Raises:
        OptionError: where only some sections are measured, others would be lost.
    """
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() and not stamp["quick"] else {}
    before = set(known.get("sections", ()))
    lost = dict.fromkeys(("quick", "model", "versions", "threads"), before)
    lost |= {"oracles": before & set(_JUDGED)}
    lost = {key: sections for key, sections in lost.items() if known.get(key) != stamp[key]}
    kept = before.difference(*lost.values())
    if only and (missed := before - kept - set(only)):
        raise OptionError(
            f"{file} was made with {', '.join(f'{key} {known.get(key)}' for key in lost)} and not with "
            f"{', '.join(f'{key} {stamp[key]}' for key in lost)}: sections {', '.join(sorted(missed))} of it can't "
            "stand beside newly measured ones; measure all (leave --only out), or write elsewhere (--docs)"
        )
    if not only:
        kept = {name for name in kept if known.get("codes", {}).get(name) == _code()}
    return {
        **stamp,
        **{
            part: {name: value for name, value in known.get(part, {}).items() if name in kept}
            for part in ("sections", "seconds", "codes")
        },
    }
