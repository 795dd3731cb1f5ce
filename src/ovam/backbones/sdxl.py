"""Stable Diffusion XL: a UNet whose `attn2` modules attend to two CLIP text encoders' outputs, joined by channels.

Both encoders give their second to last hidden state, without the final normalisation. Normally both read the same
prompt. If a run gives the second encoder another text (`prompt_2`), later words still go through both encoders. To get
the run's own keys in this case, embed both texts; then join the first encoder's channels of the prompt's vectors with
the second encoder's channels of the vectors of `prompt_2`. With clip-skip, the pipeline skips layers in the conditional
half only.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Report, Request
from ovam.backbones.clip_text import ClipText, ClipTexts
from ovam.backbones.common import (
    check_lora_scale,
    halved,
    per_image,
    plain_denoiser,
    read_by,
    require_text,
    text_request,
)
from ovam.backbones.cross_attention import check_key_scale, static_text, watch_queries
from ovam.backbones.no_text import reader_or_none
from ovam.backbones.offload import device_of
from ovam.backbones.unet_blocks import unet_grids, unet_modules, unet_self_specs, unet_specs
from ovam.backbones.unet_features import feature_specs, watch_blocks
from ovam.errors import UnsupportedPipelineError
from ovam.shapes import Grid
from ovam.trace.static_text import StaticText

log = logging.getLogger("ovam")


class SDXLBackbone(Backbone):
    """UNet2DConditionModel with cross attention to two CLIP text encoders; in the refiner, to the second alone."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline",
        "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    )
    text_kind: ClassVar[Literal["static", "replayed"]] = "static"

    @property
    def denoiser(self) -> Any:
        return plain_denoiser(self.pipe, "unet", "UNet2DConditionModel")

    def blocks(self) -> Mapping[str, BlockSpec]:
        return unet_specs(self.denoiser)

    def self_blocks(self) -> Mapping[str, BlockSpec]:
        return unet_self_specs(self.denoiser)

    def feature_layers(self) -> Mapping[str, BlockSpec]:
        return feature_specs(self.denoiser)

    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        return unet_grids(self.denoiser, latent)

    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> Request:
        encoders = [self.pipe.text_encoder, self.pipe.text_encoder_2]
        check_lora_scale(self.pipe, arguments.get("lora_scale"), "text encoders", encoders)
        request = text_request(arguments, result)
        second = per_image(arguments.get("prompt_2"), request.images)
        if second not in (None, request.prompts):
            log.warning(
                "prompt_2 differs from prompt: the trace stores only prompt, and words are read by both text encoders"
            )
        return request

    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        check_key_scale(self.pipe, arguments, self.denoiser)
        return halved(
            self.pipe, arguments["sample"], arguments["timestep"], request, arguments.get("encoder_hidden_states")
        )

    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        unet = self.denoiser
        return watch_blocks(unet, names, report, lambda own: watch_queries(unet_modules(unet), own, report))

    def text_side(self, names: Sequence[str], request: Request | None = None) -> StaticText:
        unet = self.denoiser
        reader = reader_or_none(lambda: self._reader(None, request), unet.config.cross_attention_dim)
        return static_text(unet, unet_modules(unet), names, reader)

    def reader(self, layer: str | None = None) -> ClipTexts:
        return self._reader(layer, None)

    def _reader(self, layer: str | None, request: Request | None) -> ClipTexts:
        pipe = self.pipe
        require_text(pipe, "tokenizer_2", "text_encoder_2")
        parts = [(pipe.tokenizer_2, pipe.text_encoder_2, read_by(request, "text_encoder_2"))]
        if pipe.tokenizer is not None:  # the pipeline makes the same check
            require_text(pipe, "text_encoder")
            parts.insert(0, (pipe.tokenizer, pipe.text_encoder, read_by(request, "text_encoder")))
        own = f"hidden-{2 + (getattr(pipe, '_clip_skip', None) or 0)}"
        return ClipTexts([ClipText(tokenizer, encoder, layer or own, read) for tokenizer, encoder, read in parts])

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        pipe, unet = self.pipe, self.denoiser
        device = device_of(unet)
        if getattr(pipe.config, "requires_aesthetics_score", False):
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__} needs an aesthetic score, like SDXL's refiner, which real images don't have: "
                "expected a model without it; encode the image with the base model"
            )
        cond, uncond, pooled_cond, pooled_uncond = pipe.encode_prompt(
            prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=not prompt
        )
        # the pipeline may be configured to use zeros for an empty prompt
        vectors, pooled = (cond, pooled_cond) if prompt else (uncond, pooled_uncond)
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=unet.dtype, device=device)  # no crop
        added = {"text_embeds": pooled.to(device, unet.dtype), "time_ids": ids}
        return {"encoder_hidden_states": vectors.to(device, unet.dtype), "added_cond_kwargs": added}
