"""Open tokenizers and text encoders: those of a pipeline, a folder or a model, and those that a trace file needs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovam.backbones.clip_text import ClipText
from ovam.backbones.joint_file import replayed_side
from ovam.backbones.registry import backbone_of
from ovam.errors import ModelNotFoundError, NoTextEncoderError, SpaceMismatchError
from ovam.header import made
from ovam.json_text import read_json
from ovam.model_names import check_name
from ovam.models import at_hand, check_tokenizers, folder_of, load, pretrained
from ovam.tensor_file import fingerprint
from ovam.trace.as_read import set_tokens_read
from ovam.trace.header import damage_reported
from ovam.trace.static_text import StaticText, heads_in, static_text_of
from ovam.trace.text_side import Space, TextFile, TextReader, TextSide


def text_of(source: object, layer: str | None = None) -> TextReader:
    """Return the text reader (tokenizers and text encoders) of a pipeline object, a pipeline's folder, or a model name.

    Args:
        source: A pipeline, a folder or a name. From a folder, only tokenizers and text encoders are read; a folder
            without a model_index.json is read as Stable Diffusion 1 or 2.
        layer: Output of the text encoders, as a `Space` names it; by default that of the pipeline's last run.

    Raises:
        ModelNotFoundError: a folder without a tokenizer and a text encoder.
        UnsupportedPipelineError: a pipeline that no backbone reads.
    """
    if not isinstance(source, str | Path):
        return backbone_of(source).reader(layer)
    check_name(source)
    folder = folder_of(source)
    if not folder.is_dir():
        return backbone_of(load(source)).reader(layer)
    index = folder / "model_index.json"
    if not index.is_file():
        return _clip_in(folder, layer or "last")
    return backbone_of(_text_parts(folder, index)).reader(layer)


def _text_parts(folder: Path, file: Path) -> Any:
    """The folder's pipeline with its text encoders and tokenizers alone, which its file names."""
    with at_hand(folder, local=True):
        index = read_json(file)
        if not isinstance(index, dict):
            raise ValueError(f"{file} is no index of parts")
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    left_out = {name: None for name in parts if not name.startswith(("tokenizer", "text_encoder"))}
    with at_hand(folder, local=True):
        return pretrained(folder, dtype=torch.float32, local_files_only=True, **left_out)


def _clip_in(folder: Path, layer: str) -> ClipText:
    from transformers import CLIPTextModel, CLIPTokenizer

    if not all((folder / part).is_dir() for part in ("tokenizer", "text_encoder")):
        raise ModelNotFoundError(
            f"folder {folder} has no CLIP text encoder: expected a model_index.json, as pipe.save_pretrained writes, "
            "or the folders tokenizer and text_encoder of Stable Diffusion"
        )
    with at_hand(folder, local=True):
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, dtype=torch.float32)
        check_tokenizers({"tokenizer": tokenizer, "text_encoder": encoder})
    return ClipText(tokenizer, encoder.eval(), layer)


def read_text_side(file: TextFile) -> TextSide:
    """Return the text side of a trace file, with the model that the user gave.

    Raises:
        NoTextEncoderError: the file needs the model, and there is none.
        SpaceMismatchError: it is not the model that the trace was made with.
        ModelNotFoundError: there is no model of the name that the user gave.
    """
    return replayed_side(file, _opened(file.text_encoder)) if file.about["kind"] == "replayed" else _static_side(file)


def _opened(model: object) -> Any:
    """A pipeline, as it was given or by its name."""
    return load(model) if isinstance(model, str | Path) else model  # named by the user, never by the file


def _static_side(file: TextFile) -> TextSide:
    about, model = file.about, file.text_encoder
    space, reader = made(Space, about["space"]), None
    dtype = torch.bfloat16 if about["dtype"] == "bfloat16" else torch.float32
    inside = about["projections"] == "inside"
    if not inside:
        model = _opened(model)
    if model is not None:
        reader = text_of(model, space.layer)
        _check_encoder(reader, space, dtype, file.path)
        with damage_reported(file.path, file.header):
            set_tokens_read(reader, about.get("read", []))
    if inside:
        return static_text_of(file, reader)
    heads = heads_in(file)
    return StaticText(_projections_of(model, list(heads), dtype, file), heads, reader, space)


def _check_encoder(reader: TextReader, space: Space, dtype: torch.dtype, path: Path) -> None:
    if reader.space_in(dtype) != space:
        raise SpaceMismatchError(
            f"{path} was made with the text encoder {space}, the given one is {reader.space}: "
            "load the trace with the model it was made with"
        )


def _projections_of(pipe: object, names: list[str], dtype: torch.dtype, file: TextFile) -> dict[str, Tensor]:
    """Key projections from the model the trace was made with."""
    expected, model, path = file.about["projections_hash"], file.header["source"]["model"], file.path
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
