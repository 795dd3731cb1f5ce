"""What makes the units of a data set: this process, or workers of a Ray cluster."""

from enum import StrEnum
from typing import Annotated

import typer

from ovam.cli import inputs


class Engine(StrEnum):
    """Who makes the units."""

    process = "process"
    ray = "ray"


MOST_WORKERS = 1_000_000
ByEngine = Annotated[
    Engine, typer.Option("--engine", help="Who makes the images: this process, or workers of a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_WORKERS,
        metavar="<int>",
        help="With ray: number of processes, each with the model; by default one for each GPU, or on the CPU the cores "
        "divided by the threads of each (one, unless OMP_NUM_THREADS is set).",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="With ray: address of a cluster, or auto; by default one on this machine.", callback=inputs.text),
]


def check_engine(engine: Engine, *, workers: int | None, ray_address: str | None, shard: str | None) -> None:
    """Check that options of Ray, and of shards, are given where they mean something."""
    given = [name for name, value in (("--workers", workers), ("--ray-address", ray_address)) if value is not None]
    if engine != Engine.ray and given:
        raise typer.BadParameter(f"{given[0]} belongs to --engine ray, which was not given")
    if engine == Engine.ray and shard is not None:
        raise typer.BadParameter("--shard and --engine ray both share the units out: expected one of them")
