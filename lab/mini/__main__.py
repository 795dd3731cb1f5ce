"""Train the embedded model, make its pictures and oracles, measure it: what `ovam` itself does not need."""

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import typer

from ovam.cli.terminal import Commands, quiet

app = typer.Typer(
    cls=Commands,
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
ImagesDir = Annotated[Path, typer.Option(help="Folder of the generated pictures, with their manifests.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, warnings and notes.")] = False,
) -> None:
    """Options of every command."""


@app.command()
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
        from lab.mini.training.recipe import train as run
        from ovam.models import mini_folder

        run(work_dir, start=None if from_scratch else start or mini_folder(), seed=seed, more=more, processes=processes)


@app.command()
def export(
    output_dir: Annotated[Path, typer.Option(help="Folder of the pipeline that is written.")],
    work_dir: Annotated[Path, typer.Option(help="Where the trained parts lie.")] = Path("runs/mini"),
) -> None:
    """Put the trained parts together as a pipeline's folder."""
    with quiet():
        from lab.mini.training.recipe import export as run

        run(work_dir, output_dir)


@app.command("text-head")
def text_head(
    model: Annotated[Path, typer.Option(help="Folder of a pipeline with a picture tower; it gets the file.")],
    work_dir: Annotated[Path, typer.Option(help="Where the training scenes lie.")] = Path("runs/mini"),
) -> None:
    """Fit what `ovam dataset score --clip` needs beside the towers: some minutes on two cores."""
    with quiet():
        from lab.mini.training.text_head import fit_text_head as run

        print(f"{run(model, work_dir):.2f} of the texts find their own picture among 96")


@app.command()
def oracles(
    output_dir: Annotated[Path, typer.Option(help="Folder that the oracles are written to.")],
    work_dir: Annotated[Path, typer.Option(help="Where the training scenes lie.")] = Path("runs/mini"),
    model: Annotated[str, typer.Option(help="The trained model, which imitates: mini or a folder.")] = "mini",
    start: Annotated[Path | None, typer.Option(help="Oracles to go on from; without them from nothing.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=2, help="2 trains both at the same time.")] = 1,
) -> None:
    """Train the two networks that label generated pictures: an hour and more on two cores."""
    with quiet():
        from lab.mini.training.recipe import train_oracles_in as run

        run(work_dir, output_dir, model, start, processes)


@app.command()
def images(
    images_dir: ImagesDir = Path("runs/images"),
    n: Annotated[int | None, typer.Option("--n", min=1, help="Pictures of each set, if not the report's.")] = None,
) -> None:
    """Generate the 400 pictures that the report judges; goes on where it was broken off: half an hour on two cores.

    Small copies of scenes, which pictures are compared with, are made as well: some minutes, whatever --n is.
    """
    with quiet():
        from lab.mini.measures.report import COUNTS
        from lab.mini.measures.report import make_image_sets as run

        run(images_dir, COUNTS if n is None else dict.fromkeys(COUNTS, n))


@app.command()
def report(
    docs: Annotated[
        Path | None, typer.Option(help="Folder that is written to: docs, or out/quick-report if quick.")
    ] = None,
    images_dir: ImagesDir = Path("runs/images"),
    only: Annotated[str, typer.Option(help="Sections to measure again, by commas: sheet, words, headroom.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="On a few scenes, to see that it runs.")] = False,
) -> None:
    """Measure the embedded model and write its pages, figures and contact sheet: half an hour on two cores.

    Sections that the same code measured on the same weights are kept. Pictures that are missing are made, which
    `python -m lab.mini images` does beforehand.
    """
    with quiet():
        from lab.mini.measures.report import report_on_mini as run

        folder = docs or Path("out/quick-report" if quick else "docs")
        run(folder, images_dir, only=[name.strip() for name in only.split(",") if name.strip()] or None, quick=quick)


@app.command()
def blind(
    docs: Annotated[Path, typer.Option(help="Folder that the report was written to.")] = Path("docs"),
    answers: Annotated[
        Path | None, typer.Option(help="JSON list of the class of each picture, in the order of the sheet's numbers.")
    ] = None,
) -> None:
    """Make the sheet of the blind test, or score the answers of a judge who has not seen the prompts."""
    with quiet():
        from lab.mini.measures.report import judge_blind as run

        print(f"wrote {run(docs, answers)}")


if __name__ == "__main__":
    app(prog_name="python -m lab.mini")
