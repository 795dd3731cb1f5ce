"""What all families read of a pipeline alike: its denoiser, its texts, the halves of a batch, and what they refuse."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ovam.backbones.base import Evaluation, Request
from ovam.backbones.offload import unwrapped
from ovam.calls import Half
from ovam.errors import NoTextEncoderError, UnsupportedPipelineError


def plain_denoiser(pipe: Any, part: str) -> Any:
    """The pipeline's denoiser, without the wrapper that `torch.compile` puts around it."""
    return unwrapped(getattr(pipe, part))


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
    """A call of the denoiser with all parts of guidance in one batch, in the order that diffusers gives them.

    Raises:
        UnsupportedPipelineError: the batch does not fit the request.
    """
    batch, parts = len(latent), _parts(pipe, request)
    expected = batch if request is None else request.images * len(parts)
    if batch != expected:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: the denoiser got a batch of {batch}, expected {expected}: {' and '.join(parts)} "
            f"of {expected // len(parts)} images, as the pipeline tells of its guidance; guidance by other parts is "
            "not supported, run it without"
        )
    size = batch // len(parts)
    rows = {part: slice(i * size, (i + 1) * size) for i, part in enumerate(parts)}
    return Evaluation(
        latent=(latent.shape[-2], latent.shape[-1]),
        timestep=float(torch.as_tensor(timestep).flatten()[0]),  # loops may pass one an image
        halves={half: rows[half] for half in get_args(Half) if half in rows},
    )


def _parts(pipe: Any, request: Request | None) -> tuple[str, ...]:
    """What a batch consists of, as the pipeline itself tells; in loops of the user's own, of one part.

    Perturbed-attention guidance adds rows of the same text whose attention is tampered with: they are no half.
    """
    if request is None:
        return ("cond",)
    perturbed = getattr(pipe, "do_perturbed_attention_guidance", False)
    return (*(("uncond",) if request.guided else ()), "cond", *(("perturbed",) if perturbed else ()))


def heads_apart(projected: Tensor, heads: int) -> Tensor:
    """A view (batch, head, pixel, head_dim) of what a layer projected to (batch, pixel, head * head_dim)."""
    return projected.detach().unflatten(-1, (heads, -1)).transpose(1, 2)


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
