"""Traces on disk: one safetensors file with a JSON header, specified in docs/formats.md. Never pickle."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ovam import tensor_file
from ovam.backbones.as_read import give_tokens_read, tokens_read
from ovam.backbones.base import TextReader
from ovam.backbones.clip_text import CAPTION, StaticText, fingerprint
from ovam.backbones.joint import ReplayedText
from ovam.calls import Call, Half
from ovam.errors import NoTextEncoderError, SpaceMismatchError, TraceFileError
from ovam.header import made
from ovam.models import load, text_of
from ovam.quantised import Stored, from_named, named_tensors
from ovam.replay_file import replayed_side
from ovam.tensor_file import Format, read_file, write_file
from ovam.text_side import Space, TextSide
from ovam.trace import BlockPart, BlockTrace, Source, Trace
from ovam.trace_header import check_trace, damage_told

FORMAT = Format(
    name="ovam-trace",
    version=2,
    kind="a trace",
    writers="trace.save(...) or `ovam generate`",
    advice="copy it again or write it again with trace.save(...)",
    error=TraceFileError,
)
FLOATS_ALONE = 1
"""Version of files without int8, which older readers read as well."""

PROJECTIONS_INSIDE = 32 * 2**20
"""Key projections up to so many bytes travel inside the file; larger ones by reference to the model."""


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace; the file appears whole or not at all, and equal traces give equal bytes.

    Args:
        trace: Queries are written as they are stored, without a copy.
        path: File name, usually ending in `.safetensors`.

    Raises:
        TraceFileError: the folder is not there.
    """
    about, projections = _text_header(trace)
    header = {
        "format": FORMAT.name,
        "format_version": FORMAT.version if trace.dtype == torch.int8 else FLOATS_ALONE,
        "source": asdict(trace.source),
        "size": list(trace.size),
        "calls": [asdict(call) for call in trace.calls],
        "blocks": [
            {"name": block.name, "grid": list(block.grid), "heads": block.heads, "scale": block.scale}
            for block in trace.blocks.values()
        ],
        "halves": list(trace.halves),
        "dtype": None if trace.dtype is None else _name(trace.dtype),
        "text": about,
    }
    parts = {kind: [_about(part) for part in blocks.values()] for kind, blocks in trace.parts.items() if blocks}
    if "self_attention" in parts:
        header["self_attention"] = parts.pop("self_attention")  # its place in format 1
    if parts:
        header["parts"] = parts
    tensors = _tensors(trace, projections if about["projections"] == "inside" else {})
    try:
        check_trace(header, tensors)
    except ValueError as error:
        raise TraceFileError(
            f"{path} can't be written, as it could not be read back ({error}): expected a trace as a capture makes "
            "them; see docs/formats.md"
        ) from error
    write_file(Path(path), header, tensors, FORMAT)


