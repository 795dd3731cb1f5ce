"""`ovam dataset`: begin, plan, generate, filter, export and check a labelled data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.engine import ByEngine, Engine, RayAddress, Workers, check_engine
from ovam.cli.parameters import AsJson, Device
from ovam.cli.recipe_flags import FILTERS, FLAGS
from ovam.cli.stages import taking
from ovam.cli.terminal import Summaries, end, running, show
from ovam.errors import OvamError

dataset_app = typer.Typer(
    cls=Summaries,
    help="Labelled data sets: images of a recipe, each with a mask of its classes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RecipeFile = Annotated[
    Path | None,
    typer.Argument(help="A recipe; flags override its fields.", callback=inputs.file, metavar="RECIPE"),
]
Folder = Annotated[Path, typer.Argument(help="Folder of a data set or view.", callback=inputs.data_set)]
NewFolder = Annotated[Path, typer.Option("--output-dir", help="A new or empty folder.", callback=inputs.output_folder)]


@dataset_app.command()
@taking(flags=FLAGS)
def new(
    output: Annotated[Path, typer.Argument(help="File to write, such as recipe.toml.", callback=inputs.output_file)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
    *,
    flags: Mapping[str, Any],
) -> None:
    """Write a recipe with every field explained; flags set fields. Without classes it has those of Pascal VOC."""
    from ovam.commands.dataset import new as run

    show(run(output, flags, overwrite=overwrite), as_json)


@dataset_app.command()
@taking(flags=FLAGS)
def plan(
    recipe: RecipeFile = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Make one unit of images in a temporary folder, to measure time and bytes."),
    ] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
    *,
    flags: Mapping[str, Any],
) -> None:
    """Show how many images, units and bytes a recipe needs, and its first prompts; with --measure also the time."""
    from ovam.commands.dataset import recipe_for

    full_recipe = recipe_for(recipe, flags)
    with running() as progress:
        from ovam.dataset.planning import plan as run

        result = run(full_recipe, measure=measure, device=device, progress=progress)
    show(result, as_json)


@dataset_app.command()
@taking(flags=FLAGS)
def generate(
    recipe: RecipeFile = None,
    output_dir: Annotated[
        Path,
        typer.Option(help="A new folder, or a data set that was begun, to go on with.", callback=inputs.output_folder),
    ] = Path("out/dataset"),
    shard: Annotated[
        str | None,
        typer.Option(help="Make only one part of the images: 2/4 is the second of four parts.", callback=inputs.shard),
    ] = None,
    engine: ByEngine = Engine.process,
    workers: Workers = None,
    ray_address: RayAddress = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    *,
    flags: Mapping[str, Any],
) -> None:
    """Generate the images and masks of a recipe. The same command goes on where an earlier run stopped.

    Without a recipe file, the folder's own recipe is taken, or the flags alone. Exits with code 1 if items failed.
    """
    from ovam.commands.dataset import recipe_for

    check_engine(engine, workers=workers, ray_address=ray_address, shard=shard)
    full_recipe = recipe_for(recipe, flags, output_dir)
    with running() as progress:
        from ovam.dataset.generator import generate as run
        from ovam.dataset.manifest import Shard
        from ovam.dataset.ray_options import RayOptions
        from ovam.malloc import keep_freed_memory

        keep_freed_memory()
        part = None if shard is None else Shard(*map(int, shard.split("/")))
        ray = RayOptions(address=ray_address or "", workers=workers or 0) if engine == Engine.ray else None
        result = run(full_recipe, output_dir, device=device, shard=part, ray=ray, progress=progress)
    show(result, as_json)
    end(result)


@dataset_app.command()
def score(
    folder: Folder,
    clip: Annotated[
        str,
        typer.Option(help="mini, or the folder or id of a CLIP: openai/clip-vit-base-patch32.", callback=inputs.text),
    ],
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score each picture's classes by CLIP, for filters by CLIP. The same command continues a stopped run."""
    with running() as progress:
        from ovam.dataset.scoring import score as run

        result = run(folder, clip, device=device, progress=progress)
    show(result, as_json)


@dataset_app.command("filter")
@taking(flags=FILTERS)
def filter_(
    folder: Folder,
    output_dir: NewFolder,
    random_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a view with as many items, chosen at random, to compare with.",
            callback=inputs.output_folder,
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    flags: Mapping[str, Any],
) -> None:
    """Write a view: a folder with the items that pass the filters.

    The filters are those of the recipe; each flag overrides one of them.
    """
    with running() as progress:
        from dataclasses import replace

        from ovam.dataset.recipe import kept_recipe
        from ovam.dataset.views import filter_items as run

        filters = replace(kept_recipe(folder).filters, **flags)
        result = run(folder, output_dir, filters=filters, random_dir=random_dir, progress=progress)
    show(result, as_json)


@dataset_app.command()
def export(
    folder: Folder,
    output_dir: Annotated[
        str,
        typer.Option(help="A new or empty folder, or an address such as s3://bucket/name.", callback=inputs.place),
    ],
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(inputs.DATASET_FORMATS)}.", callback=inputs.one_format)
    ],
    as_json: AsJson = False,
) -> None:
    """Write a data set or view in another format."""
    with running() as progress:
        from ovam.dataset.exports.run import export as run

        result = run(folder, output_dir, form, progress=progress)
    show(result, as_json)


@dataset_app.command()
def check(folder: Folder, as_json: AsJson = False) -> None:
    """Check a data set: files, hashes, sizes, what masks hold. Exits with code 1 if something is wrong."""
    with running() as progress:
        from ovam.dataset.checking import check as run

        result = run(folder, progress=progress)
    show(result, as_json)
    if not result["passed"]:
        raise OvamError(f"{folder}: {result['problems_found']} problems found")
