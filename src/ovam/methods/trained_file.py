"""Weights of trained methods on disk: one safetensors file whose header names the UNet they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovam import header as schema
from ovam.errors import WeightsError
from ovam.methods.datasetdm_decoder import PerceptionDecoder
from ovam.methods.grounded_module import GroundingModule
from ovam.methods.unet_read import Outline
from ovam.tensor_file import Format, read_file, write_file
from ovam.trace.calls import Half
from ovam.trace.header import SPACE
from ovam.trace.text_side import Space

FORMAT = Format(
    name="ovam-method",
    version=1,
    kind="weights of a trained method",
    writers="`python -m lab.methods train`",
    advice="copy it again or train again",
    error=WeightsError,
)
_number = schema.whole(0, 2**16)  # channels, levels, heads and tokens; far beyond every UNet
_name = schema.text(".+", "a text that is not empty")
_hash = schema.text("[0-9a-f]{16}", "16 hexadecimal digits")
_HEADER = schema.record(
    {
        "method": schema.one_of("grounded", "datasetdm"),
        "unet": schema.record(
            {
                "layers": schema.listed(schema.record({"name": _name, "channels": _number, "level": _number}), 1),
                "blocks": schema.listed(schema.record({"name": _name, "heads": _number, "projection": _hash}), 1),
                "space": SPACE,
            }
        ),
        "halves": schema.listed(schema.one_of("cond", "uncond"), 1, 2),
        "tokens": _number,
    }
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained method's weights, with what they belong to.

    Attributes:
        method: Name of the method.
        outline: The UNet whose features they read.
        halves: Halves of guidance whose features they read.
        tokens: Tokens of a padded prompt.
        weights: The module's tensors.
        training: How they were trained. This is information only.
    """

    method: str
    outline: Outline
    halves: tuple[Half, ...]
    tokens: int
    weights: Mapping[str, Tensor] = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict)


def module_for(method: str, outline: Outline, halves: Sequence[Half], tokens: int) -> nn.Module:
    """Return a method's module with random weights, in training mode."""
    if method == "grounded":
        return GroundingModule(outline, len(halves))
    return PerceptionDecoder(outline, len(halves), tokens)


def save_weights(trained: Trained, path: str | Path) -> None:
    """Write weights to a file; it appears whole or not at all.

    Raises:
        WeightsError: the folder is not there, or the file can't be written to it.
    """
    unet = trained.outline
    header = {
        "format": FORMAT.name,
        "format_version": FORMAT.version,
        "method": trained.method,
        "unet": {
            "layers": [
                {"name": name, "channels": count, "level": unet.levels[name]} for name, count in unet.channels.items()
            ],
            "blocks": [
                {"name": name, "heads": heads, "projection": unet.projections[name]}
                for name, heads in unet.heads.items()
            ],
            "space": asdict(unet.space),
        },
        "halves": list(trained.halves),
        "tokens": trained.tokens,
        "training": dict(trained.training),
    }
    write_file(Path(path), header, {name: value.detach().cpu() for name, value in trained.weights.items()}, FORMAT)


def load_weights(path: str | Path, method: str | None = None) -> Trained:
    """Read weights from a file.

    Args:
        path: A file that `save_weights` wrote.
        method: Name of the method that they must be of; None takes any.

    Raises:
        WeightsError: the file is missing, damaged, of a newer format or of another method.
    """
    header, tensors = read_file(Path(path), FORMAT)
    try:
        _HEADER(header, "")
        outline = _outline(header["unet"])
    except ValueError as error:
        raise WeightsError(
            f"{path} says it holds weights of a trained method, but its header is not whole ({error}): expected what "
            "docs/formats.md lists; train again"
        ) from error
    if method not in (None, header["method"]):
        raise WeightsError(
            f"{path} holds weights of another method, {header['method']!r}: expected those of {method!r}; name the "
            f"file that `python -m lab.methods train {method}` wrote"
        )
    training = header.get("training") or {}
    return Trained(header["method"], outline, tuple(header["halves"]), header["tokens"], tensors, training)


def _outline(unet: Mapping[str, Any]) -> Outline:
    layers, blocks = unet["layers"], unet["blocks"]
    if not any(entry["name"] == "conv_in" for entry in layers):
        raise ValueError("unet.layers lacks 'conv_in'")
    return Outline(
        channels={entry["name"]: entry["channels"] for entry in layers},
        levels={entry["name"]: entry["level"] for entry in layers},
        heads={entry["name"]: entry["heads"] for entry in blocks},
        projections={entry["name"]: entry["projection"] for entry in blocks},
        space=schema.made(Space, unet["space"]),
    )


def trained_for(path: str | Path | None, method: str, outline: Outline) -> tuple[Trained, nn.Module]:
    """Return weights from a file and the module with them, ready to be asked about a trace.

    Args:
        path: The file, or None.
        method: Name of the method.
        outline: UNet of the trace.

    Raises:
        WeightsError: there is no file, or it is damaged, of another method or of another UNet.
    """
    trained, module = opened(path, method)
    others = trained.outline.differences(outline)
    if others:
        raise WeightsError(
            f"the weights in {path} belong to another UNet than the trace: {'; '.join(others)}. Expected weights that "
            f"were trained on the model of the trace: python -m lab.methods train {method} --model FOLDER"
        )
    return trained, module


def opened(path: str | Path | None, method: str) -> tuple[Trained, nn.Module]:
    """Return weights from a file and the module with them; the same file is read once.

    Raises:
        WeightsError: there is no file, or it is damaged or of another method.
    """
    if path is None:
        raise WeightsError(
            f"method {method!r} has no weights: it must be trained, and no weights are shipped; train it in a "
            f"checkout, python -m lab.methods train {method} --output FILE, and name the file, weights=FILE"
        )
    place = Path(path)
    state = place.stat() if place.is_file() else None
    return _opened(place, method, (state.st_mtime_ns, state.st_size) if state else None)


@lru_cache(maxsize=4)
def _opened(path: Path, method: str, state: tuple[int, int] | None) -> tuple[Trained, nn.Module]:
    trained = load_weights(path, method)
    module = module_for(method, trained.outline, trained.halves, trained.tokens)
    try:
        module.load_state_dict(dict(trained.weights))
    except RuntimeError as error:
        raise WeightsError(
            f"{path} holds other tensors than its header says ({str(error).splitlines()[-1].strip()}): expected "
            "those of the module for its UNet; train again"
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in trained.weights.values() if value.is_floating_point()):
        raise WeightsError(f"{path} contains NaN or infinity: expected finite weights; train again")
    return trained, module.eval().requires_grad_(False)
