"""What all families read of a pipeline alike: its denoiser, its texts, the halves of a batch, and what they refuse."""

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
    """The pipeline's denoiser, without the wrapper that `torch.compile` puts around it.

    Args:
        pipe: The pipeline.
        part: What it calls its denoiser.
        kind: Class name that the denoiser has, or that its class is derived from.

    Raises:
        UnsupportedPipelineError: it is of another kind, as a traced or a wrapped one.
    """
    denoiser = unwrapped(getattr(pipe, part))
    if denoiser is not None and kind not in (cls.__name__ for cls in type(denoiser).__mro__):
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__}: its {part} is a {type(denoiser).__name__}, which has the blocks of a {kind} under "
            f"other names, if at all: expected the {kind} itself, with its layers as modules; put back the model that "
            f"was traced or wrapped for the capture, pipe.{part} = ..."
        )
    return denoiser


def text_request(arguments: Mapping[str, Any], result: Any, *, negative: int = 1) -> Request:
    """Read a call of `encode_prompt` that returns the conditional half's vectors first, the others at `negative`."""
    images, guided = len(result[0]), bool(arguments.get("do_classifier_free_guidance", True))  # the default, if any
    return Request(
        images=images,
        prompts=per_image(arguments.get("prompt"), images),
        negative_prompts=per_image(arguments.get("negative_prompt"), images),
        guided=guided,
        told={"cond": result[0]} | ({"uncond": result[negative]} if guided else {}),
    )


def read_by(request: Request | None, encoder: str) -> Mapping[str, Sequence[int]]:
    """Tokens that a text encoder, by its name in the pipeline, read of each text of a run."""
    return {} if request is None else request.read.get(encoder, {})


def per_image(texts: str | Sequence[str] | None, images: int) -> tuple[str, ...] | None:
    """The text of each image: diffusers repeats each prompt's images side by side."""
    if texts is None:
        return None
    given = [texts] if isinstance(texts, str) else list(texts)
    return tuple(text for text in given for _ in range(images // len(given)))


def halved(pipe: Any, latent: Tensor, timestep: Any, request: Request | None, text: Tensor | None = None) -> Evaluation:
    """A call of the denoiser with all parts of guidance in one batch, in the order that diffusers gives them.

    Where guidance is switched off during the run, or a loop of the user's own runs each half by itself, the call has
    some of the parts, which are told by the text that the denoiser gets.

    Raises:
        UnsupportedPipelineError: the batch does not fit the request.
    """
    batch = len(latent)
    parts = _parts_there(pipe, request, batch, text)
    size = batch // len(parts)
    rows = {part: slice(i * size, (i + 1) * size) for i, part in enumerate(parts)}
    return Evaluation(
        latent=(latent.shape[-2], latent.shape[-1]),
        timestep=float(torch.as_tensor(timestep).flatten()[0]),  # loops may pass one an image
        halves={half: rows[half] for half in get_args(Half) if half in rows},
    )


def _parts_there(pipe: Any, request: Request | None, batch: int, text: Tensor | None) -> tuple[str, ...]:
    """What a batch consists of: all that the pipeline tells, or as the text in it tells."""
    parts = _parts(pipe, request)
    if request is None or batch == request.images * len(parts):
        return parts
    some: dict[Half, tuple[str, ...]] = {"cond": parts[1:], "uncond": parts[:1]}
    for half, others in some.items():
        if request.guided and batch == request.images * len(others) and _is_told(text, request.told.get(half)):
            return others
    expected = request.images * len(parts)
    alone = batch == request.images and request.guided
    raise UnsupportedPipelineError(
        f"{type(pipe).__name__}: the denoiser got a batch of {batch}, expected {expected}: {' and '.join(parts)} "
        f"of {request.images} images, as the pipeline tells of its guidance; "
        + (
            "its text is neither the prompt's nor the negative prompt's, as where a pipeline optimises the empty "
            "prompt's vectors (NullTextPipeline) or mixes prompts, which is not supported: run the pipeline that this "
            "one is derived from"
            if alone
            else "guidance by other parts is not supported, run it without"
        )
    )


def _is_told(text: Tensor | None, vectors: Tensor | None) -> bool:
    """Whether the first rows of what the denoiser gets are these vectors, which the pipeline made of a text."""
    if text is None or vectors is None or text.shape[1:] != vectors.shape[1:] or len(text) < len(vectors):
        return False
    return torch.equal(text[: len(vectors)], vectors.to(text))


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
            "runs: expected them to stay in it, also where prompt_embeds are passed; put them back before the capture, "
            "or ask with vectors of the model's text encoder, maps(prompt_embeds[0])"
        )
