"""Code that all families share: find the denoiser, read prompts, divide a batch into halves, refuse LoRA scales."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ovam.backbones.base import Evaluation, Request
from ovam.backbones.offload import unwrapped
from ovam.errors import NoTextEncoderError, UnsupportedPipelineError
from ovam.trace.calls import Half


def plain_denoiser(pipe: Any, part: str, kind: str = "Module") -> Any:
    """Return the pipeline's denoiser, without the wrapper of `torch.compile`.

    Args:
        pipe: The pipeline.
        part: Attribute name of the denoiser.
        kind: Class name of the denoiser or of one of its parent classes.

    Raises:
        UnsupportedPipelineError: the denoiser is of another class, for example traced or wrapped.
    """
    denoiser = unwrapped(getattr(pipe, part))
    if denoiser is not None and kind not in (cls.__name__ for cls in type(denoiser).__mro__):
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: its {part} is a {type(denoiser).__name__}, whose blocks are not those of a "
            f"{kind}: expected the {kind} itself, with its layers as modules; for the capture, set pipe.{part} to the "
            "model as it was before it was traced or wrapped"
        )
    return denoiser


def text_request(arguments: Mapping[str, Any], result: Any, *, negative: int = 1) -> Request:
    """Read a call of `encode_prompt`.

    Its result has the conditional half's vectors first and the unconditional half's at position `negative`.
    """
    images, guided = len(result[0]), bool(arguments.get("do_classifier_free_guidance", True))  # the default, if any
    return Request(
        images=images,
        prompts=per_image(arguments.get("prompt"), images),
        negative_prompts=per_image(arguments.get("negative_prompt"), images),
        guided=guided,
        text_vectors={"cond": result[0]} | ({"uncond": result[negative]} if guided else {}),
    )


def read_by(request: Request | None, encoder: str) -> Mapping[str, Sequence[int]]:
    """Return the tokens that a run read, by text; `encoder` is the text encoder's name in the pipeline."""
    return {} if request is None else request.read.get(encoder, {})


def per_image(texts: str | Sequence[str] | None, images: int) -> tuple[str, ...] | None:
    """Return the text of each image; in diffusers, the images of one prompt are adjacent."""
    if texts is None:
        return None
    given = [texts] if isinstance(texts, str) else list(texts)
    return tuple(text for text in given for _ in range(images // len(given)))


def halved(pipe: Any, latent: Tensor, timestep: Any, request: Request | None, text: Tensor | None = None) -> Evaluation:
    """Read a call of the denoiser that has all parts of guidance in one batch, in diffusers' order.

    Some calls have only some of the parts: guidance may be switched off during a run, and a custom loop may run each
    half alone. The text vectors in the call then tell which parts it has.

    Raises:
        UnsupportedPipelineError: the batch does not fit the request.
    """
    batch = len(latent)
    parts = _parts_there(pipe, request, batch, text)
    size = batch // len(parts)
    rows = {part: slice(i * size, (i + 1) * size) for i, part in enumerate(parts)}
    return Evaluation(
        latent=(latent.shape[-2], latent.shape[-1]),
        timestep=float(torch.as_tensor(timestep).flatten()[0]),  # loops may pass one per image
        halves={half: rows[half] for half in get_args(Half) if half in rows},
    )


def _parts_there(pipe: Any, request: Request | None, batch: int, text: Tensor | None) -> tuple[str, ...]:
    """Return the parts of a batch: all parts of guidance, or those that its text vectors show."""
    parts = _parts(pipe, request)
    if request is None or batch == request.images * len(parts):
        return parts
    some: dict[Half, tuple[str, ...]] = {"cond": parts[1:], "uncond": parts[:1]}
    for half, others in some.items():
        if (
            request.guided
            and batch == request.images * len(others)
            and _begins_with(text, request.text_vectors.get(half))
        ):
            return others
    expected = request.images * len(parts)
    alone = batch == request.images and request.guided
    raise UnsupportedPipelineError(
        f"{type(pipe).__name__}: the denoiser got a batch of {batch}, expected {expected}: {' and '.join(parts)} "
        f"of {request.images} images, according to the pipeline's guidance; "
        + (
            "its text vectors are neither the prompt's nor the negative prompt's. Pipelines that optimise the empty "
            "prompt's vectors (NullTextPipeline) or mix prompts are not supported: run the pipeline that this one is "
            "derived from"
            if alone
            else "guidance with other parts is not supported: run the pipeline without it"
        )
    )


def _begins_with(text: Tensor | None, vectors: Tensor | None) -> bool:
    """Whether the first rows of the denoiser's text vectors are these vectors, which the pipeline made."""
    if text is None or vectors is None or text.shape[1:] != vectors.shape[1:] or len(text) < len(vectors):
        return False
    return torch.equal(text[: len(vectors)], vectors.to(text))


def _parts(pipe: Any, request: Request | None) -> tuple[str, ...]:
    """Return the parts of a batch according to the pipeline's guidance; custom loops have one part.

    Perturbed-attention guidance adds rows of the same text with changed attention; they belong to no half.
    """
    if request is None:
        return ("cond",)
    perturbed = getattr(pipe, "do_perturbed_attention_guidance", False)
    return (*(("uncond",) if request.guided else ()), "cond", *(("perturbed",) if perturbed else ()))


def heads_apart(projected: Tensor, heads: int) -> Tensor:
    """Return (batch, pixel, head * head_dim) as a view (batch, head, pixel, head_dim)."""
    return projected.detach().unflatten(-1, (heads, -1)).transpose(1, 2)


def check_lora_scale(pipe: Any, scale: float | None, part: str, modules: Iterable[nn.Module | None]) -> None:
    """Check that a LoRA scale does not change keys: it holds only during the call, but keys of words are made later.

    Raises:
        UnsupportedPipelineError: the scale applies to adapters that keys depend on.
    """
    if scale is None or scale == 1:
        return
    layers = itertools.chain.from_iterable(module.modules() for module in modules if module is not None)
    if any(hasattr(layer, "scale_layer") for layer in layers):  # peft's method, which diffusers calls
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: this call has a LoRA scale of {scale:g}, but the keys of words are made "
            f"after the call, when the adapters of the {part} have their own weight again: expected no scale; call "
            f"pipe.set_adapters(name, {scale:g}) before the capture, which gives the same images (if an adapter's "
            f"weight is not 1, {scale:g} times that weight)"
        )


def require_text(pipe: Any, *parts: str) -> None:
    """Check that the pipeline has these tokenizers and text encoders.

    Raises:
        NoTextEncoderError: one is missing.
    """
    missing = [part for part in parts if getattr(pipe, part, None) is None]
    if missing:
        raise NoTextEncoderError(
            f"this {type(pipe).__name__} has no {' and no '.join(missing)}, so that its runs can't be queried with "
            "words: expected them in the pipeline, even if prompt_embeds are passed; put them back before the "
            "capture, or query with vectors of the model's text encoder, maps(prompt_embeds[0])"
        )
