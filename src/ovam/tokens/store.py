"""TokenSets on disk: one safetensors file with a JSON header, specified in docs/formats.md. Never pickle.

These are vectors behind the text encoder. They are never written as textual inversions, which live in its input.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovam.calibration import KIND, Calibration
from ovam.errors import OvamError, TokenFileError
from ovam.tensor_file import Format, read_file, write_file
from ovam.text_side import Space, check_layer
from ovam.tokens.token_set import Fit, TokenGroup, TokenSet

_SINGLE = torch.finfo(torch.float32)
FORMAT = Format(
    name="ovam-tokens",
    version=1,
    kind="a set of tokens",
    writers="tokens.save(...) or `ovam optimize`",
    advice="copy it again; files of other projects are read by `ovam tokens import`",
    error=TokenFileError,
)


def save_tokens(tokens: TokenSet, path: str | Path) -> None:
    """Write a set; the file appears whole or not at all, and equal sets give equal bytes.

    Args:
        tokens: Vectors are written in float32.
        path: File name, usually ending in `.safetensors`.

    Raises:
        TokenFileError: the folder is not there.
    """
    header = {
        "format": FORMAT.name,
        "format_version": FORMAT.version,
        "space": asdict(tokens.space),
        "groups": [_told(group) for group in tokens.groups],
    }
    tensors = {f"group/{i}": group.vectors.float() for i, group in enumerate(tokens.groups)}
    write_file(Path(path), header, tensors, FORMAT)


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
    header, tensors = read_file(Path(path), FORMAT)
    try:
        space = Space(**header["space"])
        check_layer(space)
        groups = [_group(entry, tensors[f"group/{i}"], space) for i, entry in enumerate(header["groups"])]
        if not groups:
            raise ValueError("no groups")
        return TokenSet(tuple(groups), space)
    except (OvamError, AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise TokenFileError(
            f"{path} says it holds tokens of format {header['format_version']} but its header or tensors are not whole "
            f"({type(error).__name__}: {error}): expected what docs/formats.md lists; write the file again"
        ) from error


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
    # scores are float32: a number that is finite as Python has it can still be infinite or 0 there
    if not (_SINGLE.tiny <= scale <= _SINGLE.max and abs(offset) <= _SINGLE.max):
        raise ValueError(f"calibration of scale {scale} and offset {offset}")
    return Calibration(scale, offset)
