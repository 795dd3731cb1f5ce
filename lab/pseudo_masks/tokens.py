"""Tokens of the classes, fitted on annotated pictures that are not measured, and kept in the work folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from lab.digest import digest, syntax_of
from lab.pseudo_masks.examples import Source
from ovam.models import model_hash
from ovam.output_files import safe_names
from ovam.tokens.optimize import optimize_tokens
from ovam.tokens.token_set import TokenSet
from ovam.tracing.encode import encode

FITTED_ON = "all"
"""Blocks that tokens are fitted on: the published methods read all of them, and the default maps of mini two."""


def tokens_of(
    pipe: Any, folder: Path, source: Source, classes: Sequence[str], annotations: int = 1
) -> dict[str, TokenSet]:
    """A token for each class that has annotated pictures; arguments as in `files_of`."""
    files = files_of(pipe, folder, source, classes, annotations)
    return {name: TokenSet.load(file) for name, file in files.items()}


def files_of(
    pipe: Any,
    folder: Path,
    source: Source,
    classes: Sequence[str],
    annotations: int = 1,
    *,
    options: dict[str, Any] | None = None,
) -> dict[str, Path]:
    """The file of a token for each class that has annotated pictures; tokens that are missing are fitted.

    Args:
        pipe: The model.
        folder: Work folder; tokens of another model, source, or made by other code, lie under other names.
        source: Of the annotated pictures.
        classes: Those to fit.
        annotations: Number of annotated pictures of each fit, the first ones; classes with fewer are left out.
        options: Further options of `optimize_tokens`.
    """
    basis = [model_hash(pipe), syntax_of("ovam.tokens", "ovam.maps"), annotations, FITTED_ON, options or {}]
    place = folder / "tokens" / digest([*basis, source.basis("annotated")])
    file_names = dict(zip(source.classes, safe_names(source.classes), strict=True))
    files = {name: place / f"{file_names[name]}.safetensors" for name in classes}
    missing = [name for name in classes if not files[name].exists()]
    pictures = source.annotated(missing, annotations) if missing else {}
    enough = [name for name in missing if len(pictures[name]) == annotations]
    for name in track(enough, f"tokens of {annotations}") if enough else ():
        traces = [encode(pipe, one.image, seed=one.seed, blocks=FITTED_ON) for one in pictures[name]]
        place.mkdir(parents=True, exist_ok=True)
        optimize_tokens(traces, [one.marks for one in pictures[name]], **(options or {})).save(files[name])
    return {name: file for name, file in files.items() if file.exists()}
