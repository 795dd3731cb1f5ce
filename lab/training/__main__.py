"""Train segmenters on real and generated data, and write docs/results/training.md, its JSON and its pictures."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lab.measure import as_typed, stamp
from lab.pseudo_masks.tokens import files_of
from lab.pseudo_masks.world import World
from lab.training.chart import chart
from lab.training.figures import bars, table
from lab.training.page import CHART, SHEET, page
from lab.training.processes import in_processes
from lab.training.quality import halves, quality, ranked
from lab.training.real import real_sets
from lab.training.segmenters import begun, outcome_of, parameters_of
from lab.training.study import AT_RANDOM, REFINED, SELECTED, SETS, TOKENS, WORDS, Study, names_of, real_name, rows_of
from lab.training.synthetic import synthetic_sets
from ovam import __version__
from ovam.cli.terminal import quiet
from ovam.dataset.names import SHEET as CONTACT_SHEET
from ovam.mini.scenes import CLASSES
from ovam.models import load, model_hash
from ovam.progress import clock

_QUICK: dict[str, Any] = {
    "classes": ("car", "bus", "dog"),
    "real": (3, 6),
    "pictures": 4,
    "tested": 4,
    "validation": 2,
    "steps": 2,
    "batch_size": 2,
    "seeds": (0,),
    "evaluations": 2,
}
_QUICK_NOTE = "This was a quick run, to see that all works. Its figures mean nothing."


def main(given: list[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if given is None else given
    arguments = _parser().parse_args(words)
    study = _study(arguments)
    with quiet():
        _report(study, arguments, as_typed("lab.training", words))


def _report(study: Study, arguments: argparse.Namespace, command: str) -> None:
    """Do all, and write the page with its files."""
    pipe = load(arguments.model, device=study.device)
    pipe.set_progress_bar_config(disable=True)
    about = {
        **stamp(command),
        "model": f"{arguments.model} ({model_hash(pipe)})",
        "version": __version__,
        "note": arguments.note or (_QUICK_NOTE if arguments.quick else ""),
    }
    sets = _data(pipe, study, arguments.model)
    judged = quality(sets, (WORDS, TOKENS, REFINED, SELECTED, AT_RANDOM))
    found = {
        **_results(study, sets),
        "masks": judged,
        "scores": ranked(sets, REFINED),
        "halves": halves(sets, REFINED),
        "about": about | _facts_of(study),
    }
    output: Path = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)
    chart(found["rows"]).save(output / CHART)
    shutil.copyfile(sets[REFINED] / CONTACT_SHEET, output / SHEET)
    (output / "training.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (output / "training.md").write_text(page(found))
    print(f"wrote {output / 'training.md'}")


def _study(arguments: argparse.Namespace) -> Study:
    given = {
        "classes": tuple(arguments.classes or CLASSES),
        **{
            name: getattr(arguments, name)
            for name in ("pictures", "guidance", "tested", "validation", "steps", "batch_size", "size", "rate")
        },
        "seeds": tuple(range(arguments.seeds)),
        "work_dir": arguments.work_dir,
        "device": arguments.device,
        "jobs": arguments.jobs,
    }
    return Study(**(given | _QUICK if arguments.quick else given))


def _facts_of(study: Study) -> dict[str, Any]:
    names = ("steps", "batch_size", "size", "pictures", "guidance", "tested", "validation")
    real = [real_name(count) for count in study.real]
    facts = {**{name: getattr(study, name) for name in names}, "seeds": list(study.seeds), "real_rows": real}
    parameters = f"{parameters_of(len(study.classes) + 1) / 1e6:.2f} million parameters"
    return facts | {"most_real": real[-1], "rate": study.rate, "parameters": parameters, "classes": study.classes}


def _data(pipe: Any, study: Study, model: str) -> dict[str, Path]:
    """All data sets, made where they are missing."""
    with _bar() as bar:
        task = bar.add_task("scenes", total=None)
        real = real_sets(study)
        bar.update(task, description="tokens")
        options = {"evaluations": study.evaluations} if study.evaluations else {}
        tokens = files_of(pipe, study.work_dir, World(study.work_dir / "images"), study.classes, options=options)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        return real | synthetic_sets(pipe, study, model, [tokens[name] for name in study.classes], report)


def _results(study: Study, sets: Mapping[str, Path]) -> dict[str, Any]:
    """Train and test every row with every seed; what is done already is read."""
    rows, found = rows_of(study), {row.name: dict[int, dict[str, Any]]() for row in rows_of(study)}
    runs = [(row, seed) for seed in study.seeds for row in rows]
    assert set(names_of(rows)) <= set(sets)
    for seed in study.seeds:
        begun(study, seed)  # before processes share it
    start = time.monotonic()
    with _bar() as bar:
        task = bar.add_task("trainings", total=len(runs))
        calls = [(row, seed, sets, study) for row, seed in runs]
        for number, one in in_processes(outcome_of, calls, bar.refresh, study.jobs):
            (row, seed), done = runs[number], sum(map(len, found.values())) + 1
            found[row.name][seed] = one
            bar.update(task, completed=done)
            left = clock((time.monotonic() - start) / done * (len(runs) - done))
            bar.print(f"{done}/{len(runs)} {row.name}, seed {seed}: validation {one['validation']}; {left} left")
    ordered = {name: [ones[seed] for seed in study.seeds] for name, ones in found.items()}
    counts = {
        name: {row.name: np.stack([one["counts"][name] for one in ordered[row.name]]) for row in rows} for name in SETS
    }
    trained = {
        name: [{key: value for key, value in one.items() if key != "counts"} for one in ones]
        for name, ones in ordered.items()
    }
    return {"rows": table(rows, counts), "bars": bars(study, counts), "trained": trained}


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.training", description=__doc__)
    parser.add_argument("--model", default="mini", help="mini, or a pipeline folder of the same world")
    parser.add_argument("--classes", nargs="*", choices=CLASSES, default=None, help="all by default")
    parser.add_argument("--pictures", type=int, default=Study.pictures, help="generated pictures")
    parser.add_argument("--guidance", type=float, default=Study.guidance, help="weight of the prompt")
    parser.add_argument("--tested", type=int, default=Study.tested, help="scenes of each test set")
    parser.add_argument("--validation", type=int, default=Study.validation, help="validation scenes")
    parser.add_argument("--steps", type=int, default=Study.steps, help="steps of each training")
    parser.add_argument("--batch-size", type=int, default=Study.batch_size, help="pictures in a batch")
    parser.add_argument("--rate", type=float, default=Study.rate, help="highest learning rate")
    parser.add_argument("--size", type=int, default=Study.size, help="side of the training squares in pixels")
    parser.add_argument("--seeds", type=int, default=len(Study.seeds), help="seeds of each row")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes with one thread each")
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps, to see that all runs")
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/training"))
    parser.add_argument("--output-dir", type=Path, default=Path("docs/results"))
    return parser


if __name__ == "__main__":
    main()
