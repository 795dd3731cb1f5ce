"""The schema of a trace file's header, and checks that header and tensors agree.

All checks run before any object is made, so that no unchecked number in a header decides how much memory is used.
"""

import math
import struct
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovam import header as schema
from ovam.errors import OvamError, TraceFileError
from ovam.header import Check

_MOST_CALLS = 2**31  # maximum number of calls and of steps; every real run has far fewer
_LONGEST_SIDE = 2**16  # maximum length of a side, in pixels; also the maximum number of heads and of channels
_MOST_TOKENS = 1024  # maximum number of tokens of a padded text; in all families T5 reads at most 512, and CLIP 77
_MOST_PIXELS = 2**27  # maximum number of pixels of an image
_PIXELS_ALWAYS_ALLOWED = 2**20  # an image may always have this many pixels, even if its file is small
_PIXELS_PER_BYTE = {"query/": 64, "image.png": 512}
"""Maximum number of image pixels for each byte of queries or of the PNG. Measured examples: 3 pixels per byte if only
int8 queries of Stable Diffusion's coarsest block are stored, 343 for a PNG of one colour."""
_MOST_CELL_RATIO = 2.0  # maximum ratio between the two sides of a grid's cell; cells are square in all families
_SMALLEST_SCALE, _LARGEST_SCALE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
_FLOAT_TYPES = ("float32", "float16", "bfloat16")

_name = schema.text(".+", "a text that is not empty")
_hash = schema.text("[0-9a-f]{16}", "16 hexadecimal digits")
_side = schema.whole(1, _LONGEST_SIDE)
_pair = schema.listed(_side, 2, 2)

SPACE = schema.record(
    {
        "encoder": _name,
        "layer": schema.text(r"last|skip-\d{1,2}|hidden-[1-9]\d?", "'last', 'skip-N', or 'hidden-N' with N at least 1"),
        "width": schema.whole(1, _LONGEST_SIDE),
    }
)
"""Schema of a `Space`, in every kind of file."""

TEXT: Mapping[str, Check] = {
    "static": schema.record(
        {
            "space": SPACE,
            "dtype": schema.one_of(*_FLOAT_TYPES, None),
            "projections": schema.one_of("inside", "by reference"),
            "projections_hash": _hash,
        }
    ),
    "replayed": schema.record(
        {
            "space": SPACE,
            "dtype": schema.one_of(*_FLOAT_TYPES),
            "projections": schema.one_of("by reference"),
            "projections_hash": schema.text("[0-9a-f]+", "hexadecimal digits"),
            "tokens": schema.whole(1, _MOST_TOKENS),
            "replay": schema.listed(_name),
        }
    ),
}
"""Schemas of the header's `text`, by the kind of text side."""

TRACE = schema.record(
    {
        "source": schema.record(
            {"model": schema.text(), "pipeline": schema.text(), "kind": schema.one_of("generated", "encoded")},
            {
                "prompt": schema.or_null(schema.text()),
                "negative_prompt": schema.or_null(schema.text()),
                "seed": schema.or_null(schema.whole(-(2**63), 2**64 - 1)),
                "versions": schema.by_name(schema.text()),
            },
        ),
        "size": _pair,
        "calls": schema.listed(
            schema.record(
                {
                    "index": schema.whole(0, _MOST_CALLS),
                    "step": schema.whole(0, _MOST_CALLS),
                    "timestep": schema.number(),
                },
                {"sigma": schema.or_null(schema.number())},
            )
        ),
        "blocks": schema.listed(
            schema.record(
                {
                    "name": _name,
                    "grid": _pair,
                    "heads": schema.whole(1, _LONGEST_SIDE),
                    "scale": schema.number(_SMALLEST_SCALE, _LARGEST_SCALE),
                }
            )
        ),
        "halves": schema.listed(schema.one_of("cond", "uncond"), 0, 2),
        "dtype": schema.one_of(*_FLOAT_TYPES, "int8", None),
        "text": schema.record({"kind": schema.text()}),
    },
    {
        "self_attention": schema.listed(schema.record({"name": _name, "grid": _pair})),
        "parts": schema.by_name(
            schema.listed(
                schema.record(
                    {"name": _name, "grid": _pair},
                    {"averaged": schema.truth, "last": schema.truth, "dtype": schema.one_of(*_FLOAT_TYPES, "int8")},
                )
            )
        ),
    },
)


