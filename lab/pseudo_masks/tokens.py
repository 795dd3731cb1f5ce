"""Tokens of the classes, fitted on annotated training scenes that no training used, and kept in the work folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from lab.digest import digest, syntax_of
from lab.fits.scenes import annotation_scenes, mask_of
from ovam.models import model_hash
from ovam.tokens.optimize import optimize_tokens
from ovam.tokens.token_set import TokenSet
from ovam.tracing.encode import encode


def tokens_of(
    pipe: Any, folder: Path, classes: Sequence[str], annotations: int = 1, *, options: dict[str, Any] | None = None
) -> dict[str, TokenSet]:
    """A token for each class, see `files_of`."""
    files = files_of(pipe, folder, classes, annotations, options=options)
    return {name: TokenSet.load(file) for name, file in files.items()}


def files_of(
    pipe: Any, folder: Path, classes: Sequence[str], annotations: int = 1, *, options: dict[str, Any] | None = None
) -> dict[str, Path]:
    """The file of a token for each class; tokens that are missing are fitted.

    Args:
        pipe: The model.
        folder: Work folder; tokens of another model, or made by other code, lie under other names.
        classes: Those to fit.
        annotations: Number of annotated scenes of each fit, the first ones.
        options: Further options of `optimize_tokens`.
    """
    about = [model_hash(pipe), syntax_of("ovam.tokens", "ovam.maps"), annotations, options or {}]
    place = folder / "tokens" / digest(about)
    missing = [name for name in classes if not (place / f"{name}.safetensors").exists()]
    scenes = annotation_scenes(missing, annotations) if missing else {}
    for name in track(missing, f"tokens of {annotations}") if missing else ():
        traces = [encode(pipe, scene.image, seed=scene.seed) for scene in scenes[name]]
        masks = [{name: mask_of(scene, name)} for scene in scenes[name]]
        place.mkdir(parents=True, exist_ok=True)
        optimize_tokens(traces, masks, **(options or {})).save(place / f"{name}.safetensors")
    return {name: place / f"{name}.safetensors" for name in classes}