def _tensors(trace: Trace, projections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a file by name; the projections are those that travel inside."""
    tensors: dict[str, Tensor] = {}
    for block in trace.blocks.values():
        for half, query in block.query.items():
            tensors |= named_tensors(f"query/{half}/{block.name}", query)
    tensors |= {f"projection/{name}": projection for name, projection in projections.items()}
    for block in trace.blocks.values():
        for half, stored in block.output.items():
            tensors |= named_tensors(f"output/{half}/{block.name}", stored)
    tensors |= _further_tensors(trace)
    if trace.image_png is not None:
        tensors["image.png"] = torch.frombuffer(bytearray(trace.image_png), dtype=torch.uint8)
    return tensors


def _further_tensors(trace: Trace) -> dict[str, Tensor]:
    """Parts besides queries, and what a replay needs."""
    stored = {
        f"{kind}/{half}/{name}": values
        for kind, blocks in trace.parts.items()
        for name, part in blocks.items()
        for half, values in part.values.items()
    }
    stored |= {
        f"replay/{half}/{name}/{part}": values
        for name, replayed in trace.replay.blocks.items()
        for part, halves in vars(replayed).items()
        for half, values in halves.items()
    }
    return {name: tensor for key, values in stored.items() for name, tensor in named_tensors(key, values).items()}


def _about(part: BlockPart) -> dict[str, Any]:
    """What a header says of a part; averages in float32 are understood."""
    about: dict[str, Any] = {"name": part.name, "grid": list(part.grid)}
    if not part.averaged:
        dtype = next(iter(part.values.values())).dtype
        about |= {"averaged": False, "dtype": _name(dtype)}
    return about


def _text_header(trace: Trace) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the header tells of the text side, and the key projections of a static one."""
    text = trace.text
    about: dict[str, Any] = {"kind": text.kind, "space": asdict(text.space)}
    reader = text.words if isinstance(text, ReplayedText) else getattr(text, "reader", None)
    own = [words for words in (trace.source.prompt, trace.source.negative_prompt) if words is not None]
    read = tokens_read(reader, own)
    about |= {"read": read} if any(read) else {}
    if isinstance(text, ReplayedText):
        about |= {"dtype": _name(text.origin.dtype), "projections": "by reference"}
        about |= {"projections_hash": text.origin.weights, "tokens": text.words.length}
        return about | {"replay": list(text.replay.blocks)}, {}
    projections = text.projections_of(trace.blocks) if isinstance(text, StaticText) else {}
    inside = sum(projection.nbytes for projection in projections.values()) <= PROJECTIONS_INSIDE
    about |= {
        "dtype": _name(next(iter(projections.values())).dtype) if projections else None,
        "projections": "inside" if inside else "by reference",
        "projections_hash": fingerprint(projections),
    }
    return about, projections


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_trace(path: str | Path, text: object = None) -> Trace:
    """Read a trace, on the CPU.

    Args:
        path: A file that `save_trace` wrote.
        text: What reads late words: a pipeline, the folder of one, or a model name such as "mini". None
            leaves the trace with embeddings only. Of a folder the text encoder alone is read, unless the file
            refers to the model's key projections or is one of joint attention, which needs the model. The file
            itself never makes anything be downloaded.

    Raises:
        TraceFileError: the file is missing, damaged, no trace, or of a newer format.
        NoTextEncoderError: the file refers to the key projections of its model, or is one of joint attention, whose
            words are run through the model itself, and `text` is None.
        ModelNotFoundError: `text` names no model.
        SpaceMismatchError: `text` is not the text encoder, or not the model, that the trace was made with.
    """
    header, tensors = read_file(Path(path), FORMAT)
    with damage_told(Path(path), header):
        check_trace(header, tensors)
        blocks = {entry["name"]: _block(entry, header, tensors) for entry in header["blocks"]}
        image = tensors.get("image.png")
        parts: dict[str, Any] = {
            "blocks": blocks,
            "calls": tuple(made(Call, call) for call in header["calls"]),
            "source": made(Source, header["source"]),
            "size": (header["size"][0], header["size"][1]),
            "image_png": None if image is None else image.numpy().tobytes(),
            "parts": _parts(header, tensors),
        }
    # apart: what is wrong with the model that the user names is no damage of the file
    read = replayed_side if header["text"]["kind"] == "replayed" else _text_side
    return Trace(**parts, text=read(header, tensors, text, Path(path)))


def _block(entry: Mapping[str, Any], header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTrace:
    name, (height, width) = entry["name"], entry["grid"]
    parts: dict[str, dict[Half, Stored]] = {"query": {}, "output": {}}
    for part, half in itertools.product(parts, header["halves"]):
        key = f"{part}/{half}/{name}"
        if part == "output" and key not in tensors:
            continue  # it is kept only where it was asked for
        parts[part][cast(Half, half)] = from_named(key, tensors, header["dtype"])
    return BlockTrace(name, (height, width), float(entry["scale"]), **parts)


def _parts(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, BlockPart]]:
    """What was kept besides queries, by kind and block."""
    kinds = {"self_attention": header.get("self_attention", []), **header.get("parts", {})}
    return {
        kind: {entry["name"]: _part(kind, entry, header, tensors) for entry in entries}
        for kind, entries in kinds.items()
        if entries
    }


def _part(kind: str, entry: Mapping[str, Any], header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockPart:
    name, (height, width), dtype = entry["name"], entry["grid"], entry.get("dtype", "float32")
    values = {half: from_named(f"{kind}/{half}/{name}", tensors, dtype) for half in header["halves"]}
    return BlockPart(name, (height, width), values, averaged=entry.get("averaged", True))


def read_header(path: str | Path) -> dict[str, Any]:
    """Header of a trace file, without its tensors.

    Raises:
        TraceFileError: the file is missing, damaged, no trace, or of a newer format.
    """
    return tensor_file.read_header(Path(path), FORMAT)


def _text_side(header: Mapping[str, Any], tensors: Mapping[str, Tensor], text: object, path: Path) -> TextSide:
    about = header["text"]
    space, reader = made(Space, about["space"]), None
    heads = {entry["name"]: int(entry["heads"]) for entry in header["blocks"]}
    dtype = torch.bfloat16 if about["dtype"] == "bfloat16" else torch.float32
    inside = about["projections"] == "inside"
    if not inside and isinstance(text, str | Path):
        text = load(text)  # named by the user, never by the file
    if text is not None:
        reader = text_of(text, space.layer)
        _check_encoder(reader, space, dtype, path)
        give_tokens_read(reader, about.get("read", []))
    if inside:
        stored = [name for name in tensors if name.startswith("projection/")]
        projections = {name.removeprefix("projection/"): tensors[name] for name in stored}
        with damage_told(path, header):
            _check_projections(projections, heads, space, about["projections_hash"])
    else:
        projections = _projections_of(text, list(heads), dtype, header, path)
    return StaticText(projections, heads, reader, space)


def _check_projections(projections: Mapping[str, Tensor], heads: Mapping[str, int], space: Space, told: str) -> None:
    for name, projection in projections.items():
        if projection.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"projection/{name} is of {projection.dtype}")
    first, second = (f"{CAPTION}.{layer}" for layer in ("linear_1", "linear_2"))
    ways = [first, second] if f"{first}.weight" in projections else []
    width = space.width
    for name in ways:
        width = _check_layer(name, projections[f"{name}.weight"], projections.get(f"{name}.bias"), width, 1)
    for name, count in heads.items():
        _check_layer(name, projections[name], projections.get(f"{name}.bias"), width, count)
    if fingerprint(projections) != told:
        raise ValueError("the key projections are not those that were written")


def _check_layer(name: str, matrix: Tensor, bias: Tensor | None, width: int, heads: int) -> int:
    """Whether one layer of the keys' way takes vectors of this width; the width of those it gives."""
    if matrix.ndim != 2 or matrix.shape[0] % heads or matrix.shape[1] != width:
        raise ValueError(f"projection/{name} is {tuple(matrix.shape)} for {heads} heads and vectors of width {width}")
    if bias is not None and bias.shape != matrix.shape[:1]:
        raise ValueError(f"projection/{name}.bias is {tuple(bias.shape)} for a matrix {tuple(matrix.shape)}")
    return matrix.shape[0]


def _check_encoder(reader: TextReader, space: Space, dtype: torch.dtype, path: Path) -> None:
    if reader.space_in(dtype) != space:
        raise SpaceMismatchError(
            f"{path} was made with the text encoder {space}, the given one is {reader.space}: "
            "load the trace with the model it was made with"
        )


def _projections_of(
    pipe: object, names: list[str], dtype: torch.dtype, header: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Key projections from the model the trace was made with."""
    from ovam.backbones.registry import backbone_of

    expected, model = header["text"]["projections_hash"], header["source"]["model"]
    if pipe is None:
        raise NoTextEncoderError(
            f"{path} refers to the key projections of {model!r} instead of holding them, they are too large: "
            "load it with Trace.load(path, text=pipe), where pipe is that model's pipeline, its folder or its id"
        )
    side = backbone_of(pipe).text_side(tuple(names))
    projections = side.projections if isinstance(side, StaticText) else {}
    found = fingerprint(projections, dtype)
    if found != expected:
        raise SpaceMismatchError(
            f"{path} was made with key projections {expected} of {model!r}, the given pipeline has {found}: "
            "load the trace with the model it was made with, without other adapters"
        )
    return projections
