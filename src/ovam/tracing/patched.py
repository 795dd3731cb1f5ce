"""Changes of a denoiser that hide its blocks from a capture: compiled code, merged tokens, weights on disk."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ovam.errors import UnsupportedPipelineError

log = logging.getLogger("ovam")

Place = tuple[dict[str, Any], str, Any]
"""An attribute to replace: the object's dictionary, the attribute's name, and the new value."""


def check_watchable(pipe: Any, denoiser: nn.Module) -> None:
    """Check that hooks on the denoiser's layers show what its attention computes.

    Raises:
        UnsupportedPipelineError: pixels are merged before attention, torch.compile wraps only a part of the denoiser,
            activations are quantised with calibrated scales, or weights are on disk between calls.
    """
    for name, module in denoiser.named_modules():
        if type(module).__name__ == "ToMeBlock":
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__}: token merging (tomesd) has replaced {name!r}, so that pixels are merged and "
                "have no place of their own: expected whole blocks; call tomesd.remove_patch(pipe) before the capture"
            )
        if hasattr(module, "_orig_mod"):
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__}: its {name!r} is wrapped by torch.compile, which gives the blocks in it other "
                "names: expected the whole denoiser wrapped, or this part compiled in place by its own compile()"
            )
        if getattr(module, "activation_qtype", None) is not None:
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__}: optimum-quanto rounds the activations of {name!r} by scales that were "
                "calibrated before, so that its queries are codes and it has no matrix for the keys of other words: "
                "expected the weights alone to be quantised, quantize(model, weights=...)"
            )
        if _on_disk(module):
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__}: group offload keeps the weights of {name!r} on disk between calls, so that "
                "its key projection can't be copied: expected them in memory; leave out offload_to_disk_path"
            )


def _on_disk(module: nn.Module) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    hook = None if registry is None else registry.get_hook("group_offloading")
    return getattr(getattr(hook, "group", None), "offload_to_disk_path", None) is not None


@contextmanager
def run_uncompiled(pipe: Any, denoiser: nn.Module) -> Iterator[None]:
    """Run a compiled denoiser as plain Python inside the `with` block, and as compiled code again after it.

    Code that was compiled before the hooks were installed skips them silently. Nothing is compiled again: the old code
    fits the denoiser once the hooks are removed.
    """
    places = _compiled_places(pipe, denoiser)
    if places:
        log.warning(
            "%s: compiled code of its %s would leave out the hooks of a capture; it runs uncompiled here, slower and "
            "with other rounding, and compiled again afterwards",
            type(pipe).__name__,
            type(denoiser).__name__,
        )
    before = [owner[name] for owner, name, _ in places]
    for owner, name, plain in places:
        owner[name] = plain
    try:
        yield
    finally:
        for (owner, name, _), compiled in zip(places, before, strict=True):
            owner[name] = compiled


def _compiled_places(pipe: Any, denoiser: nn.Module) -> list[Place]:
    """Return where compiled code replaces the denoiser, a module or a module's forward, and the plain value for it."""
    places: list[Place] = [
        (vars(pipe), name, denoiser)
        for name, part in vars(pipe).items()
        if getattr(part, "_orig_mod", None) is denoiser
    ]
    for module in denoiser.modules():
        own = vars(module)
        if own.get("_compiled_call_impl") is not None:
            places.append((own, "_compiled_call_impl", None))
        plain = getattr(own.get("forward"), "_torchdynamo_orig_callable", None)
        if plain is not None:
            places.append((own, "forward", plain))
    return places
