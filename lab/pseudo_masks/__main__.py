"""Measure all methods with words and tokens, and the ablations; write docs/results/pseudo-masks.md and its JSON."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from lab.measure import stamp
from lab.pseudo_masks.ablations import ABLATIONS, ablate
from lab.pseudo_masks.counts import Entries
from lab.pseudo_masks.examples import TESTED, examples, shares_ignored
from lab.pseudo_masks.figures import bars, leads, lifts, table
from lab.pseudo_masks.page import page
from lab.pseudo_masks.pictures import cases
from lab.pseudo_masks.rows import DEFAULT, PUBLISHED, TOKEN, WORD, main_rows
from lab.pseudo_masks.run import Study, scored, validated
from lab.pseudo_masks.tokens import tokens_of
from ovam import __version__
from ovam.mini.scenes import CLASSES
from ovam.models import load, model_hash

QUICK_CLASSES = ("car", "bus", "dog")


def main(given: list[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if given is None else given
    arguments = _parser().parse_args(words)
    if arguments.quick:
        arguments.scenes, arguments.pictures, arguments.validation = 6, 3, 6
        arguments.classes = arguments.classes or list(QUICK_CLASSES)
        arguments.ablations = ["postprocessing"] if arguments.ablations is None else arguments.ablations
    pipe = load(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    found = _measured(pipe, arguments, shlex.join(["python", "-m", "lab.pseudo_masks", *words]))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "pseudo-masks.json").write_text(json.dumps(found, indent=1) + "\n")
    (arguments.output_dir / "pseudo-masks.md").write_text(page(found))
    print(f"wrote {arguments.output_dir / 'pseudo-masks.md'}")


def _measured(pipe: Any, arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    work, images, classes = arguments.work_dir, arguments.images_dir, arguments.classes or list(CLASSES)
    tokens = tokens_of(pipe, work, classes)
    entries: Entries = {WORD: {name: name for name in classes}, TOKEN: dict(tokens)}
    asked = sorted(classes)
    study = Study("main", main_rows(), entries, asked)
    thresholds = validated(pipe, study, arguments.validation, work, images)
    sets = {}
    for name in arguments.sets:
        count = arguments.scenes if name == "scenes" else arguments.pictures
        counts = scored(pipe, study, name, count, work, images, thresholds)
        sets[name] = {"table": table(counts), "lifts": lifts(counts), "leads": leads(counts), "pictures": count}
        unknown = shares_ignored(list(examples(pipe, name, count, images))) if name != "scenes" else 0.0
        sets[name]["line"] = f"{count} pictures; the class of {100 * unknown:.1f} % of the pixels is not known."
        if counts:
            sheet = cases(pipe, name, counts, (DEFAULT, TOKEN), _shown(study), entries, thresholds, images, count)
            sets[name]["picture"] = f"pseudo-masks-{name}.png"
            arguments.output_dir.mkdir(parents=True, exist_ok=True)
            sheet.save(arguments.output_dir / sets[name]["picture"])
    chosen = ABLATIONS if arguments.ablations is None else arguments.ablations
    ablations = {name: ablate(pipe, name, entries, asked, classes, arguments.pictures, work, images) for name in chosen}
    about = {
        **stamp(command),
        "model": f"{arguments.model} ({model_hash(pipe)})",
        "version": __version__,
        "validation": arguments.validation,
        "note": arguments.note,
    }
    kept = {f"{row}, {form}": value for (row, form), value in thresholds.items()}
    return {"about": about, "thresholds": kept, "bars": bars(sets), "sets": sets, "ablations": ablations}


def _shown(study: Study) -> list[Any]:
    names = ("DAAM", PUBLISHED, "ovam: maps", DEFAULT)
    return [row for row in study.rows if row.name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.pseudo_masks", description=__doc__)
    parser.add_argument("--model", default="mini", help="mini, or a pipeline folder of the same world")
    parser.add_argument("--sets", nargs="*", choices=TESTED, default=list(TESTED))
    parser.add_argument("--ablations", nargs="*", choices=ABLATIONS, default=None, help="all by default")
    parser.add_argument("--classes", nargs="*", choices=CLASSES, default=None, help="all by default")
    parser.add_argument("--scenes", type=int, default=200, help="test scenes")
    parser.add_argument("--pictures", type=int, default=100, help="generated pictures of each set")
    parser.add_argument("--validation", type=int, default=100, help="validation scenes, for thresholds")
    parser.add_argument("--quick", action="store_true", help="a few pictures of three classes, to see that all runs")
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/pseudo-masks"))
    parser.add_argument("--images-dir", type=Path, default=Path("runs/images"))
    parser.add_argument("--output-dir", type=Path, default=Path("docs/results"))
    return parser


if __name__ == "__main__":
    main()
