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

from ovam import header as told
from ovam.errors import OvamError, TraceFileError
from ovam.header import Check

_MOST = 2**31  # maximum of calls and steps, far beyond every run
_SIDE = 2**16  # maximum of a side, in pixels
_TOKENS = 1024  # maximum of a padded text: T5 reads 512 in every family, CLIP 77
_PIXELS = 2**27  # maximum of an image
_FREE = 2**20  # pixels that an image may have, however small its file is
_PIXELS_A_BYTE = {"query/": 64, "image.png": 512}
"""Maximum image pixels for each byte of queries or PNG. Known ratios: 3 for int8 queries of Stable Diffusion's coarsest
block, 343 for a PNG of one colour."""
_SQUEEZED = 2.0  # maximum ratio of the two sides of a cell, which is 1 in all families
_SMALLEST, _LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
_FLOATS = ("float32", "float16", "bfloat16")

_name = told.text(".+", "a text that is not empty")
_hash = told.text("[0-9a-f]{16}", "16 hexadecimal digits")
_side = told.whole(1, _SIDE)
_pair = told.listed(_side, 2, 2)

SPACE = told.record(
    {
        "encoder": _name,
        "layer": told.text(r"last|skip-\d{1,2}|hidden-[1-9]\d?", "'last', 'skip-N' or, from 1 on, 'hidden-N'"),
        "width": told.whole(1, _SIDE),
    }
)
"""Schema of a `Space`, in every kind of file."""

TEXT: Mapping[str, Check] = {
    "static": told.record(
        {
            "space": SPACE,
            "dtype": told.one_of(*_FLOATS, None),
            "projections": told.one_of("inside", "by reference"),
            "projections_hash": _hash,
        }
    ),
    "replayed": told.record(
        {
            "space": SPACE,
            "dtype": told.one_of(*_FLOATS),
            "projections": told.one_of("by reference"),
            "projections_hash": told.text("[0-9a-f]+", "hexadecimal digits"),
            "tokens": told.whole(1, _TOKENS),
            "replay": told.listed(_name),
        }
    ),
}
"""Schemas of the header's `text`, by its kind."""

TRACE = told.record(
    {
        "source": told.record(
            {"model": told.text(), "pipeline": told.text(), "kind": told.one_of("generated", "encoded")},
            {
                "prompt": told.or_null(told.text()),
                "negative_prompt": told.or_null(told.text()),
                "seed": told.or_null(told.whole(-(2**63), 2**64 - 1)),
                "versions": told.by_name(told.text()),
            },
        ),
        "size": _pair,
        "calls": told.listed(
            told.record(
                {"index": told.whole(0, _MOST), "step": told.whole(0, _MOST), "timestep": told.number()},
                {"sigma": told.or_null(told.number())},
            )
        ),
        "blocks": told.listed(
            told.record(
                {
                    "name": _name,
                    "grid": _pair,
                    "heads": told.whole(1, _SIDE),
                    "scale": told.number(_SMALLEST, _LARGEST),
                }
            )
        ),
        "halves": told.listed(told.one_of("cond", "uncond"), 0, 2),
        "dtype": told.one_of(*_FLOATS, "int8", None),
        "text": told.record({"kind": told.text()}),
    },
    {
        "self_attention": told.listed(told.record({"name": _name, "grid": _pair})),
        "parts": told.by_name(
            told.listed(
                told.record(
                    {"name": _name, "grid": _pair},
                    {"averaged": told.truth, "last": told.truth, "dtype": told.one_of(*_FLOATS, "int8")},
                )
            )
        ),
    },
)


@contextmanager
def damage_told(path: Path, header: Mapping[str, Any]) -> Iterator[None]:
    """Turn any error about wrong values into an error that names the file.

    Raises:
        TraceFileError: header or tensors are incomplete, or do not agree.
    """
    try:
        yield
    except OvamError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        told_by = f"{type(error).__name__}: " if not isinstance(error, ValueError) else ""
        raise TraceFileError(
            f"{path} says it is a trace of format {header['format_version']} but its header or tensors are incomplete "
            f"({told_by}{error}): expected what docs/formats.md lists; write the file again"
        ) from error


