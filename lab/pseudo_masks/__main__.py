"""Measure all methods with words and tokens, and the ablations; write docs/results/pseudo-masks.md and its JSON."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from lab.measure import as_typed
from lab.pseudo_masks.ablations import ABLATIONS
from lab.pseudo_masks.annotators import ORACLE, annotator_of
from lab.pseudo_masks.benchmark import PROTOCOLS, read_items, write_benchmark
from lab.pseudo_masks.examples import SCENES, SIMPLE, Source
from lab.pseudo_masks.report import ReportOptions, report
from lab.pseudo_masks.truth import Annotations
from lab.pseudo_masks.world import WORLD_SETS, World
from ovam.errors import OptionError, OvamError
from ovam.models import load

QUICK_CLASSES, QUICK_SETS = ("bicycle", "motorbike", "person"), (SCENES, SIMPLE)  # what the first pictures show


def main(given: list[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: something that was given can't be used.
    """
    words = sys.argv[1:] if given is None else given
    arguments = _parser().parse_args(words)
    command = as_typed("lab.pseudo_masks", words)
    try:
        page = _benchmark(arguments, command) if arguments.protocol else _report(arguments, command)
    except OvamError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"wrote {page}")


def _report(arguments: argparse.Namespace, command: str) -> Path:
    source = _source(arguments)
    options = _options(arguments, source, command)
    report(_loaded(arguments.model), source, options)
    found: Path = arguments.output_dir / "pseudo-masks.md"
    return found


def _benchmark(arguments: argparse.Namespace, command: str) -> Path:
    if arguments.truth is None:
        raise OptionError(f"--protocol {arguments.protocol} without --truth: expected the folder of the benchmark")
    read_items(arguments.truth, arguments.protocol)  # what is wrong with the folder is told before the model is loaded
    count = 3 if arguments.quick else arguments.scenes
    return write_benchmark(
        _loaded(arguments.model),
        arguments.truth,
        arguments.protocol,
        count=count,
        work=arguments.work_dir,
        output=arguments.output_dir,
        command=command,
        model=arguments.model,
    )


def _loaded(model: str) -> Any:
    pipe = load(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.truth is None:
        return World(arguments.images_dir, annotator_of(arguments.annotator))
    for name in ("sets", "annotator"):
        if getattr(arguments, name) != _parser().get_default(name):
            raise OptionError(f"--{name} with --truth, whose pictures are its own: leave --{name} out")
    return Annotations(arguments.truth)


def _options(arguments: argparse.Namespace, source: Source, command: str) -> ReportOptions:
    few = arguments.quick
    return ReportOptions(
        command=command,
        model=arguments.model,
        sets=_sets(arguments, source),
        ablations=_ablations(arguments),
        classes=_classes(arguments, source),
        scenes=6 if few else arguments.scenes,
        pictures=3 if few else arguments.pictures,
        validation=4 if few else arguments.validation,
        weights=arguments.weights,
        note=arguments.note,
        work=arguments.work_dir,
        output=arguments.output_dir,
        summary=arguments.summary,
    )


def _sets(arguments: argparse.Namespace, source: Source) -> Sequence[str]:
    if arguments.sets is None:
        return QUICK_SETS if arguments.quick and arguments.truth is None else source.sets
    chosen: Sequence[str] = arguments.sets
    return chosen


def _ablations(arguments: argparse.Namespace) -> Sequence[str]:
    possible = [name for name in ABLATIONS if arguments.truth is None or name != "steps"]
    if arguments.ablations is None:
        return ["postprocessing"] if arguments.quick else possible
    if "steps" in arguments.ablations and "steps" not in possible:
        raise OptionError(
            "--ablations steps with --truth: a picture that was not generated has no denoiser calls to choose from; "
            f"expected some of {', '.join(possible)}"
        )
    chosen: Sequence[str] = arguments.ablations
    return chosen


def _classes(arguments: argparse.Namespace, source: Source) -> list[str]:
    if arguments.classes is None:
        return list(QUICK_CLASSES) if arguments.quick and arguments.truth is None else list(source.classes)
    unknown = [name for name in arguments.classes if name not in source.classes]
    if unknown:
        raise OptionError(
            f"--classes {', '.join(map(repr, unknown))}: no class of the pictures has this name; expected some of "
            f"{', '.join(map(repr, source.classes))}"
        )
    return list(arguments.classes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.pseudo_masks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="mini", help="mini, or a pipeline: of the same world, or any with --truth")
    parser.add_argument("--sets", nargs="*", choices=WORLD_SETS, default=None, help="all by default")
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FOLDER",
        help="measure on annotated pictures instead: Pascal VOC's layout, or images/, labels/ and names.json",
    )
    parser.add_argument(
        "--annotator",
        default=ORACLE,
        metavar="oracle|FOLDER",
        help="what labels generated pictures: both oracles, a segmenter, or a folder of label maps with names.json",
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, help="score a public benchmark, named by --truth, as a paper does"
    )
    parser.add_argument("--ablations", nargs="*", choices=ABLATIONS, default=None, help="all by default")
    parser.add_argument("--classes", nargs="*", default=None, metavar="CLASS", help="all by default")
    parser.add_argument("--scenes", type=int, default=200, help="test scenes, or pictures of --truth")
    parser.add_argument("--pictures", type=int, default=100, help="generated pictures of each set, and of ablations")
    parser.add_argument("--validation", type=int, default=100, help="pictures that thresholds are chosen on")
    parser.add_argument("--quick", action="store_true", help="a few pictures of three classes, to see that all runs")
    parser.add_argument(
        "--weights",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="weights of trained methods, which become rows: see python -m lab.methods train",
    )
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/pseudo-masks"))
    parser.add_argument("--images-dir", type=Path, default=Path("runs/images"))
    parser.add_argument("--output-dir", type=Path, default=Path("docs/results"))
    parser.add_argument("--summary", type=Path, metavar="PAGE", help="write a short table into this page as well")
    return parser


if __name__ == "__main__":
    main()
