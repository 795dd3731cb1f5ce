"""The whole report: thresholds, sets, ablations; as Markdown, JSON and pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.measure import stamp
from lab.pseudo_masks.ablations import ablate, grids_of
from lab.pseudo_masks.annotators import state_of
from lab.pseudo_masks.counts import Entries
from lab.pseudo_masks.examples import CAPTIONS, SIMPLE, VALIDATION, Source, seen_of
from lab.pseudo_masks.figures import bars, leads, lifts, picked, table
from lab.pseudo_masks.page import page
from lab.pseudo_masks.pictures import cases
from lab.pseudo_masks.plots import of_ablation, of_classes
from lab.pseudo_masks.rows import DEFAULT, PUBLISHED, TOKEN, WORD, Row, main_rows, needs_of
from lab.pseudo_masks.run import Study, scored, validated
from lab.pseudo_masks.summary import write_summary
from lab.pseudo_masks.tokens import tokens_of
from ovam import __version__
from ovam.errors import UnsupportedPipelineError
from ovam.methods.base import Method
from ovam.methods.registry import TRAINED
from ovam.methods.trained_file import load_weights
from ovam.models import model_hash

_SHOWN = ("DAAM", PUBLISHED, "ovam: maps", DEFAULT)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of a report; see `python -m lab.pseudo_masks --help`."""

    command: str
    model: str
    sets: Sequence[str]
    ablations: Sequence[str]
    classes: Sequence[str]
    scenes: int
    pictures: int
    validation: int
    weights: Sequence[Path]
    note: str
    work: Path
    output: Path
    summary: Path | None = None

    def count(self, name: str) -> int:
        """Number of pictures of a set."""
        return self.pictures if name in (SIMPLE, CAPTIONS) else self.scenes


def report(pipe: Any, source: Source, options: ReportOptions) -> None:
    """Measure, and write `pseudo-masks.md`, `pseudo-masks.json` and pictures."""
    options.output.mkdir(parents=True, exist_ok=True)
    found = _measured(pipe, source, options)
    (options.output / "pseudo-masks.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.output / "pseudo-masks.md").write_text(page(found))
    if options.summary is not None:
        write_summary(options.summary, found)


def _measured(pipe: Any, source: Source, options: ReportOptions) -> dict[str, Any]:
    tokens = tokens_of(pipe, options.work, source, options.classes)
    entries: Entries = {WORD: {name: name for name in options.classes}, TOKEN: dict(tokens)}
    basis = [sorted(options.classes), source.basis("annotated"), state_of(options.weights)]
    rows, left_out = readable(pipe, source, main_rows([trained_method(path) for path in options.weights]))
    study = Study("main", rows, entries, basis)
    thresholds = validated(pipe, study, options.validation, options.work, source)
    sets = {name: _of_set(pipe, source, options, name, study, thresholds) for name in options.sets}
    ablations = {
        name: ablate(pipe, name, entries, basis, options.classes, options.pictures, options.work, source)
        for name in options.ablations
    }
    for name, each in ablations.items():
        each["plot"] = f"pseudo-masks-{name}.png"
        of_ablation(name, each, grids_of(pipe)).savefig(options.output / each["plot"])
    about = {
        **stamp(options.command),
        "model": f"{options.model} ({model_hash(pipe)})",
        "version": __version__,
        "validation": options.validation,
        "fitted_on": source.fitted_on,
        "chosen_on": source.chosen_on,
        "without_token": [name for name in options.classes if name not in tokens],
        "left_out": left_out,
        "note": options.note,
    }
    kept = {f"{row}, {form}": value for (row, form), value in thresholds.items()}
    return {"about": about, "thresholds": kept, "bars": bars(sets), "sets": sets, "ablations": ablations}


def trained_method(path: Path) -> Method:
    """The trained method that a file holds the weights of.

    Raises:
        WeightsError: the file can't be read.
    """
    return TRAINED[load_weights(path).method](weights=path)


def readable(pipe: Any, source: Source, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Rows that can read the model, and the names of those that can't; one picture is looked at."""
    example = next(source.examples(pipe, VALIDATION, 1))
    traces = {name: example.traced(options) for name, options in needs_of(rows).items()}
    found, others = list[Row](), list[str]()
    for row in rows:
        try:
            row.values(traces[row.needs], source.classes[0])
            found.append(row)
        except UnsupportedPipelineError:
            others.append(row.name)
    return found, others


def _of_set(
    pipe: Any, source: Source, options: ReportOptions, name: str, study: Study, thresholds: dict[tuple[str, str], float]
) -> dict[str, Any]:
    count, work = options.count(name), options.work
    counts = scored(pipe, study, name, count, work, source, thresholds)
    pictures, unknown = seen_of(source.examples(pipe, name, count))
    found: dict[str, Any] = {"table": table(counts), "lifts": lifts(counts), "leads": leads(counts)}
    found |= {"pictures": pictures, "ignored": unknown, "heading": source.heading(name)}
    if picked(counts, (DEFAULT, TOKEN))["good"]:
        sheet = cases(pipe, name, counts, (DEFAULT, TOKEN), _shown(study), study.entries, thresholds, source, count)
        found["picture"] = f"pseudo-masks-{name}.png"
        sheet.save(options.output / found["picture"])
    if counts:
        found["plot"] = f"pseudo-masks-{name}-classes.png"
        of_classes(found["table"], found["heading"]).savefig(options.output / found["plot"])
    return found


def _shown(study: Study) -> list[Row]:
    return [row for row in study.rows if row.name in _SHOWN]