@contextmanager
def damage_reported(path: Path, header: Mapping[str, Any]) -> Iterator[None]:
    """Turn any error about wrong values into an error that names the file.

    Raises:
        TraceFileError: the header or the tensors are incomplete, or they do not agree.
    """
    try:
        yield
    except OvamError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        kind = f"{type(error).__name__}: " if not isinstance(error, ValueError) else ""
        raise TraceFileError(
            f"{path} says that it is a trace of format {header['format_version']}, but its header or its tensors are "
            f"wrong or incomplete ({kind}{error}): expected what docs/formats.md lists; write the file again"
        ) from error


def check_trace(header: Mapping[str, Any], tensors: Mapping[str, Tensor], kinds: Container[str]) -> None:
    """Check that a trace's header fits its schema, and that the tensors fit the header.

    Raises:
        ValueError: a field or tensor is missing, or has a value that is not allowed.
    """
    TRACE(header, "")
    kind = header["text"]["kind"]
    if kind not in kinds:
        raise ValueError(f"text.kind is {kind!r}, which no reader here knows")
    if kind in TEXT:  # other kinds are checked by their readers
        TEXT[kind](header["text"], "text")
    further = {"self_attention": header.get("self_attention", []), **header.get("parts", {})}
    for part, entries in {"blocks": header["blocks"], **further}.items():
        schema.check_different([entry["name"] for entry in entries], part)
    schema.check_different(header["halves"], "halves")
    _check_calls(header["calls"])
    for half in header["halves"]:
        for block in header["blocks"]:
            _check_queries(block, half, header, tensors)
        for entry in header.get("self_attention", []):
            _check_average(f"self_attention/{half}/{entry['name']}", entry["grid"], tensors)
        for entry in header.get("parts", {}).get("features", []):
            _check_features(f"features/{half}/{entry['name']}", entry, tensors)
    if header["text"]["kind"] == "replayed":
        _check_replay(header, tensors)
    _check_size(header, tensors)
    _check_grids(header)
    _check_picture(header["size"], tensors.get("image.png"))


def _check_calls(calls: Sequence[Mapping[str, Any]]) -> None:
    """Check that each call occurs once, in the order of the run, and that no step exceeds the index of its call."""
    before = {"index": -1, "step": 0}
    for i, call in enumerate(calls):
        if call["index"] <= before["index"] or not before["step"] <= call["step"] <= call["index"]:
            raise ValueError(
                f"calls[{i}] is call {call['index']} of step {call['step']} after call {before['index']} of step "
                f"{before['step']}: expected call indices that increase, and steps that never decrease or exceed the "
                "index"
            )
        before = {"index": call["index"], "step": call["step"]}


