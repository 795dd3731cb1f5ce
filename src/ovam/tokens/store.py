"""TokenSets on disk: one safetensors file with a JSON header, specified in docs/formats.md. Never pickle.

These are vectors behind the text encoder. They are never written as textual inversions, which live in its input.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovam.calibration import KIND, Calibration
from ovam.errors import OvamError, TokenFileError
from ovam.tokens.token_set import Fit, TokenGroup, TokenSet
from ovam.trace import Space

FORMAT, FORMAT_VERSION = "ovam-tokens", 1


def save_tokens(tokens: TokenSet, path: str | Path) -> None:
    """Write a set; the file appears whole or not at all, and equal sets give equal bytes.

    Args:
        tokens: Vectors are written in float32.
        path: File name, usually ending in `.safetensors`.

    Raises:
        TokenFileError: the folder is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise TokenFileError(f"{path} can't be written: expected the folder {path.parent} to be there; make it first")
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "space": asdict(tokens.space),
        "groups": [_told(group) for group in tokens.groups],
    }
    tensors = {f"group/{i}": group.vectors.float().contiguous() for i, group in enumerate(tokens.groups)}
    temporary = path.with_name(path.name + ".partial")
    try:
        # one metadata entry only: safetensors writes several in an order that changes from run to run
        save_file(tensors, temporary, {"ovam": json.dumps(header, sort_keys=True)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _told(group: TokenGroup) -> dict[str, Any]:
    calibrations = {name: {"kind": KIND, **asdict(found)} for name, found in group.calibrations.items()}
    fit = asdict(group.fit) | {"losses": [loss if math.isfinite(loss) else None for loss in group.fit.losses]}
    return {
        "rows": list(group.rows),
        "joint": len(group.classes) > 1,
        "calibrations": calibrations,
        "fit": fit,
        "licence": group.licence,
    }


def load_tokens(path: str | Path) -> TokenSet:
    """Read a set.

    Args:
        path: A file that `save_tokens` wrote.

    Raises:
        TokenFileError: the file is missing, damaged, no set of tokens, or of a newer format.
    """
    path = Path(path)
    header, tensors = _read(path)
    try:
        space = Space(**header["space"])
        groups = [_group(entry, tensors[f"group/{i}"], space) for i, entry in enumerate(header["groups"])]
        if not groups:
            raise ValueError("no groups")
        return TokenSet(tuple(groups), space)
    except (OvamError, AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise TokenFileError(
            f"{path} says it holds tokens of format {FORMAT_VERSION} but its header or tensors are not whole "
            f"({type(error).__name__}: {error}): expected what docs/formats.md lists; write the file again"
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise TokenFileError(f"{path} is not a file: expected tokens that tokens.save(...) or `ovam optimize` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            header = _checked_header(path, file.metadata() or {})
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except SafetensorError as error:
        raise TokenFileError(
            f"{path} is not a readable safetensors file ({error}): it is damaged, cut short, or of another kind; copy "
            "it again; files of other projects are read by `ovam tokens import`"
        ) from error


def _checked_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata.get("ovam", "null"))
    except (ValueError, RecursionError):  # no JSON, or nested and numbered beyond what is read
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        told = f"of format {header.get('format')!r}" if isinstance(header, dict) else "without a header 'ovam'"
        raise TokenFileError(
            f"{path} is a safetensors file {told}: expected one of format {FORMAT!r}, which tokens.save(...) or "
            "`ovam optimize` wrote"
        )
    found = header.get("format_version")
    if not isinstance(found, int) or found < 1:
        raise TokenFileError(f"{path} holds tokens of format version {found!r}: expected a number from 1 on")
    if found > FORMAT_VERSION:
        raise TokenFileError(
            f"{path} holds tokens of format {found}, newer than the {FORMAT_VERSION} that this version of ovam reads: "
            "update ovam"
        )
    return header


def _group(entry: Mapping[str, Any], vectors: Tensor, space: Space) -> TokenGroup:
    rows = tuple(map(str, entry["rows"]))
    if vectors.dtype != torch.float32 or vectors.shape != (len(rows), space.width):
        raise ValueError(f"vectors are {vectors.dtype} {tuple(vectors.shape)} for {len(rows)} rows of {space.width}")
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError("vectors contain NaN or infinity")
    told = entry["fit"]
    fit = Fit(
        **told
        | {
            "blocks": tuple(told["blocks"]),
            "timesteps": tuple(tuple(map(float, calls)) for calls in told["timesteps"]),
            "losses": tuple(math.nan if loss is None else float(loss) for loss in told["losses"]),
            "annotations": tuple(told["annotations"]),
        }
    )
    calibrations = {name: _calibration(found) for name, found in entry["calibrations"].items()}
    group = TokenGroup(rows, vectors, calibrations, fit, entry["licence"])
    if len(rows) < 2 or not group.classes or not set(calibrations) <= set(group.classes):
        raise ValueError(f"rows {rows} with calibrations of {tuple(calibrations)}")
    return group


def _calibration(found: Mapping[str, Any]) -> Calibration:
    if found["kind"] != KIND:
        raise ValueError(f"calibration of kind {found['kind']!r}, this version reads {KIND!r}")
    scale, offset = float(found["scale"]), float(found["offset"])
    if not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
        raise ValueError(f"calibration of scale {scale} and offset {offset}")
    return Calibration(scale, offset)
