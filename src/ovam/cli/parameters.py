"""Arguments and options of several commands, each with its help."""

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
    """Types that queries are stored in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Strategy(StrEnum):
    """How pixels and words are compared."""

    attention = "attention"
    output = "output"


class SegmentMethod(StrEnum):
    """Published methods that make masks, by the names in `ovam.methods`."""

    daam = "daam"
    attn2mask = "attn2mask"
    published_ovam = "published-ovam"
    dataset_diffusion = "dataset-diffusion"
    grounded = "grounded"
    datasetdm = "datasetdm"


class EncodeMethod(StrEnum):
    """How a real image becomes the model's input."""

    noise = "noise"
    inversion = "inversion"
    clean = "clean"


_SEEDS = 2**64 - 1
_MANY = 100_000  # more than anybody needs, and few enough to handle

Words = Annotated[
    str | None,
    typer.Option(help='Words and phrases, separated by commas: "cat, hot dog, sky".', callback=inputs.text),
]
Tokens = Annotated[
    list[Path] | None,
    typer.Option(
        help="File of optimised tokens, used like words; repeatable.", metavar="<file>", callback=inputs.tokens
    ),
]
Model = Annotated[
    str, typer.Option(help="mini, the folder of a diffusers pipeline, or a model id.", callback=inputs.model)
]
TraceModel = Annotated[
    str | None,
    typer.Option(
        help="The trace's model: mini, a folder or an id; required unless the trace names mini.", callback=inputs.model
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
    typer.Option(min=0, max=_SEEDS, help="Seed of the noise added to an image.", show_default="0", metavar="<int>"),
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
        help="Weight of the prompt against --negative-prompt, above 1; only FLUX has it, and needs both together.",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
OutputDir = Annotated[
    Path,
    typer.Option(help="Folder to write to; files of the same names are overwritten.", callback=inputs.output_folder),
]
Beside = Annotated[
    Path | None,
    typer.Option(help="Folder to write to; by default one next to the file.", callback=inputs.output_folder),
]
OutputFile = Annotated[Path, typer.Option(help="File to write, such as cat.safetensors.", callback=inputs.output_file)]
Against = Annotated[
    str | None,
    typer.Option(
        help="Contrast words: pixels where one of these words is stronger become background.", callback=inputs.text
    ),
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
        help="Attention blocks, separated by commas: grid heights (16), grids (16x24), "
        "sizes relative to the finest (1/4), names (up_blocks.1), or all.",
        callback=inputs.text,
    ),
]
KeptSteps = Annotated[
    str | None,
    typer.Option(
        "--steps", help="Step numbers from 0, separated by commas; 10-19 includes both ends.", callback=inputs.text
    ),
]
Weights = Annotated[DType, typer.Option(help="Type of the model's weights.")]
Device = Annotated[str, typer.Option(help="Device of the model: cpu, cuda, cuda:1.", callback=inputs.device)]
LimitGib = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1_000_000,
        help="Maximum GiB of stored queries; by default 80 % of the free memory.",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
Stored = Annotated[
    Storage | None, typer.Option("--capture-dtype", help="Type that queries are stored in.", show_default="float16")
]
Outputs = Annotated[
    bool | None,
    typer.Option(
        "--outputs",
        help="Also store attention outputs (SD3, FLUX), for --strategy output.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(help="Preset of blocks, steps and type for the model's family, such as small.", callback=inputs.text),
]
Disk = Annotated[
    Path | None,
    typer.Option(
        help="Folder to store queries in while the command runs, instead of memory.",
        callback=inputs.scratch_folder,
    ),
]
EncodePrompt = Annotated[
    str | None,
    typer.Option("--prompt", help="Prompt for encoding an image; empty by default.", callback=inputs.text),
]
Encoding = Annotated[
    EncodeMethod | None,
    typer.Option("--encode-method", help="How an image becomes the model's input.", show_default="noise"),
]
Method = Annotated[
    SegmentMethod | None,
    typer.Option(
        help="A published method makes the masks instead, with its own numbers; --threshold and --crf change these.",
        show_default=False,
    ),
]
MethodWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="File of weights for --method grounded or datasetdm, trained on the model.",
        metavar="<file>",
        callback=inputs.weights,
    ),
]
Gains = Annotated[
    bool | None,
    typer.Option(
        "--gains",
        help="Also ask the denoiser about each word: slower, and tells better what is there.",
        show_default=False,
    ),
]
TimeSteps = Annotated[
    str | None,
    typer.Option(
        help="Time steps for encoding an image, 0 to 999, separated by commas.",
        show_default="50 to 650",
        callback=inputs.text,
    ),
]
_LARGEST = 100_000
FitAgainst = Annotated[
    str | None,
    typer.Option(
        "--against",
        help="Words for other things in the pictures, which count as background.",
        show_default="sky, grass, ...",
        callback=inputs.text,
    ),
]
Ignore = Annotated[
    int | None,
    typer.Option(min=0, max=_LARGEST, help="Label number of ignored pixels.", show_default="255", metavar="<int>"),
]
MaskThreshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="A pixel of a mask belongs to the object if its value, divided by white, is above this.",
        show_default="0.5 of soft masks",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
MaskColour = Annotated[
    str | None,
    typer.Option(help="The object's colour in masks with several colours: #ff0000 or red.", callback=inputs.text),
]
Rows = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Vectors per class.", show_default="3", metavar="<int>")
]
Evaluations = Annotated[
    int | None,
    typer.Option(min=1, max=_LARGEST, help="Maximum evaluations of the loss.", show_default="20", metavar="<int>"),
]
Pull = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1_000_000,
        help="Weight of the loss term that keeps a token near its word.",
        show_default="10",
        metavar="<float>",
        callback=inputs.finite,
    ),
]
Licence = Annotated[str | None, typer.Option(help="Licence of the tokens.", callback=inputs.text)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
