"""`ovam tokens`: arguments in, one function of `ovam.commands.tokens` called, its result shown."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.commands.terminal import running

tokens_app = typer.Typer(
    help="Files of optimised tokens: show, merge, check, import.", no_args_is_help=True, rich_markup_mode=None
)
TokenFile = Annotated[Path, typer.Argument(help="File of optimised tokens.")]
TokenOutput = Annotated[Path, typer.Option(help="File to write.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


@tokens_app.command("show")
def show_tokens(file: TokenFile, as_json: AsJson = False) -> None:
    """Tell what a file of tokens is: its classes, text encoder, fit and licence."""
    with running():
        from ovam.commands.tokens import show as run

        result = run(file)
    _show(result, as_json)


@tokens_app.command("merge")
def merge_tokens(
    files: Annotated[list[Path], typer.Argument(help="Files of tokens with different classes.")],
    output: TokenOutput,
    as_json: AsJson = False,
) -> None:
    """Write several files' tokens as one; no class's map is changed."""
    with running():
        from ovam.commands.tokens import merge_files as run

        result = run(files, output)
    _show(result, as_json)


@tokens_app.command("check")
def check_tokens(
    file: TokenFile,
    model: Annotated[str | None, typer.Option(help="A model: mini, a folder or an id.")] = None,
    trace: Annotated[Path | None, typer.Option(help="A trace, such as run.safetensors.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether tokens are whole, and whether they can be used with a model or a trace."""
    with running():
        from ovam.commands.tokens import check as run

        result = run(file, model=model, trace=trace)
    _show(result, as_json)


@tokens_app.command("import")
def import_tokens(
    file: Annotated[Path, typer.Argument(help="An .npy file as the paper's authors published them.")],
    output: TokenOutput,
    model: Annotated[str, typer.Option(help="Model they were made for: a folder or an id.")],
    word: Annotated[str | None, typer.Option(help="Class, where the file has one and no name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write tokens that the paper's authors published as a file of tokens; nothing in theirs is run."""
    with running():
        from ovam.commands.tokens import import_file as run

        result = run(file, output, model=model, word=word)
    _show(result, as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    from ovam.commands.summary import show

    show(result, as_json=as_json)
