"""Stable Diffusion 1.x and 2.x: a UNet whose `attn2` modules attend to a CLIP text encoder's output.

Queries are the outputs of `attn2.to_q`, split into heads: what the attention kernel receives, whichever
processor runs it. Keys are `attn2.to_k` of the text, so late words are exact. Under guidance the batch is
the unconditional half and then the conditional one.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Observation, Report, Request
from ovam.backbones.clip_text import ClipText, StaticText
from ovam.errors import NoTextEncoderError, UnsupportedPipelineError
from ovam.trace import Grid


class UNetBackbone(Backbone):
    """UNet2DConditionModel with cross attention to one CLIP text encoder."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    text_kind: ClassVar[Literal["static", "replayed"]] = "static"

    @property
    def denoiser(self) -> Any:
        if hasattr(self.pipe.unet, "_orig_mod"):
            raise UnsupportedPipelineError(
                f"{type(self.pipe).__name__}: its unet is wrapped by torch.compile, whose compiled code may leave out "
                "the hooks of a capture: expected the plain module; put pipe.unet._orig_mod back for the capture"
            )
        return self.pipe.unet

    def _modules(self) -> dict[str, Any]:
        """Cross-attention modules in running order, by type and attribute: names alone mislead in other models."""
        found = {
            name: module
            for name, module in self.denoiser.named_modules()
            if type(module).__name__ == "Attention" and module.is_cross_attention
        }
        order = ("down_blocks", "mid_block", "up_blocks")
        return dict(sorted(found.items(), key=lambda item: order.index(item[0].split(".")[0])))

    def _key_layers(self) -> Iterator[Any]:
        for module in self._modules().values():
            yield module.to_k

    def blocks(self) -> Mapping[str, BlockSpec]:
        """All cross-attention blocks; the middle one, whose grid is coarse, only when it is named."""
        return {
            name: BlockSpec(
                name=name,
                heads=module.heads,
                head_dim=module.to_q.out_features // module.heads,
                scale=module.scale,
                default=not name.startswith("mid_block"),
            )
            for name, module in self._modules().items()
        }

    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        """Each level halves the grid, rounding up, as the strided convolutions between levels do."""
        levels = [latent]
        for _ in range(len(self.denoiser.config.down_block_types) - 1):
            levels.append(((levels[-1][0] + 1) // 2, (levels[-1][1] + 1) // 2))
        return {name: levels[_level(name, len(levels))] for name in self._modules()}

    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> Request:
        self._check_lora_scale(arguments.get("lora_scale"), "text encoder", [self.pipe.text_encoder])
        images = len(result[0])
        return Request(
            images=images,
            prompts=_per_image(arguments.get("prompt"), images),
            negative_prompts=_per_image(arguments.get("negative_prompt"), images),
            guided=bool(arguments.get("do_classifier_free_guidance")),
        )

    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        scale = (arguments.get("cross_attention_kwargs") or {}).get("scale")
        self._check_lora_scale(scale, "denoiser", self._key_layers())
        sample = arguments["sample"]
        batch = len(sample)
        guided = request is not None and request.guided
        expected = batch if request is None else request.images * (2 if guided else 1)
        if batch != expected:
            raise UnsupportedPipelineError(
                f"{type(self.pipe).__name__}: the denoiser got a batch of {batch}, expected {expected} for a run with "
                f"guidance {'on' if guided else 'off'}: guidance by other halves than cond and uncond is not supported"
            )
        half = batch // 2
        return Evaluation(
            latent=(sample.shape[-2], sample.shape[-1]),
            timestep=float(torch.as_tensor(arguments["timestep"]).flatten()[0]),  # loops may pass one an image
            halves={"uncond": slice(0, half), "cond": slice(half, batch)} if guided else {"cond": slice(0, batch)},
        )

    def _check_lora_scale(self, scale: float | None, part: str, modules: Iterable[nn.Module | None]) -> None:
        """Whether words will get the keys of the run: a scale given to a call is taken back at the call's end.

        Raises:
            UnsupportedPipelineError: it scales adapters that keys depend on.
        """
        if scale is None or scale == 1:
            return
        layers = itertools.chain.from_iterable(module.modules() for module in modules if module is not None)
        if any(hasattr(layer, "scale_layer") for layer in layers):  # peft's method, which diffusers calls
            raise UnsupportedPipelineError(
                f"{type(self.pipe).__name__}: this call has a LoRA scale of {scale:g}, but the keys of words are made "
                f"outside of the call, where the adapters of the {part} have their own weight: expected no scale; call "
                f"pipe.set_adapters(name, {scale:g}) before the capture, for the same images ({scale:g} times their "
                "weight where it is not 1)"
            )

    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        modules = self._modules()
        handles: list[RemovableHandle] = []
        try:
            for name in names:
                handles.append(modules[name].to_q.register_forward_hook(_reporter(name, modules[name].heads, report)))
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        return handles

    def text_side(self, names: Sequence[str], request: Request | None = None) -> StaticText:
        modules = self._modules()
        projections = {name: _matrix(modules[name].to_k) for name in names}
        heads = {name: modules[name].heads for name in names}
        return StaticText(projections, heads, clip_text(self.pipe))


@torch.no_grad()
def _matrix(projection: Any) -> Tensor:
    """The matrix (head * head_dim, width) of a linear layer, adapters included, as the layer itself applies it."""
    if type(projection) is nn.Linear:
        return projection.weight.detach().clone()
    weight = projection.weight
    unit = torch.eye(projection.in_features, device=weight.device, dtype=next(projection.parameters()).dtype)
    matrix: Tensor = projection(unit).T.contiguous()
    return matrix


def clip_text(pipe: Any) -> ClipText:
    """The pipeline's own tokenizer and text encoder, with the CLIP layers that its last run skipped."""
    if pipe.tokenizer is None or pipe.text_encoder is None:
        raise NoTextEncoderError(
            f"this {type(pipe).__name__} has no text encoder or no tokenizer, so that no word can be asked of its "
            "runs: expected both to stay in it, also where prompt_embeds are passed; put them back before the capture"
        )
    return ClipText(pipe.tokenizer, pipe.text_encoder, getattr(pipe, "_clip_skip", None))


def _level(name: str, levels: int) -> int:
    """Level of a block, 0 the finest: down_blocks count up, up_blocks count down, the middle is the coarsest."""
    part, index = name.split(".")[:2]
    if part == "mid_block":
        return levels - 1
    return int(index) if part == "down_blocks" else levels - 1 - int(index)


def _per_image(texts: str | Sequence[str] | None, images: int) -> tuple[str, ...] | None:
    """The text of each image: diffusers repeats each prompt's images side by side."""
    if texts is None:
        return None
    given = [texts] if isinstance(texts, str) else list(texts)
    return tuple(text for text in given for _ in range(images // len(given)))


def _reporter(name: str, heads: int, report: Report) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        report(name, Observation(output.detach().unflatten(-1, (heads, -1)).transpose(1, 2)))

    return hook
