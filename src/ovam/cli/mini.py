"""`ovam mini`: the embedded model's world."""

from pathlib import Path
from typing import Annotated

import typer

from ovam.cli.parameters import AsJson
from ovam.cli.terminal import running, show

mini_app = typer.Typer(help="The embedded model's world: its scenes.", no_args_is_help=True, rich_markup_mode=None)


@mini_app.command()
def scenes(
    output_dir: Annotated[Path, typer.Option(help="Folder to write to; files of the same names are written over.")],
    split: Annotated[str, typer.Option(help='train, validation, test, hard, "domain b" or judging.')] = "test",
    n: Annotated[int, typer.Option("--n", min=1, help="Number of scenes.")] = 50,
    start: Annotated[int, typer.Option(min=0, help="Number of the first scene.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side of the pictures in pixels.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Write scenes of the rendered world, the benchmark, with exact maps, captions and slices."""
    with running() as progress:
        from ovam.commands.scenes import export_scenes as run

        result = run(split, n, output_dir, start=start, size=size, progress=progress)
    show(result, as_json)
