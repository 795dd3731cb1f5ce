"""Traces on disk: one safetensors file with a JSON header, specified in docs/formats.md. Never pickle."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ovam import tensor_file
from ovam.errors import TraceFileError
from ovam.header import made
from ovam.tensor_file import Format, read_file, type_name, write_file
from ovam.trace.calls import Call, Half
from ovam.trace.header import check_trace, damage_told
from ovam.trace.quantised import Stored, from_named, named_tensors
from ovam.trace.static_text import opened
from ovam.trace.text_side import SavedText, SavesItself, TextFile, TextSide
from ovam.trace.trace import BlockPart, BlockTrace, Source, Trace

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

Reader = Callable[[TextFile], TextSide]


def _read(file: TextFile) -> TextSide:
    """The text sides of ovam's own families, which need a model library only where a model is given or needed."""
    if file.text is None and file.about["projections"] == "inside":
        return opened(file)
    from ovam.models import read_text_side

    return read_text_side(file)


READERS: dict[str, Reader] = {"static": _read, "replayed": _read}
"""What reads a text side, by the `kind` that it wrote; add a kind of your own before traces are saved or loaded."""


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace; the file appears whole or not at all, and equal traces give equal bytes.

    Args:
        trace: Queries are written as they are stored, without a copy.
        path: File name, usually ending in `.safetensors`.

    Raises:
        TraceFileError: the folder is not there, or the trace could not be read back.
    """
    text = _saved_text(trace, path)
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
        "dtype": None if trace.dtype is None else type_name(trace.dtype),
        "text": dict(text.about),
    }
    parts = {kind: [_about(part) for part in blocks.values()] for kind, blocks in trace.parts.items() if blocks}
    if "self_attention" in parts:
        header["self_attention"] = parts.pop("self_attention")  # its place in format 1
    if parts:
        header["parts"] = parts
    tensors = _tensors(trace, text.tensors)
    try:
        check_trace(header, tensors, READERS)
    except ValueError as error:
        raise TraceFileError(
            f"{path} can't be written, as it could not be read back ({error}): expected a trace as a capture makes "
            "them; see docs/formats.md"
        ) from error
    write_file(Path(path), header, tensors, FORMAT)


def _tensors(trace: Trace, of_text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a file by name."""
    tensors: dict[str, Tensor] = {}
    for block in trace.blocks.values():
        for half, query in block.query.items():
            tensors |= named_tensors(f"query/{half}/{block.name}", query)
    tensors |= {name: tensor for name, tensor in of_text.items() if name.startswith("projection/")}
    for block in trace.blocks.values():
        for half, stored in block.output.items():
            tensors |= named_tensors(f"output/{half}/{block.name}", stored)
    tensors |= _further_tensors(trace) | dict(of_text)
    if trace.image_png is not None:
        tensors["image.png"] = torch.frombuffer(bytearray(trace.image_png), dtype=torch.uint8)
    return tensors


def _further_tensors(trace: Trace) -> dict[str, Tensor]:
    """Parts besides queries and outputs."""
    stored = {
        f"{kind}/{half}/{name}": values
        for kind, blocks in trace.parts.items()
        for name, part in blocks.items()
        for half, values in part.values.items()
    }
    return {name: tensor for key, values in stored.items() for name, tensor in named_tensors(key, values).items()}


def _about(part: BlockPart) -> dict[str, Any]:
    """What a header says of a part; averages in float32 are understood."""
    about: dict[str, Any] = {"name": part.name, "grid": list(part.grid)}
    if not part.averaged:
        dtype = next(iter(part.values.values())).dtype
        about |= {"averaged": False, "dtype": type_name(dtype)}
    return about


def _saved_text(trace: Trace, path: str | Path) -> SavedText:
    """What the text side writes of itself.

    Raises:
        TraceFileError: it can't, or nothing could read it back.
    """
    own = [words for words in (trace.source.prompt, trace.source.negative_prompt) if words is not None]
    text = trace.text
    saved = text.saved(trace.blocks, own) if isinstance(text, SavesItself) else None
    if saved is None or saved.about.get("kind") not in READERS:
        kind = "it has no `saved`" if saved is None else f"nothing reads its kind {saved.about.get('kind')!r}"
        raise TraceFileError(
            f"{path} can't be written: the trace's text side is a {type(text).__name__}, which could not be read back "
            f"({kind}): expected one of ovam's, or `saved` and an entry in ovam.trace_file.READERS"
        )
    return saved


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
        check_trace(header, tensors, READERS)
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
    read = READERS[header["text"]["kind"]]
    return Trace(**parts, text=read(TextFile(Path(path), header, tensors, text)))


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
