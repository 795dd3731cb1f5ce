"""`ovam info`, `ovam plan` and `ovam verify`: show information, plan the memory of a capture, check a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovam.cli import inputs
from ovam.cli.arguments import torch_type
from ovam.cli.parameters import AsJson, Device, DType, NamedModel, Side, Steps, Weights
from ovam.cli.stages import CAPTURE, taking
from ovam.cli.terminal import running, show
from ovam.commands import NUM_INFERENCE_STEPS


def info(
    trace: Annotated[Path | None, typer.Argument(help="A trace, to see its header.", callback=inputs.trace)] = None,
    model: Annotated[
        str | None, typer.Option(help="A model, to see its blocks: mini, a folder or an id.", callback=inputs.model)
    ] = None,
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
    show(result, as_json)


@taking(capture={name: CAPTURE[name] for name in ("blocks", "dtype", "preset", "outputs", "self_attention")})
def plan(
    model: NamedModel = "mini",
    height: Side = None,
    width: Side = None,
    steps: Annotated[
        int, typer.Option(min=1, max=10_000, help="Denoiser calls to capture.", metavar="<int>")
    ] = NUM_INFERENCE_STEPS,
    images: Annotated[int, typer.Option(min=1, max=10_000, help="Images in a batch.", metavar="<int>")] = 1,
    as_json: AsJson = False,
    *,
    capture: Mapping[str, Any],
) -> None:
    """Show how much memory a capture would need, block by block, from the model's configuration alone."""
    with running():
        from ovam.commands.info import plan_capture

        options = {"height": height, "width": width, "num_inference_steps": steps, "images": images}
        result = plan_capture(model, **options, **capture)
    show(result, as_json)


def verify(
    model: NamedModel = "mini",
    height: Side = None,
    width: Side = None,
    num_inference_steps: Steps = 20,
    dtype: Weights = DType.float32,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check ovam on a model's own weights: image, queries and keys are the model's own. Also maps a few words."""
    options = {"height": height, "width": width, "num_inference_steps": num_inference_steps}
    with running():
        from ovam.commands.info import verify_model

        result = verify_model(model, dtype=torch_type(dtype), device=device, **options)
    show(result, as_json)
    if not result["passed"]:
        raise typer.Exit(1)
