"""PixArt alpha and Sigma: a transformer over patches whose `attn2` modules attend to a T5 text encoder's output.

* The text passes one projection that all blocks share, then each block's `to_k`.
* Padding is masked: attention is divided among the prompt's own tokens, the end token included.
* The pipeline converts a prompt to lower case, and ovam does the same with words given after the run. With
  `clean_caption` and its packages, the pipeline also removes signs and addresses. ovam does not do this with later
  words, but for the run's own prompt the trace stores the tokens that were read.
* With `use_resolution_binning` the picture may be made in another shape and then cropped. Maps are stretched over the
  cropped picture.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Report, Request
from ovam.backbones.common import halved, plain_denoiser, read_by, require_text, text_request
from ovam.backbones.cross_attention import block_spec, cross_attention, static_text, watch_queries
from ovam.backbones.no_text import reader_or_none
from ovam.backbones.offload import device_of
from ovam.backbones.t5_text import T5Text
from ovam.shapes import Grid
from ovam.trace.static_text import CAPTION, StaticText


class PixArtBackbone(Backbone):
    """PixArtTransformer2DModel with cross attention to one T5 text encoder."""

    pipelines: ClassVar[tuple[str, ...]] = ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")
    text_kind: ClassVar[Literal["static", "replayed"]] = "static"

    @property
    def latent_multiple(self) -> int:
        """Side of a patch."""
        return int(self.denoiser.config.patch_size)

    @property
    def denoiser(self) -> Any:
        return plain_denoiser(self.pipe, "transformer", "PixArtTransformer2DModel")

    def blocks(self) -> Mapping[str, BlockSpec]:
        return {name: block_spec(name, module) for name, module in cross_attention(self.denoiser).items()}

    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        """Return the same grid for all blocks: one pixel per patch."""
        patch = self.denoiser.config.patch_size
        return dict.fromkeys(cross_attention(self.denoiser), (latent[0] // patch, latent[1] // patch))

    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> Request:
        return replace(text_request(arguments, result, negative=2), tokens=result[0].shape[1])

    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        return halved(
            self.pipe,
            arguments["hidden_states"],
            arguments["timestep"],
            request,
            arguments.get("encoder_hidden_states"),
        )

    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        return watch_queries(cross_attention(self.denoiser), names, report)

    def text_side(self, names: Sequence[str], request: Request | None = None) -> StaticText:
        caption = self.denoiser.caption_projection
        layers = {} if caption is None else {"linear_1": caption.linear_1, "linear_2": caption.linear_2}
        shared = {f"{CAPTION}.{name}": layer for name, layer in layers.items()}
        reader = reader_or_none(lambda: self._reader(request), self.denoiser.config.caption_channels)
        return static_text(self.denoiser, cross_attention(self.denoiser), names, reader, shared)

    def reader(self, layer: str | None = None) -> T5Text:
        """Return a reader with the pipeline's default number of tokens: 120 in alpha, 300 in Sigma."""
        return self._reader(None)

    def _reader(self, request: Request | None) -> T5Text:
        """Return a reader with the default number of tokens, or the run's if that was larger."""
        require_text(self.pipe, "tokenizer", "text_encoder")
        default = inspect.signature(self.pipe.encode_prompt).parameters["max_sequence_length"].default
        length = request.tokens if request is not None and request.tokens is not None else 0
        return T5Text(
            self.pipe.tokenizer, self.pipe.text_encoder, max(default, length), read_by(request, "text_encoder")
        )

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        transformer = self.denoiser
        device, dtype = device_of(transformer), transformer.dtype
        vectors, mask, *_ = self.pipe.encode_prompt(prompt, False, device=device)
        added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if transformer.use_additional_conditions:
            added = {
                "resolution": torch.tensor([size], device=device, dtype=dtype),
                "aspect_ratio": torch.tensor([[size[0] / size[1]]], device=device, dtype=dtype),
            }
        return {
            "encoder_hidden_states": vectors.to(device, dtype),
            "encoder_attention_mask": mask.to(device),
            "added_cond_kwargs": added,
        }
