"""`ovam mini`: the embedded model and its world."""

from pathlib import Path
from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.cli.arguments import words_of
from ovam.cli.parameters import AsJson, ImagesDir, OutputDir
from ovam.cli.terminal import Summaries, quiet, running, show

mini_app = typer.Typer(
    cls=Summaries,
    help="The embedded model and its world: train, export, report; scenes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@mini_app.command()
def scenes(
    output_dir: OutputDir,
    split: Annotated[
        str, typer.Option(help='train, validation, test, hard, "domain b" or judging.', callback=inputs.text)
    ] = "test",
    n: Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="Number of scenes.", metavar="<int>")] = 50,
    start: Annotated[
        int, typer.Option(min=0, max=1_000_000_000, help="Number of the first scene.", metavar="<int>")
    ] = 0,
    size: Annotated[int, typer.Option(min=32, max=8192, help="Side of the pictures in pixels.", metavar="<int>")] = 128,
    as_json: AsJson = False,
) -> None:
    """Write scenes of the rendered world, the benchmark, with exact maps, captions and slices."""
    with running() as progress:
        from ovam.commands.scenes import export_scenes as run

        result = run(split, n, output_dir, start=start, size=size, progress=progress)
    show(result, as_json)


@mini_app.command()
def train(
    work_dir: Annotated[Path, typer.Option(help="Where its parts and checkpoints lie.")] = Path("runs/mini"),
    start: Annotated[
        Path | None, typer.Option(help="Folder of a pipeline that `export` wrote, to go on from; else the shipped one.")
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Leave the shipped weights aside.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another one makes a sibling, from nothing.")] = 0,
    more: Annotated[
        int, typer.Option(min=0, help="Iterations beyond the recipe's, which the shipped weights have been through.")
    ] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Processes of one thread each that train together.")] = 1,
) -> None:
    """Train the embedded model on, from the folder's checkpoint or the shipped weights: hours on two cores."""
    with quiet():
        from ovam.mini.training.recipe import train as run
        from ovam.models import mini_folder

        run(work_dir, start=None if from_scratch else start or mini_folder(), seed=seed, more=more, processes=processes)


@mini_app.command()
def export(
    output_dir: Annotated[Path, typer.Option(help="Folder of the pipeline that is written.")],
    work_dir: Annotated[Path, typer.Option(help="Where the trained parts lie.")] = Path("runs/mini"),
) -> None:
    """Put the trained parts together as a pipeline's folder."""
    with quiet():
        from ovam.mini.training.recipe import export as run

        run(work_dir, output_dir)


@mini_app.command()
def oracles(
    output_dir: Annotated[Path, typer.Option(help="Folder that the oracles are written to.")],
    work_dir: Annotated[Path, typer.Option(help="Where the training scenes lie.")] = Path("runs/mini"),
    model: Annotated[str, typer.Option(help="The trained model, which imitates: mini or a folder.")] = "mini",
    start: Annotated[Path | None, typer.Option(help="Oracles to go on from; without them from nothing.")] = None,
) -> None:
    """Train the two networks that label generated pictures: an hour and more on two cores."""
    with quiet():
        from ovam.mini.training.recipe import train_oracles_in as run

        run(work_dir, output_dir, model, start)


@mini_app.command()
def images(
    images_dir: ImagesDir = Path("runs/images"),
    n: Annotated[int | None, typer.Option("--n", min=1, help="Pictures of each set, if not the report's.")] = None,
) -> None:
    """Generate the 400 pictures that the report judges; goes on where it was broken off: half an hour on two cores.

    Small copies of scenes, which pictures are compared with, are made as well: some minutes, whatever --n is.
    """
    with quiet():
        from ovam.mini.measures.report import COUNTS
        from ovam.mini.measures.report import make_image_sets as run

        run(images_dir, COUNTS if n is None else dict.fromkeys(COUNTS, n))


@mini_app.command()
def report(
    docs: Annotated[
        Path | None, typer.Option(help="Folder that is written to: docs, or out/quick-report if quick.")
    ] = None,
    images_dir: ImagesDir = Path("runs/images"),
    only: Annotated[str, typer.Option(help="Sections to measure again, by commas: sheet, words, headroom.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="On a few scenes, to see that it runs.")] = False,
) -> None:
    """Measure the embedded model and write its page, figures and contact sheet: half an hour on two cores.

    Sections that the same code measured on the same weights are kept. Pictures that are missing are made, which
    `ovam mini images` does beforehand.
    """
    with quiet():
        from ovam.mini.measures.report import report_on_mini as run

        folder = docs or Path("out/quick-report" if quick else "docs")
        run(folder, images_dir, only=words_of(only) or None, quick=quick)
