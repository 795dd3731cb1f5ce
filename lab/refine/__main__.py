"""`python -m lab.refine choose|bars|compare`: defaults of refinement and masks, their bars, and what was compared."""

import argparse
import json
import sys
from pathlib import Path

from lab.refine import bars, choose, compare
from ovam.models import load


def main(arguments: list[str]) -> None:
    """Run one of the commands."""
    if arguments[:1] == ["compare"]:
        compare.main(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m lab.refine", description=__doc__)
    parser.add_argument("command", choices=["choose", "bars"])
    parser.add_argument("--model", default="mini", help="a pipeline of the world's classes")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--output", type=Path, help="JSON of all figures")
    parser.add_argument("--dry-run", action="store_true", help="leave the product's defaults as they are")
    given = parser.parse_args(arguments)
    pipe = load(given.model)
    if given.command == "choose":
        found = choose.choose(pipe, given.scenes)
        if not given.dry_run:
            choose.write(found)
    else:
        found = bars.measure(pipe, given.scenes)
        print(bars.table(found))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key not in ("rows", "tried")}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
