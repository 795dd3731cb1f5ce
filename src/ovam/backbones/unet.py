"""Stable Diffusion 1.x and 2.x: a UNet whose `attn2` modules attend to a CLIP text encoder's output."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Report, Request
from ovam.backbones.clip_text import ClipText
from ovam.backbones.common import check_lora_scale, halved, plain_denoiser, read_by, require_text, text_request
from ovam.backbones.cross_attention import check_key_scale, static_text, watch_queries
from ovam.backbones.no_text import reader_or_none
from ovam.backbones.offload import device_of
from ovam.backbones.unet_blocks import unet_grids, unet_modules, unet_self_specs, unet_specs
from ovam.backbones.unet_features import feature_specs, watch_blocks
from ovam.shapes import Grid
from ovam.trace.static_text import StaticText


class UNetBackbone(Backbone):
    """UNet2DConditionModel with cross attention to one CLIP text encoder."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionPAGImg2ImgPipeline",
        "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
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
        check_lora_scale(self.pipe, arguments.get("lora_scale"), "text encoder", [self.pipe.text_encoder])
        return text_request(arguments, result)

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

    def reader(self, layer: str | None = None) -> ClipText:
        return self._reader(layer, None)

    def _reader(self, layer: str | None, request: Request | None) -> ClipText:
        require_text(self.pipe, "tokenizer", "text_encoder")
        skipped = getattr(self.pipe, "_clip_skip", None)
        last = "last" if skipped is None else f"skip-{skipped}"
        return ClipText(self.pipe.tokenizer, self.pipe.text_encoder, layer or last, read_by(request, "text_encoder"))

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        device = device_of(self.denoiser)
        vectors, _ = self.pipe.encode_prompt(prompt, device, 1, False)
        return {"encoder_hidden_states": vectors.to(device, self.denoiser.dtype)}
