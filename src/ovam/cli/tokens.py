"""`ovam optimize` and `ovam tokens`: fit tokens to annotations; show, merge, check and import their files."""

from pathlib import Path
from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.cli.arguments import blocks_of, given, steps_of, torch_type, words_of
from ovam.cli.parameters import AsJson, Blocks, Device, DType, KeptSteps, OutputFile, Seed, TraceModel, Weights
from ovam.cli.terminal import PlainLists, Summaries, running, show

tokens_app = typer.Typer(
    cls=Summaries,
    help="Files of optimised tokens: show, merge, check, import.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
TokenFile = Annotated[Path, typer.Argument(help="File of optimised tokens.", callback=inputs.tokens)]
Details = Annotated[bool, typer.Option("--details", help="Tell of each class how it was fitted, too.")]
_LARGEST = 100_000


def optimize(
    mask: Annotated[
        list[Path],
        typer.Option(
            help="Picture, or JSON of COCO or labelme, at its image's size; repeatable.",
            metavar="<file>",
            callback=inputs.file,
        ),
    ],
    word: Annotated[
        list[str],
        typer.Option(help="Class of each mask, or of all; repeatable.", metavar="<str>", callback=inputs.text),
    ],
    output: OutputFile,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image of each mask; repeatable.", metavar="<file>", callback=inputs.file),
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(help="Trace of each further mask; repeatable.", metavar="<file>", callback=inputs.trace),
    ] = None,
    label: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=_LARGEST,
            help="Number of each word where masks are label maps; repeatable.",
            metavar="<int>",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Words for what else is in pictures, further background rows.",
            show_default="sky, grass, ...",
            callback=inputs.text,
        ),
    ] = None,
    ignore: Annotated[
        int | None,
        typer.Option(
            min=0, max=_LARGEST, help="Number of pixels that do not count.", show_default="255", metavar="<int>"
        ),
    ] = None,
    mask_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of white above which a mask's pixel is the object's.",
            show_default="0.5 of soft masks",
            metavar="<float>",
            callback=inputs.finite,
        ),
    ] = None,
    mask_colour: Annotated[
        str | None,
        typer.Option(help="The object's colour in masks of several, such as #ff0000 or red.", callback=inputs.text),
    ] = None,
    model: TraceModel = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Vectors of each class.", show_default="3", metavar="<int>"),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, max=_LARGEST, help="Most evaluations of the loss.", show_default="20", metavar="<int>"),
    ] = None,
    pull: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1_000_000,
            help="Weight of staying near the word.",
            show_default="10",
            metavar="<float>",
            callback=inputs.finite,
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Under which the tokens may be used.", callback=inputs.text)
    ] = None,
    seed: Seed = 0,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    details: Details = False,
    as_json: AsJson = False,
) -> None:
    """Fit a token to annotated images or traces, one annotation a class at least, and write it to a file."""
    reading = given(mask_threshold=mask_threshold, mask_colour=mask_colour)
    fit = given(rows=rows, ignore=ignore, evaluations=evaluations, pull=pull, licence=licence)
    kept = given(blocks=blocks_of(blocks), steps=steps_of(steps))
    with running() as progress:
        from ovam.commands.tokens import optimize as run
        from ovam.tokens.options import FitOptions

        result = run(
            mask,
            word,
            output=output,
            images=image or (),
            traces=trace or (),
            labels=label or (),
            model=model,
            options=FitOptions(**kept, **fit, **reading, against=None if against is None else words_of(against)),
            seed=seed,
            dtype=torch_type(dtype),
            device=device,
            progress=progress,
        )
    show(result, as_json, details=details)


@tokens_app.command("show")
def show_tokens(file: TokenFile, details: Details = False, as_json: AsJson = False) -> None:
    """Tell what a file of tokens is: its classes, text encoder, fit and licence."""
    with running():
        from ovam.commands.tokens import show as run

        result = run(file)
    show(result, as_json, details=details)


@tokens_app.command("merge", cls=PlainLists)
def merge_tokens(
    files: Annotated[
        list[Path], typer.Argument(help="Files of tokens with different classes.", callback=inputs.tokens)
    ],
    output: OutputFile,
    as_json: AsJson = False,
) -> None:
    """Write several files' tokens as one; no class's map is changed."""
    with running():
        from ovam.commands.tokens import merge_files as run

        result = run(files, output)
    show(result, as_json)


@tokens_app.command("check")
def check_tokens(
    file: TokenFile,
    model: Annotated[str | None, typer.Option(help="A model: mini, a folder or an id.", callback=inputs.model)] = None,
    trace: Annotated[Path | None, typer.Option(help="A trace, such as run.safetensors.", callback=inputs.trace)] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether tokens are whole, and whether they can be used with a model or a trace."""
    with running():
        from ovam.commands.tokens import check as run

        result = run(file, model=model, trace=trace)
    show(result, as_json)


@tokens_app.command("import")
def import_tokens(
    file: Annotated[
        Path, typer.Argument(help="An .npy file as the paper's authors published them.", callback=inputs.file)
    ],
    output: OutputFile,
    model: Annotated[str, typer.Option(help="Model they were made for: a folder or an id.", callback=inputs.model)],
    word: Annotated[
        str | None, typer.Option(help="Class, where the file has one and no name.", callback=inputs.text)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write tokens that the paper's authors published as a file of tokens; nothing in theirs is run."""
    with running():
        from ovam.commands.tokens import import_file as run

        result = run(file, output, model=model, word=word)
    show(result, as_json)
