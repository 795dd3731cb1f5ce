"""Options of refining and of masks, each with its help."""

from enum import StrEnum
from typing import Annotated

import typer

from ovam.cli import inputs
from ovam.defaults import CHOSEN


class Refining(StrEnum):
    """How self-attention refines maps."""

    powers = "powers"
    restart = "restart"
    sharpened = "sharpened"


_CHOSEN = CHOSEN["refine"]
_MANY = 100_000_000  # pixels, more than any image has

Refine = Annotated[
    bool | None,
    typer.Option("--refine", help="Refine the maps by the image's self-attention first.", show_default=False),
]
RefineMethod = Annotated[
    Refining | None, typer.Option(help="How maps are refined; includes --refine.", show_default=str(_CHOSEN["method"]))
]
Products = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Products with the self-attention; includes --refine.",
        show_default=str(_CHOSEN["products"]),
        metavar="<int>",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "--background",
        help="Score of the background, between 0 and 1.",
        show_default="0.5",
        callback=inputs.share,
    ),
]
Presence = Annotated[
    float | None,
    typer.Option(help="Words with less presence get no pixels: 0.5, for example.", callback=inputs.presence),
]
Crf = Annotated[
    bool | None,
    typer.Option("--crf", help="Make masks follow the image's edges, by a dense CRF.", show_default=False),
]
Undecided = Annotated[
    float | None,
    typer.Option(
        "--ignore",
        help="Pixels whose best score is nearer than this to the background's get the label 255; below 0.5.",
        show_default="0",
        callback=inputs.band,
    ),
]
MinArea = Annotated[
    int | None,
    typer.Option(min=0, max=_MANY, help="Remove pieces with fewer pixels.", show_default="0", metavar="<int>"),
]
MaxHole = Annotated[
    int | None,
    typer.Option(min=0, max=_MANY, help="Fill holes of up to this many pixels.", show_default="0", metavar="<int>"),
]
SelfAttention = Annotated[
    bool | None,
    typer.Option(
        "--self-attention/--no-self-attention",
        help="Keep the image's self-attention, for --refine; by default where it is small, or with --refine.",
        show_default=False,
    ),
]
SelfAttentionEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=_MANY,
        help="Average self-attention over every n-th denoiser call only; with 5 it costs a fifth.",
        show_default="1",
        metavar="<int>",
    ),
]
