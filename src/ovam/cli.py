"""The command line: arguments in, one function of `ovam.commands` called, its result shown.

What loads torch is imported inside the commands, so that `ovam --help` is there at once.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam import __version__
from ovam.cli_tokens import tokens_app
from ovam.commands import GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from ovam.commands.arguments import blocks_of, steps_of, words_of
from ovam.commands.entry import Question, entry_of
from ovam.commands.terminal import Commands, quiet, running

app = typer.Typer(
    cls=Commands,
    help="Open-vocabulary attention maps: run a diffusion model once, ask its attention for any words afterwards.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its tables cut the names of options at 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
mini_app = typer.Typer(
    help="The embedded model and its world: train, export, report; scenes.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(mini_app, name="mini")
app.add_typer(tokens_app, name="tokens")


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


class FamilyModel(StrEnum):
    """The embedded model and its sibling of joint attention."""

    mini = "mini"
    mini_dit = "mini-dit"


class EncodeMethod(StrEnum):
    """What a model looks at of a real image."""

    noise = "noise"
    inversion = "inversion"
    clean = "clean"


Words = Annotated[str | None, typer.Option(help='Words and phrases, separated by commas: "cat, hot dog, sky".')]
Tokens = Annotated[
    list[Path] | None, typer.Option(help="File of optimised tokens, asked beside the words; repeatable.")
]
Model = Annotated[str, typer.Option(help="mini, the folder of a diffusers pipeline, or a model id.")]
TraceModel = Annotated[
    str | None,
    typer.Option(help="The trace's model: mini, a folder or an id; needed unless the trace names mini or a folder."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed; the images of one run have consecutive seeds.")]
Steps = Annotated[int, typer.Option("--num-inference-steps", min=1, help="Steps of the sampling loop.")]
OutputDir = Annotated[Path, typer.Option(help="Folder to write to; files of the same names are written over.")]
Beside = Annotated[Path | None, typer.Option(help="Folder to write to; by default one beside the file.")]
Against = Annotated[str, typer.Option(help="Words that compete for the label map and are then dropped.")]
Threshold = Annotated[float | None, typer.Option(help="Score of the background, between 0 and 1.", show_default="0.5")]
Blocks = Annotated[
    str | None,
    typer.Option(help="Attention blocks, by commas: grid heights (16), grids (16x24), or names (up_blocks.1)."),
]
KeptSteps = Annotated[
    str | None, typer.Option("--steps", help="Step numbers from 0, by commas; 10-19 is a range with both its ends.")
]
Weights = Annotated[DType, typer.Option(help="Type of the model's weights.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.")]
LimitGib = Annotated[
    float | None, typer.Option(min=0, help="Most GiB of queries to keep; by default 80 % of the free memory.")
]
Stored = Annotated[
    Storage | None, typer.Option("--storage", help="Type that queries are kept in.", show_default="float16")
]
Preset = Annotated[
    str | None, typer.Option(help="Settings of the model's family for blocks, steps and storage, such as small.")
]
ImagesDir = Annotated[Path, typer.Option(help="Folder of the generated pictures, with their manifests.")]
Family = Annotated[FamilyModel, typer.Option("--model", help="mini, or its sibling of joint attention.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


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


@app.command()
def demo(
    output_dir: OutputDir = Path("out/demo"),
    model: Model = "mini",
    seed: Seed = 0,
    num_inference_steps: Steps = NUM_INFERENCE_STEPS,
    as_json: AsJson = False,
) -> None:
    """Do the main job on the embedded model, offline: an image, its maps and masks, and a word asked afterwards."""
    with running() as progress:
        from ovam.commands.demo import demo as run

        result = run(
            output_dir=output_dir,
            model=model,
            seed=seed,
            num_inference_steps=num_inference_steps,
            progress=progress,
        )
    _show(result, as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to generate.")],
    words: Words = None,
    tokens: Tokens = None,
    output_dir: OutputDir = Path("out"),
    model: Model = "mini",
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep away from.")] = None,
    seed: Seed = 0,
    num_images: Annotated[int, typer.Option(min=1, help="Images; several go into folders of their own.")] = 1,
    num_inference_steps: Steps = NUM_INFERENCE_STEPS,
    guidance_scale: Annotated[float, typer.Option(help="Weight of the prompt.")] = GUIDANCE_SCALE,
    height: Annotated[int | None, typer.Option(min=1, help="In pixels; the model's own by default.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="In pixels; the model's own by default.")] = None,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    against: Against = "",
    threshold: Threshold = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    storage: Stored = None,
    preset: Preset = None,
    disk: Annotated[
        Path | None, typer.Option(help="Folder in whose files queries are kept while the command runs, not in memory.")
    ] = None,
    limit_gib: LimitGib = None,
    save_trace: Annotated[bool, typer.Option(help="Whether to write run.safetensors, to ask more words of.")] = True,
    as_json: AsJson = False,
) -> None:
    """Generate images, with maps and masks of words that are in the prompt or not."""
    asked = _asked(words, tokens)
    kept = _given(blocks=blocks_of(blocks), steps=steps_of(steps), threshold=threshold)
    with running() as progress:
        import torch

        from ovam.commands.generate import generate as run

        result = run(
            prompt,
            _with_tokens(asked, tokens),
            output_dir=output_dir,
            model=model,
            negative_prompt=negative_prompt,
            seed=seed,
            num_images=num_images,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            dtype=getattr(torch, dtype.value),
            device=device,
            storage=_type(storage),
            preset=preset,
            disk=disk,
            limit_gib=limit_gib,
            against=words_of(against),
            save_trace=save_trace,
            progress=progress,
            **kept,
        )
    _show(result, as_json)


@app.command()
def maps(
    trace: Annotated[Path, typer.Argument(help="A trace, such as run.safetensors.")],
    words: Words = None,
    attribution_prompt: Annotated[
        str | None, typer.Option(help="A text whose words share the attention; --words then picks some of them.")
    ] = None,
    tokens: Tokens = None,
    output_dir: Beside = None,
    model: TraceModel = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    as_json: AsJson = False,
) -> None:
    """Answer from a saved trace, without running the model."""
    asked, kept = words_of(words or ""), _given(blocks=blocks_of(blocks), steps=steps_of(steps))
    with running() as progress:
        from ovam.commands.ask import maps as run

        result = run(
            trace,
            _with_tokens(asked, tokens),
            attribution_prompt=attribution_prompt,
            output_dir=output_dir,
            model=model,
            progress=progress,
            **kept,
        )
    _show(result, as_json)


@app.command()
def segment(
    source: Annotated[Path, typer.Argument(help="A trace, or an image file, which the model then looks at.")],
    words: Words = None,
    tokens: Tokens = None,
    against: Against = "",
    threshold: Threshold = None,
    output_dir: Beside = None,
    model: TraceModel = None,
    prompt: Annotated[str | None, typer.Option(help="What the model is told of an image; nothing by default.")] = None,
    method: Annotated[
        EncodeMethod | None, typer.Option(help="What the model looks at of an image.", show_default="noise")
    ] = None,
    timesteps: Annotated[
        str | None, typer.Option(help="Time steps at which it looks, 0 to 999, by commas.", show_default="50 to 650")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the noises put on an image.", show_default="0")
    ] = None,
    dtype: Annotated[
        DType | None, typer.Option(help="Type of the model's weights, for an image.", show_default="float32")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the model runs, for an image: cpu, cuda, cuda:1.", show_default="cpu")
    ] = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    storage: Annotated[
        Storage | None, typer.Option(help="Type that queries of an image are kept in.", show_default="float16")
    ] = None,
    limit_gib: Annotated[
        float | None,
        typer.Option(min=0, help="Most GiB of queries to keep of an image; by default 80 % of the free memory."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write masks and a label map of words, for a saved trace or an image file."""
    looks, asked = steps_of(timesteps, "--timesteps"), _asked(words, tokens)
    kept = _given(blocks=blocks_of(blocks), steps=steps_of(steps), threshold=threshold)
    with running() as progress:
        import torch

        from ovam.commands.ask import segment_file as run

        result = run(
            source,
            _with_tokens(asked, tokens),
            against=words_of(against),
            output_dir=output_dir,
            model=model,
            prompt=prompt,
            method=None if method is None else method.value,
            timesteps=looks,
            seed=seed,
            dtype=None if dtype is None else getattr(torch, dtype.value),
            device=device,
            storage=_type(storage),
            limit_gib=limit_gib,
            progress=progress,
            **kept,
        )
    _show(result, as_json)


