"""`ovam demo` and `ovam generate`: run a model and query its run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import listed_words, refine_of, torch_type, with_tokens, words_of
from ovam.cli.output_parameters import Overwrite
from ovam.cli.parameters import (
    AsJson,
    Device,
    DType,
    Guidance,
    Model,
    OutputDir,
    Seed,
    Side,
    Steps,
    Tokens,
    TrueGuidance,
    Weights,
    Words,
)
from ovam.cli.stages import CAPTURE, MAPS, MASKS, OUTPUT, REFINE, taking
from ovam.cli.terminal import end, message_of, running, show
from ovam.commands import GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from ovam.commands.prompt_file import read_prompts


def demo(
    output_dir: OutputDir = Path("out/demo"),
    model: Model = "mini",
    seed: Seed = 0,
    num_inference_steps: Steps = NUM_INFERENCE_STEPS,
    as_json: AsJson = False,
) -> None:
    """Show what ovam does, offline with the embedded model: an image, its maps and masks, and a later query."""
    with running() as progress:
        from ovam.commands.demo import demo as run

        result = run(
            output_dir=output_dir,
            model=model,
            seed=seed,
            num_inference_steps=num_inference_steps,
            progress=progress,
        )
    show(result, as_json)


@taking(capture=CAPTURE, refining=REFINE, masks=MASKS, maps={"strategy": MAPS["strategy"]}, output=OUTPUT)
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to generate.", callback=inputs.prompt)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts instead: one a line, or .csv or .jsonl with prompt, seed, words, negative_prompt.",
            metavar="<file>",
            callback=inputs.file,
        ),
    ] = None,
    words: Words = None,
    tokens: Tokens = None,
    output_dir: OutputDir = Path("out"),
    model: Model = "mini",
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.", callback=inputs.text)] = None,
    seed: Seed = 0,
    num_images: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of images; several get a folder each.", metavar="<int>")
    ] = 1,
    num_inference_steps: Steps = NUM_INFERENCE_STEPS,
    guidance_scale: Guidance = GUIDANCE_SCALE,
    true_cfg_scale: TrueGuidance = None,
    height: Side = None,
    width: Side = None,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    save_trace: Annotated[bool, typer.Option(help="Whether to write run.safetensors, for later queries.")] = True,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    *,
    capture: Mapping[str, Any],
    refining: Mapping[str, Any],
    masks: Mapping[str, Any],
    maps: Mapping[str, Any],
    output: Mapping[str, Any],
) -> None:
    """Generate images, with maps and masks of words that are in the prompt or not.

    Without words only the image and its trace are written; query the trace later with `ovam maps` and `ovam segment`.
    Prompts of a file get a folder each, and a line each in results.jsonl. Those that are done are skipped.
    """
    listed = listed_words(words)
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("expected a prompt, or --prompts with a file, but not both", param_hint="prompt")
    entries = None if prompts is None else read_prompts(prompts, words_of)
    with running() as progress:
        from ovam.commands.generate import generate as run
        from ovam.commands.generate_many import generate_prompts
        from ovam.commands.output_options import OutputOptions
        from ovam.masks.options import SegmentOptions
        from ovam.tracing.options import CaptureOptions

        settings: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "true_cfg_scale": true_cfg_scale,
            "height": height,
            "width": width,
            "keeping": CaptureOptions(**capture),
            "options": SegmentOptions(**maps, **masks, **refine_of(refining)),
            "save_trace": save_trace,
            "output": OutputOptions(**output),
        }
        common: dict[str, Any] = {
            "output_dir": output_dir,
            "model": model,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "num_images": num_images,
            "dtype": torch_type(dtype),
            "device": device,
            "progress": progress,
        }
        if entries is not None:
            fitted = with_tokens([], tokens)
            result = generate_prompts(
                entries, listed, fitted, settings=settings, overwrite=overwrite, message_of=message_of, **common
            )
        else:
            assert prompt is not None  # checked above
            result = run(prompt, with_tokens(listed, tokens), **common, **settings)
    show(result, as_json)
    end(result)
