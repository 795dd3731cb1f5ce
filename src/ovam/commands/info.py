"""Information about the installation, a model, the memory of a capture, and a trace file."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ovam.backbones.registry import backbone_of, supported
from ovam.models import MINI, load, mini_folder
from ovam.text_sides import text_of
from ovam.trace.file import read_header
from ovam.tracing.limits import check_sides, check_steps
from ovam.tracing.plan import native_side, plan
from ovam.tracing.source import versions


def installation() -> dict[str, Any]:
    """Return versions, supported pipelines, devices, and whether the embedded model is installed."""
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "pipelines": list(supported()),
        "devices": ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        "mini": "there" if (mini_folder() / "model_index.json").is_file() else "not there",
    }


def describe_trace(path: str | Path) -> dict[str, Any]:
    """Return the header of a trace file, without its queries.

    Raises:
        TraceFileError: the file is missing, damaged, no trace, or of a newer format.
    """
    header = read_header(path)
    return {"file": str(path), "bytes": Path(path).stat().st_size, "header": header}


def describe_model(model: str | Path = MINI) -> dict[str, Any]:
    """Return a model's pipeline, sizes, text encoder and blocks, with their grids at the model's own size.

    Raises:
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or is not supported.
    """
    pipe = load(model)
    backbone = backbone_of(pipe)
    side = native_side(pipe)
    grids = backbone.grids((side, side))
    text = text_of(pipe)
    return {
        "model": str(model),
        "pipeline": type(pipe).__name__,
        "size": [side * pipe.vae_scale_factor] * 2,
        "scheduler": type(pipe.scheduler).__name__,
        "text_encoder": str(text.space),
        "prompt_tokens": text.limit,
        "blocks": [
            {
                "name": name,
                "grid": list(grids[name]),
                "heads": spec.heads,
                "head_dim": spec.head_dim,
                "default": spec.default,
            }
            for name, spec in backbone.blocks().items()
        ],
    }


def plan_capture(model: str | Path = MINI, **options: Any) -> dict[str, Any]:
    """Return the bytes that a capture would store, from the model's configuration alone.

    `options` are those of `ovam.plan`.

    Raises:
        The errors of `ovam.plan`.
    """
    planned = plan(model, **options)
    return {"command": "plan", "model": str(model), "bytes": planned.nbytes, **asdict(planned)}


def verify_model(model: str | Path = MINI, *, dtype: torch.dtype, device: str, **options: Any) -> dict[str, Any]:
    """Check a model with its own weights; `options` are those of `ovam.testing.verify`.

    Raises:
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or is not supported.
        OptionError: its images can't be of this size.
    """
    from ovam.testing.verify import verify

    pipe = load(model, dtype=dtype, device=device)
    check_sides(pipe, height=options.get("height"), width=options.get("width"))
    steps = options.setdefault("num_inference_steps", 20)
    check_steps(pipe, steps)
    pipe.set_progress_bar_config(disable=True)
    return {"command": "verify", "name": str(model), "num_inference_steps": steps, **verify(pipe, **options)}
