"""The command line. Each command reads its arguments, calls one function (often in `ovam.commands`), prints the result.

Modules that load torch are imported inside the commands, so that `ovam --help` is fast.
"""

import contextlib
import io
import sys
from typing import Annotated

import typer

from ovam import __version__
from ovam.cli.dataset import dataset_app
from ovam.cli.evaluation import evaluate
from ovam.cli.generation import demo, generate
from ovam.cli.mini import mini_app
from ovam.cli.models import info, plan, verify
from ovam.cli.printing import unprintable
from ovam.cli.questions import maps, segment
from ovam.cli.terminal import Commands, PlainLists
from ovam.cli.tokens import optimize, tokens_app
from ovam.cli.training import train
from ovam.errors import OvamError

app = typer.Typer(
    cls=Commands,
    help="Open-vocabulary attention maps: run a diffusion model once, then query its attention with any words.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its tables cut the names of options at 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, generate, maps, segment, optimize, train, info, plan, verify, evaluate):
    app.command(cls=PlainLists)(command)
app.add_typer(dataset_app, name="dataset")
app.add_typer(mini_app, name="mini")
app.add_typer(tokens_app, name="tokens")


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"ovam {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, warnings and notes.")] = False,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = None,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line; report errors of standard output, which even `--help` can cause."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # None if it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may not be valid in the terminal's encoding
    try:
        app(prog_name="ovam")
    except OSError as error:
        if isinstance(error, OvamError) or "--debug" in sys.argv:
            raise
        with contextlib.suppress(OSError):
            typer.echo(f"error: {unprintable(error)}", err=True)
        sys.exit(1)
