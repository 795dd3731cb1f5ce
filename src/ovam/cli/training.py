"""`ovam train`: train a segmenter on labelled data sets."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.cli.parameters import AsJson
from ovam.cli.terminal import running, show

_SEEDS = 2**32 - 1
_MANY = 100_000_000
_WEIGHTED = re.compile(r"(?P<folder>.+):(?P<weight>\d+(\.\d*)?|\.\d+)")


class Precision(StrEnum):
    """Types for the computation."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def train(
    data: Annotated[
        list[str],
        typer.Option(
            help="Folder of a labelled data set, with its weight in every batch: real:1; repeatable.",
            metavar="<folder[:weight]>",
            callback=inputs.text,
        ),
    ],
    val: Annotated[Path, typer.Option(help="Folder of a labelled data set to validate on.", callback=inputs.file)],
    output_dir: Annotated[
        Path, typer.Option(help="Folder for the model, the report and checkpoints.", callback=inputs.output_folder)
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="segformer-b0, upernet-convnext or mask2former with random weights; or a model's folder or id.",
            callback=inputs.text,
        ),
    ] = "segformer-b0",
    steps: Annotated[int, typer.Option(min=1, max=_MANY, help="Steps of the optimiser.", metavar="<int>")] = 2000,
    batch_size: Annotated[
        int, typer.Option(min=1, max=100_000, help="Pictures in a batch, on each device.", metavar="<int>")
    ] = 8,
    accumulate: Annotated[
        int, typer.Option(min=1, max=100_000, help="Batches that are added up for a step.", metavar="<int>")
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=10,
            help="Highest learning rate.",
            show_default="5e-4, or 6e-5 for a model with weights",
            metavar="<float>",
            callback=inputs.finite,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=4096,
            help="Side of the training squares, and short side of the pictures to label, in pixels; a multiple of 32.",
            show_default="the pictures' median, at most 512",
            metavar="<int>",
        ),
    ] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MANY,
            help="Steps between two validations, with a checkpoint each.",
            show_default="a tenth of the steps",
            metavar="<int>",
        ),
    ] = None,
    augment: Annotated[bool, typer.Option(help="Vary pictures: mirrored, cut, enlarged, colours, blur.")] = True,
    flip: Annotated[bool, typer.Option(help="Mirror pictures left to right; not for letters or traffic.")] = True,
    precision: Annotated[
        Precision, typer.Option(help="Type to calculate in; auto is bfloat16 on GPUs that have it.")
    ] = Precision.auto,
    device: Annotated[
        str | None,
        typer.Option(
            help="Only cpu; CUDA_VISIBLE_DEVICES chooses a GPU.",
            show_default="a GPU if there is one",
            callback=inputs.device,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=1000, help="Processes that read pictures.", metavar="<int>")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=_SEEDS, help="Seed of weights and order.", metavar="<int>")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that was stopped here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a segmenter on labelled data sets; the folder that it writes loads with transformers alone."""
    with running() as progress:
        from ovam.commands.train import options_of
        from ovam.train import train as run
        from ovam.train.processes import is_main

        options = options_of(
            {
                "arch": arch,
                "steps": steps,
                "batch_size": batch_size,
                "accumulate": accumulate,
                "learning_rate": learning_rate,
                "size": size,
                "evaluate_every": evaluate_every,
                "seed": seed,
                "precision": precision.value,
                "workers": workers,
            },
            augment=augment,
            flip=flip,
        )
        sets = [weighted(each) for each in data]
        result = run(sets, val, output_dir, options=options, resume=resume, device=device, progress=progress)
    if is_main():
        show(result, as_json)


def weighted(text: str) -> tuple[Path, float]:
    """Read a folder with its weight, 1 if there is none. A folder whose own name ends like ":2" has the weight 1.

    Example:
        >>> weighted("real:2"), weighted("real")
        ((PosixPath('real'), 2.0), (PosixPath('real'), 1.0))
    """
    found = _WEIGHTED.fullmatch(text)
    if found is None or Path(text).is_dir():
        return Path(text), 1.0
    return Path(found["folder"]), float(found["weight"])
