"""Arguments and options that several commands share, each with its help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ovam.cli import inputs


class DType(StrEnum):
    """Types of a model's weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Storage(StrEnum):
    """Types that queries are kept in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Strategy(StrEnum):
    """What pixels and words are compared by."""

    attention = "attention"
    output = "output"


class EncodeMethod(StrEnum):
    """What a model looks at of a real image."""

    noise = "noise"
    inversion = "inversion"
    clean = "clean"


_SEEDS = 2**64 - 1
_MANY = 100_000  # more pixels, vectors or scenes than anybody means, and few enough to be counted

Words = Annotated[
    str | None,
    typer.Option(help='Words and phrases, separated by commas: "cat, hot dog, sky".', callback=inputs.text),
]
Tokens = Annotated[
    list[Path] | None,
    typer.Option(
        help="File of optimised tokens, asked beside the words; repeatable.", metavar="<file>", callback=inputs.tokens
    ),
]
Model = Annotated[
    str, typer.Option(help="mini, the folder of a diffusers pipeline, or a model id.", callback=inputs.model)
]
TraceModel = Annotated[
    str | None,
    typer.Option(
        help="The trace's model: mini, a folder or an id; needed unless the trace names mini.", callback=inputs.model
    ),
]
NamedModel = Annotated[
    str, typer.Argument(help="mini, the folder of a diffusers pipeline, or a model id.", callback=inputs.model)
]
Seed = Annotated[
    int, typer.Option(min=0, max=_SEEDS, help="Seed; the images of one run have consecutive seeds.", metavar="<int>")
]
EncodeSeed = Annotated[
    int | None,
    typer.Option(min=0, max=_SEEDS, help="Seed of the noises put on an image.", show_default="0", metavar="<int>"),
]
Steps = Annotated[
    int, typer.Option("--num-inference-steps", min=1, max=10_000, help="Steps of the sampling loop.", metavar="<int>")
]
Side = Annotated[
    int | None,
    typer.Option(
        min=16, max=_MANY, help="In pixels; the model's own by default.", metavar="<int>", callback=inputs.side
    ),
]
Guidance = Annotated[
    float,
    typer.Option(min=0, max=1000, help="Weight of the prompt.", metavar="<float>", callback=inputs.finite),
]
TrueGuidance = Annotated[
    float | None,
    typer.Option(
        "--true-cfg-scale",
        min=0,
        max=1000,
        help="Weight of the prompt against the negative one; FLUX needs it there, above 1.",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
OutputDir = Annotated[
    Path,
    typer.Option(help="Folder to write to; files of the same names are written over.", callback=inputs.output_folder),
]
Beside = Annotated[
    Path | None,
    typer.Option(help="Folder to write to; by default one beside the file.", callback=inputs.output_folder),
]
OutputFile = Annotated[Path, typer.Option(help="File to write, such as cat.safetensors.", callback=inputs.output_file)]
Against = Annotated[
    str | None, typer.Option(help="Words that compete for the label map and are then dropped.", callback=inputs.text)
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Score of the background, between 0 and 1.", show_default="0.5", callback=inputs.share),
]
ByStrategy = Annotated[
    Strategy | None,
    typer.Option(
        "--strategy",
        help="How pixels and words are compared: by attention, or in joint attention (SD3, FLUX) by output.",
        show_default="attention",
    ),
]
Blocks = Annotated[
    str | None,
    typer.Option(
        help="Attention blocks, by commas: grid heights (16), grids (16x24), or names (up_blocks.1).",
        callback=inputs.text,
    ),
]
KeptSteps = Annotated[
    str | None,
    typer.Option(
        "--steps", help="Step numbers from 0, by commas; 10-19 is a range with both its ends.", callback=inputs.text
    ),
]
Weights = Annotated[DType, typer.Option(help="Type of the model's weights.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.", callback=inputs.device)]
LimitGib = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1_000_000,
        help="Most GiB of queries to keep; by default 80 % of the free memory.",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
Stored = Annotated[
    Storage | None, typer.Option("--capture-dtype", help="Type that queries are kept in.", show_default="float16")
]
Outputs = Annotated[
    bool | None,
    typer.Option(
        "--outputs",
        help="Keep attention outputs as well (SD3, FLUX), which --strategy output compares.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings of the model's family for blocks, steps and type, such as small.", callback=inputs.text
    ),
]
Disk = Annotated[
    Path | None,
    typer.Option(
        help="Folder in whose files queries are kept while the command runs, not in memory.",
        callback=inputs.scratch_folder,
    ),
]
EncodePrompt = Annotated[
    str | None,
    typer.Option("--prompt", help="What the model reads with an image; nothing by default.", callback=inputs.text),
]
Method = Annotated[EncodeMethod | None, typer.Option(help="What the model looks at of an image.", show_default="noise")]
TimeSteps = Annotated[
    str | None,
    typer.Option(
        help="Time steps at which it looks, 0 to 999, by commas.", show_default="50 to 650", callback=inputs.text
    ),
]
_LARGEST = 100_000
FitAgainst = Annotated[
    str | None,
    typer.Option(
        "--against",
        help="Words for what else is in pictures, further background rows.",
        show_default="sky, grass, ...",
        callback=inputs.text,
    ),
]
Ignore = Annotated[
    int | None,
    typer.Option(min=0, max=_LARGEST, help="Number of pixels that do not count.", show_default="255", metavar="<int>"),
]
MaskThreshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of white above which a mask's pixel is the object's.",
        show_default="0.5 of soft masks",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
MaskColour = Annotated[
    str | None,
    typer.Option(help="The object's colour in masks of several, such as #ff0000 or red.", callback=inputs.text),
]
Rows = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Vectors of each class.", show_default="3", metavar="<int>")
]
Evaluations = Annotated[
    int | None,
    typer.Option(min=1, max=_LARGEST, help="Most evaluations of the loss.", show_default="20", metavar="<int>"),
]
Pull = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1_000_000,
        help="Weight of staying near the word.",
        show_default="10",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
Licence = Annotated[str | None, typer.Option(help="Under which the tokens may be used.", callback=inputs.text)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
