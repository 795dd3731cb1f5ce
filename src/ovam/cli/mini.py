"""`ovam mini`: the rendered scenes that the embedded model knows."""

from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.cli.parameters import AsJson, OutputDir
from ovam.cli.terminal import Summaries, running, show

mini_app = typer.Typer(
    cls=Summaries, help="The rendered scenes of the embedded model.", no_args_is_help=True, rich_markup_mode=None
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
    """Write rendered scenes for the benchmark, with exact maps, captions and slices."""
    with running() as progress:
        from ovam.commands.scenes import export_scenes as run

        result = run(split, n, output_dir, start=start, size=size, progress=progress)
    show(result, as_json)
