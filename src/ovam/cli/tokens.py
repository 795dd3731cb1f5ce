"""`ovam optimize` and `ovam tokens`: fit tokens; choose their thresholds; show, merge, check and import their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import torch_type
from ovam.cli.mask_parameters import Refine
from ovam.cli.parameters import AsJson, Device, DType, OutputFile, Seed, TraceModel, Weights
from ovam.cli.stages import FIT, taking
from ovam.cli.terminal import PlainLists, Summaries, running, show

tokens_app = typer.Typer(
    cls=Summaries,
    help="Files of optimised tokens: thresholds, show, merge, check, import.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
TokenFile = Annotated[Path, typer.Argument(help="File of optimised tokens.", callback=inputs.tokens)]
Details = Annotated[bool, typer.Option("--details", help="Also show how each class was fitted.")]
_LARGEST = 100_000
Masks = Annotated[
    list[Path],
    typer.Option(
        help="Picture, or JSON of COCO or labelme, at its image's size; repeatable.",
        metavar="<file>",
        callback=inputs.file,
    ),
]
Words = Annotated[
    list[str],
    typer.Option(help="Class of each mask, or one for all; repeatable.", metavar="<str>", callback=inputs.text),
]
Images = Annotated[
    list[Path] | None, typer.Option(help="Image of each mask; repeatable.", metavar="<file>", callback=inputs.file)
]
Traces = Annotated[
    list[Path] | None,
    typer.Option(help="Trace of each further mask; repeatable.", metavar="<file>", callback=inputs.trace),
]
Labels = Annotated[
    list[int] | None,
    typer.Option(
        min=0, max=_LARGEST, help="Number of each word, if masks are label maps; repeatable.", metavar="<int>"
    ),
]


@taking(fit=FIT)
def optimize(
    mask: Masks,
    word: Words,
    output: OutputFile,
    image: Images = None,
    trace: Traces = None,
    label: Labels = None,
    model: TraceModel = None,
    seed: Seed = 0,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    details: Details = False,
    as_json: AsJson = False,
    *,
    fit: Mapping[str, Any],
) -> None:
    """Fit tokens to annotated images or traces and write them to a file; each class needs at least one annotation."""
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
            options=FitOptions(**fit),
            seed=seed,
            dtype=torch_type(dtype),
            device=device,
            progress=progress,
        )
    show(result, as_json, details=details)


@tokens_app.command("thresholds")
def choose_thresholds(
    file: TokenFile,
    mask: Masks,
    word: Words,
    output: OutputFile,
    image: Images = None,
    trace: Traces = None,
    label: Labels = None,
    without: Annotated[
        list[Path] | None,
        typer.Option(help="Image without any of the classes; repeatable.", metavar="<file>", callback=inputs.file),
    ] = None,
    refine: Refine = None,
    model: TraceModel = None,
    seed: Seed = 0,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    details: Details = False,
    as_json: AsJson = False,
) -> None:
    """Choose thresholds of tokens on annotated images that the fit did not see; segmenting then uses them."""
    with running() as progress:
        from ovam.commands.tokens import thresholds as run

        result = run(
            file,
            mask,
            word,
            output=output,
            images=image or (),
            traces=trace or (),
            without=without or (),
            labels=label or (),
            refine=bool(refine),
            model=model,
            seed=seed,
            dtype=torch_type(dtype),
            device=device,
            progress=progress,
        )
    show(result, as_json, details=details)


@tokens_app.command("show")
def show_tokens(file: TokenFile, details: Details = False, as_json: AsJson = False) -> None:
    """Show the classes, text encoder, fit and licence of a token file."""
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
    """Merge several token files into one; the maps of the classes do not change."""
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
    """Check that a token file is complete and that its tokens can be used with a model or a trace."""
    with running():
        from ovam.commands.tokens import check as run

        result = run(file, model=model, trace=trace)
    show(result, as_json)


@tokens_app.command("import")
def import_tokens(
    file: Annotated[
        Path, typer.Argument(help="An .npy file in the format of the paper's authors.", callback=inputs.file)
    ],
    output: OutputFile,
    model: Annotated[
        str, typer.Option(help="Model that the tokens were made for: a folder or an id.", callback=inputs.model)
    ],
    word: Annotated[
        str | None, typer.Option(help="Name of the class, if the file has none.", callback=inputs.text)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert tokens that the paper's authors published to a token file; no code in their file runs."""
    with running():
        from ovam.commands.tokens import import_file as run

        result = run(file, output, model=model, word=word)
    show(result, as_json)
