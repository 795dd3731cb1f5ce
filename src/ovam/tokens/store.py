"""TokenSets on disk: one safetensors file with a JSON header, specified in docs/formats.md. Never pickle.

The vectors belong to the output of the text encoder. They are never written as textual inversions, which belong to its
input.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovam import header as schema
from ovam.errors import OvamError, TokenFileError
from ovam.maps.calibration import KIND, Calibration
from ovam.maps.thresholds import LEAST, MOST, Thresholds
from ovam.tensor_file import Format, read_file, write_file
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.header import SPACE
from ovam.trace.text_side import Space

FORMAT = Format(
    name="ovam-tokens",
    version=2,
    kind="a set of tokens",
    writers="tokens.save(...) or `ovam optimize`",
    advice="copy it again; files of other projects are read by `ovam tokens import`",
    error=TokenFileError,
)
_STEEPEST = 1e6
"""Limit of the numbers of a calibration: beyond it, scores do not depend on the map any more."""

_MOST_PICTURES = 2**31
_WITHOUT_THRESHOLDS = 1
"""Version of files without thresholds, which readers of version 1 read alike."""

_name = schema.text(r".*\S.*", "a name")
_THRESHOLDS = schema.record(
    {"mask": schema.or_null(schema.number(LEAST, MOST)), "presence": schema.or_null(schema.number(LEAST, MOST))},
    {"pictures": schema.whole(0, _MOST_PICTURES), "refined": schema.truth},
)
TOKENS = schema.record(
    {
        "space": SPACE,
        "groups": schema.listed(
            schema.record(
                {
                    "rows": schema.listed(_name, 2),
                    "calibrations": schema.by_name(
                        schema.record(
                            {
                                "kind": schema.one_of(KIND),
                                "scale": schema.number(1 / _STEEPEST, _STEEPEST),
                                "offset": schema.number(-_STEEPEST, _STEEPEST),
                            }
                        )
                    ),
                    "fit": schema.record(
                        {
                            "model": schema.text(),
                            "blocks": schema.listed(_name),
                            "timesteps": schema.listed(schema.listed(schema.number())),
                            "losses": schema.listed(schema.or_null(schema.number())),
                            "annotations": schema.listed(schema.text()),
                        },
                        {
                            "half": schema.one_of("cond", "uncond"),
                            "versions": schema.by_name(schema.text()),
                            **dict.fromkeys(
                                ("pipeline", "softmax_over", "aggregation", "refinement", "stopped", "remark"),
                                schema.text(),
                            ),
                        },
                    ),
                    "licence": schema.or_null(schema.text()),
                },
                {"joint": schema.truth, "thresholds": schema.by_name(_THRESHOLDS)},
            ),
            1,
        ),
    }
)
"""Schema of the header."""


def save_tokens(tokens: TokenSet, path: str | Path) -> None:
    """Write a set to a file.

    The file is written whole or not at all. Equal sets give equal bytes.

    Args:
        tokens: The set. Its vectors are written in float32.
        path: File name, usually ending in `.safetensors`.

    Raises:
        TokenFileError: the folder does not exist, or the set could not be read back.
    """
    header = {
        "format": FORMAT.name,
        "format_version": FORMAT.version if tokens.thresholds else _WITHOUT_THRESHOLDS,
        "space": asdict(tokens.space),
        "groups": [_group_facts(group) for group in tokens.groups],
    }
    tensors = {f"group/{i}": group.vectors.float() for i, group in enumerate(tokens.groups)}
    try:
        _check(header, tensors)
    except ValueError as error:
        raise TokenFileError(
            f"{path} can't be written, as it could not be read back ({error}): expected tokens as a fit makes them; "
            "see docs/formats.md"
        ) from error
    write_file(Path(path), header, tensors, FORMAT)


def _group_facts(group: TokenGroup) -> dict[str, Any]:
    calibrations = {name: {"kind": KIND, **asdict(found)} for name, found in group.calibrations.items()}
    fit = asdict(group.fit) | {"losses": [loss if math.isfinite(loss) else None for loss in group.fit.losses]}
    thresholds = {name: asdict(found) for name, found in group.thresholds.items()}
    return {
        "rows": list(group.rows),
        "joint": len(group.classes) > 1,
        "calibrations": calibrations,
        **({"thresholds": thresholds} if thresholds else {}),
        "fit": fit,
        "licence": group.licence,
    }


def load_tokens(path: str | Path) -> TokenSet:
    """Read a set from a file.

    Args:
        path: A file that `save_tokens` wrote.

    Raises:
        TokenFileError: the file is missing, damaged, no set of tokens, or of a newer format.
    """
    header, tensors = read_file(Path(path), FORMAT)
    try:
        _check(header, tensors)
        groups = [_group(entry, tensors[f"group/{i}"]) for i, entry in enumerate(header["groups"])]
        return TokenSet(tuple(groups), schema.made(Space, header["space"]))
    except (OvamError, ValueError) as error:
        raise TokenFileError(
            f"{path} says it holds tokens of format {header['format_version']} but its header or tensors are not whole "
            f"({error}): expected what docs/formats.md lists; write the file again"
        ) from error


def _check(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check a header by its schema, and the vectors by the header.

    Raises:
        ValueError: a field or tensor is missing, or has a value that is not allowed.
    """
    TOKENS(header, "")
    width = header["space"]["width"]
    for i, entry in enumerate(header["groups"]):
        name, rows, calibrated = f"group/{i}", entry["rows"], set(entry["calibrations"])
        vectors, classes = schema.tensor_of(name, tensors), {*rows} - {BACKGROUND}
        if not classes:
            raise ValueError(f"groups[{i}] has no class, rows {rows}")
        # a fit calibrates all its classes; vectors made elsewhere have no calibration and are scored like words
        if calibrated != classes and (calibrated or entry["fit"]["losses"]):
            raise ValueError(
                f"groups[{i}] has the classes {sorted(classes)} and calibrations of {sorted(calibrated) or 'none'}"
            )
        strange = {*entry.get("thresholds", {})} - classes
        if strange:
            raise ValueError(f"groups[{i}] has thresholds of {sorted(strange)}, and the classes {sorted(classes)}")
        if vectors.dtype != torch.float32 or vectors.shape != (len(rows), width):
            raise ValueError(
                f"{name} is {tuple(vectors.shape)} of {vectors.dtype} for {len(rows)} rows of width {width}"
            )
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError(f"{name} contains NaN or infinity")


def _group(entry: Mapping[str, Any], vectors: Tensor) -> TokenGroup:
    fit = entry["fit"]
    lists = {
        "blocks": tuple(fit["blocks"]),
        "timesteps": tuple(tuple(map(float, calls)) for calls in fit["timesteps"]),
        "losses": tuple(math.nan if loss is None else float(loss) for loss in fit["losses"]),
        "annotations": tuple(fit["annotations"]),
    }
    calibrations = {
        name: Calibration(float(found["scale"]), float(found["offset"]))
        for name, found in entry["calibrations"].items()
    }
    return TokenGroup(
        tuple(entry["rows"]),
        vectors,
        calibrations,
        schema.made(Fit, fit | lists),
        entry["licence"],
        {name: schema.made(Thresholds, found) for name, found in entry.get("thresholds", {}).items()},
    )
