"""Scoring a set of pictures, one file a picture, so that a run that broke off goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.digest import digest, syntax_of
from lab.pseudo_masks.counts import THRESHOLDS, Count, Entries, Thresholds, counts_of
from lab.pseudo_masks.examples import VALIDATION, Source
from lab.pseudo_masks.rows import Row, needs_of
from ovam.defaults import CHOSEN
from ovam.models import model_hash

CODE = (
    *("ovam.maps", "ovam.masks", "ovam.refine", "ovam.methods", "ovam.tokens", "ovam.tracing", "ovam.backbones"),
    "lab.pseudo_masks",
)


@dataclass(frozen=True)
class Study:
    """Rows and forms that are scored on the same pictures.

    Attributes:
        name: Of the study; its results lie apart.
        rows: The methods.
        entries: What is asked for.
        basis: What tells the entries apart from others: files or settings of the tokens.
    """

    name: str
    rows: Sequence[Row]
    entries: Entries
    basis: Any


@torch.no_grad()
def scored(
    pipe: Any,
    study: Study,
    set_name: str,
    count: int,
    work: Path,
    source: Source,
    thresholds: Thresholds | None = None,
) -> list[Count]:
    """The counts of a set, those that are missing made.

    They are found again by all that they depend on: model, truth, code, the product's defaults, and what is asked for.
    """
    thresholds = thresholds or {}
    chosen = [[*key, value] for key, value in sorted(thresholds.items())]
    names = [row.name for row in study.rows]
    basis = [model_hash(pipe), source.basis(set_name), syntax_of(*CODE), CHOSEN]
    about = [*basis, study.name, names, study.basis, set_name, chosen]
    folder = work / "counts" / digest(about)
    needs = needs_of(study.rows)
    found: list[Count] = []
    for example in source.examples(pipe, set_name, count):
        file = folder / f"{example.name}.json"
        if not file.exists():
            seen = any(name in of_class for name in example.classes for of_class in study.entries.values())
            traces = {name: example.traced(options) for name, options in needs.items()} if seen else {}
            counts = list(counts_of(example, traces, study.rows, study.entries, thresholds))
            write(file, [one.as_json() for one in counts])
        found += [Count.from_json(each) for each in json.loads(file.read_text())]
    return found


def write(file: Path, value: Any) -> None:
    """Write JSON; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial")
    temporary.write_text(json.dumps(value))
    temporary.replace(file)


def thresholds_on(counts: Sequence[Count]) -> dict[tuple[str, str], float]:
    """By row and form the threshold with the greatest mean IoU of the classes."""
    found = {}
    for key in sorted({(one.row, one.form) for one in counts}):
        own = [one for one in counts if (one.row, one.form) == key]
        names = sorted({one.name for one in own})
        sums = np.array([np.sum([one.swept for one in own if one.name == name], axis=0) for name in names])
        found[key] = float(THRESHOLDS[int((sums[..., 0] / np.maximum(sums[..., 1], 1)).mean(0).argmax())])
    return found


def validated(pipe: Any, study: Study, count: int, work: Path, source: Source) -> dict[tuple[str, str], float]:
    """Thresholds that were chosen on validation pictures, which have masks; no oracle is asked."""
    return thresholds_on(scored(pipe, study, VALIDATION, count, work, source))