def _check_queries(
    block: Mapping[str, Any], half: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Check that queries (and outputs, if any) have the heads, calls and pixels of the header."""
    (height, width), name = block["grid"], block["name"]
    expected = (block["heads"], len(header["calls"]), height * width)
    for part in ("query", "output"):
        key = f"{part}/{half}/{name}"
        if part == "output" and key not in tensors:
            continue
        found = schema.tensor_of(key, tensors)
        if found.ndim != 4 or found.shape[:3] != expected or not found.numel():
            raise ValueError(
                f"{key} has shape {tuple(found.shape)}: expected four axes, none of size 0; according to the "
                f"header, the first three must have the sizes {expected}"
            )
    matrix, rows = tensors.get(f"projection/{name}"), block["heads"] * tensors[f"query/{half}/{name}"].shape[3]
    if matrix is not None and (matrix.ndim != 2 or len(matrix) != rows):
        raise ValueError(f"projection/{name} has shape {tuple(matrix.shape)}, but its queries need {rows} rows")


def _check_average(name: str, grid: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
    found, pixels = schema.tensor_of(name, tensors), grid[0] * grid[1]
    if found.dtype != torch.float32 or found.shape != (pixels, pixels):
        raise ValueError(
            f"{name} has shape {tuple(found.shape)} and type {found.dtype}: expected ({pixels}, {pixels}) and "
            f"torch.float32, because the header says a grid of {grid[0]} x {grid[1]}"
        )


def _check_features(name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    found, grid = schema.tensor_of(name, tensors), entry["grid"]
    if entry.get("averaged", True) or not entry.get("last", False) or entry.get("dtype") not in _FLOAT_TYPES:
        raise ValueError(
            f"the header's entry of {name} says that it is not from the last call, or has no float type: expected "
            f"averaged=false, last=true, and as dtype one of {', '.join(_FLOAT_TYPES)}"
        )
    if found.ndim != 3 or list(found.shape[1:]) != list(grid) or not found.numel():
        raise ValueError(
            f"{name} has shape {tuple(found.shape)}: expected (channel, {grid[0]}, {grid[1]}), because the header says "
            f"a grid of {grid[0]} x {grid[1]}"
        )


def _check_replay(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check that every block has image keys and values, with the pixels and calls of the queries."""
    names, blocks, calls = header["text"]["replay"], header["blocks"], len(header["calls"])
    schema.check_different(names, "text.replay")
    missing = [block["name"] for block in blocks if block["name"] not in names]
    if missing:
        raise ValueError(f"text.replay lacks {missing[0]!r}, which is one of the blocks")
    pixels = max((block["grid"][0] * block["grid"][1] for block in blocks), default=1)
    # Numbers of image pixels of the blocks. A number may be larger than the grid: with a reference picture (FLUX
    # Kontext), the pixels of this picture come after those of the grid.
    counts = set[int]()
    for half in header["halves"]:
        for name in names:
            key, value, vector = (
                schema.tensor_of(f"replay/{half}/{name}/{part}", tensors) for part in ("key", "value", "conditioning")
            )
            if key.ndim != 4 or key.shape != value.shape or key.shape[1] != calls or key.shape[2] < pixels:
                raise ValueError(
                    f"replay/{half}/{name} has keys of shape {tuple(key.shape)} and values of shape "
                    f"{tuple(value.shape)}, but the header says {calls} calls and at least {pixels} pixels"
                )
            counts.add(key.shape[2])
            if vector.ndim != 2 or len(vector) != calls:
                raise ValueError(
                    f"replay/{half}/{name}/conditioning has shape {tuple(vector.shape)}: expected one vector for each "
                    f"of {calls} calls"
                )
    if len(counts) > 1:
        raise ValueError(
            f"the blocks of text.replay have {sorted(counts)} pixels: expected the same number in every block"
        )


def _check_size(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check that the image's size is plausible for the bytes in the file: the memory of masks grows with this size."""
    height, width = header["size"]
    most = _PIXELS_ALWAYS_ALLOWED + sum(
        each * tensor.nbytes
        for begin, each in _PIXELS_PER_BYTE.items()
        for name, tensor in tensors.items()
        if name.startswith(begin)
    )
    most = min(most, _MOST_PIXELS)
    if height * width > most:
        raise ValueError(
            f"size is {height} x {width}: expected at most {most} pixels, because the queries and the picture in the "
            "file have so few bytes"
        )


def _check_grids(header: Mapping[str, Any]) -> None:
    """Check that all grids divide one image into cells that are about square.

    If the image was generated, the grids are compared with the size of the trace. An encoded image may have been
    resized for the model, with another ratio of height to width. So its grids are only compared with each other.
    """
    features = header.get("parts", {}).get("features", [])
    grids = [tuple(entry["grid"]) for entry in (*header["blocks"], *header.get("self_attention", []), *features)]
    whole = tuple(header["size"]) if header["source"]["kind"] == "generated" else max(grids, default=(1, 1))
    for grid in dict.fromkeys(grids):
        # bounds of the side of a cell; because of rounding, a grid may have one cell more or less
        least = max(side / (cells + 1) for side, cells in zip(whole, grid, strict=True))
        most = min(side / (cells - 1) if cells > 1 else math.inf for side, cells in zip(whole, grid, strict=True))
        if least >= _MOST_CELL_RATIO * most:
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} does not fit into {whole[0]} x {whole[1]}")


def _check_picture(size: Sequence[int], picture: Tensor | None) -> None:
    """Check that the picture is a PNG of the trace's size; only its first bytes are read."""
    if picture is None:
        return
    begin = bytes(picture[:24].tolist()) if picture.dtype == torch.uint8 and picture.ndim == 1 else b""
    if len(begin) < 24 or begin[:8] != b"\x89PNG\r\n\x1a\n" or begin[12:16] != b"IHDR":
        raise ValueError("image.png is no PNG file")
    width, height = struct.unpack(">II", begin[16:24])
    if (height, width) != tuple(size):
        raise ValueError(f"image.png is {height} x {width}, but the header says a size of {size[0]} x {size[1]}")