def check_trace(header: Mapping[str, Any], tensors: Mapping[str, Tensor], kinds: Container[str]) -> None:
    """Check a trace's header by its schema, and its tensors by the header.

    Raises:
        ValueError: a field or tensor is missing, or has a value that is not allowed.
    """
    TRACE(header, "")
    kind = header["text"]["kind"]
    if kind not in kinds:
        raise ValueError(f"text.kind is {kind!r}, which nothing here reads")
    if kind in TEXT:  # other kinds are checked by their readers
        TEXT[kind](header["text"], "text")
    further = {"self_attention": header.get("self_attention", []), **header.get("parts", {})}
    for part, entries in {"blocks": header["blocks"], **further}.items():
        told.check_different([entry["name"] for entry in entries], part)
    told.check_different(header["halves"], "halves")
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
    """Check that calls are in the order of the run, each once, and that no step exceeds the index of its call."""
    before = {"index": -1, "step": 0}
    for i, call in enumerate(calls):
        if call["index"] <= before["index"] or not before["step"] <= call["step"] <= call["index"]:
            raise ValueError(
                f"calls[{i}] is call {call['index']} of step {call['step']} after call {before['index']} of step "
                f"{before['step']}: expected increasing calls, and steps that never fall or exceed the call's index"
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
        found = told.tensor_of(key, tensors)
        if found.ndim != 4 or found.shape[:3] != expected or not found.numel():
            raise ValueError(f"{key} is {tuple(found.shape)}, the header says {expected} and a head size")
    matrix, rows = tensors.get(f"projection/{name}"), block["heads"] * tensors[f"query/{half}/{name}"].shape[3]
    if matrix is not None and (matrix.ndim != 2 or len(matrix) != rows):
        raise ValueError(f"projection/{name} is {tuple(matrix.shape)}, its queries need {rows} rows")


def _check_average(name: str, grid: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
    found, pixels = told.tensor_of(name, tensors), grid[0] * grid[1]
    if found.dtype != torch.float32 or found.shape != (pixels, pixels):
        raise ValueError(
            f"{name} is {tuple(found.shape)} of {found.dtype}, the header says a grid of {grid[0]} x {grid[1]}"
        )


def _check_features(name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    found, grid = told.tensor_of(name, tensors), entry["grid"]
    if entry.get("averaged", True) or not entry.get("last", False) or entry.get("dtype") not in _FLOATS:
        raise ValueError(f"{name} is told as another kind: expected the last call's, of {', '.join(_FLOATS)}")
    if found.ndim != 3 or list(found.shape[1:]) != list(grid) or not found.numel():
        raise ValueError(f"{name} is {tuple(found.shape)}, the header says channels of a grid {grid[0]} x {grid[1]}")


def _check_replay(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check that every block has image keys and values, with the pixels and calls of the queries."""
    names, blocks, calls = header["text"]["replay"], header["blocks"], len(header["calls"])
    told.check_different(names, "text.replay")
    missing = [block["name"] for block in blocks if block["name"] not in names]
    if missing:
        raise ValueError(f"text.replay lacks {missing[0]!r}, which is one of the blocks")
    pixels = max((block["grid"][0] * block["grid"][1] for block in blocks), default=1)
    counts = set[int]()  # image pixels by block; a reference picture may add some after the grid's (FLUX Kontext)
    for half in header["halves"]:
        for name in names:
            key, value, vector = (
                told.tensor_of(f"replay/{half}/{name}/{part}", tensors) for part in ("key", "value", "conditioning")
            )
            if key.ndim != 4 or key.shape != value.shape or key.shape[1] != calls or key.shape[2] < pixels:
                raise ValueError(
                    f"replay/{half}/{name} has keys {tuple(key.shape)} and values {tuple(value.shape)}, the header "
                    f"says {calls} calls and at least {pixels} pixels"
                )
            counts.add(key.shape[2])
            if vector.ndim != 2 or len(vector) != calls:
                raise ValueError(f"replay/{half}/{name}/conditioning is {tuple(vector.shape)} for {calls} calls")
    if len(counts) > 1:
        raise ValueError(f"the blocks of text.replay have {sorted(counts)} pixels: expected one number in all")


def _check_size(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check that the image's size is plausible for the bytes in the file; masks take memory by this size."""
    height, width = header["size"]
    most = _FREE + sum(
        each * tensor.nbytes
        for begin, each in _PIXELS_A_BYTE.items()
        for name, tensor in tensors.items()
        if name.startswith(begin)
    )
    if height * width > min(most, _PIXELS):
        raise ValueError(
            f"size is {height} x {width}: expected at most {min(most, _PIXELS)} pixels for the queries and picture here"
        )


def _check_grids(header: Mapping[str, Any]) -> None:
    """Check that all grids divide one image into cells that are about square.

    For a generated image, this is the image of the trace. An encoded image may have been squeezed for the model, so
    its grids are only compared with each other.
    """
    features = header.get("parts", {}).get("features", [])
    grids = [tuple(entry["grid"]) for entry in (*header["blocks"], *header.get("self_attention", []), *features)]
    whole = tuple(header["size"]) if header["source"]["kind"] == "generated" else max(grids, default=(1, 1))
    for grid in dict.fromkeys(grids):
        # bounds of a cell's side: a grid may have one cell more or less, because of rounding
        least = max(side / (cells + 1) for side, cells in zip(whole, grid, strict=True))
        most = min(side / (cells - 1) if cells > 1 else math.inf for side, cells in zip(whole, grid, strict=True))
        if least >= _SQUEEZED * most:
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} does not fit into {whole[0]} x {whole[1]}")


def _check_picture(size: Sequence[int], picture: Tensor | None) -> None:
    """Check by its first bytes that the picture is a PNG of the trace's size."""
    if picture is None:
        return
    begin = bytes(picture[:24].tolist()) if picture.dtype == torch.uint8 and picture.ndim == 1 else b""
    if len(begin) < 24 or begin[:8] != b"\x89PNG\r\n\x1a\n" or begin[12:16] != b"IHDR":
        raise ValueError("image.png is no PNG file")
    width, height = struct.unpack(">II", begin[16:24])
    if (height, width) != tuple(size):
        raise ValueError(f"image.png is {height} x {width}, the header says a size of {size[0]} x {size[1]}")
