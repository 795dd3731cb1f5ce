"""Train a method that needs weights of its own, on pictures of the embedded model's world."""

import argparse
from pathlib import Path
from typing import Any

from lab.methods.classes import UNSEEN, seen_without
from lab.methods.run import FEWEST, TrainingOptions, run


def main(given: list[str]) -> None:
    """Run the command."""
    arguments = _parser().parse_args(given)
    options: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name != "unseen"}
    unseen = UNSEEN[arguments.split] if arguments.unseen is None else tuple(arguments.unseen)
    del options["split"]
    run(TrainingOptions(**options, seen=seen_without(unseen), unseen=unseen))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.methods train", description=__doc__, allow_abbrev=False)
    parser.add_argument("method", choices=tuple(FEWEST))
    parser.add_argument("--output", type=Path, required=True, help="file of the weights")
    parser.add_argument("--model", default="mini", help="mini, or the folder of a pipeline with a UNet")
    parser.add_argument("--size", type=int, help="side of the rendered scenes in pixels (default: the model's own)")
    parser.add_argument(
        "--pictures",
        choices=("scenes", "generated"),
        default="scenes",
        help="rendered scenes with exact masks, or pictures that mini makes, labelled by the oracles",
    )
    parser.add_argument("--count", type=int, default=300, help="pictures to learn from (default: 300)")
    parser.add_argument("--iterations", type=int, help="steps of training, one picture each")
    parser.add_argument("--rate", type=float, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--split", type=int, choices=tuple(UNSEEN), default=1, help="which five classes are not seen, as published"
    )
    parser.add_argument("--unseen", nargs="*", metavar="CLASS", help="other classes that are not seen; none: all are")
    parser.add_argument(
        "--top-instance",
        action="store_true",
        help="grounded: the largest object of a class is the target, as in the authors' code, and not all of them",
    )
    parser.add_argument(
        "--as-released",
        action="store_true",
        help="datasetdm: tell the decoder one class name for every picture, as the authors' loader does",
    )
    parser.add_argument("--validation", type=int, default=50, help="scenes to measure on at the end (default: 50)")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("runs/methods"), help="keeps pictures, features and checkpoints"
    )
    return parser
