"""What the families with cross attention to a fixed text share: queries, halves of a batch, and keys.

Queries are the outputs of `to_q`, split into heads: what the attention kernel receives, whichever processor runs
it. Keys are `to_k` of the text, so late words are exact. Under guidance the batch is the unconditional half and
then the conditional one.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import BlockSpec, Evaluation, Observation, Report, Request, TextReader
from ovam.backbones.clip_text import StaticText
from ovam.errors import NoTextEncoderError, UnsupportedPipelineError

_copies: WeakKeyDictionary[nn.Linear, ref[Tensor]] = WeakKeyDictionary()


def plain_denoiser(pipe: Any, part: str) -> Any:
    """The pipeline's denoiser.

    Raises:
        UnsupportedPipelineError: it is compiled.
    """
    denoiser = getattr(pipe, part)
    if hasattr(denoiser, "_orig_mod"):
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: its {part} is wrapped by torch.compile, whose compiled code may leave out "
            f"the hooks of a capture: expected the plain module; put pipe.{part}._orig_mod back for the capture"
        )
    return denoiser


def cross_attention(denoiser: nn.Module) -> dict[str, Any]:
    """Cross-attention modules by path, found by type and attribute: names alone mislead in other models."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if type(module).__name__ == "Attention" and module.is_cross_attention
    }


def block_spec(name: str, module: Any, *, default: bool = True) -> BlockSpec:
    """What one module tells before anything has run."""
    return BlockSpec(name, module.heads, module.to_q.out_features // module.heads, module.scale, default)


def text_request(arguments: Mapping[str, Any], result: Any) -> Request:
    """Read a call of `encode_prompt` that returns the conditional half's vectors first."""
    images = len(result[0])
    return Request(
        images=images,
        prompts=per_image(arguments.get("prompt"), images),
        negative_prompts=per_image(arguments.get("negative_prompt"), images),
        guided=bool(arguments.get("do_classifier_free_guidance", True)),  # the default where there is one
    )


def per_image(texts: str | Sequence[str] | None, images: int) -> tuple[str, ...] | None:
    """The text of each image: diffusers repeats each prompt's images side by side."""
    if texts is None:
        return None
    given = [texts] if isinstance(texts, str) else list(texts)
    return tuple(text for text in given for _ in range(images // len(given)))


def halved(pipe: Any, latent: Tensor, timestep: Any, request: Request | None) -> Evaluation:
    """A call of the denoiser with both halves in one batch.

    Raises:
        UnsupportedPipelineError: the batch does not fit the request.
    """
    batch = len(latent)
    guided = request is not None and request.guided
    expected = batch if request is None else request.images * (2 if guided else 1)
    if batch != expected:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: the denoiser got a batch of {batch}, expected {expected} for a run with "
            f"guidance {'on' if guided else 'off'}: guidance by other halves than cond and uncond is not supported"
        )
    half = batch // 2
    return Evaluation(
        latent=(latent.shape[-2], latent.shape[-1]),
        timestep=float(torch.as_tensor(timestep).flatten()[0]),  # loops may pass one an image
        halves={"uncond": slice(0, half), "cond": slice(half, batch)} if guided else {"cond": slice(0, batch)},
    )


def check_key_scale(pipe: Any, arguments: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """`check_lora_scale` of a call of the denoiser and the layers that make its keys."""
    scale = (arguments.get("cross_attention_kwargs") or {}).get("scale")
    check_lora_scale(pipe, scale, "denoiser", [module.to_k for module in modules.values()])


def check_lora_scale(pipe: Any, scale: float | None, part: str, modules: Iterable[nn.Module | None]) -> None:
    """Whether words will get the keys of the run: a scale given to a call is taken back at the call's end.

    Raises:
        UnsupportedPipelineError: it scales adapters that keys depend on.
    """
    if scale is None or scale == 1:
        return
    layers = itertools.chain.from_iterable(module.modules() for module in modules if module is not None)
    if any(hasattr(layer, "scale_layer") for layer in layers):  # peft's method, which diffusers calls
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: this call has a LoRA scale of {scale:g}, but the keys of words are made "
            f"outside of the call, where the adapters of the {part} have their own weight: expected no scale; call "
            f"pipe.set_adapters(name, {scale:g}) before the capture, for the same images ({scale:g} times their "
            "weight where it is not 1)"
        )


def watch_queries(modules: Mapping[str, Any], names: Sequence[str], report: Report) -> list[RemovableHandle]:
    """Hooks on `to_q`; see `Backbone.watch`."""
    handles: list[RemovableHandle] = []
    try:
        for name in names:
            handles.append(modules[name].to_q.register_forward_hook(_reporter(name, modules[name].heads, report)))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _reporter(name: str, heads: int, report: Report) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        report(name, Observation(output.detach().unflatten(-1, (heads, -1)).transpose(1, 2)))

    return hook


def static_text(
    modules: Mapping[str, Any], names: Sequence[str], reader: TextReader, shared: Mapping[str, Any] | None = None
) -> StaticText:
    """Text side with copies of the key projections of these blocks, and of layers that all of them read through."""
    weights: dict[str, Tensor] = {}
    for name in names:
        weights[name], bias = affine(modules[name].to_k)
        weights |= {} if bias is None else {f"{name}.bias": bias}
    for name, layer in (shared or {}).items():
        matrix, bias = affine(layer)
        weights |= {f"{name}.weight": matrix} | ({} if bias is None else {f"{name}.bias": bias})
    return StaticText(weights, {name: modules[name].heads for name in names}, reader)


@torch.no_grad()
def affine(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Matrix (out, in) and bias (out,) of a linear layer, adapters included, as the layer itself applies it."""
    if type(layer) is nn.Linear:
        return _copy(layer), None if layer.bias is None else layer.bias.detach().clone()
    dtype, own_bias = next(layer.parameters()).dtype, getattr(layer, "bias", None)  # not every adapter has one
    unit = torch.eye(layer.in_features, device=layer.weight.device, dtype=dtype)
    bias: Tensor | None = None if own_bias is None else layer(torch.zeros_like(unit[:1]))[0]
    rows: Tensor = layer(unit) if bias is None else layer(unit) - bias
    return rows.T.contiguous(), bias


def _copy(layer: nn.Linear) -> Tensor:
    """A copy of the matrix, one for all traces of runs that had the same: SDXL's take 340 MB in float16."""
    weight = layer.weight.detach()
    made = _copies.get(layer)
    copy = made() if made else None
    if copy is None or (copy.dtype, copy.device) != (weight.dtype, weight.device) or not torch.equal(copy, weight):
        copy = weight.clone()
        _copies[layer] = ref(copy)
    return copy


def require_text(pipe: Any, *parts: str) -> None:
    """Whether the pipeline has these tokenizers and text encoders.

    Raises:
        NoTextEncoderError: it lacks one.
    """
    missing = [part for part in parts if getattr(pipe, part, None) is None]
    if missing:
        raise NoTextEncoderError(
            f"this {type(pipe).__name__} has no {' and no '.join(missing)}, so that no word can be asked of its "
            "runs: expected them to stay in it, also where prompt_embeds are passed; put them back before the capture"
        )
