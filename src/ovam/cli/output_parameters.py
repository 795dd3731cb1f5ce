"""Options that choose what is written, each with its help."""

from typing import Annotated

import typer

from ovam.cli import inputs

Formats = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Files to write, separated by commas: png, npy, coco, polygons, labelstudio.",
        show_default="png",
        callback=inputs.mask_formats,
    ),
]
MapFormats = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Files to write, separated by commas: png, npy.",
        show_default="png",
        callback=inputs.map_formats,
    ),
]
Instances = Annotated[bool | None, typer.Option("--instances", help="List the objects as well.", show_default=False)]
Split = Annotated[
    bool | None,
    typer.Option("--split", help="Cut objects at narrow places, to separate those that touch.", show_default=False),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="With several items: make finished ones again, instead of skipping them."),
]
