"""`python -m lab.refine choose|bars|compare|split`: defaults of refinement and masks, their bars, and comparisons."""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from lab.measure import as_typed, stamp
from lab.mini.measures.words import scenes_of
from lab.refine import bars, choose, compare, page, split
from ovam.mini.scenes import WORLD
from ovam.models import load, model_hash

_QUICK_CLASSES = 3


def main(arguments: list[str]) -> None:
    """Run one of the commands."""
    command, *rest = arguments or ["--help"]
    if command == "compare":
        compare.main(rest)
    elif command == "choose":
        _choose(rest)
    elif command == "bars":
        _bars(rest)
    elif command == "split":
        _split(rest)
    else:
        raise SystemExit(f"{command!r}: expected choose, bars, compare or split; each has --help")


def _choose(given: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.refine choose", description=choose.__doc__)
    _common(parser)
    parser.add_argument("--scenes", type=int, default=200, help="validation scenes (default: 200)")
    parser.add_argument("--output", type=Path, help="JSON of all figures")
    parser.add_argument("--work-dir", type=Path, default=bars.BarOptions.work_dir, help="keeps word gains")
    parser.add_argument("--dry-run", action="store_true", help="leave the product's defaults as they are")
    arguments = parser.parse_args(given)
    found = choose.choose(load(arguments.model), arguments.scenes, arguments.work_dir)
    if not arguments.dry_run:
        choose.write(found)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "tried"}, indent=2))


def _bars(given: list[str]) -> None:
    plain = bars.BarOptions()
    parser = argparse.ArgumentParser(prog="python -m lab.refine bars", description=bars.__doc__)
    _common(parser)
    parser.add_argument("--scenes", type=int, default=plain.scenes, help=f"test scenes (default: {plain.scenes})")
    parser.add_argument(
        "--validation", type=int, default=plain.validation, help=f"validation scenes (default: {plain.validation})"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=plain.pictures,
        help=f"generated pictures of each set (default: {plain.pictures})",
    )
    parser.add_argument("--quick", action="store_true", help="a few pictures, to see that it runs; not for publication")
    parser.add_argument(
        "--work-dir", type=Path, default=plain.work_dir, help="keeps tokens, and gets the counts of every mask"
    )
    parser.add_argument("--images-dir", type=Path, default=plain.images_dir, help="keeps generated pictures")
    parser.add_argument("--output-dir", type=Path, default=Path("docs/results"), help="folder of the page and its JSON")
    arguments = parser.parse_args(given)
    if arguments.quick:
        arguments.scenes, arguments.validation, arguments.pictures = 3, 3, 1
    made = stamp(as_typed("lab.refine", ["bars", *given]))
    pipe = load(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    options = bars.BarOptions(
        scenes=arguments.scenes,
        validation=arguments.validation,
        pictures=arguments.pictures,
        classes=_shown(arguments.scenes) if arguments.quick else plain.classes,
        work_dir=arguments.work_dir,
        images_dir=arguments.images_dir,
    )
    found = {"stamp": made, "quick": arguments.quick, **bars.measure(pipe, options)}
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    rows = found.pop("rows")
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    (arguments.work_dir / "rows.json").write_text(json.dumps(rows) + "\n")
    (arguments.output_dir / "refinement.json").write_text(json.dumps(known(found), indent=1) + "\n")
    (arguments.output_dir / "refinement.md").write_text(page.write(found))
    print(f"wrote {arguments.output_dir / 'refinement.md'}")


def known(value: Any) -> Any:
    """Return a value as JSON can have it: what is not a number is null."""
    if isinstance(value, Mapping):
        return {name: known(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(scenes: int) -> tuple[str, ...]:
    """Return a few classes that the first test scenes show."""
    names = {thing.name for scene in scenes_of("test", scenes) for thing in scene.objects}
    return tuple(sorted(names)[:_QUICK_CLASSES])


def _split(given: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.refine split", description=split.__doc__)
    _common(parser)
    parser.add_argument("--scenes", type=int, default=30, help="scenes with touching things, and as many others")
    parser.add_argument("--output", type=Path, default=Path("docs/results/split.json"))
    arguments = parser.parse_args(given)
    made = stamp(as_typed("lab.refine", ["split", *given]))
    pipe = load(arguments.model)
    found = {"stamp": made, "model": model_hash(pipe), "world": WORLD, **split.compare(pipe, arguments.scenes)}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {arguments.output}")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="a pipeline of the world's classes (default: mini)")


if __name__ == "__main__":
    main(sys.argv[1:])
