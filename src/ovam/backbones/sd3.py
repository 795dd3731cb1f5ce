"""Stable Diffusion 3 and 3.5: joint attention over image, then text, in `transformer_blocks.*.attn`.

* The text sequence has 77 positions of CLIP and then those of T5, or zeros if the pipeline has no T5. The channels of
  the two CLIP encoders are concatenated and filled up with zeros.
* Text has no position embedding.
* Under guidance the batch has the unconditional half first.
* `attn2` of 3.5 is self-attention of the pixels and is not captured.
* The last block makes keys of the text but returns no text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Report, Request
from ovam.backbones.common import check_lora_scale, halved, plain_denoiser, read_by, require_text, text_request
from ovam.backbones.joint import JointStream, Passed, ReplayedText, through_double
from ovam.backbones.joint_text import JointText, Reader
from ovam.backbones.joint_watch import watch_joint
from ovam.backbones.no_text import reader_or_none
from ovam.backbones.offload import device_of
from ovam.errors import UnsupportedPipelineError
from ovam.shapes import Embedding, Grid
from ovam.trace.replay import ImageStream

_T5_LENGTH = 256  # the pipeline's default max_sequence_length


class SD3Backbone(Backbone):
    """SD3Transformer2DModel with two CLIP text encoders and T5."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
    )
    unseeded: ClassVar[tuple[str, ...]] = (  # they encode the control image with noise from the global generator
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
    )
    text_kind: ClassVar[Literal["static", "replayed"]] = "replayed"
    flow: ClassVar[bool] = True

    @property
    def side_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * self.latent_multiple

    @property
    def latent_multiple(self) -> int:
        """Side of a patch."""
        return int(self.denoiser.config.patch_size)

    @property
    def denoiser(self) -> Any:
        return plain_denoiser(self.pipe, "transformer", "SD3Transformer2DModel")

    def _modules(self) -> dict[str, Any]:
        return {f"transformer_blocks.{i}.attn": block.attn for i, block in enumerate(self.denoiser.transformer_blocks)}

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Return all joint-attention blocks."""
        head_dim, width = self.denoiser.config.attention_head_dim, self.denoiser.inner_dim
        return {
            name: BlockSpec(name, module.heads, head_dim, head_dim**-0.5, conditioning=width)
            for name, module in self._modules().items()
        }

    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        """Return the same grid for all blocks: one pixel per patch."""
        patch = self.denoiser.config.patch_size
        return dict.fromkeys(self._modules(), (latent[0] // patch, latent[1] // patch))

    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> Request:
        pipe = self.pipe
        encoders = [pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3]
        check_lora_scale(pipe, arguments.get("lora_scale"), "text encoders", encoders)
        request = text_request(arguments, result)
        return replace(request, tokens=result[0].shape[1], clip_skip=arguments.get("clip_skip"))

    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        scale = (arguments.get("joint_attention_kwargs") or {}).get("scale")
        check_lora_scale(self.pipe, scale, "denoiser", [self.denoiser])
        sample, timestep = arguments["hidden_states"], arguments["timestep"]
        self._check_perturbed()
        if arguments.get("skip_layers") is None:
            return halved(self.pipe, sample, timestep, request, arguments.get("encoder_hidden_states"))
        # skip-layer guidance runs the conditional rows once more, without some blocks
        return replace(halved(self.pipe, sample, timestep, None, None), halves={})

    def _check_perturbed(self) -> None:
        """Check that no block skips its query norm; diffusers' perturbed attention leaves the norms out.

        Raises:
            UnsupportedPipelineError: the model has norms, and a block is perturbed.
        """
        for name, module in self._modules().items():
            if module.norm_q is not None and type(module.processor).__name__.startswith("PAG"):
                raise UnsupportedPipelineError(
                    f"{type(self.pipe).__name__}: {name} runs without its norms under perturbed-attention guidance, "
                    "but later words would run with them: expected a model without norms (Stable Diffusion 3), or "
                    "unchanged blocks; set pag_scale=0 for the capture"
                )

    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        modules = self._modules()
        return watch_joint(self.denoiser, {name: modules[name] for name in names}, report)

    def text_side(self, names: Sequence[str], request: Request | None = None) -> ReplayedText:
        denoiser, length = self.denoiser, None if request is None else request.tokens
        words = reader_or_none(lambda: _text(self.pipe, request), denoiser.config.joint_attention_dim, length)
        return ReplayedText(words, denoiser, lambda vectors: JointStream(denoiser, vectors, _through))

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        device, dtype = device_of(self.denoiser), self.denoiser.dtype
        options = {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
        vectors, _, pooled, _ = self.pipe.encode_prompt(prompt, **options, device=device)
        return {"encoder_hidden_states": vectors.to(device, dtype), "pooled_projections": pooled.to(device, dtype)}

    def reader(self, layer: str | None = None) -> JointText:
        """Return a reader with the default number of tokens; a `layer` other than hidden-N means the pipeline's own."""
        named = re.fullmatch(r"hidden-(\d+)", layer or "")
        skipped = int(named[1]) - 2 if named else getattr(self.pipe, "_clip_skip", None)
        return _text(self.pipe, Request(images=1, clip_skip=skipped))


def _through(owner: Any, hidden: Tensor, image: ImageStream) -> Passed:
    return through_double(owner, hidden, image, text_first=False)


def _text(pipe: Any, request: Request | None) -> JointText:
    """Return a reader with the pipeline's text encoders that reads texts as this run did."""
    require_text(pipe, "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    clip_length = pipe.tokenizer_max_length
    length = clip_length + _T5_LENGTH if request is None or request.tokens is None else request.tokens
    depth = 2 if request is None or request.clip_skip is None else 2 + request.clip_skip
    readers = [
        Reader(pipe.tokenizer, pipe.text_encoder, 0, clip_length, read=read_by(request, "text_encoder")),
        Reader(pipe.tokenizer_2, pipe.text_encoder_2, 0, clip_length, read=read_by(request, "text_encoder_2")),
    ]
    if pipe.text_encoder_3 is None:
        require_text(pipe, "transformer")  # needed for the width of the zeros in place of T5
        width = pipe.transformer.config.joint_attention_dim
    else:
        require_text(pipe, "tokenizer_3")
        read = read_by(request, "text_encoder_3")
        readers.append(Reader(pipe.tokenizer_3, pipe.text_encoder_3, clip_length, length - clip_length, read=read))
        width = pipe.text_encoder_3.config.d_model

    def encode(ids: Sequence[Tensor]) -> Embedding:
        parts = []
        for tokens, reader in zip(ids[:2], readers[:2], strict=True):
            states = reader.encoder(tokens.to(device_of(reader.encoder)), output_hidden_states=True).hidden_states
            parts.append(states[-depth][0].to(device_of(pipe.text_encoder), pipe.text_encoder.dtype))
        clip = F.pad(torch.cat(parts, dim=-1), (0, width - sum(part.shape[-1] for part in parts)))
        if len(readers) == 2:
            return F.pad(clip, (0, 0, 0, length - clip_length))
        t5 = readers[2].encoder(ids[2].to(device_of(readers[2].encoder)))[0][0]
        return torch.cat([clip, t5.to(clip.device)])

    return JointText(readers, encode, layer=f"hidden-{depth}", length=length, width=width)
