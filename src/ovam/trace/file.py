"""Traces on disk. A trace is one safetensors file with a JSON header, without pickle; docs/formats.md specifies it."""

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
from ovam.trace.header import check_trace, damage_reported
from ovam.trace.quantised import Stored, from_named, named_tensors
from ovam.trace.static_text import static_text_of
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
FORMAT_WITHOUT_INT8 = 1
"""Format version of files without int8; versions of ovam that know only format 1 can read these files too."""

Reader = Callable[[TextFile], TextSide]


def _read(file: TextFile) -> TextSide:
    """Read the text side of a model family that ovam supports.

    Model libraries are imported only if the user gave a model or the file needs one.
    """
    if file.text_encoder is None and file.about["projections"] == "inside":
        return static_text_of(file)
    from ovam.text_sides import read_text_side

    return read_text_side(file)


READERS: dict[str, Reader] = {"static": _read, "replayed": _read}
"""Readers of text sides, by the `kind` that a file stores. For a text side of your own kind, add a reader here before
you save or load traces."""


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace to a file.

    The file is written whole or not at all. Equal traces give files with equal bytes.

    Args:
        trace: The trace. Its queries are written as they are stored, without a copy.
        path: File name, usually ending in `.safetensors`.

    Raises:
        TraceFileError: the folder does not exist, or the file would be unreadable.
    """
    saved_text = _saved_text(trace, path)
    header = {
        "format": FORMAT.name,
        "format_version": FORMAT.version if trace.dtype == torch.int8 else FORMAT_WITHOUT_INT8,
        "source": asdict(trace.source),
        "size": list(trace.size),
        "calls": [asdict(call) for call in trace.calls],
        "blocks": [
            {"name": block.name, "grid": list(block.grid), "heads": block.heads, "scale": block.scale}
            for block in trace.blocks.values()
        ],
        "halves": list(trace.halves),
        "dtype": None if trace.dtype is None else type_name(trace.dtype),
        "text": dict(saved_text.about),
    }
    parts = {kind: [_about(part) for part in blocks.values()] for kind, blocks in trace.parts.items() if blocks}
    if "self_attention" in parts:
        # Format 1 began with a header key for self-attention alone. "parts" came later, for all other kinds.
        # Self-attention keeps its key, so that readers that do not know "parts" still find it.
        header["self_attention"] = parts.pop("self_attention")
    if parts:
        header["parts"] = parts
    tensors = _tensors(trace, saved_text.tensors)
    try:
        check_trace(header, tensors, READERS)
    except ValueError as error:
        raise TraceFileError(
            f"{path} can't be written, because the file would be unreadable ({error}): expected a trace like those a "
            "capture makes; see docs/formats.md"
        ) from error
    write_file(Path(path), header, tensors, FORMAT)


def _tensors(trace: Trace, of_text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors of the file, by name."""
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
    """Return the tensors of `trace.parts`, by name."""
    stored = {
        f"{kind}/{half}/{name}": values
        for kind, blocks in trace.parts.items()
        for name, part in blocks.items()
        for half, values in part.values.items()
    }
    return {name: tensor for key, values in stored.items() for name, tensor in named_tensors(key, values).items()}


def _about(part: BlockPart) -> dict[str, Any]:
    """Return the header's entry for a part.

    For an average, the keys `dtype` and `averaged` are left out: averages are the default, and always float32.
    """
    about: dict[str, Any] = {"name": part.name, "grid": list(part.grid)}
    if not part.averaged:
        dtype = next(iter(part.values.values())).dtype
        about |= {"averaged": False, "dtype": type_name(dtype)} | ({"last": True} if part.last else {})
    return about


def _saved_text(trace: Trace, path: str | Path) -> SavedText:
    """Return what the text side writes to the file.

    Raises:
        TraceFileError: the text side can't be written, or no reader is known for its kind.
    """
    prompts_of_run = [text for text in (trace.source.prompt, trace.source.negative_prompt) if text is not None]
    side = trace.text
    saved = side.saved(trace.blocks, prompts_of_run) if isinstance(side, SavesItself) else None
    if saved is None or saved.about.get("kind") not in READERS:
        reason = (
            "its class has no method `saved`"
            if saved is None
            else f"nothing reads its kind {saved.about.get('kind')!r}"
        )
        raise TraceFileError(
            f"{path} can't be written: the trace's text side is a {type(side).__name__}, and nothing could read it "
            f"back from the file ({reason}): expected a text side of ovam, or one with `saved` and a reader in "
            "ovam.trace.file.READERS"
        )
    return saved


def load_trace(path: str | Path, text: object = None) -> Trace:
    """Read a trace from a file; its tensors are on the CPU.

    Args:
        path: A file that `save_trace` wrote.
        text: The model whose text encoder reads late words, which are words that are asked for after the run: a
            pipeline, the folder of a pipeline, or a model name such as "mini". With None the trace accepts embeddings,
            but no texts. If `text` is a folder, usually only the text encoder in this folder is read. The whole model
            is read in two cases: the file does not store the key projections, or the model has joint attention (image
            and text tokens in one attention, as in SD3 and FLUX). Nothing in the file can cause a download.

    Raises:
        TraceFileError: the file is missing or damaged, is not a trace, or has a newer format.
        NoTextEncoderError: `text` is None, but the file needs the model: the file only refers to the model's key
            projections, or the model has joint attention, in which late words run through the model.
        ModelNotFoundError: `text` does not name a model.
        SpaceMismatchError: the trace was made with another text encoder, or with another model.
    """
    header, tensors = read_file(Path(path), FORMAT)
    with damage_reported(Path(path), header):
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
    # outside of `damage_reported`: an error of the user's model does not mean that the file is damaged
    read = READERS[header["text"]["kind"]]
    return Trace(**parts, text=read(TextFile(Path(path), header, tensors, text)))


def _block(entry: Mapping[str, Any], header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTrace:
    name, (height, width) = entry["name"], entry["grid"]
    parts: dict[str, dict[Half, Stored]] = {"query": {}, "output": {}}
    for part, half in itertools.product(parts, header["halves"]):
        key = f"{part}/{half}/{name}"
        if part == "output" and key not in tensors:
            continue  # outputs are optional
        parts[part][cast(Half, half)] = from_named(key, tensors, header["dtype"])
    return BlockTrace(name, (height, width), float(entry["scale"]), **parts)


def _parts(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, BlockPart]]:
    """Return the parts other than queries and outputs, by kind and name; see `Trace.parts`."""
    kinds = {"self_attention": header.get("self_attention", []), **header.get("parts", {})}
    return {
        kind: {entry["name"]: _part(kind, entry, header, tensors) for entry in entries}
        for kind, entries in kinds.items()
        if entries
    }


def _part(kind: str, entry: Mapping[str, Any], header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockPart:
    name, (height, width), dtype = entry["name"], entry["grid"], entry.get("dtype", "float32")
    values = {half: from_named(f"{kind}/{half}/{name}", tensors, dtype) for half in header["halves"]}
    return BlockPart(name, (height, width), values, entry.get("averaged", True), entry.get("last", False))


def read_header(path: str | Path) -> dict[str, Any]:
    """Read the header of a trace file, without its tensors.

    Raises:
        TraceFileError: the file is missing or damaged, is not a trace, or has a newer format.
    """
    return tensor_file.read_header(Path(path), FORMAT)
