"""Read the joint-attention part of a trace file; see `ovam.trace.file` and docs/formats.md."""

import itertools
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ovam.backbones.base import Backbone, Request
from ovam.backbones.joint import Origin, ReplayedText
from ovam.backbones.registry import backbone_of
from ovam.errors import NoTextEncoderError, SpaceMismatchError
from ovam.header import made
from ovam.trace.as_read import set_tokens_read
from ovam.trace.calls import Call, Half
from ovam.trace.header import damage_reported
from ovam.trace.quantised import from_named
from ovam.trace.replay import BlockReplay, Replay
from ovam.trace.text_side import Space, TextFile, TextSide


def replayed_side(file: TextFile, pipe: Any) -> TextSide:
    """Return the text side of a joint-attention trace.

    Args:
        file: The trace's file.
        pipe: The model's pipeline, or None.

    Raises:
        NoTextEncoderError: `pipe` is None.
        SpaceMismatchError: the trace was made with another model.
    """
    header, tensors, path, about = file.header, file.tensors, file.path, file.about
    model = header["source"]["model"]
    if pipe is None:
        raise NoTextEncoderError(
            f"{path} is a trace of joint attention, whose words run through {model!r} itself: load it with "
            "Trace.load(path, text=pipe), where pipe is that model's pipeline, its folder or its id"
        )
    backbone, layer = backbone_of(pipe), str(about["space"]["layer"])
    skip = int(layer.removeprefix("hidden-")) - 2 if layer.startswith("hidden-") else None  # SD3 reads hidden-2
    names = tuple(entry["name"] for entry in header["blocks"])
    request = Request(images=1, tokens=int(about["tokens"]), clip_skip=skip)
    side = backbone.text_side(names, request) if backbone.text_kind == "replayed" else None
    if not isinstance(side, ReplayedText):
        raise SpaceMismatchError(
            f"{path} is a trace of joint attention by {header['source']['pipeline']}, but the given pipeline, a "
            f"{type(pipe).__name__}, has no joint attention: load the trace with the model it was made with"
        )
    dtype = getattr(torch, about["dtype"]) if about["dtype"] in ("bfloat16", "float16") else torch.float32
    origin, found = Origin(made(Space, about["space"]), dtype, about["projections_hash"]), side.in_type(dtype)
    if found != origin:
        raise SpaceMismatchError(
            f"{path} was made with the text encoders {origin.space} and the weights {origin.weights} of {model!r}, the "
            f"given pipeline has {found.space} and {found.weights}: load the trace with the model it was made with, "
            "without other adapters"
        )
    with damage_reported(path, header):
        set_tokens_read(side.words, about.get("read", []))
        _check_run(header, tensors, backbone)
        return side.with_replay(_replay(header, tensors), origin)


def _check_run(header: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Check that the stored blocks are the model's first ones, in its order and of its sizes.

    Raises:
        ValueError: names, order or sizes differ.
    """
    specs, kept = backbone.blocks(), header["text"]["replay"]
    if kept != list(specs)[: len(kept)]:
        raise ValueError("text.replay is not in the order in which the model runs its blocks, from the first on")
    for name, half in itertools.product(kept, header["halves"]):
        spec = specs[name]
        key, vector = (tensors[f"replay/{half}/{name}/{part}"] for part in ("key", "conditioning"))
        if (len(key), key.shape[-1], vector.shape[-1]) != (spec.heads, spec.head_dim, spec.conditioning):
            raise ValueError(
                f"replay/{half}/{name} has keys {tuple(key.shape)} and {vector.shape[-1]} channels of conditioning, "
                f"the model {spec.heads} heads of {spec.head_dim} and {spec.conditioning} channels"
            )


def _replay(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Replay:
    blocks = {}
    for name in header["text"]["replay"]:
        types = {"key": header["dtype"], "value": header["dtype"], "conditioning": "float32"}
        parts: dict[str, dict[Half, Any]] = {
            part: {
                cast(Half, half): from_named(f"replay/{half}/{name}/{part}", tensors, dtype)
                for half in header["halves"]
            }
            for part, dtype in types.items()
        }
        blocks[name] = BlockReplay(**parts)
    return Replay(blocks, tuple(made(Call, call) for call in header["calls"]))
