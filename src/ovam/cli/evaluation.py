"""`ovam evaluate`: compare label maps with their truths."""

from pathlib import Path
from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.cli.parameters import AsJson
from ovam.cli.terminal import running, show
from ovam.commands.entry import Question, entry_of


def evaluate(
    predicted: Annotated[
        Path,
        typer.Argument(help="A PNG of label numbers, or a folder of them; 255 is undecided.", callback=inputs.file),
    ],
    truth: Annotated[
        Path,
        typer.Argument(help="A PNG or a folder with files of the same names; 255 is ignored.", callback=inputs.file),
    ],
    names: Annotated[
        Path | None,
        typer.Option(help="JSON file of numbers and names; by default Pascal VOC's 20 classes.", callback=inputs.file),
    ] = None,
    scenes: Annotated[
        Path | None,
        typer.Option(
            help="scenes.jsonl, for figures of slices; by default the one next to the truth's folder.",
            callback=inputs.file,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Folder with an NPY file for each PNG: floats (class, height, width), in the order of the numbers.",
            callback=inputs.file,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Name of the method, for a leaderboard.", callback=inputs.text)
    ] = None,
    question: Annotated[Question | None, typer.Option(help="Names that each picture was queried with.")] = None,
    model: Annotated[
        str | None, typer.Option(help='Model that the method uses, with its version, or "none".', callback=inputs.text)
    ] = None,
    made_with: Annotated[
        str | None, typer.Option(help="Command that made the predictions.", callback=inputs.text)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare label maps with their truths: IoU, boundaries and slices; soft maps with --scores.

    Give --method, --question, --model and --made-with together to get an entry of a leaderboard.
    """
    entry = entry_of(method=method, question=question, model=model, made_with=made_with)
    with running() as progress:
        from ovam.commands.evaluate import evaluate as run

        result = run(predicted, truth, names=names, scenes=scenes, scores=scores, entry=entry, progress=progress)
    show(result, as_json)