@app.command()
def optimize(
    mask: Annotated[
        list[Path], typer.Option(help="PNG, or JSON with COCO's RLE or polygons, at its image's size; repeatable.")
    ],
    word: Annotated[list[str], typer.Option(help="Class of each mask, or of all; repeatable.")],
    output: Annotated[Path, typer.Option(help="File to write, such as cat.safetensors.")],
    image: Annotated[list[Path] | None, typer.Option(help="Image of each mask; repeatable.")] = None,
    trace: Annotated[list[Path] | None, typer.Option(help="Trace of each further mask; repeatable.")] = None,
    label: Annotated[
        list[int] | None, typer.Option(help="Number of each word where masks are label maps; repeatable.")
    ] = None,
    ignore: Annotated[int | None, typer.Option(help="Number of pixels that do not count.", show_default="255")] = None,
    model: TraceModel = None,
    blocks: Blocks = None,
    steps: KeptSteps = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Most evaluations of the loss.", show_default="40")
    ] = None,
    pull: Annotated[float | None, typer.Option(min=0, help="Weight of staying near the word.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which the tokens may be used.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noises put on images.")] = 0,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Fit a token to annotated images or traces, one annotation a class at least, and write it to a file."""
    given = {"ignore": ignore, "evaluations": evaluations, "pull": pull, "licence": licence}
    kept = _given(blocks=blocks_of(blocks), steps=steps_of(steps), **given)
    with running() as progress:
        import torch

        from ovam.commands.tokens import optimize as run

        result = run(
            mask,
            word,
            output=output,
            images=image or (),
            traces=trace or (),
            labels=label or (),
            model=model,
            seed=seed,
            dtype=getattr(torch, dtype.value),
            device=device,
            progress=progress,
            **kept,
        )
    _show(result, as_json)


@app.command()
def info(
    trace: Annotated[Path | None, typer.Argument(help="A trace, to see its header.")] = None,
    model: Annotated[str | None, typer.Option(help="A model, to see its blocks: mini, a folder or an id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show versions and supported pipelines, a trace's header, or a model's blocks."""
    if trace is not None and model is not None:
        raise typer.BadParameter("expected a trace or --model, not both", param_hint="--model")
    with running():
        from ovam.commands.info import describe_model, describe_trace, installation

        if trace is not None:
            result = describe_trace(trace)
        else:
            result = installation() if model is None else describe_model(model)
    _show(result, as_json)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="mini, the folder of a diffusers pipeline, or a model id.")] = "mini",
    height: Annotated[int | None, typer.Option(min=1, help="In pixels; the model's own by default.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="In pixels; the model's own by default.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoiser calls to keep.")] = NUM_INFERENCE_STEPS,
    images: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 1,
    blocks: Blocks = None,
    storage: Stored = None,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a capture would keep, block by block, from a model's configuration alone."""
    kept = _given(blocks=blocks_of(blocks))
    with running():
        from ovam.commands.info import plan_capture

        options = {"height": height, "width": width, "steps": steps, "images": images, "preset": preset, **kept}
        result = plan_capture(model, dtype=_type(storage), **options)
    _show(result, as_json)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="mini, the folder of a diffusers pipeline, or a model id.")] = "mini",
    height: Annotated[int | None, typer.Option(min=1, help="In pixels; the model's own by default.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="In pixels; the model's own by default.")] = None,
    num_inference_steps: Steps = 20,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check a model's own weights: the image is untouched, queries and keys are the model's; a few words with it."""
    options = {"height": height, "width": width, "num_inference_steps": num_inference_steps}
    with running():
        import torch

        from ovam.commands.info import verify_model

        result = verify_model(model, dtype=getattr(torch, dtype.value), device=device, **options)
    _show(result, as_json)
    if not result["passed"]:
        raise typer.Exit(1)


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(help="A PNG of label numbers, or a folder of them; 255 is undecided.")],
    truth: Annotated[Path, typer.Argument(help="A PNG or a folder with files of the same names; 255 is ignored.")],
    names: Annotated[
        Path | None, typer.Option(help="JSON file of numbers and names; by default Pascal VOC's 20 classes.")
    ] = None,
    scenes: Annotated[
        Path | None,
        typer.Option(help="scenes.jsonl, for figures of slices; by default the one beside the truth's folder."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Folder with an NPY file for each PNG: floats (class, height, width), by rising number."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Name of the method, for a leaderboard.")] = None,
    question: Annotated[Question | None, typer.Option(help="What was asked of each picture.")] = None,
    model: Annotated[str | None, typer.Option(help='Model the method reads, with its version, or "none".')] = None,
    made_with: Annotated[str | None, typer.Option(help="Command that made the predictions.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare label maps with their truths: IoU, its means, outlines, slices; --scores for maps without a threshold.

    --method, --question, --model and --made-with, given together, make the result an entry of a leaderboard.
    """
    entry = entry_of(method=method, question=question, model=model, made_with=made_with)
    with running() as progress:
        from ovam.commands.evaluate import evaluate as run

        result = run(predicted, truth, names=names, scenes=scenes, scores=scores, entry=entry, progress=progress)
    _show(result, as_json)


@mini_app.command()
def scenes(
    output_dir: Annotated[Path, typer.Option(help="Folder to write to; files of the same names are written over.")],
    split: Annotated[str, typer.Option(help='train, validation, test or "domain b".')] = "test",
    n: Annotated[int, typer.Option("--n", min=1, help="Number of scenes.")] = 50,
    start: Annotated[int, typer.Option(min=0, help="Number of the first scene.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side of the pictures in pixels.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Write scenes of the rendered world, the benchmark, with exact maps, captions and slices."""
    with running() as progress:
        from ovam.commands.scenes import export_scenes as run

        result = run(split, n, output_dir, start=start, size=size, progress=progress)
    _show(result, as_json)


@mini_app.command()
def train(
    work_dir: Annotated[Path, typer.Option(help="Where its parts and checkpoints lie.")] = Path("runs/mini"),
    model: Family = FamilyModel.mini,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Leave the shipped weights aside.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another one makes a sibling, from nothing.")] = 0,
) -> None:
    """Train the embedded model on, from the folder's checkpoint or the shipped weights: hours on two cores.

    --model mini-dit trains its sibling of joint attention, on the same scenes, autoencoder and text tower.
    """
    with quiet():
        from ovam.mini.training.recipe import train as run
        from ovam.models import mini_folder

        run(work_dir, model=model.value, start=None if from_scratch else mini_folder(), seed=seed)


@mini_app.command()
def export(
    output_dir: Annotated[Path, typer.Option(help="Folder of the pipeline that is written.")],
    work_dir: Annotated[Path, typer.Option(help="Where the trained parts lie.")] = Path("runs/mini"),
    model: Family = FamilyModel.mini,
) -> None:
    """Put the trained parts together as a pipeline's folder."""
    with quiet():
        from ovam.mini.training.recipe import export as run

        run(work_dir, output_dir, model=model.value)


@mini_app.command()
def oracles(
    output_dir: Annotated[Path, typer.Option(help="Folder that the oracles are written to.")],
    work_dir: Annotated[Path, typer.Option(help="Where the training scenes lie.")] = Path("runs/mini"),
    model: Annotated[str, typer.Option(help="The trained model, which imitates: mini or a folder.")] = "mini",
) -> None:
    """Train the two networks that label generated pictures: half an hour on two cores."""
    with quiet():
        from ovam.mini.training.recipe import train_oracles_in as run

        run(work_dir, output_dir, model)


@mini_app.command()
def images(
    images_dir: ImagesDir = Path("runs/images"),
    n: Annotated[int | None, typer.Option("--n", min=1, help="Pictures of each set, if not the report's.")] = None,
) -> None:
    """Generate the 400 pictures that the report judges; goes on where it was broken off: about an hour on two cores."""
    with quiet():
        from ovam.mini.measures.report import COUNTS
        from ovam.mini.measures.report import make_image_sets as run

        run(images_dir, COUNTS if n is None else dict.fromkeys(COUNTS, n))


@mini_app.command()
def report(
    docs: Annotated[
        Path | None, typer.Option(help="Folder that is written to: docs, or out/quick-report if quick.")
    ] = None,
    images_dir: ImagesDir = Path("runs/images"),
    dit_dir: Annotated[
        Path, typer.Option(help="Folder of mini-dit, as export wrote it; without it joint attention is left out.")
    ] = Path("runs/mini-dit"),
    only: Annotated[str, typer.Option(help="Sections to measure again, by commas: sheet, words, headroom.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="On a few scenes, to see that it runs.")] = False,
) -> None:
    """Measure the embedded model and write its page, figures and contact sheet: half an hour on two cores.

    Sections that the same code measured on the same weights are kept. Pictures that are missing are made, which
    `ovam mini images` does beforehand. --quick takes two minutes.
    """
    with quiet():
        from ovam.mini.measures.report import report_on_mini as run

        folder = docs or Path("out/quick-report" if quick else "docs")
        run(folder, images_dir, dit=dit_dir, only=words_of(only) or None, quick=quick)


def _show(result: dict[str, Any], as_json: bool) -> None:
    from ovam.commands.summary import show

    show(result, as_json=as_json)


def _asked(words: str | None, tokens: list[Path] | None) -> list[str]:
    """Words, which may be left out where tokens are asked."""
    if words is None and not tokens:
        raise typer.BadParameter("expected words, or --tokens with a file, or both", param_hint="--words")
    return words_of(words or "")


def _with_tokens(words: list[str], files: list[Path] | None) -> list[Any]:
    """Words, and the tokens of files after them."""
    if not files:
        return list(words)
    from ovam.tokens.token_set import TokenSet

    return [*words, *(TokenSet.load(file) for file in files)]


def _type(named: Storage | None) -> Any:
    import torch

    return None if named is None else getattr(torch, named.value)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others keep the function's own defaults."""
    return {name: value for name, value in options.items() if value is not None}


def main() -> None:
    """Entry point of the command `ovam`."""
    app(prog_name="ovam")
