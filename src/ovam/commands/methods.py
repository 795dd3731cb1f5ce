"""A published method instead of the library's own stages, for commands."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ovam.commands.requests import plain, state_of
from ovam.errors import OptionError
from ovam.masks.options import SegmentOptions
from ovam.methods.base import Method
from ovam.methods.registry import TRAINED, by_name
from ovam.methods.trained_file import opened
from ovam.tracing.encode_options import EncodeOptions
from ovam.tracing.options import KeepOptions
from ovam.tracing.word_gains import GainOptions

Kept = TypeVar("Kept", bound=KeepOptions)


def method_of(
    name: str, *, weights: str | Path | None = None, threshold: float | None = None, crf: bool | None = None
) -> Method:
    """Return the method of a name.

    Args:
        name: As in `ovam.methods.by_name`, or "grounded" or "datasetdm".
        weights: File of the weights of these two.
        threshold: Replaces the method's thresholds of words and of tokens.
        crf: Whether its CRF runs; by default as published.

    Raises:
        OptionError: no method has this name; a CRF or weights are given for a method that has none; or the threshold is
            outside (0, 1).
        WeightsError: the weights are missing, damaged, or of another method.
    """
    method = _trained(name, weights) if name in TRAINED else by_name(name)
    if weights is not None and name not in TRAINED:
        raise OptionError(
            f"weights={str(weights)!r} with method={name!r}, which needs none: leave them out, or use one that was "
            f"trained, {' or '.join(TRAINED)}"
        )
    changes: dict[str, Any] = {}
    if threshold is not None:
        changes |= {"threshold": threshold, "token_threshold": threshold}
    if crf is not None:
        if "crf" not in {field.name for field in fields(method)}:
            raise OptionError(f"crf={crf!r} with method={name!r}, which has no CRF: leave it out")
        changes["crf"] = crf
    return replace(method, **changes)


def _trained(name: str, weights: str | Path | None) -> Method:
    """Return a trained method; its weights are read now, so that what is wrong with them is told first."""
    opened(weights, name)
    return TRAINED[name](weights=weights)


def check_alone(method: Method, options: SegmentOptions, gains: GainOptions | None = None) -> None:
    """Check that no options of the library's own stages were given beside a method, which has stages of its own.

    Raises:
        OptionError: some were.
    """
    usual = SegmentOptions()
    given = [each.name for each in fields(options) if getattr(options, each.name) != getattr(usual, each.name)]
    given += [] if gains is None else ["gains"]
    if given:
        raise OptionError(
            f"{', '.join(given)} with method={method.name!r}: a method has maps, refinement and masks of its own: "
            "expected the method alone, with its numbers in its fields, or the options without a method"
        )


def kept_by(method: Method, encoding: EncodeOptions) -> EncodeOptions:
    """Return how to encode an image so that it has what the method needs.

    Raises:
        OptionError: `encoding` says not to keep something that the method needs.
    """
    needs = dict(method.requires_encoded)
    if encoding.timesteps is not None:  # a user's choice
        needs.pop("timesteps", None)
    if encoding.self_attention is False and needs.get("self_attention"):
        raise OptionError(f"self_attention=False with method={method.name!r}, which needs it: leave it out")
    return replace(encoding, **needs)


def facts_of_method(method: Method) -> Mapping[str, Any]:
    """Return a method's name, its numbers, and its file of weights as JSON."""
    return {"method": method.name, **plain(method)}


def state_of_weights(method: Method) -> list[int]:
    """Return facts that change when a method's file of weights changes; empty for a method without such a file."""
    weights = getattr(method, "weights", None)
    return [] if weights is None else state_of(Path(weights))
