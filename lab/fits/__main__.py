"""Measure how far tokens of one annotation carry, and write docs/tokens-measured.md; `tune` chooses for the rivals."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from lab.fits import page
from lab.fits.methods import SLIME, SLIME_TUNED, Method, registry, variant
from lab.fits.opened import CHOSEN, known_choices, open_mini, read_chosen
from lab.fits.plan import DRAWS, SCENES, Plan
from lab.fits.store import Store
from lab.fits.table import table
from lab.fits.traces import Traces
from lab.fits.tune import RATES, tune
from lab.measure import as_typed, stamp
from ovam.mini.scenes import CLASSES

FINEST = "1/1"  # of mini's grids: what SLiMe spreads maps by
QUICK = {"draws": 1, "scenes": 8, "classes": ["car"], "methods": ["word", "default"]}


def main(given: list[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if given is None else given
    arguments = _parser().parse_args(words)
    traces, report = _opened(arguments)
    command, settings = as_typed("lab.fits", words), arguments.chosen or CHOSEN
    if arguments.what == "tune":
        found = tune(traces, rates=arguments.rates, known=known_choices(settings))
        settings.write_text(json.dumps({**found, "stamp": stamp(command)}, indent=1) + "\n")
        print(f"wrote {settings}")
        return
    headroom = report["sections"]["headroom"]["gain"][0]
    made = {**stamp(command), "model": traces.model, "headroom": headroom}
    _measure(arguments, traces, read_chosen(settings, traces), made)


def _opened(arguments: argparse.Namespace) -> tuple[Traces, dict[str, Any]]:
    variants = [json.loads(each) for each in arguments.variant]
    grids = {each[key] for each in variants for key in ("spread", "spread_asked") if key in each}
    if arguments.methods is None or {SLIME, SLIME_TUNED} & {*arguments.methods}:
        grids.add(FINEST)
    return open_mini(arguments.work_dir, sorted(grids, key=str) or None)


def _measure(arguments: argparse.Namespace, traces: Traces, chosen: dict[str, Any], made: dict[str, Any]) -> None:
    for name in QUICK if arguments.quick else ():
        setattr(arguments, name, QUICK[name])
    methods = _methods(arguments, chosen)
    plan = Plan(arguments.split, methods, arguments.classes, arguments.draws, arguments.scenes, arguments.images_dir)
    outcomes = plan.run(traces, Store(arguments.work_dir, plan.basis(traces)))
    found = {
        "stamp": {**made, "quick": arguments.quick},
        "split": plan.split,
        "scenes": len(plan.scored),
        "draws": plan.draws,
        "encoded": traces.encoded,
        "settings": {method.name: dict(method.settings) for method in methods},
        **table(outcomes),
    }
    output = arguments.output_dir or Path("out/quick-fits" if arguments.quick else "docs")
    results = output / "results" / "tokens"
    results.mkdir(parents=True, exist_ok=True)
    name = plan.split
    (results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    every = {name: json.loads(file.read_text()) for name in page.NAMES if (file := results / f"{name}.json").exists()}
    (output / "tokens-measured.md").write_text(page.write(every))
    print(f"wrote {output / 'tokens-measured.md'}")


def _methods(arguments: argparse.Namespace, chosen: dict[str, Any]) -> list[Method]:
    known = registry(chosen)
    names = list(known) if arguments.methods is None else arguments.methods
    lacking = [name for name in names if name not in known]
    if lacking:
        raise SystemExit(
            f"method {lacking[0]!r}: expected one of {', '.join(map(repr, known))}; those that need something chosen "
            "come with `python -m lab.fits tune`"
        )
    return [known[name] for name in names] + [variant(json.loads(each)) for each in arguments.variant]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.fits", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("measure", "tune"),
        default="measure",
        help="tune keeps what was tried before on the same model",
    )
    parser.add_argument(
        "--split",
        choices=page.SPLITS,
        default="validation",
        help="test: for the final table only; generated: pictures, by the oracles",
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="rows of the table (default: all)")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="JSON", help="a further row, as in '{\"pull\": 3}'"
    )
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES), metavar="CLASS")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"annotations of each class (default: {DRAWS})")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"scenes of the split (default: {SCENES})")
    parser.add_argument("--quick", action="store_true", help="one class, to see that it runs; not for publication")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("runs/fits"), help="keeps outcomes, and traces: 35 GB for all tables"
    )
    parser.add_argument("--images-dir", type=Path, default=Path("runs/images"), help="generated pictures")
    parser.add_argument("--chosen", type=Path, help="what `tune` writes and the rivals read")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="*",
        default=RATES,
        help="of the authors' descent, for `tune`; none: the word alone",
    )
    parser.add_argument("--output-dir", type=Path, help="folder of the page (default: docs)")
    return parser


if __name__ == "__main__":
    main()
