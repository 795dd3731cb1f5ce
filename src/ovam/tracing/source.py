"""Where a trace comes from: model, prompt, seed, and the versions that its numbers depend on."""

import functools
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ovam.models import short_name
from ovam.trace.trace import Source
from ovam.tracing.run import Run


def source_of(pipe: Any, run: Run, image: int) -> Source:
    """Return the source of one image of a run, as far as it is known."""
    request = run.request
    return Source(
        model=model_name(pipe),
        pipeline=type(pipe).__name__,
        kind="generated",
        prompt=request.prompts[image] if request and request.prompts else None,
        negative_prompt=request.negative_prompts[image] if request and request.negative_prompts else None,
        seed=run.seeds[image] if image < len(run.seeds) else None,
        versions=versions(),
    )


def model_name(pipe: Any) -> str:
    """Return the id by which a pipeline was loaded, "mini", or the last part of its folder's name."""
    return short_name(str(getattr(pipe.config, "_name_or_path", "") or "unnamed"))


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a trace's numbers depend on."""
    return {package: _version(package) for package in ("ovam", "torch", "diffusers", "transformers")}


@functools.cache  # it reads files, and each image of a run asks for it
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
